//! Declared targets are kept at the current version by the daemon itself, and pods can wait for that.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::fixture::archive::app;
use crate::fixture::node::Node;
use crate::fixture::releases::Releases;
use crate::fixture::{PATIENCE, until};

fn releases() -> Releases {
    let releases = Releases::with("v1");
    releases.publish("v2", &app("v2", 1_000));
    releases
}

fn document(releases: &Releases, seeds: &str) -> String {
    releases.document_with("app", true, &format!("  refresh: 1s\n  seeds: [{seeds}]\n"))
}

fn holds(target: &Path, version: &str) {
    let what = format!("{} to hold {version}", target.display());
    until(&what, PATIENCE, || (fs::read_to_string(target.join("VERSION")).ok()? == version).then_some(()));
}

fn seed_of(state: &Value, target: &str) -> Value {
    let seeds = state["seeds"].as_array().unwrap();
    seeds.iter().find(|seed| seed["target"] == target).cloned().unwrap_or_default()
}

#[test]
fn every_switch_of_the_version_reaches_declared_targets() {
    let releases = releases();
    let mut node = Node::start_with(&document(&releases, "{target: boot/app}, {target: other, link: copy}"));
    let targets = [node.root().join("boot/app"), node.root().join("other")];
    let all_hold = |version: &str| targets.iter().for_each(|target| holds(target, version));
    all_hold("v1");
    releases.point_to("v2");
    all_hold("v2");
    node.cli(&["pin", "app", "v1"]).ok();
    all_hold("v1");
    node.cli(&["unpin", "app"]).ok();
    all_hold("v2");
    // While the daemon is down, a target goes and another is damaged.
    node.terminate();
    fs::remove_dir_all(&targets[0]).unwrap();
    fs::remove_file(targets[1].join("VERSION")).unwrap();
    node.start();
    all_hold("v2");
    // And while it runs.
    fs::remove_dir_all(&targets[0]).unwrap();
    fs::rename(&targets[1], node.root().join("away")).unwrap();
    all_hold("v2");
    // By hand another version can be put there, but it does not last.
    assert_eq!(node.seed("app@v1", "other", &[]).ok().json()["version"], "v1");
    all_hold("v2");
}

#[test]
fn a_changed_document_is_followed_and_a_removed_target_left_as_it_is() {
    let releases = releases();
    let node = Node::start_with(&document(&releases, "{target: first}"));
    let (first, second) = (node.root().join("first"), node.root().join("second"));
    holds(&first, "v1");
    node.write_config("artifacts.yaml", &document(&releases, "{target: first, link: copy}, {target: second}"));
    holds(&second, "v1");
    let copied = |state: &Value| {
        let seed = seed_of(state, "first");
        seed["mode"] == "copy" && seed["state"] == "Ready"
    };
    node.wait_state("app", "a copy in the first", PATIENCE, copied);
    assert_eq!(fs::metadata(first.join("VERSION")).unwrap().nlink(), 1);

    node.write_config("artifacts.yaml", &document(&releases, "{target: second}"));
    let told = "target not declared any more: it stays as it is and is not followed";
    until("a word on the first", PATIENCE, || node.log_text().contains(told).then_some(()));
    releases.point_to("v2");
    holds(&second, "v2");
    holds(&first, "v1");
    let state = node.state("app");
    assert_eq!(
        (&seed_of(&state, "first")["declared"], &seed_of(&state, "second")["declared"]),
        (&json!(false), &json!(true))
    );
}

#[test]
fn ready_for_use_means_that_declared_targets_hold_the_current_version() {
    let releases = releases();
    let node = Node::builder()
        .document("app.yaml", &document(&releases, "{target: blocked}, {target: free}"))
        .document("bare.yaml", &releases.document_with("bare", true, ""))
        .start();
    // Made while the daemon cannot know: it is somebody's, and never replaced.
    let blocked = node.root().join("blocked");
    let ready = |query: &str| node.get(&format!("/readyz?{query}"));
    until("both to be used", PATIENCE, || (ready("artifact=app,bare").status == 200).then_some(()));
    assert_eq!(ready("artifact=app&artifact=bare").json()["ready"], true);
    fs::remove_dir_all(&blocked).unwrap();
    fs::create_dir(&blocked).unwrap();
    fs::write(blocked.join("mine"), "").unwrap();
    releases.point_to("v2");
    holds(&node.root().join("free"), "v2");
    let answer =
        until("readiness to go", PATIENCE, || Some(ready("artifact=app")).filter(|answer| answer.status == 503));
    let problem = answer.json();
    assert_eq!((&problem["ready"], &problem["notReady"][0]["name"]), (&json!(false), &json!("app")), "{problem}");
    let why = until("the reason", PATIENCE, || {
        let why = ready("artifact=bare,app").json()["notReady"][0]["why"].as_str()?.to_owned();
        why.contains("did not make").then_some(why)
    });
    assert!(why.starts_with("app is at v2, which blocked does not hold yet: "), "{why}");
    // The node as a whole is ready, and so is the other one; a wait for the version alone goes through.
    assert_eq!((ready("").status, ready("artifact=bare").status), (200, 200));
    assert_eq!(node.get("/v1/artifacts/app/wait?version=v2").status, 200);
    let waited = node.get("/v1/artifacts/app/wait?timeout=1s");
    assert_eq!(waited.status, 408, "{}", waited.text());
    assert!(waited.json()["detail"].as_str().unwrap().contains("blocked does not hold yet"), "{}", waited.text());
    for (query, status) in [("artifact=nosuch", 404), ("artifact=app,nosuch", 404), ("artefact=app", 400)] {
        assert_eq!(ready(query).status, status, "{query}");
    }
    fs::remove_dir_all(&blocked).unwrap();
    assert_eq!(node.get("/v1/artifacts/app/wait?timeout=50s").json()["current"], "v2");
    holds(&blocked, "v2");
    assert_eq!(ready("artifact=app").status, 200);
}
