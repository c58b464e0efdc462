//! Whose turn it is to seed: a few at once, and of those who want one target one. Who waits for a target that is being
//! seeded keeps nobody from another, and what peers have filled, which may be on whatever hangs, keeps nobody from
//! seeding by path.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::fs::RelPath;
use crate::seed::PATIENCE;

type Gate = tokio::sync::Mutex<()>;

/// What one seeds at a time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Spot {
    /// Below `seed.root`.
    Target(RelPath),
    /// That a peer holds open.
    Directory {
        /// Its device.
        dev: u64,
        /// Its inode.
        ino: u64,
    },
}

impl From<&RelPath> for Spot {
    fn from(target: &RelPath) -> Self {
        Spot::Target(target.clone())
    }
}

/// The turns that there are.
#[derive(Debug)]
pub(super) struct Turns {
    places: Arc<Semaphore>,
    fills: Arc<Semaphore>,
    /// Of targets that somebody seeds or waits for.
    gates: Mutex<BTreeMap<Spot, Weak<Gate>>>,
}

/// The right to seed a target; dropped, the next may.
#[derive(Debug)]
pub(super) struct Turn {
    _permit: OwnedSemaphorePermit,
    _alone: OwnedMutexGuard<()>,
}

impl Turns {
    /// So many at once by path, and as many that peers hold open.
    pub(super) fn new(at_once: usize) -> Self {
        let [places, fills] = [at_once; 2].map(|at_once| Arc::new(Semaphore::new(at_once)));
        Self { places, fills, gates: Mutex::default() }
    }

    /// Waits for the turn at a spot; `None` when it did not come in [`PATIENCE`].
    pub(super) async fn enter(&self, spot: impl Into<Spot>) -> Option<Turn> {
        let spot = spot.into();
        let places = match spot {
            Spot::Target(_) => &self.places,
            Spot::Directory { .. } => &self.fills,
        };
        let gate = self.gate(spot);
        let turn = async {
            let alone = gate.lock_owned().await;
            // Never closed: an error here cannot be.
            let permit = places.clone().acquire_owned().await.ok()?;
            Some(Turn { _permit: permit, _alone: alone })
        };
        timeout(PATIENCE, turn).await.ok().flatten()
    }

    fn gate(&self, spot: Spot) -> Arc<Gate> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates.retain(|_, gate| gate.strong_count() > 0);
        if let Some(gate) = gates.get(&spot).and_then(Weak::upgrade) {
            return gate;
        }
        let gate = Arc::default();
        gates.insert(spot, Arc::downgrade(&gate));
        gate
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures_util::{FutureExt as _, poll};

    use super::*;

    #[tokio::test]
    async fn what_peers_have_filled_takes_no_turn_of_a_targets() {
        let turns = Turns::new(1);
        let directory = |ino| Spot::Directory { dev: 1, ino };
        let hung = turns.enter(directory(1)).await.unwrap();
        assert!(turns.enter(directory(2)).now_or_never().is_none());
        let target: RelPath = "target".parse().unwrap();
        assert!(turns.enter(&target).now_or_never().unwrap().is_some());
        drop(hung);
        assert!(turns.enter(directory(2)).now_or_never().unwrap().is_some());
    }

    #[tokio::test]
    async fn a_crowd_at_one_target_keeps_nobody_from_another() {
        let turns = Turns::new(2);
        let [busy, free] = ["busy", "free"].map(|target| target.parse::<RelPath>().unwrap());
        let working = turns.enter(&busy).await.unwrap();
        let mut waiting = Box::pin(turns.enter(&busy));
        let mut more = Box::pin(turns.enter(&busy));
        assert!(poll!(&mut waiting).is_pending() && poll!(&mut more).is_pending());
        let other = turns.enter(&free).now_or_never().unwrap().unwrap();
        drop(working);
        let next = waiting.await.unwrap();
        assert!(poll!(&mut more).is_pending());
        drop((other, next, more));
        assert!(turns.enter(&free).now_or_never().unwrap().is_some());
        assert_eq!(turns.gates.lock().unwrap().len(), 1, "gates go with those who want them");
    }
}
