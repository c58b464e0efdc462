//! Collection, decided: what becomes of each version, and why, in words. Pure: no clock, no disk.
//!
//! A version is removed only when nothing claims it and it is neither among the newest `retain.versions` nor younger
//! than `retain.for`; the rank counts every version of the artifact, claimed ones too. For the budget the oldest
//! unclaimed versions of all artifacts go first. A claim is never overruled here.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;

use super::clock::Young;
use super::{Age, Holding};
use crate::intent::{ArtifactName, Interval, Retain, VersionName};

/// So many directories of pods are named.
const NAMED: usize = 8;

/// What speaks for keeping a version, however old it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It is served and seeded when none is named.
    Current,
    /// Operators hold the artifact at it.
    Pinned,
    /// The document names it, or the source does as its latest.
    Wanted,
    /// A consumer holds it.
    Leased {
        /// Which consumer.
        holder: Box<str>,
        /// When the lease ends unless it is renewed.
        until: Timestamp,
    },
    /// A target's files are hard links to it.
    Seeded {
        /// Below `seed.root`.
        target: Box<str>,
    },
    /// The files of directories that pods had filled are hard links to it.
    Filled {
        /// What the pods call them, at least one.
        targets: Vec<Box<str>>,
    },
    /// Somebody has it open.
    Read,
    /// The document is refused, so that what it says of keeping is not known.
    Refused,
}

impl Claim {
    /// Whether removing on demand needs `force`: a reader keeps its bytes anyway.
    pub fn forbids_removal(&self) -> bool {
        !matches!(self, Claim::Read | Claim::Wanted | Claim::Refused)
    }

    /// In words, the first directories of pods by name: for operators.
    fn in_full(&self) -> String {
        match self {
            Claim::Filled { targets } if targets.len() <= NAMED => {
                let named: Vec<_> = targets.iter().map(|target| format!("seeded at {target}")).collect();
                named.join(", ")
            }
            Claim::Filled { targets } => format!("{self}, one of them {}", targets[0]),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Claim::Current => f.write_str("current"),
            Claim::Pinned => f.write_str("pinned"),
            Claim::Wanted => f.write_str("wanted by its document"),
            Claim::Leased { holder, until } => write!(f, "leased by {holder} until {until:.0}"),
            Claim::Seeded { target } => write!(f, "seeded at {target}"),
            // Which, is for operators to know.
            Claim::Filled { targets } if targets.len() == 1 => f.write_str("seeded at a directory of a pod"),
            Claim::Filled { targets } => write!(f, "seeded at {} directories of pods", targets.len()),
            Claim::Read => f.write_str("being read"),
            Claim::Refused => f.write_str("its document is refused"),
        }
    }
}

/// The claims on an artifact's versions.
pub type Claims = BTreeMap<VersionName, Vec<Claim>>;

/// Why a version stays or goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Stays: claimed by these, at least one.
    Claimed(Vec<Claim>),
    /// Stays: among so many of the newest.
    Newest(u32),
    /// Stays: published less than this ago, or in what the clock takes for the future.
    Younger(Interval),
    /// Stays: it is not known that the clock has made no jump for so long.
    Uneven(Interval),
    /// Stays: the daemon has not run for this long.
    Settling(Interval),
    /// Goes: neither new nor young.
    Surplus {
        /// 1 is the newest.
        rank: usize,
        /// What it is older than.
        age: Interval,
    },
    /// Goes: the oldest that nothing claims, and room is needed.
    Room {
        /// 1 is the newest.
        rank: usize,
    },
    /// Goes: somebody said so.
    Asked,
}

impl Why {
    /// Whether the version stays.
    pub fn keeps(&self) -> bool {
        !matches!(self, Why::Surplus { .. } | Why::Room { .. } | Why::Asked)
    }

    /// In words, with directories of pods by what these call them: for operators.
    pub fn in_full(&self) -> String {
        match self {
            Why::Claimed(claims) => claims.iter().map(Claim::in_full).collect::<Vec<_>>().join(", "),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Claimed(claims) => {
                let words: Vec<String> = claims.iter().map(ToString::to_string).collect();
                f.write_str(&words.join(", "))
            }
            Why::Newest(1) => f.write_str("newest"),
            Why::Newest(count) => write!(f, "newest {count}"),
            Why::Younger(age) => write!(f, "younger than {age}"),
            Why::Uneven(time) => write!(f, "the clock has made no jump for less than {time}"),
            Why::Settling(time) => write!(f, "the daemon has run for less than {time}"),
            Why::Surplus { rank, age } => write!(f, "{} newest, older than {age}", Ordinal(*rank)),
            Why::Room { rank } => write!(f, "{} newest, room is needed", Ordinal(*rank)),
            Why::Asked => f.write_str("asked for"),
        }
    }
}

/// `1st`, `2nd`, `13th`.
struct Ordinal(usize);

impl fmt::Display for Ordinal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = match (self.0 % 10, self.0 % 100) {
            (_, 11..=13) => "th",
            (1, _) => "st",
            (2, _) => "nd",
            (3, _) => "rd",
            _ => "th",
        };
        write!(f, "{}{suffix}", self.0)
    }
}

/// What becomes of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    /// Which artifact.
    pub artifact: ArtifactName,
    /// Which version.
    pub version: VersionName,
    /// Whether it stays, and why.
    pub why: Why,
    /// What it takes: its files and, where kept, its archive.
    pub bytes: u64,
    /// 1 is the artifact's newest.
    pub rank: usize,
    /// When it became visible.
    pub published_at: Timestamp,
}

/// The fates of an artifact's versions by their claims and its retention, newest first.
pub fn fates(artifact: &ArtifactName, holding: &Holding, claims: &Claims, retain: &Retain, age: Age) -> Vec<Fate> {
    let why = |rank: usize, head: &super::ManifestHead| {
        let current = (holding.current.as_ref() == Some(&head.version)).then_some(Claim::Current);
        let others = claims.get(&head.version).into_iter().flatten().cloned();
        let claims: Vec<Claim> = current.into_iter().chain(others).collect();
        if !claims.is_empty() {
            Why::Claimed(claims)
        } else if rank <= retain.versions as usize {
            Why::Newest(retain.versions)
        } else {
            match age.young(head.published_at, retain.age.0) {
                Some(Young::ByClock) => Why::Younger(retain.age),
                Some(Young::ByJump) => Why::Uneven(retain.age),
                Some(Young::Settling(time)) => Why::Settling(Interval(time)),
                None => Why::Surplus { rank, age: retain.age },
            }
        }
    };
    // What came by a clock that was ahead takes the place of the newest from none that came since.
    let (ahead, rest): (Vec<_>, Vec<_>) =
        holding.newest_first().into_iter().partition(|head| head.published_at > age.now);
    let ranked = rest.into_iter().chain(ahead).zip(1..);
    ranked
        .map(|(head, rank)| Fate {
            artifact: artifact.clone(),
            version: head.version.clone(),
            why: why(rank, head),
            bytes: head.bytes.saturating_add(if head.archive.kept { head.archive.size } else { 0 }),
            rank,
            published_at: head.published_at,
        })
        .collect()
}

/// Has the oldest versions go that nothing claims, until `need` bytes are free with what goes anyway. Returns how many
/// bytes go; fewer than `need` where too little is unclaimed.
pub fn make_room(fates: &mut [Fate], need: u64) -> u64 {
    let mut freed: u64 = fates.iter().filter(|fate| !fate.why.keeps()).map(|fate| fate.bytes).sum();
    let spare =
        |fate: &&mut Fate| matches!(fate.why, Why::Newest(_) | Why::Younger(_) | Why::Uneven(_) | Why::Settling(_));
    let mut oldest_first: Vec<&mut Fate> = fates.iter_mut().filter(spare).collect();
    oldest_first
        .sort_by(|a, b| (a.published_at, &a.artifact, &a.version).cmp(&(b.published_at, &b.artifact, &b.version)));
    for fate in oldest_first {
        if freed >= need {
            break;
        }
        fate.why = Why::Room { rank: fate.rank };
        freed = freed.saturating_add(fate.bytes);
    }
    freed
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::ManifestHead;
    use super::*;

    const NOW: i64 = 1_800_000_000;
    const LONG_UP: Duration = Duration::from_secs(1_000_000);

    fn age(up: Duration) -> Age {
        Age { now: Timestamp::from_second(NOW).unwrap(), up, even: Duration::MAX }
    }

    fn head(version: &str, seconds_ago: i64, bytes: u64) -> Arc<ManifestHead> {
        let published_at = Timestamp::from_second(NOW - seconds_ago).unwrap();
        Arc::new(ManifestHead { published_at, bytes, ..ManifestHead::sample("app", version) })
    }

    fn name(text: &str) -> ArtifactName {
        text.parse().unwrap()
    }

    fn holding(versions: &[(&str, i64)], current: Option<&str>) -> Holding {
        let heads = versions.iter().map(|(version, ago)| head(version, *ago, 100));
        Holding {
            versions: heads.map(|head| (head.version.clone(), head)).collect(),
            current: current.map(|version| version.parse().unwrap()),
        }
    }

    fn retain(versions: u32, hours: u64) -> Retain {
        Retain { versions, age: Interval(Duration::from_secs(hours * 3600)) }
    }

    fn words(fates: &[Fate]) -> Vec<String> {
        let verdict = |fate: &Fate| if fate.why.keeps() { "kept" } else { "removed" };
        fates.iter().map(|fate| format!("{} {}: {}", fate.version, verdict(fate), fate.why)).collect()
    }

    const DAY: i64 = 86_400;

    #[test]
    fn directories_of_pods_are_named_to_operators_alone() {
        let why = |count: usize| {
            let targets = (0..count).map(|at| format!("/data/{at}").into()).collect();
            Why::Claimed(vec![Claim::Current, Claim::Filled { targets }])
        };
        assert_eq!(why(1).to_string(), "current, seeded at a directory of a pod");
        assert_eq!(why(2).to_string(), "current, seeded at 2 directories of pods");
        assert_eq!(why(2).in_full(), "current, seeded at /data/0, seeded at /data/1");
        assert_eq!(why(1000).in_full(), "current, seeded at 1000 directories of pods, one of them /data/0");
    }

    #[test]
    fn each_fate_is_told_in_words() {
        let ages = [
            ("v8", -DAY),
            ("v7", DAY),
            ("v6", 30 * DAY),
            ("v5", 31 * DAY),
            ("v4", 32 * DAY),
            ("v3", 33 * DAY),
            ("v2", 34 * DAY),
            ("v1", 35 * DAY),
        ];
        let holding = holding(&ages, Some("v4"));
        let until = "2027-01-15T09:00:00.25Z".parse().unwrap();
        let claims: Claims = [
            ("v3", vec![Claim::Pinned, Claim::Seeded { target: "pod".into() }]),
            ("v2", vec![Claim::Leased { holder: "job-1".into(), until }]),
            ("v1", vec![Claim::Read]),
        ]
        .map(|(version, claims)| (version.parse().unwrap(), claims))
        .into();
        let fates = fates(&name("app"), &holding, &claims, &retain(1, 48), age(LONG_UP));
        assert_eq!(
            words(&fates),
            [
                "v7 kept: newest",
                "v6 removed: 2nd newest, older than 48h",
                "v5 removed: 3rd newest, older than 48h",
                "v4 kept: current",
                "v3 kept: pinned, seeded at pod",
                "v2 kept: leased by job-1 until 2027-01-15T09:00:00Z",
                "v1 kept: being read",
                "v8 kept: younger than 48h",
            ]
        );
    }

    #[test]
    fn the_archive_counts_where_it_is_kept() {
        let mut kept = (*head("v1", 0, 100)).clone();
        (kept.archive.kept, kept.archive.size) = (true, 7);
        let holding = Holding { versions: [(kept.version.clone(), Arc::new(kept))].into(), current: None };
        assert_eq!(fates(&name("app"), &holding, &Claims::new(), &retain(3, 1), age(LONG_UP))[0].bytes, 107);
    }

    #[test]
    fn number_and_age_both_have_to_let_go() {
        let versions = holding(&[("a", 3 * DAY), ("b", 2 * DAY), ("c", 0)], None);
        let fate = |retain: Retain| words(&fates(&name("app"), &versions, &Claims::new(), &retain, age(LONG_UP)));
        assert_eq!(fate(retain(3, 1)), ["c kept: newest 3", "b kept: newest 3", "a kept: newest 3"]);
        assert_eq!(fate(retain(1, 96)), ["c kept: newest", "b kept: younger than 96h", "a kept: younger than 96h"]);
        assert_eq!(
            fate(retain(1, 60)),
            ["c kept: newest", "b kept: younger than 60h", "a removed: 3rd newest, older than 60h"]
        );
    }

    #[test]
    fn clocks_that_are_wrong_evict_nothing_early() {
        // Published in the future.
        let versions = holding(&[("b", -400 * DAY), ("a", -500 * DAY)], None);
        let kept = fates(&name("app"), &versions, &Claims::new(), &retain(1, 48), age(LONG_UP));
        assert!(kept.iter().all(|fate| fate.why.keeps()), "{:?}", words(&kept));
        // Just started, whatever the wall clock says.
        let versions = holding(&[("b", 1000 * DAY), ("a", 2000 * DAY)], None);
        let kept = fates(&name("app"), &versions, &Claims::new(), &retain(1, 48), age(Duration::from_secs(60)));
        assert_eq!(words(&kept)[1], "a kept: the daemon has run for less than 10m");
    }

    #[test]
    fn what_came_by_a_clock_that_was_ahead_costs_no_other_its_place() {
        let versions = holding(&[("a", 3 * DAY), ("b", 2 * DAY), ("ahead", -4000 * DAY)], None);
        let fates = fates(&name("app"), &versions, &Claims::new(), &retain(1, 1), age(LONG_UP));
        assert_eq!(
            words(&fates),
            ["b kept: newest", "a removed: 2nd newest, older than 1h", "ahead kept: younger than 1h"]
        );
    }

    #[test]
    fn room_is_made_from_the_oldest_of_all_artifacts() {
        let all = |retain: &Retain| {
            let first = holding(&[("a2", 2 * DAY), ("a1", 5 * DAY)], Some("a2"));
            let second = holding(&[("b3", DAY), ("b2", 3 * DAY), ("b1", 9 * DAY)], Some("b1"));
            let mut all = fates(&name("a"), &first, &Claims::new(), retain, age(LONG_UP));
            all.extend(fates(&name("b"), &second, &Claims::new(), retain, age(LONG_UP)));
            all
        };
        let gone = |need| {
            let mut fates = all(&retain(9, 0));
            let freed = make_room(&mut fates, need);
            let gone: Vec<String> = words(&fates).into_iter().filter(|words| words.contains("removed")).collect();
            (freed, gone)
        };
        assert_eq!(gone(0), (0, vec![]));
        assert_eq!(gone(1), (100, vec!["a1 removed: 2nd newest, room is needed".into()]));
        assert_eq!(gone(101).0, 200);
        assert_eq!(gone(1000).0, 300, "claimed ones stay");
        // What goes anyway counts.
        let mut fates = all(&retain(1, 0));
        assert_eq!(make_room(&mut fates, 200), 200);
        assert!(fates.iter().all(|fate| !matches!(fate.why, Why::Room { .. })));
    }

    #[test]
    fn ordinals() {
        let ordinals: Vec<String> = [1, 2, 3, 4, 11, 12, 13, 21, 102, 111].map(|n| Ordinal(n).to_string()).into();
        assert_eq!(ordinals, ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th"]);
    }

    fn claim() -> impl Strategy<Value = Option<Claim>> {
        prop_oneof![
            4 => Just(None),
            1 => Just(Some(Claim::Pinned)),
            1 => Just(Some(Claim::Read)),
            1 => Just(Some(Claim::Seeded { target: "t".into() })),
            1 => Just(Some(Claim::Leased { holder: "h".into(), until: Timestamp::UNIX_EPOCH })),
        ]
    }

    proptest! {
        #[test]
        fn what_is_claimed_stays_and_room_is_made_when_it_can_be(
            versions in proptest::collection::vec((-1_000_000i64..1_000_000, 0u64..1000, claim()), 0..12),
            (current, keep, hours, need, up) in (0usize..12, 0u32..6, 0u64..400, 0u64..6000, 0u64..2000),
        ) {
            let version = |i: usize| -> VersionName { format!("v{i}").parse().unwrap() };
            let heads = versions.iter().enumerate().map(|(i, (ago, bytes, _))| head(version(i).as_str(), *ago, *bytes));
            let holding = Holding {
                versions: heads.map(|head| (head.version.clone(), head)).collect(),
                current: (current < versions.len()).then(|| version(current)),
            };
            let claims: Claims = versions.iter().enumerate()
                .filter_map(|(i, (_, _, claim))| Some((version(i), vec![claim.clone()?]))).collect();
            let (retain, age) = (retain(keep, hours), age(Duration::from_secs(up)));
            let mut decided = fates(&name("app"), &holding, &claims, &retain, age);
            let freed = make_room(&mut decided, need);

            let protected = |fate: &Fate| {
                holding.current.as_ref() == Some(&fate.version) || claims.contains_key(&fate.version)
            };
            let gone: Vec<&Fate> = decided.iter().filter(|fate| !fate.why.keeps()).collect();
            prop_assert!(gone.iter().all(|fate| !protected(fate)));
            prop_assert_eq!(freed, gone.iter().map(|fate| fate.bytes).sum::<u64>());
            let unprotected: u64 = decided.iter().filter(|fate| !protected(fate)).map(|fate| fate.bytes).sum();
            prop_assert!(freed >= need.min(unprotected));
            // Among those that went for room, none is younger than one that could have gone instead.
            let room = gone.iter().filter(|fate| matches!(fate.why, Why::Room { .. }));
            let youngest_gone = room.map(|fate| fate.published_at).max();
            let spared = decided.iter().filter(|fate| fate.why.keeps() && !protected(fate));
            if let (Some(gone), Some(spared)) = (youngest_gone, spared.map(|fate| fate.published_at).min()) {
                prop_assert!(gone <= spared);
            }

            // Once done, nothing is left to do.
            let mut after = holding.clone();
            for fate in &gone {
                after.versions.remove(&fate.version);
            }
            let mut again = fates(&name("app"), &after, &claims, &retain, age);
            prop_assert_eq!(make_room(&mut again, 0), 0);
            prop_assert!(again.iter().all(|fate| fate.why.keeps()));
        }
    }
}
