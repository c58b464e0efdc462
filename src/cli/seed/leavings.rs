//! What a seed that is cut short would leave beside its target.

use std::cell::RefCell;

use crate::seed::Staged;

/// The temporary directories in use. What stands under another name by then is not removed.
#[derive(Debug, Default)]
pub(in crate::cli) struct Leavings(RefCell<Vec<Staged>>);

impl Leavings {
    /// A directory that has to go should the seed be cut short.
    pub(super) fn note(&self, staged: &Staged) {
        self.0.borrow_mut().push(staged.handle());
    }

    /// All of them are the target now, or gone.
    pub(super) fn forget(&self) {
        self.0.borrow_mut().clear();
    }

    /// Whether there are none.
    pub(in crate::cli) fn are_none(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Removes them, but for those that a thread still works in, which may put one in its place: the next seed clears
    /// what is left.
    pub(in crate::cli) fn remove(&self) {
        self.0.take().iter().filter(|staged| staged.is_let_go()).for_each(Staged::discard);
    }
}
