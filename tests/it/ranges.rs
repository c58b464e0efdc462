//! One download over several connections (`connections: 4`), from a real server and from one that misbehaves.

use std::collections::BTreeSet;
use std::fs;

use crate::fixture::archive::app;
use crate::fixture::nginx::Nginx;
use crate::fixture::node::{Node, version_row};
use crate::fixture::origin::{Fault, Request};
use crate::fixture::releases::Releases;
use crate::fixture::{PATIENCE, scratch, sha256, until};

/// More than all ranges ahead together.
const LENGTH: usize = 40_000_000;

fn document(releases: &Releases) -> String {
    let url = format!("      url: '{}'\n", releases.origin.url("/{version}/app.tgz"));
    releases.document().replace(&url, &format!("{url}      connections: 4\n"))
}

fn gets(releases: &Releases) -> Vec<Request> {
    let requests = releases.origin.requests(&Releases::path("v1"));
    requests.into_iter().filter(|request| request.method == "GET").collect()
}

fn becomes_whole(node: &Node, archive: &[u8]) {
    let state = node.wait_ready("app");
    assert_eq!(version_row(&state, "v1")["digest"], format!("sha256:{}", sha256(archive)));
    node.cli(&["verify", "app"]).ok();
}

#[test]
fn nginx_is_read_by_several_connections() {
    let (files, archive) = (scratch(), app("v1", LENGTH));
    fs::write(files.path().join("app.tgz"), &archive).unwrap();
    // Slow enough that all connections are at work before the first range is here.
    let nginx = Nginx::serve_with(files.path(), "limit_rate_after 64k; limit_rate 2m;");
    let document = format!(
        "apiVersion: seedcache.dev/v1alpha1
kind: Artifact
metadata: {{name: app}}
spec: {{version: v1, source: {{http: {{url: '{}/app.tgz', connections: 4}}}}}}
",
        nginx.url()
    );
    let node = Node::start_with(&document);
    becomes_whole(&node, &archive);
    assert!(node.peak_rss_kib() < 64 << 10, "{} KiB", node.peak_rss_kib());
    let log = until("the log of all ranges", PATIENCE, || {
        let log: Vec<_> = nginx.log().into_iter().filter(|access| access.method == "GET").collect();
        (log.iter().map(|access| access.sent).sum::<u64>() >= archive.len() as u64).then_some(log)
    });
    let connections: BTreeSet<u64> = log.iter().map(|access| access.connection).collect();
    // The one of the first answer is let go, with its range; four go on, on others where one is not back in the pool yet.
    assert!(connections.len() >= 4, "{connections:?}");
    let ranged = log.iter().filter(|access| access.range.is_some()).collect::<Vec<_>>();
    assert!(ranged.len() > 4 && ranged.iter().all(|access| access.status == 206), "{log:?}");
}

#[test]
fn a_download_over_several_connections_resumes_where_a_kill_left_it() {
    let archive = app("v1", LENGTH);
    let releases = Releases::with("v1");
    releases.publish("v1", &archive);
    let path = Releases::path("v1");
    // Each answer of the first life stops there: the first range is not whole, and others are further than it.
    releases.origin.always(&path, Fault::StallAfter(3_000_000));
    let mut node =
        Node::builder().settings("fetch: {stallTimeout: 1h}").document("app.yaml", &document(&releases)).start();
    let part = node.store().join("staging/app/archive.part");
    let held = || fs::metadata(&part).map_or(0, |meta| meta.len());
    until("a part of the download", PATIENCE, || {
        let ahead = gets(&releases).iter().filter(|request| request.start() > 0 && request.sent >= 3_000_000).count();
        (held() > 2_500_000 && ahead == 3).then_some(())
    });
    node.kill9();
    let had = held();
    assert!(had <= 3_000_000, "only what is in order is in the part: {had}");
    assert!(fs::read(&part).unwrap() == archive[..usize::try_from(had).unwrap()]);
    let before = gets(&releases).len();
    releases.origin.heal(&path);
    node.start();
    becomes_whole(&node, &archive);
    let after = gets(&releases).split_off(before);
    assert_eq!((after[0].start(), after[0].status), (had, 206));
    assert!(after.len() > 4 && after.iter().all(|request| request.start() >= had), "{after:?}");
}

/// The version becomes whole whatever the origin does to some of the answers, which are so many at least.
#[track_caller]
fn survives(faults: &[Fault], always: Option<Fault>, answers: usize) {
    let archive = app("v1", LENGTH);
    let releases = Releases::with("v1");
    releases.publish("v1", &archive);
    let path = Releases::path("v1");
    for fault in faults {
        releases.origin.once(&path, fault.clone());
    }
    if let Some(fault) = always {
        releases.origin.always(&path, fault);
    }
    let settings = "fetch: {stallTimeout: 3s, minThroughput: 1}";
    let node = Node::builder().settings(settings).document("app.yaml", &document(&releases)).start();
    becomes_whole(&node, &archive);
    assert!(gets(&releases).len() >= answers, "{:?}", gets(&releases));
}

#[test]
fn an_origin_that_cuts_and_refuses() {
    survives(
        &[Fault::CutAfter(1_000_000), Fault::CutAfter(7), Fault::Status(503, None), Fault::CutAfter(2_000_000)],
        None,
        9,
    );
    survives(
        &[Fault::Trickle { bytes: 64 << 10, pause: std::time::Duration::ZERO }, Fault::Status(429, Some(1))],
        None,
        7,
    );
}

#[test]
fn an_origin_that_lies_about_ranges() {
    survives(&[], Some(Fault::IgnoreRange), 2);
    survives(&[], Some(Fault::ShiftContentRange), 2);
    survives(&[], Some(Fault::NewETagEachTime), 2);
}
