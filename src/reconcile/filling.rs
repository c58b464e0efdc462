//! Directories that peers hold open: filled when asked for, shown, and held against collection while they stand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::run::{Reconciler, Shared, World};
use super::turns::{BRIEFLY, Spot};
use super::{SeedProgressState, SeedState, State, WaitError};
use crate::fs::{self, LinkMode};
use crate::intent::{ArtifactName, VersionName};
use crate::seed::{FillError, FillRequest, Filled, Filling, SeedError, SeedProgress};
use crate::store::{Claim, Claims, Holding, StoreError, Version};

/// How long a fill waits for a version that is found damaged to be had again.
const REPAIR: Duration = Duration::from_secs(120);

/// By when a client has swapped what was filled for it into its target, and removed what stood there.
const SETTLED: Duration = Duration::from_secs(2);

/// Filled directories of one artifact that are told of.
const SHOWN: usize = 1000;

/// A fill asked for by a peer.
#[derive(Debug, Clone)]
pub struct FillAsk {
    /// Which artifact.
    pub artifact: ArtifactName,
    /// Which version.
    pub version: VersionName,
    /// Which directory, how and for whom.
    pub request: FillRequest,
}

/// Why a directory was not filled.
#[derive(Debug, thiserror::Error)]
pub enum FillAskError {
    /// The daemon stops, or the version does not come back.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// The version cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The directory cannot be looked at.
    #[error(transparent)]
    Fs(#[from] fs::Error),
    /// Another fill of it goes on and on.
    #[error("{target} is still being filled for another request after {seconds} s; ask again later")]
    Busy {
        /// What the peer calls it.
        target: String,
        /// How long this one waited.
        seconds: u64,
    },
    /// Filling failed.
    #[error(transparent)]
    Fill(#[from] FillError),
    /// A defect.
    #[error("the filling task ended unexpectedly; this is a defect of seedcache, please report it")]
    Task(#[from] tokio::task::JoinError),
}

impl FillAskError {
    pub(super) fn busy(target: String, waited: Duration) -> Self {
        FillAskError::Busy { target, seconds: waited.as_secs() }
    }

    /// Somebody else is at the directory.
    pub(super) fn is_of_another(&self) -> bool {
        matches!(self, FillAskError::Busy { .. } | FillAskError::Fill(FillError::Seed(SeedError::Locked { .. })))
    }

    /// The same may go well later without anybody's help.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            FillAskError::Wait(_) | FillAskError::Store(_) | FillAskError::Busy { .. } => true,
            FillAskError::Fs(error) => error.is_of_disk(),
            FillAskError::Fill(FillError::Seed(error)) => error.may_pass(),
            FillAskError::Fill(FillError::Refused(_)) | FillAskError::Task(_) => false,
        }
    }
}

/// The fills under way, and what they may have replaced.
#[derive(Debug, Default)]
pub(super) struct Fills {
    under_way: Mutex<Vec<Fill>>,
    /// Targets, as their peers call them, that were filled and not looked at since.
    replaced: Mutex<BTreeSet<String>>,
}

#[derive(Debug)]
struct Fill {
    artifact: ArtifactName,
    target: String,
    progress: Arc<SeedProgress>,
}

/// One of them; it is no more when this is dropped.
struct Begun<'a> {
    all: &'a Fills,
    progress: Arc<SeedProgress>,
}

impl Fills {
    fn begin(&self, artifact: &ArtifactName, target: &str, progress: &Arc<SeedProgress>) -> Begun<'_> {
        let (artifact, target) = (artifact.clone(), target.to_owned());
        self.lock().push(Fill { artifact, target, progress: progress.clone() });
        Begun { all: self, progress: progress.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Fill>> {
        // Whole entries come and go: whoever panicked left it usable.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replaced(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // As above.
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.all.lock().retain(|fill| !Arc::ptr_eq(&fill.progress, &self.progress));
    }
}

impl Reconciler {
    /// Has a directory that a peer holds open hold a version that is here. What comes of it is noted also when whoever
    /// asked has gone away.
    pub async fn fill(&self, ask: FillAsk) -> Result<Filling, FillAskError> {
        let filled = self.shared.fill_one(ask.clone()).await;
        match &filled {
            Err(FillAskError::Fill(FillError::Seed(SeedError::StoreDamaged { version, .. }))) => {
                match self.wait_for_repair(&ask.artifact, version, REPAIR).await {
                    Ok(_) => self.shared.fill_one(ask).await,
                    Err(error @ WaitError::ShuttingDown) => Err(error.into()),
                    // The damage is what there is to tell.
                    Err(_) => filled,
                }
            }
            _ => filled,
        }
    }
}

impl Shared {
    async fn fill_one(self: &Arc<Self>, ask: FillAsk) -> Result<Filling, FillAskError> {
        let (shared, request) = (self.clone(), ask.request.clone());
        let (stamp, near) = match self.tasks.spawn_blocking(move || shared.seeder.place_of(&request)).await?? {
            Ok(place) => place,
            Err(filling) => return Ok(filling),
        };
        let turn = tokio::select! {
            () = self.cancel.cancelled() => return Err(WaitError::ShuttingDown.into()),
            turn = self.turns.enter(Spot::Directory { dev: stamp.dev, ino: stamp.ino, near }, BRIEFLY) => turn,
        };
        let turn = turn.map_err(|waited| FillAskError::busy(ask.request.target.clone(), waited))?;
        let shared = self.clone();
        let work = move || {
            let FillAsk { artifact, version, request } = ask;
            // Until it is on record.
            let linker = shared.linking.begin(&artifact, &version, request.link);
            let version = shared.store.open_version(&artifact, &version)?;
            let progress = Arc::default();
            let begun = shared.fills.begin(&artifact, &request.target, &progress);
            let fill = |version: &Version| {
                let filled = shared.seeder.fill(version, &request, &progress);
                filled.inspect_err(|error| shared.take_out_if_damaged(version, error))
            };
            let mut filling = fill(&version)?;
            if let Filling::Seeded(first, _) = &filling
                && let Some(anew) = shared.had_anew(&version, first.mode)?
            {
                let mut second = fill(&anew)?;
                if let Filling::Seeded(seeded, _) = &mut second {
                    seeded.follow(first);
                }
                filling = second;
            }
            drop((begun, linker));
            let uid = request.peer.uid;
            match &filling {
                Filling::Seeded(seeded, record) => {
                    tracing::info!(artifact = %seeded.artifact, version = %seeded.version, target = seeded.target, uid,
                        mode = %seeded.mode, reason = seeded.reason, files = seeded.files, bytes = seeded.bytes,
                        changed = seeded.changed, written = seeded.written, elapsed_ms = seeded.elapsed_ms, "filled");
                    record.iter().for_each(|record| shared.note_one_filled(record));
                }
                Filling::Receive(why) => tracing::info!(%artifact, version = %version.head().version,
                    target = request.target, uid, %why, "left to the client"),
            }
            shared.changed();
            drop(turn);
            Ok(filling)
        };
        self.tasks.spawn_blocking(work).await?
    }

    pub(super) fn take_out_if_damaged(&self, version: &Version, error: &FillError) {
        if let FillError::Seed(SeedError::StoreDamaged { path, what, .. }) = error {
            self.take_out_sometime(version, "seed", format!("{path}: {what}"));
        }
    }

    /// Takes a new look at the filled directories. Blocks.
    pub(super) fn look_at_filled(&self) {
        drop(self.seeder.filled());
        self.note_filled();
    }

    /// Takes up what is on record: the lock makes sure that nothing older is told over it.
    fn note_filled(&self) {
        let mut world = self.world();
        world.filled = self.seeder.known_filled();
    }

    /// A directory was filled. What stood at the same target before it, in its pod, goes about now: it is looked for in a
    /// moment, together with all that are filled until then.
    fn note_one_filled(self: &Arc<Self>, filled: &Filled) {
        self.note_filled();
        let first = {
            let mut replaced = self.fills.replaced();
            let none_yet = replaced.is_empty();
            replaced.insert(filled.target.clone());
            none_yet
        };
        if first {
            self.tasks.spawn(self.clone().look_for_replaced());
        }
    }

    async fn look_for_replaced(self: Arc<Self>) {
        tokio::select! {
            () = self.cancel.cancelled() => return,
            () = tokio::time::sleep(SETTLED) => {}
        }
        let targets = std::mem::take(&mut *self.fills.replaced());
        let shared = self.clone();
        let look = move || {
            if shared.seeder.look_at_filled(&targets) {
                shared.note_filled();
                shared.changed();
            }
        };
        // A look that fails is taken again within the minute.
        let _ = self.tasks.spawn_blocking(look).await;
    }

    /// The filled directories of an artifact (not all where there are very many), and those that are being filled, as the API tells them.
    pub(super) fn filled_states(&self, world: &World, name: &ArtifactName) -> Vec<SeedState> {
        let stand = world.filled.iter().filter(|filled| filled.artifact == *name).take(SHOWN).map(|filled| SeedState {
            by_handle: true,
            declared: false,
            target: filled.target.clone(),
            version: Some(filled.version.clone()),
            mode: Some(filled.mode),
            reason: filled.reason.clone(),
            state: State::Ready,
            progress: None,
        });
        let mut states: Vec<SeedState> = stand.collect();
        let fills = self.fills.lock();
        let under_way = fills.iter().filter(|fill| fill.artifact == *name);
        states.extend(under_way.map(|fill| SeedState {
            by_handle: true,
            declared: false,
            target: fill.target.clone(),
            version: None,
            mode: None,
            reason: None,
            state: State::Warming,
            progress: Some(SeedProgressState {
                entries: fill.progress.entries.load(Relaxed),
                total_entries: fill.progress.total_entries.load(Relaxed),
                bytes: fill.progress.bytes.load(Relaxed),
            }),
        }));
        states
    }
}

/// Adds the claims of the directories whose files are the store's own.
pub(super) fn claim_filled(claims: &mut Claims, filled: &[Filled], name: &ArtifactName, holding: &Holding) {
    let linked = filled.iter().filter(|filled| filled.artifact == *name && filled.mode == LinkMode::Hardlink);
    let mut by_version: BTreeMap<&VersionName, Vec<Box<str>>> = BTreeMap::new();
    for filled in linked.filter(|filled| holding.versions.contains_key(&filled.version)) {
        by_version.entry(&filled.version).or_default().push(filled.target.as_str().into());
    }
    for (version, targets) in by_version {
        claims.entry(version.clone()).or_default().push(Claim::Filled { targets });
    }
}
