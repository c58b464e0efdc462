//! What bodies that several connections read may hold ahead of their readers: so many bytes for all of the node, and each body
//! an equal share of them, so that a slow one leaves the others theirs. Half a share is nobody's, as shares are with one body
//! more: whoever comes next finds some, however long those that came before keep what they have.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What the node has.
#[derive(Debug, Clone)]
pub(in crate::acquire) struct Ahead {
    room: Arc<Semaphore>,
    most: u64,
    bodies: Arc<AtomicU64>,
}

impl Ahead {
    /// Room for so many bytes.
    pub(in crate::acquire) fn new(most: u32) -> Self {
        Self { room: Arc::new(Semaphore::new(most as usize)), most: most.into(), bodies: Arc::default() }
    }

    /// What one more body has of it: nothing yet.
    pub(super) fn share(&self) -> Share {
        self.bodies.fetch_add(1, Relaxed);
        Share { ahead: self.clone(), permit: None }
    }

    #[cfg(test)]
    pub(in crate::acquire) fn left(&self) -> usize {
        self.room.available_permits()
    }
}

/// What one body has, until it is dropped.
pub(super) struct Share {
    ahead: Ahead,
    permit: Option<OwnedSemaphorePermit>,
}

impl Share {
    /// Room for so many bytes in all; never for more than what it has, where that is its share already. One that began when
    /// there were fewer bodies may have more: it gets no further until that is less.
    pub(super) fn reserve(&mut self, bytes: u64) -> bool {
        let held = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits) as u64;
        let Ok(more) = u32::try_from(bytes.saturating_sub(held)) else { return false };
        if more == 0 {
            return true;
        }
        let Ahead { room, most, bodies } = &self.ahead;
        let half = most / (2 * bodies.load(Relaxed) + 1);
        let left = (room.available_permits() as u64).checked_sub(more.into());
        if bytes > half * 2 || left.is_none_or(|left| left < half) {
            return false;
        }
        let Ok(got) = room.clone().try_acquire_many_owned(more) else { return false };
        match &mut self.permit {
            Some(permit) => permit.merge(got),
            None => self.permit = Some(got),
        }
        true
    }

    /// Gives back all but so many bytes.
    pub(super) fn keep(&mut self, bytes: u64) {
        let needed = usize::try_from(bytes).unwrap_or(usize::MAX);
        if let Some(permit) = &mut self.permit {
            drop(permit.split(permit.num_permits().saturating_sub(needed)));
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.ahead.bodies.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_came_first_leaves_the_next_its_share() {
        let ahead = Ahead::new(150);
        let mut slow = ahead.share();
        assert!(slow.reserve(100) && !slow.reserve(101), "alone it has two thirds");
        let mut fast = ahead.share();
        // However long the slow one keeps what it has, there is some for the next, and for the one after it.
        assert!(fast.reserve(20) && !fast.reserve(21));
        let mut third = ahead.share();
        assert!(third.reserve(9) && !third.reserve(10));
        drop(third);
        // As it reads, the other gets what that gives back.
        slow.keep(90);
        assert!(!slow.reserve(100) && slow.reserve(90));
        assert!(fast.reserve(30) && !fast.reserve(31));
        slow.keep(40);
        assert!(slow.reserve(60) && !slow.reserve(61) && fast.reserve(60));
        assert_eq!(ahead.left(), 30);
        drop(slow);
        assert!(fast.reserve(100));
        drop(fast);
        assert_eq!(ahead.left(), 150);
    }
}
