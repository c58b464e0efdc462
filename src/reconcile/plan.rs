//! The planner: what to do next, from what operators want and what is known. Pure: no clock, no disk, no socket.
//!
//! Moments are counted from the daemon's start by the monotonic clock, so that a wall clock that jumps moves nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::acquire::Resolution;
use crate::fs::RelPath;
use crate::intent::{Algorithm, Artifact, ArtifactName, Digest, VersionName, VersionWish, recipe_digest};
use crate::store::{Holding, ManifestHead};

/// Time since the daemon started.
pub(super) type Moment = Duration;

/// What is known of one declared artifact besides what the store holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// A step of it is being carried out.
    pub(super) busy: bool,
    /// `current` is being switched.
    pub(super) switching: bool,
    /// Resolved, and not on the node yet.
    pub(super) pending: Option<Resolution>,
    /// The newest version that the source named.
    pub(super) latest: Option<VersionName>,
    /// When the source is to be asked again; `None` before the first time.
    pub(super) next_ask: Option<Moment>,
    /// Somebody wants the source asked now.
    pub(super) asked: bool,
    /// Tries that failed since the last success.
    pub(super) failures: u32,
    /// Declared targets.
    pub(super) seeds: BTreeMap<RelPath, SeedFacts>,
}

/// What is known of one declared target.
#[derive(Debug, Clone, Default)]
pub(super) struct SeedFacts {
    /// It is being seeded.
    pub(super) busy: bool,
    /// The tree that it was seen to hold.
    pub(super) holds: Option<(VersionName, Digest)>,
    /// Tries that failed since the last success.
    pub(super) failures: u32,
    /// When to try again after a failure.
    pub(super) next_try: Option<Moment>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// Ask the source what this wish is now.
    Resolve {
        /// Of which artifact.
        artifact: ArtifactName,
        /// What is wanted.
        wish: VersionWish,
    },
    /// Fetch what was resolved.
    Acquire {
        /// Of which artifact.
        artifact: ArtifactName,
        /// From where.
        resolution: Box<Resolution>,
    },
    /// Make a version on the node the current one.
    Switch {
        /// Of which artifact.
        artifact: ArtifactName,
        /// To which version.
        version: VersionName,
    },
    /// Make a declared target hold the current version.
    Seed {
        /// Of which artifact.
        artifact: ArtifactName,
        /// Which version.
        version: VersionName,
        /// Which target.
        target: RelPath,
    },
}

/// What to do now, and when to plan again if nothing happens before.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Plan {
    /// In the order in which they are to be started.
    pub(super) steps: Vec<Step>,
    /// The next moment at which something becomes due.
    pub(super) wake_at: Option<Moment>,
}

/// What an artifact's operators want to be current: the document's pin, else its version.
pub(super) fn wish(artifact: &Artifact) -> VersionWish {
    artifact.pin.clone().map_or_else(|| artifact.version.clone(), VersionWish::Exact)
}

/// Plans one artifact.
pub(super) fn plan(artifact: &Artifact, facts: &Facts, holding: &Holding, now: Moment) -> Plan {
    let mut plan = Plan::default();
    plan_source(artifact, facts, holding, now, &mut plan);
    if facts.switching {
        return plan;
    }
    let wish = wish(artifact);
    if let Some(version) = choose_current(&wish, facts, holding)
        && holding.current.as_ref() != Some(version)
    {
        plan.steps.push(Step::Switch { artifact: artifact.name.clone(), version: version.clone() });
        // Seeds follow once the switch is made.
        return plan;
    }
    plan_seeds(artifact, facts, holding, now, &mut plan);
    plan
}

fn plan_source(artifact: &Artifact, facts: &Facts, holding: &Holding, now: Moment, plan: &mut Plan) {
    if facts.busy {
        return;
    }
    if let Some(resolution) = &facts.pending {
        let resolution = Box::new(resolution.clone());
        plan.steps.push(Step::Acquire { artifact: artifact.name.clone(), resolution });
        return;
    }
    let wish = wish(artifact);
    let recipe = recipe_digest(&artifact.unpack);
    let here = |version: &VersionName| {
        let head = holding.versions.get(version);
        head.is_some_and(|head| head.recipe == recipe && contradiction(&declared_digests(artifact), head).is_none())
    };
    let (missing, follows) = match &wish {
        VersionWish::Exact(version) => (!here(version), false),
        VersionWish::Latest => (facts.latest.as_ref().is_none_or(|latest| !here(latest)), true),
    };
    if !(missing || follows || facts.asked) {
        return;
    }
    let due = match facts.next_ask {
        _ if facts.asked => now,
        None => now,
        // Gone since it was last seen whole: no reason to wait for the next refresh.
        Some(_) if missing && facts.failures == 0 => now,
        Some(at) => at,
    };
    if due <= now {
        plan.steps.push(Step::Resolve { artifact: artifact.name.clone(), wish });
    } else {
        wake(plan, due);
    }
}

fn plan_seeds(artifact: &Artifact, facts: &Facts, holding: &Holding, now: Moment, plan: &mut Plan) {
    let Some(head) = holding.current.as_ref().and_then(|current| holding.versions.get(current)) else { return };
    let unknown = SeedFacts::default();
    for seed in &artifact.seeds {
        let facts = facts.seeds.get(&seed.target).unwrap_or(&unknown);
        let holds = facts.holds.as_ref();
        if facts.busy || holds.is_some_and(|(version, tree)| *version == head.version && *tree == head.tree_digest) {
            continue;
        }
        match facts.next_try {
            Some(at) if at > now => wake(plan, at),
            _ => plan.steps.push(Step::Seed {
                artifact: artifact.name.clone(),
                version: head.version.clone(),
                target: seed.target.clone(),
            }),
        }
    }
}

fn wake(plan: &mut Plan, at: Moment) {
    plan.wake_at = Some(plan.wake_at.map_or(at, |earlier| earlier.min(at)));
}

/// The version that shall be current: what is wished where it is on the node, else the last good one (invariant 6).
fn choose_current<'a>(wish: &'a VersionWish, facts: &'a Facts, holding: &'a Holding) -> Option<&'a VersionName> {
    let wished = match wish {
        VersionWish::Exact(version) => Some(version),
        VersionWish::Latest => facts.latest.as_ref(),
    };
    wished
        .filter(|version| holding.versions.contains_key(version))
        .or(holding.current.as_ref())
        .or_else(|| holding.newest_first().first().map(|head| &head.version))
}

/// What a resolution means for a node that holds these versions.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Judgement {
    /// It is here already.
    Here(VersionName),
    /// It is to be fetched.
    Fetch,
    /// The source names other bytes for a version that is here.
    OtherBytes {
        /// Which version.
        version: VersionName,
        /// What the source demands now.
        found: Digest,
        /// What is here.
        held: Digest,
    },
}

/// Judges a resolution.
pub(super) fn judge(artifact: &Artifact, resolution: &Resolution, holding: &Holding) -> Judgement {
    let recipe = recipe_digest(&artifact.unpack);
    let Some(head) = holding.newest_first().into_iter().find(|head| resolution.names(head)) else {
        return Judgement::Fetch;
    };
    if let Some((found, held)) = contradiction(&resolution.demanded, head) {
        return Judgement::OtherBytes { version: head.version.clone(), found, held };
    }
    if head.recipe == recipe { Judgement::Here(head.version.clone()) } else { Judgement::Fetch }
}

/// The digests that the document itself demands.
fn declared_digests(artifact: &Artifact) -> Vec<Digest> {
    artifact.sha256.iter().chain(&artifact.sha512).cloned().collect()
}

/// A demanded digest and the one held, where they are of one algorithm and differ.
fn contradiction(demanded: &[Digest], head: &ManifestHead) -> Option<(Digest, Digest)> {
    let held = |algorithm: Algorithm| {
        let recorded = head.archive.verified_by.iter().chain(std::iter::once(&head.archive.digest));
        recorded.into_iter().find(|digest| digest.algorithm() == algorithm)
    };
    demanded.iter().find_map(|demanded| {
        let held = held(demanded.algorithm())?;
        (held != demanded).then(|| (demanded.clone(), held.clone()))
    })
}

/// What kind of failure is backed off from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failing {
    /// The network, the origin or the disk: likely to pass.
    Passing,
    /// What the bytes are: asked again, but each try costs a download.
    Content,
}

/// How long to wait after so many failures in a row; `jitter` is between 0 and 1.
pub(super) fn back_off(failing: Failing, failures: u32, jitter: f64) -> Duration {
    let (base, cap) = match failing {
        Failing::Passing => (Duration::from_secs(1), Duration::from_secs(30)),
        Failing::Content => (Duration::from_secs(15), Duration::from_secs(3600)),
    };
    let full = base.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1).min(16))).min(cap);
    // Half to all of it: nodes that failed together do not come back together.
    full.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

/// When a followed source is asked again: its interval, a tenth sooner or later.
pub(super) fn next_refresh(interval: Duration, jitter: f64) -> Duration {
    interval.mul_f64(0.9 + 0.2 * jitter.clamp(0.0, 1.0))
}
