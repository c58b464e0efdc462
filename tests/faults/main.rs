//! The campaign: faults of every kind, many times over, against the real `seedcache`. `tests/campaign` builds and runs it.
//!
//! What must hold: a part looks from outside, at the disk and the API, never at the code's own opinion; a run that could
//! not be made ends the campaign, and is not counted as one that found nothing.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    dead_code,
    unused_imports,
    reason = "it looks at the disk from outside, fails by panicking, and takes what it needs of the tests' fixture"
)]

mod archives;
mod bombs;
mod disk;
#[path = "../it/fixture/mod.rs"]
mod fixture;
mod flood;
#[path = "../hostile/mod.rs"]
mod hostile;
mod index;
#[cfg(feature = "failpoints")]
mod kill;
mod origins;
mod power;
mod power_run;
mod power_vm;
mod races;
mod report;
mod slow_origins;
mod tamper;
mod volatile_disk;

use std::process::ExitCode;

use report::{Asked, Part, Table, machine};

/// All parts, in the order of the table.
const PARTS: &[Part] = &[
    #[cfg(feature = "failpoints")]
    kill::PART,
    power::PART,
    power_vm::PART,
    disk::PART,
    origins::PART,
    slow_origins::PART,
    bombs::PART,
    index::PART,
    tamper::PART,
    races::PART,
    flood::PART,
    archives::PART,
];

const USAGE: &str = "tests/campaign [--runs N] [PART...]";

fn main() -> ExitCode {
    let (mut asked, mut names) = (Asked { runs: None }, Vec::new());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match &*word {
            "--runs" => match words.next().and_then(|runs| runs.parse().ok()) {
                Some(runs) if runs > 0 => asked.runs = Some(runs),
                _ => return usage("--runs wants a number above 0"),
            },
            name if PARTS.iter().any(|part| part.name == name) => names.push(word),
            _ => return usage(&format!("no such part: {word}")),
        }
    }
    let mut rows = Vec::new();
    for part in PARTS.iter().filter(|part| names.is_empty() || names.iter().any(|name| name == part.name)) {
        eprintln!("--- {}: {}", part.name, part.about);
        rows.extend((part.run)(asked));
    }
    println!("{}\n\n{}", machine(), Table(&rows));
    if rows.iter().all(|row| row.reached) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn usage(why: &str) -> ExitCode {
    eprintln!("{why}\n\n{USAGE}\n\nparts:");
    PARTS.iter().for_each(|part| eprintln!("  {:<12} {}", part.name, part.about));
    ExitCode::from(2)
}
