//! Pinning by hand: an operator's word that one version is current on this node, kept until it is taken back.

use std::sync::PoisonError;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ArtifactState;
use super::plan::{self, Facts};
use super::run::{Reconciler, Shared, World};
use super::wait::{Look, WaitError};
use crate::intent::{ArtifactName, VersionName, VersionWish, error_chain};
use crate::store::{Pinning, StoreError};

/// How long the answer waits for a switch to a version that is here: milliseconds, unless the disk is in trouble.
const SWITCH: Duration = Duration::from_secs(10);

/// What became of a pin, or of taking one away.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PinAnswer {
    /// How the artifact stands now.
    #[serde(flatten)]
    pub state: ArtifactState,
    /// Where the outcome is not what was asked for: why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Why a pin was not changed.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// No document declares it and the node has no version of it.
    #[error("there is no artifact {name} on this node; `seedcache status` lists those there are")]
    Unknown {
        /// What was asked for.
        name: ArtifactName,
    },
    /// Nothing says where the version could be fetched from.
    #[error(
        "version {version} of {name} is not on this node, and no document declares {name}, so it cannot be fetched"
    )]
    Undeclared {
        /// The artifact.
        name: ArtifactName,
        /// The version.
        version: VersionName,
    },
    /// The pin cannot be kept, or the switch cannot be made.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It did not come about in the time that the caller gave.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// A defect.
    #[error("the pinning task ended unexpectedly; this is a defect of seedcache, please report it")]
    Task(#[from] tokio::task::JoinError),
}

impl Reconciler {
    /// Pins an artifact at a version, durably. One that is here is current when this returns; any other is fetched and
    /// then switched to, and with `wait` that is waited for. A document's own pin wins: the answer says so.
    pub async fn pin(
        &self,
        name: &ArtifactName,
        version: &VersionName,
        wait: Option<Duration>,
    ) -> Result<PinAnswer, PinError> {
        let declared = self.shared.world().catalog.artifacts.get(name).cloned();
        let (shared, artifact, to) = (self.shared.clone(), name.clone(), version.clone());
        let switch = declared.is_none();
        let pinned = tokio::task::spawn_blocking(move || shared.pin(&artifact, &to, switch)).await?;
        let here = pinned.map_err(|error| match error {
            StoreError::NoVersion { artifact: name, version } => match self.state(&name) {
                Some(_) => PinError::Undeclared { name, version },
                None => PinError::Unknown { name },
            },
            error => {
                // What was not written is to be written anew.
                self.shared.house.due.notify_one();
                error.into()
            }
        })?;
        self.shared.pin_changed(name, false);
        if let Some(pin) = declared.as_ref().and_then(|artifact| artifact.pin.as_ref()) {
            let note = (pin != version).then(|| {
                format!(
                    "the document pins {name} at {pin}, which wins; {version} is taken once spec.pin is removed from it"
                )
            });
            return Ok(self.pin_answer(name, note));
        }
        match wait {
            Some(wait) => drop(self.wait_for_wanted(name, wait).await?),
            None if here => self.wait_for_switch(name).await?,
            None => {}
        }
        Ok(self.pin_answer(name, None))
    }

    /// Takes the node's pin away, durably: the document's version is followed again at once. With `wait`, waits until
    /// it is current.
    pub async fn unpin(&self, name: &ArtifactName, wait: Option<Duration>) -> Result<PinAnswer, PinError> {
        let (shared, artifact) = (self.shared.clone(), name.clone());
        let unpinned = tokio::task::spawn_blocking(move || shared.store.unpin(&artifact).map_err(StoreError::from));
        let before = unpinned.await?.inspect_err(|_| self.shared.house.due.notify_one())?;
        if before.is_none() && self.state(name).is_none() {
            return Err(PinError::Unknown { name: name.clone() });
        }
        let declared = self.shared.world().catalog.artifacts.get(name).cloned();
        if let Some(version) = &before {
            tracing::info!(artifact = %name, %version, "unpinned on this node");
            self.shared.pin_changed(name, true);
        }
        let document_pin = declared.as_ref().and_then(|artifact| artifact.pin.as_ref());
        let note = match (document_pin, &before) {
            (Some(pin), _) => {
                Some(format!("the document pins {name} at {pin}; that stays until spec.pin is removed from it"))
            }
            (None, None) => Some(format!("{name} was not pinned on this node")),
            (None, Some(_)) if declared.is_none() => {
                Some(format!("no document declares {name}, so nothing is followed and current stays as it is"))
            }
            (None, Some(_)) => None,
        };
        match wait {
            Some(wait) if note.is_none() => drop(self.wait_for_wanted(name, wait).await?),
            _ if before.is_some() && note.is_none() => self.wait_for_switch(name).await?,
            _ => {}
        }
        Ok(self.pin_answer(name, note))
    }

    fn pin_answer(&self, name: &ArtifactName, note: Option<String>) -> PinAnswer {
        let state = self.shared.view(&self.shared.world(), name);
        PinAnswer { state, note }
    }

    /// The version that is to be current, as far as it is known.
    pub(super) fn wanted(&self, world: &World, name: &ArtifactName) -> Option<VersionName> {
        let artifact = world.catalog.artifacts.get(name)?;
        match plan::wish(artifact, self.shared.store.pin_of(name).as_ref()) {
            VersionWish::Exact(version) => Some(version),
            VersionWish::Latest => world.tracked.get(name)?.facts.latest.clone(),
        }
    }

    /// Waits for a switch that only the disk can hold up. That it takes long is no failure of the pin.
    async fn wait_for_switch(&self, name: &ArtifactName) -> Result<(), PinError> {
        let switched = self.wait_until(name, SWITCH, |reconciler| {
            let wanted = reconciler.wanted(&reconciler.shared.world(), name);
            let holding = reconciler.shared.store.holding(name);
            let held_up = wanted.is_some_and(|v| holding.versions.contains_key(&v) && holding.current != Some(v));
            if held_up { Look::NotYet } else { Look::Done }
        });
        match switched.await {
            Ok(_) | Err(WaitError::TimedOut { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until what is to be current is, or the try to get it failed.
    async fn wait_for_wanted(&self, name: &ArtifactName, timeout: Duration) -> Result<ArtifactState, WaitError> {
        self.wait_until(name, timeout, |reconciler| {
            let world = reconciler.shared.world();
            let Some(tracked) = world.tracked.get(name) else { return Look::Done };
            let Facts { busy, asked, switching, pending, .. } = &tracked.facts;
            let wanted = reconciler.wanted(&world, name);
            let artifact = world.catalog.artifacts.get(name);
            let wish = artifact.map(|artifact| plan::wish(artifact, reconciler.shared.store.pin_of(name).as_ref()));
            // Answered, and about to be fetched.
            let pending = pending.as_ref().is_some_and(|(answered, _)| Some(answered) == wish.as_ref());
            let current = reconciler.shared.store.holding(name).current;
            match (*asked || *switching, wanted.is_some() && current == wanted) {
                (true, _) => Look::NotYet,
                (false, true) if !*busy && !pending => Look::Done,
                _ if *busy || pending => Look::NotYet,
                _ if tracked.failure.is_some() => Look::Failed,
                _ => Look::NotYet,
            }
        })
        .await
    }
}

impl Shared {
    /// Pins it, and says whether the version is here. What no document declares no planner looks after: it is switched to
    /// at once, or not pinned. Blocks.
    pub(super) fn pin(&self, artifact: &ArtifactName, version: &VersionName, switch: bool) -> Result<bool, StoreError> {
        // What one takes back is not what another has made of it meanwhile. Pins are whole: a panic spoils nothing.
        let _alone = self.pinning.lock().unwrap_or_else(PoisonError::into_inner);
        let Pinning { before, is_here } = self.store.pin(artifact, version, switch)?;
        if switch && let Err(error) = self.store.switch_current(artifact, version) {
            if let Err(error) = self.store.take_back_pin(artifact, version, before) {
                tracing::warn!(%artifact, %version, error = error_chain(&error), "a pin that was refused stays");
            }
            return Err(error);
        }
        let before = before.map(tracing::field::display);
        tracing::info!(%artifact, %version, before, "pinned on this node");
        Ok(is_here)
    }

    /// Gives up what answers another wish than the present one, forgets its failures, and has the new one looked after
    /// at once. With `ask` the source is asked even where nothing is missing.
    fn pin_changed(&self, name: &ArtifactName, ask: bool) {
        let mut world = self.world();
        let World { catalog, tracked, .. } = &mut *world;
        if let (Some(artifact), Some(tracked)) = (catalog.artifacts.get(name), tracked.get_mut(name)) {
            let wish = plan::wish(artifact, self.store.pin_of(name).as_ref());
            if artifact.pin.is_none() && tracked.running.as_ref().is_none_or(|running| running.wish != wish) {
                tracked.give_up();
                let missing = |version: &VersionName| self.store.head(name, version).is_none();
                tracked.facts.asked |= ask || matches!(&wish, VersionWish::Exact(version) if missing(version));
            }
        }
        drop(world);
        self.house.due.notify_one();
        self.changed();
    }
}

impl super::tracked::Tracked {
    /// Ends the step of the source that is under way; what comes of it is not heard.
    pub(super) fn give_up(&mut self) {
        self.step.cancel();
        self.step = self.cancel.child_token();
        // Who waits for its answer has it: there is none.
        self.answers += u64::from(self.facts.busy);
        self.facts.busy = false;
        self.facts.pending = None;
        self.facts.failures = 0;
        self.running = None;
        self.failure = None;
        self.not_switched = None;
    }
}
