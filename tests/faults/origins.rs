//! Lying origins: each lie of the table many times over, in forms that chance decides, over one address, with an honest
//! mirror and over several connections. And slow ones: what they cost others.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::fixture::archive::app;
use crate::fixture::liars::{Liar, Liars, Way};
use crate::fixture::node::Node;
use crate::fixture::origin::{Fault, Origin};
use crate::fixture::{BIG_PATIENCE, lies, tree, until};
use crate::report::{Asked, Part, Row};

pub(crate) const PART: Part = Part {
    name: "origins",
    about: "origins that lie in every way there is, and slow ones",
    run: |asked| vec![lying(asked.runs.unwrap_or(200)), slow()],
};

/// Of so many runs of a lie: one in twenty with several connections, since that takes large archives, and a quarter with
/// a mirror, where they can tell anything.
fn share(way: Way, of_the_archive: bool, runs: u64) -> u64 {
    let (shared, mirrored) = if of_the_archive { (runs.div_ceil(20), runs / 4) } else { (0, 0) };
    match way {
        Way::Shared => shared,
        Way::Mirrored => mirrored,
        Way::Alone => runs - shared - mirrored,
    }
}

#[derive(Default)]
struct Counts {
    runs: AtomicUsize,
    bad: AtomicUsize,
    restarts: AtomicUsize,
}

fn lying(runs: u64) -> Row {
    let ways = [Way::Alone, Way::Mirrored, Way::Shared];
    let all = ways.into_iter().flat_map(|way| lies::all().into_iter().map(move |lie| (lie, way)));
    let all: Vec<_> = all.filter(|(lie, way)| share(*way, lie.is_of_the_archive(), runs) > 0).collect();
    let kinds = lies::all().len();
    let liars = Liars::start(all, "4s");
    let counts = Counts::default();
    std::thread::scope(|scope| {
        for liar in liars.liars() {
            let name = format!("{} {:?}", liar.lie.name, liar.way);
            std::thread::Builder::new().name(name).spawn_scoped(scope, || tell(&liars, liar, runs, &counts)).unwrap();
        }
    });
    let [made, bad, restarts] = [&counts.runs, &counts.bad, &counts.restarts].map(|count| count.load(Relaxed));
    let rss = liars.node.peak_rss_kib() >> 10;
    let staged = tree::walk(&liars.node.store().join("staging")).into_iter().filter(|(_, meta)| meta.is_file()).count();
    Row {
        fault: format!("lying origins, {kinds} lies x {runs} runs"),
        figure: format!(
            "{bad} bad versions in {made} runs; an ETag change costs {restarts} restart; peak RSS {rss} MiB; {staged} files \
             left in staging"
        ),
        reach: "0 bad versions; an ETag change costs one restart",
        reached: (bad, restarts, staged) == (0, 1, 0) && made as u64 == kinds as u64 * runs,
    }
}

fn tell(liars: &Liars, liar: &Liar, runs: u64, counts: &Counts) {
    let mut rng =
        fastrand::Rng::with_seed(liar.lie.name.bytes().fold(0, |seed, byte| seed * 31 + u64::from(byte) % 1009));
    for n in 1..=share(liar.way, liar.lie.is_of_the_archive(), runs) {
        let Ok(restarts) = catch_unwind(AssertUnwindSafe(|| liars.run(liar, n, &mut rng))) else {
            // Told by the panic; the next version would be told of the one that is not there.
            counts.bad.fetch_add(1, Relaxed);
            return;
        };
        counts.runs.fetch_add(1, Relaxed);
        if liar.way == Way::Alone && liar.lie.name == "etag-changes" {
            counts.restarts.fetch_max(restarts, Relaxed);
        }
    }
    eprintln!("{} {:?}: done", liar.lie.name, liar.way);
}

/// Downloads that are to be slowed by nobody, and how long each takes by its origin.
const GOOD: usize = 40;
const PIECE: usize = 64 << 10;
const PIECES: usize = 40;
const PAUSE: Duration = Duration::from_millis(25);
/// Rounds with and without slow origins; the middle one counts.
const ROUNDS: usize = 3;

fn slow() -> Row {
    let (mut without, mut with, mut given_up) = (Vec::new(), Vec::new(), Duration::ZERO);
    for round in 0..ROUNDS {
        let (alone, _) = warm(0);
        let (beside, longest) = warm(4);
        eprintln!("round {round}: {alone:?} without slow origins, {beside:?} with; given up after {longest:?}");
        without.push(alone);
        with.push(beside);
        given_up = given_up.max(longest);
    }
    let [without, with] = [without, with].map(|mut times| {
        times.sort_unstable();
        times[ROUNDS / 2].as_secs_f64()
    });
    let slower = (with / without - 1.0) * 100.0;
    Row {
        fault: format!("a slow origin ({ROUNDS} rounds of {GOOD} downloads beside 4 slow ones)"),
        figure: format!("given up after {:.1} s; other downloads slowed by {slower:.1} %", given_up.as_secs_f64()),
        reach: "30 s; 5 %",
        // The second is what is measured with, not waited for.
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
    let (mut ready, mut last) = (None, Duration::ZERO);
    until("all downloads", BIG_PATIENCE, || {
        let states = node.get_json("/v1/artifacts");
        let states = states.as_array().expect("a list").clone();
        let count = |what: &dyn Fn(&serde_json::Value) -> bool| states.iter().filter(|state| what(state)).count();
        if ready.is_none() && count(&|state| state["state"] == "Ready") == GOOD {
            ready = Some(began.elapsed());
        }
        let given_up =
            count(&|state| state["lastError"].as_str().is_some_and(|error| error.contains("sent less than")));
        if given_up < slow {
            last = began.elapsed();
        }
        std::thread::sleep(Duration::from_millis(20));
        ready.filter(|_| given_up == slow)
    });
    (ready.unwrap_or_default(), last)
}
