//! Removal that waits for readers: a version that goes is moved out of sight at once and removed when the last reader
//! that opened it is done.

use std::collections::HashMap;
use std::sync::{Mutex, Weak};

use super::Store;
use super::layout::lock;
use super::opening::Lease;
use crate::fs::{self, Dir, RelPath, Rename, fail_point};
use crate::intent::{ArtifactName, VersionName, error_chain};

/// What drained directories in `staging/` start with; no artifact's name can.
const PREFIX: &[u8] = b".drain-";

/// Directories moved out of sight, with those who may still read them.
#[derive(Debug, Default)]
pub(super) struct Draining(Mutex<Vec<(RelPath, Weak<Lease>)>>);

/// Those who may still read versions that lie in quarantine, by where they lie.
#[derive(Debug, Default)]
pub(super) struct QuarantineReaders(Mutex<HashMap<(RelPath, RelPath), Weak<Lease>>>);

impl QuarantineReaders {
    /// Those of the version that was put into this place.
    pub(super) fn put(&self, artifact: &ArtifactName, version: &VersionName, readers: Option<Weak<Lease>>) {
        let mut all = lock(&self.0);
        all.retain(|_, readers| readers.strong_count() > 0);
        all.extend(readers.map(|readers| ((artifact.as_component(), version.as_component()), readers)));
    }

    /// Those of what leaves this place.
    pub(super) fn take(&self, parent: &RelPath, name: &RelPath) -> Option<Weak<Lease>> {
        lock(&self.0).remove(&(parent.clone(), name.clone()))
    }
}

impl Store {
    /// Moves `name` below `dir` out of sight, to be removed when nobody reads it any more. `readers` is asked once
    /// nobody can open it any more: whoever opened it before is among them. Durable when this returns.
    pub(super) fn drain(
        &self,
        dir: &Dir,
        name: &RelPath,
        readers: impl FnOnce() -> Option<Weak<Lease>>,
    ) -> fs::Result<()> {
        let (_, aside) = self.out_of_sight();
        fail_point("store.drain.before-rename");
        dir.rename(name, &self.staging, &aside, Rename::NoReplace)?;
        self.sizes.forget();
        fail_point("store.drain.after-rename");
        let readers = readers().unwrap_or_default();
        // Before a sweep may begin with it: what came back with a power loss would be half removed. What cannot be synced
        // stays until the first sweep after the next start.
        dir.sync()?;
        self.drained(aside, readers);
        Ok(())
    }

    /// Has what lies out of sight under this name removed once nobody reads it any more.
    pub(super) fn drained(&self, name: RelPath, readers: Weak<Lease>) {
        self.sizes.forget();
        lock(&self.draining.0).push((name, readers));
    }

    /// Has the sweeps remove what was put into a place [`Store::out_of_sight`], and could not be removed by who put it there.
    pub(crate) fn remove_later(&self, name: RelPath) {
        self.drained(name, Weak::new());
    }

    /// Sweeps; what cannot be removed now is out of sight, and a later round removes it.
    pub(super) fn tidy(&self) {
        if let Err(error) = self.sweep() {
            tracing::warn!(error = error_chain(&error), "drained versions not removed yet");
        }
    }

    /// A place out of sight for a directory that is about to be removed by whoever moves it there; what is left of it
    /// after a crash goes by the first sweep after the next start.
    pub fn out_of_sight(&self) -> (Dir, RelPath) {
        let random: String = std::iter::repeat_with(fastrand::alphanumeric).take(16).collect();
        let name = RelPath::parse([PREFIX, random.as_bytes()].concat())
            .unwrap_or_else(|e| unreachable!("a prefix and letters are a component: {e}"));
        (self.staging.clone(), name)
    }

    /// Removes what was drained and has no reader left; what cannot be removed is tried again by the next sweep.
    pub fn sweep(&self) -> fs::Result<()> {
        let unread = |readers: &Weak<Lease>| readers.strong_count() == 0;
        let ready: Vec<RelPath> = {
            let mut draining = lock(&self.draining.0);
            let ready = draining.iter().filter(|(_, readers)| unread(readers)).map(|(name, _)| name.clone()).collect();
            draining.retain(|(_, readers)| !unread(readers));
            ready
        };
        let mut outcome = Ok(());
        for name in ready {
            fail_point("store.drain.before-removal");
            if let Err(error) = self.staging.remove_tree(&name) {
                lock(&self.draining.0).push((name, Weak::new()));
                outcome = outcome.and(Err(error));
            }
            fail_point("store.drain.after-removal");
        }
        outcome
    }

    /// Has the first sweep remove what an earlier run drained: its readers are gone with it, and no start waits for it.
    pub(super) fn take_drained(&self) -> fs::Result<()> {
        let left = self.staging.entries()?.into_iter().filter(|entry| entry.name.as_bytes().starts_with(PREFIX));
        lock(&self.draining.0).extend(left.map(|entry| (entry.name, Weak::new())));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_cannot_be_removed_holds_up_nothing_else_and_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let name = |text: &str| text.parse::<RelPath>().unwrap();
        store.staging.write_atomic(&name("file"), b"", 0o600).unwrap();
        store.staging.make_dir(&name(".drain-b"), 0o700).unwrap();
        // Below a file nothing can be looked up, be it to remove it.
        let drained = [name("file/x"), name(".drain-b")].map(|name| (name, Weak::new()));
        lock(&store.draining.0).extend(drained);
        store.sweep().unwrap_err();
        assert_eq!(store.staging.stat(&name(".drain-b")).unwrap(), None);
        store.staging.remove_file(&name("file")).unwrap();
        store.sweep().unwrap();
        assert!(lock(&store.draining.0).is_empty());
    }
}
