//! How slow a download may be: a least number of bytes in each window of time. Pure but for the clock handed in.

use std::time::Duration;

use tokio::time::Instant;

/// The least throughput.
#[derive(Debug, Clone, Copy)]
pub(in crate::acquire) struct Floor {
    /// Bytes per second.
    pub bytes_per_second: u64,
    /// How long it may be missed.
    pub window: Duration,
}

impl Floor {
    /// That of each of so many who share it.
    pub(in crate::acquire) fn shared_by(self, connections: u8) -> Self {
        Self { bytes_per_second: self.bytes_per_second / u64::from(connections.max(1)), ..self }
    }
}

/// The throughput of one body.
#[derive(Debug, Clone, Copy)]
pub(in crate::acquire) struct Pace {
    floor: Floor,
    opened: Instant,
    got: u64,
}

impl Pace {
    /// Starts counting.
    pub(in crate::acquire) fn new(floor: Floor, now: Instant) -> Self {
        Self { floor, opened: now, got: 0 }
    }

    /// When the window closes; what came by then is judged.
    pub(in crate::acquire) fn deadline(&self) -> Instant {
        self.opened + self.floor.window
    }

    /// Counts bytes that came, and those waited for until `now`. `false`: a whole window was below the floor.
    pub(in crate::acquire) fn keeps(&mut self, bytes: u64, now: Instant) -> bool {
        self.got = self.got.saturating_add(bytes);
        if now < self.deadline() {
            return true;
        }
        // A window that was noticed late is as long as it was.
        let seconds = now.duration_since(self.opened).as_secs_f64();
        let least = (self.floor.bytes_per_second as f64 * seconds).max(1.0);
        let kept = self.got as f64 >= least;
        (self.opened, self.got) = (now, 0);
        kept
    }

    /// Leaves out time that the origin is not to blame for: the disk was slow.
    pub(in crate::acquire) fn pause(&mut self, lasted: Duration) {
        self.opened += lasted;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_too_slow_only_over_a_whole_window() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let floor = Floor { bytes_per_second: 100, window: Duration::from_secs(10) };
        let mut pace = Pace::new(floor, start);
        assert!(pace.keeps(0, at(9_999)));
        assert!(pace.keeps(1_000, at(10_000)));
        assert_eq!(pace.deadline(), at(20_000));
        assert!(pace.keeps(999, at(19_999)));
        assert!(!pace.keeps(0, at(20_000)));
        let mut held_up = Pace::new(floor, start);
        held_up.pause(Duration::from_secs(60));
        assert!(held_up.keeps(0, at(69_000)));
        assert!(!held_up.keeps(999, at(70_000)));
        let mut silent = Pace::new(Floor { bytes_per_second: 0, ..floor }, start);
        assert!(!silent.keeps(0, at(10_000)));
    }
}
