//! Targets whose components are swapped for symlinks while they are seeded: nothing is written anywhere else. The
//! campaign's part `races` does all scenes, for long.

use crate::fixture::races::{Aim, Arena, By, Ground, Scene, Tally, panics};

#[test]
fn swapped_components_of_targets_lead_nowhere() {
    let arena = Arena::on(Ground::Ext4);
    let scenes = [
        Scene { by: By::Socket, swap: "exchange", aim: Aim::Parents },
        Scene { by: By::Tcp, swap: "symlink", aim: Aim::Data },
        Scene { by: By::Socket, swap: "inPlace", aim: Aim::Deep },
        Scene { by: By::Descriptor(1000), swap: "exchange", aim: Aim::Deep },
        Scene { by: By::Client, swap: "inPlace", aim: Aim::Marks },
    ];
    let mut all = Tally::default();
    for scene in scenes {
        all += arena.run(scene, 500, 20);
    }
    assert!(all.done > 0, "{all:?}");
    assert_eq!(arena.breaches(), Vec::<String>::new());
    assert_eq!(panics(&arena.node), None);
    arena.node.cli(&["verify", "app"]).ok();
}
