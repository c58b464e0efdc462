//! Which states a watcher is told of: what differs from what it was told last. Pure: no clock, no socket.
//!
//! What must hold: whatever is skipped on the way, a watcher that goes on listening is told the last state; what is kept
//! for it is one print for each artifact, not its states.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher as _};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::intent::ArtifactName;
use crate::reconcile::{ArtifactState, ProgressState, SeedProgressState};

/// The least time between two events of one artifact that tell of nothing but progress.
pub(super) const PACE: Duration = Duration::from_millis(500);

/// Something to tell.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Event {
    /// An artifact's state changed, or is told for the first time.
    Artifact(Box<ArtifactState>),
    /// It is neither declared nor on the node any more.
    Removed(ArtifactName),
}

/// What one watcher was told.
#[derive(Debug, Default)]
pub(super) struct Feed {
    told: BTreeMap<ArtifactName, Told>,
}

#[derive(Debug)]
struct Told {
    print: Print,
    at: Duration,
}

/// As much of a state as tells whether it changed.
#[derive(Debug, PartialEq)]
struct Print {
    /// Of all but what follows.
    rest: u64,
    /// Of what says how far things are.
    figures: u64,
    next_try: Option<Timestamp>,
}

/// Whether something is being done whose figures move without a sign.
pub(super) fn is_moving(state: &ArtifactState) -> bool {
    state.progress.is_some() || state.seeds.iter().any(|seed| seed.progress.is_some())
}

fn hash(value: &impl Serialize) -> u64 {
    let json =
        serde_json::to_vec(value).unwrap_or_else(|e| unreachable!("plain fields with text keys always serialise: {e}"));
    let mut hasher = DefaultHasher::new();
    hasher.write(&json);
    hasher.finish()
}

impl Print {
    fn of(state: &ArtifactState) -> Self {
        let mut rest = state.clone();
        let next_try = rest.next_try.take();
        let figures = (&state.progress, state.seeds.iter().map(|seed| seed.progress).collect::<Vec<_>>());
        let figures = if is_moving(state) { hash(&figures) } else { 0 };
        if let Some(progress) = &mut rest.progress {
            let (phase, version) = (progress.phase, progress.version.take());
            *progress = ProgressState { phase, version, bytes: 0, total_bytes: None, unpacked_bytes: 0, entries: 0 };
        }
        for progress in rest.seeds.iter_mut().filter_map(|seed| seed.progress.as_mut()) {
            *progress = SeedProgressState { entries: 0, total_entries: 0, bytes: 0 };
        }
        Self { rest: hash(&rest), figures, next_try }
    }

    /// The same but for figures. The time of the next try is worked out anew with each look and wavers a little.
    fn is_like(&self, other: &Self) -> bool {
        let near = match (self.next_try, other.next_try) {
            (Some(one), Some(two)) => one.duration_since(two).abs() < jiff::SignedDuration::from_secs(1),
            (one, two) => one == two,
        };
        near && self.rest == other.rest
    }
}

impl Feed {
    /// What is to be told of these states, all there are; progress alone not sooner than [`PACE`] after the last event.
    pub(super) fn look(&mut self, states: Vec<ArtifactState>, now: Duration) -> Vec<Event> {
        let mut events = Vec::new();
        let mut gone = std::mem::take(&mut self.told);
        for state in states {
            let print = Print::of(&state);
            let name = state.name.clone();
            match gone.remove(&name) {
                Some(told) if !news(&told, &print, now) => drop(self.told.insert(name, told)),
                _ => {
                    self.told.insert(name, Told { print, at: now });
                    events.push(Event::Artifact(Box::new(state)));
                }
            }
        }
        events.extend(gone.into_keys().map(Event::Removed));
        events
    }
}

/// Whether a state is to be told after what was.
fn news(told: &Told, print: &Print, now: Duration) -> bool {
    !told.print.is_like(print) || (told.print.figures != print.figures && now.saturating_sub(told.at) >= PACE)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::super::fixture::state;
    use super::*;
    use crate::acquire::Phase;
    use crate::reconcile::{SeedState, State};

    fn at(bytes: u64, phase: Phase) -> ArtifactState {
        let progress = ProgressState { phase, version: None, bytes, total_bytes: None, unpacked_bytes: 0, entries: 0 };
        ArtifactState { progress: Some(progress), ..state("a", State::Warming) }
    }

    fn tells(feed: &mut Feed, state: &ArtifactState, ms: u64) -> bool {
        !feed.look(vec![state.clone()], Duration::from_millis(ms)).is_empty()
    }

    #[test]
    fn the_first_look_tells_all_and_the_next_only_what_changed() {
        let mut feed = Feed::default();
        let (a, b) = (state("a", State::Pending), state("b", State::Pending));
        let now = Duration::ZERO;
        let all = feed.look(vec![a.clone(), b.clone()], now);
        assert_eq!(all, [Event::Artifact(a.clone().into()), Event::Artifact(b.clone().into())]);
        assert!(feed.look(vec![a.clone(), b.clone()], now).is_empty());
        let ready = ArtifactState { state: State::Ready, ..b };
        assert_eq!(feed.look(vec![a.clone(), ready.clone()], now), [Event::Artifact(ready.into())]);
        assert_eq!(feed.look(vec![a.clone()], now), [Event::Removed("b".parse().unwrap())]);
        assert!(feed.look(vec![a], now).is_empty());
    }

    #[test]
    fn figures_alone_keep_the_pace_and_a_phase_does_not_wait() {
        let mut feed = Feed::default();
        assert!(tells(&mut feed, &at(1, Phase::Downloading), 0));
        assert!(!tells(&mut feed, &at(2, Phase::Downloading), 499));
        assert!(tells(&mut feed, &at(3, Phase::Downloading), 500));
        assert!(tells(&mut feed, &at(3, Phase::Unpacking), 501));
        assert!(!tells(&mut feed, &at(3, Phase::Unpacking), 5000));
    }

    #[test]
    fn a_seeds_figures_are_figures_too() {
        let mut feed = Feed::default();
        let seeding = |entries: Option<u64>| {
            let progress = entries.map(|entries| SeedProgressState { entries, total_entries: 9, bytes: 0 });
            let (target, stand) = ("t".to_owned(), State::Ready);
            let seed = SeedState {
                target,
                by_handle: false,
                declared: true,
                version: None,
                mode: None,
                reason: None,
                state: stand,
                progress,
            };
            ArtifactState { seeds: vec![seed], ..state("a", State::Ready) }
        };
        assert!(tells(&mut feed, &seeding(None), 0));
        assert!(tells(&mut feed, &seeding(Some(1)), 1));
        assert!(!tells(&mut feed, &seeding(Some(2)), 2));
        assert!(tells(&mut feed, &seeding(Some(2)), 501));
        assert!(tells(&mut feed, &seeding(None), 502));
        assert!(is_moving(&seeding(Some(1))) && !is_moving(&seeding(None)));
    }

    #[test]
    fn a_wavering_time_is_no_change() {
        let mut feed = Feed::default();
        let next = |ms: i64| {
            let next_try = Some(Timestamp::from_millisecond(1_800_000_000_000 + ms).unwrap());
            ArtifactState { next_try, ..state("a", State::Ready) }
        };
        assert!(tells(&mut feed, &next(0), 0));
        assert!(!tells(&mut feed, &next(3), 9000));
        assert!(!tells(&mut feed, &next(-3), 9000));
        assert!(tells(&mut feed, &next(1000), 9000));
        assert!(tells(&mut feed, &state("a", State::Ready), 9000));
    }

    proptest! {
        /// However often it is looked, after a pause the watcher knows what is.
        #[test]
        fn the_last_state_is_told(looks in prop::collection::vec((0u64..4, 0u64..700, any::<bool>()), 1..30)) {
            let mut feed = Feed::default();
            let mut known: BTreeMap<ArtifactName, ArtifactState> = BTreeMap::new();
            let mut now = 0;
            let mut last = Vec::new();
            let mut take = |feed: &mut Feed, states: &Vec<ArtifactState>, now| {
                for event in feed.look(states.clone(), Duration::from_millis(now)) {
                    match event {
                        Event::Artifact(state) => drop(known.insert(state.name.clone(), *state)),
                        Event::Removed(name) => assert!(known.remove(&name).is_some()),
                    }
                }
                known.values().cloned().collect::<Vec<_>>()
            };
            for (bytes, pause, there) in looks {
                now += pause;
                last = if there { vec![at(bytes, Phase::Downloading)] } else { vec![] };
                take(&mut feed, &last, now);
            }
            prop_assert_eq!(take(&mut feed, &last, now + 500), last);
        }
    }
}
