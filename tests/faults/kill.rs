//! SIGKILL at every fail point, many times, under load.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use seedcache::fs::FAIL_POINTS;

use crate::fixture::kill::ledger::{Kind, Violation};
use crate::fixture::kill::{At, Runner};
use crate::report::{Asked, Part, Row};

/// Runs of each point where nobody says otherwise.
const RUNS: u64 = 200;
/// Daemons side by side on each core: with more of them there are fewer runs in all.
const PER_CORE: usize = 1;
/// A point is given up after so many runs in a row that did not get there.
const MISSES: u64 = 40;

pub(crate) const PART: Part = Part {
    name: "kill",
    about: "SIGKILL at each fail point under load, a restart, and every invariant looked at from outside",
    run,
};

/// What all runs found.
#[derive(Default)]
struct Sum {
    points: usize,
    runs: u64,
    missed: u64,
    violations: Vec<(String, Violation)>,
    unreached: Vec<String>,
    slowest: Duration,
}

fn run(asked: Asked) -> Vec<Row> {
    let runs = asked.runs.unwrap_or(RUNS);
    // For who looks into one point, or a few of them.
    let only = std::env::var("SEEDCACHE_POINTS").unwrap_or_default();
    let points: Vec<&str> =
        FAIL_POINTS.iter().copied().filter(|point| only.split(',').any(|part| point.contains(part))).collect();
    let (next, sum, began) = (AtomicUsize::new(0), Mutex::new(Sum::default()), Instant::now());
    let workers = std::thread::available_parallelism().map_or(1, usize::from) * PER_CORE;
    std::thread::scope(|scope| {
        for _ in 0..workers.min(points.len()) {
            scope.spawn(|| {
                while let Some(point) = points.get(next.fetch_add(1, Relaxed)) {
                    at_point(point, runs, &sum);
                    let Sum { points: done, runs, violations, slowest, .. } = &*sum.lock().unwrap();
                    eprintln!(
                        "{done} of {} points, {runs} runs, {} violations, slowest restart {slowest:.1?}, {:.0?}: {point}",
                        points.len(),
                        violations.len(),
                        began.elapsed(),
                    );
                }
            });
        }
    });
    vec![row(&sum.into_inner().unwrap())]
}

fn at_point(point: &'static str, runs: u64, sum: &Mutex<Sum>) {
    let mut runner = Runner::new(point);
    let (mut reached, mut missed) = (0, 0);
    while reached < runs && missed < MISSES {
        // What happens once in a store's life is met at a new one.
        let found = runner.run(None, missed > 2 && missed % 2 == 1);
        let mut sum = sum.lock().unwrap();
        match found.at {
            At::Point => (reached, missed) = (reached + 1, 0),
            At::Nowhere => (missed, sum.missed) = (missed + 1, sum.missed + 1),
        }
        sum.runs += u64::from(found.at == At::Point);
        sum.slowest = sum.slowest.max(found.restart);
        let broken = !found.violations.is_empty();
        for violation in found.violations {
            eprintln!("{point}: {:?}: {}", violation.kind, violation.what);
            sum.violations.push((point.to_owned(), violation));
        }
        drop(sum);
        if broken {
            // What is broken is not to be found over and over.
            runner = Runner::new(point);
        }
    }
    let mut sum = sum.lock().unwrap();
    sum.points += 1;
    if reached < runs {
        eprintln!("{point}: reached {reached} times only");
        sum.unreached.push(point.to_owned());
    }
}

fn row(sum: &Sum) -> Row {
    let count = |kind| sum.violations.iter().filter(|(_, violation)| violation.kind == kind).count();
    let (lost, partial, other) = (count(Kind::Lost), count(Kind::Partial), count(Kind::Other));
    let Sum { points, runs, slowest, unreached, missed, .. } = sum;
    let more = if other > 0 { format!("; {other} other violations") } else { String::new() };
    let unreached =
        if unreached.is_empty() { String::new() } else { format!("; not reached: {}", unreached.join(", ")) };
    Row {
        fault: format!("SIGKILL at {points} points, {runs} runs ({missed} more did not get there)"),
        figure: format!(
            "{lost} acknowledged lost; {partial} partial visible; slowest restart {:.2} s{more}{unreached}",
            slowest.as_secs_f64()
        ),
        reach: "0; 0; 5 s",
        reached: *runs > 0
            && lost + partial + other == 0
            && *slowest <= Duration::from_secs(5)
            && sum.unreached.is_empty(),
    }
}
