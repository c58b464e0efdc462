//! A directory in the store where nobody else gets to, for what is on its way into a directory that was reached through
//! the store's own mount. Whoever gets the tree can do nothing to it before it is whole.

use super::SeedError;
use super::staged::Scratch;
use crate::fs::{Dir, RelPath, fail_point};
use crate::store::Store;

/// It; removed with all that is left in it when this is dropped.
#[derive(Debug)]
pub(super) struct Hidden {
    aside: Dir,
    name: RelPath,
    dir: Dir,
}

impl Hidden {
    pub(super) fn new(store: &Store) -> Result<Self, SeedError> {
        let (aside, name) = store.out_of_sight();
        fail_point("seed.hidden.before-directory");
        aside.make_dir(&name, 0o700)?;
        fail_point("seed.hidden.after-directory");
        let dir = aside.open_dir(&name)?;
        Ok(Self { aside, name, dir })
    }

    /// Where temporary directories are made in it.
    pub(super) fn scratch(&self) -> Scratch {
        Scratch::within(&self.dir)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        fail_point("seed.hidden.before-removal");
        if let Err(error) = self.aside.remove_tree(&self.name) {
            tracing::warn!(%error, "what was made for a seed is left in the store until the next start");
        }
        fail_point("seed.hidden.after-removal");
    }
}
