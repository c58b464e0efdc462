//! The runner: carries the planner's steps out, each artifact once at a time. It holds no decisions of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::collect::House;
use super::counts::Counts;
use super::downloads::Downloads;
use super::filling::Fills;
use super::follow;
use super::linking::Linking;
use super::plan::{self, Moment, Plan, Step};
use super::repair;
use super::repairs::Repairs;
use super::scrub;
use super::seeding::UnderWay;
use super::state::{self, ArtifactState};
use super::tracked::Tracked;
use super::turns::Turns;
use super::vital::Vital;
use crate::acquire::Fetcher;
use crate::fs::RelPath;
use crate::intent::{Artifact, ArtifactName, Catalog, ScrubSettings};
use crate::seed::{Filled, Record, Renderer, Seeder};
use crate::store::{Limits, ManifestHead, Store};

/// Seeds carried out at once; more wait.
const SEEDS_AT_ONCE: usize = 8;
/// Looks at all targets before it is given up to see them while none is seeded.
const LOOKS: usize = 3;
/// Longest sleep: whatever was missed is found then.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// Between two rounds of keeping house,
const HOUSE_ROUND: Duration = Duration::from_secs(60);
/// and after one that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// What the runner works with.
#[derive(Debug)]
pub struct Parts {
    /// What the node holds.
    pub store: Arc<Store>,
    /// How bytes come.
    pub fetcher: Fetcher,
    /// How targets are seeded.
    pub seeder: Arc<Seeder>,
    /// How files are rendered into them.
    pub renderer: Renderer,
    /// What operators want.
    pub catalog: Catalog,
    /// What was seeded where.
    pub records: Vec<Record>,
    /// Directories that were filled for peers.
    pub filled: Vec<Filled>,
    /// Downloads at once.
    pub concurrency: usize,
    /// How what is held is checked.
    pub scrub: ScrubSettings,
    /// Damaged versions that an earlier run did not have again.
    pub repairs: Vec<ManifestHead>,
    /// The room that the store may take.
    pub limits: Limits,
}

/// The running reconciler. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reconciler {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Arc<Store>,
    pub(super) fetcher: Fetcher,
    pub(super) seeder: Arc<Seeder>,
    pub(super) renderer: Renderer,
    pub(super) downloads: Arc<Downloads>,
    pub(super) turns: Turns,
    pub(super) under_way: UnderWay,
    pub(super) linking: Linking,
    pub(super) fills: Fills,
    pub(super) house: House,
    pub(super) cancel: CancellationToken,
    pub(super) started: Instant,
    /// One acquisition of an artifact at a time uses its staging directory, also while one that was given up ends.
    pub(super) staging: Mutex<BTreeMap<ArtifactName, Arc<tokio::sync::Mutex<()>>>>,
    /// One pin at a time is made, with its switch, or taken back; taken on blocking threads only.
    pub(super) pinning: Mutex<()>,
    pub(super) counts: Counts,
    pub(super) tasks: TaskTracker,
    world: Mutex<World>,
    wake: Notify,
    changes: watch::Sender<u64>,
}

/// What the runner knows: changed only under its lock, which is never held across a wait.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) catalog: Catalog,
    /// What was seeded where, as it was last looked at.
    pub(super) records: Vec<Record>,
    /// How many seedings were noted there.
    pub(super) seeded: u64,
    /// Directories that were filled for peers, as they were last looked at.
    pub(super) filled: Vec<Filled>,
    pub(super) tracked: BTreeMap<ArtifactName, Tracked>,
    pub(super) repairs: Repairs,
}

impl Reconciler {
    /// Starts reconciling; every task ends when `cancel` is.
    pub fn start(parts: Parts, vital: &Vital, cancel: CancellationToken) -> Self {
        let shared = Arc::new(Shared {
            store: parts.store,
            seeder: parts.seeder,
            renderer: parts.renderer,
            downloads: Arc::new(Downloads::new(parts.concurrency, parts.fetcher.min_throughput())),
            fetcher: parts.fetcher,
            turns: Turns::new(SEEDS_AT_ONCE),
            under_way: UnderWay::default(),
            linking: Linking::default(),
            fills: Fills::default(),
            house: House::new(parts.limits),
            cancel,
            started: Instant::now(),
            staging: Mutex::default(),
            pinning: Mutex::default(),
            counts: Counts::default(),
            tasks: vital.tasks().clone(),
            world: Mutex::new(World {
                records: parts.records,
                filled: parts.filled,
                repairs: Repairs::of(parts.repairs),
                ..World::default()
            }),
            wake: Notify::new(),
            changes: watch::Sender::new(0),
        });
        let reconciler = Self { shared: shared.clone() };
        reconciler.set_catalog(parts.catalog);
        vital.spawn("reconcile", reconcile(shared.clone()));
        vital.spawn("keep house", keep_house(shared.clone()));
        vital.spawn("follow targets", follow::watch(shared.clone()));
        vital.spawn("note seeds", follow::note_seeds(shared.clone()));
        vital.spawn("repair", repair::attend(shared.clone()));
        vital.spawn("scrub", scrub::run(shared, parts.scrub));
        reconciler
    }

    /// Takes a new catalog as what operators want; false when it says what the last one did. Steps that follow a document
    /// no longer there are given up.
    pub fn set_catalog(&self, catalog: Catalog) -> bool {
        let mut world = self.shared.world();
        let catalog = Catalog::succeed(&world.catalog, catalog);
        if catalog.says_the_same(&world.catalog) {
            return false;
        }
        follow::tell_left(&world.catalog, &catalog);
        world.catalog = catalog;
        let World { catalog, tracked, .. } = &mut *world;
        let is_as_before = |(name, tracked): &(ArtifactName, Tracked)| {
            catalog.artifacts.get(name).is_some_and(|artifact| artifact.generation == tracked.generation)
        };
        let (kept, changed): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(tracked).into_iter().partition(is_as_before);
        *tracked = kept;
        changed.values().for_each(|tracked| tracked.cancel.cancel());
        self.shared.house.shortages.keep(&catalog.artifacts.keys().collect());
        for (name, artifact) in &catalog.artifacts {
            tracked.entry(name.clone()).or_insert_with(|| {
                let (generation, cancel) = (artifact.generation.clone(), self.shared.cancel.child_token());
                match changed.get(name) {
                    Some(before) => Tracked::succeed(before, generation, cancel),
                    None => Tracked::new(generation, cancel),
                }
            });
        }
        drop(world);
        self.shared.house.due.notify_one();
        self.shared.changed();
        true
    }

    /// Registers what this room counts.
    pub fn register(&self, registry: &mut Registry) {
        self.shared.counts.register(registry);
    }

    /// What operators want, as it was last taken.
    pub fn catalog(&self) -> Catalog {
        self.shared.world().catalog.clone()
    }

    /// The store it works on, for readers.
    pub fn store(&self) -> &Arc<Store> {
        &self.shared.store
    }

    /// Every artifact that is declared or on the node.
    pub fn states(&self) -> Vec<ArtifactState> {
        let inventory = self.shared.store.inventory();
        let world = self.shared.world();
        let declared = world.catalog.artifacts.keys();
        let refused = world.catalog.refused.iter().filter_map(|refused| refused.name.as_ref());
        let names: std::collections::BTreeSet<_> = inventory.keys().chain(declared).chain(refused).collect();
        names.into_iter().map(|name| self.shared.view(&world, name)).collect()
    }

    /// One of them.
    pub fn state(&self, name: &ArtifactName) -> Option<ArtifactState> {
        let world = self.shared.world();
        let known = world.catalog.artifacts.contains_key(name)
            || world.catalog.refusal_of(name).is_some()
            || !self.shared.store.holding(name).versions.is_empty();
        known.then(|| self.shared.view(&world, name))
    }

    /// Is cancelled when the daemon stops: who waits on it holds nothing up.
    pub fn stopping(&self) -> CancellationToken {
        self.shared.cancel.clone()
    }

    /// Counts up with every change of any state.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }
}

impl Shared {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        // Plain data, changed field by field: whoever panicked left it usable.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Moment {
        self.started.elapsed()
    }

    /// Something changed: whoever waits looks again, and so does the planner.
    pub(super) fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
        self.wake.notify_one();
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn view(&self, world: &World, name: &ArtifactName) -> ArtifactState {
        let holding = self.store.holding(name);
        let seen = state::Seen {
            artifact: world.catalog.artifacts.get(name).map(|artifact| &**artifact),
            refusal: world.catalog.refusal_of(name),
            tracked: world.tracked.get(name),
            holding: &holding,
            fates: &self.fates_of(world, name, &holding),
            leases: self.store.leases_on(name),
            node_pin: self.store.pin_of(name),
            records: &world.records,
            seeding: &self.under_way.of(name),
            now: self.now(),
            wall_clock: Timestamp::now(),
        };
        let mut state = state::view(name, &seen);
        state.seeds.extend(self.filled_states(world, name));
        state.last_error = state.last_error.or_else(|| world.repairs.error(name));
        state
    }

    /// Takes a new look at the targets: a declared one that stands no more is seeded again. Where one was seeded meanwhile it
    /// may have been seen as it was before, so that all are looked at again. Blocks.
    pub(super) fn look_at_records(&self) {
        // On a node that never rests what is known stays: of what was seeded it is as new as can be.
        for _ in 0..LOOKS {
            let seeded = self.world().seeded;
            if self.note_records(self.seeder.records(), seeded) {
                return;
            }
        }
    }

    /// False where something was seeded since there were so many seedings.
    fn note_records(&self, records: Vec<Record>, seeded: u64) -> bool {
        let mut world = self.world();
        if world.seeded != seeded {
            return false;
        }
        if world.records == records {
            return true;
        }
        let World { tracked, .. } = &mut *world;
        for (name, tracked) in tracked {
            let stands = |target: &RelPath| records.iter().any(|r| r.target == *target && r.artifact == *name);
            let gone =
                tracked.facts.seeds.iter_mut().filter(|(target, facts)| facts.holds.is_some() && !stands(target));
            gone.for_each(|(_, facts)| facts.holds = None);
        }
        world.records = records;
        drop(world);
        self.changed();
        true
    }

    /// Changes what is known of an artifact, unless its document changed since the step began.
    pub(super) fn update(&self, artifact: &Artifact, change: impl FnOnce(&mut Tracked)) {
        if let Some(tracked) = self.world().tracked.get_mut(&artifact.name)
            && tracked.generation == artifact.generation
        {
            change(tracked);
        }
        self.changed();
    }
}

async fn reconcile(shared: Arc<Shared>) {
    loop {
        let (begun, wake_at) = plan_round(&shared);
        for Begun { step, artifact, cancel } in begun {
            shared.tasks.spawn(shared.clone().carry_out(step, artifact, cancel));
        }
        let pause = wake_at.map_or(LONGEST_SLEEP, |at| at.saturating_sub(shared.now()).min(LONGEST_SLEEP));
        tokio::select! {
            () = shared.cancel.cancelled() => return,
            () = shared.wake.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// A step about to be carried out.
struct Begun {
    step: Step,
    artifact: Arc<Artifact>,
    cancel: CancellationToken,
}

/// Plans every declared artifact and marks what is about to be done as busy; also when to plan again at the latest.
fn plan_round(shared: &Shared) -> (Vec<Begun>, Option<Moment>) {
    let now = shared.now();
    let mut world = shared.world();
    let World { catalog, tracked, repairs, .. } = &mut *world;
    let mut begun = Vec::new();
    let mut next: Option<Moment> = None;
    for (name, artifact) in &catalog.artifacts {
        let Some(tracked) = tracked.get_mut(name) else { continue };
        let (holding, node_pin) = (shared.store.holding(name), shared.store.pin_of(name));
        let (repair, again) = repairs.plan(name, now);
        if let Some(step) = repair.filter(|_| !tracked.facts.busy) {
            tracked.begin(&step);
            begun.push(Begun { step, artifact: artifact.clone(), cancel: tracked.step.clone() });
        }
        tracked.facts.repairing = repairs.is_hopeful(name);
        let Plan { steps: planned, wake_at } = plan::plan(artifact, node_pin.as_ref(), &tracked.facts, &holding, now);
        next = [next, again, wake_at].into_iter().flatten().min();
        if !tracked.facts.switching && !planned.iter().any(|step| matches!(step, Step::Switch { .. })) {
            // What could not be switched to is not wanted any more.
            tracked.not_switched = None;
        }
        for step in planned {
            tracked.begin(&step);
            begun.push(Begun { step, artifact: artifact.clone(), cancel: tracked.step.clone() });
        }
    }
    (begun, next)
}

/// From time to time, and when something may have become collectable: looks whether seeded targets still stand, and
/// removes what retention and readers have let go of.
async fn keep_house(shared: Arc<Shared>) {
    let mut pause = HOUSE_ROUND;
    loop {
        tokio::select! {
            () = shared.cancel.cancelled() => return,
            () = shared.house.due.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
        let keeping = shared.clone();
        pause = HOUSE_ROUND;
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || keeping.collect()).await {
            tracing::warn!(error = crate::intent::error_chain(&error), "not all was collected; tried again soon");
            pause = AFTER_FAILURE;
        }
        // Leases end and versions age by themselves.
        shared.changed();
    }
}
