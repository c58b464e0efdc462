//! Trees that were swapped out of their targets: kept a moment, so that whoever was on the way through one gets there,
//! then removed.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::fs::{Dir, RelPath, fail_point};

/// How long a tree that was swapped out stays: far longer than the resolution of any path takes.
pub const GRACE: Duration = Duration::from_secs(3);

/// A tree beside its target, under a temporary name.
#[derive(Debug)]
struct Tree {
    since: Instant,
    parent: Dir,
    name: RelPath,
}

/// The trees that wait to be removed. Those left by a crash are leftovers, which the next seed of their target clears.
#[derive(Debug, Default)]
pub(super) struct Retired(Mutex<Vec<Tree>>);

impl Retired {
    /// Takes charge of a tree just swapped out.
    pub(super) fn add(&self, parent: Dir, name: RelPath) {
        self.lock().push(Tree { since: Instant::now(), parent, name });
    }

    /// Whether a temporary name is one of these, and no leftover. Names are random: they need no directory.
    pub(super) fn holds(&self, name: &RelPath) -> bool {
        self.lock().iter().any(|tree| tree.name == *name)
    }

    /// Removes the trees that were swapped out so long ago, and no other.
    pub(super) fn remove(&self, age: Duration) {
        let ready: Vec<Tree> = self.lock().extract_if(.., |tree| tree.since.elapsed() >= age).collect();
        for Tree { parent, name, .. } in ready {
            fail_point("seed.retired.before-removal");
            if let Err(error) = parent.remove_tree(&name) {
                tracing::warn!(%error, "tree swapped out of its target left behind; the next seed of the target clears it");
            }
            fail_point("seed.retired.after-removal");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Tree>> {
        // Whole trees come and go: whoever panicked left it usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Retired {
    fn drop(&mut self) {
        self.remove(Duration::ZERO);
    }
}
