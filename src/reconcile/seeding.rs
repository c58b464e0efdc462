//! Seeds, one at a time for each target; how far they are, for whoever waits; and what they leave to be removed.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::ask::{Caller, Held};
use super::follow::Declared;
use super::run::Shared;
use super::turns::Turn;
use super::{SeedAskError, SeedProgressState, WaitError};
use crate::fs::RelPath;
use crate::intent::{ArtifactName, VersionName};
use crate::seed::{self, GRACE, SeedError, SeedProgress, Seeded};
use crate::store::Version;

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

impl Shared {
    /// Seeds one target; a few at once, the rest wait their turn. Not where the directory that the caller holds turns out
    /// to be another than the one above the target.
    pub(super) async fn seed_one(
        self: &Arc<Self>,
        artifact: ArtifactName,
        version: VersionName,
        request: seed::Request,
        caller: Caller,
    ) -> Result<Seeded, SeedAskError> {
        let turn = self.turn_at(&request.target, caller.patience).await?;
        self.seed_in_turn(turn, artifact, version, request, caller).await
    }

    /// A turn to seed a target, with nobody else at it.
    pub(super) async fn turn_at(&self, target: &RelPath, patience: Duration) -> Result<Turn, SeedAskError> {
        let turn = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(WaitError::ShuttingDown.into()),
            turn = self.turns.enter(target, patience) => turn,
        };
        Ok(turn.map_err(|waited| SeedError::Busy { target: target.clone(), seconds: waited.as_secs() })?)
    }

    /// The same with the turn that the caller has.
    pub(super) async fn seed_in_turn(
        self: &Arc<Self>,
        turn: Turn,
        artifact: ArtifactName,
        version: VersionName,
        mut request: seed::Request,
        caller: Caller,
    ) -> Result<Seeded, SeedAskError> {
        let Caller { held, progress, .. } = caller;
        let shared = self.clone();
        let work = move || {
            // Until it is on record.
            let linker = shared.linking.begin(&artifact, &version, request.link);
            let version = shared.store.open_version(&artifact, &version)?;
            if let Some(Held { parent, given }) = held
                && !shared.seeder.is_parent_of(&parent, &request.target)
            {
                let head = version.head().clone();
                return Err(SeedAskError::NotBelowRoot { target: given, head });
            }
            let declared = shared.declared(&artifact, &request.target);
            let values = match &declared {
                Some(Declared { seed, .. }) => {
                    let (files, values) = shared.renderer.render(seed, version.head()).map_err(SeedError::from)?;
                    request.rendered = Some(files);
                    values
                }
                None => None,
            };
            let under_way = shared.under_way.begin(artifact, request.target.clone(), progress.clone());
            let seed = |version: &Version| {
                shared.seeder.seed(version, &request, &progress).inspect_err(|error| {
                    if let SeedError::StoreDamaged { path, what, .. } = error {
                        shared.take_out_sometime(version, "seed", format!("{path}: {what}"));
                    }
                })
            };
            let retired = |seeded: &Seeded| {
                if seeded.changed {
                    shared.tasks.spawn(shared.clone().remove_retired());
                }
            };
            let mut seeded = seed(&version)?;
            retired(&seeded);
            if let Some(anew) = shared.had_anew(&version, seeded.mode)? {
                let first = std::mem::replace(&mut seeded, seed(&anew)?);
                retired(&seeded);
                seeded.follow(&first);
            }
            if let Some(record) = shared.seeder.record(&request.target) {
                shared.note_seeded(record, declared, values);
            }
            tracing::info!(artifact = %seeded.artifact, version = %seeded.version, target = %seeded.target,
                mode = %seeded.mode, reason = seeded.reason, files = seeded.files, bytes = seeded.bytes,
                changed = seeded.changed, written = seeded.written, elapsed_ms = seeded.elapsed_ms, "seeded");
            drop((under_way, linker));
            shared.changed();
            // Held to the end, and what was done is noted, also when whoever asked has gone away.
            drop(turn);
            Ok(seeded)
        };
        self.tasks.spawn_blocking(work).await?
    }

    /// What a seed swapped out is removed once nobody can be on the way through it; at the daemon's end at once.
    pub(super) async fn remove_retired(self: Arc<Self>) {
        tokio::select! {
            () = self.cancel.cancelled() => return,
            () = tokio::time::sleep(GRACE + Duration::from_millis(100)) => {}
        }
        let shared = self.clone();
        // The seeder tells of what it cannot remove.
        let _ = self.tasks.spawn_blocking(move || shared.seeder.remove_retired()).await;
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
