//! Who has which version open, and as which directory: what one name leads to while another directory takes its place, and
//! whether anybody may still open it.

use std::sync::{Arc, Weak};

use super::Store;
use super::layout::lock;
use crate::fs::Dir;
use crate::intent::{ArtifactName, VersionName};

/// Held by every reader of one version directory.
#[derive(Debug, Default)]
pub(super) struct Lease;

/// A version's directory and its tree.
pub(super) type Dirs = (Dir, Dir);

/// A version that can be opened by its name.
#[derive(Debug, Default)]
pub(super) struct Opening {
    /// Its readers'.
    pub(super) lease: Weak<Lease>,
    /// Its directory and its tree as they were opened last.
    dirs: Option<Dirs>,
    /// It is about to be removed: nobody opens it any more.
    shut: bool,
    /// Another directory is taking its place, and is not to be seen yet: until then it is opened as it is in `dirs`.
    is_replaced: bool,
    /// How often that was so.
    turn: u64,
}

/// What somebody gets who opens a version.
#[derive(Debug)]
pub(super) struct Grant {
    /// Shared by all its readers.
    pub(super) lease: Arc<Lease>,
    /// Its directories where they are open.
    pub(super) dirs: Option<Dirs>,
    /// At its place there may be what is not to be seen yet.
    pub(super) is_replaced: bool,
    turn: u64,
}

impl Opening {
    /// Whether this was granted since it is opened as it is.
    fn is_of(&self, grant: &Grant) -> bool {
        self.lease.as_ptr() == Arc::as_ptr(&grant.lease) && self.turn == grant.turn
    }
}

/// Which version.
type Key = (ArtifactName, VersionName);

/// Versions whose directories are kept open for the next reader.
const KEPT_OPEN: usize = 16;

impl Store {
    /// Whether that version is still what was granted then.
    pub(super) fn is_granted(&self, key: &Key, grant: &Grant) -> bool {
        lock(&self.leases).get(key).is_some_and(|opening| opening.is_of(grant))
    }

    /// Keeps a version's directories open for those who share its lease; `false` where it is no longer what was granted, so
    /// that they may be another's.
    pub(super) fn keep_open(&self, key: &Key, grant: &Grant, dirs: &Dirs) -> bool {
        let mut leases = lock(&self.leases);
        if leases.values().filter(|opening| opening.dirs.is_some()).count() >= KEPT_OPEN {
            leases.values_mut().filter(|opening| !opening.is_replaced).for_each(|opening| opening.dirs = None);
        }
        let is_it = |opening: &&mut Opening| opening.is_of(grant) && !opening.is_replaced;
        let Some(opening) = leases.get_mut(key).filter(is_it) else {
            return false;
        };
        opening.dirs = Some(dirs.clone());
        true
    }

    /// From here on, until it is closed, a version is opened as these directories, whatever stands at its place. Whether it
    /// was not so already: what could not be taken back stands there still then, and what was there before is open.
    pub(super) fn replacing(&self, key: Key, dirs: Dirs) -> bool {
        let mut leases = lock(&self.leases);
        let opening = leases.entry(key).or_default();
        let is_first = !opening.is_replaced;
        if is_first {
            opening.dirs = Some(dirs);
        }
        (opening.is_replaced, opening.turn) = (true, opening.turn + 1);
        is_first
    }

    /// Takes [`Store::replacing`] back: it still stands at its place.
    pub(super) fn not_replaced(&self, key: &Key) {
        if let Some(opening) = lock(&self.leases).get_mut(key) {
            opening.is_replaced = false;
        }
    }

    /// From here on it is opened anew; who was reading it.
    pub(super) fn close(&self, artifact: &ArtifactName, version: &VersionName) -> Option<Weak<Lease>> {
        lock(&self.leases).remove(&(artifact.clone(), version.clone())).map(|opening| opening.lease)
    }

    /// Whether anybody has the version open.
    pub fn is_read(&self, artifact: &ArtifactName, version: &VersionName) -> bool {
        let leases = lock(&self.leases);
        leases.get(&(artifact.clone(), version.clone())).is_some_and(|opening| opening.lease.strong_count() > 0)
    }

    /// Has nobody open a version from here on; not where `is_claimed` says so, which is asked when nobody can open it
    /// meanwhile: whoever did before has claimed by now what they claim. With `alone` not where somebody has it open either.
    pub(super) fn shut(&self, key: Key, alone: bool, is_claimed: impl FnOnce() -> bool) -> bool {
        let mut leases = lock(&self.leases);
        let opening = leases.entry(key).or_default();
        opening.shut = (!alone || opening.lease.strong_count() == 0) && !is_claimed();
        opening.shut
    }

    /// Takes [`Store::shut`] back.
    pub(super) fn reopen(&self, key: &Key) {
        if let Some(opening) = lock(&self.leases).get_mut(key) {
            opening.shut = false;
        }
    }

    /// For one more reader of a version; `None` where it is about to be removed.
    pub(super) fn lease(&self, key: &Key) -> Option<Grant> {
        let mut leases = lock(&self.leases);
        if let Some(opening) = leases.get_mut(key) {
            let lease = opening.lease.upgrade().unwrap_or_default();
            opening.lease = Arc::downgrade(&lease);
            let Opening { dirs, is_replaced, turn, .. } = opening;
            let grant = Grant { lease, dirs: dirs.clone(), is_replaced: *is_replaced, turn: *turn };
            return (!opening.shut).then_some(grant);
        }
        leases.retain(|_, opening| opening.lease.strong_count() > 0 || opening.dirs.is_some() || opening.shut);
        let lease = Arc::new(Lease);
        leases.insert(key.clone(), Opening { lease: Arc::downgrade(&lease), ..Opening::default() });
        Some(Grant { lease, dirs: None, is_replaced: false, turn: 0 })
    }
}
