//! What has been seeded where: `seeds.json` in the store.
//!
//! Where targets bear their marks themselves this is an index of them, and a lost one costs only the list. On file
//! systems without extended attributes it is the truth: then it is written durably, before the target is swapped. The
//! index alone is written every few seconds, however many seeds there are, and with the daemon's end; what came since
//! stands in `seeds.recent`.
//!
//! What must hold: nobody who asks what is known waits for the disk, since a version that is about to be removed is kept from
//! its readers meanwhile. So all is written from a copy, in the order in which the copies were taken.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::busy::Busy;
use super::filled::{FilledRow, FilledRows};
use super::look::look_in;
use super::mark::{Identity, Mark, Marks};
use super::recent::{Held, Recent};
use super::standing::{Empty, Standing};
use super::{SeedError, lock};
use crate::fs::{self, Dir, LinkMode, RelPath, Rename, fail_point};
use crate::intent::{ArtifactName, Digest, VersionName};
use crate::store::read_json_file;

/// Targets that a node may have.
pub(super) const MOST: usize = 10_000;
/// Targets that are not there, remembered for when they are again, as once their file system is mounted; the oldest go first.
const MISSING: usize = 1000;
/// Bytes of `seeds.json`.
const LIMIT: u64 = 64 << 20;

/// What one target holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Below `seed.root`.
    pub target: RelPath,
    /// Which artifact.
    pub artifact: ArtifactName,
    /// Which version.
    pub version: VersionName,
    /// Digest of the tree that was put there.
    pub tree_digest: Digest,
    /// How the files got there.
    pub mode: LinkMode,
    /// Why not by a better way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// One target in `seeds.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    target: RelPath,
    /// What stands there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mark: Option<Mark>,
    /// What is about to be swapped in: after a crash the target is the one or the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<Mark>,
    /// The target bears the mark itself.
    on_target: bool,
    /// It was not there when it was looked for last, and this row is all that knows of it.
    #[serde(skip)]
    missing: bool,
}

impl Row {
    fn seeded_at(&self) -> Option<Timestamp> {
        self.next.as_ref().or(self.mark.as_ref()).map(|mark| mark.at)
    }
}

/// What is at a target that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// What was seeded, or what cannot be looked at.
    Seed,
    /// Nothing, or an empty directory, as where a file system is not mounted yet.
    Nothing,
    Other,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Written {
    seeds: Vec<Row>,
    /// By file handle: what no path from here leads to.
    #[serde(default)]
    filled: Vec<FilledRow>,
}

/// A line of `seeds.recent`: the one or the other.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) seed: Option<Row>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) filled: Option<FilledRow>,
}

/// The marks of one target, on itself or in the records.
#[derive(Debug)]
pub(super) struct At<'a> {
    records: &'a Records,
    target: &'a RelPath,
}

impl Marks for At<'_> {
    fn of(&self, dir: &Dir) -> fs::Result<Option<Mark>> {
        self.records.mark_of(dir, self.target)
    }

    fn put(&self, dir: &Dir, mark: &Mark) -> fs::Result<()> {
        self.records.announce(self.target, dir, mark)
    }
}

type Rows = BTreeMap<RelPath, Row>;

/// All that is known of what was seeded.
#[derive(Debug)]
pub(super) struct Records {
    store: Dir,
    /// Never held while the disk is asked for anything.
    rows: Mutex<Rows>,
    pub(super) filled: FilledRows,
    /// `seeds.json` is behind what is known.
    unwritten: AtomicBool,
    pub(super) recent: Recent,
    boot: Option<String>,
    /// Marks are put on targets; tests do without, as some file systems must.
    pub(super) attributes: bool,
}

fn file_name(name: &'static str) -> RelPath {
    RelPath::parse(name).unwrap_or_else(|e| unreachable!("{name} is a component: {e}"))
}

impl Records {
    /// Reads `seeds.json` below the store's root; one that is not understood is put aside.
    pub(super) fn open(store: &Dir) -> fs::Result<Self> {
        let Written { seeds, filled } = read_json_file(store, "seeds.json", LIMIT)?.unwrap_or_default();
        let recent = Recent::new(store);
        let (mut all_seeds, mut all_filled) = (seeds, filled);
        let lines = recent.read()?;
        // What the last daemon left there goes into `seeds.json` soon, and half a line with it.
        let unwritten = AtomicBool::new(!lines.is_empty());
        for Line { seed, filled } in lines {
            all_seeds.extend(seed);
            all_filled.extend(filled);
        }
        // Of several the last counts.
        let rows = Mutex::new(all_seeds.into_iter().map(|row| (row.target.clone(), row)).collect());
        let filled = FilledRows::new(all_filled);
        Ok(Self { store: store.clone(), rows, filled, unwritten, recent, boot: fs::boot_id(), attributes: true })
    }

    /// Which boot this is, for marks.
    pub(super) fn boot(&self) -> Option<&str> {
        self.boot.as_deref()
    }

    /// The marks of `target`.
    pub(super) fn at<'a>(&'a self, target: &'a RelPath) -> At<'a> {
        At { records: self, target }
    }

    /// What `dir`, found at `target`, was seeded with; `None` when seedcache did not make it.
    pub(super) fn mark_of(&self, dir: &Dir, target: &RelPath) -> fs::Result<Option<Mark>> {
        if self.attributes
            && let Some(mark) = Mark::on(dir)?
        {
            return Ok(Some(mark));
        }
        let found = Identity::of(dir)?;
        let rows = lock(&self.rows);
        let Some(row) = rows.get(target).filter(|row| !row.on_target) else { return Ok(None) };
        Ok([&row.next, &row.mark].into_iter().flatten().find(|mark| mark.id.is_still(&found)).cloned())
    }

    /// Marks a directory that is about to stand at `target`, or stands there.
    pub(super) fn announce(&self, target: &RelPath, dir: &Dir, mark: &Mark) -> fs::Result<()> {
        fail_point("seed.mark.before-put");
        if self.attributes && mark.put(dir)? {
            fail_point("seed.mark.after-put");
            return Ok(());
        }
        self.save(self.recent.hold(), |rows| {
            let before = rows.get(target).and_then(|row| row.mark.clone());
            let row = Row {
                target: target.clone(),
                mark: before,
                next: Some(mark.clone()),
                on_target: false,
                missing: false,
            };
            rows.insert(target.clone(), row);
        })?;
        if self.attributes { Mark::take_off(dir) } else { Ok(()) }
    }

    /// Notes that the announced directory stands at `target` now. What fails here is only told: the mark is safe.
    pub(super) fn keep(&self, target: &RelPath, dir: &Dir, mut mark: Mark) {
        let on_target = lock(&self.rows).get(target).is_none_or(|row| row.on_target || row.missing);
        // The swap is not synced. As long as a power loss can undo it, the record must know the tree before, too.
        if !on_target && let Err(error) = dir.sync_filesystem() {
            tracing::warn!(%error, %target, "seed not noted in seeds.json as the only one");
            return;
        }
        // The swap itself was a change of the directory, and so is mending.
        if !on_target && let Ok(identity) = Identity::of(dir) {
            mark.id = identity;
        }
        let row = Row { target: target.clone(), mark: Some(mark), next: None, on_target, missing: false };
        if lock(&self.rows).get(target) == Some(&row) {
            return;
        }
        if on_target {
            lock(&self.rows).insert(target.clone(), row.clone());
            self.recent.add(&Line { seed: Some(row), filled: None });
            return self.write_down_later();
        }
        let saved = self.save(self.recent.hold(), |rows| {
            rows.insert(target.clone(), row);
        });
        if let Err(error) = saved {
            tracing::warn!(%error, %target, "seed not noted in seeds.json");
        }
    }

    /// A target above or below `target` that still stands.
    pub(super) fn overlapping(&self, root: &Dir, target: &RelPath) -> Option<RelPath> {
        let overlaps = |other: &RelPath| other != target && (other.starts_with(target) || target.starts_with(other));
        let rows: Vec<Row> = lock(&self.rows).values().filter(|row| overlaps(&row.target)).cloned().collect();
        rows.into_iter().find(|row| self.stands(root, row)).map(|row| row.target)
    }

    /// Whether there is no room for another target.
    pub(super) fn is_full(&self, root: &Dir, target: &RelPath, busy: &Busy) -> bool {
        let full = || {
            let rows = lock(&self.rows);
            rows.len() >= MOST && !rows.contains_key(target)
        };
        full() && {
            self.look(root, busy, 0);
            full()
        }
    }

    /// What stands. What does not any more is forgotten, but for what is about to stand where somebody is `busy`, and for
    /// what only the records know of: it may come back.
    pub(super) fn all(&self, root: &Dir, busy: &Busy) -> Vec<Record> {
        self.look(root, busy, MISSING)
    }

    /// The same; of what is not there at most so many are kept.
    fn look(&self, root: &Dir, busy: &Busy, most_missing: usize) -> Vec<Record> {
        let rows: Vec<Row> = lock(&self.rows).values().cloned().collect();
        let looked: Vec<(Row, Found)> = rows.into_iter().map(|row| (row.clone(), self.find(root, &row))).collect();
        let mut rows = lock(&self.rows);
        for (row, found) in &looked {
            // One that was seeded again meanwhile is another row.
            let Some(known) = rows.get_mut(&row.target).filter(|known| **known == *row) else { continue };
            match found {
                Found::Seed => known.missing = false,
                _ if busy.holds(&row.target) => {}
                Found::Nothing if !row.on_target => known.missing = true,
                _ => drop(rows.remove(&row.target)),
            }
        }
        forget_missing(&mut rows, most_missing);
        drop(rows);
        let standing = looked.into_iter().filter(|(_, found)| *found == Found::Seed);
        standing.filter_map(|(row, _)| record(row)).collect()
    }

    /// What is known to stand, or was when it was looked at last.
    pub(super) fn known(&self) -> Vec<Record> {
        let rows: Vec<Row> = lock(&self.rows).values().filter(|row| !row.missing).cloned().collect();
        rows.into_iter().filter_map(record).collect()
    }

    /// Whether any target, as far as is known, holds a version's own files, or is about to. What is not there keeps no version.
    pub(super) fn are_linked(&self, artifact: &ArtifactName, version: &VersionName) -> bool {
        let linked = |mark: &Mark| mark.links(artifact, version);
        let rows = lock(&self.rows);
        let there = rows.values().filter(|row| !row.missing);
        there.flat_map(|row| [&row.mark, &row.next]).flatten().any(linked) || self.filled.any(linked)
    }

    /// What one target holds, where it is known and stands.
    pub(super) fn one(&self, root: &Dir, target: &RelPath) -> Option<Record> {
        let row = lock(&self.rows).get(target).cloned()?;
        let stands = self.stands(root, &row);
        record(row).filter(|_| stands)
    }

    fn stands(&self, root: &Dir, row: &Row) -> bool {
        self.find(root, row) == Found::Seed
    }

    fn find(&self, root: &Dir, row: &Row) -> Found {
        let dir = root.open_dir(&row.target).map_err(SeedError::from);
        match dir.and_then(|dir| look_in(dir, &self.at(&row.target))) {
            Ok(Standing::Ours(_) | Standing::Torn(_)) => Found::Seed,
            Ok(Standing::Nothing | Standing::Foreign(_, Empty::Yes)) => Found::Nothing,
            Ok(Standing::Foreign(_, Empty::No)) => Found::Other,
            Err(SeedError::Fs(error)) if error.is_not_found() => Found::Nothing,
            Err(SeedError::Fs(error)) if error.leads_nowhere() => Found::Other,
            // What cannot be looked at is not forgotten for that.
            Err(_) => Found::Seed,
        }
    }

    /// Something is known that is to be written down by the next [`Records::write_down`]; no seed waits for that.
    pub(super) fn write_down_later(&self) {
        self.unwritten.store(true, Relaxed);
    }

    /// Writes all down that is known, if there is anything new.
    pub(super) fn write_down(&self) {
        // Who waits here for another who writes finds that there is nothing left to do.
        let recent = self.recent.hold();
        if self.unwritten.load(Relaxed)
            && let Err(error) = self.save(recent, |_| ())
        {
            tracing::warn!(%error, "seeds not noted in seeds.json; tried again later");
        }
    }

    /// Makes a change, and writes all down as it is then. `recent` is held from before the copy is taken until it is written:
    /// so it never comes over a later one.
    fn save(&self, recent: Held, change: impl FnOnce(&mut Rows)) -> fs::Result<()> {
        self.unwritten.store(false, Relaxed);
        let written = {
            let mut rows = lock(&self.rows);
            change(&mut rows);
            Written { seeds: rows.values().cloned().collect(), filled: self.filled.to_write() }
        };
        fail_point("seed.records.before-write");
        let done = self.write(&written);
        fail_point("seed.records.after-write");
        match done {
            Ok(()) => recent.empty(&self.recent),
            Err(_) => self.write_down_later(),
        }
        done
    }

    fn write(&self, written: &Written) -> fs::Result<()> {
        let name = file_name("seeds.json");
        let json = serde_json::to_vec_pretty(written)
            .unwrap_or_else(|e| unreachable!("plain fields with text keys serialise: {e}"));
        if written.seeds.iter().any(|row| !row.on_target) {
            return self.store.write_atomic(&name, &json, 0o644);
        }
        // Nothing here that the targets do not say themselves: not worth two syncs a seed.
        let temporary = self.store.temporary_name(&name)?;
        let mut file = self.store.create_file(&temporary, 0o644)?;
        file.write_all(&json)
            .map_err(|e| fs::Error::new("write", &self.store.path_of(&name), e))
            .and_then(|()| self.store.rename(&temporary, &self.store, &name, Rename::Replace))
            .inspect_err(|_| drop(self.store.remove_file(&temporary)))
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        self.write_down();
    }
}

/// Forgets those that are missing and were seeded the longest ago, so that at most so many are left.
fn forget_missing(rows: &mut Rows, most: usize) {
    let missing = rows.values().filter(|row| row.missing);
    let mut oldest_first: Vec<_> = missing.map(|row| (row.seeded_at(), row.target.clone())).collect();
    oldest_first.sort();
    let over = oldest_first.len().saturating_sub(most);
    for (_, target) in &oldest_first[..over] {
        rows.remove(target);
    }
}

fn record(row: Row) -> Option<Record> {
    let Mark { artifact, version, tree_digest, mode, reason, at, .. } = row.mark.or(row.next)?;
    Some(Record { target: row.target, artifact, version, tree_digest, mode, reason, at })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::super::mark::Wanted;
    use super::*;

    struct Ground {
        temp: tempfile::TempDir,
        store: Dir,
        root: Dir,
    }

    impl Ground {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            let [store, root] = ["store", "root"].map(|name| Dir::create_all(&temp.path().join(name)).unwrap());
            Self { temp, store, root }
        }

        fn announce(&self, records: &Records, name: &str) -> (RelPath, Dir, Mark) {
            let dir = Dir::create_all(&self.temp.path().join("root").join(name)).unwrap();
            let target = name.parse().unwrap();
            let (artifact, version) = ("thing".parse().unwrap(), "v1".parse().unwrap());
            let digest = Digest::sha256(b"tree");
            let wanted = Wanted { artifact: &artifact, version: &version, tree_digest: &digest };
            let mark = Mark::new(wanted, LinkMode::Hardlink, None, &dir).unwrap();
            records.announce(&target, &dir, &mark).unwrap();
            (target, dir, mark)
        }

        fn keep(&self, records: &Records, name: &str) {
            let (target, dir, mark) = self.announce(records, name);
            records.keep(&target, &dir, mark);
        }

        /// What stands in `seeds.json`.
        fn written(&self) -> Vec<String> {
            read_json_file::<Written>(&self.store, "seeds.json", LIMIT)
                .unwrap()
                .unwrap()
                .seeds
                .iter()
                .map(|row| row.target.to_string())
                .collect()
        }

        /// What the next daemon knows.
        fn known(&self) -> Vec<String> {
            let records = Records::open(&self.store).unwrap();
            let known =
                records.all(&self.root, &Busy::default()).iter().map(|record| record.target.to_string()).collect();
            // It is not ended: that would write down what it knows.
            std::mem::forget(records);
            known
        }
    }

    #[test]
    fn many_seeds_are_written_down_together_where_targets_bear_their_marks() {
        let ground = Ground::new();
        let mut records = Records::open(&ground.store).unwrap();
        ground.keep(&records, "a");
        records.write_down();
        assert_eq!(ground.written(), ["a"]);
        ground.keep(&records, "b");
        ground.keep(&records, "c");
        assert_eq!(ground.written(), ["a"]);
        // Where there are no attributes it is written before the swap, whenever that is.
        records.attributes = false;
        ground.keep(&records, "d");
        assert_eq!(ground.written(), ["a", "b", "c", "d"]);
        records.attributes = true;
        ground.keep(&records, "e");
        assert_eq!(ground.written().last().unwrap(), "d");
        drop(records);
        assert_eq!(ground.written(), ["a", "b", "c", "d", "e"]);
    }

    #[test]
    fn a_mark_on_record_takes_the_place_of_the_one_on_the_target() {
        let ground = Ground::new();
        let records = Records::open(&ground.store).unwrap();
        let (target, dir, mark) = ground.announce(&records, "a");
        records.keep(&target, &dir, mark.clone());
        // No attribute has room for it.
        let next = Mark { version: "v2".parse().unwrap(), reason: Some("x".repeat(70_000)), ..mark };
        records.announce(&target, &dir, &next).unwrap();
        assert_eq!(records.mark_of(&dir, &target).unwrap(), Some(next.clone()));
        records.keep(&target, &dir, next.clone());
        assert_eq!(records.mark_of(&dir, &target).unwrap().map(|mark| mark.version), Some(next.version));
    }

    #[test]
    fn what_was_kept_is_known_after_a_kill() {
        let ground = Ground::new();
        let records = Records::open(&ground.store).unwrap();
        ground.keep(&records, "a");
        records.write_down();
        ground.keep(&records, "b");
        ground.keep(&records, "c");
        std::mem::forget(records);
        assert_eq!(
            (ground.written(), ground.known()),
            (vec!["a".to_owned()], vec!["a".into(), "b".into(), "c".into()])
        );
        // Half a line is none, and costs none of the others.
        let recent = ground.temp.path().join("store/seeds.recent");
        let whole = std::fs::read(&recent).unwrap();
        std::fs::write(&recent, &whole[..whole.len() - 2]).unwrap();
        assert_eq!(ground.known(), ["a", "b"]);
        // It is cut off, so that a second kill costs nothing of what came after it.
        let records = Records::open(&ground.store).unwrap();
        ground.keep(&records, "e");
        std::mem::forget(records);
        assert_eq!(ground.known(), ["a", "b", "e"]);
        // The next daemon takes it up, and none of it is there twice.
        let records = Records::open(&ground.store).unwrap();
        ground.keep(&records, "d");
        drop(records);
        assert_eq!(ground.written(), ["a", "b", "d", "e"]);
        assert!(std::fs::read(&recent).unwrap_or_default().is_empty());
    }

    #[test]
    fn what_was_announced_is_not_forgotten_before_it_stands() {
        let ground = Ground::new();
        let mut records = Records::open(&ground.store).unwrap();
        records.attributes = false;
        let (target, dir, mark) = ground.announce(&records, "a");
        let busy = Busy::default();
        let turn = busy.enter(&target, std::time::Duration::ZERO).unwrap();
        let hidden = ground.temp.path().join("hidden");
        std::fs::rename(ground.temp.path().join("root/a"), &hidden).unwrap();
        assert!(records.all(&ground.root, &busy).is_empty());
        std::fs::rename(&hidden, ground.temp.path().join("root/a")).unwrap();
        records.keep(&target, &dir, mark.clone());
        assert_eq!(records.mark_of(&dir, &target).unwrap().map(|mark| mark.artifact), Some(mark.artifact));
        // One whose seed failed keeps no version, and goes when there is no room.
        let (target, ..) = ground.announce(&records, "b");
        std::fs::remove_dir(ground.temp.path().join("root/b")).unwrap();
        drop(turn);
        assert_eq!(records.all(&ground.root, &busy).len(), 1);
        assert!(lock(&records.rows)[&target].missing);
        records.look(&ground.root, &busy, 0);
        assert!(!lock(&records.rows).contains_key(&target));
    }

    #[test]
    fn what_only_the_records_know_of_is_known_when_it_comes_back() {
        let ground = Ground::new();
        let at = |name: &str| ground.temp.path().join(name);
        let known = || {
            let mut records = Records::open(&ground.store).unwrap();
            records.attributes = false;
            let all = |records: &Records| {
                let all = records.all(&ground.root, &Busy::default());
                all.iter().map(|record| record.target.to_string()).collect::<Vec<_>>()
            };
            (records, all)
        };
        let (thing, version) = ("thing".parse().unwrap(), "v1".parse().unwrap());
        let (records, all) = known();
        ["a", "b", "c"].iter().for_each(|name| ground.keep(&records, name));
        assert_eq!(all(&records), ["a", "b", "c"]);
        drop(records);
        // Not mounted yet: there is nothing, or the empty directory that it is mounted on.
        for name in ["a", "b", "c"] {
            std::fs::rename(at("root").join(name), at(name)).unwrap();
        }
        std::fs::create_dir(at("root/b")).unwrap();
        // In the place of this one there is something else.
        std::fs::create_dir_all(at("root/c/other")).unwrap();
        let (records, all) = known();
        assert!(records.are_linked(&thing, &version), "nobody has looked yet");
        assert!(all(&records).is_empty());
        assert!(!records.are_linked(&thing, &version), "what is not there keeps no version");
        records.write_down_later();
        drop(records);
        std::fs::remove_dir(at("root/b")).unwrap();
        std::fs::remove_dir_all(at("root/c")).unwrap();
        let (records, all) = known();
        assert!(all(&records).is_empty());
        for name in ["a", "b", "c"] {
            std::fs::rename(at(name), at("root").join(name)).unwrap();
        }
        assert_eq!(all(&records), ["a", "b"]);
        assert!(records.are_linked(&thing, &version));
    }

    #[test]
    fn of_what_is_missing_the_newest_are_kept() {
        let ground = Ground::new();
        let mut records = Records::open(&ground.store).unwrap();
        records.attributes = false;
        for (name, second) in [("a", 2), ("b", 1), ("c", 3)] {
            let (target, dir, mut mark) = ground.announce(&records, name);
            mark.at = Timestamp::from_second(second).unwrap();
            records.keep(&target, &dir, mark);
            std::fs::remove_dir(ground.temp.path().join("root").join(name)).unwrap();
        }
        let left = |most| {
            assert!(records.look(&ground.root, &Busy::default(), most).is_empty());
            lock(&records.rows).keys().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(left(3), ["a", "b", "c"]);
        assert_eq!(left(2), ["a", "c"]);
        assert!(left(0).is_empty());
    }

    #[cfg(feature = "failpoints")]
    #[test]
    fn what_is_known_is_told_while_it_is_being_written() {
        use std::sync::mpsc::sync_channel;
        use std::time::Duration;
        const LONG: Duration = Duration::from_secs(60);

        let ground = Ground::new();
        let mut records = Records::open(&ground.store).unwrap();
        records.attributes = false;
        let (began, writing) = sync_channel(10);
        let (go_on, stopped) = sync_channel(10);
        let stopped = Mutex::new(stopped);
        let stop = move || {
            began.send(()).unwrap();
            lock(&stopped).recv_timeout(LONG).unwrap();
        };
        fail::cfg_callback("seed.records.before-write", stop).unwrap();
        std::thread::scope(|scope| {
            // Nothing is swapped before that is on the disk.
            let announced = scope.spawn(|| ground.announce(&records, "a"));
            writing.recv_timeout(LONG).unwrap();
            let (tell, told) = sync_channel(1);
            let (records, thing, version) = (&records, "thing".parse().unwrap(), "v1".parse().unwrap());
            scope.spawn(move || tell.send(records.are_linked(&thing, &version)));
            let told = told.recv_timeout(LONG / 2);
            let is_on_disk = announced.is_finished();
            go_on.send(()).unwrap();
            announced.join().unwrap();
            assert_eq!((told, is_on_disk), (Ok(true), false));
        });
        fail::remove("seed.records.before-write");
        assert_eq!(ground.written(), ["a"]);
    }
}
