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
/// Bytes of names of directories that are still to be looked into: somebody may have made as many as there is room for. What is
/// beyond that counts for nothing, as does what is beyond the next two.
const ROOM: usize = if cfg!(test) { 10_000 } else { 32 << 20 };
/// Entries that are looked at.
const MOST_ENTRIES: u64 = 10_000_000;
/// As long as a path may get below what is measured: twice what the kernel takes. Each level on the way holds a directory open.
const LONGEST_PATH: usize = 8192;

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
    /// Bytes of its path.
    path: usize,
}

impl Ahead {
    /// Bytes that it takes in memory, about.
    fn weight(&self) -> usize {
        size_of::<Self>() + self.name.as_bytes().len()
    }
}

/// What is measured, as far as it was looked at.
#[derive(Default)]
struct Walk {
    bytes: u64,
    entries: u64,
    ahead: Vec<Ahead>,
    /// What those take in memory.
    weight: usize,
    /// Not all was looked at.
    is_cut: bool,
}

impl Walk {
    fn push(&mut self, ahead: Ahead) {
        let weight = self.weight + ahead.weight();
        if weight > ROOM || ahead.path > LONGEST_PATH {
            self.is_cut = true;
            return;
        }
        self.weight = weight;
        self.ahead.push(ahead);
    }

    fn pop(&mut self) -> Option<Ahead> {
        let next = self.ahead.pop()?;
        self.weight -= next.weight();
        Some(next)
    }
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
        let mut walk = Walk::default();
        let mut next = Some(Ahead { parent: parent.clone(), name: entry.name.clone(), path: 0 });
        while let Some(this) = next {
            self.look_into(&this, &mut walk);
            next = walk.pop();
        }
        if walk.is_cut && self.is_news(parent.path_of(&entry.name)) {
            let path = parent.path_of(&entry.name).display().to_string();
            tracing::warn!(path, "more is in it than is measured; the rest counts as empty");
        }
        walk.bytes
    }

    fn look_into(&self, this: &Ahead, walk: &mut Walk) {
        let dir = match this.parent.open_dir(&this.name) {
            Ok(dir) => dir,
            Err(error) => return self.passed_over(&error),
        };
        let listed = dir.each_entry(|entry| {
            if walk.entries == MOST_ENTRIES {
                walk.is_cut = true;
                return ControlFlow::Break(());
            }
            walk.entries += 1;
            if entry.kind == Kind::Dir {
                let path = this.path + 1 + entry.name.as_bytes().len();
                walk.push(Ahead { parent: dir.clone(), name: entry.name, path });
            } else {
                walk.bytes = walk.bytes.saturating_add(self.bytes_of(&dir, &entry));
            }
            ControlFlow::Continue(())
        });
        if let Err(error) = listed {
            self.passed_over(&error);
        }
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
        if self.is_news(error.path.clone()) {
            tracing::warn!(
                error = error_chain(error),
                "what the store has there cannot be looked at, and counts as empty"
            );
        }
    }

    /// Whether nothing was told of this path yet.
    fn is_news(&self, path: PathBuf) -> bool {
        let mut told = lock(&self.told);
        if told.len() >= MOST {
            told.clear();
        }
        told.insert(path)
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
    fn a_tree_counts_all_and_one_that_is_made_to_cost_much_counts_a_part() {
        let temp = tempfile::tempdir().unwrap();
        let parent = Dir::open(temp.path()).unwrap();
        let measured = |name: &str| {
            let sizes = Sizes::default();
            let entry = parent.entries().unwrap().into_iter().find(|entry| entry.name.as_bytes() == name.as_bytes());
            (sizes.size_of(&parent, &entry.unwrap()), sizes.told.into_inner().unwrap().len())
        };
        let make = |path: String| {
            std::fs::create_dir_all(temp.path().join(&path)).unwrap();
            std::fs::write(temp.path().join(path).join("file"), "1234567").unwrap();
        };
        for n in 0..400 {
            make(format!("tree/{}/{n}", n % 20));
        }
        assert_eq!(measured("tree"), (400 * 7, 0));
        for n in 0..400 {
            make(format!("wide/{n:0>200}"));
        }
        let (bytes, told) = measured("wide");
        assert!(bytes > 0 && bytes < 400 * 7 && told == 1, "{bytes}");
        make(format!("deep/{}", ["d"; 1000].join("/")));
        assert_eq!(measured("deep"), (7, 0));
        // Longer than any path.
        let mut here = parent.open_dir(&"deep".parse().unwrap()).unwrap();
        let name: RelPath = "d".repeat(255).parse().unwrap();
        for _ in 0..40 {
            here.make_dir(&name, 0o700).unwrap();
            here = here.open_dir(&name).unwrap();
        }
        assert_eq!(measured("deep"), (7, 1));
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
