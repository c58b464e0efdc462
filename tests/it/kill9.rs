//! SIGKILL at bad moments: the next start fetches only what is missing, and publishes the same bytes.

use std::fs;
use std::io::{self, Read as _};
use std::path::PathBuf;

use crate::fixture::archive::app;
use crate::fixture::node::{Node, version_row};
use crate::fixture::origin::{Fault, Request};
use crate::fixture::releases::Releases;
use crate::fixture::{PATIENCE, noise, sha256, until};

/// Bytes of the archive that the store holds so far.
fn held(node: &Node) -> u64 {
    fs::metadata(node.store().join("staging/app/archive.part")).map_or(0, |meta| meta.len())
}

fn unpacked(node: &Node, file: &str) -> PathBuf {
    node.store().join("staging/app/version/tree").join(file)
}

/// Waits until the version is there, whole and the same as what the origin has, and nothing is left in staging.
fn becomes_whole(node: &Node, archive: &[u8]) {
    let state = node.wait_ready("app");
    assert_eq!(version_row(&state, "v1")["digest"], format!("sha256:{}", sha256(archive)));
    node.cli(&["verify", "app"]).ok();
    assert_eq!(held(node), 0, "the part is still there");
    assert!(!unpacked(node, "").exists(), "the half-made tree is still there");
}

/// A daemon so patient that it takes no stalled answer for dead while the test gets round to killing it.
fn patient(releases: &Releases) -> Node {
    Node::builder().settings("fetch: {stallTimeout: 1h}").document("app.yaml", &releases.document()).start()
}

fn releases(archive: &[u8]) -> Releases {
    let releases = Releases::with("v1");
    releases.publish("v1", archive);
    releases
}

fn body_requests(releases: &Releases) -> Vec<Request> {
    let requests = releases.origin.requests(&Releases::path("v1"));
    requests.into_iter().filter(|request| request.method == "GET").collect()
}

#[test]
fn a_download_resumes_where_each_kill_left_it() {
    let archive = app("v1", 8_000_000);
    let releases = releases(&archive);
    let path = Releases::path("v1");
    releases.origin.always(&path, Fault::StallAfter(1_000_000));
    let mut node = patient(&releases);
    let mut had = 0;
    for round in 1..=4 {
        // What the kernel was given may not all have reached the disk when the daemon dies, most of it must have.
        until("a part of the download", PATIENCE, || (held(&node) > had + 500_000).then_some(()));
        node.kill9();
        had = held(&node);
        assert!(had < archive.len() as u64);
        if round == 4 {
            releases.origin.heal(&path);
        }
        node.start();
        let resumed = until("the next request", PATIENCE, || body_requests(&releases).get(round).cloned());
        assert_eq!(resumed.start(), had, "round {round}");
        assert_eq!(resumed.status, 206, "round {round}");
    }
    becomes_whole(&node, &archive);
    let last = body_requests(&releases).pop().unwrap();
    assert_eq!(last.sent, archive.len() as u64 - had);
}

/// An archive that takes long to unpack after its last byte has come: its end is a small heap of zeros, much pressed.
fn slow_to_unpack() -> Vec<u8> {
    const ZEROS: u64 = 512 << 20;
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut tar = tar::Builder::new(gzip);
    let mut add = |path: &str, size: u64, content: &mut dyn io::Read| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(rustix::process::getuid().as_raw().into());
        header.set_gid(rustix::process::getgid().as_raw().into());
        header.set_size(size);
        tar.append_data(&mut header, path, content).unwrap();
    };
    // The noise keeps the whole below the limit of 200 to 1.
    add("app/noise", 4_000_000, &mut &noise(5, 4_000_000)[..]);
    add("app/zeros", ZEROS, &mut io::repeat(0).take(ZEROS));
    tar.into_inner().unwrap().finish().unwrap()
}

#[test]
fn an_unpack_that_was_killed_fetches_nothing_twice() {
    let archive = slow_to_unpack();
    let releases = releases(&archive);
    let mut node = Node::start_with(&releases.document());
    until("unpacking behind the download", PATIENCE, || {
        let sent_all = body_requests(&releases).last().is_some_and(|request| request.over);
        let unpacking = fs::metadata(unpacked(&node, "zeros")).is_ok_and(|meta| meta.len() > 0);
        (sent_all && unpacking).then_some(())
    });
    node.kill9();
    assert!(!node.tree("app", "v1").exists(), "it was published before it could be killed");
    let (had, before) = (held(&node), body_requests(&releases).len());
    assert!(had > 0);
    node.start();
    becomes_whole(&node, &archive);
    let requests = body_requests(&releases).split_off(before);
    assert!(requests.iter().all(|request| request.start() >= had), "{requests:?}");
    assert_eq!(requests.iter().map(|request| request.sent).sum::<u64>(), archive.len() as u64 - had);
}

#[test]
fn what_was_published_and_seeded_survives() {
    let releases = Releases::with("v1");
    let mut node = Node::start_with(&releases.document());
    node.wait_ready("app");
    node.seed("app", "pod", &[]).ok();
    let before = node.state("app");
    node.kill9();
    drop(releases);
    node.start();
    let after = node.wait_ready("app");
    assert_eq!((&after["current"], &after["versions"]), (&before["current"], &before["versions"]));
    let report = node.seed("app", "pod", &[]).ok().json();
    assert_eq!(report["changed"], false, "{report}");
}

#[test]
fn a_part_that_nobody_wants_any_more_goes() {
    let releases = Releases::with("v1");
    let mut node = patient(&releases);
    node.wait_ready("app");
    releases.publish("v2", &app("v2", 2_000_000));
    releases.origin.always(&Releases::path("v2"), Fault::StallAfter(500_000));
    releases.point_to("v2");
    node.cli(&["refresh", "app"]).ok();
    until("a part of the download", PATIENCE, || (held(&node) > 0).then_some(()));
    node.kill9();
    assert!(held(&node) > 0);
    releases.point_to("v1");
    node.start();
    let settled = |state: &serde_json::Value| state["latest"] == "v1" && state["progress"].is_null();
    node.wait_state("app", "back at v1", PATIENCE, settled);
    node.cli(&["gc"]).ok();
    assert_eq!(held(&node), 0, "the part is still there");
    assert!(!node.store().join("staging/app/download.json").exists());
}
