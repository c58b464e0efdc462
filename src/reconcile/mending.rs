//! What was seeded from a damaged version gets the files of the one that was had again: targets, and directories of pods.
//!
//! What fails for the disk's sake is tried until it is mended, and the repair is not over before. What only the owner of
//! a target can mend is left to them.

use std::sync::Arc;
use std::time::Duration;

use super::SeedAskError;
use super::ask::Caller;
use super::filling::FillAskError;
use super::plan::{self, Failing};
use super::run::Shared;
use super::turns::Spot;
use super::wait::WaitError;
use crate::fs::{LinkMode, RelPath};
use crate::intent::error_chain;
use crate::seed::{self, Filled, PATIENCE, Record, SeedProgress};
use crate::store::{ManifestHead, StoreError, Version};

/// For how long the mending of directories on record waits for the turn there, and for who has one locked: first at none,
/// then, once all others are mended, at each.
const PATIENT: [(Duration, Duration); 2] = [(Duration::ZERO, Duration::ZERO), (PATIENCE, Duration::from_secs(1))];
/// The same when it is tried again: others wait.
const AT_ONCE: [(Duration, Duration); 1] = [(Duration::ZERO, Duration::ZERO)];

/// What could not be mended and is tried again, each with why not; nothing of what was not tried yet.
pub(super) type Left<T> = Vec<(T, String)>;

/// All of them, not tried yet.
fn untried<T>(all: impl IntoIterator<Item = T>) -> Left<T> {
    all.into_iter().map(|one| (one, String::new())).collect()
}

impl Shared {
    /// Targets whose files are a version's own.
    pub(super) async fn targets_of(self: &Arc<Self>, head: &ManifestHead) -> Left<RelPath> {
        let seeder = self.seeder.clone();
        let records = self.tasks.spawn_blocking(move || seeder.records()).await.unwrap_or_default();
        untried(records.into_iter().filter(|record| is_of(record, head)).map(|record| record.target))
    }

    /// Targets whose files are the damaged inodes get the good ones.
    pub(super) async fn mend_targets(self: &Arc<Self>, head: &ManifestHead, targets: Left<RelPath>) -> Left<RelPath> {
        let mut left = Left::new();
        for (target, said) in targets {
            if self.cancel.is_cancelled() {
                return left;
            }
            let Err(error) = self.mend_target(head, &target).await else { continue };
            let (artifact, text) = (&head.artifact, error_chain(&error));
            // A declared one may have to be seeded with another version by now.
            if let Some(tracked) = self.world().tracked.get_mut(artifact)
                && let Some(facts) = tracked.facts.seeds.get_mut(&target)
            {
                facts.holds = None;
            }
            self.changed();
            match error.may_pass() {
                true => {
                    if text != said {
                        tracing::warn!(%artifact, %target, error = text,
                            "seed of a repaired version not mended; tried again");
                    }
                    left.push((target, text));
                }
                false => {
                    tracing::error!(%artifact, %target, error = text,
                        "seed of a repaired version not mended; seed it again");
                }
            }
        }
        left
    }

    pub(super) async fn mend_target(
        self: &Arc<Self>,
        head: &ManifestHead,
        target: &RelPath,
    ) -> Result<(), SeedAskError> {
        let caller = Caller::none();
        let turn = self.turn_at(target, caller.patience).await?;
        // Whoever had the turn before may have seeded another version there.
        let (seeder, target_) = (self.seeder.clone(), target.clone());
        let record = self.tasks.spawn_blocking(move || seeder.record(&target_)).await?;
        if !record.is_some_and(|record| is_of(&record, head)) {
            return Ok(());
        }
        let declared = self.world().catalog.artifacts.get(&head.artifact).cloned();
        let declared = declared.iter().flat_map(|artifact| &artifact.seeds).find(|seed| seed.target == *target);
        let request = seed::Request {
            target: target.clone(),
            link: declared.map(|seed| seed.link).unwrap_or_default(),
            swap: declared.and_then(|seed| seed.swap),
            force: false,
            rendered: None,
            only_rendered: false,
        };
        self.seed_in_turn(turn, head.artifact.clone(), head.version.clone(), request, caller).await.map(drop)
    }

    /// Mends the directories of pods, and the targets that are left, until all is mended, the version is gone or damaged
    /// anew, or the node stops.
    pub(super) async fn mend_until_done(self: &Arc<Self>, head: &Arc<ManifestHead>, mut targets: Left<RelPath>) {
        let mut directories = self.mend_directories(head, self.directories_of(head).await, &PATIENT).await;
        for failures in 1.. {
            let why = targets.iter().map(|(_, why)| why).chain(directories.iter().map(|(_, why)| why)).next();
            let Some(why) = why.filter(|_| self.is_here_again(head)).cloned() else { return };
            self.let_go_of_damaged(head).await;
            self.not_yet(head, why, failures).await;
            if self.cancel.is_cancelled() {
                return;
            }
            targets = self.mend_targets(head, targets).await;
            let standing = self.directories_of(head).await;
            directories.retain(|(filled, _)| standing.iter().any(|(other, _)| other.handle == filled.handle));
            directories = self.mend_directories(head, directories, &AT_ONCE).await;
        }
    }

    /// What was put in the place of a version while it was handed on by hard links: that may have been for damage, and whoever
    /// mended what is on record could not know of it. From here on it is on record.
    pub(super) fn had_anew(&self, version: &Version, mode: LinkMode) -> Result<Option<Version>, StoreError> {
        let head = version.head();
        match self.store.head(&head.artifact, &head.version) {
            Some(now) if mode == LinkMode::Hardlink && !Arc::ptr_eq(&now, head) => {
                self.store.open_version(&head.artifact, &head.version).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Tells why a repair is not over though the version is here, and waits until that is tried again.
    pub(super) async fn not_yet(&self, head: &Arc<ManifestHead>, error: String, failures: u32) {
        self.world().repairs.not_mended(head, error);
        self.changed();
        tokio::select! {
            () = self.cancel.cancelled() => {}
            () = tokio::time::sleep(plan::back_off(Failing::Passing, failures, fastrand::f64())) => {}
        }
    }

    /// What is in quarantine is needed no more once the version is here: it takes room that mending may need.
    async fn let_go_of_damaged(self: &Arc<Self>, head: &Arc<ManifestHead>) {
        let (shared, head) = (self.clone(), head.clone());
        let let_go = move || {
            if let Err(error) = shared.store.let_go_of_damaged(&head, || shared.is_here_again(&head)) {
                tracing::warn!(artifact = %head.artifact, version = %head.version, error = error_chain(&error),
                    "damaged version not removed from quarantine; tried again");
            }
        };
        // A panic is told by its hook.
        let _ = self.tasks.spawn_blocking(let_go).await;
    }

    /// Directories of pods whose files are a version's own.
    async fn directories_of(self: &Arc<Self>, head: &ManifestHead) -> Left<Filled> {
        let shared = self.clone();
        let filled = self.tasks.spawn_blocking(move || shared.seeder.filled()).await.unwrap_or_default();
        let linked = |filled: &Filled| {
            filled.mode == LinkMode::Hardlink && filled.artifact == head.artifact && filled.version == head.version
        };
        untried(filled.into_iter().filter(linked))
    }

    /// The same for them: first those that nobody is at.
    async fn mend_directories(
        self: &Arc<Self>,
        head: &ManifestHead,
        mut directories: Left<Filled>,
        rounds: &[(Duration, Duration)],
    ) -> Left<Filled> {
        let mut left = Left::new();
        for (round, (turn, lock)) in rounds.iter().enumerate() {
            let is_last = round + 1 == rounds.len();
            for (filled, said) in std::mem::take(&mut directories) {
                let Err(error) = self.mend_directory(filled.clone(), *turn, *lock).await else { continue };
                if let FillAskError::Wait(WaitError::ShuttingDown) = error {
                    return left;
                }
                if !is_last && error.is_of_another() {
                    directories.push((filled, said));
                    continue;
                }
                let (artifact, target, text) = (&head.artifact, filled.target.clone(), error_chain(&error));
                match error.may_pass() {
                    true => {
                        if text != said {
                            tracing::warn!(%artifact, target, error = text,
                                "filled directory of a repaired version not mended; tried again");
                        }
                        left.push((filled, text));
                    }
                    false => tracing::error!(%artifact, target, error = text,
                        "filled directory of a repaired version not mended; have its pod seed it again"),
                }
            }
        }
        left
    }

    /// Waits so long for the turn there, and for who has it locked.
    async fn mend_directory(
        self: &Arc<Self>,
        filled: Filled,
        turn: Duration,
        lock: Duration,
    ) -> Result<(), FillAskError> {
        let (shared, record) = (self.clone(), filled.clone());
        let opened = move || -> Result<_, FillAskError> {
            let dir = shared.seeder.open_filled(&record)?;
            let stamp = dir.stat_self()?.stamp;
            Ok((dir, Spot::Directory { dev: stamp.dev, ino: stamp.ino, near: true }))
        };
        let (dir, spot) = self.tasks.spawn_blocking(opened).await??;
        let turn = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(WaitError::ShuttingDown.into()),
            turn = self.turns.enter(spot, turn) => turn,
        };
        let turn = turn.map_err(|waited| FillAskError::busy(filled.target.clone(), waited))?;
        let shared = self.clone();
        let work = move || {
            let version = shared.store.open_version(&filled.artifact, &filled.version)?;
            let mended = shared.seeder.mend_filled(&version, &filled, dir, lock, &SeedProgress::default());
            mended.inspect_err(|error| shared.take_out_if_damaged(&version, error))?;
            drop(turn);
            Ok(())
        };
        self.tasks.spawn_blocking(work).await?
    }
}

/// Whether a target holds a version's own files.
fn is_of(record: &Record, head: &ManifestHead) -> bool {
    record.mode == LinkMode::Hardlink && record.artifact == head.artifact && record.version == head.version
}
