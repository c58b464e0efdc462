//! Targets whose components are swapped for symlinks in a loop, below `seed.root` and in directories of pods.

use crate::fixture::races::{Arena, By, Ground, Scene, Tally, panics, scenes};
use crate::report::{Asked, Part, Row};

/// Of all scenes together: in each a component is swapped for a symlink, and back.
const ROUNDS: u64 = 400_000;

pub(crate) const PART: Part =
    Part { name: "races", about: "components of targets swapped for symlinks while they are seeded", run };

/// What is on another file system than the store is left to the client: nothing is filled there by descriptor.
fn scenes_on(ground: Ground) -> Vec<Scene> {
    let is_played = |scene: &Scene| !matches!((ground, scene.by), (Ground::Ram, By::Descriptor(_)));
    scenes().into_iter().filter(is_played).collect()
}

fn run(asked: Asked) -> Vec<Row> {
    let rounds = asked.runs.unwrap_or(ROUNDS);
    let played: Vec<(Ground, Vec<Scene>)> =
        [Ground::Ext4, Ground::Xfs, Ground::Ram].map(|ground| (ground, scenes_on(ground))).into();
    let each = rounds.div_ceil(played.iter().map(|(_, scenes)| scenes.len() as u64).sum());
    let (mut all, mut outside) = (Tally::default(), Vec::new());
    for (ground, scenes) in played {
        let arena = Arena::on(ground);
        for scene in scenes {
            let tally = arena.run(scene, each, each / 50);
            eprintln!("{ground:?} {scene:?}: {tally:?}");
            all += tally;
        }
        outside.extend(arena.breaches());
        assert_eq!(panics(&arena.node), None);
        arena.node.cli(&["verify", "app"]).ok();
    }
    outside.iter().for_each(|line| eprintln!("written outside: {line}"));
    vec![Row {
        fault: format!("target races, {} rounds there and back", all.rounds),
        figure: format!("writes outside {} ({} seeds, {} done)", outside.len(), all.seeds, all.done),
        reach: "0",
        reached: outside.is_empty() && all.rounds >= rounds,
    }]
}
