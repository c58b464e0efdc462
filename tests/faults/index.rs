//! The index damaged in all ways that files can be, while the daemon is stopped and while it runs.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::fixture::index_damage::{Library, rebuild};
use crate::report::{Asked, Part, Row};

/// Versions that are to be known again within [`SECONDS`].
const VERSIONS: usize = 10_000;
const SECONDS: f64 = 10.0;

pub(crate) const PART: Part = Part { name: "index", about: "the index damaged, and rebuilt", run };

fn run(asked: Asked) -> Vec<Row> {
    let runs = asked.runs.unwrap_or(1000);
    let (mut wrong, mut crashes, mut peak) = (0, 0, 0);
    // Some by a daemon that is not root, for whom modes count.
    for (unprivileged, runs) in [(false, runs - runs / 5), (true, runs / 5)] {
        let (mut library, mut random) = (Library::new(unprivileged), fastrand::Rng::with_seed(3));
        for _ in 0..runs {
            let Ok(outcome) = catch_unwind(AssertUnwindSafe(|| library.run(&mut random))) else {
                // It ended by itself, did not start or did not answer: told by the panic. The next has another.
                crashes += 1;
                library = Library::new(unprivileged);
                continue;
            };
            peak = peak.max(library.peak_rss_kib());
            if !outcome.wrong.is_empty() {
                wrong += 1;
                eprintln!("{outcome:?}");
            }
        }
    }
    let seconds = rebuild(VERSIONS).as_secs_f64();
    vec![Row {
        fault: format!("index damaged, {runs} ways"),
        figure: format!(
            "{crashes} crashes, {wrong} wrong answers, peak RSS {} MiB; {VERSIONS} versions rebuilt in {seconds:.1} s",
            peak / 1024
        ),
        reach: "0 crashes, 0 wrong answers; 10,000 versions rebuilt in 10 s",
        reached: (crashes, wrong) == (0, 0) && seconds <= SECONDS,
    }]
}
