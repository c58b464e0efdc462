//! `store.maxBytes` holds, looked at all the time from outside: whatever is to be retained, no byte is beyond it.

use serde_json::{Value, json};

use crate::fixture::PATIENCE;
use crate::fixture::archive::app;
use crate::fixture::node::{Node, Over};
use crate::fixture::origin::Fault;
use crate::fixture::releases::Releases;
use crate::fixture::watchman::Watchman;

const BUDGET: u64 = 6 << 20;
const SIZE: usize = 1_000_000;

fn budgeted(releases: &Releases) -> Node {
    // All twelve are to be retained, for two days at least, if there were room.
    let document = releases.document_with("app", true, "  retain: {versions: 20, for: 48h}\n");
    Node::builder().settings("store: {maxBytes: 6MiB, minFree: 0%}").document("app.yaml", &document).start()
}

fn release(releases: &Releases, node: &Node, version: &str, size: usize) {
    releases.publish(version, &app(version, size));
    releases.point_to(version);
    node.cli(&["refresh", "app"]).ok();
}

fn current(node: &Node, version: &str) -> Value {
    node.wait_state("app", &format!("{version} is current"), PATIENCE, |state| state["current"] == version)
}

fn held(state: &Value) -> Vec<&str> {
    state["versions"].as_array().unwrap().iter().map(|row| row["version"].as_str().unwrap()).collect()
}

#[test]
fn the_oldest_go_first_and_no_byte_is_beyond() {
    let releases = Releases::with("v01");
    let node = budgeted(&releases);
    let watchman = Watchman::of(node.store());
    current(&node, "v01");
    let names: Vec<String> = (2..=12).map(|n| format!("v{n:02}")).collect();
    for version in &names {
        release(&releases, &node, version, SIZE);
        current(&node, version);
    }
    let state = node.state("app");
    let held = held(&state);
    assert!((2..=5).contains(&held.len()), "{held:?}");
    // Newest first, none left out in between.
    let newest: Vec<&str> = names.iter().rev().map(String::as_str).take(held.len()).collect();
    assert_eq!(held, newest);
    let most = watchman.most();
    assert!(most <= BUDGET, "{most} bytes were on disk, {BUDGET} are allowed");
}

#[test]
fn what_cannot_fit_is_refused_and_costs_nothing() {
    let releases = Releases::with("v1");
    let node = budgeted(&releases);
    let watchman = Watchman::of(node.store());
    current(&node, "v1");
    release(&releases, &node, "v2", 8_000_000);
    // Slowly, so that an outside look sees whatever comes.
    let slowly = Fault::Trickle { bytes: 64 * 1024, pause: std::time::Duration::from_millis(5) };
    releases.origin.always(&Releases::path("v2"), slowly);
    let refused = node.wait_state("app", "a refusal", PATIENCE, |state| {
        state["lastError"].as_str().is_some_and(|error| error.contains("maxBytes"))
    });
    assert_eq!((&refused["current"], &refused["state"]), (&json!("v1"), &json!("Ready")), "{refused}");
    assert_eq!(node.get("/v1/artifacts/app/versions/current/files/VERSION").text(), "v1");
    // The next one that fits is taken.
    release(&releases, &node, "v3", SIZE);
    let after = current(&node, "v3");
    assert!(after["lastError"].is_null(), "{after}");
    let most = watchman.most();
    assert!(most <= BUDGET, "{most} bytes were on disk, {BUDGET} are allowed");
}

#[test]
fn what_is_held_is_not_given_up_for_room() {
    let releases = Releases::with("v1");
    releases.publish("v1", &app("v1", 2 * SIZE));
    let node = budgeted(&releases);
    let watchman = Watchman::of(node.store());
    current(&node, "v1");
    let lease = json!({"version": "v1", "ttl": "1h"}).to_string();
    let headers = [("Content-Type", "application/json")];
    let path = "/v1/artifacts/app/leases/job";
    let leased = node.try_request(Over::Socket, "PUT", path, &headers, Some(lease.as_bytes())).unwrap();
    assert!((200..300).contains(&leased.status), "{}", leased.text());
    for version in ["v2", "v3", "v4", "v5"] {
        release(&releases, &node, version, SIZE);
        let state = current(&node, version);
        assert!(held(&state).contains(&"v1"), "it is leased: {state}");
    }
    let most = watchman.most();
    assert!(most <= BUDGET, "{most} bytes were on disk, {BUDGET} are allowed");
}
