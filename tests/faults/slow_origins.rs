//! Slow origins: when they are given up, and what they cost the downloads beside them.

use std::time::{Duration, Instant};

use crate::fixture::archive::app;
use crate::fixture::node::Node;
use crate::fixture::origin::{Fault, Origin};
use crate::fixture::{BIG_PATIENCE, until};
use crate::report::{Part, Row};

pub(crate) const PART: Part = Part {
    name: "slow-origins",
    about: "origins that give a byte per second or none, beside good ones (runs: rounds with and without them)",
    run: |asked| vec![slow(asked.runs.unwrap_or(5))],
};

/// Downloads that are to be slowed by nobody, and how long each takes by its origin.
const GOOD: usize = 40;
const PIECE: usize = 64 << 10;
const PIECES: usize = 40;
const PAUSE: Duration = Duration::from_millis(25);
fn slow(rounds: u64) -> Row {
    let (mut without, mut with, mut given_up) = (Vec::new(), Vec::new(), Duration::ZERO);
    for round in 0..rounds {
        let (alone, _) = warm(0);
        let (beside, longest) = warm(4);
        eprintln!("round {round}: {alone:?} without slow origins, {beside:?} with; given up after {longest:?}");
        without.push(alone);
        with.push(beside);
        given_up = given_up.max(longest);
    }
    let [without, with] = [without, with].map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64()
    });
    let slower = (with / without - 1.0) * 100.0;
    Row {
        fault: format!("a slow origin ({rounds} rounds of {GOOD} downloads beside 4 slow ones)"),
        figure: format!("given up after {:.1} s; other downloads slowed by {slower:.1} %", given_up.as_secs_f64()),
        reach: "30 s, and 1 s for it to be noticed and seen; 5 %",
        reached: given_up <= Duration::from_secs(31) && slower <= 5.0,
    }
}

/// How long a daemon with two downloads at once takes for all good ones beside so many slow ones that come first, and how
/// long until the last of these is given up.
fn warm(slow: usize) -> (Duration, Duration) {
    let (origin, node) = (Origin::start(), Node::builder().settings("fetch: {concurrency: 2}").start());
    let mut documents = String::new();
    let mut declare = |name: &str, fault: Fault| {
        let path = format!("/{name}.tgz");
        origin.serve(&path, app("v1", PIECE * PIECES));
        origin.always(&path, fault);
        documents.push_str(&format!(
            "---\napiVersion: seedcache.dev/v1alpha1\nkind: Artifact\nmetadata: {{name: {name}}}\nspec:\n  version: v1\n  \
             source: {{http: {{url: '{}'}}}}\n",
            origin.url(&path)
        ));
    };
    for at in 0..GOOD {
        declare(&format!("good-{at}"), Fault::Trickle { bytes: PIECE, pause: PAUSE });
    }
    for at in 0..slow {
        let trickle = Fault::Trickle { bytes: 1, pause: Duration::from_secs(1) };
        // Named so that they are planned first. Half of them give nothing at all.
        declare(&format!("a-slow-{at}"), if at % 2 == 0 { trickle } else { Fault::StallAfter(0) });
    }
    node.write_config("artifacts.yaml", &documents);
    let is_known = || node.get(&format!("/v1/artifacts/good-{}", GOOD - 1)).status == 200;
    until("the documents", BIG_PATIENCE, || is_known().then_some(()));
    let began = Instant::now();
    let mut ready = None;
    // When each slow one was first asked, and how long after that it was given up: one may wait its turn behind good ones.
    let mut asked: Vec<(Option<Instant>, Option<Duration>)> = vec![(None, None); slow];
    until("all downloads", BIG_PATIENCE, || {
        let states = node.get_json("/v1/artifacts");
        let states = states.as_array().expect("a list").clone();
        let count = |what: &dyn Fn(&serde_json::Value) -> bool| states.iter().filter(|state| what(state)).count();
        if ready.is_none() && count(&|state| state["state"] == "Ready") == GOOD {
            ready = Some(began.elapsed());
        }
        let is_given_up = |name: &str| {
            count(&|state| {
                state["name"] == name
                    && state["lastError"].as_str().is_some_and(|error| error.contains("sent less than"))
            }) > 0
        };
        for (at, (asked, given_up)) in asked.iter_mut().enumerate() {
            if asked.is_none() && !origin.requests(&format!("/a-slow-{at}.tgz")).is_empty() {
                *asked = Some(Instant::now());
            }
            if given_up.is_none() && is_given_up(&format!("a-slow-{at}")) {
                *given_up = asked.map(|asked| asked.elapsed());
            }
        }
        std::thread::sleep(Duration::from_millis(20));
        ready.filter(|_| asked.iter().all(|(_, given_up)| given_up.is_some()))
    });
    (ready.unwrap_or_default(), asked.into_iter().filter_map(|(_, given_up)| given_up).max().unwrap_or_default())
}
