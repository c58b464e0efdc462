//! Whose turn it is to download: a few at once. One that waits for a slow origin takes nothing that others would want, and
//! its turn goes to the next; it reads on as bytes come, and takes a turn again as soon as one is free.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::plan::Moment;
use crate::intent::ArtifactName;

/// Slow ones besides those that have turns: each has threads, and the connections that its document allows.
const SLOW_AT_ONCE: usize = 16;
/// How long one is looked at before it is called slow or not.
const WINDOW: Moment = Moment::from_millis(250);

/// What is seen of a download at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// Bytes that came from the source so far.
    pub(super) came: u64,
    /// It is waiting for more of them.
    pub(super) waits: bool,
}

/// Whether a download is held up by its origin, told window by window. Pure.
#[derive(Debug)]
struct Flow {
    /// Bytes per second that are enough.
    enough: u64,
    since: Moment,
    came: u64,
    looks: u32,
    waits: u32,
}

impl Flow {
    fn new(enough: u64, now: Moment) -> Self {
        Self { enough, since: now, came: 0, looks: 0, waits: 0 }
    }

    /// Takes a look; at a window's end, whether it was slow: less than enough came, and that was waited for.
    fn look(&mut self, seen: Seen, now: Moment) -> Option<bool> {
        self.looks += 1;
        self.waits += u32::from(seen.waits);
        let lasted = now.saturating_sub(self.since);
        if lasted < WINDOW {
            return None;
        }
        let came = seen.came.saturating_sub(self.came);
        let enough = (self.enough as f64 * lasted.as_secs_f64()).max(1.0);
        let slow = (came as f64) < enough && self.waits * 2 > self.looks;
        *self = Self { came: seen.came, ..Self::new(self.enough, now) };
        Some(slow)
    }
}

/// The turns that there are.
#[derive(Debug)]
pub(super) struct Downloads {
    turns: Arc<Semaphore>,
    aside: Arc<Semaphore>,
    /// Those that were slow to their end the last time: they begin aside.
    slow: Mutex<BTreeSet<ArtifactName>>,
    enough: u64,
}

impl Downloads {
    /// So many at once; one that gets less than `enough` bytes per second does not count.
    pub(super) fn new(at_once: usize, enough: u64) -> Self {
        let [turns, aside] = [at_once.max(1), SLOW_AT_ONCE].map(|most| Arc::new(Semaphore::new(most)));
        Self { turns, aside, slow: Mutex::default(), enough }
    }

    /// Waits for a turn.
    pub(super) async fn enter(self: &Arc<Self>, artifact: &ArtifactName, now: impl Fn() -> Moment) -> Place {
        let aside = if self.slow().contains(artifact) { self.aside.clone().try_acquire_owned().ok() } else { None };
        let turn = match &aside {
            Some(_) => None,
            // Never closed: an error here cannot be.
            None => self.turns.clone().acquire_owned().await.ok(),
        };
        let flow = Flow::new(self.enough, now());
        Place { artifact: artifact.clone(), downloads: self.clone(), flow, slow: false, turn, aside }
    }

    fn slow(&self) -> MutexGuard<'_, BTreeSet<ArtifactName>> {
        // Names come and go one at a time: whoever panicked left it usable.
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to download, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    artifact: ArtifactName,
    downloads: Arc<Downloads>,
    flow: Flow,
    /// As it was seen last.
    slow: bool,
    turn: Option<OwnedSemaphorePermit>,
    /// Held while there is no turn.
    aside: Option<OwnedSemaphorePermit>,
}

impl Place {
    /// Looks at the download: its turn goes to others while it is slow.
    pub(super) fn look(&mut self, seen: Seen, now: Moment) {
        let Some(slow) = self.flow.look(seen, now) else { return };
        self.slow = slow;
        if slow {
            self.step_aside();
        } else if self.turn.is_none()
            && let Ok(turn) = self.downloads.turns.clone().try_acquire_owned()
        {
            (self.turn, self.aside) = (Some(turn), None);
        }
    }

    /// Gives its turn away, if it has one; where too many have done so, it keeps it.
    pub(super) fn step_aside(&mut self) {
        if self.turn.is_some()
            && let Ok(aside) = self.downloads.aside.clone().try_acquire_owned()
        {
            tracing::debug!(artifact = %self.artifact, "waiting for its source; its turn to download goes to another");
            (self.aside, self.turn) = (Some(aside), None);
        }
    }

    /// Begins to look anew: what held the download up was not its origin.
    pub(super) fn look_anew(&mut self, seen: Seen, now: Moment) {
        self.flow = Flow { came: seen.came, ..Flow::new(self.flow.enough, now) };
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut slow = self.downloads.slow();
        match self.slow {
            true => slow.insert(self.artifact.clone()),
            false => slow.remove(&self.artifact),
        };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;

    const LOOK: Moment = Duration::from_millis(20);

    /// Whether each window is slow of a download that is seen so at the n-th look.
    fn windows(windows: usize, seen: impl Fn(u64) -> Seen) -> Vec<bool> {
        let mut flow = Flow::new(10_000, Duration::ZERO);
        let looks = (1..).filter_map(|n: u32| flow.look(seen(n.into()), LOOK * n));
        looks.take(windows).collect()
    }

    #[test]
    fn slow_is_who_waits_and_gets_little() {
        let waits = true;
        assert_eq!(windows(2, |_| Seen { came: 0, waits }), [true, true]);
        assert_eq!(windows(2, |n| Seen { came: n * 200, waits }), [false, false], "enough");
        assert_eq!(windows(2, |n| Seen { came: n * 199, waits }), [true, true]);
        assert_eq!(windows(2, |_| Seen { came: 0, waits: false }), [false, false], "the disk is slow");
        assert_eq!(windows(3, |n| Seen { came: n.min(20) * 10_000, waits }), [false, false, true], "no more comes");
        assert_eq!(windows(3, |n| Seen { came: n.max(25) * 10_000, waits }), [false, false, false]);
    }

    fn name(name: &str) -> ArtifactName {
        name.parse().unwrap()
    }

    /// A place, if there is one now.
    fn enter(downloads: &Arc<Downloads>, artifact: &str) -> Option<Place> {
        downloads.enter(&name(artifact), || Duration::ZERO).now_or_never()
    }

    fn see(place: &mut Place, window: u32, came: u64) {
        place.look(Seen { came, waits: true }, WINDOW * window);
    }

    #[tokio::test]
    async fn a_slow_download_keeps_nobody_waiting() {
        let downloads = Arc::new(Downloads::new(1, 10_000));
        let mut slow = enter(&downloads, "slow").unwrap();
        assert!(enter(&downloads, "other").is_none());
        see(&mut slow, 1, 0);
        let other = enter(&downloads, "other").unwrap();
        assert!(enter(&downloads, "third").is_none(), "one turn is one");
        // It comes back, and counts as soon as it can.
        see(&mut slow, 2, 1_000_000);
        drop(other);
        see(&mut slow, 3, 2_000_000);
        assert!(enter(&downloads, "third").is_none());
        drop(slow);
        assert!(enter(&downloads, "third").is_some());
    }

    #[tokio::test]
    async fn who_was_slow_to_the_end_begins_aside() {
        let downloads = Arc::new(Downloads::new(1, 10_000));
        let mut slow = enter(&downloads, "slow").unwrap();
        see(&mut slow, 1, 0);
        drop(slow);
        let other = enter(&downloads, "other").unwrap();
        let mut slow = enter(&downloads, "slow").unwrap();
        drop(other);
        see(&mut slow, 1, 1_000_000);
        drop(slow);
        let _other = enter(&downloads, "other").unwrap();
        assert!(enter(&downloads, "slow").is_none(), "it was fast in the end");
    }

    #[tokio::test]
    async fn only_so_many_are_slow_besides() {
        let downloads = Arc::new(Downloads::new(1, 10_000));
        let mut places = Vec::new();
        for at in 0..=SLOW_AT_ONCE {
            let mut place = enter(&downloads, &format!("slow-{at}")).unwrap();
            see(&mut place, 1, 0);
            places.push(place);
        }
        assert!(enter(&downloads, "other").is_none());
        places.pop();
        assert!(enter(&downloads, "other").is_some());
    }
}
