//! The directories that were filled for peers, on record by file handle: nobody here has a path to them.
//!
//! They stand in `seeds.json` beside the targets below `seed.root`. They are bounded in number, for all and for each
//! user, and in size: nothing is kept that a peer wrote at length. What must hold: one that is hard-linked holds its
//! version for as long as it is there, over restarts, and one that is gone holds nothing.

use std::collections::BTreeMap;
use std::sync::Mutex;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::lock;
use super::mark::{Identity, Mark, Wanted};
use super::record::{Line, MOST, Records};
use crate::fs::{self, Dir, FileHandle, HandleError, LinkMode};
use crate::intent::{ArtifactName, Digest, VersionName};

/// Bytes that are kept of what a peer calls its directory: the end, which tells most.
const SHOWN: usize = 512;
/// Bytes that are kept of why it is not seeded by a better way: a peer can write the mark that says so.
const REASON: usize = 256;
/// Directories that one user other than root may have on record.
const SHARE: usize = 1000;

/// A directory filled for a peer.
#[derive(Debug, Clone, PartialEq)]
pub struct Filled {
    /// Which directory.
    pub handle: FileHandle,
    /// Where the peer had it: for display only.
    pub target: String,
    /// Which artifact.
    pub artifact: ArtifactName,
    /// Which version.
    pub version: VersionName,
    /// Digest of the tree that was put there.
    pub tree_digest: Digest,
    /// How the files got there.
    pub mode: LinkMode,
    /// Why not by a better way.
    pub reason: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// One of them in `seeds.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FilledRow {
    pub(super) handle: FileHandle,
    target: String,
    /// For whom it was filled.
    #[serde(default)]
    uid: u32,
    mark: Mark,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct FilledRows(Mutex<BTreeMap<FileHandle, FilledRow>>);

fn has_room(rows: &BTreeMap<FileHandle, FilledRow>, handle: &FileHandle, uid: u32) -> bool {
    let share = || uid == 0 || rows.values().filter(|row| row.uid == uid).count() < SHARE;
    rows.contains_key(handle) || (rows.len() < MOST && share())
}

impl FilledRows {
    pub(super) fn new(rows: Vec<FilledRow>) -> Self {
        Self(Mutex::new(rows.into_iter().map(|row| (row.handle.clone(), row)).collect()))
    }

    /// Whether any of them is so.
    pub(super) fn any(&self, what: impl Fn(&Mark) -> bool) -> bool {
        lock(&self.0).values().any(|row| what(&row.mark))
    }

    /// To be written down now.
    pub(super) fn to_write(&self) -> Vec<FilledRow> {
        lock(&self.0).values().cloned().collect()
    }
}

impl FilledRow {
    fn stands(&self, mount: &Dir) -> bool {
        let dir = match mount.open_by_handle(&self.handle, self.target.as_ref()) {
            Ok(dir) => dir,
            Err(HandleError::Stale) => return false,
            // What cannot be looked at is not forgotten for that.
            Err(_) => return true,
        };
        // Removed, and held open by somebody.
        if dir.stat_self().is_ok_and(|stat| stat.links == 0) {
            return false;
        }
        let own =
            Wanted { artifact: &self.mark.artifact, version: &self.mark.version, tree_digest: &self.mark.tree_digest };
        match self.mark_of(&dir) {
            Ok(found) => found.is_some_and(|found| found.holds(own)),
            Err(_) => true,
        }
    }

    /// What `dir`, opened by this row's handle, holds: as it says itself, else, where its mark was lost or could not be
    /// put there, as it is on record.
    fn mark_of(&self, dir: &Dir) -> fs::Result<Option<Mark>> {
        if let Some(mark) = Mark::on(dir)? {
            return Ok(Some(mark));
        }
        Ok(self.mark.id.is_still(&Identity::of(dir)?).then(|| self.mark.clone()))
    }

    fn told(self) -> Filled {
        let Self { handle, target, mark, .. } = self;
        Filled {
            handle,
            target,
            artifact: mark.artifact,
            version: mark.version,
            tree_digest: mark.tree_digest,
            mode: mark.mode,
            reason: mark.reason,
            at: mark.at,
        }
    }
}

impl Records {
    /// Notes what a directory holds now, which is `None` where there is no room for it. What is hard-linked always finds
    /// some: that there is was seen before it was.
    pub(super) fn keep_filled(&self, handle: FileHandle, target: &str, uid: u32, mark: &Mark) -> Option<Filled> {
        let row = FilledRow { handle: handle.clone(), target: shown(target), uid, mark: bounded(mark) };
        let told = row.clone().told();
        let mut rows = lock(&self.filled.0);
        if rows.get(&handle) == Some(&row) {
            return Some(told);
        }
        if mark.mode != LinkMode::Hardlink && !has_room(&rows, &handle, uid) {
            return None;
        }
        rows.insert(handle, row.clone());
        drop(rows);
        self.recent.add(&Line { filled: Some(row), ..Line::default() });
        self.write_down_later();
        Some(told)
    }

    /// What a directory holds, by itself or by its record.
    pub(super) fn mark_of_filled(&self, handle: &FileHandle, dir: &Dir) -> fs::Result<Option<Mark>> {
        let row = lock(&self.filled.0).get(handle).cloned();
        row.map_or_else(|| Mark::on(dir), |row| row.mark_of(dir))
    }

    /// Whether there is room for another of this user. What does not stand any more is forgotten before it is denied.
    pub(super) fn has_room_for(&self, mount: &Dir, handle: &FileHandle, uid: u32) -> bool {
        let room = || has_room(&lock(&self.filled.0), handle, uid);
        room() || {
            self.look_at_filled(mount, |_| true);
            room()
        }
    }

    /// Those that stand.
    pub(super) fn all_filled(&self, mount: &Dir) -> Vec<Filled> {
        self.look_at_filled(mount, |_| true);
        self.known_filled()
    }

    /// Those that stood when they were last looked at.
    pub(super) fn known_filled(&self) -> Vec<Filled> {
        lock(&self.filled.0).values().cloned().map(FilledRow::told).collect()
    }

    /// Looks at some of them, and forgets those that do not stand any more. Whether there were any.
    pub(super) fn look_at_filled(&self, mount: &Dir, which: impl Fn(&str) -> bool) -> bool {
        let rows: Vec<FilledRow> = lock(&self.filled.0).values().filter(|row| which(&row.target)).cloned().collect();
        let gone: Vec<FilledRow> = rows.into_iter().filter(|row| !row.stands(mount)).collect();
        if gone.is_empty() {
            return false;
        }
        let mut rows = lock(&self.filled.0);
        for row in gone {
            // One that was filled again meanwhile is another row.
            if rows.get(&row.handle) == Some(&row) {
                rows.remove(&row.handle);
            }
        }
        drop(rows);
        self.write_down_later();
        true
    }
}

/// The end of a path, for display.
fn shown(target: &str) -> String {
    let mut start = target.len().saturating_sub(SHOWN);
    while !target.is_char_boundary(start) {
        start += 1;
    }
    printable(&target[start..])
}

/// Control characters take up to six bytes in JSON, and have no business on a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// The start of a reason that a peer may have written.
pub(super) fn short(reason: &str) -> String {
    let mut end = reason.len().min(REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    printable(&reason[..end])
}

/// A mark without what is not needed here and as long as a peer likes.
fn bounded(mark: &Mark) -> Mark {
    Mark {
        artifact: mark.artifact.clone(),
        version: mark.version.clone(),
        tree_digest: mark.tree_digest.clone(),
        mode: mark.mode,
        reason: mark.reason.as_deref().map(short),
        at: mark.at,
        boot: None,
        fetched: None,
        rendered: Vec::new(),
        id: mark.id,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;

    #[test]
    fn what_is_shown_is_bounded() {
        assert_eq!(shown("/data/a"), "/data/a");
        let long = "é".repeat(1000);
        assert!(shown(&format!("x{long}")).len() <= SHOWN);
        assert!(long.ends_with(&shown(&long)));
        assert!(short(&long).len() <= REASON && long.starts_with(&short(&long)));
        assert_eq!(short("a\x1b\n"), "a\u{fffd}\u{fffd}");
    }

    fn mark_of(dir: &Dir, mode: LinkMode, reason: Option<String>) -> Mark {
        let (artifact, version) = ("thing".parse().unwrap(), "v1".parse().unwrap());
        let digest = Digest::sha256(b"tree");
        Mark::new(Wanted { artifact: &artifact, version: &version, tree_digest: &digest }, mode, reason, dir).unwrap()
    }

    #[test]
    fn no_user_takes_the_room_of_others_and_no_row_is_large() {
        let temp = tempfile::tempdir().unwrap();
        let store = Dir::create_all(&temp.path().join("store")).unwrap();
        let records = Records::open(&store).unwrap();
        let handle = |number: usize| format!("00000001{number:016x}").parse::<FileHandle>().unwrap();
        let mut mark = mark_of(&store, LinkMode::Copy, Some("\u{1}".repeat(60_000)));
        mark.boot = Some("x".repeat(60_000));
        mark.rendered = vec!["a/file".parse().unwrap()];
        let kept = |from: usize, count: usize, uid| {
            (from..from + count).filter(|&n| records.keep_filled(handle(n), "/data", uid, &mark).is_some()).count()
        };
        assert_eq!(kept(0, SHARE + 10, 1000), SHARE);
        let room = |number, uid| has_room(&lock(&records.filled.0), &handle(number), uid);
        assert!(!room(SHARE, 1000) && room(0, 1000) && room(SHARE, 1001) && room(SHARE, 0));
        assert_eq!(kept(SHARE, 1, 1000), 0);
        assert_eq!(kept(MOST, MOST, 0), MOST - SHARE);
        assert!(!room(3 * MOST, 0) && !room(3 * MOST, 1001));
        let row = records.filled.to_write().remove(0);
        assert!(serde_json::to_string(&row).unwrap().len() < 2048, "{row:?}");
    }

    #[test]
    fn records_outlive_a_restart_and_end_with_their_directory() {
        let temp = tempfile::tempdir().unwrap();
        let store = Dir::create_all(&temp.path().join("store")).unwrap();
        let names = ["a", "b"].map(|name| temp.path().join(name));
        let records = Records::open(&store).unwrap();
        for path in &names {
            let dir = Dir::create_all(path).unwrap();
            let mark = mark_of(&dir, LinkMode::Hardlink, None);
            mark.put(&dir).unwrap();
            records.keep_filled(dir.handle().unwrap(), path.to_str().unwrap(), 0, &mark).unwrap();
        }
        drop(records);
        let records = Records::open(&store).unwrap();
        let targets = || records.all_filled(&store).into_iter().map(|filled| filled.target).collect::<Vec<_>>();
        assert_eq!(targets().len(), 2);
        std::fs::remove_dir(&names[0]).unwrap();
        assert_eq!(targets(), [names[1].to_str().unwrap()], "handles are opened by root only: run this as root");
        // One that was noted just before a kill is known, too.
        let late = temp.path().join("late");
        let dir = Dir::create_all(&late).unwrap();
        let mark = mark_of(&dir, LinkMode::Hardlink, None);
        mark.put(&dir).unwrap();
        records.keep_filled(dir.handle().unwrap(), "late", 0, &mark).unwrap();
        let restarted = Records::open(&store).unwrap().all_filled(&store);
        assert!(restarted.iter().any(|filled| filled.target == "late"));
        // A seed below the root is written down beside them, and neither loses the other.
        records.write_down_later();
        records.write_down();
        assert_eq!(Records::open(&store).unwrap().all_filled(&store).len(), targets().len());
    }
}
