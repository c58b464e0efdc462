//! When each version is to be read again and how fast, decided on plain data; and when each was read last, kept over
//! restarts in `scrub.json`. The reading itself is [`Store::verify_while`].

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::layout::own;
use super::{Inventory, Store};
use crate::fs::{self, fail_point};
use crate::intent::{ArtifactName, VersionName};

/// Bytes of `scrub.json`.
const LIMIT: u64 = 64 << 20;

/// When versions were last found to be as their manifests say.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scrubbed(BTreeMap<ArtifactName, BTreeMap<VersionName, Timestamp>>);

impl Scrubbed {
    /// When this version was; `None` when not since it is here.
    pub fn at(&self, artifact: &ArtifactName, version: &VersionName) -> Option<Timestamp> {
        self.0.get(artifact)?.get(version).copied()
    }

    /// Notes that a version was read and is good.
    pub fn note(&mut self, artifact: &ArtifactName, version: &VersionName, now: Timestamp) {
        self.0.entry(artifact.clone()).or_default().insert(version.clone(), now);
    }

    /// Forgets versions that are gone.
    pub fn retain(&mut self, inventory: &Inventory) {
        self.0.retain(|artifact, versions| {
            let holding = inventory.get(artifact);
            versions.retain(|version, _| holding.is_some_and(|holding| holding.versions.contains_key(version)));
            !versions.is_empty()
        });
    }
}

/// The version to read next, the least recently read first, and how long until it is due; a moment in the future (of a
/// clock that was ahead) counts for nothing. `None` when nothing is published but what is `put_off`.
pub fn next_due(
    inventory: &Inventory,
    put_off: impl Fn(&super::ManifestHead) -> bool,
    scrubbed: &Scrubbed,
    every: Duration,
    now: Timestamp,
) -> Option<(ArtifactName, VersionName, Duration)> {
    let heads = inventory.values().flat_map(|holding| holding.versions.values()).filter(|head| !put_off(head));
    let last = |head: &super::ManifestHead| {
        // Its bytes were hashed when they came.
        let known = [Some(head.published_at), scrubbed.at(&head.artifact, &head.version)];
        known.into_iter().flatten().filter(|at| *at <= now).max().unwrap_or(Timestamp::MIN)
    };
    let (at, head) = heads.map(|head| (last(head), head)).min_by(|a, b| a.0.cmp(&b.0))?;
    let left = every.saturating_sub(now.duration_since(at).unsigned_abs());
    Some((head.artifact.clone(), head.version.clone(), left))
}

/// Holds reading to a rate. Time in which nothing is read saves nothing up.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    bytes_per_second: u64,
    /// When all that was read is paid for.
    paid: Duration,
}

impl Pace {
    /// At most so many bytes a second; zero counts as one.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), paid: Duration::ZERO }
    }

    /// How long to wait after having read `bytes`, `now` by a clock that never goes back.
    pub fn after(&mut self, bytes: u64, now: Duration) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.paid = self.paid.max(now).saturating_add(cost);
        self.paid - now
    }
}

impl Store {
    /// When versions were last read; what cannot be read of it counts as never.
    pub fn scrubbed(&self) -> Scrubbed {
        match self.root.read(&own("scrub.json"), LIMIT) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(%error, "scrub.json cannot be read; every version is checked again");
                Scrubbed::default()
            }),
            Err(error) if error.is_not_found() => Scrubbed::default(),
            Err(error) => {
                tracing::warn!(%error, "scrub.json cannot be read; every version is checked again");
                Scrubbed::default()
            }
        }
    }

    /// Keeps that over restarts.
    pub fn set_scrubbed(&self, scrubbed: &Scrubbed) -> fs::Result<()> {
        let json = serde_json::to_vec(scrubbed)
            .unwrap_or_else(|e| unreachable!("plain fields with text keys always serialise: {e}"));
        fail_point("store.scrub.before-write");
        self.root.write_atomic(&own("scrub.json"), &json, 0o644)?;
        fail_point("store.scrub.after-write");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn never_faster_than_the_rate(rate in 1u64..1 << 30, reads in prop::collection::vec((0u64..1 << 20, 0u64..1 << 30), 1..50)) {
            let mut pace = Pace::new(rate);
            let (mut now, mut bytes) = (Duration::ZERO, 0u64);
            for (read, idle) in reads {
                now += Duration::from_nanos(idle);
                let before = now;
                now += pace.after(read, now);
                bytes += read;
                // Idle time bought nothing: this very piece took its time.
                prop_assert!((now - before).as_nanos() + 1 >= u128::from(read) * 1_000_000_000 / u128::from(rate));
                prop_assert!(now.as_nanos() + 50 >= u128::from(bytes) * 1_000_000_000 / u128::from(rate));
            }
        }
    }

    #[test]
    fn a_reader_slower_than_the_rate_never_waits() {
        let mut pace = Pace::new(1000);
        assert_eq!(pace.after(500, Duration::ZERO), Duration::from_millis(500));
        assert_eq!(pace.after(500, Duration::from_secs(10)), Duration::from_millis(500));
        assert_eq!(pace.after(500, Duration::from_secs(10)), Duration::from_secs(1));
    }

    #[test]
    fn the_least_recently_read_is_next() {
        let moment = |second| Timestamp::from_second(second).unwrap();
        let inventory = super::super::tests::inventory_of(&[("1", 100), ("2", 105), ("3", 109)]);
        let artifact = super::super::tests::artifact();
        let mut scrubbed = Scrubbed::default();
        let due = |scrubbed: &Scrubbed, now: i64| {
            let (_, version, left) =
                next_due(&inventory, |_| false, scrubbed, Duration::from_secs(50), moment(now)).unwrap();
            (version.to_string(), left.as_secs())
        };
        assert_eq!(due(&scrubbed, 110), ("1".into(), 40));
        assert_eq!(due(&scrubbed, 150), ("1".into(), 0));
        scrubbed.note(&artifact, &"1".parse().unwrap(), moment(350));
        assert_eq!(due(&scrubbed, 351), ("2".into(), 0));
        scrubbed.note(&artifact, &"2".parse().unwrap(), moment(360));
        scrubbed.note(&artifact, &"3".parse().unwrap(), moment(370));
        assert_eq!(due(&scrubbed, 371), ("1".into(), 29));
        // A clock that was set back keeps nothing from its turn.
        assert_eq!(due(&scrubbed, 10), ("1".into(), 0));
        assert_eq!(next_due(&Inventory::new(), |_| false, &scrubbed, Duration::ZERO, moment(0)), None);
        // Nor does one that was ahead when a version came have that read again and again.
        for version in ["1", "2", "3"] {
            scrubbed.note(&artifact, &version.parse().unwrap(), moment(50));
        }
        assert_eq!(due(&scrubbed, 60), ("1".into(), 40));
        // It has its turn all the same, beside others whose times are right.
        let mixed = super::super::tests::inventory_of(&[("1", 100), ("2", 9000)]);
        let next = next_due(&mixed, |_| false, &Scrubbed::default(), Duration::from_secs(50), moment(120)).unwrap();
        assert_eq!((next.1.to_string(), next.2), ("2".into(), Duration::ZERO));
        let first_is_put_off = |head: &super::super::ManifestHead| head.version == next.1;
        let next =
            next_due(&mixed, first_is_put_off, &Scrubbed::default(), Duration::from_secs(50), moment(120)).unwrap();
        assert_eq!(next.0, artifact);
        assert_eq!(next.1.to_string(), "1", "another's turn");
        scrubbed.retain(&Inventory::new());
        assert_eq!(scrubbed, Scrubbed::default());
    }
}
