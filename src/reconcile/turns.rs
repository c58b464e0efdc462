//! Whose turn it is to seed: a few at once, and of those who want one target one. Who waits for a target that is being
//! seeded keeps nobody from another, and what peers have filled keeps nobody from seeding by path. What lies on another
//! file system may hang: it takes turns of its own, and whoever holds one for long keeps it from nobody else.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};

use crate::fs::RelPath;
use crate::seed::PATIENCE;

type Gate = tokio::sync::Mutex<()>;

/// How long who asks waits for another who has the same directory filled, at least.
pub(super) const BRIEFLY: Duration = Duration::from_secs(30);
/// How long one who fills on another file system keeps others from it. A reflink takes far less.
const LONG: Duration = Duration::from_secs(60);
/// Threads that may hang on other file systems at any time.
const MOST_FAR: usize = 32;

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
        /// It lies on the store's own file system.
        near: bool,
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
    far: Far,
    /// Of targets that somebody seeds or waits for.
    gates: Mutex<BTreeMap<Spot, Weak<Gate>>>,
}

/// The turns on other file systems.
#[derive(Debug)]
struct Far {
    turns: Arc<Semaphore>,
    threads: Arc<Semaphore>,
    /// Who has one, the longest first.
    holders: Mutex<VecDeque<(Instant, Weak<FarPermit>)>>,
    limit: Duration,
}

/// What one who fills there holds. The turn is taken back from who holds it for long.
#[derive(Debug)]
struct FarPermit {
    turn: Mutex<Option<OwnedSemaphorePermit>>,
    _thread: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Permit {
    Near(#[allow(dead_code, reason = "held")] OwnedSemaphorePermit),
    Far(#[allow(dead_code, reason = "held")] Arc<FarPermit>),
}

/// The right to seed a target; dropped, the next may.
#[derive(Debug)]
pub(super) struct Turn {
    _permit: Permit,
    _alone: OwnedMutexGuard<()>,
}

impl Far {
    fn new(at_once: usize) -> Self {
        let [turns, threads] = [at_once, at_once.max(MOST_FAR)].map(|most| Arc::new(Semaphore::new(most)));
        Self { turns, threads, holders: Mutex::default(), limit: LONG }
    }

    /// Waits for a turn, or for one to be taken back.
    async fn enter(&self) -> Option<Arc<FarPermit>> {
        // Never closed: an error here cannot be.
        let thread = self.threads.clone().acquire_owned().await.ok()?;
        let turn = loop {
            tokio::select! {
                turn = self.turns.clone().acquire_owned() => break turn.ok()?,
                () = sleep_until(self.next_due()) => self.take_back(),
            }
        };
        let permit = Arc::new(FarPermit { turn: Mutex::new(Some(turn)), _thread: thread });
        self.lock().push_back((Instant::now(), Arc::downgrade(&permit)));
        Some(permit)
    }

    fn next_due(&self) -> Instant {
        self.lock().front().map_or_else(Instant::now, |(since, _)| *since) + self.limit
    }

    /// Takes the turns of those who had theirs for long; they go on as they can.
    fn take_back(&self) {
        let mut holders = self.lock();
        while holders.front().is_some_and(|(since, _)| since.elapsed() >= self.limit) {
            let held = holders.pop_front();
            if let Some(permit) = held.and_then(|(_, permit)| permit.upgrade()) {
                tracing::warn!("a directory on another file system takes long to fill; others no longer wait for it");
                permit.turn.lock().unwrap_or_else(PoisonError::into_inner).take();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Instant, Weak<FarPermit>)>> {
        // Whole entries come and go: whoever panicked left it usable.
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        holders.retain(|(_, permit)| permit.strong_count() > 0);
        holders
    }
}

impl Turns {
    /// So many at once by path, as many that peers hold open, and as many of theirs on other file systems.
    pub(super) fn new(at_once: usize) -> Self {
        let [places, fills] = [at_once; 2].map(|at_once| Arc::new(Semaphore::new(at_once)));
        Self { places, fills, far: Far::new(at_once), gates: Mutex::default() }
    }

    /// Waits for the turn at a spot: for another who is at it up to `patience`, and in the queue up to [`PATIENCE`]. The
    /// error is how long that was.
    pub(super) async fn enter(&self, spot: impl Into<Spot>, patience: Duration) -> Result<Turn, Duration> {
        let spot = spot.into();
        let gate = self.gate(spot.clone());
        let alone = timeout(patience, gate.lock_owned()).await.map_err(|_| patience)?;
        let permit = async {
            // Never closed: an error here cannot be.
            match spot {
                Spot::Target(_) => self.places.clone().acquire_owned().await.ok().map(Permit::Near),
                Spot::Directory { near: true, .. } => self.fills.clone().acquire_owned().await.ok().map(Permit::Near),
                Spot::Directory { near: false, .. } => self.far.enter().await.map(Permit::Far),
            }
        };
        let permit = timeout(PATIENCE, permit).await.ok().flatten().ok_or(PATIENCE)?;
        Ok(Turn { _permit: permit, _alone: alone })
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
        let directory = |ino, near| Spot::Directory { dev: 1, ino, near };
        let hung = turns.enter(directory(1, true), PATIENCE).await.unwrap();
        assert!(turns.enter(directory(2, true), PATIENCE).now_or_never().is_none());
        let target: RelPath = "target".parse().unwrap();
        assert!(turns.enter(&target, PATIENCE).now_or_never().unwrap().is_ok());
        assert!(turns.enter(directory(3, false), PATIENCE).now_or_never().unwrap().is_ok());
        drop(hung);
        assert!(turns.enter(directory(2, true), PATIENCE).now_or_never().unwrap().is_ok());
    }

    #[tokio::test]
    async fn who_hangs_on_another_file_system_keeps_a_turn_for_a_while_only() {
        let mut turns = Turns::new(1);
        let far = |ino| Spot::Directory { dev: 2, ino, near: false };
        let hung = turns.enter(far(1), PATIENCE).await.unwrap();
        assert!(turns.enter(far(2), PATIENCE).now_or_never().is_none());
        turns.far.limit = Duration::from_millis(1);
        let other = turns.enter(far(2), PATIENCE).await.unwrap();
        // What hangs stays alone in its directory, and what is given back twice is one turn still.
        assert_eq!(turns.enter(far(1), Duration::ZERO).await.unwrap_err(), Duration::ZERO);
        turns.far.limit = LONG;
        drop(hung);
        assert!(turns.enter(far(3), PATIENCE).now_or_never().is_none());
        drop(other);
        assert!(turns.enter(far(3), PATIENCE).now_or_never().unwrap().is_ok());
    }

    #[tokio::test]
    async fn no_more_threads_hang_than_are_for_that() {
        let mut turns = Turns::new(1);
        turns.far.limit = Duration::ZERO;
        let mut hung = Vec::new();
        for ino in 0..MOST_FAR as u64 {
            hung.push(turns.enter(Spot::Directory { dev: 2, ino, near: false }, PATIENCE).await.unwrap());
        }
        let more = Spot::Directory { dev: 2, ino: 1000, near: false };
        assert!(turns.enter(more.clone(), PATIENCE).now_or_never().is_none());
        hung.pop();
        assert!(turns.enter(more, PATIENCE).await.is_ok());
    }

    #[tokio::test]
    async fn a_crowd_at_one_target_keeps_nobody_from_another() {
        let turns = Turns::new(2);
        let [busy, free] = ["busy", "free"].map(|target| target.parse::<RelPath>().unwrap());
        let working = turns.enter(&busy, PATIENCE).await.unwrap();
        let mut waiting = Box::pin(turns.enter(&busy, PATIENCE));
        let mut more = Box::pin(turns.enter(&busy, PATIENCE));
        assert!(poll!(&mut waiting).is_pending() && poll!(&mut more).is_pending());
        let other = turns.enter(&free, PATIENCE).now_or_never().unwrap().unwrap();
        drop(working);
        let next = waiting.await.unwrap();
        assert!(poll!(&mut more).is_pending());
        drop((other, next, more));
        assert!(turns.enter(&free, PATIENCE).now_or_never().unwrap().is_ok());
        assert_eq!(turns.gates.lock().unwrap().len(), 1, "gates go with those who want them");
    }
}
