//! A directory in the store where nobody else gets to, for what is on its way into a directory that was reached through
//! the store's own mount. Whoever gets the tree can do nothing to it before it is whole.

use super::SeedError;
use super::staged::Scratch;
use crate::fs::{Dir, RelPath, fail_point};
use crate::store::Store;

/// It; removed with all that is left in it when this is dropped.
#[derive(Debug)]
pub(super) struct Hidden<'s> {
    store: &'s Store,
    aside: Dir,
    name: RelPath,
    dir: Dir,
}

impl<'s> Hidden<'s> {
    pub(super) fn new(store: &'s Store) -> Result<Self, SeedError> {
        let (aside, name) = store.out_of_sight();
        fail_point("seed.hidden.before-directory");
        aside.make_dir(&name, 0o700)?;
        fail_point("seed.hidden.after-directory");
        let dir = aside.open_dir(&name)?;
        Ok(Self { store, aside, name, dir })
    }

    /// Where temporary directories are made in it.
    pub(super) fn scratch(&self) -> Scratch {
        Scratch::within(&self.dir)
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        fail_point("seed.hidden.before-removal");
        if let Err(error) = self.aside.remove_tree(&self.name) {
            tracing::warn!(%error, "what was made for a seed is not removed yet; the store tries again");
            self.store.remove_later(self.name.clone());
        }
        fail_point("seed.hidden.after-removal");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_cannot_be_removed_goes_with_a_later_sweep() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(&temp.path().join("store")).unwrap();
        let hidden = Hidden::new(&store).unwrap();
        let (aside, name, dir) = (hidden.aside.clone(), hidden.name.clone(), hidden.dir.clone());
        dir.write_atomic(&"file".parse().unwrap(), b"", 0o600).unwrap();
        let kept = crate::fs::Immutable::new(dir.path());
        drop(hidden);
        assert!(aside.stat(&name).unwrap().is_some());
        drop(kept);
        store.sweep().unwrap();
        assert_eq!(aside.stat(&name).unwrap(), None);
    }
}
