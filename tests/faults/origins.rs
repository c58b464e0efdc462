//! Lying origins: each lie of the table many times over, in forms that chance decides, over one address, with a mirror, by
//! a mirror and over several connections; with a digest, with a weak one, and with none, where only the origin's word tells.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::fixture::liars::{Liar, Liars, Way};
use crate::fixture::lies::{self, Lie};
use crate::fixture::tree;
use crate::report::{Part, Row};

pub(crate) const PART: Part = Part {
    name: "origins",
    about: "origins that lie in every way there is",
    run: |asked| vec![lying(asked.runs.unwrap_or(200))],
};

/// Of so many runs of a lie, told in these ways besides the first that it is told in: few with several connections, since
/// those take large archives.
fn share(way: Way, lie: &Lie, runs: u64) -> u64 {
    let first = Way::ALL.into_iter().find(|way| way.expects(lie).is_some());
    let of = |way: Way| {
        let some = match way {
            _ if Some(way) == first => return 0,
            Way::Alone => 0,
            Way::Shared => runs.div_ceil(20),
            Way::UndigestedShared | Way::LyingMirror => runs / 20,
            Way::Mirrored | Way::Undigested => runs / 5,
            Way::Weak | Way::UndigestedMirrored | Way::File => runs / 10,
        };
        if way.expects(lie).is_some() { some } else { 0 }
    };
    if Some(way) == first { runs - Way::ALL.into_iter().map(of).sum::<u64>() } else { of(way) }
}

#[derive(Default)]
struct Counts {
    runs: AtomicUsize,
    bad: AtomicUsize,
    /// Came to another end than is expected of the lie.
    otherwise: AtomicUsize,
    restarts: AtomicUsize,
    undigested: AtomicUsize,
}

/// What one daemon did with its share of the lies.
struct Told {
    peak_rss_mib: u64,
    staged: usize,
}

fn lying(runs: u64) -> Row {
    let counts = Counts::default();
    // For who looks into one lie, or a few of them.
    let only = std::env::var("SEEDCACHE_LIES").unwrap_or_default();
    let is_told = |lie: &Lie| only.split(',').any(|part| lie.name.contains(part));
    let lies: Vec<Lie> = lies::all().into_iter().filter(is_told).collect();
    let (kinds, has_etags) = (lies.len(), lies.iter().any(|lie| lie.name == "etag-changes"));
    // Those that are over when the daemon has waited for long enough have another that waits for less.
    let (slow, quick): (Vec<Lie>, _) = lies.into_iter().partition(Lie::is_slow);
    let told = [(quick, "8s"), (slow, "3s")].map(|(lies, stall)| tell_all(&lies, runs, stall, &counts));
    let [made, bad, otherwise, restarts] =
        [&counts.runs, &counts.bad, &counts.otherwise, &counts.restarts].map(|count| count.load(Relaxed));
    let rss = told.iter().map(|told| told.peak_rss_mib).max().unwrap_or_default();
    let staged: usize = told.iter().map(|told| told.staged).sum();
    Row {
        fault: format!("lying origins, {kinds} lies x {runs} runs"),
        figure: format!(
            "{bad} bad versions in {made} runs, {} of them with nothing that tells a digest; {otherwise} ended otherwise than \
             they should; an ETag change costs {restarts} restart; peak RSS {rss} MiB; {staged} files left in staging",
            counts.undigested.load(Relaxed)
        ),
        reach: "0 bad versions; an ETag change costs one restart",
        reached: (bad, otherwise, restarts, staged) == (0, 0, usize::from(has_etags), 0)
            && made as u64 == kinds as u64 * runs,
    }
}

fn tell_all(lies: &[Lie], runs: u64, stall: &str, counts: &Counts) -> Told {
    let all = Way::ALL.into_iter().flat_map(|way| lies.iter().map(move |lie| (lie.clone(), way)));
    let liars = Liars::start(all.filter(|(lie, way)| share(*way, lie, runs) > 0).collect(), stall);
    liars.each(|liar| tell(&liars, liar, runs, counts));
    let staged = tree::walk(&liars.node.store().join("staging")).into_iter().filter(|(_, meta)| meta.is_file()).count();
    Told { peak_rss_mib: liars.node.peak_rss_kib() >> 10, staged }
}

fn tell(liars: &Liars, liar: &Liar, runs: u64, counts: &Counts) {
    let seed =
        liar.lie.name.bytes().fold(liar.way as u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let mut rng = fastrand::Rng::with_seed(seed);
    let runs = share(liar.way, &liar.lie, runs);
    for n in 1..=runs {
        let Ok(restarts) = catch_unwind(AssertUnwindSafe(|| liars.run(liar, n, &mut rng))) else {
            // Told by the panic; the next version would be told of the one that is not there. What is bad is so still.
            counts.otherwise.fetch_add(1, Relaxed);
            let looked_at = catch_unwind(AssertUnwindSafe(|| liars.look(liar)));
            counts.bad.fetch_add(usize::from(looked_at.is_err()), Relaxed);
            return;
        };
        counts.runs.fetch_add(1, Relaxed);
        counts.undigested.fetch_add(usize::from(liar.way.is_undigested()), Relaxed);
        if liar.way == Way::Alone && liar.lie.name == "etag-changes" {
            counts.restarts.fetch_max(restarts, Relaxed);
        }
    }
    liars.over(liar, runs);
    eprintln!("{} {:?}: done", liar.lie.name, liar.way);
}
