//! Power losses on a disk with a volatile cache.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::power_run::{Outcome, Shelf, power_loss};
use crate::report::{Asked, Part, Row};

const RUNS: u64 = 500;

pub(crate) const PART: Part = Part {
    name: "power",
    about: "power losses, on a FUSE file system that drops what was not synced; SEED=N begins at another seed",
    run: all,
};

fn all(asked: Asked) -> Vec<Row> {
    let runs = asked.runs.unwrap_or(RUNS);
    let first: u64 = std::env::var("SEED").map_or(1, |seed| seed.parse().expect("SEED is a number"));
    let shelf = Shelf::new();
    let (mut lost, mut partial, mut sum, mut changes, mut gone) = (0, 0, Outcome::default(), 0, 0);
    for seed in first..first + runs {
        let outcome = catch_unwind(AssertUnwindSafe(|| power_loss(&shelf, seed)));
        let outcome = outcome.unwrap_or_else(|_| panic!("the run of seed {seed} could not be ended"));
        let Outcome { order, .. } = outcome;
        outcome.lost.iter().for_each(|line| eprintln!("seed {seed}, {order:?}: lost: {line}"));
        outcome.partial.iter().for_each(|line| eprintln!("seed {seed}, {order:?}: partial: {line}"));
        lost += outcome.lost.len();
        partial += outcome.partial.len();
        changes += outcome.losses.iter().map(|loss| loss.changes).sum::<usize>();
        gone += outcome.losses.iter().map(|loss| loss.lost).sum::<usize>();
        sum.acknowledged += outcome.acknowledged;
        sum.syncfs += outcome.syncfs;
        sum.unmarked += outcome.unmarked;
        sum.losses.extend(outcome.losses);
        if (seed - first) % 25 == 24 {
            eprintln!("{} runs, {} losses", seed - first + 1, sum.losses.len());
        }
    }
    eprintln!(
        "{} losses took {gone} of {changes} changes of metadata that were not durable; {} versions, pins and \
         leases were acknowledged, {} times by syncfs",
        sum.losses.len(),
        sum.acknowledged,
        sum.syncfs
    );
    vec![Row {
        fault: format!("power loss, {runs} runs"),
        figure: format!(
            "{lost} lost, {partial} partial; where metadata go in any order, {} targets without their mark were replaced only when \
             told so",
            sum.unmarked
        ),
        reach: "0, 0",
        reached: lost + partial == 0 && sum.acknowledged > 0 && gone > 0,
    }]
}
