//! Leases: consumers' holds on versions for a time, kept over a restart in `leases.json`.
//!
//! What must hold: a version is never collected between a lease's being granted and its end; what was answered is on
//! disk. Leases end by clocks that nobody sets, so that a wall clock that jumps ends none early: while the daemon runs by
//! the monotonic one, over its restarts by the one that counts from boot. Over a reboot only the wall clock is there: what
//! is left of a lease is never more than it was granted for.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::json_file::read_json_file;
use super::layout::{lock, own};
use super::since_boot::SinceBoot;
use super::{Store, StoreError};
use crate::fs::{self, Dir, fail_point};
use crate::intent::{ArtifactName, VersionName};

/// The longest time that a lease is granted for; renewed, it goes on.
pub const LONGEST_LEASE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Leases on a node.
const MOST: usize = 10_000;
/// Bytes of `leases.json`.
const LIMIT: u64 = 16 << 20;

/// Who holds a lease: letters, digits, `.`, `_`, `:` and `-`; at most 128 of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("maxLength" = 128, "pattern" = "^[A-Za-z0-9._:-]+$"))]
pub struct HolderName(String);

impl HolderName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HolderName {
    type Err = LeaseError;

    fn from_str(text: &str) -> Result<Self, LeaseError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
        if (1..=128).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text.into()))
        } else {
            Err(LeaseError::Holder { given: text.into() })
        }
    }
}

impl TryFrom<String> for HolderName {
    type Error = LeaseError;

    fn try_from(text: String) -> Result<Self, LeaseError> {
        text.parse()
    }
}

impl From<HolderName> for String {
    fn from(name: HolderName) -> String {
        name.0
    }
}

impl fmt::Display for HolderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Why a lease is not granted.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Not a holder's name.
    #[error("{given:?} is no holder: use letters, digits, `.`, `_`, `:` and `-`, at most 128 of them")]
    Holder {
        /// What was given.
        given: Box<str>,
    },
    /// For no time at all, or for too long.
    #[error("a lease is for more than nothing and at most 168h; renew it while it is needed")]
    Time,
    /// Too many.
    #[error("there are {MOST} leases on this node already, which is the most it takes; drop those that are not needed")]
    TooMany,
    /// The version is not here, or leases cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TimedLease {
    /// On which artifact.
    pub artifact: ArtifactName,
    /// On which of its versions.
    pub version: VersionName,
    /// For whom.
    pub holder: HolderName,
    /// When it ends unless it is renewed.
    pub expires_at: Timestamp,
}

/// One lease in `leases.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    #[serde(flatten)]
    lease: TimedLease,
    /// What it was granted for.
    ttl_ms: u64,
    /// When it ends by the clock that counts from boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ends: Option<SinceBoot>,
    /// When it ends by the clock that nobody sets.
    #[serde(skip)]
    deadline: Option<Instant>,
}

impl Row {
    fn runs(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline > now)
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Written {
    leases: Vec<Row>,
}

type Rows = BTreeMap<(ArtifactName, HolderName), Row>;

/// All leases of a node.
#[derive(Debug, Default)]
pub(super) struct Leases {
    rows: RwLock<Rows>,
    /// Held while leases are granted and while a version is removed: a version just leased is not about to go.
    pub(super) granting: Mutex<()>,
    /// What is on disk is unknown: a write failed, perhaps only after the new file was in its place.
    unsure: AtomicBool,
}

impl Leases {
    /// Reads `leases.json`; one that is not understood is put aside.
    pub(super) fn open(store: &Dir, wall: Timestamp, now: Instant) -> fs::Result<Self> {
        let Written { leases: rows } = read_json_file(store, "leases.json", LIMIT)?.unwrap_or_default();
        let since_boot = SinceBoot::now();
        let running = rows.into_iter().filter_map(|row| rebased(row, wall, since_boot.as_ref(), now));
        let rows = running.map(|row| ((row.lease.artifact.clone(), row.lease.holder.clone()), row)).collect();
        Ok(Self { rows: RwLock::new(rows), granting: Mutex::default(), unsure: AtomicBool::default() })
    }

    fn running(&self, now: Instant) -> Rows {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        rows.iter().filter(|(_, row)| row.runs(now)).map(|(key, row)| (key.clone(), row.clone())).collect()
    }

    /// Makes these the leases, on disk first. Called by one at a time.
    fn replace(&self, store: &Dir, rows: Rows) -> fs::Result<()> {
        let written = Written { leases: rows.values().cloned().collect() };
        let json = serde_json::to_vec_pretty(&written)
            .unwrap_or_else(|e| unreachable!("plain fields with text keys serialise: {e}"));
        fail_point("store.leases.before-write");
        self.unsure.store(true, Relaxed);
        store.write_atomic(&own("leases.json"), &json, 0o644)?;
        self.unsure.store(false, Relaxed);
        fail_point("store.leases.after-write");
        *self.rows.write().unwrap_or_else(PoisonError::into_inner) = rows;
        Ok(())
    }
}

/// What is left of a lease that an earlier run granted; `None` when it is over.
fn rebased(mut row: Row, wall: Timestamp, since_boot: Option<&SinceBoot>, now: Instant) -> Option<Row> {
    let ttl = Duration::from_millis(row.ttl_ms).min(LONGEST_LEASE);
    let steady = since_boot.zip(row.ends.as_ref()).and_then(|(since_boot, ends)| since_boot.until(ends));
    let by_wall = || Duration::try_from(row.lease.expires_at.duration_since(wall)).ok();
    // A clock set back since does not make it longer than it was granted for.
    let left = steady.or_else(by_wall)?.min(ttl);
    row.lease.expires_at = after(wall, left);
    // From now on by this boot's clock: whatever is set meanwhile, the next start knows what is left.
    row.ends = since_boot.map(|since_boot| since_boot.clone().after(left)).or(row.ends);
    row.deadline = now.checked_add(left);
    row.runs(now).then_some(row)
}

fn after(wall: Timestamp, time: Duration) -> Timestamp {
    let time = SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
    wall.checked_add(time).unwrap_or(Timestamp::MAX)
}

impl Store {
    /// Grants a lease on a version for `ttl`, durably. A holder has one lease on an artifact: asking again renews it, and
    /// moves it where another version is named.
    pub fn grant_lease(
        &self,
        artifact: &ArtifactName,
        version: &VersionName,
        holder: &HolderName,
        ttl: Duration,
    ) -> Result<TimedLease, LeaseError> {
        let deadline = Instant::now().checked_add(ttl);
        if ttl.is_zero() || ttl > LONGEST_LEASE || deadline.is_none() {
            return Err(LeaseError::Time);
        }
        let _granting = lock(&self.timed_leases.granting);
        if self.head(artifact, version).is_none() {
            let (artifact, version) = (artifact.clone(), version.clone());
            return Err(StoreError::NoVersion { artifact, version }.into());
        }
        let mut rows = self.timed_leases.running(Instant::now());
        let key = (artifact.clone(), holder.clone());
        if rows.len() >= MOST && !rows.contains_key(&key) {
            return Err(LeaseError::TooMany);
        }
        let lease = TimedLease {
            artifact: artifact.clone(),
            version: version.clone(),
            holder: holder.clone(),
            expires_at: after(Timestamp::now(), ttl),
        };
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let ends = SinceBoot::now().map(|now| now.after(ttl));
        rows.insert(key, Row { lease: lease.clone(), ttl_ms, ends, deadline });
        self.timed_leases.replace(&self.root, rows).map_err(StoreError::from)?;
        Ok(lease)
    }

    /// Drops a holder's lease on an artifact; false when there is none.
    pub fn drop_lease(&self, artifact: &ArtifactName, holder: &HolderName) -> Result<bool, StoreError> {
        let _granting = lock(&self.timed_leases.granting);
        let mut rows = self.timed_leases.running(Instant::now());
        if rows.remove(&(artifact.clone(), holder.clone())).is_none() {
            return Ok(false);
        }
        self.timed_leases.replace(&self.root, rows)?;
        Ok(true)
    }

    /// Writes leases and pins anew where a write of theirs failed: what was refused does not become true with the next start.
    pub fn write_unsure(&self) -> fs::Result<()> {
        let granting = lock(&self.timed_leases.granting);
        let leases = match self.timed_leases.unsure.load(Relaxed) {
            true => self.timed_leases.replace(&self.root, self.timed_leases.running(Instant::now())),
            false => Ok(()),
        };
        drop(granting);
        leases.and(self.pins.write_unsure(&self.root))
    }

    /// The leases that run on an artifact's versions.
    pub fn leases_on(&self, artifact: &ArtifactName) -> Vec<TimedLease> {
        let now = Instant::now();
        let rows = self.timed_leases.rows.read().unwrap_or_else(PoisonError::into_inner);
        let on_it = rows.values().filter(|row| row.lease.artifact == *artifact && row.runs(now));
        on_it.map(|row| row.lease.clone()).collect()
    }

    /// Removes a version that nobody leased or opened meanwhile and that is not current; false when it stays. `is_claimed`
    /// says whether anybody else claims it, and is asked once nobody can open it any more.
    pub fn remove_unclaimed(
        &self,
        artifact: &ArtifactName,
        version: &VersionName,
        is_claimed: impl FnOnce() -> bool,
    ) -> Result<bool, StoreError> {
        let key = (artifact.clone(), version.clone());
        let may_go = || {
            let leased = self.leases_on(artifact).iter().any(|lease| lease.version == *version);
            let current = self.holding(artifact).current.as_ref() == Some(version);
            let pinned = self.pin_of(artifact).as_ref() == Some(version);
            !leased && !current && !pinned && self.shut(key.clone(), true, is_claimed)
        };
        self.remove_version(artifact, version, may_go)
    }

    /// Removes a version that `may_go` though somebody may have it open; false when it stays. `is_linked` says whether anybody
    /// links its files meanwhile, and is asked once nobody can open it any more.
    pub fn remove_though_read(
        &self,
        artifact: &ArtifactName,
        version: &VersionName,
        may_go: impl FnOnce() -> bool,
        is_linked: impl FnOnce() -> bool,
    ) -> Result<bool, StoreError> {
        let key = (artifact.clone(), version.clone());
        let may_go = || may_go() && self.shut(key.clone(), false, is_linked);
        self.remove_version(artifact, version, may_go)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn row(expires_at: &str, ttl: u64) -> Row {
        let lease = TimedLease {
            artifact: "app".parse().unwrap(),
            version: "v1".parse().unwrap(),
            holder: "job".parse().unwrap(),
            expires_at: expires_at.parse().unwrap(),
        };
        Row { lease, ttl_ms: ttl * 1000, ends: None, deadline: None }
    }

    #[test]
    fn holders_have_plain_names() {
        for good in ["a", "pod-1.ns:container_2", &"x".repeat(128)] {
            assert_eq!(good.parse::<HolderName>().unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a/b", "ä", "a\n", &"x".repeat(129)] {
            assert!(bad.parse::<HolderName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_left_over_a_restart_is_never_more_than_was_granted() {
        let now = Instant::now();
        let left = |wall: &str| {
            let wall: Timestamp = wall.parse().unwrap();
            let row = rebased(row("2026-01-01T01:00:00Z", 600), wall, None, now)?;
            assert_eq!(row.lease.expires_at, after(wall, row.deadline? - now), "the two clocks agree");
            Some((row.deadline? - now).as_secs())
        };
        assert_eq!(left("2026-01-01T00:55:00Z"), Some(300));
        assert_eq!(left("2020-01-01T00:00:00Z"), Some(600), "the clock was set back");
        assert_eq!(left("2026-01-01T01:00:00Z"), None);
        assert_eq!(left("2030-01-01T00:00:00Z"), None);
    }

    #[test]
    fn over_a_restart_in_the_same_boot_no_wall_clock_counts() {
        let (wall, now) = ("2036-01-01T00:00:00Z".parse().unwrap(), Instant::now());
        let since = |boot: &str, ms| SinceBoot { boot: boot.to_owned(), ms };
        let left = |since_boot: SinceBoot| {
            let ends = Some(since("this", 900_000));
            let row = rebased(Row { ends, ..row("2026-01-01T01:00:00Z", 600) }, wall, Some(&since_boot), now)?;
            assert_eq!(row.lease.expires_at, after(wall, row.deadline? - now), "it is told by the clock that there is");
            Some((row.deadline? - now).as_secs())
        };
        assert_eq!(left(since("this", 600_000)), Some(300));
        assert_eq!(left(since("this", 900_000)), None);
        assert_eq!(left(since("other", 600_000)), None);
    }

    #[test]
    fn a_lease_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = Dir::create_all(dir.path()).unwrap();
        let (wall, now) = ("2026-01-01T00:00:00Z".parse().unwrap(), Instant::now());
        let leases = Leases::default();
        let mut granted = row("2026-01-01T00:10:00Z", 600);
        granted.deadline = now.checked_add(Duration::from_secs(600));
        let key = (granted.lease.artifact.clone(), granted.lease.holder.clone());
        leases.replace(&store, [(key, granted)].into()).unwrap();
        let read = Leases::open(&store, wall, now).unwrap();
        let bare = |rows: Rows| rows.into_iter().map(|(key, row)| (key, Row { ends: None, ..row })).collect::<Rows>();
        assert_eq!(bare(read.running(now)), leases.running(now));
        assert!(read.running(now).values().all(|row| row.ends.is_some()), "by this boot's clock from now on");
        assert_eq!(read.running(now).len(), 1);
        assert!(read.running(now + Duration::from_secs(600)).is_empty(), "it ends");
    }

    #[test]
    fn an_unreadable_file_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let store = Dir::create_all(dir.path()).unwrap();
        store.write_atomic(&own("leases.json"), b"{", 0o644).unwrap();
        let leases = Leases::open(&store, Timestamp::now(), Instant::now()).unwrap();
        assert!(leases.running(Instant::now()).is_empty());
        assert_eq!(store.read(&own("leases.json.unreadable"), 10).unwrap(), b"{");
    }
}
