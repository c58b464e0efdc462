//! How old things are, told so that a wall clock that jumps makes nothing old before its time.
//!
//! What must hold: what is old by [`Age`] for a time came that long ago, a second less at most, whatever the wall clock was set
//! to. So its course is held against the clock that counts from boot, over restarts too (`clock.json`). Where it is further
//! ahead than that explains it is taken at its word, but then everything has its whole time once more, by the clock that nobody
//! sets. Over a reboot, during which the machine may have been off for as long, a month is believed.

use std::sync::Mutex;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::Store;
use super::layout::{lock, own};
use super::since_boot::{SinceBoot, since_boot};
use crate::fs::{Dir, fail_point};
use crate::intent::error_chain;

/// For so long after the start nothing is removed for its age: a wall clock that was wrong at boot may be set right
/// meanwhile. Shorter where the time that something is kept for is.
const SETTLING: Duration = Duration::from_secs(600);
/// So far ahead is made up for by telling the time that much late, until the next reboot.
const AHEAD: SignedDuration = SignedDuration::from_hours(24);
/// So far ahead it may seem to be because the two clocks are not read at one moment: it is not, or what came just now would
/// come from the future.
const APART: SignedDuration = SignedDuration::from_secs(1);
/// So long a machine may have been off.
const OFF: SignedDuration = SignedDuration::from_hours(30 * 24);
/// How often the course is noted.
const EVERY: Duration = Duration::from_secs(3600);
/// Bytes of `clock.json`.
const LIMIT: u64 = 4096;
const NAME: &str = "clock.json";

/// The time by which things are young or old.
#[derive(Debug, Clone, Copy)]
pub struct Age {
    /// What the wall clock says, or less.
    pub now: Timestamp,
    /// Since the start.
    pub up: Duration,
    /// How long the wall clock has made no jump ahead, as far as is known.
    pub even: Duration,
}

/// Why something is not old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Young {
    /// By the clock.
    ByClock,
    /// The clock jumped, or is not known for long enough.
    ByJump,
    /// The daemon has run for less than this.
    Settling(Duration),
}

impl Age {
    /// Why what came `since` is not known to be at least so old; `None`: it is.
    pub fn young(&self, since: Timestamp, time: Duration) -> Option<Young> {
        let settling = time.min(SETTLING);
        // Negative where it came in the future.
        if Duration::try_from(self.now.duration_since(since)).map_or(true, |past| past < time) {
            Some(Young::ByClock)
        } else if self.even < time {
            Some(Young::ByJump)
        } else {
            (self.up < settling).then_some(Young::Settling(settling))
        }
    }
}

/// The wall clock's course.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Course {
    now: Timestamp,
    even: Duration,
}

impl Course {
    /// Goes on to what the `wall` clock says after a time; `None` over a reboot, where nobody knows how long that was. False
    /// where it jumped ahead.
    fn go_on(&mut self, wall: Timestamp, elapsed: Option<Duration>) -> bool {
        let passed = elapsed.unwrap_or_default();
        let passed = SignedDuration::try_from(passed).unwrap_or(SignedDuration::MAX);
        let expected = self.now.checked_add(passed).unwrap_or(Timestamp::MAX);
        let ahead = wall.duration_since(expected);
        let believed = if elapsed.is_some() { AHEAD } else { OFF };
        self.even =
            if ahead > believed { Duration::ZERO } else { self.even.saturating_add(elapsed.unwrap_or_default()) };
        self.now = if elapsed.is_some() && ahead <= believed { wall.min(expected) } else { wall };
        ahead <= believed
    }

    /// The time by which things are old, where this is what the `wall` clock says.
    fn time(&self, wall: Timestamp) -> Timestamp {
        if wall.duration_since(self.now) <= APART { wall } else { self.now }
    }
}

/// `clock.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    now: Timestamp,
    even_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<SinceBoot>,
}

/// The clock that ages are told by.
#[derive(Debug)]
pub(super) struct Clock {
    looked: Mutex<Looked>,
}

#[derive(Debug)]
struct Looked {
    course: Course,
    /// When, since boot.
    at: Duration,
    /// When it was noted last, since boot.
    noted: Option<Duration>,
}

impl Clock {
    /// Goes on from where an earlier daemon noted it. Without its note everything has its whole time once more, so that no
    /// error stands in the way of a start.
    pub(super) fn open(root: &Dir, wall: impl FnOnce() -> Timestamp) -> Self {
        let read = root.read(&own(NAME), LIMIT);
        let written = match read.map(|bytes| serde_json::from_slice::<Written>(&bytes)) {
            Ok(Ok(written)) => Some(written),
            Ok(Err(error)) => not_understood(&error),
            Err(error) if error.is_not_found() => None,
            Err(error) => not_understood(&error),
        };
        // The wall clock last, here and below: time between the two makes nothing later than it is.
        let (at, wall) = (since_boot(), wall());
        let course = match written {
            Some(Written { now, even_ms, at: then }) => {
                let mut course = Course { now, even: Duration::from_millis(even_ms) };
                let elapsed = then.zip(SinceBoot::at(at)).and_then(|(then, now)| then.until(&now));
                went_on(&mut course, wall, elapsed);
                course
            }
            None => Course { now: wall, even: Duration::ZERO },
        };
        Self { looked: Mutex::new(Looked { course, at, noted: None }) }
    }

    /// Its course, and what the wall clock says.
    fn look(&self, wall: impl FnOnce() -> Timestamp) -> (Course, Timestamp) {
        let mut looked = lock(&self.looked);
        let (at, wall) = (since_boot(), wall());
        let elapsed = at.saturating_sub(looked.at);
        looked.at = at;
        if !went_on(&mut looked.course, wall, Some(elapsed)) {
            looked.noted = None;
        }
        (looked.course, wall)
    }

    /// What is to be noted, now and then, and when that was so.
    fn due(&self) -> Option<(Course, Duration)> {
        let mut looked = lock(&self.looked);
        let at = looked.at;
        if looked.noted.is_some_and(|noted| at.saturating_sub(noted) < EVERY) {
            return None;
        }
        looked.noted = Some(at);
        Some((looked.course, at))
    }
}

fn not_understood(error: &(dyn std::error::Error + 'static)) -> Option<Written> {
    tracing::warn!(
        file = NAME,
        error = error_chain(error),
        "how the clock went is not known: all is kept for its time anew"
    );
    None
}

fn went_on(course: &mut Course, wall: Timestamp, elapsed: Option<Duration>) -> bool {
    let before = *course;
    let even = course.go_on(wall, elapsed);
    if !even {
        tracing::warn!(before = %before.now, now = %wall, "the wall clock jumped ahead: all is kept for its time anew");
    }
    even
}

impl Store {
    /// By what time things are old after so long a run.
    pub fn age(&self, up: Duration) -> Age {
        let (course, wall) = self.clock.look(Timestamp::now);
        Age { now: course.time(wall), up, even: course.even }
    }

    /// Notes how the wall clock went, every hour and after a jump, for the next daemon. Without it that keeps more.
    pub fn note_clock(&self) {
        self.clock.look(Timestamp::now);
        let Some((Course { now, even }, at)) = self.clock.due() else { return };
        let even_ms = u64::try_from(even.as_millis()).unwrap_or(u64::MAX);
        let json = serde_json::to_vec(&Written { now, even_ms, at: SinceBoot::at(at) })
            .unwrap_or_else(|e| unreachable!("plain fields serialise: {e}"));
        fail_point("store.clock.before-write");
        if let Err(error) = self.root.write_atomic(&own(NAME), &json, 0o644) {
            tracing::warn!(file = NAME, error = error_chain(&error), "how the clock goes is not noted");
        }
        fail_point("store.clock.after-write");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(86_400);

    fn at(days: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + days * 86_400).unwrap()
    }

    fn course(even: Duration) -> Course {
        Course { now: at(0), even }
    }

    #[test]
    fn a_jump_ahead_gives_everything_its_time_once_more() {
        let mut clock = course(9 * DAY);
        assert!(!clock.go_on(at(3650), Some(HOUR)));
        assert_eq!(clock, Course { now: at(3650), even: Duration::ZERO });
        let age = |clock: Course| Age { now: clock.now, up: DAY, even: clock.even };
        assert_eq!(age(clock).young(at(0), 2 * DAY), Some(Young::ByJump));
        assert!(clock.go_on(at(3651), Some(DAY)));
        assert!(clock.go_on(at(3652), Some(DAY)));
        assert_eq!(age(clock).young(at(0), 2 * DAY), None);
    }

    #[test]
    fn a_small_jump_is_made_up_for_and_one_back_makes_nothing_old() {
        let mut clock = course(9 * DAY);
        assert!(clock.go_on(at(1), Some(HOUR)), "not a day more than passed");
        assert_eq!(clock, Course { now: at(0) + HOUR, even: 9 * DAY + HOUR });
        assert!(clock.go_on(at(-3650), Some(HOUR)));
        assert_eq!(clock.now, at(-3650));
        assert!(!clock.go_on(at(1), Some(HOUR)), "and ahead again");
    }

    #[test]
    fn clocks_that_are_not_read_at_one_moment_tell_no_other_time() {
        let mut clock = course(9 * DAY);
        let (step, late) = (Duration::from_millis(100), Duration::from_millis(20));
        let mut wall = at(0);
        for n in 0..1000 {
            wall += step;
            // Read late at times, and early as often.
            let passed = if n % 2 == 0 { step + late } else { step - late };
            assert!(clock.go_on(wall, Some(passed)));
            assert_eq!(clock.time(wall), wall, "after {n} looks");
        }
        wall += DAY / 2;
        clock.go_on(wall, Some(step));
        assert_ne!(clock.time(wall), wall, "a jump is none of those");
    }

    #[test]
    fn over_a_reboot_a_month_is_believed() {
        let mut clock = course(9 * DAY);
        assert!(clock.go_on(at(30), None));
        assert_eq!(clock, Course { now: at(30), even: 9 * DAY });
        assert!(!clock.go_on(at(61), None));
        assert_eq!(clock, Course { now: at(61), even: Duration::ZERO });
        assert!(clock.go_on(at(-3650), None));
    }

    #[test]
    fn a_restart_goes_on_from_what_was_noted() {
        let dir = tempfile::tempdir().unwrap();
        let root = Dir::open(dir.path()).unwrap();
        let write = |written: &Written| std::fs::write(dir.path().join(NAME), serde_json::to_vec(written).unwrap());
        let open = |wall| lock(&Clock::open(&root, || wall).looked).course;
        let none = Duration::ZERO;
        assert_eq!(open(at(0)), Course { now: at(0), even: none }, "nothing known");
        let here = SinceBoot::now().unwrap();
        let noted = |at_boot: &SinceBoot| Written { now: at(0), even_ms: 5000, at: Some(at_boot.clone()) };
        // The same boot: what passed is known, and a day more is not believed, whoever restarts.
        write(&noted(&here)).unwrap();
        let even = open(at(0)).even;
        assert!((Duration::from_secs(5)..HOUR).contains(&even), "{even:?}");
        assert_eq!(open(at(2)), Course { now: at(2), even: none });
        // Another boot, or nobody knows which.
        let other = SinceBoot { boot: "another".into(), ..here };
        for written in [noted(&other), Written { at: None, ..noted(&other) }] {
            write(&written).unwrap();
            assert_eq!(open(at(2)), Course { now: at(2), even: Duration::from_secs(5) });
            assert_eq!(open(at(3650)), Course { now: at(3650), even: none });
        }
        std::fs::write(dir.path().join(NAME), "{").unwrap();
        assert_eq!(open(at(0)).even, none);
    }

    #[test]
    fn it_is_noted_by_the_hour_and_after_a_jump() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let noted = || {
            let bytes = std::fs::read(dir.path().join(NAME)).ok()?;
            std::fs::remove_file(dir.path().join(NAME)).unwrap();
            Some(serde_json::from_slice::<Written>(&bytes).unwrap().now)
        };
        store.note_clock();
        assert!(noted().is_some());
        store.note_clock();
        assert_eq!(noted(), None);
        store.clock.look(|| Timestamp::now() + SignedDuration::from_hours(24 * 3650));
        store.note_clock();
        assert!(noted().is_some());
    }

    proptest! {
        /// Whatever the clock is set to: what is old came so long ago, but for the time that the machine was off.
        #[test]
        fn nothing_is_old_early(
            steps in proptest::collection::vec((0u64..200, -4000i64..4000, any::<bool>()), 1..30),
            kept in 1u64..300,
        ) {
            let (mut clock, mut came) = (course(Duration::ZERO), Vec::new());
            let (mut true_time, mut offset) = (Duration::ZERO, 0);
            for (hours, days, jumps) in steps {
                let passed = HOUR * u32::try_from(hours).unwrap();
                true_time += passed;
                if jumps {
                    offset = days;
                }
                let wall = at(offset) + true_time;
                clock.go_on(wall, Some(passed));
                let age = Age { now: clock.now, up: Duration::MAX, even: clock.even };
                let kept = HOUR * u32::try_from(kept).unwrap();
                for (since, truly) in &came {
                    prop_assert!(age.young(*since, kept).is_some() || true_time - *truly >= kept);
                }
                came.push((wall, true_time));
            }
        }
    }
}
