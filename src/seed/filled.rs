//! The directories that were filled for peers, on record by file handle: nobody here has a path to them.
//!
//! They stand in `seeds.json` beside the targets below `seed.root`. What must hold: one that is hard-linked holds its
//! version for as long as it is there, over restarts, and one that is gone holds nothing.

use std::collections::BTreeMap;
use std::sync::Mutex;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::lock;
use super::mark::{Identity, Mark, Wanted};
use super::record::{MOST, Records};
use crate::fs::{Dir, FileHandle, HandleError, LinkMode};
use crate::intent::{ArtifactName, Digest, VersionName};

/// Bytes that are kept of what a peer calls its directory: the end, which tells most.
const SHOWN: usize = 512;

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
    mark: Mark,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct FilledRows(Mutex<BTreeMap<FileHandle, FilledRow>>);

impl FilledRows {
    pub(super) fn new(rows: Vec<FilledRow>) -> Self {
        Self(Mutex::new(rows.into_iter().map(|row| (row.handle.clone(), row)).collect()))
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
        let own =
            Wanted { artifact: &self.mark.artifact, version: &self.mark.version, tree_digest: &self.mark.tree_digest };
        match Mark::on(&dir) {
            Ok(Some(found)) => found.holds(own),
            // It bears none where there are no attributes.
            Ok(None) => Identity::of(&dir).is_ok_and(|found| self.mark.id.is_still(&found)),
            Err(_) => true,
        }
    }

    fn told(self) -> Filled {
        let Self { handle, target, mark } = self;
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
    /// Notes what a directory holds now.
    pub(super) fn keep_filled(&self, handle: FileHandle, target: &str, mark: Mark) {
        let row = FilledRow { handle: handle.clone(), target: shown(target).to_owned(), mark };
        let mut rows = lock(&self.filled.0);
        if rows.get(&handle) == Some(&row) {
            return;
        }
        rows.insert(handle, row);
        drop(rows);
        self.write_down_later();
    }

    /// Whether there is no room for another. What does not stand any more is forgotten before that is said.
    pub(super) fn too_many_filled(&self, mount: &Dir, handle: Option<&FileHandle>) -> bool {
        let full = || {
            let rows = lock(&self.filled.0);
            rows.len() >= MOST && handle.is_some_and(|handle| !rows.contains_key(handle))
        };
        full() && {
            self.all_filled(mount);
            full()
        }
    }

    /// All of them, not looked at.
    pub(super) fn known_filled(&self) -> Vec<Filled> {
        lock(&self.filled.0).values().cloned().map(FilledRow::told).collect()
    }

    /// Those that stand.
    pub(super) fn all_filled(&self, mount: &Dir) -> Vec<Filled> {
        let rows: Vec<FilledRow> = lock(&self.filled.0).values().cloned().collect();
        let (standing, gone): (Vec<FilledRow>, Vec<FilledRow>) = rows.into_iter().partition(|row| row.stands(mount));
        if !gone.is_empty() {
            let mut rows = lock(&self.filled.0);
            for row in gone {
                // One that was filled again meanwhile is another row.
                if rows.get(&row.handle) == Some(&row) {
                    rows.remove(&row.handle);
                }
            }
            drop(rows);
            self.write_down_later();
        }
        standing.into_iter().map(FilledRow::told).collect()
    }
}

/// The end of a path, for display.
fn shown(target: &str) -> &str {
    let mut start = target.len().saturating_sub(SHOWN);
    while !target.is_char_boundary(start) {
        start += 1;
    }
    &target[start..]
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
        assert!(long.ends_with(shown(&long)));
    }

    #[test]
    fn records_outlive_a_restart_and_end_with_their_directory() {
        let temp = tempfile::tempdir().unwrap();
        let store = Dir::create_all(&temp.path().join("store")).unwrap();
        let names = ["a", "b"].map(|name| temp.path().join(name));
        let records = Records::open(&store);
        for path in &names {
            let dir = Dir::create_all(path).unwrap();
            let (artifact, version) = ("thing".parse().unwrap(), "v1".parse().unwrap());
            let digest = Digest::sha256(b"tree");
            let wanted = Wanted { artifact: &artifact, version: &version, tree_digest: &digest };
            let mark = Mark::new(wanted, LinkMode::Hardlink, None, &dir).unwrap();
            mark.put(&dir).unwrap();
            records.keep_filled(dir.handle().unwrap(), path.to_str().unwrap(), mark);
        }
        drop(records);
        let records = Records::open(&store);
        let targets = || records.all_filled(&store).into_iter().map(|filled| filled.target).collect::<Vec<_>>();
        assert_eq!(targets().len(), 2);
        std::fs::remove_dir(&names[0]).unwrap();
        if rustix::process::geteuid().is_root() {
            assert_eq!(targets(), [names[1].to_str().unwrap()]);
        }
        // A seed below the root is written down beside them, and neither loses the other.
        records.write_down_later();
        records.write_down(std::time::Duration::ZERO);
        assert_eq!(Records::open(&store).all_filled(&store).len(), targets().len());
    }
}
