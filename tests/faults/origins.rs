//! Lying origins: each lie of the table many times over, in forms that chance decides, over one address, with an honest
//! mirror and over several connections.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::fixture::liars::{Liar, Liars, Way};
use crate::fixture::{lies, tree};
use crate::report::{Part, Row};

pub(crate) const PART: Part = Part {
    name: "origins",
    about: "origins that lie in every way there is",
    run: |asked| vec![lying(asked.runs.unwrap_or(200))],
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
    let seed =
        liar.lie.name.bytes().fold(liar.way as u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let mut rng = fastrand::Rng::with_seed(seed);
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
