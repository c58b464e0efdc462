//! What directories of the store take: walked, or remembered for a while.
//!
//! What must hold: what cannot be looked at, as on a bad block, counts for nothing. It stops no download and no collection.

use std::collections::{BTreeMap, BTreeSet};
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
        let mut sum = 0u64;
        let mut ahead = vec![(parent.clone(), entry.name.clone(), entry.kind)];
        while let Some((parent, name, kind)) = ahead.pop() {
            match kind {
                Kind::Dir => match parent.open_dir(&name) {
                    Ok(dir) => {
                        ahead.extend(self.entries(&dir).into_iter().map(|entry| (dir.clone(), entry.name, entry.kind)));
                    }
                    Err(error) => self.passed_over(&error),
                },
                Kind::File => match parent.stat(&name) {
                    Ok(stat) => sum = sum.saturating_add(stat.map_or(0, |stat| stat.size)),
                    Err(error) => self.passed_over(&error),
                },
                Kind::Symlink | Kind::Other => {}
            }
        }
        sum
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
    #![allow(clippy::unwrap_used)]
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
