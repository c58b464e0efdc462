//! Waiting for an artifact without asking again and again.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::ArtifactState;
use super::run::{Reconciler, World};
use crate::intent::{ArtifactName, VersionName};

/// Why the wait ended without a version.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// No document declares it and the node has no version of it.
    #[error("there is no artifact {name} on this node; `seedcache status` lists those there are")]
    Unknown {
        /// What was asked for.
        name: ArtifactName,
    },
    /// Time is up; it may still come.
    #[error("{}{}", not_yet(state), last_error(state))]
    TimedOut {
        /// Where it stands.
        state: Box<ArtifactState>,
    },
    /// Time is up; a declared target does not hold the version yet.
    #[error("{}", state.not_ready().unwrap_or_default())]
    NotSeeded {
        /// Where it stands.
        state: Box<ArtifactState>,
    },
    /// It failed in a way that waiting does not mend.
    #[error("{} cannot be had{}", state.name, last_error(state))]
    Failed {
        /// Where it stands.
        state: Box<ArtifactState>,
    },
    /// The daemon is stopping.
    #[error("the daemon is shutting down; ask again in a moment")]
    ShuttingDown,
}

fn not_yet(state: &ArtifactState) -> String {
    match &state.current {
        None => format!("{} is not ready yet", state.name),
        Some(current) => format!("{} is at {current}; what was waited for has not come", state.name),
    }
}

fn last_error(state: &ArtifactState) -> String {
    state.last_error.as_ref().map_or_else(String::new, |error| format!(": {error}"))
}

/// Why a refresh was not done.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// No document declares it.
    #[error("no document declares an artifact {name}; there is nothing to refresh")]
    Unknown {
        /// What was asked for.
        name: ArtifactName,
    },
}

/// What a waiter finds when it looks.
pub(super) enum Look {
    Done,
    Failed,
    NotYet,
}

impl Reconciler {
    /// Waits until the artifact (that very version, when named) is there. A failure that waiting does not mend ends
    /// the wait when there is no version to hand out.
    pub async fn wait(
        &self,
        name: &ArtifactName,
        version: Option<&VersionName>,
        timeout: Duration,
    ) -> Result<ArtifactState, WaitError> {
        self.wait_until(name, timeout, |reconciler| {
            let holding = reconciler.shared.store.holding(name);
            let there = match version {
                None => holding.current.is_some(),
                Some(version) => holding.versions.contains_key(version),
            };
            let standing = |world: &World| world.tracked.get(name)?.failure.as_ref().map(|f| f.standing);
            match there {
                true => Look::Done,
                false if standing(&reconciler.shared.world()) == Some(true) => Look::Failed,
                false => Look::NotYet,
            }
        })
        .await
    }

    /// Waits until the artifact is ready for use: it has a current version, and every target that its document declares
    /// holds it. A target that fails is tried again meanwhile.
    pub async fn wait_for_use(&self, name: &ArtifactName, timeout: Duration) -> Result<ArtifactState, WaitError> {
        let deadline = Instant::now() + timeout;
        self.wait(name, None, timeout).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.wait_until(name, left, |reconciler| match reconciler.state(name) {
            Some(state) if state.not_ready().is_some() => Look::NotYet,
            _ => Look::Done,
        });
        waited.await.map_err(|error| match error {
            WaitError::TimedOut { state } if state.current.is_some() => WaitError::NotSeeded { state },
            other => other,
        })
    }

    /// Has the source asked now, whatever the back-off; returns at once.
    pub fn refresh(&self, name: &ArtifactName) -> Result<(), RefreshError> {
        self.ask_source(name).map(drop).ok_or_else(|| RefreshError::Unknown { name: name.clone() })
    }

    /// Has the source asked now and waits until what it names is current, or the try failed.
    pub async fn refresh_and_wait(&self, name: &ArtifactName, timeout: Duration) -> Result<ArtifactState, WaitError> {
        let answers = self.ask_source(name).ok_or_else(|| WaitError::Unknown { name: name.clone() })?;
        self.wait_until(name, timeout, |reconciler| {
            let world = reconciler.shared.world();
            let Some(tracked) = world.tracked.get(name) else { return Look::Failed };
            let (facts, current) = (&tracked.facts, reconciler.shared.store.holding(name).current);
            let wanted = reconciler.wanted(&world, name);
            let answered = tracked.answers >= answers && !facts.busy && !facts.asked && facts.pending.is_none();
            match answered {
                false => Look::NotYet,
                true if tracked.failure.is_some() => Look::Failed,
                true if facts.switching || (current.is_none() || current != wanted) => Look::NotYet,
                true => Look::Done,
            }
        })
        .await
    }

    /// Waits until a damaged version is here again, or the first try to have it failed; `Failed` when nobody tries.
    pub(super) async fn wait_for_repair(
        &self,
        name: &ArtifactName,
        version: &VersionName,
        timeout: Duration,
    ) -> Result<ArtifactState, WaitError> {
        self.wait_until(name, timeout, |reconciler| {
            let world = reconciler.shared.world();
            let here = reconciler.shared.store.head(name, version).is_some();
            match world.tracked.contains_key(name) && world.repairs.is_first_try(name, version) {
                _ if here => Look::Done,
                true => Look::NotYet,
                false if world.repairs.holds(name, version) => Look::Done,
                false => Look::Failed,
            }
        })
        .await
    }

    /// Marks the source to be asked; the number of answers after which the question is answered.
    fn ask_source(&self, name: &ArtifactName) -> Option<u64> {
        let answers = {
            let mut world = self.shared.world();
            let tracked = world.tracked.get_mut(name)?;
            // Until a step that answers this very question begins. What is under way, a repair perhaps, ends before.
            tracked.facts.asked = true;
            tracked.awaited = tracked.answers + 1;
            tracked.awaited
        };
        self.shared.changed();
        Some(answers)
    }

    pub(super) async fn wait_until(
        &self,
        name: &ArtifactName,
        timeout: Duration,
        look: impl Fn(&Self) -> Look,
    ) -> Result<ArtifactState, WaitError> {
        let deadline = Instant::now() + timeout;
        let mut changes = self.shared.changes();
        let state = || self.state(name).map(Box::new).ok_or_else(|| WaitError::Unknown { name: name.clone() });
        loop {
            changes.borrow_and_update();
            match look(self) {
                Look::Done => return state().map(|state| *state),
                Look::Failed => return Err(WaitError::Failed { state: state()? }),
                Look::NotYet => {}
            }
            // No document to follow: nothing will come. Looked up alone: a herd that waits looks at each change.
            if !self.shared.world().catalog.artifacts.contains_key(name) {
                return Err(WaitError::Failed { state: state()? });
            }
            tokio::select! {
                () = self.shared.cancel.cancelled() => return Err(WaitError::ShuttingDown),
                changed = timeout_at(deadline, changes.changed()) => match changed {
                    Err(_) => return Err(WaitError::TimedOut { state: state()? }),
                    Ok(Err(_)) => return Err(WaitError::ShuttingDown),
                    Ok(Ok(())) => {}
                },
            }
        }
    }
}
