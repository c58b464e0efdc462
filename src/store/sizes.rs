//! What directories of the store take: walked, or remembered for a while.
//!
//! What must hold: what cannot be looked at, as on a bad block, counts for nothing. It stops no download and no collection.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::layout::lock;
use crate::fs::{self, Dir, Kind, RelPath};
use crate::intent::error_chain;

/// A size holds for so many times as long as it took to find it: looking takes a hundredth of the time at most.
const HOLDS: u32 = 100;
/// Never longer, however long that was.
const LONGEST: Duration = Duration::from_secs(60);
/// Sizes remembered, and things that were told of.
const MOST: usize = 1000;
/// About how many directories are known of that are still to be looked into.
const MOST_AHEAD: usize = if cfg!(test) { 10 } else { 20_000 };

/// As deep as a path may be that the kernel takes: each level holds a directory open.
const DEEPEST: usize = 2048;

/// Sizes that were found lately, by name.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    found: Mutex<Found>,
    /// What could not be looked at, and was told of.
    told: Mutex<BTreeSet<PathBuf>>,
}

#[derive(Debug, Default)]
struct Found {
    sizes: BTreeMap<RelPath, Size>,
    /// How often they were forgotten: what was being found meanwhile is not as it is by then.
    forgotten: u64,
}

#[derive(Debug)]
struct Size {
    bytes: u64,
    holds_until: Instant,
}

/// A directory that is still to be looked into.
struct Ahead {
    parent: Dir,
    name: RelPath,
    /// So many directories in it were looked into.
    passed: usize,
    depth: usize,
}

impl Sizes {
    /// The size of that name as it was found lately, else as it is found now.
    pub(super) fn lately(&self, name: &RelPath, walk: impl FnOnce() -> u64) -> u64 {
        let began = Instant::now();
        let forgotten = {
            let found = lock(&self.found);
            if let Some(size) = found.sizes.get(name).filter(|size| began < size.holds_until) {
                return size.bytes;
            }
            found.forgotten
        };
        let bytes = walk();
        let holds = began.elapsed().saturating_mul(HOLDS).min(LONGEST);
        let mut found = lock(&self.found);
        if found.forgotten == forgotten {
            if found.sizes.len() >= MOST {
                found.sizes.clear();
            }
            found.sizes.insert(name.clone(), Size { bytes, holds_until: began + holds });
        }
        bytes
    }

    /// Something has moved from one place to another, or what was left alone has been written to.
    pub(super) fn forget(&self) {
        let mut found = lock(&self.found);
        found.sizes.clear();
        found.forgotten += 1;
    }

    /// The entries; none where the directory went meanwhile, or cannot be listed.
    pub(super) fn entries(&self, dir: &Dir) -> Vec<fs::DirEntry> {
        entries(dir).unwrap_or_else(|error| {
            self.passed_over(&error);
            Vec::new()
        })
    }

    /// Bytes of the regular files in `entry`. What goes away meanwhile counts for nothing, and so does what cannot be looked
    /// at.
    pub(super) fn size_of(&self, parent: &Dir, entry: &fs::DirEntry) -> u64 {
        if entry.kind != Kind::Dir {
            return self.bytes_of(parent, entry);
        }
        let mut sum = 0u64;
        let mut ahead = vec![Ahead { parent: parent.clone(), name: entry.name.clone(), passed: 0, depth: 0 }];
        while let Some(next) = ahead.pop() {
            let room = MOST_AHEAD.saturating_sub(ahead.len()).max(1);
            sum = sum.saturating_add(self.look_into(next, room, &mut ahead));
        }
        sum
    }

    /// Bytes of the files in one directory, if they were not counted yet; of the directories in it so many are `ahead` then,
    /// and it once more if there are others.
    fn look_into(&self, this: Ahead, room: usize, ahead: &mut Vec<Ahead>) -> u64 {
        let dir = match this.parent.open_dir(&this.name) {
            Ok(dir) => dir,
            Err(error) => {
                self.passed_over(&error);
                return 0;
            }
        };
        let (mut bytes, mut seen, mut below) = (0u64, 0, Vec::new());
        let listed = dir.each_entry(|entry| {
            if entry.kind == Kind::Dir {
                seen += 1;
                if seen > this.passed && below.len() < room {
                    below.push(Ahead { parent: dir.clone(), name: entry.name, passed: 0, depth: this.depth + 1 });
                }
            } else if this.passed == 0 {
                bytes = bytes.saturating_add(self.bytes_of(&dir, &entry));
            }
            ControlFlow::Continue(())
        });
        if let Err(error) = listed {
            self.passed_over(&error);
        }
        if this.depth < DEEPEST {
            let passed = this.passed + below.len();
            ahead.extend((seen > passed).then_some(Ahead { passed, ..this }));
            ahead.append(&mut below);
        }
        bytes
    }

    fn bytes_of(&self, parent: &Dir, entry: &fs::DirEntry) -> u64 {
        if entry.kind != Kind::File {
            return 0;
        }
        let stat = parent.stat(&entry.name).unwrap_or_else(|error| {
            self.passed_over(&error);
            None
        });
        stat.map_or(0, |stat| stat.size)
    }

    /// Tells, once, of what cannot be looked at. What went away meanwhile is nothing to tell of.
    pub(super) fn passed_over(&self, error: &fs::Error) {
        if error.is_not_found() {
            return;
        }
        let mut told = lock(&self.told);
        if told.len() >= MOST {
            told.clear();
        }
        if told.insert(error.path.clone()) {
            tracing::warn!(
                error = error_chain(error),
                "what the store has there cannot be looked at, and counts as empty"
            );
        }
    }
}

/// The entries; none where the directory went meanwhile.
pub(super) fn entries(dir: &Dir) -> fs::Result<Vec<fs::DirEntry>> {
    match dir.entries() {
        Err(e) if e.is_not_found() => Ok(Vec::new()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;

    #[test]
    fn what_took_long_to_find_holds_long_and_is_forgotten_when_something_moves() {
        let (sizes, name) = (Sizes::default(), "a".parse::<RelPath>().unwrap());
        let slow = |bytes| {
            move || {
                std::thread::sleep(Duration::from_millis(500));
                bytes
            }
        };
        assert_eq!(sizes.lately(&name, slow(7)), 7);
        assert_eq!(sizes.lately(&name, || unreachable!("found half a second ago, which took as long")), 7);
        assert_eq!(sizes.lately(&"b".parse().unwrap(), || 8), 8);
        sizes.forget();
        assert_eq!(sizes.lately(&name, || 9), 9);
        // Found at once, it does not hold for long.
        let deadline = Instant::now() + LONGEST;
        while sizes.lately(&name, || 10) != 10 {
            assert!(Instant::now() < deadline, "it still holds");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn more_directories_than_are_known_of_at_a_time_count_all() {
        let temp = tempfile::tempdir().unwrap();
        let mut files = 0;
        for above in 0..2 * MOST_AHEAD {
            for below in 0..2 * MOST_AHEAD {
                let dir = temp.path().join(format!("tree/{above}/{below}"));
                std::fs::create_dir_all(&dir).unwrap();
                std::fs::write(dir.join("file"), "1234567").unwrap();
                files += 1;
            }
            std::fs::write(temp.path().join(format!("tree/{above}/file")), "1234567").unwrap();
            files += 1;
        }
        let (sizes, parent) = (Sizes::default(), Dir::open(temp.path()).unwrap());
        let entry = parent.entries().unwrap().remove(0);
        assert_eq!(sizes.size_of(&parent, &entry), files * 7);
    }

    #[test]
    fn what_was_found_while_something_moved_is_not_remembered() {
        let (sizes, name) = (Sizes::default(), "a".parse::<RelPath>().unwrap());
        let walked = || {
            std::thread::sleep(Duration::from_millis(500));
            sizes.forget();
            7
        };
        assert_eq!(sizes.lately(&name, walked), 7);
        assert_eq!(sizes.lately(&name, || 9), 9);
    }
}
