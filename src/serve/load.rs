//! What all connections together hold of the daemon's memory, and what each may still take of it: who sends much at once,
//! or takes nothing of what was asked for, costs memory that is short.
//!
//! What must hold: answers that are made while they are read hold so much at once and no more, requests too, and whoever
//! waits gets a turn, since the more wait the less time has each that takes nothing.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};

/// What bodies hold at once, in units of [`UNIT`] bytes: 48 MiB.
const ROOM: usize = 12_288;
/// A unit of room.
const UNIT: u64 = 4096;
/// How long a body waits for room.
const TURN_TIME: Duration = Duration::from_secs(30);
/// Peers that may take nothing for as long as they are given; the more there are beyond, the less each is given,
const EASY: usize = 512;
/// but never less than this.
const LEAST: Duration = Duration::from_secs(1);
/// What they are given at most while a body waits for room,
const WHILE_WAITED_FOR: Duration = Duration::from_secs(10);
/// or while so many wait; the more beyond, the less: the last to come is to have its turn in time, too.
const FEW_WAIT: usize = 64;
/// Bytes of each request that count for nothing: as many as a usual one has.
const FREE: usize = 4096;
/// What all requests that are not answered yet may have beyond.
const REQUESTS: usize = 32 << 20;

/// What connections hold, all together.
#[derive(Debug)]
pub(super) struct Load {
    /// For bodies.
    room: Semaphore,
    /// Bodies that wait for it.
    waiting: AtomicUsize,
    /// Connections whose peers take nothing.
    stalled: AtomicUsize,
    /// Bytes of requests that are not answered yet, beyond what is free.
    requests: AtomicUsize,
}

/// That of the daemon.
pub(super) static LOAD: Load = Load::new();

impl Load {
    pub(super) const fn new() -> Self {
        Self {
            room: Semaphore::const_new(ROOM),
            waiting: AtomicUsize::new(0),
            stalled: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
        }
    }

    /// Bytes of all room.
    #[cfg(test)]
    pub(super) fn room(&self) -> u64 {
        ROOM as u64 * UNIT
    }

    /// Somebody waits for room.
    pub(super) fn is_waited_for(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }

    /// What is held for a peer that takes nothing of it is to be let go, where it can be had again.
    pub(super) fn is_crowded(&self) -> bool {
        self.is_waited_for() || self.stalled.load(Relaxed) > EASY
    }

    /// How long a peer may take nothing that is given so long when there are few of them.
    pub(super) fn patience(&self, longest: Duration) -> Duration {
        patience(longest, self.stalled.load(Relaxed), self.waiting.load(Relaxed))
    }
}

fn patience(longest: Duration, stalled: usize, waiting: usize) -> Duration {
    let share = |easy: usize, count: usize| if count > easy { easy as f64 / count as f64 } else { 1.0 };
    let mut given = longest.mul_f64(share(EASY, stalled).powi(2));
    if waiting > 0 {
        given = given.min(WHILE_WAITED_FOR.mul_f64(share(FEW_WAIT, waiting)));
    }
    given.max(LEAST).min(longest)
}

/// One more of something, until it is dropped.
#[derive(Debug)]
pub(super) struct Counted(&'static AtomicUsize);

impl Counted {
    fn one(count: &'static AtomicUsize) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }

    /// A connection whose peer takes nothing.
    pub(super) fn stalled(load: &'static Load) -> Self {
        Self::one(&load.stalled)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Room for so many bytes of an answer, until it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    _permit: SemaphorePermit<'static>,
}

/// The wait for room: an error if it takes too long.
pub(super) type Turn = Pin<Box<dyn Future<Output = io::Result<Room>> + Send>>;

impl Room {
    /// Room that is there, and that nobody waits for.
    pub(super) fn at_once(load: &'static Load, bytes: u64) -> Option<Self> {
        let permit = if load.is_waited_for() { None } else { load.room.try_acquire_many(units(bytes)).ok() };
        permit.map(|permit| Self { _permit: permit })
    }

    /// Waits for its turn.
    pub(super) fn in_turn(load: &'static Load, bytes: u64) -> Turn {
        Self::within(load, bytes, TURN_TIME)
    }

    fn within(load: &'static Load, bytes: u64, time: Duration) -> Turn {
        Box::pin(async move {
            let _counted = Counted::one(&load.waiting);
            match tokio::time::timeout(time, load.room.acquire_many(units(bytes))).await {
                Ok(Ok(permit)) => Ok(Self { _permit: permit }),
                _ => Err(io::Error::other("too many answers are being sent to callers that take them slowly")),
            }
        })
    }

    /// The same bytes: the room is let go when they are.
    pub(super) fn go_with(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Roomed { bytes, _room: self })
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT).clamp(1, ROOM as u64)).unwrap_or(ROOM as u32)
}

/// Bytes and the room for them.
struct Roomed {
    bytes: Bytes,
    _room: Room,
}

impl AsRef<[u8]> for Roomed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The bytes of one connection's request that are not answered yet.
#[derive(Debug, Clone)]
pub(super) struct Intake(Arc<Own>);

#[derive(Debug)]
struct Own {
    load: &'static Load,
    bytes: AtomicUsize,
}

impl Intake {
    pub(super) fn new(load: &'static Load) -> Self {
        Self(Arc::new(Own { load, bytes: AtomicUsize::new(0) }))
    }

    /// So many bytes more came: an error if all connections together have too many.
    pub(super) fn took(&self, bytes: usize) -> io::Result<()> {
        // A connection does one thing at a time.
        let before = self.0.bytes.load(Relaxed);
        let after = before.saturating_add(bytes);
        self.0.bytes.store(after, Relaxed);
        let more = counted(after) - counted(before);
        if more > 0 && self.0.load.requests.fetch_add(more, Relaxed) + more > REQUESTS {
            return Err(io::Error::other("too much is being sent in requests, and this one is larger than most"));
        }
        Ok(())
    }

    /// The request is answered.
    pub(super) fn answered(&self) {
        self.0.answered();
    }
}

impl Own {
    fn answered(&self) {
        let had = counted(self.bytes.swap(0, Relaxed));
        if had > 0 {
            self.load.requests.fetch_sub(had, Relaxed);
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.answered();
    }
}

fn counted(bytes: usize) -> usize {
    bytes.saturating_sub(FREE)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::task::{Context, Waker};

    use super::*;

    fn load() -> &'static Load {
        Box::leak(Box::new(Load::new()))
    }

    #[test]
    fn the_more_take_nothing_the_less_time_has_each() {
        let seconds = Duration::from_secs;
        for (stalled, waiting, given) in [
            (0, 0, seconds(60)),
            (EASY, 0, seconds(60)),
            (2 * EASY, 0, seconds(15)),
            (100 * EASY, 0, LEAST),
            (usize::MAX, usize::MAX, LEAST),
            (1, 1, WHILE_WAITED_FOR),
            (1, 2 * FEW_WAIT, seconds(5)),
            (4 * EASY, 2 * FEW_WAIT, Duration::from_millis(3750)),
            (1, 100 * FEW_WAIT, LEAST),
        ] {
            assert_eq!(patience(seconds(60), stalled, waiting), given, "{stalled} {waiting}");
        }
        assert_eq!(patience(Duration::from_millis(10), 100 * EASY, 1), Duration::from_millis(10));
    }

    #[tokio::test]
    async fn who_waits_for_room_gets_what_another_lets_go() {
        let load = load();
        let all = Room::at_once(load, u64::MAX).unwrap();
        assert!(Room::at_once(load, 1).is_none());
        let mut small = Room::in_turn(load, 1);
        assert!(small.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(load.patience(Duration::from_secs(60)), WHILE_WAITED_FOR);
        drop(all);
        assert!(Room::at_once(load, 1).is_none(), "another waits");
        let last = small.await.unwrap().go_with(Bytes::from_static(b"last"));
        assert_eq!(load.patience(Duration::from_secs(60)), Duration::from_secs(60));
        assert_eq!((load.room.available_permits(), &*last), (ROOM - 1, &b"last"[..]));
        assert!(Room::at_once(load, 1).is_some());
        drop(last);
        assert_eq!(load.room.available_permits(), ROOM);
    }

    #[tokio::test]
    async fn the_wait_for_room_ends() {
        let load = load();
        let _all = Room::at_once(load, u64::MAX);
        assert!(Room::within(load, 1, Duration::from_millis(1)).await.is_err());
        assert_eq!(load.waiting.load(Relaxed), 0);
    }

    #[test]
    fn requests_have_so_many_bytes_together() {
        let load = load();
        let large = Intake::new(load);
        large.took(FREE).unwrap();
        large.took(REQUESTS).unwrap();
        let (usual, unusual) = (Intake::new(load), Intake::new(load));
        usual.took(FREE).unwrap();
        unusual.took(FREE + 1).unwrap_err();
        drop(unusual);
        large.answered();
        usual.took(REQUESTS).unwrap();
        usual.answered();
        usual.took(FREE + 1).unwrap();
        drop((usual, large));
        assert_eq!(load.requests.load(Relaxed), 0);
    }
}
