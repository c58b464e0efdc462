//! Many clients at once: one download for all of them, one tree at a target they all ask for, and little memory.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::fixture::archive::app;
use crate::fixture::node::{Node, Over};
use crate::fixture::origin::Fault;
use crate::fixture::releases::Releases;
use crate::fixture::tree::{Demand, assert_same};
use crate::fixture::{PATIENCE, noise, until};

const HERD: usize = 1_000;
const SEEDERS: usize = 50;
/// Far above what a daemon with so many connections takes, far below what it would with a copy of the archive for each.
const MOST_MEMORY_KIB: u64 = 300 * 1024;

/// A thousand connections are more than many a shell lets a process have. The daemon was started before, with less.
fn allow_many_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(8192, |most| most.min(8192));
    if current.is_some_and(|current| current < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).unwrap();
    }
}

/// Runs `ask` in so many threads at once, each with its number, and gives what they say.
fn at_once<T: Send>(count: usize, ask: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let said = Mutex::new(Vec::new());
    let barrier = Barrier::new(count);
    thread::scope(|scope| {
        for number in 0..count {
            let (ask, said, barrier) = (&ask, &said, &barrier);
            let body = move || {
                barrier.wait();
                let answer = ask(number);
                said.lock().unwrap().push(answer);
            };
            thread::Builder::new().stack_size(256 * 1024).spawn_scoped(scope, body).unwrap();
        }
    });
    said.into_inner().unwrap()
}

fn gets(releases: &Releases, path: &str) -> usize {
    releases.origin.requests(path).iter().filter(|request| request.method == "GET").count()
}

#[test]
fn a_thousand_wait_for_what_is_not_there_yet() {
    let releases = Releases::with("v1");
    let archive = app("v1", 20_000_000);
    releases.publish("v1", &archive);
    let path = Releases::path("v1");
    releases.origin.always(&path, Fault::StallAfter(1_000_000));
    let document = releases.document_with("app", true, "  seeds: [{target: boot/app}]\n");
    let node = Node::builder().settings("fetch: {stallTimeout: 1h}").document("app.yaml", &document).start();
    allow_many_descriptors();

    let arrived = AtomicUsize::new(0);
    let over = |number: usize| if number.is_multiple_of(2) { Over::Tcp } else { Over::Socket };
    // Every tenth asks for the declared target and waits for that, the others for the artifact.
    let ask = |number: usize| -> io::Result<(u16, Value)> {
        arrived.fetch_add(1, Ordering::Relaxed);
        let answer = if number.is_multiple_of(10) {
            let body = json!({"target": "boot/app", "wait": "10m"});
            node.post_json(over(number / 10), "/v1/artifacts/app/seed", &body)
        } else {
            node.try_request(over(number), "GET", "/v1/artifacts/app/wait?timeout=10m", &[], None)?
        };
        Ok((answer.status, answer.json()))
    };
    let answers = thread::scope(|scope| {
        let herd = scope.spawn(|| at_once(HERD, ask));
        until("all to have come", PATIENCE, || (arrived.load(Ordering::Relaxed) == HERD).then_some(()));
        // While they wait, others are served.
        assert_eq!(node.get("/healthz").status, 200);
        assert_eq!(node.state("app")["state"], "Warming");
        releases.origin.heal(&path);
        herd.join().unwrap()
    });
    assert_eq!(answers.len(), HERD);
    for answer in answers {
        let (status, body) = answer.unwrap_or_else(|e| panic!("a client got no answer: {e}"));
        assert_eq!(status, 200, "{body}");
        assert!(body["current"] == "v1" || body["version"] == "v1", "{body}");
    }
    assert_eq!((gets(&releases, &path), gets(&releases, "/latest")), (1, 1), "asked of the origin");
    assert_same(&node.tree("app", "v1"), &node.root().join("boot/app"), Demand::CONTENT);
    let peak = node.peak_rss_kib();
    eprintln!("{HERD} clients waiting for {} bytes: the daemon's peak RSS is {} MiB", archive.len(), peak / 1024);
    assert!(peak < MOST_MEMORY_KIB, "{peak} KiB");
}

const NOISE: usize = 2_000_000;

/// What lies at the target when a reader comes by; none where nothing is there (yet).
fn look(target: &Path) -> Option<String> {
    let version = match fs::read_to_string(target.join("VERSION")) {
        Ok(version) => version,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => panic!("{error}"),
    };
    let script = fs::read_to_string(target.join("bin/run"));
    let noise = fs::read(target.join("noise"));
    // In between the next version may have come; never does one go back.
    if fs::read_to_string(target.join("VERSION")).unwrap() == version {
        assert_eq!(script.unwrap(), format!("#!/bin/sh\necho {version}\n"));
        assert_eq!(noise.unwrap(), noise_of(&version), "{version}");
    }
    Some(version)
}

fn noise_of(version: &str) -> Vec<u8> {
    // As `app` makes it.
    let seed = version.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    noise(seed, NOISE)
}

#[test]
fn many_seeders_of_one_target_make_one_tree() {
    let releases = Releases::with("v1");
    for version in ["v1", "v2"] {
        releases.publish(version, &app(version, NOISE));
    }
    let node = Node::start_with(&releases.document());
    node.wait_ready("app");
    let target = node.root().join("pod");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen: Vec<Option<String>> = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let now = look(&target);
                if seen.last() != Some(&now) {
                    seen.push(now);
                }
            }
            seen
        });
        // Ends the reader whatever happens here.
        let rounds = thread::Builder::new().spawn_scoped(scope, || seed_both(&node, &releases)).unwrap().join();
        over.store(true, Ordering::Relaxed);
        let seen = reader.join().unwrap();
        rounds.unwrap();
        let versions: Vec<&str> = seen.iter().flatten().map(String::as_str).collect();
        assert!(versions.starts_with(&["v1"]) && versions.ends_with(&["v2"]) && versions.len() == 2, "{seen:?}");
        assert!(seen.iter().skip(1).all(Option::is_some), "for a moment nothing was there: {seen:?}");
    });
    // No half-made tree is left beside it.
    let beside: Vec<_> = fs::read_dir(node.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(beside.iter().all(|name| name == "pod" || name == ".seedcache"), "{beside:?}");
}

/// Has the target seeded with one version by many at once, then with the next.
fn seed_both(node: &Node, releases: &Releases) {
    for version in ["v1", "v2"] {
        if version == "v2" {
            releases.point_to("v2");
            node.cli(&["refresh", "app", "--wait"]).ok();
        }
        let reports = at_once(SEEDERS, |_| {
            let answer = node.post_json(
                Over::Socket,
                "/v1/artifacts/app/seed",
                &json!({"target": node.root().join("pod").to_str().unwrap(), "version": version}),
            );
            assert_eq!(answer.status, 200, "{}", answer.text());
            answer.json()
        });
        assert_eq!(reports.iter().filter(|report| report["changed"] == true).count(), 1, "{version}");
        assert!(reports.iter().all(|report| report["version"] == version), "{reports:?}");
        assert_same(&node.tree("app", version), &node.root().join("pod"), Demand::CONTENT);
    }
}
