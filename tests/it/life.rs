//! The life of a version on the node: read while it goes, leased, damaged and mended, and told of in events.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::fixture::archive::app;
use crate::fixture::http::Response;
use crate::fixture::node::{Node, Over};
use crate::fixture::releases::Releases;
use crate::fixture::{PATIENCE, until};

fn ask(node: &Node, method: &str, path: &str, body: Option<&Value>) -> Response {
    let body = body.map(Value::to_string);
    let headers = [("Content-Type", "application/json")];
    let body = body.as_ref().map(|body| body.as_bytes());
    node.try_request(Over::Socket, method, path, &headers, body).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
}

#[track_caller]
fn done(answer: &Response) {
    assert!((200..300).contains(&answer.status), "{}: {}", answer.status, answer.text());
}

fn follow(releases: &Releases, node: &Node, version: &str) {
    releases.publish(version, &app(version, 500_000));
    releases.point_to(version);
    node.cli(&["refresh", "app", "--wait"]).ok();
    assert_eq!(node.state("app")["current"], version);
}

fn holds(node: &Node, version: &str) -> bool {
    node.state("app")["versions"].as_array().unwrap().iter().any(|row| row["version"] == version)
}

/// A request that was sent, of whose answer only the head was read.
fn begin(node: &Node, path: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(node.url().trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.starts_with("HTTP/1.1 200"), "{line}");
    while line.trim_end() != "" {
        line.clear();
        reader.read_line(&mut line).unwrap();
    }
    reader
}

#[test]
fn a_reader_gets_all_of_a_version_that_is_collected_meanwhile() {
    // Larger than what sockets buffer, so that the answers are still under way.
    const SIZE: usize = 64_000_000;
    let releases = Releases::with("v1");
    releases.publish("v1", &app("v1", SIZE));
    let retain = "  retain: {versions: 1, for: 0s}\n";
    let node = Node::start_with(&releases.document_with("app", true, retain));
    node.wait_ready("app");
    let expected = fs::read(node.tree("app", "v1").join("noise")).unwrap();
    let mut file = begin(&node, "/v1/artifacts/app/versions/v1/files/noise");
    let tree = begin(&node, "/v1/artifacts/app/versions/v1/tree.tar");
    follow(&releases, &node, "v2");
    // By order: what is being read is kept from collection, not from that.
    done(&ask(&node, "DELETE", "/v1/artifacts/app/versions/v1?force=true", None));
    done(&ask(&node, "POST", "/v1/gc", Some(&json!({}))));
    assert!(!holds(&node, "v1"));
    assert_eq!(node.get("/v1/artifacts/app/versions/v1/files/VERSION").status, 404);
    assert!(!node.tree("app", "v1").exists());

    let mut read = Vec::new();
    file.read_to_end(&mut read).unwrap();
    assert!(read == expected, "{} of {SIZE} bytes, or others", read.len());
    let mut entries = tar::Archive::new(tree);
    let mut entries = entries.entries().unwrap();
    let mut noise = entries.find(|entry| entry.as_ref().unwrap().path_bytes().ends_with(b"noise")).unwrap().unwrap();
    read.clear();
    noise.read_to_end(&mut read).unwrap();
    assert!(read == expected, "{} of {SIZE} bytes in the tar, or others", read.len());
    assert!(entries.all(|entry| entry.is_ok()));
    drop(file);
    until("the removed version's bytes to be freed", PATIENCE, || {
        ask(&node, "POST", "/v1/gc", Some(&json!({})));
        (crate::fixture::watchman::disk_use(node.store()) < SIZE as u64).then_some(())
    });
}

#[test]
fn a_lease_keeps_a_version_until_it_is_dropped_or_over() {
    const LEASE: &str = "/v1/artifacts/app/leases/job-7";
    let releases = Releases::with("v1");
    let retain = "  retain: {versions: 1, for: 0s}\n";
    let mut node = Node::start_with(&releases.document_with("app", true, retain));
    node.wait_ready("app");
    done(&ask(&node, "PUT", LEASE, Some(&json!({"version": "v1", "ttl": "1h"}))));
    follow(&releases, &node, "v2");
    let collect = |node: &Node| done(&ask(node, "POST", "/v1/gc", Some(&json!({}))));
    for _ in 0..2 {
        collect(&node);
        assert!(holds(&node, "v1"));
        let leases = node.state("app")["leases"].to_string();
        assert!(leases.contains("job-7") && leases.contains("v1"), "{leases}");
        let told = node.cli(&["gc", "--dry-run"]).ok().stdout;
        assert!(told.contains("job-7"), "{told}");
        assert_eq!(ask(&node, "DELETE", "/v1/artifacts/app/versions/v1", None).status, 409);
        node.kill9();
        node.start();
        node.wait_ready("app");
    }
    // Renewed for a short time, it is over by itself; as is one that is dropped.
    done(&ask(&node, "PUT", LEASE, Some(&json!({"version": "v1", "ttl": "1s"}))));
    until("the end of the lease", PATIENCE, || {
        collect(&node);
        (!holds(&node, "v1")).then_some(())
    });
    done(&ask(&node, "PUT", LEASE, Some(&json!({"version": "v2", "ttl": "1h"}))));
    follow(&releases, &node, "v3");
    collect(&node);
    assert!(holds(&node, "v2"));
    done(&ask(&node, "DELETE", LEASE, None));
    collect(&node);
    assert!(!holds(&node, "v2"));
    for refused in
        [json!({"version": "v9", "ttl": "1h"}), json!({"version": "v3", "ttl": "0s"}), json!({"ttl": "soon"})]
    {
        let answer = ask(&node, "PUT", LEASE, Some(&refused));
        assert!((400..500).contains(&answer.status), "{refused}: {}", answer.text());
        answer.problem();
    }
}

/// Changes one byte of a file in place as root may, and puts its mode and modification time back.
fn flip(path: &Path) {
    let before = fs::metadata(path).unwrap();
    let writable = fs::Permissions::from_mode(before.permissions().mode() | 0o200);
    fs::set_permissions(path, writable).unwrap();
    let mut file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(1000)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(1000)).unwrap();
    file.write_all(&[!byte[0]]).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    fs::set_permissions(path, before.permissions()).unwrap();
}

#[test]
fn a_byte_flipped_through_a_hard_link_reaches_nobody_after_the_next_seed() {
    let releases = Releases::with("v1");
    let node = Node::start_with(&releases.document());
    node.wait_ready("app");
    node.seed("app", "pod", &["--link", "hardlink"]).ok();
    let good = fs::read(node.tree("app", "v1").join("noise")).unwrap();
    flip(&node.root().join("pod/noise"));
    assert_ne!(fs::read(node.tree("app", "v1").join("noise")).unwrap(), good, "the store shares the inode");
    node.seed("app", "next", &["--link", "hardlink", "--wait", "100s"]).ok();
    assert_eq!(fs::read(node.root().join("next/noise")).unwrap(), good);
    assert_eq!(node.get("/v1/artifacts/app/versions/v1/files/noise").body, good);
    until("the damaged seed to be mended", PATIENCE, || {
        (fs::read(node.root().join("pod/noise")).is_ok_and(|bytes| bytes == good)).then_some(())
    });
    node.cli(&["verify", "app"]).ok();
}

#[test]
fn verify_repairs_what_was_damaged() {
    let releases = Releases::with("v1");
    let node =
        Node::start_with(&releases.document_with("app", true, "  seeds: [{target: boot/app, link: hardlink}]\n"));
    let seeded = |state: &Value| state["seeds"][0]["state"] == "Ready";
    node.wait_state("app", "seeded", PATIENCE, seeded);
    let good = fs::read(node.tree("app", "v1").join("noise")).unwrap();
    flip(&node.root().join("boot/app/noise"));
    node.cli(&["verify", "app"]).exits(1);
    node.cli(&["verify", "app", "--repair"]);
    until("good bytes in the store and in the seed", PATIENCE, || {
        let read = |path: &Path| fs::read(path).ok();
        let (store, seed) = (node.tree("app", "v1").join("noise"), node.root().join("boot/app/noise"));
        (read(&store).as_ref() == Some(&good) && read(&seed).as_ref() == Some(&good)).then_some(())
    });
    node.cli(&["verify", "app"]).ok();
    let damaged = fs::read_dir(node.store().join("quarantine")).unwrap().count();
    assert_eq!(damaged, 1, "it lies in quarantine");
}

#[test]
fn events_tell_every_change_of_state() {
    let releases = Releases::with("v1");
    let node = Node::start_with(&releases.document());
    node.wait_ready("app");
    let mut events = begin(&node, "/v1/events");
    let mut next = |wanted: &dyn Fn(&Value) -> bool| -> Value {
        let mut is_artifact = false;
        loop {
            let mut line = String::new();
            assert_ne!(events.read_line(&mut line).unwrap(), 0, "the stream ended");
            // Lengths of chunks stand between; none of them looks like a field.
            match line.trim_end().split_once(':') {
                Some(("event", name)) => is_artifact = name.trim() == "artifact",
                Some(("data", data)) if is_artifact => {
                    let state: Value = serde_json::from_str(data.trim()).unwrap_or_else(|e| panic!("{e}: {data}"));
                    assert_eq!(state["name"], "app", "{state}");
                    if wanted(&state) {
                        return state;
                    }
                }
                _ => {}
            }
        }
    };
    follow(&releases, &node, "v2");
    let told = next(&|state| state["current"] == "v2");
    assert_eq!(told["state"], "Ready");
    releases.origin.always("/latest", crate::fixture::origin::Fault::Status(500, None));
    node.cli(&["refresh", "app"]).ok();
    next(&|state| !state["lastError"].is_null());
    releases.origin.heal("/latest");
    node.cli(&["refresh", "app"]).ok();
    next(&|state| state["lastError"].is_null());
    node.cli(&["pin", "app", "v1"]).ok();
    let pinned = next(&|state| state["current"] == "v1");
    assert_eq!((&pinned["pin"], &pinned["pinnedBy"]), (&json!("v1"), &json!("node")), "{pinned}");
}
