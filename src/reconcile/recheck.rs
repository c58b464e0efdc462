//! Stored files whose states changed by another's hand are read again soon, so that the next seed need not: a pod that
//! goes takes its hard-linked seed with it, and the pod that follows it wants the same version at once.
//!
//! What must hold: the scrub's thread does it, first of all, at the scrub's rate; and at most half the time is spent on
//! one version, however often its files change.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::run::Shared;
use super::scrub::{Checked, Scrub};
use crate::fs::{LinkMode, Stamp};
use crate::intent::{ArtifactName, VersionName, error_chain};
use crate::store::{ManifestHead, StoreError, Telltales};

/// Between two looks: a pod that goes has removed its volume by the second one, mostly.
const LOOK: Duration = Duration::from_secs(5);
/// After a version could not be read.
const PAUSE: Duration = Duration::from_secs(60);

/// States that are not known to be good.
type Unknown = Vec<Option<Stamp>>;

/// What is known of the versions that are looked at.
#[derive(Debug)]
pub(super) struct Recheck {
    watched: HashMap<(ArtifactName, VersionName), Watched>,
    looked: Instant,
}

/// One of them.
#[derive(Debug)]
struct Watched {
    head: Arc<ManifestHead>,
    telltales: Telltales,
    course: Course,
    not_before: Instant,
}

/// How far what is seen of a version has led.
#[derive(Debug, Default, PartialEq)]
struct Course {
    /// What the last look saw.
    last: Unknown,
    /// Something had to be read: files that changed while it was are found by going through them once more.
    again: bool,
}

impl Course {
    /// Whether the version is to be read after this look. What still changes is waited for: it would only be read
    /// again.
    fn is_due(&mut self, unknown: Unknown) -> bool {
        let settled = unknown == self.last;
        let due = if unknown.is_empty() { self.again } else { settled };
        self.last = unknown;
        due
    }

    fn was_read(&mut self, bytes: u64) {
        *self = Self { last: Unknown::new(), again: bytes > 0 };
    }
}

impl Recheck {
    pub(super) fn new() -> Self {
        Self { watched: HashMap::new(), looked: Instant::now() }
    }

    /// How long until the next look.
    pub(super) fn left(&self) -> Duration {
        LOOK.saturating_sub(self.looked.elapsed())
    }

    /// Looks at every version that is likely to be seeded next: which are to be read?
    fn look(&mut self, shared: &Shared) -> Vec<Arc<ManifestHead>> {
        let heads = shared.seeded_next();
        self.watched.retain(|_, watched| heads.iter().any(|head| Arc::ptr_eq(head, &watched.head)));
        let now = Instant::now();
        heads.into_iter().filter(|head| self.is_due(shared, head, now)).collect()
    }

    fn is_due(&mut self, shared: &Shared, head: &Arc<ManifestHead>, now: Instant) -> bool {
        let key = (head.artifact.clone(), head.version.clone());
        if !self.watched.contains_key(&key) {
            let opened = shared.store.open_version(&key.0, &key.1);
            // One that is gone is for those who want it to find so; a damaged manifest is reported.
            let Ok(telltales) = opened.and_then(|version| shared.store.telltales(&version)) else { return false };
            let watched = Watched { head: head.clone(), telltales, course: Course::default(), not_before: now };
            self.watched.insert(key.clone(), watched);
        }
        let Some(watched) = self.watched.get_mut(&key).filter(|watched| watched.not_before <= now) else {
            return false;
        };
        match watched.telltales.unknown() {
            Ok(unknown) => watched.course.is_due(unknown),
            Err(error) => {
                tracing::debug!(error = error_chain(&error), "files of a version cannot be looked at");
                false
            }
        }
    }

    fn was_read(&mut self, head: &ManifestHead, took: Duration, read: Result<u64, ()>) {
        if let Some(watched) = self.watched.get_mut(&(head.artifact.clone(), head.version.clone())) {
            watched.not_before = Instant::now() + read.map_or(PAUSE, |_| took);
            watched.course.was_read(read.unwrap_or(0));
        }
    }
}

impl Shared {
    /// The versions that are current, and those that hard-linked seeds on record hold.
    fn seeded_next(&self) -> Vec<Arc<ManifestHead>> {
        let inventory = self.store.inventory();
        let current = inventory.iter().filter_map(|(name, holding)| Some((name.clone(), holding.current.clone()?)));
        let mut keys: Vec<_> = current.collect();
        let world = self.world();
        let linked = |mode: LinkMode| mode == LinkMode::Hardlink;
        let targets = world.records.iter().filter(|record| linked(record.mode));
        keys.extend(targets.map(|record| (record.artifact.clone(), record.version.clone())));
        let filled = world.filled.iter().filter(|filled| linked(filled.mode));
        keys.extend(filled.map(|filled| (filled.artifact.clone(), filled.version.clone())));
        drop(world);
        keys.sort();
        keys.dedup();
        keys.iter().filter_map(|(artifact, version)| inventory.get(artifact)?.versions.get(version).cloned()).collect()
    }
}

impl Scrub {
    /// Looks, if it is time to, and reads what is to be read. Breaks when it is to end.
    pub(super) fn recheck(&self, recheck: &RefCell<Recheck>) -> ControlFlow<()> {
        if !recheck.borrow().left().is_zero() {
            return ControlFlow::Continue(());
        }
        let due = recheck.borrow_mut().look(&self.shared);
        for head in due {
            let began = Instant::now();
            let read = match self.read_unknown(&head) {
                Ok((Checked::Stopped, _)) => return ControlFlow::Break(()),
                Ok((_, bytes)) => Ok(bytes),
                Err(StoreError::NoVersion { .. }) => Err(()),
                Err(error) => {
                    let (artifact, version) = (&head.artifact, &head.version);
                    tracing::error!(%artifact, %version, error = error_chain(&error), "version cannot be read again");
                    Err(())
                }
            };
            recheck.borrow_mut().was_read(&head, began.elapsed(), read);
        }
        recheck.borrow_mut().looked = Instant::now();
        ControlFlow::Continue(())
    }

    fn read_unknown(&self, head: &ManifestHead) -> Result<(Checked, u64), StoreError> {
        let store = &self.shared.store;
        let opened = store.open_version(&head.artifact, &head.version)?;
        let began = Instant::now();
        let checked = store.recheck_while(&opened, |bytes| self.pay(bytes));
        let bytes = checked.as_ref().ok().and_then(|report| Some(report.as_ref()?.bytes));
        let checked = self.judge(&opened, checked)?;
        let bytes = bytes.unwrap_or(0);
        if bytes > 0 && matches!(checked, Checked::Sound) {
            tracing::debug!(artifact = %head.artifact, version = %head.version, bytes,
                elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
                "files of a version changed their states and were read: they are good");
        }
        Ok((checked, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(ctimes: &[i128]) -> Unknown {
        ctimes.iter().map(|&ctime| Some(Stamp { dev: 1, ino: 1, size: 1, mtime: 1, ctime })).collect()
    }

    #[test]
    fn what_changed_is_read_once_it_stays_as_it_is() {
        let mut course = Course::default();
        assert!(!course.is_due(states(&[])));
        assert!(!course.is_due(states(&[1])), "it may be removed just now");
        assert!(!course.is_due(states(&[1, 2])));
        assert!(course.is_due(states(&[1, 2])));
        course.was_read(100);
        assert!(course.is_due(states(&[])), "others may have changed meanwhile");
        course.was_read(0);
        assert!(!course.is_due(states(&[])));
        assert!(!course.is_due(vec![None]), "one that is gone is as unknown");
        assert!(course.is_due(vec![None]));
    }

    #[test]
    fn what_became_known_by_a_seed_is_not_read() {
        let mut course = Course::default();
        assert!(!course.is_due(states(&[1])));
        assert!(!course.is_due(states(&[])));
        assert!(!course.is_due(states(&[1])), "nor does what was seen before count");
    }
}
