//! Stored inodes changed by root of a pod through its hard-linked seed.

use crate::fixture::tampering::{NEXT, Vault, WAYS};
use crate::report::{Asked, Part, Row};

pub(crate) const PART: Part = Part { name: "tamper", about: "stored files changed through hard-linked seeds", run };

fn run(asked: Asked) -> Vec<Row> {
    let runs = asked.runs.unwrap_or(1500);
    let mut random = fastrand::Rng::with_seed(7);
    let (mut vault, mut missed) = (Vault::new(), Vec::new());
    for round in 0..runs {
        let way = WAYS[(round % WAYS.len() as u64) as usize];
        missed.extend(vault.run(way, *random.choice(&NEXT).unwrap_or(&NEXT[0]), &mut random));
    }
    assert!(!vault.node().log_text().contains("panicked"), "the daemon panicked");
    missed.iter().for_each(|line| eprintln!("missed: {line}"));
    vec![Row {
        fault: format!("tampered inode, {runs} runs"),
        figure: format!("found before the next seed or read: {}", runs - missed.len() as u64),
        reach: "always",
        reached: missed.is_empty(),
    }]
}
