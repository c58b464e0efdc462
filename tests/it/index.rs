//! The index is only a cache: deleted, cut or filled with noise while the daemon is stopped, the answers are the same.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::fixture::index_damage::Library;
use crate::fixture::node::Node;
use crate::fixture::noise;
use crate::fixture::releases::Releases;
use crate::fixture::tree::walk;

fn files(index: &Path) -> Vec<PathBuf> {
    let files: Vec<PathBuf> =
        walk(index).into_iter().filter(|(_, meta)| meta.is_file()).map(|(path, _)| path).collect();
    assert!(!files.is_empty(), "there is no index to damage");
    files.into_iter().map(|path| index.join(path)).collect()
}

/// Everything that the node says of its versions.
fn answers(node: &Node) -> Value {
    let state = node.wait_ready("app");
    let manifests = ["v1", "v2", "current"].map(|v| node.get_json(&format!("/v1/artifacts/app/versions/{v}")));
    let said = ["v1", "v2"].map(|v| node.get(&format!("/v1/artifacts/app/versions/{v}/files/VERSION")).text());
    json!({
        "current": state["current"], "versions": state["versions"], "seeds": state["seeds"],
        "manifests": manifests, "said": said,
        "listed": node.cli(&["versions", "app"]).ok().stdout,
    })
}

fn survives(damage: impl Fn(&Path)) {
    let releases = Releases::with("v1");
    let mut node = Node::start_with(&releases.document());
    node.wait_ready("app");
    releases.publish("v2", &crate::fixture::archive::app("v2", 400_000));
    releases.point_to("v2");
    node.cli(&["refresh", "app", "--wait"]).ok();
    node.seed("app", "pod", &[]).ok();
    let before = answers(&node);
    assert_eq!((&before["current"], &before["said"]), (&json!("v2"), &json!(["v1", "v2"])));
    node.terminate();
    damage(&node.store().join("index"));
    node.start();
    assert_eq!(answers(&node), before);
    let report = node.seed("app", "pod", &[]).ok().json();
    assert_eq!(report["changed"], false, "{report}");
    // And what was rebuilt lasts.
    node.restart();
    assert_eq!(answers(&node), before);
}

#[test]
fn deleted() {
    survives(|index| {
        files(index);
        fs::remove_dir_all(index).unwrap();
    });
}

#[test]
fn truncated() {
    survives(|index| {
        for file in files(index) {
            let file = File::options().write(true).open(file).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }
    });
}

#[test]
fn filled_with_noise() {
    survives(|index| {
        for (seed, file) in (0..).zip(files(index)) {
            let len = fs::metadata(&file).unwrap().len();
            fs::write(file, noise(seed, usize::try_from(len).unwrap())).unwrap();
        }
    });
}

#[test]
fn a_file_where_the_directory_was() {
    survives(|index| {
        fs::remove_dir_all(index).unwrap();
        fs::write(index, "not a database").unwrap();
    });
}

/// The campaign's part `index` does it a thousand times.
#[test]
fn damaged_at_random() {
    for (unprivileged, runs) in [(false, 8), (true, 4)] {
        let (mut library, mut random) = (Library::new(unprivileged), fastrand::Rng::with_seed(1));
        for _ in 0..runs {
            let outcome = library.run(&mut random);
            assert!(outcome.wrong.is_empty(), "{outcome:?}");
        }
    }
}
