//! What the runner knows of one declared artifact, and how it changes as a step begins and ends.

use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::plan::{Facts, Step};
use super::state::Failure;
use crate::acquire::Progress;
use crate::intent::{Digest, VersionName, VersionWish};

/// What is known of one declared artifact.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) generation: Digest,
    pub(super) facts: Facts,
    pub(super) failure: Option<Failure>,
    /// Why `current` could not be switched.
    pub(super) not_switched: Option<Failure>,
    pub(super) refreshed_at: Option<Timestamp>,
    /// What the source named last, whether it can be had or not.
    pub(super) named: Option<VersionName>,
    /// Answers of the source, good or bad: how a waiter knows that its question was answered.
    pub(super) answers: u64,
    /// So many of them are waited for.
    pub(super) awaited: u64,
    pub(super) running: Option<Running>,
    pub(super) cancel: CancellationToken,
    /// Ends the step of the source that is being carried out, and that alone.
    pub(super) step: CancellationToken,
}

/// A step of the source that is being carried out.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) progress: Arc<Progress>,
    pub(super) version: Option<VersionName>,
    pub(super) wish: VersionWish,
}

impl Tracked {
    pub(super) fn new(generation: Digest, cancel: CancellationToken) -> Self {
        Self {
            named: None,
            generation,
            facts: Facts::default(),
            failure: None,
            not_switched: None,
            refreshed_at: None,
            answers: 0,
            awaited: 0,
            running: None,
            step: cancel.child_token(),
            cancel,
        }
    }

    /// For a document that has changed: what was asked, and is not answered, is asked of the new one.
    pub(super) fn succeed(before: &Self, generation: Digest, cancel: CancellationToken) -> Self {
        let Self { answers, awaited, .. } = *before;
        let asked = before.facts.asked || awaited > answers;
        Self { answers, awaited, facts: Facts { asked, ..Facts::default() }, ..Self::new(generation, cancel) }
    }

    pub(super) fn begin(&mut self, step: &Step) {
        match step {
            Step::Resolve { wish, .. } => {
                self.facts.busy = true;
                self.facts.asked = false;
                let version = match wish {
                    VersionWish::Exact(version) => Some(version.clone()),
                    VersionWish::Latest => None,
                };
                self.running = Some(Running { progress: Arc::default(), version, wish: wish.clone() });
            }
            Step::Acquire { wish, resolution, .. } => {
                self.facts.busy = true;
                let version = resolution.version().cloned();
                self.running = Some(Running { progress: Arc::default(), version, wish: wish.clone() });
            }
            Step::Repair { head, .. } => {
                self.facts.busy = true;
                let version = head.version.clone();
                let wish = VersionWish::Exact(version.clone());
                self.running = Some(Running { progress: Arc::default(), version: Some(version), wish });
            }
            Step::Switch { .. } => self.facts.switching = true,
            Step::Seed { target, .. } => self.facts.seeds.entry(target.clone()).or_default().busy = true,
        }
    }

    /// Whether the step of the source that is under way is for this version.
    pub(super) fn is_having(&self, version: &VersionName) -> bool {
        self.running.as_ref().is_some_and(|running| running.version.as_ref() == Some(version))
    }

    /// The step of the source is over.
    pub(super) fn settle(&mut self) {
        self.facts.busy = false;
        self.facts.pending = None;
        self.running = None;
        self.answers += 1;
    }
}
