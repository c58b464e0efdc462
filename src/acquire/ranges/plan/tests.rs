//! The plan by itself: no socket, no clock, no bytes.
#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::super::transfer::{ContentRange, Head, Validators};
use super::*;

const KIB: u64 = 1024;

fn shared(end: u64) -> Shared {
    Shared { from: 0, end, validators: Validators::new(Some("\"a\""), None, None), is_judged: false }
}

fn partial(ask: Ask, end: u64, etag: &str) -> Head {
    Head {
        status: 206,
        length: Some(ask.to - ask.from),
        range: Some(ContentRange { span: Some((ask.from, ask.to - 1)), total: Some(end) }),
        validators: Validators::new(Some(etag), None, None),
        ..Head::default()
    }
}

fn status(status: u16) -> Head {
    Head { status, ..Head::default() }
}

/// Asks for all that is wanted.
fn ask(plan: &mut Plan) -> Vec<Ask> {
    let mut asks = Vec::new();
    while let Some(ask) = plan.wanted() {
        plan.asked(ask);
        asks.push(ask);
    }
    asks
}

/// Four lanes of 64 KiB ranges, all of them busy, nothing proven.
fn four() -> (Plan, Vec<Ask>) {
    let mut plan = Plan::new(&shared(1024 * KIB), 4, 384 * KIB).unwrap();
    let asks = ask(&mut plan);
    (plan, asks)
}

#[test]
fn ranges_are_asked_for_side_by_side_as_far_as_the_window_goes() {
    let (mut plan, asks) = four();
    let at = |lane: usize| Ask { lane, from: lane as u64 * 64 * KIB, to: (lane as u64 + 1) * 64 * KIB };
    assert_eq!(asks, [at(1), at(2), at(3)]);
    for lane in 1..4 {
        assert_eq!(plan.answered(lane, &partial(at(lane), 1024 * KIB, "\"a\"")), Next::Read);
        assert_eq!(plan.came(lane, 64 * KIB), (64 * KIB, Next::Read));
        assert_eq!(plan.ended(lane), Next::Drop);
    }
    // Two more fit into the window while the first range is late.
    assert_eq!(ask(&mut plan).iter().map(|ask| ask.from / KIB).collect::<Vec<_>>(), [256, 320]);
    assert_eq!(plan.ahead(), 320 * KIB);
    plan.came(0, 64 * KIB);
    plan.read(64 * KIB);
    assert_eq!(ask(&mut plan).iter().map(|ask| ask.from / KIB).collect::<Vec<_>>(), [384]);
}

#[test]
fn what_is_small_is_not_shared() {
    assert!(Plan::new(&shared(128 * KIB), 4, 384 * KIB).is_none());
    assert!(Plan::new(&shared(129 * KIB), 4, 384 * KIB).is_some());
    assert!(Plan::new(&shared(1 << 40), 1, 384 * KIB).is_none());
    let resumed = Shared { from: 900 * KIB, ..shared(1024 * KIB) };
    assert!(Plan::new(&resumed, 4, 384 * KIB).is_none());
    assert_eq!((size(2, 24 << 20), size(4, 24 << 20), size(16, 24 << 20)), (8 << 20, 4 << 20, 1 << 20));
}

#[test]
fn the_first_body_is_let_go_only_when_another_lane_proved_ranges() {
    let (mut plan, asks) = four();
    assert_eq!(plan.came(0, 70 * KIB), (64 * KIB, Next::Park));
    assert_eq!(plan.resume(), Next::Park, "the reader is not there");
    plan.read(64 * KIB);
    // Nobody has answered: it goes on, and lane 1 is left without a range.
    assert_eq!(plan.resume(), Next::Read);
    assert_eq!(plan.came(0, 6 * KIB), (6 * KIB, Next::Read));
    assert!(!plan.is_joined());
    // What lane 1 is answered still tells that ranges can be had.
    assert_eq!(plan.answered(1, &partial(asks[0], 1024 * KIB, "\"a\"")), Next::Drop);
    assert!(plan.is_joined());
    assert_eq!(plan.came(0, 60 * KIB), (58 * KIB, Next::Drop));
    assert!(ask(&mut plan).iter().any(|ask| ask.lane == 0));
}

#[test]
fn an_origin_without_ranges_is_read_as_ever() {
    for lie in [
        status(200),
        status(416),
        status(206),
        partial(Ask { lane: 1, from: 64 * KIB + 1, to: 128 * KIB }, 1024 * KIB, "\"a\""),
        partial(Ask { lane: 1, from: 64 * KIB, to: 128 * KIB }, 1023 * KIB, "\"a\""),
        partial(Ask { lane: 1, from: 64 * KIB, to: 128 * KIB }, 1024 * KIB, "\"b\""),
        Head { length: Some(1), ..partial(Ask { lane: 1, from: 64 * KIB, to: 128 * KIB }, 1024 * KIB, "\"a\"") },
    ] {
        let (mut plan, _) = four();
        assert_eq!(plan.answered(1, &lie), Next::Drop, "{lie:?}");
        reads_alone(plan);
    }
    let (mut plan, _) = four();
    assert_eq!(plan.answered(1, &status(503)), Next::Drop);
    assert_eq!(plan.refused(2), Next::Drop);
    assert_eq!(plan.wanted(), None, "no lane is idle");
    assert_eq!(plan.answered(3, &status(429)), Next::Drop);
    reads_alone(plan);
}

#[test]
fn a_range_without_the_etag_is_taken_only_where_a_digest_judges() {
    let untold = |ask: Ask| Head { validators: Validators::default(), ..partial(ask, 1024 * KIB, "\"a\"") };
    let (mut plan, asks) = four();
    assert_eq!(plan.answered(1, &untold(asks[0])), Next::Drop);
    reads_alone(plan);
    let (mut plan, asks) = four();
    plan.answered(1, &partial(asks[0], 1024 * KIB, "\"a\""));
    assert_eq!(plan.answered(2, &untold(asks[1])), Next::Stop(Stop::Lied));
    let judged = Shared { is_judged: true, ..shared(1024 * KIB) };
    // By a date that has settled nobody is held to an ETag.
    let at = "Sun, 06 Nov 1994 08:49:37 GMT";
    let dated = Validators::new(None, Some(at), Some(std::time::SystemTime::now()));
    assert!(dated.strong.is_some());
    for shared in [judged, Shared { validators: dated, ..shared(1024 * KIB) }] {
        let mut plan = Plan::new(&shared, 4, 384 * KIB).unwrap();
        let asks = ask(&mut plan);
        assert_eq!(plan.answered(1, &untold(asks[0])), Next::Read, "{shared:?}");
    }
}

fn reads_alone(mut plan: Plan) {
    assert_eq!(plan.wanted(), None);
    for _ in 0..15 {
        assert_eq!(plan.came(0, 64 * KIB), (64 * KIB, Next::Park));
        plan.read(64 * KIB);
        assert_eq!(plan.resume(), Next::Read);
    }
    assert_eq!(plan.came(0, 64 * KIB), (64 * KIB, Next::Read));
    assert_eq!(plan.ended(0), Next::Drop);
    plan.read(64 * KIB);
    assert!(plan.is_done() && !plan.is_joined());
}

#[test]
fn once_proven_a_lie_or_a_change_stops_all() {
    for (head, why) in [
        (status(200), Stop::Lied),
        (Head { validators: Validators::new(Some("\"b\""), None, None), ..status(200) }, Stop::Changed),
        (partial(Ask { lane: 2, from: 128 * KIB, to: 192 * KIB }, 1024 * KIB, "\"b\""), Stop::Changed),
    ] {
        let (mut plan, asks) = four();
        plan.answered(1, &partial(asks[0], 1024 * KIB, "\"a\""));
        assert_eq!(plan.answered(2, &head), Next::Stop(why));
    }
}

#[test]
fn a_lane_that_is_refused_leaves_its_range_to_the_others() {
    let (mut plan, asks) = four();
    plan.answered(1, &partial(asks[0], 1024 * KIB, "\"a\""));
    assert_eq!(plan.answered(2, &status(503)), Next::Drop);
    plan.came(1, 64 * KIB);
    plan.ended(1);
    assert_eq!(ask(&mut plan), [Ask { lane: 1, ..asks[1] }]);
    assert_eq!(plan.refused(1), Next::Drop);
    assert_eq!(plan.refused(3), Next::Drop);
    // The first body ends where it should; its lane goes on, the last one open.
    assert_eq!(plan.came(0, 100 * KIB), (64 * KIB, Next::Drop));
    assert_eq!(ask(&mut plan), [Ask { lane: 0, ..asks[1] }]);
    assert_eq!(plan.answered(0, &status(503)), Next::Stop(Stop::Failed));
}

#[test]
fn a_slow_lane_leaves_the_rest_of_its_range_to_the_others() {
    let (mut plan, asks) = four();
    plan.answered(1, &partial(asks[0], 1024 * KIB, "\"a\""));
    plan.came(1, KIB);
    assert_eq!(plan.slow(1), Next::Drop);
    assert_eq!(plan.came(0, 64 * KIB), (64 * KIB, Next::Drop));
    assert_eq!(ask(&mut plan)[0], Ask { lane: 0, from: 65 * KIB, to: 128 * KIB });
    // None is left that would be any better.
    assert_eq!((plan.slow(2), plan.slow(3), plan.slow(0)), (Next::Drop, Next::Drop, Next::Stop(Stop::Failed)));
    // Until ranges are proven the first body is what there is.
    assert_eq!(four().0.slow(0), Next::Stop(Stop::Failed));
}

#[test]
fn the_rest_of_a_range_is_asked_for_again_and_not_for_ever() {
    let (mut plan, asks) = four();
    plan.answered(1, &partial(asks[0], 1024 * KIB, "\"a\""));
    for n in 1..5 {
        assert_eq!(plan.came(1, KIB), (KIB, Next::Read));
        assert_eq!(plan.failed(1), Next::Drop);
        let rest = Ask { lane: 1, from: (64 + n) * KIB, to: 128 * KIB };
        assert_eq!(ask(&mut plan), [rest]);
        assert_eq!(plan.answered(1, &partial(rest, 1024 * KIB, "\"a\"")), Next::Read);
    }
    assert_eq!(plan.ended(1), Next::Stop(Stop::Failed));
    // Until then the first body is what there is.
    assert_eq!(four().0.failed(0), Next::Stop(Stop::Failed));
}

#[test]
fn more_than_was_asked_for_is_not_taken() {
    let (mut plan, asks) = four();
    plan.answered(1, &partial(asks[0], 1024 * KIB, "\"a\""));
    assert_eq!(plan.came(1, 65 * KIB), (64 * KIB, Next::Stop(Stop::Lied)));
}

#[test]
fn a_lane_without_a_range_is_closed_by_a_refusal_too() {
    let (mut plan, _) = four();
    plan.came(0, 64 * KIB);
    plan.read(64 * KIB);
    assert_eq!(plan.resume(), Next::Read);
    for lane in 1..4 {
        assert_eq!(plan.answered(lane, &status(429)), Next::Drop);
    }
    assert_eq!(plan.wanted(), None);
}

/// A response in flight: not answered yet, or its place and end.
#[derive(Debug, Clone, Copy)]
enum Flight {
    Asked(Ask),
    At(u64, u64),
}

/// A driver whose origin does as the script says.
struct Driver {
    plan: Plan,
    end: u64,
    flights: BTreeMap<usize, Flight>,
    /// Of the first body, and what of it came too early.
    parked: Option<(u64, u64)>,
    /// Bytes held, by place.
    held: BTreeMap<u64, u64>,
    read: u64,
}

impl Driver {
    fn ask(&mut self) {
        self.unpark();
        for ask in ask(&mut self.plan) {
            assert!(ask.from < ask.to && ask.to <= self.end && ask.from >= self.read, "{ask:?}");
            assert!(self.flights.insert(ask.lane, Flight::Asked(ask)).is_none(), "{ask:?}: the lane is busy");
        }
    }

    fn unpark(&mut self) {
        let Some((at, surplus)) = self.parked.take() else { return };
        match self.plan.resume() {
            Next::Park => self.parked = Some((at, surplus)),
            Next::Read => {
                self.flights.insert(0, Flight::At(at, self.end));
                self.came(0, at, self.end, surplus);
            }
            next => assert_eq!(next, Next::Drop),
        }
    }

    /// Whether it is over.
    fn came(&mut self, lane: usize, at: u64, to: u64, bytes: u64) -> bool {
        let (taken, next) = self.plan.came(lane, bytes);
        if taken > 0 {
            let after = self.held.range(at..).next().is_none_or(|(next, _)| at + taken <= *next);
            let before = self.held.range(..at).next_back().is_none_or(|(last, length)| last + length <= at);
            assert!(after && before && at >= self.read, "{at} is here already");
            self.held.insert(at, taken);
        }
        match next {
            Next::Read => {
                self.flights.insert(lane, Flight::At(at + taken, to));
            }
            Next::Park => {
                assert_eq!(lane, 0);
                self.flights.remove(&0);
                self.parked = Some((at + taken, bytes - taken));
            }
            next => return self.over(lane, next),
        }
        false
    }

    fn over(&mut self, lane: usize, next: Next) -> bool {
        self.flights.remove(&lane);
        matches!(next, Next::Stop(_))
    }

    fn read(&mut self) {
        while let Some(bytes) = self.held.remove(&self.read) {
            self.read += bytes;
            self.plan.read(bytes);
        }
        assert_eq!(self.plan.at(), self.read);
    }

    /// One event; whether all is over.
    fn turn(&mut self, which: usize, what: u8, bytes: u64) -> bool {
        if what.is_multiple_of(3) {
            self.read();
        }
        let Some((lane, flight)) = self.flights.iter().nth(which % self.flights.len().max(1)) else {
            // Then only the reader can help.
            self.read();
            return false;
        };
        let (lane, flight) = (*lane, *flight);
        match flight {
            Flight::Asked(ask) => {
                let next = match what % 32 {
                    0 => self.plan.answered(lane, &status(200)),
                    1 => self.plan.answered(lane, &partial(ask, self.end, "\"b\"")),
                    2 => self.plan.answered(lane, &status(429)),
                    3 => self.plan.refused(lane),
                    _ => self.plan.answered(lane, &partial(ask, self.end, "\"a\"")),
                };
                if next == Next::Read {
                    self.flights.insert(lane, Flight::At(ask.from, ask.to));
                    return false;
                }
                self.over(lane, next)
            }
            Flight::At(at, to) if at == to => {
                let next = self.plan.ended(lane);
                self.over(lane, next)
            }
            Flight::At(..) if what % 32 == 4 => {
                let next = self.plan.failed(lane);
                self.over(lane, next)
            }
            Flight::At(..) if what % 32 == 5 => {
                let next = self.plan.slow(lane);
                self.over(lane, next)
            }
            Flight::At(at, to) => self.came(lane, at, to, bytes.clamp(1, to - at)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_byte_comes_once_and_in_order_whatever_the_lanes_do(
        end in 1u64..2000,
        connections in 2u8..=16,
        script in proptest::collection::vec((any::<usize>(), any::<u8>(), 1u64..100 * KIB), 1..200),
        calm: bool,
    ) {
        let (end, window) = (end * KIB, u64::from(connections) * 96 * KIB);
        let Some(plan) = Plan::new(&shared(end), connections, window) else { return Ok(()) };
        let flights = BTreeMap::from([(0, Flight::At(0, end))]);
        let mut driver = Driver { plan, end, flights, parked: None, held: BTreeMap::new(), read: 0 };
        let mut turns = 0;
        for (which, what, bytes) in script.iter().cycle() {
            driver.ask();
            // In calm weather nothing fails.
            let what = if calm { 6 } else { *what };
            let stopped = driver.turn(*which, what, *bytes);
            let ahead = driver.plan.reach() - driver.read;
            prop_assert!(ahead <= window, "{ahead} bytes are ahead");
            prop_assert!(driver.held.values().sum::<u64>() <= ahead);
            prop_assert!(driver.flights.len() + usize::from(driver.parked.is_some()) <= usize::from(connections));
            turns += 1;
            prop_assert!(turns < 1_000_000, "no end");
            if stopped {
                prop_assert!(!calm);
                break;
            }
            if driver.plan.is_done() {
                prop_assert_eq!(driver.read, end);
                prop_assert!(driver.held.is_empty());
                break;
            }
        }
    }
}
