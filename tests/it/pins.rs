//! Pins: a node held at one version, whatever the source says, the daemon's life and the origin's.

use std::time::Instant;

use serde_json::{Value, json};

use crate::fixture::archive::app;
use crate::fixture::http::Response;
use crate::fixture::node::{Node, Over};
use crate::fixture::origin::Fault;
use crate::fixture::releases::Releases;
use crate::fixture::{PATIENCE, until};

const PIN: &str = "/v1/artifacts/app/pin";

/// A node that was at v1 and is at v2, with both kept.
fn two_versions() -> (Releases, Node) {
    let releases = Releases::with("v1");
    let node = Node::start_with(&releases.document());
    node.wait_ready("app");
    releases.publish("v2", &app("v2", 500_000));
    releases.point_to("v2");
    node.cli(&["refresh", "app", "--wait"]).ok();
    assert_eq!(node.state("app")["current"], "v2");
    (releases, node)
}

fn put(node: &Node, over: Over, headers: &[(&str, &str)], version: &str) -> Response {
    let body = json!({ "version": version }).to_string();
    let headers = [headers, &[("Content-Type", "application/json")]].concat();
    node.try_request(over, "PUT", PIN, &headers, Some(body.as_bytes())).unwrap()
}

fn current(node: &Node) -> Value {
    let link = std::fs::read_link(node.store().join("current/app")).unwrap();
    let state = node.state("app");
    let version = state["current"].as_str().unwrap();
    assert_eq!(link.to_str().unwrap(), format!("../versions/app/{version}/tree"), "status and disk differ");
    state["current"].clone()
}

#[test]
fn rollback_to_a_kept_version_needs_no_origin_and_survives() {
    let (releases, mut node) = two_versions();
    let before = releases.origin.requests(&Releases::path("v1")).len();
    drop(releases);
    let begun = Instant::now();
    let told = node.cli(&["pin", "app", "v1"]).ok().stdout;
    eprintln!("rollback by the CLI took {:?}", begun.elapsed());
    assert_eq!(told, "app: pinned at v1, switched from v2 to v1\n");
    assert_eq!((before, current(&node)), (1, json!("v1")));
    let state = node.state("app");
    assert_eq!((&state["pin"], &state["pinnedBy"], &state["lastError"]), (&json!("v1"), &json!("node"), &Value::Null));
    assert_eq!(state["latest"], "v2");

    node.kill9();
    node.start();
    let state = node.wait_ready("app");
    assert_eq!((&state["current"], &state["pin"]), (&json!("v1"), &json!("v1")));
    assert_eq!(state["lastError"], Value::Null, "nothing is asked of the origin for a version that is here");

    // The origin is still down: what was known before the restart is gone, what is here stays.
    let unpinned = node.cli(&["unpin", "app", "-o", "json"]).ok().json();
    assert_eq!((&unpinned["pin"], &unpinned["pinnedBy"]), (&Value::Null, &Value::Null));
    let failed = node.wait_state("app", "the failed question", PATIENCE, |state| state["lastError"].is_string());
    assert_eq!(failed["current"], "v1");
}

#[test]
fn unpin_follows_again_at_once() {
    let (releases, node) = two_versions();
    node.cli(&["pin", "app", "v1"]).ok();
    releases.publish("v3", &app("v3", 500_000));
    releases.point_to("v3");
    // Pinned, a refresh learns of it and takes nothing.
    let told = node.cli(&["refresh", "app", "--wait"]).ok().stdout;
    assert_eq!(told, "app: pinned at v1; the latest is v3\n");
    assert!(releases.origin.requests(&Releases::path("v3")).is_empty());
    node.cli(&["unpin", "app", "--wait"]).ok();
    assert_eq!(current(&node), "v3");
    let told = node.cli(&["unpin", "app"]).ok().stdout;
    assert_eq!(told, "app: app was not pinned on this node\n");
}

#[test]
fn a_missing_version_is_fetched_first() {
    let (releases, node) = two_versions();
    releases.publish("v0", &app("v0", 2_000_000));
    let path = Releases::path("v0");
    releases.origin.always(&path, Fault::StallAfter(1_000_000));
    let told = node.cli(&["pin", "app", "v0"]).ok().stdout;
    assert_eq!(told, "app: pinned at v0, which is switched to once it is fetched; v2 stays current until then\n");
    until("the download", PATIENCE, || (!releases.origin.requests(&path).is_empty()).then_some(()));
    assert_eq!(current(&node), "v2");
    releases.origin.heal(&path);
    node.cli(&["pin", "app", "v0", "--wait"]).ok();
    assert_eq!(current(&node), "v0");
}

#[test]
fn a_version_that_cannot_be_had_leaves_current_alone() {
    let (releases, node) = two_versions();
    let failed = node.cli(&["pin", "app", "v9", "--wait", "60s"]).exits(1);
    assert!(failed.stderr.contains("404"), "{failed:?}");
    let state = node.state("app");
    assert_eq!((&state["current"], &state["pin"], &state["state"]), (&json!("v2"), &json!("v9"), &json!("Ready")));
    assert!(state["lastError"].as_str().unwrap().contains("/v9/"), "{state}");
    assert!(state["nextTry"].is_string(), "{state}");
    // Another pin puts it right, without a trace of the failure.
    node.cli(&["pin", "app", "v1", "--wait"]).ok();
    let state = node.state("app");
    assert_eq!((&state["current"], &state["lastError"]), (&json!("v1"), &Value::Null));
    drop(releases);
    node.cli(&["pin", "app", "v9", "--wait", "1s"]);
    assert_eq!(current(&node), "v1");
}

#[test]
fn a_pin_gives_up_a_download_that_nobody_wants_any_more() {
    let (releases, node) = two_versions();
    releases.publish("v3", &app("v3", 2_000_000));
    releases.origin.always(&Releases::path("v3"), Fault::StallAfter(1_000_000));
    releases.point_to("v3");
    node.cli(&["refresh", "app"]).ok();
    node.wait_state("app", "the download", PATIENCE, |state| state["progress"]["phase"] == "downloading");
    node.cli(&["pin", "app", "v1"]).ok();
    let state = node.state("app");
    assert_eq!((&state["current"], &state["progress"]), (&json!("v1"), &Value::Null));
    releases.origin.heal(&Releases::path("v3"));
    node.cli(&["unpin", "app", "--wait"]).ok();
    assert_eq!(current(&node), "v3");
}

#[test]
fn the_documents_pin_wins_and_the_answer_says_so() {
    let (releases, node) = two_versions();
    node.write_config("artifacts.yaml", &releases.document_with("app", true, "  pin: v2\n"));
    node.wait_state("app", "the document's pin", PATIENCE, |state| state["pinnedBy"] == "document");
    let answer = put(&node, Over::Socket, &[], "v1");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = answer.json();
    assert_eq!(
        (&answer["pin"], &answer["pinnedBy"], &answer["current"]),
        (&json!("v2"), &json!("document"), &json!("v2"))
    );
    assert!(answer["note"].as_str().unwrap().contains("document pins app at v2"), "{answer}");
    // Its removal lets the node's pin through.
    node.write_config("artifacts.yaml", &releases.document());
    let state = node.wait_state("app", "the node's pin", PATIENCE, |state| state["current"] == "v1");
    assert_eq!(state["pinnedBy"], "node");
}

#[test]
fn what_no_document_declares_can_be_rolled_back_too() {
    let (releases, mut node) = two_versions();
    node.write_config("artifacts.yaml", "");
    node.wait_state("app", "no document", PATIENCE, |state| state["observedGeneration"].is_null());
    node.cli(&["pin", "app", "v1"]).ok();
    assert_eq!(current(&node), "v1");
    let refused = put(&node, Over::Socket, &[], "v7");
    assert_eq!(refused.status, 409, "{}", refused.text());
    refused.problem();
    node.cli(&["pin", "nosuch", "v1"]).exits(3);
    node.cli(&["unpin", "nosuch"]).exits(3);
    node.restart();
    assert_eq!((current(&node), &node.state("app")["pin"]), (json!("v1"), &json!("v1")));
    drop(releases);
    let told = node.cli(&["unpin", "app"]).ok().stdout;
    assert!(told.contains("no document declares app"), "{told}");
    assert_eq!(current(&node), "v1");
}

#[test]
fn pins_need_full_rights() {
    let (_releases, node) = two_versions();
    for (method, body) in [("PUT", Some(&br#"{"version":"v1"}"#[..])), ("DELETE", None)] {
        let headers = [("Content-Type", "application/json")];
        let refused = node.try_request(Over::Tcp, method, PIN, &headers, body).unwrap();
        assert_eq!(refused.status, 403, "{}", refused.text());
        refused.problem();
    }
    assert_eq!((current(&node), &node.state("app")["pin"]), (json!("v2"), &Value::Null));
    for bad in [json!({}), json!({"version": "../x"}), json!({"version": "v1", "force": true})] {
        let body = bad.to_string();
        let headers = [("Content-Type", "application/json")];
        let refused = node.try_request(Over::Socket, "PUT", PIN, &headers, Some(body.as_bytes())).unwrap();
        assert_eq!(refused.status, 400, "{bad}");
    }
}

#[test]
fn words_that_stand_for_a_version_name_none() {
    const TOLD: &str = "to follow the newest, leave the version out";
    let (releases, mut node) = two_versions();
    for word in ["latest", "current"] {
        let refused = node.cli(&["pin", "app", word]).exits(2).stderr;
        assert!(refused.contains(TOLD), "{refused}");
        let refused = put(&node, Over::Socket, &[], word);
        assert_eq!(refused.status, 400, "{}", refused.text());
        assert!(refused.text().contains(TOLD), "{}", refused.text());
        // Nor may an origin call one so.
        releases.point_to(word);
        node.cli(&["refresh", "app", "--wait"]).exits(1);
        let state = node.state("app");
        let told = state["lastError"].as_str().unwrap();
        assert!(told.contains("is no version name but a word"), "{told}");
        assert_eq!(current(&node), "v2");
    }
    // Where one is asked for, `current` is one still.
    assert_eq!(node.seed("app@current", "seeded", &[]).ok().json()["version"], "v2");
    let asked = json!({"target": "asked", "version": "current"});
    assert_eq!(node.post_json(Over::Socket, "/v1/artifacts/app/seed", &asked).json()["version"], "v2");
    let verified = node.cli(&["verify", "app@current", "-o", "json"]).ok().json();
    assert_eq!((&verified["results"][0]["version"], &verified["results"][1]), (&json!("v2"), &Value::Null));
    node.seed("app@latest", "never", &[]).exits(2);

    // One that a daemon before this made under such a name keeps nothing from its start.
    releases.point_to("v2");
    node.kill9();
    let (versions, link) = (node.store().join("versions/app"), node.store().join("current/app"));
    std::fs::rename(versions.join("v1"), versions.join("latest")).unwrap();
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("../versions/app/latest/tree", &link).unwrap();
    node.start();
    node.wait_state("app", "a version with a name", PATIENCE, |state| state["current"] == "v2");
    assert_eq!(current(&node), "v2");
    assert!(versions.join("latest/tree").is_dir(), "what is not ours is left alone");
}

#[test]
fn a_source_with_one_version_at_a_time_can_be_rolled_back() {
    let releases = Releases::with("v1");
    let url = releases.origin.url("/only.tgz");
    releases.origin.serve("/only.tgz", app("a", 100_000));
    let document = format!(
        "apiVersion: seedcache.dev/v1alpha1\nkind: Artifact\nmetadata: {{name: app}}\nspec:\n  \
         source: {{http: {{url: '{url}'}}}}\n  unpack: {{stripComponents: 1}}\n"
    );
    let node = Node::start_with(&document);
    let first = node.wait_ready("app")["current"].as_str().unwrap().to_owned();
    releases.origin.serve("/only.tgz", app("b", 100_000));
    node.cli(&["refresh", "app", "--wait"]).ok();
    assert_ne!(current(&node), first.as_str());
    node.cli(&["pin", "app", &first]).ok();
    assert_eq!(current(&node), first.as_str());
    // Whatever is asked meanwhile, the state settles without an error.
    let state = node.wait_state("app", "rest", PATIENCE, |state| state["progress"].is_null());
    assert_eq!((&state["current"], &state["lastError"]), (&json!(first), &Value::Null));
}

#[test]
fn a_refresh_of_what_did_not_change_transfers_nothing() {
    let releases = Releases::with("v1");
    let node = Node::start_with(&releases.document());
    node.wait_ready("app");
    node.cli(&["refresh", "app", "--wait"]).ok();
    for path in ["/latest", "/v1/SHA256SUMS"] {
        let requests = releases.origin.requests(path);
        let last = requests.last().unwrap();
        assert_eq!((requests.len(), last.status, last.sent), (2, 304, 0), "{path}: {last:?}");
        assert!(last.header("if-none-match").is_some());
    }
    assert_eq!(releases.origin.requests(&Releases::path("v1")).len(), 1, "the archive is not asked for again");
    // A pointer that moves is seen all the same.
    releases.publish("v2", &app("v2", 500_000));
    releases.point_to("v2");
    node.cli(&["refresh", "app", "--wait"]).ok();
    assert_eq!(current(&node), "v2");
}
