//! Every format, told by its content: the archives here are made by the machine's own tools and have names that lie.

use std::fs;

use crate::fixture::archive::every_kind;
use crate::fixture::node::{Node, version_row};
use crate::fixture::system::run;
use crate::fixture::tree::{Demand, assert_same};
use crate::fixture::{scratch, sha256};

const FORMATS: [(&str, &str); 5] =
    [("tar", "cat"), ("tar-gz", "gzip -9"), ("tar-zst", "zstd -q"), ("tar-xz", "xz"), ("tar-bz2", "bzip2")];

fn document(name: &str, source: &str, unpack: &str) -> String {
    format!(
        "---
apiVersion: seedcache.dev/v1alpha1
kind: Artifact
metadata: {{name: {name}}}
spec: {{version: '1', source: {{file: {source}}}, unpack: {unpack}}}
"
    )
}

#[test]
fn archives_are_told_by_their_content() {
    let dir = scratch();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("kinds.tgz"), every_kind()).unwrap();
    fs::create_dir(at("expected")).unwrap();
    run("tar", ["--delay-directory-restore", "-xpf", &at("kinds.tgz"), "-C", &at("expected")]);
    let mut documents = String::new();
    for (name, compress) in FORMATS {
        run("sh", ["-c", &format!("gzip -dc '{}' | {compress} > '{}'", at("kinds.tgz"), at(&format!("{name}.zip")))]);
        documents += &document(name, &format!("{{path: '{}'}}", at(&format!("{name}.zip"))), "{}");
    }
    let node = Node::start_with(&documents);
    for (name, _) in FORMATS {
        node.wait_ready(name);
        node.seed(name, name, &["--link", "copy"]).ok();
        assert_same(&dir.path().join("expected"), &node.root().join(name), Demand::EXACT);
    }
}

#[test]
fn a_single_file_and_sums_of_every_kind() {
    let dir = scratch();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("model.bin"), "weights").unwrap();
    let mut documents = String::new();
    for tool in ["md5sum", "sha256sum", "sha512sum"] {
        let sums = run("sh", ["-c", &format!("cd '{}' && {tool} model.bin", dir.path().display())]);
        fs::write(at(tool), sums).unwrap();
        let source = format!("{{path: '{}', checksums: {{path: '{}'}}}}", at("model.bin"), at(tool));
        documents += &document(tool, &source, "{format: none}");
    }
    let node = Node::start_with(&documents);
    for tool in ["md5sum", "sha256sum", "sha512sum"] {
        let state = node.wait_ready(tool);
        assert_eq!(version_row(&state, "1")["digest"], format!("sha256:{}", sha256(b"weights")));
        let manifest = node.get_json(&format!("/v1/artifacts/{tool}/versions/1"));
        assert_eq!(manifest["archive"]["weak"], tool == "md5sum", "{manifest}");
        let file = node.get(&format!("/v1/artifacts/{tool}/versions/1/files/model.bin"));
        assert_eq!((file.status, file.text().as_str()), (200, "weights"));
    }
}
