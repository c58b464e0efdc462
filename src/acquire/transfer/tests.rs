//! The machine by itself: no socket, no clock.
#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::head::ContentRange;
use super::*;

const MAX: u64 = 1 << 30;

fn validators(etag: Option<&str>) -> Validators {
    Validators::new(etag, None, None)
}

fn ok(length: Option<u64>, etag: Option<&str>) -> Event {
    Event::Head(Head { status: 200, length, validators: validators(etag), ..Head::default() })
}

fn partial(first: u64, last: u64, total: u64, etag: Option<&str>) -> Event {
    Event::Head(Head {
        status: 206,
        range: Some(ContentRange { span: Some((first, last)), total: Some(total) }),
        validators: validators(etag),
        ..Head::default()
    })
}

fn status(status: u16) -> Event {
    Event::Head(Head { status, ..Head::default() })
}

/// Feeds events; gives the last step.
fn run((mut transfer, mut step): (Transfer, Step), events: impl IntoIterator<Item = Event>) -> (Transfer, Step) {
    for event in events {
        (transfer, step) = transfer.on(event);
    }
    (transfer, step)
}

fn fresh(locations: usize, spliceable: bool) -> (Transfer, Step) {
    Transfer::start(Rules::new(MAX), locations, spliceable, None, 7)
}

/// 100 bytes announced, 40 taken, cut, waited.
fn cut(locations: usize, spliceable: bool, etag: Option<&str>) -> (Transfer, Step) {
    run(fresh(locations, spliceable), [ok(Some(100), etag), Event::Chunk(40), Event::Failed, Event::Waited])
}

fn ask(location: usize, range: Option<(u64, Option<&str>)>) -> Step {
    let range = range.map(|(from, if_range)| Range { from, if_range: if_range.map(Into::into) });
    Step::Ask { location, range }
}

#[test]
fn a_whole_body_is_judged() {
    let judged = run(fresh(1, false), [ok(Some(100), None), Event::Chunk(100), Event::End]);
    assert_eq!(judged.1, Step::Judge);
    assert_eq!(run(judged.clone(), [Event::Good]).1, Step::Done);
    assert_eq!(run(judged, [Event::Wrong]).1, Step::GiveUp(GiveUp::Wrong));
    let chunked = run(fresh(1, false), [ok(None, None), Event::Chunk(100), Event::End]);
    assert_eq!(chunked.1, Step::Judge);
}

#[test]
fn the_rest_is_asked_for_only_on_a_strong_validator_or_digest() {
    assert_eq!(cut(1, false, Some("\"a\"")).1, ask(0, Some((40, Some("\"a\"")))));
    assert_eq!(cut(1, false, Some("W/\"a\"")).1, ask(0, None));
    assert_eq!(cut(1, false, None).1, ask(0, None));
    assert_eq!(cut(1, true, None).1, ask(0, Some((40, None))));
    let rest = run(cut(1, false, Some("\"a\"")), [partial(40, 99, 100, Some("\"a\""))]);
    assert_eq!(rest.1, Step::Receive { from: 40 });
    assert_eq!(run(rest, [Event::Chunk(60), Event::End]).1, Step::Judge);
}

#[test]
fn the_rest_without_its_etag_is_taken_only_where_a_digest_judges() {
    let rest = partial(40, 99, 100, None);
    let asked = run(cut(1, false, Some("\"a\"")), [rest.clone()]);
    assert_eq!(asked.1, ask(0, None));
    assert_eq!(run(asked, [ok(Some(100), Some("\"a\""))]).1, Step::Receive { from: 0 });
    let weak = partial(40, 99, 100, Some("W/\"a\""));
    assert_eq!(run(cut(1, false, Some("\"a\"")), [weak]).1, ask(0, None));
    assert_eq!(run(cut(1, true, Some("\"a\"")), [rest.clone()]).1, Step::Receive { from: 40 });
    // A part of what is told by its date alone has no ETag, and need not have the date.
    let dated = Validators::new(None, Some("Sun, 06 Nov 1994 08:49:37 GMT"), Some(std::time::SystemTime::now()));
    let held = Held { location: 0, validators: dated, total: Some(100) };
    let resumed = Transfer::start(Rules::new(MAX), 1, false, Some((held, 40)), 7);
    assert_eq!(run(resumed, [rest]).1, Step::Receive { from: 40 });
}

#[test]
fn a_range_that_lies_is_not_believed_twice() {
    let lies = [
        partial(39, 99, 100, None),
        partial(41, 99, 100, None),
        partial(40, 98, 99, None),
        partial(40, 100, 100, None),
        partial(40, 39, 100, None),
        partial(40, 99, 100, Some("\"b\"")),
        status(206),
        status(416),
    ];
    for lie in lies {
        let asked = run(cut(1, true, Some("\"a\"")), [lie.clone()]);
        assert_eq!(asked.1, ask(0, None), "{lie:?}");
        assert_eq!(run(asked, [ok(Some(100), None)]).1, Step::Receive { from: 0 });
    }
}

#[test]
fn a_partial_answer_nobody_asked_for_is_refused() {
    let given_up = run(fresh(1, true), [partial(0, 99, 100, None)]).1;
    assert_eq!(given_up, Step::GiveUp(GiveUp::Unavailable { retry_after: None }));
}

#[test]
fn a_whole_answer_starts_anew_three_times() {
    let mut at = cut(1, false, Some("\"a\""));
    for _ in 0..3 {
        at = run(at, [ok(Some(100), Some("\"b\""))]);
        assert_eq!(at.1, Step::Receive { from: 0 });
        at = run(at, [Event::Chunk(1), Event::Failed, Event::Waited]);
    }
    assert_eq!(run(at, [ok(Some(100), None)]).1, Step::GiveUp(GiveUp::Unstable));
}

#[test]
fn past_the_end_is_done_only_at_the_known_end() {
    let past = |total| {
        let range = Some(ContentRange { span: None, total: Some(total) });
        Event::Head(Head { status: 416, range, ..Head::default() })
    };
    let chunked = run(fresh(1, true), [ok(None, None), Event::Chunk(40), Event::Failed, Event::Waited]);
    assert_eq!(run(chunked.clone(), [past(40)]).1, Step::Judge);
    assert_eq!(run(chunked, [past(41)]).1, ask(0, None));
    assert_eq!(run(cut(1, true, None), [past(40)]).1, ask(0, None));
}

#[test]
fn mirrors_are_asked_in_order_and_joined_only_under_a_digest() {
    assert_eq!(run(fresh(2, false), [status(404)]).1, ask(1, None));
    assert_eq!(run(cut(2, false, Some("\"a\"")), [status(404)]).1, ask(1, None));
    let joined = run(cut(2, true, Some("\"a\"")), [status(403)]);
    assert_eq!(joined.1, ask(1, Some((40, None))));
    let joined = run(joined, [partial(40, 99, 100, Some("\"b\"")), Event::Chunk(60), Event::End]);
    assert_eq!(joined.1, Step::Judge);
    // A joined part that is wrong proves nothing: once more from nothing, and only then is it the origin's fault.
    let anew = run(joined, [Event::Wrong]);
    assert_eq!(anew.1, ask(1, None));
    let again = run(anew, [ok(Some(100), None), Event::Chunk(100), Event::End, Event::Wrong]);
    assert_eq!(again.1, Step::GiveUp(GiveUp::Wrong));
}

#[test]
fn wrong_bytes_of_one_address_send_us_to_the_next() {
    let wrong = run(fresh(2, true), [ok(Some(9), None), Event::Chunk(9), Event::End, Event::Wrong]);
    assert_eq!(wrong.1, ask(1, None));
    let unfit = run(fresh(2, false), [ok(Some(9), None), Event::Chunk(5), Event::Wrong]);
    assert_eq!(unfit.1, ask(1, None));
}

#[test]
fn failures_are_counted_and_forgiven() {
    let mut at = fresh(1, false);
    for _ in 0..4 {
        at = run(at, [status(503)]);
        assert!(matches!(at.1, Step::Wait(wait) if wait <= Duration::from_secs(30)), "{:?}", at.1);
        at = run(at, [Event::Waited]);
    }
    assert_eq!(run(at.clone(), [Event::Failed]).1, Step::GiveUp(GiveUp::Unavailable { retry_after: None }));
    let forgiven = run(at, [ok(None, Some("\"a\"")), Event::Chunk(1 << 20), Event::Failed]);
    assert!(matches!(forgiven.1, Step::Wait(_)), "{:?}", forgiven.1);
}

#[test]
fn a_slow_address_is_given_up_unless_it_was_of_use() {
    assert_eq!(run(fresh(2, false), [Event::Slow]).1, ask(1, None));
    assert_eq!(run(fresh(1, false), [Event::Slow]).1, Step::GiveUp(GiveUp::Unavailable { retry_after: None }));
    let trickled = run(fresh(2, true), [ok(None, Some("\"a\"")), Event::Chunk(1000), Event::Slow]);
    assert_eq!(trickled.1, ask(1, Some((1000, None))), "what it gave is gone on from elsewhere");
    let useful = run(fresh(2, false), [ok(None, Some("\"a\"")), Event::Chunk(1 << 20), Event::Slow]);
    assert!(matches!(useful.1, Step::Wait(_)), "{:?}", useful.1);
    assert_eq!(run(useful, [Event::Waited, Event::Slow]).1, ask(1, None), "of use once, not for ever");
}

#[test]
fn retry_after_is_obeyed_up_to_a_bound() {
    let busy = |seconds| {
        let retry_after = Some(Duration::from_secs(seconds));
        Event::Head(Head { status: 429, retry_after, ..Head::default() })
    };
    assert_eq!(run(fresh(1, false), [busy(120)]).1, Step::Wait(Duration::from_secs(120)));
    let retry_after = Some(Duration::from_secs(3600));
    assert_eq!(run(fresh(1, false), [busy(3600)]).1, Step::GiveUp(GiveUp::Unavailable { retry_after }));
    assert_eq!(run(fresh(2, false), [busy(3600), status(404)]).1, Step::GiveUp(GiveUp::Unavailable { retry_after }));
}

#[test]
fn bytes_are_bounded() {
    let fresh = || Transfer::start(Rules::new(100), 1, true, None, 7);
    assert_eq!(run(fresh(), [ok(Some(101), None)]).1, Step::GiveUp(GiveUp::TooLarge));
    assert_eq!(run(fresh(), [ok(None, None), Event::Chunk(101)]).1, Step::GiveUp(GiveUp::TooLarge));
    // A mirror that has nothing does not hide it.
    let mirrored = Transfer::start(Rules::new(100), 2, true, None, 7);
    let (transfer, step) = run(mirrored, [ok(Some(101), None), status(404)]);
    assert_eq!((transfer.location(), step), (0, Step::GiveUp(GiveUp::TooLarge)));
    let more = run(fresh(), [ok(Some(10), None), Event::Chunk(11)]);
    assert!(matches!(more.1, Step::Wait(_)), "{:?}", more.1);
}

#[test]
fn a_restart_goes_on_where_it_was() {
    let held = |total| Held { location: 1, validators: validators(Some("\"a\"")), total };
    let start = |held, offset| Transfer::start(Rules::new(MAX), 2, false, Some((held, offset)), 7).1;
    assert_eq!(start(held(Some(100)), 40), ask(1, Some((40, Some("\"a\"")))));
    assert_eq!(start(held(Some(100)), 100), Step::Judge);
    assert_eq!(start(held(Some(100)), 0), ask(0, None));
}

#[test]
fn bytes_that_are_wrong_as_their_body_ends_are_not_gone_on_with() {
    let start = |locations| Transfer::start(Rules::new(100), locations, true, None, 7);
    let too_large = [ok(None, None), Event::Chunk(60), Event::Chunk(41)];
    let (transfer, step) = run(start(2), too_large.clone());
    assert_eq!(step, ask(1, Some((60, None))));
    assert_eq!(run((transfer, step), [Event::Wrong]).1, ask(1, None), "that one has given nothing yet");
    assert_eq!(run(start(1), too_large).0.on(Event::Wrong).1, Step::GiveUp(GiveUp::TooLarge));
    let surplus = run(start(2), [ok(Some(60), None), Event::Chunk(50), Event::Chunk(11), Event::Wrong]);
    assert_eq!((surplus.1, surplus.0.held()), (ask(1, None), None));
}

fn head() -> impl Strategy<Value = Head> {
    let statuses = prop::sample::select(vec![200u16, 200, 206, 206, 404, 416, 429, 500, 503]);
    let number = || prop::option::of(0u64..40);
    let etag = || prop::sample::select(vec![None, Some("\"a\""), Some("\"b\""), Some("W/\"a\"")]);
    (statuses, number(), prop::option::of((0u64..40, 0u64..40)), number(), etag(), prop::option::of(0u64..400))
        .prop_map(|(status, length, span, total, etag, after)| Head {
            status,
            length,
            range: Some(ContentRange { span, total }),
            validators: validators(etag),
            retry_after: after.map(Duration::from_secs),
            ..Head::default()
        })
}

/// Either noise, or what an honest origin would say: both must end, and both must keep the offset.
fn event(noise: bool) -> impl Strategy<Value = (Event, bool)> {
    let event = prop_oneof![
        4 => head().prop_map(Event::Head),
        4 => (0u64..20).prop_map(Event::Chunk),
        2 => Just(Event::End),
        2 => Just(Event::Failed),
        1 => Just(Event::Slow),
        1 => Just(Event::Refused),
        2 => Just(Event::Waited),
        1 => Just(Event::Good),
        1 => Just(Event::Wrong),
    ];
    (event, Just(noise))
}

/// What fits the last step, made of the noise: so that the machine gets further than its first answer.
fn fitted(step: &Step, noise: Event, written: u64) -> Event {
    match (step, noise) {
        (Step::Ask { .. }, Event::Chunk(n)) if n % 2 == 0 => ok(Some(30), Some("\"a\"")),
        (Step::Ask { range: Some(_), .. }, Event::Chunk(_)) => partial(written, 29, 30, Some("\"a\"")),
        (Step::Ask { .. }, Event::Head(head)) => Event::Head(head),
        (Step::Ask { .. }, _) => Event::Failed,
        (Step::Receive { .. } | Step::Take, Event::Chunk(n)) => Event::Chunk(n),
        (Step::Receive { .. } | Step::Take, Event::Head(_) | Event::End) => Event::End,
        (Step::Receive { .. } | Step::Take, _) => Event::Failed,
        (Step::Wait(_), _) => Event::Waited,
        (Step::Judge, Event::Good) => Event::Good,
        (Step::Judge, _) => Event::Wrong,
        (_, other) => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn every_sequence_ends_and_no_body_is_taken_at_a_wrong_offset(
        events in proptest::collection::vec(prop_oneof![event(true), event(false)], 200),
        locations in 1usize..4,
        spliceable: bool,
        seed: u64,
    ) {
        let rules = Rules { progress: 10, max_bytes: 60, ..Rules::new(MAX) };
        let (mut transfer, mut step) = Transfer::start(rules, locations, spliceable, None, seed);
        // The part as a driver would have it.
        let mut written = 0;
        let mut whole = true;
        let mut asked = None;
        for (event, noise) in events {
            let event = if noise { event } else { fitted(&step, event, written) };
            let bytes = if let Event::Chunk(bytes) = event { bytes } else { 0 };
            let head = if let Event::Head(head) = &event { Some(head.clone()) } else { None };
            (transfer, step) = transfer.on(event);
            match &step {
                Step::Ask { range, location } => {
                    prop_assert!(*location < locations);
                    if let Some(range) = range {
                        prop_assert_eq!(range.from, written);
                        prop_assert!(range.from > 0);
                        prop_assert!(range.if_range.is_some() || spliceable);
                    }
                    asked = range.clone();
                }
                Step::Receive { from: 0 } => {
                    prop_assert_eq!(head.unwrap().status, 200);
                    (written, whole) = (0, true);
                }
                Step::Receive { from } => {
                    let head = head.unwrap();
                    prop_assert_eq!(*from, written);
                    prop_assert_eq!(asked.as_ref().map(|range| range.from), Some(written));
                    prop_assert_eq!(head.status, 206);
                    prop_assert_eq!(head.range.unwrap().span.unwrap().0, written);
                    whole = false;
                }
                Step::Take => {
                    written += bytes;
                    prop_assert!(written <= rules.max_bytes);
                    prop_assert!(transfer.held().unwrap().total.is_none_or(|total| written <= total));
                }
                Step::Judge => {
                    prop_assert!(transfer.held().unwrap().total.is_none_or(|total| written == total));
                    prop_assert!(whole || transfer.spliced);
                }
                Step::Done | Step::GiveUp(_) => return Ok(()),
                Step::Wait(wait) => prop_assert!(*wait <= rules.patience),
            }
            // A driver throws away what was judged wrong.
            if transfer.offset == 0 && !matches!(step, Step::Take) {
                written = 0;
            }
        }
    }

    #[test]
    fn what_is_gone_on_with_has_threads_at_work_on_it(
        events in proptest::collection::vec((event(true), 0u8..4), 200),
        locations in 1usize..4,
        spliceable: bool,
        resumed in prop::option::of(1u64..30),
        seed: u64,
    ) {
        let rules = Rules { progress: 10, max_bytes: 60, ..Rules::new(MAX) };
        let held = |offset| (Held { location: 0, validators: validators(Some("\"a\"")), total: Some(30) }, offset);
        let (mut transfer, mut step) = Transfer::start(rules, locations, spliceable, resumed.map(held), seed);
        let mut running = resumed.is_some();
        for ((event, _), chance) in events {
            let reading = matches!(step, Step::Receive { .. } | Step::Take);
            running |= step == Step::Receive { from: 0 };
            let event = fitted(&step, event, transfer.offset);
            running &= step != Step::Judge;
            (transfer, step) = transfer.on(event);
            // The threads end by themselves in the instant in which a body is fed.
            if reading && chance == 0 {
                running = false;
                (transfer, step) = transfer.on(Event::Wrong);
            }
            match step {
                Step::Done | Step::GiveUp(_) => return Ok(()),
                Step::Receive { from: 0 } => {}
                Step::Take | Step::Receive { .. } | Step::Judge => prop_assert!(running),
                Step::Ask { .. } | Step::Wait(_) => prop_assert!(running || transfer.offset == 0),
            }
        }
    }

    #[test]
    fn every_sequence_is_bounded(
        picks in proptest::collection::vec(event(false), 40),
        locations in 1usize..4,
        spliceable: bool,
    ) {
        // With no noise the driver answers each step; the same answers over and over must come to an end.
        let rules = Rules { progress: 10, max_bytes: 60, ..Rules::new(MAX) };
        let (mut transfer, mut step) = Transfer::start(rules, locations, spliceable, None, 1);
        let mut steps = 0u64;
        for (event, _) in picks.iter().cycle() {
            let bytes = transfer.offset;
            let event = match fitted(&step, event.clone(), bytes) {
                // A body of nothing but empty chunks is the clock's business, not this machine's.
                Event::Chunk(0) => Event::Chunk(1),
                other => other,
            };
            (transfer, step) = transfer.on(event);
            steps += 1;
            prop_assert!(steps < 20_000, "no end after {steps} steps: {step:?}");
            if matches!(step, Step::Done | Step::GiveUp(_)) {
                break;
            }
        }
    }
}
