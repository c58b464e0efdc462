//! Collection, carried out: claims gathered, fates decided, versions removed.
//!
//! Versions of artifacts that no document declares any more are kept as the default `retain` says, their current one
//! whatever its age. Where a document is refused, what it says of keeping is not known: all its versions stay.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore};

use super::claims::{Seen, claims, may_be_refused};
use super::filling::claim_filled;
use super::plan::{self, Facts};
use super::room::{NoRoom, RoomError};
use super::run::{Reconciler, Shared, World};
use super::shortage::Shortages;
use crate::intent::{ArtifactName, Retain, VersionName, VersionWish};
use crate::store::{self, Claim, Fate, Holding, Limits, Promises, StoreError, Taken, Why};

/// How long who asks what would go waits for others who do.
const ASK_PATIENCE: Duration = Duration::from_secs(30);

/// What keeping house works with.
#[derive(Debug)]
pub(super) struct House {
    pub(super) limits: Limits,
    pub(super) promises: Promises,
    /// One collection or promise at a time; taken on blocking threads only.
    pub(super) turn: Mutex<()>,
    /// For who asks what would go: anybody may, and the thread of one who went away runs on.
    asking: Arc<Semaphore>,
    /// Downloads that found no room.
    pub(super) shortages: Shortages,
    /// Something may have become collectable.
    pub(super) due: Notify,
}

impl House {
    pub(super) fn new(limits: Limits) -> Self {
        let (promises, turn, shortages, due) = Default::default();
        Self { limits, promises, turn, asking: Arc::new(Semaphore::new(1)), shortages, due }
    }
}

/// What is to go.
struct Decided {
    fates: Vec<Fate>,
    /// Of damaged versions that are to be had again, or not.
    repairs: Vec<Fate>,
    /// Downloads that are not resumed but begun anew, where no version may go any more and room is short all the same.
    parts: Vec<ArtifactName>,
    /// There is too little room as it is.
    is_short: bool,
    no_room: Option<NoRoom>,
}

/// Whether a version stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It does.
    Kept,
    /// It goes, or went.
    Removed,
}

/// What becomes of one version, as the API tells it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FateState {
    /// Which artifact.
    pub artifact: ArtifactName,
    /// Which version.
    pub version: VersionName,
    /// Whether it stays.
    pub fate: Verdict,
    /// Why, in words.
    pub why: String,
    /// What it takes on disk.
    pub bytes: u64,
}

impl From<&Fate> for FateState {
    fn from(fate: &Fate) -> Self {
        Self {
            artifact: fate.artifact.clone(),
            version: fate.version.clone(),
            fate: if fate.why.keeps() { Verdict::Kept } else { Verdict::Removed },
            why: fate.why.to_string(),
            bytes: fate.bytes,
        }
    }
}

/// What a collection did, or would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Collected {
    /// Every version, by artifact, newest first.
    pub fates: Vec<FateState>,
    /// Bytes of the versions that went.
    pub freed: u64,
}

/// Why nothing, or not all, was collected.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Others ask the same.
    #[error("others ask what would be collected, and were not answered within {} s", ASK_PATIENCE.as_secs())]
    Busy,
    /// A defect.
    #[error("the collecting task ended unexpectedly; this is a defect of seedcache, please report it")]
    Task(#[from] tokio::task::JoinError),
}

impl Reconciler {
    /// Removes what retention and the budget let go; with `dry_run` only tells what would become of each version.
    pub async fn collect(&self, dry_run: bool) -> Result<Collected, CollectError> {
        let shared = self.shared.clone();
        let asking = match dry_run {
            true => {
                let turn = tokio::time::timeout(ASK_PATIENCE, shared.house.asking.clone().acquire_owned()).await;
                // Never closed.
                Some(turn.map_err(|_| CollectError::Busy)?)
            }
            false => None,
        };
        tokio::task::spawn_blocking(move || {
            // Held until this is over, whoever waits for it.
            let _asking = asking;
            let fates = match dry_run {
                true => {
                    // Not between the steps of a removal.
                    let _turn = store_turn(&shared.house.turn);
                    shared.decide(None).map_err(StoreError::from)?.fates
                }
                false => shared.collect()?,
            };
            let gone = fates.iter().filter(|fate| !fate.why.keeps());
            let freed = gone.map(|fate| fate.bytes).sum();
            Ok(Collected { fates: fates.iter().map(FateState::from).collect(), freed })
        })
        .await?
    }
}

/// What the turn guards is elsewhere and whole: a panic in it spoils nothing.
pub(super) fn store_turn(turn: &Mutex<()>) -> std::sync::MutexGuard<'_, ()> {
    turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Shared {
    /// Removes what may go. What cannot be removed keeps nothing else here, and is told of when all else is done. Blocks.
    pub(super) fn collect(&self) -> Result<Vec<Fate>, StoreError> {
        self.store.note_clock();
        let written = self.store.write_unsure();
        // What the daemon before this one left may take minutes: no download waits for it.
        let swept = self.store.sweep();
        let _turn = store_turn(&self.house.turn);
        let cleared = self.clear_staging();
        let fates = match self.collect_for(None) {
            Ok(fates) => fates,
            Err(RoomError::Store(error)) => return Err(error),
            Err(RoomError::Fs(error)) => return Err(error.into()),
            // Over the limit, and no more can go: what was collected before stays collected.
            Err(RoomError::NoRoom(why)) => {
                tracing::warn!(%why, "the store is over its budget, and nothing more may go");
                self.decide(None)?.fates
            }
            Err(RoomError::Task(error)) => unreachable!("nothing is spawned on this path: {error}"),
        };
        written.and(swept).map_err(StoreError::from).and(cleared).map(|()| fates)
    }

    /// Removes downloads that nobody will take up: begun for documents that are gone, or for versions that are no longer
    /// wanted where all that is wanted is here.
    fn clear_staging(&self) -> Result<(), StoreError> {
        let mut outcome = Ok(());
        for name in self.store.staged()? {
            let gate = self.staging_gate(&name);
            // Taken: one that was given up is still ending.
            let Ok(_alone) = gate.try_lock() else { continue };
            let world = self.world();
            let declared = world.catalog.artifacts.contains_key(&name) || may_be_refused(&world.catalog, &name);
            let in_question = self.may_fetch(&world, &name);
            drop(world);
            if !declared || !in_question {
                let done = self.store.discard_staged(&name);
                if done.is_ok() {
                    tracing::debug!(artifact = %name, declared, "staging removed: nothing is to be fetched there");
                }
                outcome = outcome.and(done.map_err(StoreError::from));
            }
        }
        outcome
    }

    /// Whether something is being fetched for a declared artifact, or may be soon.
    fn may_fetch(&self, world: &World, name: &ArtifactName) -> bool {
        let (Some(artifact), Some(tracked)) = (world.catalog.artifacts.get(name), world.tracked.get(name)) else {
            return true;
        };
        let Facts { busy, asked, pending, failures, latest, repairing, .. } = &tracked.facts;
        let wanted = match plan::wish(artifact, self.store.pin_of(name).as_ref()) {
            VersionWish::Exact(version) => Some(version),
            VersionWish::Latest => latest.clone(),
        };
        let is_here = wanted.is_some() && self.store.current(name) == wanted;
        *busy || *asked || pending.is_some() || *failures > 0 || *repairing || !is_here
    }

    /// Promises a download so many bytes, what is in their way removed. Blocks.
    pub(super) fn promise(&self, artifact: &ArtifactName, bytes: u64, taken: Taken) -> Result<(), RoomError> {
        let _turn = store_turn(&self.house.turn);
        self.house.promises.note(artifact, taken);
        // A download that goes on from an earlier one has more than it has written: where that may decide, it is looked at.
        let (limits, promises) = (self.house.limits, &self.house.promises);
        if self.store.room_while(limits, promises, artifact, taken.written)?.short(bytes) > 0
            && self.store.room(limits, promises, Some(artifact))?.short(bytes) > 0
        {
            self.collect_for(Some((artifact, bytes)))?;
        }
        self.house.promises.set(artifact, bytes);
        Ok(())
    }

    /// Decides what goes, and what is short for the one who asks for room once all that may go is gone.
    fn decide(&self, ask: Option<(&ArtifactName, u64)>) -> Result<Decided, crate::fs::Error> {
        self.look_at_records();
        self.look_at_filled();
        let inventory = self.store.inventory();
        let (mut fates, mut repairs): (Vec<Fate>, _) = {
            let world = self.world();
            let fates = inventory.iter().flat_map(|(name, holding)| self.fates_of(&world, name, holding));
            (fates.collect(), self.fates_of_idle_repairs(&world))
        };
        let bytes = ask.map_or(0, |(_, bytes)| bytes);
        let room = self.store.room(self.house.limits, &self.house.promises, ask.map(|(artifact, _)| artifact))?;
        if room.short(bytes) == 0 {
            return Ok(Decided { fates, repairs, parts: Vec::new(), is_short: false, no_room: None });
        }
        repairs.iter_mut().for_each(|fate| fate.bytes = self.store.quarantined_version(&fate.artifact, &fate.version));
        let held = fates.len();
        fates.append(&mut repairs);
        let spare = self.store.quarantined_spare();
        let mut freed = store::make_room(&mut fates, room.to_free(bytes).saturating_sub(spare)).saturating_add(spare);
        let repairs = fates.split_off(held);
        let mut parts = Vec::new();
        for (name, size) in self.idle_parts(ask.map(|(name, _)| name))? {
            if size > 0 && room.short(bytes) > freed {
                freed = freed.saturating_add(size);
                parts.push(name);
            }
        }
        let short = room.short(bytes) > freed;
        let no_room = short.then(|| NoRoom { artifact: ask.map(|(name, _)| name.clone()), bytes, room, freed });
        Ok(Decided { fates, repairs, parts, is_short: true, no_room })
    }

    /// Downloads of others that are left to be resumed, none of them running, with what they take.
    fn idle_parts(&self, asking: Option<&ArtifactName>) -> Result<Vec<(ArtifactName, u64)>, crate::fs::Error> {
        let mut idle = Vec::new();
        for name in self.store.staged()?.into_iter().filter(|name| Some(name) != asking) {
            if let Ok(_alone) = self.staging_gate(&name).try_lock() {
                let size = self.store.staged_bytes(&name);
                idle.push((name, size));
            }
        }
        Ok(idle)
    }

    /// Removes such downloads; one that goes on by now stays.
    fn drop_parts(&self, parts: &[ArtifactName]) -> Result<(), crate::fs::Error> {
        let mut outcome = Ok(());
        for name in parts {
            if let Ok(_alone) = self.staging_gate(name).try_lock() {
                let done = self.store.discard_staged(name);
                if done.is_ok() {
                    tracing::info!(artifact = %name, "a download to be resumed was dropped, since room is short");
                }
                outcome = outcome.and(done);
            }
        }
        outcome
    }

    fn collect_for(&self, ask: Option<(&ArtifactName, u64)>) -> Result<Vec<Fate>, RoomError> {
        let Decided { fates, repairs, parts, is_short, no_room } = self.decide(ask)?;
        // What does not fit anyway costs no version.
        if let (Some(no_room), Some(_)) = (&no_room, ask) {
            return Err(no_room.clone().into());
        }
        let abandoned = self.abandon_all(&repairs);
        let cleared = self.store.clear_quarantine(self.store.age(self.now()), is_short);
        if let Ok(bytes @ 1..) = cleared {
            tracing::info!(bytes, needed = is_short, "quarantine cleared");
        }
        let dropped = self.drop_parts(&parts);
        let fates = self.remove(fates)?;
        abandoned?;
        cleared?;
        dropped?;
        no_room.map_or(Ok(fates), |no_room| Err(no_room.into()))
    }

    /// Removes the versions that are to go; one that was claimed meanwhile stays.
    fn remove(&self, mut fates: Vec<Fate>) -> Result<Vec<Fate>, StoreError> {
        let (mut removed, mut outcome) = (false, Ok(()));
        for fate in fates.iter_mut().filter(|fate| !fate.why.keeps()) {
            let Fate { artifact, version, why, bytes, .. } = &*fate;
            // Seeded since it was decided that it goes.
            let is_claimed = || self.seeder.is_linked(artifact, version);
            match self.store.remove_unclaimed(artifact, version, is_claimed) {
                Ok(true) => {
                    tracing::info!(%artifact, %version, %why, bytes, "version removed");
                    self.counts.collected_versions.inc();
                    self.counts.collected.inc_by(*bytes);
                    removed = true;
                    // Had again already, but its repair was not over.
                    outcome = outcome.and(self.abandon(artifact, version, || true).map(drop).map_err(StoreError::from));
                }
                Ok(false) => {
                    let now = self.fates_of(&self.world(), artifact, &self.store.holding(artifact));
                    let now = now.into_iter().find(|now| now.version == fate.version);
                    // Let go again already: the next round takes it.
                    let claimed = now.filter(|now| now.why.keeps()).map(|now| now.why);
                    fate.why = claimed.unwrap_or_else(|| Why::Claimed(vec![Claim::Read]));
                }
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        if removed {
            self.changed();
        }
        outcome.map(|()| fates)
    }

    /// What becomes of an artifact's versions for its retention.
    pub(super) fn fates_of(&self, world: &World, name: &ArtifactName, holding: &Holding) -> Vec<Fate> {
        let artifact = world.catalog.artifacts.get(name).map(|artifact| &**artifact);
        let latest = world.tracked.get(name).and_then(|tracked| tracked.facts.latest.as_ref());
        let leases = self.store.leases_on(name);
        let refused = artifact.is_none() && may_be_refused(&world.catalog, name);
        let node_pin = self.store.pin_of(name);
        let is_read = |version: &VersionName| self.store.is_read(name, version);
        let mut claims = claims(
            name,
            holding,
            &Seen { artifact, node_pin: node_pin.as_ref(), refused, latest, leases: &leases, records: &world.records },
            is_read,
        );
        claim_filled(&mut claims, &world.filled, name, holding);
        let retain = artifact.map_or_else(Retain::default, |artifact| artifact.retain);
        store::fates(name, holding, &claims, &retain, self.store.age(self.now()))
    }
}
