//! Changed documents take effect while the daemon runs, however they are changed; a bad one takes nothing away.

use std::fs;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::fixture::archive::app;
use crate::fixture::config_map::mount;
use crate::fixture::node::Node;
use crate::fixture::releases::Releases;
use crate::fixture::{PATIENCE, until};

/// What takes two seconds on a quiet machine; the poll, which would come to the rescue, takes a minute.
const SOON: Duration = Duration::from_secs(10);

/// An origin with three versions, of which the first is `latest`.
fn releases() -> Releases {
    let releases = Releases::with("v1");
    for version in ["v2", "v3"] {
        releases.publish(version, &app(version, 1_000));
    }
    releases
}

/// The document of an artifact at an exact version.
fn at(releases: &Releases, name: &str, version: &str) -> String {
    releases.document_with(name, true, &format!("  version: {version}\n"))
}

fn soon(node: &Node, artifact: &str, version: &str) -> Value {
    until(&format!("{artifact} to have {version} current"), SOON, || {
        // Not known at all until its document is taken up.
        let answer = node.get(&format!("/v1/artifacts/{artifact}"));
        (answer.status == 200).then(|| answer.json()).filter(|state| state["current"] == version)
    })
}

/// All that the node knows of, by name; whether a document declares it.
fn declared(node: &Node) -> Vec<(String, bool)> {
    let states = node.get_json("/v1/artifacts");
    let row = |state: &Value| (state["name"].as_str().unwrap().to_owned(), !state["observedGeneration"].is_null());
    states.as_array().unwrap().iter().map(row).collect()
}

fn refused_soon(node: &Node, artifact: &str, with: &str) -> Value {
    node.wait_state(artifact, "the refusal in lastError", SOON, |state| {
        state["lastError"].as_str().is_some_and(|error| error.contains(with))
    })
}

#[test]
fn a_config_map_that_is_swapped() {
    let releases = releases();
    let (one, two) = (at(&releases, "app", "v1"), at(&releases, "app", "v2"));
    let other = at(&releases, "other", "v3");
    let node = Node::builder().config_map().document("app.yaml", &one).start();
    let before = node.wait_ready("app");
    assert_eq!(before["current"], "v1");

    mount(node.config(), &[("app.yaml", &two)]);
    let changed = soon(&node, "app", "v2");
    assert_ne!(changed["observedGeneration"], before["observedGeneration"]);

    mount(node.config(), &[("app.yaml", &two), ("other.yaml", &other)]);
    soon(&node, "other", "v3");
    assert_eq!(node.state("app")["observedGeneration"], changed["observedGeneration"], "it was not touched");

    mount(node.config(), &[("other.yaml", &other)]);
    until("app to be declared no more", SOON, || {
        (declared(&node) == [("app".to_owned(), false), ("other".to_owned(), true)]).then_some(())
    });

    // The same text under another name of the file, many swaps on: the same generation.
    for text in [&one, &two, &one, &two] {
        mount(node.config(), &[("renamed.yaml", text), ("other.yaml", &other)]);
    }
    let again = soon(&node, "app", "v2");
    let generation = |state: &Value| state["observedGeneration"].clone();
    let again = if generation(&again).is_null() {
        node.wait_state("app", "declared again", SOON, |state| !generation(state).is_null())
    } else {
        again
    };
    assert_eq!(generation(&again), generation(&changed));
}

#[test]
fn files_changed_by_editors() {
    let releases = releases();
    let node = Node::start_with(&at(&releases, "app", "v1"));
    node.wait_ready("app");
    // By rename over the old one.
    node.write_config("artifacts.yaml", &at(&releases, "app", "v2"));
    soon(&node, "app", "v2");
    // The old one put aside first, then a new one written, as vi does.
    let file = node.config().join("artifacts.yaml");
    fs::rename(&file, node.config().join("artifacts.yaml~")).unwrap();
    fs::write(&file, at(&releases, "app", "v3")).unwrap();
    soon(&node, "app", "v3");
    // In place.
    fs::write(&file, at(&releases, "app", "v1")).unwrap();
    soon(&node, "app", "v1");
    // A further file, and its removal.
    fs::write(node.config().join("other.yaml"), at(&releases, "other", "v2")).unwrap();
    soon(&node, "other", "v2");
    fs::remove_file(node.config().join("other.yaml")).unwrap();
    node.wait_state("other", "declared no more", SOON, |state| state["observedGeneration"].is_null());
}

#[test]
fn a_directory_that_disappears_and_comes_back() {
    let releases = releases();
    let node = Node::start_with(&at(&releases, "app", "v1"));
    let before = node.wait_ready("app");
    let away = node.config().with_file_name("away");
    fs::rename(node.config(), &away).unwrap();
    until("a word on it in the log", SOON, || node.log_text().contains("documents cannot be read").then_some(()));
    let without = node.state("app");
    assert_eq!(without["observedGeneration"], before["observedGeneration"], "the last good documents go on");
    assert_eq!(without["current"], "v1");

    // Another directory under its name.
    let new = node.config().with_file_name("new");
    fs::create_dir(&new).unwrap();
    fs::write(new.join("artifacts.yaml"), at(&releases, "app", "v2")).unwrap();
    fs::rename(&new, node.config()).unwrap();
    soon(&node, "app", "v2");
    // Which is watched as the first one was.
    node.write_config("artifacts.yaml", &at(&releases, "app", "v3"));
    soon(&node, "app", "v3");

    // Removed for good, and made again bit by bit.
    fs::remove_dir_all(node.config()).unwrap();
    fs::create_dir(node.config()).unwrap();
    node.write_config("artifacts.yaml", &at(&releases, "app", "v1"));
    soon(&node, "app", "v1");
    // The first one itself comes back.
    fs::remove_dir_all(node.config()).unwrap();
    fs::write(away.join("artifacts.yaml"), at(&releases, "app", "v2")).unwrap();
    fs::rename(&away, node.config()).unwrap();
    soon(&node, "app", "v2");
}

#[test]
fn a_broken_document_keeps_the_last_good_one() {
    let releases = releases();
    let (good, other) = (at(&releases, "app", "v1"), at(&releases, "other", "v1"));
    let node = Node::builder().document("app.yaml", &good).document("other.yaml", &other).start();
    let before = node.wait_ready("app");
    node.wait_ready("other");
    // The name can be read in the first two, in the others nothing can.
    let unclosed = good.replace("metadata: {name: app}", "metadata: {name: app");
    let breaks: [(&str, &[u8], &str); 5] = [
        ("an unknown field", &[good.as_bytes(), b"  sha265: abc\n"].concat(), "sha265"),
        ("a bad value", &[good.as_bytes(), b"  refresh: often\n"].concat(), "often"),
        ("no YAML", unclosed.as_bytes(), "app.yaml"),
        ("no text", b"\xff\xfe\x00", "app.yaml"),
        ("cut short", &good.as_bytes()[..good.len() / 2], "app.yaml"),
    ];
    for (number, (what, broken, named)) in (2..).zip(breaks) {
        node.write_config_bytes("app.yaml", broken);
        let refused = refused_soon(&node, "app", named);
        assert_eq!((&refused["state"], &refused["current"]), (&json!("Ready"), &before["current"]), "{what}");
        assert_eq!(refused["observedGeneration"], before["observedGeneration"], "{what}");
        assert!(refused["lastError"].as_str().unwrap().contains("app.yaml"), "{what}: {refused}");
        assert_eq!(node.seed("app", &format!("pod{number}"), &[]).ok().json()["version"], "v1", "{what}");
        // The others go on, and are taken up.
        let version = ["v2", "v3"][number % 2];
        node.write_config("other.yaml", &at(&releases, "other", version));
        assert!(soon(&node, "other", version)["lastError"].is_null(), "{what}");
        // Mended.
        node.write_config("app.yaml", &good);
        let mended = node.wait_state("app", "no error", SOON, |state| state["lastError"].is_null());
        assert_eq!(mended["observedGeneration"], before["observedGeneration"], "{what}");
    }
}

#[test]
fn a_removed_document_keeps_its_versions() {
    let releases = releases();
    let mut node = Node::builder().document("app.yaml", &at(&releases, "app", "v1")).start();
    node.wait_ready("app");
    fs::remove_file(node.config().join("app.yaml")).unwrap();
    let removed = node.wait_state("app", "declared no more", SOON, |state| state["observedGeneration"].is_null());
    for _ in 0..2 {
        let state = node.state("app");
        assert_eq!((&state["current"], &state["versions"][0]["version"]), (&json!("v1"), &json!("v1")), "{removed}");
        assert_eq!(node.get("/v1/artifacts/app/versions/current/files/VERSION").text(), "v1");
        assert!(node.tree("app", "v1").join("VERSION").exists());
        node.restart();
    }
    // Declared again, nothing is fetched anew.
    let fetched = releases.origin.requests(&Releases::path("v1")).len();
    node.write_config("app.yaml", &at(&releases, "app", "v1"));
    node.wait_state("app", "declared again", SOON, |state| !state["observedGeneration"].is_null());
    assert_eq!(node.seed("app", "pod", &[]).ok().json()["version"], "v1");
    assert_eq!(releases.origin.requests(&Releases::path("v1")).len(), fetched);
}

#[test]
fn changed_settings_ask_for_a_restart() {
    let releases = releases();
    let node =
        Node::builder().settings("fetch: {concurrency: 2}").document("app.yaml", &at(&releases, "app", "v1")).start();
    node.wait_ready("app");
    let said = || node.log_text().matches("restart the daemon").count();
    assert_eq!(said(), 0);
    node.write_config("seedcache.yaml", "fetch: {concurrency: 3}");
    until("a word on the restart", SOON, || (said() == 1).then_some(()));
    // It is said once, not with each document that changes; and documents are still taken up.
    node.write_config("artifacts.yaml", "");
    node.write_config("app.yaml", &at(&releases, "app", "v2"));
    soon(&node, "app", "v2");
    assert_eq!(said(), 1);
    // Broken settings say where.
    node.write_config("seedcache.yaml", "fetch: {concurrencee: 3}");
    until("the refusal in the log", SOON, || node.log_text().contains("concurrencee").then_some(()));
    assert_eq!(node.state("app")["current"], "v2");
}

#[test]
fn what_changes_while_the_daemon_starts_is_taken_up() {
    let releases = releases();
    let mut node = Node::start_with(&at(&releases, "app", "v1"));
    node.wait_ready("app");
    for version in ["v2", "v1", "v3"] {
        node.terminate();
        std::thread::scope(|scope| {
            let (file, socket) = (node.config().join("artifacts.yaml"), node.socket());
            let (new, text) = (file.with_file_name("new"), at(&releases, "app", version));
            // It listens before it watches.
            scope.spawn(move || {
                until("the daemon to listen", PATIENCE, || UnixStream::connect(&socket).ok());
                fs::write(&new, text).unwrap();
                fs::rename(&new, &file).unwrap();
            });
            node.start();
        });
        soon(&node, "app", version);
    }
}
