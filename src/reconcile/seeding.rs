//! Seeds under way, so that whoever waits sees how far they are.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::SeedProgressState;
use crate::fs::RelPath;
use crate::intent::ArtifactName;
use crate::seed::SeedProgress;

type Key = (ArtifactName, RelPath);

/// The seeds under way, by artifact and target.
#[derive(Debug, Default)]
pub(super) struct UnderWay(Mutex<BTreeMap<Key, Arc<SeedProgress>>>);

/// One of them; it is no more when this is dropped.
pub(super) struct Seeding<'a> {
    all: &'a UnderWay,
    key: Key,
    progress: Arc<SeedProgress>,
}

impl UnderWay {
    /// Notes a seed that begins. Of two at one target the later one is seen.
    pub(super) fn begin(&self, artifact: ArtifactName, target: RelPath, progress: Arc<SeedProgress>) -> Seeding<'_> {
        let key = (artifact, target);
        self.lock().insert(key.clone(), progress.clone());
        Seeding { all: self, key, progress }
    }

    /// How far the seeds of one artifact are.
    pub(super) fn of(&self, artifact: &ArtifactName) -> BTreeMap<RelPath, SeedProgressState> {
        let state = |progress: &SeedProgress| SeedProgressState {
            entries: progress.entries.load(Relaxed),
            total_entries: progress.total_entries.load(Relaxed),
            bytes: progress.bytes.load(Relaxed),
        };
        let all = self.lock();
        let own = all.iter().filter(|((name, _), _)| name == artifact);
        own.map(|((_, target), progress)| (target.clone(), state(progress))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Arc<SeedProgress>>> {
        // Whole entries come and go: whoever panicked left it usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seeding<'_> {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if all.get(&self.key).is_some_and(|progress| Arc::ptr_eq(progress, &self.progress)) {
            all.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_seed_is_seen_while_it_is_under_way_and_the_later_of_two_is_not_hidden_by_the_earlier() {
        let (all, name, target): (_, ArtifactName, RelPath) =
            (UnderWay::default(), "a".parse().unwrap(), "t".parse().unwrap());
        let later = Arc::new(SeedProgress::default());
        later.entries.store(7, Relaxed);
        let first = all.begin(name.clone(), target.clone(), Arc::default());
        let second = all.begin(name.clone(), target.clone(), later);
        drop(first);
        assert_eq!(all.of(&name)[&target].entries, 7);
        assert!(all.of(&"b".parse().unwrap()).is_empty());
        drop(second);
        assert!(all.of(&name).is_empty());
    }
}
