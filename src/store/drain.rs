//! Removal that waits for readers: a version that goes is moved out of sight at once and removed when the last reader
//! that opened it is done.

use std::sync::{Arc, Mutex, Weak};

use super::Store;
use super::layout::lock;
use crate::fs::{self, Dir, RelPath, Rename};

/// What drained directories in `staging/` start with; no artifact's name can.
const PREFIX: &[u8] = b".drain-";

/// Held by every reader of one version directory.
#[derive(Debug, Default)]
pub(super) struct Lease;

/// Directories moved out of sight, with those who may still read them.
#[derive(Debug, Default)]
pub(super) struct Draining(Mutex<Vec<(RelPath, Weak<Lease>)>>);

impl Store {
    /// Moves `name` below `dir` out of sight; a sweep removes it once nobody reads it any more.
    pub(super) fn drain(&self, dir: &Dir, name: &RelPath, readers: Option<Weak<Lease>>) -> fs::Result<()> {
        let random: String = std::iter::repeat_with(fastrand::alphanumeric).take(16).collect();
        let aside = RelPath::parse([PREFIX, random.as_bytes()].concat())
            .unwrap_or_else(|e| unreachable!("a prefix and letters are a component: {e}"));
        dir.rename(name, &self.staging, &aside, Rename::NoReplace)?;
        dir.sync()?;
        lock(&self.draining.0).push((aside, readers.unwrap_or_default()));
        Ok(())
    }

    /// Removes what was drained and has no reader left.
    pub fn sweep(&self) -> fs::Result<()> {
        let unread = |readers: &Weak<Lease>| readers.strong_count() == 0;
        let ready: Vec<RelPath> = {
            let mut draining = lock(&self.draining.0);
            let ready = draining.iter().filter(|(_, readers)| unread(readers)).map(|(name, _)| name.clone()).collect();
            draining.retain(|(_, readers)| !unread(readers));
            ready
        };
        ready.iter().try_for_each(|name| self.staging.remove_tree(name))
    }

    /// Removes what an earlier run drained: its readers are gone with it.
    pub(super) fn clear_drained(&self) -> fs::Result<()> {
        for entry in self.staging.entries()? {
            if entry.name.as_bytes().starts_with(PREFIX) {
                self.staging.remove_tree(&entry.name)?;
            }
        }
        Ok(())
    }

    /// Whether anybody has the version open.
    pub fn is_read(&self, artifact: &crate::intent::ArtifactName, version: &crate::intent::VersionName) -> bool {
        let leases = lock(&self.leases);
        leases.get(&(artifact.clone(), version.clone())).is_some_and(|lease| lease.strong_count() > 0)
    }

    /// The lease that all readers of a version share.
    pub(super) fn lease(&self, key: (crate::intent::ArtifactName, crate::intent::VersionName)) -> Arc<Lease> {
        let mut leases = lock(&self.leases);
        if let Some(lease) = leases.get(&key).and_then(Weak::upgrade) {
            return lease;
        }
        leases.retain(|_, lease| lease.strong_count() > 0);
        let lease = Arc::new(Lease);
        leases.insert(key, Arc::downgrade(&lease));
        lease
    }
}
