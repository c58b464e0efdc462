//! The planner's steps, carried out one by one; what came of it goes back into what is known.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::ask::Caller;
use super::plan::{self, Failing, Judgement, Step};
use super::room::RoomError;
use super::run::Shared;
use super::state::Failure;
use super::tracked::Tracked;
use crate::acquire::{AcquireError, Resolution, ResolveError};
use crate::fs::RelPath;
use crate::intent::{Artifact, Digest, VersionName, VersionWish, error_chain};
use crate::seed;
use crate::store::{PublishError, StoreError};

/// Why a step of the source failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Acquire(#[from] AcquireError),
    #[error(transparent)]
    Room(#[from] RoomError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Fs(#[from] crate::fs::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a task ended unexpectedly; this is a defect of seedcache, please report it")]
    Task(#[from] tokio::task::JoinError),
    #[error("a step ended unexpectedly, the log says where; this is a defect of seedcache, please report it")]
    Panicked,
    #[error(
        "the source now names other bytes for version {version} ({found}) than the node has ({held}); a version never \
         changes its bytes: ask the origin's owner, or remove the version to take the new bytes"
    )]
    OtherBytes { version: VersionName, found: Digest, held: Digest },
    #[error("the source has version {found}, not {wanted}; ask for that one, or for `latest`")]
    OtherVersion { wanted: VersionName, found: VersionName },
}

impl StepError {
    pub(super) fn failing(&self) -> Failing {
        let content = match self {
            StepError::Resolve(error) => !error.is_transient(),
            StepError::Acquire(error) => !error.is_transient() && !error.is_of_disk(),
            // Room may be made at any time; until there is, nothing is fetched.
            StepError::Room(_) => false,
            StepError::Publish(PublishError::OtherBytes { .. })
            | StepError::OtherBytes { .. }
            | StepError::OtherVersion { .. }
            // Whatever the bytes set off, they will again.
            | StepError::Panicked => true,
            StepError::Publish(_) | StepError::Fs(_) | StepError::Store(_) | StepError::Task(_) => false,
        };
        if content { Failing::Content } else { Failing::Passing }
    }

    /// What is to come finds no room on this node.
    pub(super) fn is_no_room(&self) -> bool {
        match self {
            StepError::Acquire(error) => error.is_no_space(),
            StepError::Publish(error) => error.is_no_space(),
            StepError::Room(RoomError::NoRoom(_)) => true,
            StepError::Fs(error)
            | StepError::Store(StoreError::Fs(error))
            | StepError::Room(RoomError::Fs(error) | RoomError::Store(StoreError::Fs(error))) => error.is_no_space(),
            _ => false,
        }
    }

    fn retry_after(&self) -> Option<std::time::Duration> {
        match self {
            StepError::Resolve(error) => error.retry_after(),
            StepError::Acquire(error) => error.retry_after(),
            _ => None,
        }
    }
}

impl Shared {
    /// Carries a step out. One that panics counts as failed: were it left as begun, its artifact would never be looked
    /// at again.
    pub(super) async fn carry_out(self: Arc<Self>, step: Step, artifact: Arc<Artifact>, cancel: CancellationToken) {
        let begun = step.clone();
        let done = AssertUnwindSafe(self.act(step, &artifact, &cancel)).catch_unwind().await;
        if done.is_ok() {
            return;
        }
        let error = StepError::Panicked;
        match begun {
            Step::Resolve { .. } | Step::Acquire { .. } => self.failed(&artifact, &error, &cancel),
            Step::Repair { head, .. } => self.not_repaired(&artifact, &head, &error, &cancel),
            Step::Switch { version, .. } => self.not_switched(&artifact, &version, &error).await,
            Step::Seed { target, .. } => self.not_seeded(&artifact, target, error_chain(&error)),
        }
    }

    async fn act(self: &Arc<Self>, step: Step, artifact: &Arc<Artifact>, cancel: &CancellationToken) {
        match step {
            Step::Resolve { wish, .. } => self.resolve(artifact, &wish, cancel).await,
            Step::Acquire { wish, resolution, .. } => self.acquire(artifact, &wish, &resolution, cancel).await,
            Step::Repair { head, .. } => self.repair(artifact, &head, cancel).await,
            Step::Switch { version, .. } => self.switch(artifact, version).await,
            Step::Seed { version, target, only_rendered, .. } => {
                self.seed_declared(artifact, version, target, only_rendered).await;
            }
        }
    }

    async fn resolve(&self, artifact: &Artifact, wish: &VersionWish, cancel: &CancellationToken) {
        let outcome = self.fetcher.resolve(artifact, wish, cancel).await;
        if cancel.is_cancelled() {
            return;
        }
        let judged = outcome.map_err(StepError::from).map(|resolution| {
            let judgement = self.judge_resolution(artifact, &resolution);
            (resolution, judgement)
        });
        match judged {
            Ok((_, Judgement::OtherBytes { version, found, held })) => {
                self.update_if_heard(artifact, cancel, |tracked| tracked.named = Some(version.clone()));
                self.failed(artifact, &StepError::OtherBytes { version, found, held }, cancel);
            }
            Ok((_, Judgement::Here(version))) => {
                tracing::debug!(artifact = %artifact.name, %version, "source names what is here");
                self.succeeded(artifact, wish, Some(version), cancel);
            }
            // Asked only to know what would be followed were there no pin.
            Ok((resolution, Judgement::Fetch)) if *wish != self.wish(artifact) => {
                self.succeeded(artifact, wish, resolution.version().cloned(), cancel);
            }
            Ok((resolution, Judgement::Fetch)) => {
                tracing::info!(artifact = %artifact.name, version = resolution.version().map(tracing::field::display),
                    "resolved");
                self.update_if_heard(artifact, cancel, |tracked| {
                    tracked.facts.busy = false;
                    tracked.running = None;
                    tracked.refreshed_at = Some(Timestamp::now());
                    if *wish == artifact.version {
                        tracked.named = resolution.version().cloned().or_else(|| tracked.named.take());
                    }
                    tracked.facts.pending = Some((wish.clone(), resolution));
                });
            }
            Err(error) => self.failed(artifact, &error, cancel),
        }
    }

    /// Judges a resolution, also by what is damaged and to be had again.
    fn judge_resolution(&self, artifact: &Artifact, resolution: &Resolution) -> Judgement {
        let holding = self.store.holding(&artifact.name);
        plan::judge(artifact, resolution, &holding, self.world().repairs.heads(&artifact.name))
    }

    fn wish(&self, artifact: &Artifact) -> VersionWish {
        plan::wish(artifact, self.store.pin_of(&artifact.name).as_ref())
    }

    async fn acquire(
        self: &Arc<Self>,
        artifact: &Arc<Artifact>,
        wish: &VersionWish,
        resolution: &Resolution,
        cancel: &CancellationToken,
    ) {
        let outcome = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            mut turn = self.turn(&artifact.name) => {
                // Whoever had the turn before may have brought it: given up, but too late to be stopped.
                if let Judgement::Here(version) = self.judge_resolution(artifact, resolution) {
                    return self.succeeded(artifact, wish, Some(version), cancel);
                }
                self.fetch_and_publish(artifact, wish, resolution, None, &mut turn, cancel).await
            }
        };
        match outcome {
            Err(_) if cancel.is_cancelled() => {}
            // Nobody waits for it any more, but it is here.
            Ok(_) if cancel.is_cancelled() => self.changed(),
            Ok(head) => {
                tracing::info!(artifact = %head.artifact, version = %head.version, digest = %head.archive.digest,
                    bytes = head.bytes, files = head.files, "version published");
                self.succeeded(artifact, wish, Some(head.version.clone()), cancel);
                self.house.due.notify_one();
            }
            Err(error) => self.failed(artifact, &error, cancel),
        }
    }

    /// Changes what is known by what came of a step of the source, unless that was given up: another may be under way by now.
    /// Steps are given up while what is known is locked.
    fn update_if_heard(&self, artifact: &Artifact, cancel: &CancellationToken, change: impl FnOnce(&mut Tracked)) {
        self.update(artifact, |tracked| {
            if !cancel.is_cancelled() {
                change(tracked);
            }
        });
    }

    fn succeeded(
        &self,
        artifact: &Artifact,
        wish: &VersionWish,
        version: Option<VersionName>,
        cancel: &CancellationToken,
    ) {
        let next = self.now() + plan::next_refresh(artifact.refresh.0, fastrand::f64());
        self.update_if_heard(artifact, cancel, |tracked| {
            tracked.settle();
            tracked.failure = None;
            tracked.facts.failures = 0;
            // What a pin asked for says nothing of what the source has newest.
            if *wish == artifact.version && version.is_some() {
                tracked.named.clone_from(&version);
                tracked.facts.latest = version;
            }
            tracked.facts.next_ask = Some(next);
            tracked.refreshed_at = Some(Timestamp::now());
        });
    }

    fn failed(&self, artifact: &Artifact, error: &StepError, cancel: &CancellationToken) {
        let failing = error.failing();
        let now = self.now();
        let text = error_chain(error);
        self.update_if_heard(artifact, cancel, |tracked| {
            tracked.settle();
            tracked.facts.failures = tracked.facts.failures.saturating_add(1);
            let wait = plan::back_off(failing, tracked.facts.failures, fastrand::f64());
            let wait = error.retry_after().map_or(wait, |asked| asked.max(wait));
            tracked.facts.next_ask = Some(now + wait);
            tracing::warn!(artifact = %artifact.name, error = %text, failures = tracked.facts.failures,
                retry_ms = wait.as_millis() as u64, "try failed; the last good version stays current");
            let standing = failing == Failing::Content || error.is_no_room();
            tracked.failure = Some(Failure { error: text, standing, at: Timestamp::now() });
        });
    }

    async fn switch(&self, artifact: &Artifact, version: VersionName) {
        let (store, name) = (self.store.clone(), artifact.name.clone());
        let to = version.clone();
        let done = tokio::task::spawn_blocking(move || store.switch_current(&name, &to)).await;
        match done.map_err(StepError::from).and_then(|done| done.map_err(StepError::from)) {
            Ok(()) => {
                tracing::info!(artifact = %artifact.name, %version, "current switched");
                self.update(artifact, |tracked| {
                    tracked.facts.switching = false;
                    tracked.not_switched = None;
                });
                self.house.due.notify_one();
            }
            // Removed, or put aside, since it was chosen: what the store has now says what to choose.
            Err(StepError::Store(error @ StoreError::NoVersion { .. })) => {
                tracing::debug!(artifact = %artifact.name, %version, %error, "current not switched");
                self.update(artifact, |tracked| {
                    tracked.facts.switching = false;
                    tracked.not_switched = None;
                });
            }
            Err(error) => self.not_switched(artifact, &version, &error).await,
        }
    }

    async fn not_switched(&self, artifact: &Artifact, version: &VersionName, error: &StepError) {
        let text = error_chain(error);
        tracing::error!(artifact = %artifact.name, %version, error = %text, "current not switched");
        let error = format!("{version} is here, but current cannot be switched to it: {text}");
        let failure = Failure { error, standing: false, at: Timestamp::now() };
        self.update(artifact, |tracked| tracked.not_switched = Some(failure));
        // Tried again when the next round is due, not in a loop.
        tokio::select! {
            () = self.cancel.cancelled() => {}
            () = tokio::time::sleep(plan::back_off(Failing::Passing, 3, fastrand::f64())) => {}
        }
        self.update(artifact, |tracked| tracked.facts.switching = false);
    }

    async fn seed_declared(
        self: &Arc<Self>,
        artifact: &Arc<Artifact>,
        version: VersionName,
        target: RelPath,
        only_rendered: bool,
    ) {
        let Some(declared) = artifact.seeds.iter().find(|seed| seed.target == target) else { return };
        let (link, swap) = (declared.link, declared.swap);
        let request = seed::Request { target: target.clone(), link, swap, force: false, rendered: None, only_rendered };
        let seeded = self.seed_one(artifact.name.clone(), version.clone(), request, Caller::none()).await;
        if let Err(error) = seeded {
            return self.not_seeded(artifact, target, error_chain(&error));
        }
        self.update(artifact, |tracked| {
            let facts = tracked.facts.seeds.entry(target).or_default();
            facts.busy = false;
            facts.succeeded();
        });
    }

    fn not_seeded(&self, artifact: &Artifact, target: RelPath, error: String) {
        tracing::warn!(artifact = %artifact.name, %target, error, "declared target not seeded");
        let now = self.now();
        self.update(artifact, |tracked| {
            let facts = tracked.facts.seeds.entry(target).or_default();
            facts.busy = false;
            facts.failures = facts.failures.saturating_add(1);
            let wait = plan::back_off(Failing::Passing, facts.failures.max(3), fastrand::f64());
            (facts.error, facts.next_try) = (Some(error), Some(now + wait));
        });
    }
}
