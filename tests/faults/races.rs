//! Targets whose components are swapped for symlinks in a loop, below `seed.root` and in directories of pods.

use crate::fixture::races::{Arena, Ground, Tally, panics, scenes};
use crate::report::{Asked, Part, Row};

/// Swaps of all scenes together.
const ROUNDS: u64 = 400_000;

pub(crate) const PART: Part =
    Part { name: "races", about: "components of targets swapped for symlinks while they are seeded", run };

fn run(asked: Asked) -> Vec<Row> {
    let grounds = [Ground::Ext4, Ground::Xfs, Ground::Ram];
    let scenes = scenes();
    let rounds = asked.runs.unwrap_or(ROUNDS);
    let each = rounds.div_ceil((grounds.len() * scenes.len()) as u64);
    let (mut all, mut outside) = (Tally::default(), Vec::new());
    for ground in grounds {
        let arena = Arena::on(ground);
        for scene in &scenes {
            let tally = arena.run(*scene, each, each / 50);
            eprintln!("{ground:?} {scene:?}: {tally:?}");
            all += tally;
        }
        outside.extend(arena.breaches());
        assert_eq!(panics(&arena.node), None);
        arena.node.cli(&["verify", "app"]).ok();
    }
    outside.iter().for_each(|line| eprintln!("written outside: {line}"));
    vec![Row {
        fault: format!("target races, {} rounds", all.swaps),
        figure: format!("writes outside {} ({} seeds, {} done)", outside.len(), all.seeds, all.done),
        reach: "0",
        reached: outside.is_empty() && all.swaps >= rounds,
    }]
}
