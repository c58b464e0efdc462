//! Reading a version over HTTP: files with ranges and conditions, directories, the tree as a tar, the archive.

use std::fs;
use std::sync::LazyLock;

use crate::fixture::archive::every_kind;
use crate::fixture::node::Node;
use crate::fixture::origin::Origin;
use crate::fixture::scratch;
use crate::fixture::system::run;
use crate::fixture::tree::{Demand, assert_same};
use crate::fixture::{noise, sha256};

const FILES: &str = "/v1/artifacts/kinds/versions/1/files";

/// A node that has one of each kind of entry, the archive kept.
fn node() -> (Origin, Node) {
    let origin = Origin::start();
    origin.serve("/kinds.tgz", every_kind());
    let document = |name: &str, keep: bool| {
        format!(
            "apiVersion: seedcache.dev/v1alpha1
kind: Artifact
metadata: {{name: {name}}}
spec:
  version: '1'
  source: {{http: {{url: '{}'}}}}
  unpack: {{stripComponents: 1}}
  keepArchive: {keep}
",
            origin.url("/kinds.tgz")
        )
    };
    let documents = format!("{}---\n{}", document("kinds", true), document("unkept", false));
    let node = Node::start_with(&documents);
    node.wait_ready("kinds");
    node.wait_ready("unkept");
    (origin, node)
}

/// What `deep/data` holds.
static DATA: LazyLock<Vec<u8>> = LazyLock::new(|| noise(1, 300_000));

#[test]
fn files_come_whole_and_in_ranges() {
    let (_origin, node) = node();
    let data = format!("{FILES}/deep/data");
    let whole = node.get(&data);
    assert_eq!((whole.status, whole.body == *DATA), (200, true));
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    let etag = whole.header("etag").unwrap().to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag} is not strong");

    let range = |range: &str| node.request("GET", &data, &[("Range", range)]);
    let ranges = [
        ("bytes=0-0", 0..1, "bytes 0-0/300000"),
        ("bytes=1000-1999", 1000..2000, "bytes 1000-1999/300000"),
        ("bytes=299990-", 299_990..300_000, "bytes 299990-299999/300000"),
        ("bytes=-10", 299_990..300_000, "bytes 299990-299999/300000"),
        ("bytes=299990-999999", 299_990..300_000, "bytes 299990-299999/300000"),
        ("bytes=-999999", 0..300_000, "bytes 0-299999/300000"),
    ];
    for (asked, expected, said) in ranges {
        let part = range(asked);
        assert_eq!((part.status, part.header("content-range")), (206, Some(said)), "{asked}");
        assert!(part.body == DATA[expected], "{asked}: other bytes");
        assert_eq!(part.header("etag"), Some(etag.as_str()), "{asked}");
    }
    for asked in ["bytes=300000-", "bytes=-0"] {
        let refused = range(asked);
        assert_eq!((refused.status, refused.header("content-range")), (416, Some("bytes */300000")), "{asked}");
    }
    for ignored in ["lines=1-2", "bytes=5-2", "bytes=a-b"] {
        let whole = range(ignored);
        assert_eq!((whole.status, whole.body.len()), (200, DATA.len()), "{ignored}");
    }
    let empty = node.get(&format!("{FILES}/empty-file"));
    assert_eq!((empty.status, empty.header("content-length")), (200, Some("0")));
}

#[test]
fn conditions_are_kept() {
    let (_origin, node) = node();
    let data = format!("{FILES}/deep/data");
    let etag = node.get(&data).header("etag").unwrap().to_owned();
    let ask = |headers: &[(&str, &str)]| node.request("GET", &data, headers);
    for matching in [etag.as_str(), "*", &format!("\"other\", {etag}"), &format!("W/{etag}")] {
        let answer = ask(&[("If-None-Match", matching)]);
        assert_eq!((answer.status, answer.header("etag")), (304, Some(etag.as_str())), "{matching}");
    }
    assert_eq!(ask(&[("If-None-Match", "\"other\"")]).status, 200);
    assert_eq!(ask(&[("If-Match", "\"other\"")]).status, 412);
    assert_eq!(ask(&[("If-Match", &etag)]).status, 200);
    assert_eq!(ask(&[("Range", "bytes=5-"), ("If-Range", &etag)]).status, 206);
    assert_eq!(ask(&[("Range", "bytes=5-"), ("If-Range", "\"other\"")]).status, 200);
    let other = node.get(&format!("{FILES}/deep/second")).header("etag").unwrap().to_owned();
    assert_ne!(other, etag);
}

#[test]
fn head_is_get_without_the_body() {
    let (_origin, node) = node();
    for path in ["deep/data", "empty-file"] {
        let path = format!("{FILES}/{path}");
        let (get, head) = (node.get(&path), node.request("HEAD", &path, &[]));
        assert_eq!(head.status, 200);
        for header in ["content-length", "content-type", "etag", "accept-ranges", "last-modified"] {
            assert_eq!(head.header(header), get.header(header), "{header}");
        }
    }
    assert_eq!(node.request("HEAD", &format!("{FILES}/none"), &[]).status, 404);
}

#[test]
fn names_are_percent_encoded_and_current_is_a_version() {
    let (_origin, node) = node();
    assert_eq!(node.get(&format!("{FILES}/with%20space%20and%20%C3%BCn%C3%AFcode")).text(), "name\n");
    assert_eq!(node.get("/v1/artifacts/kinds/versions/current/files/deep/second").text(), "second\n");
    assert_eq!(node.get(&format!("{FILES}/hard")).text(), "second\n");
}

#[test]
fn directories_list_as_json() {
    let (_origin, node) = node();
    for (path, names) in [("", &["deep", "hard", "soft", "empty"][..]), ("/deep", &["er", "data", "second", "up"])] {
        let listing = node.get(&format!("{FILES}{path}"));
        assert_eq!(listing.status, 200, "{path}: {}", listing.text());
        assert!(listing.header("content-type").unwrap().starts_with("application/json"), "{listing:?}");
        let listed = listing.json().to_string();
        assert!(names.iter().all(|name| listed.contains(&format!("\"{name}\""))), "{listed}");
    }
}

#[test]
fn no_path_leads_out_of_the_tree() {
    let (_origin, node) = node();
    let checksum = node.get_json("/v1/artifacts/kinds/versions/1")["checksum"].as_str().unwrap().to_owned();
    for path in [
        "../manifest.json",
        "..%2fmanifest.json",
        "%2e%2e/manifest.json",
        "%2e%2e%2fmanifest.json",
        "deep/../../manifest.json",
        "deep/%2e%2e/%2e%2e/manifest.json",
        "soft/../../manifest.json",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "a%00b",
        "none",
        "deep/data/below",
    ] {
        let answer = node.get(&format!("{FILES}/{path}"));
        assert!((400..500).contains(&answer.status), "{path}: {answer:?}");
        answer.problem();
        assert!(!answer.text().contains(&checksum), "{path} gave the manifest");
    }
}

#[test]
fn the_tree_comes_as_a_tar() {
    let (_origin, node) = node();
    let dir = scratch();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("kinds.tgz"), every_kind()).unwrap();
    let tar = node.get("/v1/artifacts/kinds/versions/1/tree.tar");
    assert_eq!((tar.status, tar.header("content-type")), (200, Some("application/x-tar")));
    fs::write(path("tree.tar"), &tar.body).unwrap();
    let extract = |program: &str, archive: &str, to: &str, more: &[&str]| {
        fs::create_dir(path(to)).unwrap();
        let (archive, to) = (path(archive), path(to));
        let args = [&["-x", "-p", "-f", archive.to_str().unwrap(), "-C", to.to_str().unwrap()], more].concat();
        if program == "busybox" {
            run(program, [&["tar"], &args[..]].concat())
        } else {
            run(program, args)
        };
    };
    extract("tar", "kinds.tgz", "expected", &["--strip-components=1", "--delay-directory-restore"]);
    extract("tar", "tree.tar", "gnu", &["--delay-directory-restore"]);
    assert_same(&path("expected"), &path("gnu"), Demand::EXACT);
    extract("busybox", "tree.tar", "busybox", &[]);
    assert_same(&path("expected"), &path("busybox"), Demand::CONTENT);
}

#[test]
fn the_archive_comes_when_it_was_kept() {
    let (_origin, node) = node();
    let archive = node.get("/v1/artifacts/kinds/versions/1/archive");
    assert_eq!((archive.status, sha256(&archive.body)), (200, sha256(&every_kind())));
    let part = node.request("GET", "/v1/artifacts/kinds/versions/1/archive", &[("Range", "bytes=100-199")]);
    assert_eq!((part.status, part.body == every_kind()[100..200]), (206, true));
    let unkept = node.get("/v1/artifacts/unkept/versions/1/archive");
    assert_eq!(unkept.status, 404);
    let detail = unkept.problem()["detail"].to_string();
    assert!(detail.contains("keepArchive"), "{detail}");
}
