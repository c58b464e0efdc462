//! One seeder at a time in any one place: who asks for a target that is being seeded, or for one above or below it,
//! waits.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::lock;
use crate::fs::RelPath;

/// The targets that are being seeded.
#[derive(Debug, Default)]
pub(super) struct Busy {
    targets: Mutex<Vec<RelPath>>,
    freed: Condvar,
}

/// The right to work on a target; dropped, the next may.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    busy: &'a Busy,
    target: RelPath,
}

impl Busy {
    /// Waits for the turn at `target`; `None` when it did not come within `patience`.
    pub(super) fn enter(&self, target: &RelPath, patience: Duration) -> Option<Turn<'_>> {
        let taken = |targets: &mut Vec<RelPath>| targets.iter().any(|t| t.starts_with(target) || target.starts_with(t));
        let (mut targets, timeout) =
            self.freed.wait_timeout_while(lock(&self.targets), patience, taken).unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            return None;
        }
        targets.push(target.clone());
        Some(Turn { busy: self, target: target.clone() })
    }

    /// Whether somebody has the turn at `target`.
    pub(super) fn holds(&self, target: &RelPath) -> bool {
        lock(&self.targets).contains(target)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.busy.targets).retain(|target| *target != self.target);
        self.busy.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_overlaps_waits_and_what_does_not_goes_on() {
        let busy = Busy::default();
        let path = |text: &str| text.parse::<RelPath>().unwrap();
        let turn = busy.enter(&path("a/b"), Duration::ZERO).unwrap();
        for overlapping in ["a/b", "a", "a/b/c"] {
            assert!(busy.enter(&path(overlapping), Duration::ZERO).is_none(), "{overlapping}");
        }
        assert!(busy.enter(&path("a/bc"), Duration::ZERO).is_some());
        assert_eq!(["a/b", "a", "a/b/c"].map(|at| busy.holds(&path(at))), [true, false, false]);
        drop(turn);
        assert!(busy.enter(&path("a"), Duration::ZERO).is_some());
    }
}
