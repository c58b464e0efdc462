//! The planner: what to do next, from what operators want and what is known. Pure: no clock, no disk, no socket.
//!
//! Moments are counted from the daemon's start by the monotonic clock, so that a wall clock that jumps moves nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
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
    /// Resolved, and not on the node yet; with the wish that it answers.
    pub(super) pending: Option<(VersionWish, Resolution)>,
    /// The newest version that the source named.
    pub(super) latest: Option<VersionName>,
    /// When the source is to be asked again; `None` before the first time.
    pub(super) next_ask: Option<Moment>,
    /// Somebody wants the source asked now.
    pub(super) asked: bool,
    /// Tries that failed since the last success.
    pub(super) failures: u32,
    /// A damaged version is being had again: targets wait for it rather than go back to an older one.
    pub(super) repairing: bool,
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
    /// Why the last one did.
    pub(super) error: Option<String>,
    /// When to try again after a failure.
    pub(super) next_try: Option<Moment>,
    /// What its rendered files are rendered from has changed.
    pub(super) stale: bool,
    /// A print of the values that they were rendered with last.
    pub(super) values: Option<Digest>,
}

impl SeedFacts {
    /// It was seeded.
    pub(super) fn succeeded(&mut self) {
        (self.failures, self.error, self.next_try) = (0, None, None);
    }

    /// Whether it holds this very tree.
    pub(super) fn has(&self, head: &ManifestHead) -> bool {
        self.holds.as_ref().is_some_and(|(version, tree)| (version, tree) == (&head.version, &head.tree_digest))
    }
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
        /// What was asked for.
        wish: VersionWish,
        /// From where.
        resolution: Box<Resolution>,
    },
    /// Have a damaged version again.
    Repair {
        /// Of which artifact.
        artifact: ArtifactName,
        /// What it was.
        head: Arc<ManifestHead>,
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
        /// It holds the version, and only its rendered files are to be made anew.
        only_rendered: bool,
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

/// What an artifact's operators want to be current: the document's pin, else the node's, else the document's version.
pub(super) fn wish(artifact: &Artifact, node_pin: Option<&VersionName>) -> VersionWish {
    let pin = artifact.pin.as_ref().or(node_pin);
    pin.map_or_else(|| artifact.version.clone(), |pin| VersionWish::Exact(pin.clone()))
}

/// Plans one artifact.
pub(super) fn plan(
    artifact: &Artifact,
    node_pin: Option<&VersionName>,
    facts: &Facts,
    holding: &Holding,
    now: Moment,
) -> Plan {
    let mut plan = Plan::default();
    let wish = wish(artifact, node_pin);
    plan_source(artifact, &wish, facts, holding, now, &mut plan);
    if facts.switching {
        return plan;
    }
    if let Some(version) = choose_current(&wish, facts, holding)
        && holding.current.as_ref() != Some(version)
    {
        plan.steps.push(Step::Switch { artifact: artifact.name.clone(), version: version.clone() });
        // Seeds follow once the switch is made.
        return plan;
    }
    plan_seeds(artifact, wished(&wish, facts), facts, holding, now, &mut plan);
    plan
}

fn plan_source(
    artifact: &Artifact,
    wish: &VersionWish,
    facts: &Facts,
    holding: &Holding,
    now: Moment,
    plan: &mut Plan,
) {
    if facts.busy {
        return;
    }
    // What was resolved for another wish is not fetched any more.
    if let Some((_, resolution)) = facts.pending.as_ref().filter(|(answered, _)| answered == wish) {
        let (wish, resolution) = (wish.clone(), Box::new(resolution.clone()));
        plan.steps.push(Step::Acquire { artifact: artifact.name.clone(), wish, resolution });
        return;
    }
    let recipe = recipe_digest(&artifact.unpack);
    let here = |version: &VersionName| {
        let head = holding.versions.get(version);
        head.is_some_and(|head| head.recipe == recipe && contradiction(&declared_digests(artifact), head).is_none())
    };
    let (missing, follows) = match wish {
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
        // A pinned version that is here is not in question: what is asked is what would be followed.
        let wish = if missing { wish } else { &artifact.version };
        plan.steps.push(Step::Resolve { artifact: artifact.name.clone(), wish: wish.clone() });
    } else {
        wake(plan, due);
    }
}

fn plan_seeds(
    artifact: &Artifact,
    wished: Option<&VersionName>,
    facts: &Facts,
    holding: &Holding,
    now: Moment,
    plan: &mut Plan,
) {
    // What is current may be an older one, for as long as it takes to have the wished one again.
    if facts.repairing && (wished.is_none() || wished != holding.current.as_ref()) {
        return;
    }
    let Some(head) = holding.current.as_ref().and_then(|current| holding.versions.get(current)) else { return };
    let unknown = SeedFacts::default();
    for seed in &artifact.seeds {
        let facts = facts.seeds.get(&seed.target).unwrap_or(&unknown);
        let holds = facts.has(head);
        if facts.busy || (holds && !facts.stale) {
            continue;
        }
        match facts.next_try {
            Some(at) if at > now => wake(plan, at),
            _ => plan.steps.push(Step::Seed {
                artifact: artifact.name.clone(),
                version: head.version.clone(),
                target: seed.target.clone(),
                only_rendered: holds,
            }),
        }
    }
}

fn wake(plan: &mut Plan, at: Moment) {
    plan.wake_at = Some(plan.wake_at.map_or(at, |earlier| earlier.min(at)));
}

/// What is wished, where it is known which version that is.
fn wished<'a>(wish: &'a VersionWish, facts: &'a Facts) -> Option<&'a VersionName> {
    match wish {
        VersionWish::Exact(version) => Some(version),
        VersionWish::Latest => facts.latest.as_ref(),
    }
}

/// The version that shall be current: what is wished where it is on the node, else the last good one (invariant 6).
fn choose_current<'a>(wish: &'a VersionWish, facts: &'a Facts, holding: &'a Holding) -> Option<&'a VersionName> {
    wished(wish, facts)
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

/// Judges a resolution by what is on the node, and by what is `damaged` and to be had again: that has its bytes, too.
pub(super) fn judge<'a>(
    artifact: &Artifact,
    resolution: &Resolution,
    holding: &Holding,
    mut damaged: impl Iterator<Item = &'a Arc<ManifestHead>>,
) -> Judgement {
    let recipe = recipe_digest(&artifact.unpack);
    let here = holding.newest_first().into_iter().find(|head| resolution.names(head));
    let Some(head) = here.or_else(|| damaged.find(|head| resolution.names(head))) else {
        return Judgement::Fetch;
    };
    if let Some((found, held)) = contradiction(&resolution.demanded, head) {
        return Judgement::OtherBytes { version: head.version.clone(), found, held };
    }
    if here.is_some() && head.recipe == recipe { Judgement::Here(head.version.clone()) } else { Judgement::Fetch }
}

/// The digests that the document itself demands.
fn declared_digests(artifact: &Artifact) -> Vec<Digest> {
    artifact.sha256.iter().chain(&artifact.sha512).cloned().collect()
}

/// A demanded digest and the one held, where they are of one algorithm and differ.
pub(super) fn contradiction(demanded: &[Digest], head: &ManifestHead) -> Option<(Digest, Digest)> {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::acquire::Naming;
    use crate::intent::{FileSource, Interval, SeedTarget, Source, Spec};
    use crate::store::ResolvedFrom;

    const HOUR: Moment = Duration::from_secs(3600);

    fn v(name: &str) -> VersionName {
        name.parse().unwrap()
    }

    fn artifact(version: &str, pin: Option<&str>) -> Artifact {
        let source = Source::File(FileSource { path: "/x".into(), latest: None, checksums: None });
        let seeds = vec![SeedTarget {
            target: "t".parse().unwrap(),
            link: Default::default(),
            swap: Default::default(),
            render: vec![],
            values: Default::default(),
        }];
        let spec = Spec {
            source,
            version: version.to_owned().try_into().unwrap(),
            sha256: None,
            sha512: None,
            pin: pin.map(v),
            refresh: Interval(HOUR),
            unpack: Default::default(),
            keep_archive: false,
            retain: Default::default(),
            seeds,
        };
        Artifact { name: "os".parse().unwrap(), spec, generation: Digest::sha256(b"g"), file: "/d.yaml".into() }
    }

    fn head(version: &str, published: i64, recipe: Digest) -> Arc<ManifestHead> {
        let published_at = Timestamp::from_second(published).unwrap();
        Arc::new(ManifestHead { published_at, recipe, ..ManifestHead::sample("os", version) })
    }

    fn holding(versions: &[&str], current: Option<&str>) -> Holding {
        let recipe = recipe_digest(&Default::default());
        let heads = versions.iter().zip(1..).map(|(name, at)| (v(name), head(name, at, recipe.clone())));
        Holding { versions: heads.collect(), current: current.map(v) }
    }

    fn resolution(version: &str, demanded: Vec<Digest>) -> Resolution {
        Resolution {
            naming: Naming::Known(v(version)),
            locations: vec![],
            demanded,
            resolved_from: ResolvedFrom::default(),
            file_name: "data".into(),
        }
    }

    fn seeded(version: &str) -> BTreeMap<RelPath, SeedFacts> {
        let holds = Some((v(version), Digest::sha256(version.as_bytes())));
        BTreeMap::from([("t".parse().unwrap(), SeedFacts { holds, ..SeedFacts::default() })])
    }

    fn settled(latest: &str) -> Facts {
        Facts { latest: Some(v(latest)), next_ask: Some(HOUR), seeds: seeded(latest), ..Facts::default() }
    }

    fn names(plan: &Plan) -> Vec<String> {
        let name = |step: &Step| match step {
            Step::Resolve { wish, .. } => format!("resolve {}", String::from(wish.clone())),
            Step::Acquire { resolution, .. } => format!("acquire {}", resolution.version().unwrap()),
            Step::Repair { head, .. } => format!("repair {}", head.version),
            Step::Switch { version, .. } => format!("switch {version}"),
            Step::Seed { version, target, only_rendered: false, .. } => format!("seed {target} {version}"),
            Step::Seed { version, target, .. } => format!("render {target} {version}"),
        };
        plan.steps.iter().map(name).collect()
    }

    fn planned(artifact: &Artifact, facts: &Facts, holding: &Holding, now: Moment) -> Vec<String> {
        names(&plan(artifact, None, facts, holding, now))
    }

    #[test]
    fn a_cold_node_asks_fetches_switches_and_seeds_in_that_order() {
        let follows = artifact("latest", None);
        let now = Duration::ZERO;
        assert_eq!(planned(&follows, &Facts::default(), &Holding::default(), now), ["resolve latest"]);
        let pending = Facts { pending: Some((VersionWish::Latest, resolution("2", vec![]))), ..Facts::default() };
        assert_eq!(planned(&follows, &pending, &Holding::default(), now), ["acquire 2"]);
        let fetched = Facts { seeds: BTreeMap::new(), ..settled("2") };
        assert_eq!(planned(&follows, &fetched, &holding(&["2"], None), now), ["switch 2"]);
        assert_eq!(planned(&follows, &fetched, &holding(&["2"], Some("2")), now), ["seed t 2"]);
        let repairing = Facts { repairing: true, busy: true, ..fetched };
        assert_eq!(planned(&follows, &repairing, &holding(&["1"], Some("1")), now), [""; 0], "of the wished one");
        assert_eq!(planned(&follows, &repairing, &holding(&["2"], Some("2")), now), ["seed t 2"], "of another");
        let unknown = Facts { latest: None, ..repairing };
        assert_eq!(planned(&follows, &unknown, &holding(&["2"], Some("2")), now), [""; 0]);
        let mut stale = settled("2");
        stale.seeds.values_mut().for_each(|facts| facts.stale = true);
        assert_eq!(planned(&follows, &stale, &holding(&["2"], Some("2")), now), ["render t 2"]);
        stale.seeds.values_mut().for_each(|facts| facts.holds = None);
        assert_eq!(planned(&follows, &stale, &holding(&["2"], Some("2")), now), ["seed t 2"]);
        let rest = plan(&follows, None, &settled("2"), &holding(&["2"], Some("2")), now);
        assert_eq!((names(&rest).len(), rest.wake_at), (0, Some(HOUR)));
        assert_eq!(planned(&follows, &settled("2"), &holding(&["2"], Some("2")), HOUR), ["resolve latest"]);
    }

    #[test]
    fn a_failure_leaves_the_last_good_version_current_and_is_waited_out() {
        let follows = artifact("latest", None);
        let failed = Facts { failures: 3, next_ask: Some(HOUR), seeds: seeded("1"), ..Facts::default() };
        let rest = plan(&follows, None, &failed, &holding(&["1"], Some("1")), Duration::ZERO);
        assert_eq!((names(&rest).len(), rest.wake_at), (0, Some(HOUR)));
        let asked = Facts { asked: true, ..failed };
        assert_eq!(planned(&follows, &asked, &holding(&["1"], Some("1")), Duration::ZERO), ["resolve latest"]);
    }

    #[test]
    fn after_a_restart_with_the_origin_down_current_stays_or_is_the_newest() {
        let follows = artifact("latest", None);
        let down = Facts { failures: 1, next_ask: Some(HOUR), seeds: seeded("1"), ..Facts::default() };
        assert!(planned(&follows, &down, &holding(&["1", "2"], Some("1")), Duration::ZERO).is_empty());
        assert_eq!(planned(&follows, &down, &holding(&["1", "2"], None), Duration::ZERO), ["switch 2"]);
    }

    #[test]
    fn a_version_that_vanished_is_fetched_without_waiting_for_the_next_refresh() {
        for wanted in [artifact("latest", None), artifact("2", None)] {
            let steps = planned(&wanted, &settled("2"), &holding(&["1"], Some("1")), Duration::ZERO);
            assert_eq!(steps, [format!("resolve {}", String::from(wish(&wanted, None))), "seed t 1".into()]);
        }
    }

    #[test]
    fn a_pin_wins_and_one_that_is_not_here_leaves_current_alone() {
        let pinned = artifact("latest", Some("1"));
        let both = holding(&["1", "2"], Some("2"));
        assert_eq!(planned(&pinned, &settled("2"), &both, Duration::ZERO), ["switch 1"]);
        let absent = artifact("latest", Some("0"));
        assert_eq!(planned(&absent, &settled("2"), &both, Duration::ZERO), ["resolve 0"]);
        let failed = Facts { failures: 1, ..settled("2") };
        assert!(planned(&absent, &failed, &both, Duration::ZERO).is_empty());
    }

    #[test]
    fn a_node_pin_is_followed_until_it_is_taken_away_and_the_documents_wins() {
        let (follows, both) = (artifact("latest", None), holding(&["1", "2"], Some("2")));
        let pinned = |pin: &str, facts: &Facts| names(&plan(&follows, Some(&v(pin)), facts, &both, Duration::ZERO));
        let down = Facts { failures: 5, next_ask: Some(HOUR), ..settled("2") };
        assert_eq!(pinned("1", &down), ["switch 1"], "a kept version needs no origin");
        assert_eq!(pinned("0", &settled("2")), ["resolve 0"]);
        assert!(pinned("0", &down).is_empty(), "current stays, and the next try waits");
        let moved = Facts { pending: Some((VersionWish::Latest, resolution("3", vec![]))), ..settled("2") };
        assert_eq!(pinned("0", &moved), ["resolve 0"], "what answers another wish is not fetched");
        let answered = Facts { pending: Some((VersionWish::Exact(v("0")), resolution("0", vec![]))), ..settled("2") };
        assert_eq!(pinned("0", &answered), ["acquire 0"]);
        let asked = Facts { asked: true, ..settled("2") };
        assert_eq!(pinned("1", &asked), ["resolve latest", "switch 1"]);
        let back = Facts { asked: true, ..settled("2") };
        let kept = holding(&["1", "2"], Some("1"));
        assert_eq!(names(&plan(&follows, None, &back, &kept, Duration::ZERO)), ["resolve latest", "switch 2"]);
        let declared = artifact("latest", Some("2"));
        assert!(names(&plan(&declared, Some(&v("1")), &settled("2"), &both, Duration::ZERO)).is_empty());
    }

    #[test]
    fn an_exact_version_that_is_here_is_never_asked_for_unless_somebody_does() {
        let exact = artifact("1", None);
        let here = holding(&["1"], Some("1"));
        let rest = plan(&exact, None, &settled("1"), &here, HOUR * 9);
        assert_eq!((names(&rest).len(), rest.wake_at), (0, None));
        let asked = Facts { asked: true, ..settled("1") };
        assert_eq!(planned(&exact, &asked, &here, Duration::ZERO), ["resolve 1"]);
    }

    #[test]
    fn another_recipe_has_the_version_made_anew_while_the_old_stays_current() {
        let mut exact = artifact("1", None);
        exact.spec.unpack.strip_components = 1;
        let here = holding(&["1"], Some("1"));
        let steps = planned(&exact, &Facts { seeds: seeded("1"), ..Facts::default() }, &here, Duration::ZERO);
        assert_eq!(steps, ["resolve 1"]);
        assert_eq!(judge(&exact, &resolution("1", vec![]), &here, [].iter()), Judgement::Fetch);
    }

    #[test]
    fn other_bytes_for_a_name_that_is_here_are_an_error_and_no_update() {
        let exact = artifact("1", None);
        let here = holding(&["1"], Some("1"));
        let held = Digest::sha256(b"1");
        assert_eq!(judge(&exact, &resolution("1", vec![held.clone()]), &here, [].iter()), Judgement::Here(v("1")));
        let found = Digest::sha256(b"other");
        let judged = judge(&exact, &resolution("1", vec![found.clone()]), &here, [].iter());
        let other = Judgement::OtherBytes { version: v("1"), found: found.clone(), held: held.clone() };
        assert_eq!(judged, other);
        let damaged = || here.versions.values();
        let judged =
            |digest: &Digest| judge(&exact, &resolution("1", vec![digest.clone()]), &Holding::default(), damaged());
        assert_eq!((judged(&found), judged(&held)), (other, Judgement::Fetch), "it is to be had again");
        let mut declared = exact;
        declared.spec.sha256 = Some(found);
        let steps = planned(&declared, &Facts { seeds: seeded("1"), ..Facts::default() }, &here, Duration::ZERO);
        assert_eq!(steps, ["resolve 1"]);
    }

    #[test]
    fn back_off_grows_to_its_cap_and_never_ends() {
        for failing in [Failing::Passing, Failing::Content] {
            let waits: Vec<_> = (1..40).map(|n| back_off(failing, n, 1.0)).collect();
            assert!(waits.is_sorted() && waits[0] > Duration::ZERO, "{waits:?}");
            assert!(back_off(failing, 40, 0.0) * 2 == waits[38]);
        }
        assert!(back_off(Failing::Passing, u32::MAX, 1.0) <= Duration::from_secs(30));
    }

    proptest! {
        /// Whatever is known, a busy artifact's source is left alone, nothing is switched to that is not on the node,
        /// and whoever does nothing now has a reason to look again or nothing left to do.
        #[test]
        fn no_state_leads_astray(
            busy: bool, asked: bool, pending: bool, failures in 0u32..3, latest in 0usize..3, ask in 0u64..3,
            here in proptest::collection::vec(0usize..3, 0..3), pin in 0usize..4, node_pin in 0usize..4,
            answers in 0usize..4, now in 0u64..3,
        ) {
            let versions = ["1", "2", "3"];
            let here: Vec<&str> = here.into_iter().map(|i| versions[i]).collect();
            let holding = holding(&here, here.first().copied());
            let artifact = artifact("latest", versions.get(pin).copied());
            let facts = Facts {
                busy, asked, failures,
                pending: pending.then(|| {
                    let wish = versions.get(answers).map_or(VersionWish::Latest, |name| VersionWish::Exact(v(name)));
                    (wish, resolution("3", vec![]))
                }),
                latest: Some(v(versions[latest])),
                next_ask: (ask > 0).then(|| Duration::from_secs(ask)),
                ..Facts::default()
            };
            let node_pin = versions.get(node_pin).map(|name| v(name));
            let planned = plan(&artifact, node_pin.as_ref(), &facts, &holding, Duration::from_secs(now));
            let wanted = wish(&artifact, node_pin.as_ref());
            let pin = artifact.pin.as_ref().or(node_pin.as_ref());
            prop_assert_eq!(pin.cloned().map_or(VersionWish::Latest, VersionWish::Exact), wanted.clone());
            for step in &planned.steps {
                match step {
                    Step::Resolve { wish, .. } => {
                        prop_assert!(!busy);
                        // Something else is asked for only where the pinned version is here.
                        let here = pin.is_some_and(|pin| holding.versions.contains_key(pin));
                        prop_assert!(*wish == wanted || here);
                    }
                    Step::Repair { .. } => prop_assert!(!busy),
                    Step::Acquire { wish, .. } => prop_assert!(!busy && *wish == wanted),
                    Step::Switch { version, .. } => {
                        prop_assert!(holding.versions.contains_key(version));
                        // Nothing leads away from a pinned version that is here.
                        prop_assert!(pin.is_none_or(|pin| pin == version || !holding.versions.contains_key(pin)));
                    }
                    Step::Seed { version, .. } => prop_assert!(holding.versions.contains_key(version)),
                }
            }
            let wished = match wanted {
                VersionWish::Exact(version) => holding.versions.contains_key(&version),
                VersionWish::Latest => true,
            };
            prop_assert!(busy || !planned.steps.is_empty() || planned.wake_at.is_some() || wished);
        }
    }
}
