//! Declared targets are followed: what is done to them by hand, by somebody's `rm`, or to the files that their rendered
//! files are made from, is noticed, and the planner brings them back to what is declared. One that does not answer holds up none
//! of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::plan::SeedFacts;
use super::run::{Shared, World};
use crate::fs::RelPath;
use crate::intent::{Artifact, ArtifactName, Catalog, Digest, SeedTarget};
use crate::seed::{LOOK, Record, TimedLook};

/// How often declared targets, and the files that their values are in, are looked at.
const ROUND: Duration = Duration::from_secs(2);

/// A declared target, and the document that says so.
#[derive(Debug, Clone)]
pub(super) struct Declared {
    artifact: Arc<Artifact>,
    pub(super) seed: SeedTarget,
}

/// What a round looks at.
struct Watched {
    declared: Declared,
    values: Option<Digest>,
}

/// The looks at each target: one that is late is the only one there.
type Looks = BTreeMap<RelPath, Arc<TimedLook>>;

/// What it found.
struct Found {
    stands: bool,
    values: Option<Digest>,
}

impl Shared {
    /// How an artifact's document declares a target, if it does.
    pub(super) fn declared(&self, artifact: &ArtifactName, target: &RelPath) -> Option<Declared> {
        let artifact = self.world().catalog.artifacts.get(artifact)?.clone();
        let seed = artifact.seeds.iter().find(|seed| seed.target == *target)?.clone();
        Some(Declared { artifact, seed })
    }

    /// Takes note of a target just seeded, with the print of the values that its files were rendered from. One seeded by
    /// hand at another version than the current one does not hold what is declared.
    pub(super) fn note_seeded(&self, record: Record, declared: Option<Declared>, values: Option<Digest>) {
        if let Some(declared) = declared {
            let holds = Some((record.version.clone(), record.tree_digest.clone()));
            self.change(&declared, |facts| {
                (facts.holds, facts.values, facts.stale) = (holds, values, false);
                facts.succeeded();
            });
        }
        let mut world = self.world();
        world.seeded += 1;
        match world.records.iter_mut().find(|known| known.target == record.target) {
            Some(known) => *known = record,
            None => world.records.push(record),
        }
    }

    /// Changes what is known of a declared target, unless its document changed meanwhile.
    fn change(&self, declared: &Declared, change: impl FnOnce(&mut SeedFacts)) {
        let Declared { artifact, seed } = declared;
        if let Some(tracked) = self.world().tracked.get_mut(&artifact.name)
            && tracked.generation == artifact.generation
        {
            change(tracked.facts.seeds.entry(seed.target.clone()).or_default());
        }
    }

    /// The declared targets that hold something, and are not being seeded.
    fn watched(&self) -> Vec<Watched> {
        let world = self.world();
        let World { catalog, tracked, .. } = &*world;
        let mut watched = Vec::new();
        for (name, artifact) in &catalog.artifacts {
            let Some(tracked) = tracked.get(name) else { continue };
            for seed in &artifact.seeds {
                let facts = tracked.facts.seeds.get(&seed.target);
                if let Some(facts) = facts.filter(|facts| facts.holds.is_some() && !facts.busy && !facts.stale) {
                    let declared = Declared { artifact: artifact.clone(), seed: seed.clone() };
                    watched.push(Watched { declared, values: facts.values.clone() });
                }
            }
        }
        watched
    }

    fn look_at(&self, Declared { artifact, seed }: &Declared) -> Found {
        let record = self.seeder.record(&seed.target);
        let stands = record.is_some_and(|record| record.artifact == artifact.name);
        Found { stands, values: self.renderer.values_print(seed) }
    }

    /// One round. What does not answer in time stays as it is known. Blocks.
    fn look_at_declared(self: &Arc<Self>, looks: &mut Looks) {
        let mut changed = false;
        let all = self.watched();
        let targets: BTreeSet<&RelPath> = all.iter().map(|watched| &watched.declared.seed.target).collect();
        looks.retain(|target, looking| targets.contains(target) || looking.is_under_way());
        for watched in &all {
            if self.cancel.is_cancelled() {
                return;
            }
            let looking = looks.entry(watched.declared.seed.target.clone()).or_default();
            let (shared, declared) = (self.clone(), watched.declared.clone());
            let Some(found) = looking.within(LOOK, move || shared.look_at(&declared)) else { continue };
            let Declared { artifact, seed } = &watched.declared;
            let (artifact, target) = (&artifact.name, &seed.target);
            if !found.stands {
                tracing::warn!(%artifact, %target, "declared target does not stand any more; seeded again");
                self.change(&watched.declared, |facts| {
                    if !facts.busy {
                        facts.holds = None;
                    }
                });
            } else if found.values != watched.values {
                tracing::info!(%artifact, %target, "values changed; rendered again");
                self.change(&watched.declared, |facts| facts.stale |= facts.values == watched.values);
            } else {
                continue;
            }
            changed = true;
        }
        if changed {
            self.changed();
        }
    }
}

/// Looks at declared targets, round by round.
pub(super) async fn watch(shared: Arc<Shared>) {
    let mut looks = Looks::default();
    while round(&shared).await {
        let looking = shared.clone();
        let look = move || {
            looking.look_at_declared(&mut looks);
            looks
        };
        // A panic is told by its hook; the next round is another try.
        looks = tokio::task::spawn_blocking(look).await.unwrap_or_default();
    }
}

/// Writes down what was seeded, round by round: no target is asked for that.
pub(super) async fn note_seeds(shared: Arc<Shared>) {
    while round(&shared).await {
        let noting = shared.clone();
        // As above.
        let _ = tokio::task::spawn_blocking(move || noting.seeder.note_seeds()).await;
    }
}

/// Waits for the next round; false when the daemon ends.
async fn round(shared: &Shared) -> bool {
    tokio::select! {
        () = shared.cancel.cancelled() => false,
        () = tokio::time::sleep(ROUND) => true,
    }
}

/// Tells of targets that `next` does not declare any more: they stay as they are.
pub(super) fn tell_left(last: &Catalog, next: &Catalog) {
    for (artifact, seed) in
        last.artifacts.values().flat_map(|artifact| artifact.seeds.iter().map(move |s| (artifact, s)))
    {
        if !next.artifacts.values().flat_map(|other| &other.seeds).any(|other| other.target == seed.target) {
            tracing::info!(artifact = %artifact.name, target = %seed.target,
                "target not declared any more: it stays as it is and is not followed");
        }
    }
}
