//! Looking at targets with a time limit: one on a file system that does not answer, as one over a network whose server is gone,
//! holds up nobody but the thread that looks at it.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use super::lock;

/// One look at a time.
#[derive(Debug, Default)]
pub(crate) struct TimedLook {
    since: Mutex<Option<Instant>>,
    over: Condvar,
}

/// Says that it is over, whatever became of it.
struct UnderWay(Arc<TimedLook>);

impl TimedLook {
    /// Takes a look when the one before is over; `None` where one of the two is not over in time. One that is late goes on alone,
    /// and nobody looks until it is over.
    pub(crate) fn within<T: Send + 'static>(
        self: &Arc<Self>,
        limit: Duration,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let under_way = self.begin(limit)?;
        let (found, result) = mpsc::sync_channel(1);
        let looking = move || {
            let _under_way = under_way;
            // Whoever asked may have gone.
            let _ = found.send(look());
        };
        std::thread::Builder::new().name("targets".into()).spawn(looking).ok()?;
        result.recv_timeout(limit).ok()
    }

    /// Whether one is, which may be late.
    pub(crate) fn is_under_way(&self) -> bool {
        self.since().is_some()
    }

    fn begin(self: &Arc<Self>, limit: Duration) -> Option<UnderWay> {
        let mut since = self.since();
        while let Some(began) = *since {
            let left = limit.checked_sub(began.elapsed()).filter(|left| !left.is_zero())?;
            since = self.over.wait_timeout(since, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *since = Some(Instant::now());
        Some(UnderWay(self.clone()))
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        // A time: whoever panicked left it whole.
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at many places: one that is late holds up those at the same place alone.
#[derive(Debug)]
pub(super) struct TimedLooks<K>(Mutex<BTreeMap<K, Arc<TimedLook>>>);

impl<K> Default for TimedLooks<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord> TimedLooks<K> {
    /// Those at one place. Places that nobody looks at are forgotten.
    pub(super) fn at(&self, place: K) -> Arc<TimedLook> {
        let mut looks = lock(&self.0);
        looks.retain(|_, looking| Arc::strong_count(looking) > 1);
        looks.entry(place).or_default().clone()
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        *self.0.since() = None;
        self.0.over.notify_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_look_that_hangs_holds_up_nobody_and_the_next_comes_after_it() {
        let looking = Arc::new(TimedLook::default());
        assert_eq!(looking.within(LONG, || 1), Some(1));
        let (go_on, hangs) = mpsc::channel::<()>();
        let hung = move || hangs.recv().is_ok();
        assert_eq!(looking.within(Duration::from_millis(1), hung), None);
        assert!(looking.is_under_way());
        assert_eq!(looking.within(Duration::from_millis(1), || 2), None, "one is under way");
        go_on.send(()).unwrap();
        assert_eq!(looking.within(LONG, || 3), Some(3));
    }

    #[test]
    fn one_that_hangs_is_the_only_one_at_its_place_until_it_is_over() {
        let looks = TimedLooks::default();
        let (go_on, hangs) = mpsc::channel::<()>();
        assert_eq!(looks.at("a").within(Duration::from_millis(1), move || hangs.recv().is_ok()), None);
        assert_eq!(looks.at("b").within(LONG, || 1), Some(1));
        assert_eq!(looks.at("a").within(Duration::from_millis(1), || 2), None, "one is under way");
        go_on.send(()).unwrap();
        assert_eq!(looks.at("a").within(LONG, || 3), Some(3));
        drop(looks.at("c"));
        drop(looks.at("d"));
        assert!(!lock(&looks.0).contains_key("c"), "nobody looks at it");
    }

    #[test]
    fn one_that_panics_is_over() {
        let looking = Arc::new(TimedLook::default());
        assert_eq!(looking.within(LONG, || -> u8 { panic!("as it should") }), None);
        assert_eq!(looking.within(LONG, || 1), Some(1));
    }
}
