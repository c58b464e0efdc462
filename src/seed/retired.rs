//! Trees that were swapped out of their targets: kept a moment, so that whoever was on the way through one gets there,
//! then removed. A pod may go on writing into one, so that it cannot be.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::fs::{Dir, RelPath, fail_point};
use crate::store::Store;

/// How long a tree that was swapped out stays: far longer than the resolution of any path takes.
pub const GRACE: Duration = Duration::from_secs(3);

/// A tree beside its target, under a temporary name, or out of sight in the store.
#[derive(Debug)]
struct Tree {
    since: Instant,
    parent: Dir,
    name: RelPath,
    in_store: bool,
}

/// The trees that wait to be removed. Those left by a crash beside a target are leftovers, which its next seed clears.
#[derive(Debug)]
pub(super) struct Retired {
    trees: Mutex<Vec<Tree>>,
    store: Arc<Store>,
}

impl Retired {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self { trees: Mutex::default(), store }
    }

    /// Takes charge of a tree just swapped out, which lies beside its target.
    pub(super) fn add(&self, parent: Dir, name: RelPath) {
        self.lock().push(Tree { since: Instant::now(), parent, name, in_store: false });
    }

    /// The same of one that was moved to a place out of sight in the store.
    pub(super) fn add_in_store(&self, parent: Dir, name: RelPath) {
        self.lock().push(Tree { since: Instant::now(), parent, name, in_store: true });
    }

    /// Whether a temporary name is one of these, and no leftover. Names are random: they need no directory.
    pub(super) fn holds(&self, name: &RelPath) -> bool {
        self.lock().iter().any(|tree| tree.name == *name)
    }

    /// Removes the trees that were swapped out so long ago, and no other.
    pub(super) fn remove(&self, age: Duration) {
        let ready: Vec<Tree> = self.lock().extract_if(.., |tree| tree.since.elapsed() >= age).collect();
        for Tree { parent, name, in_store, .. } in ready {
            fail_point("seed.retired.before-removal");
            match parent.remove_tree(&name) {
                Ok(()) => {}
                Err(error) if in_store => {
                    tracing::warn!(%error, "tree swapped out of its target is not removed yet; the store tries again");
                    self.store.remove_later(name);
                }
                Err(error) => {
                    tracing::warn!(%error, "tree swapped out of its target left behind; the next seed of the target clears it");
                }
            }
            fail_point("seed.retired.after-removal");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Tree>> {
        // Whole trees come and go: whoever panicked left it usable.
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Retired {
    fn drop(&mut self) {
        self.remove(Duration::ZERO);
    }
}
