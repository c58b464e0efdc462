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

/// A window is judged so often while it moves on.
const PARTS: usize = 6;

/// The throughput of one body, over a window that moves with it.
#[derive(Debug, Clone)]
pub(in crate::acquire) struct Pace {
    floor: Floor,
    /// When something came last.
    last: Instant,
    /// Of the part that is running.
    opened: Instant,
    got: u64,
    /// The parts before it, the latest first: how long each was, and what came.
    before: Box<[(Duration, u64); PARTS]>,
}

impl Pace {
    /// Starts counting.
    pub(in crate::acquire) fn new(floor: Floor, now: Instant) -> Self {
        Self { floor, last: now, opened: now, got: 0, before: Box::new([(Duration::ZERO, 0); PARTS]) }
    }

    /// When to look again at the latest.
    pub(in crate::acquire) fn deadline(&self) -> Instant {
        (self.opened + self.part()).min(self.last + self.floor.window)
    }

    fn part(&self) -> Duration {
        self.floor.window / PARTS as u32
    }

    /// Counts bytes that came, and those waited for until `now`. `false`: nothing came for a whole window, or less than
    /// the floor over one.
    pub(in crate::acquire) fn keeps(&mut self, bytes: u64, now: Instant) -> bool {
        self.got = self.got.saturating_add(bytes);
        if bytes > 0 {
            self.last = now;
        } else if now >= self.last + self.floor.window {
            return false;
        }
        // A part that was noticed late is as long as it was.
        let lasted = now.saturating_duration_since(self.opened);
        if lasted < self.part() {
            return true;
        }
        self.before.rotate_right(1);
        self.before[0] = (lasted, self.got);
        (self.opened, self.got) = (now, 0);
        let (mut seconds, mut came) = (Duration::ZERO, 0u64);
        for (lasted, got) in *self.before {
            seconds += lasted;
            came = came.saturating_add(got);
            if seconds >= self.floor.window {
                let least = (self.floor.bytes_per_second as f64 * seconds.as_secs_f64()).max(1.0);
                return came as f64 >= least;
            }
        }
        true
    }

    /// Leaves out time that the origin is not to blame for: the disk was slow.
    pub(in crate::acquire) fn pause(&mut self, lasted: Duration) {
        self.opened += lasted;
        self.last += lasted;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: Floor = Floor { bytes_per_second: 100, window: Duration::from_secs(12) };

    /// When a body is given up that gives so many bytes at each of these seconds, looked at as whoever reads it does.
    fn given_up(floor: Floor, bytes: impl Fn(u64) -> u64) -> Option<u64> {
        let start = Instant::now();
        let mut pace = Pace::new(floor, start);
        for second in 1..=600 {
            let now = start + Duration::from_secs(second);
            while pace.deadline() < now {
                let at = pace.deadline();
                if !pace.keeps(0, at) {
                    return Some(at.duration_since(start).as_secs());
                }
            }
            if !pace.keeps(bytes(second), now) {
                return Some(second);
            }
        }
        None
    }

    #[test]
    fn a_body_below_the_floor_is_given_up_after_a_window() {
        assert_eq!(given_up(FLOOR, |_| 100), None);
        assert_eq!(given_up(FLOOR, |_| 99), Some(12));
        assert_eq!(given_up(FLOOR, |_| 1), Some(12));
        assert_eq!(given_up(FLOOR, |_| 0), Some(12));
        // All of a window's bytes at once, again and again.
        assert_eq!(given_up(FLOOR, |second| if second % 12 == 1 { 1200 } else { 0 }), None);
        let unbounded = Floor { bytes_per_second: 0, ..FLOOR };
        assert_eq!(given_up(unbounded, |second| u64::from(second % 11 == 0)), None);
        assert_eq!(given_up(unbounded, |_| 0), Some(12));
    }

    #[test]
    fn what_was_fast_before_excuses_little() {
        // Nothing after it: a window from the last byte.
        assert_eq!(given_up(FLOOR, |second| if second <= 60 { 1_000_000 } else { 0 }), Some(72));
        // Next to nothing: the window ends in the part after.
        let given_up = given_up(FLOOR, |second| if second <= 61 { 1_000_000 } else { 1 });
        assert!(given_up.is_some_and(|at| (73..=75).contains(&at)), "{given_up:?}");
    }

    #[test]
    fn time_that_the_disk_took_does_not_count() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut held_up = Pace::new(FLOOR, start);
        held_up.pause(Duration::from_secs(60));
        assert!(held_up.keeps(0, at(71)));
        assert!(!held_up.keeps(0, at(72)));
    }
}
