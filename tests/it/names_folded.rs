//! A store on a file system for which names that differ in case or in Unicode's normal form are one.

use crate::fixture::archive::{Archive, app};
use crate::fixture::node::{Node, Over};
use crate::fixture::origin::Origin;
use crate::fixture::{PATIENCE, until};
use crate::volatile_disk::VolatileDisk;

fn document(origin: &Origin, name: &str) -> String {
    let url = origin.url(&format!("/{name}.tgz"));
    format!(
        "---\napiVersion: seedcache.dev/v1alpha1\nkind: Artifact\nmetadata: {{name: {name}}}\nspec:\n  version: v1\n  \
         source: {{http: {{url: '{url}'}}}}\n"
    )
}

#[test]
fn names_that_are_one_and_links_that_go_up_by_them_are_refused_with_the_entry_named() {
    let (disk, origin) = (VolatileDisk::folding(), Origin::start());
    let apart = |first: &str, second: &str| Archive::new().file(first, 0o644, b"1").file(second, 0o644, b"2");
    let pairs = [
        ("case", apart("A", "a"), "a"),
        ("case-of-directories", apart("D/x", "d/x"), "d/x"),
        ("case-of-a-symlink", Archive::new().symlink("D", "d").file("d/x", 0o644, b""), "d/x"),
        ("composed", apart("\u{e9}", "e\u{301}"), "e\u{301}"),
        ("ligature", apart("\u{fb01}", "fi"), "fi"),
        ("link-out", Archive::new().symlink("a/l", "..").symlink("out", "A/L/.."), "out"),
    ];
    origin.serve("/good.tgz", app("v1", 10_000));
    let mut documents = document(&origin, "good");
    let mut expected = Vec::new();
    for (name, archive, second) in pairs {
        origin.serve(&format!("/{name}.tgz"), archive.tgz());
        documents += &document(&origin, name);
        expected.push((name, second));
    }
    let node = Node::builder().store(&disk.path().join("store")).document("all.yaml", &documents).start();
    node.wait_ready("good");
    for (name, second) in expected {
        let error = until(name, PATIENCE, || {
            // Over the socket entries are named in full.
            let path = format!("/v1/artifacts/{name}");
            let state = node.try_request(Over::Socket, "GET", &path, &[], None).unwrap().json();
            assert_ne!(state["state"], "Ready", "{state}");
            state["lastError"].as_str().map(ToOwned::to_owned)
        });
        let named = format!("`{second}` is refused: the ");
        let why = "the file system of the store takes";
        assert!(error.contains(&named) && error.contains(why), "{named:?}, {why:?}: {error:?}");
        assert!(!node.tree(name, "v1").exists(), "{name}");
        assert!(!node.store().join("staging").join(name).join("version").exists(), "{name}");
    }
    node.cli(&["verify", "good"]).ok();
}
