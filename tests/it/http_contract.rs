//! The endpoint's other half: states, waiting, readiness, who may change what, metrics, shutting down.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::json;

use crate::fixture::archive::app;
use crate::fixture::node::{Node, Over};
use crate::fixture::origin::Fault;
use crate::fixture::releases::Releases;
use crate::fixture::{PATIENCE, scratch, sha256, until};

const WAIT: &str = "/v1/artifacts/app/wait";

#[test]
fn artifacts_are_listed_with_their_states() {
    let releases = Releases::with("v1");
    let second = releases.document_with("second", true, "");
    let node = Node::start_with(&format!("{}---\n{second}", releases.document()));
    node.wait_ready("app");
    node.wait_ready("second");
    let listed = node.get_json("/v1/artifacts");
    let names: Vec<_> = listed.as_array().expect("an array").iter().map(|artifact| &artifact["name"]).collect();
    assert_eq!(names, ["app", "second"]);
    assert_eq!(listed[0]["state"], "Ready");

    let manifest = node.get_json("/v1/artifacts/app/versions/current");
    assert_eq!((&manifest["artifact"], &manifest["version"]), (&json!("app"), &json!("v1")));
    let entries = manifest["entries"].as_array().unwrap();
    let file = entries.iter().find(|entry| entry["path"] == "VERSION").unwrap();
    assert_eq!((&file["type"], &file["size"]), (&json!("file"), &json!(2)));
    assert_eq!(file["sha256"], sha256(b"v1"));
}

#[test]
fn what_is_not_there_is_a_problem_that_says_so() {
    let releases = Releases::with("v1");
    let node = Node::start_with(&releases.document());
    node.wait_ready("app");
    for path in [
        "/v1/artifacts/nosuch",
        "/v1/artifacts/nosuch/wait",
        "/v1/artifacts/nosuch/versions/v1/tree.tar",
        "/v1/artifacts/app/versions/v9",
        "/v1/artifacts/app/versions/v9/files/VERSION",
        "/v1/artifacts/app/versions/v1/files/none",
        "/no/such/route",
    ] {
        let answer = node.get(path);
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
        answer.problem();
    }
    let answer = node.request("DELETE", "/v1/artifacts/app/versions/v1/files/VERSION", &[]);
    assert_eq!(answer.status, 405);
}

#[test]
fn waiting_ends_with_readiness_or_with_time() {
    let releases = Releases::with("v1");
    let path = Releases::path("v1");
    releases.origin.always(&path, Fault::StallAfter(1_000));
    // Patient, so that the stalled download is not tried again.
    let node = Node::builder().settings("fetch: {stallTimeout: 1h}").document("app.yaml", &releases.document()).start();
    let late = node.get(&format!("{WAIT}?timeout=1s"));
    assert_eq!(late.status, 408, "{}", late.text());
    late.problem();
    let state = node.state("app");
    assert_eq!(state["state"], "Warming", "{state}");
    assert_eq!(state["progress"]["phase"], "downloading", "{state}");

    // Many wait, one download is made.
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..200).map(|_| scope.spawn(|| node.get(&format!("{WAIT}?timeout=100s")))).collect();
        releases.origin.heal(&path);
        for waiter in waiting {
            let ready = waiter.join().unwrap();
            assert_eq!((ready.status, &ready.json()["current"]), (200, &json!("v1")));
        }
    });
    let gets = releases.origin.requests(&path).into_iter().filter(|request| request.method == "GET").count();
    assert_eq!(gets, 1);
    assert_eq!(node.get(&format!("{WAIT}?version=v1")).status, 200);
    assert_eq!(node.get(&format!("{WAIT}?version=v1&timeout=soon")).status, 400);
}

#[test]
fn waiting_ends_with_the_failure() {
    let releases = Releases::with("v1");
    releases.publish_with_sum("v1", &app("v1", 500_000), &sha256(b"else"));
    let node = Node::start_with(&releases.document());
    let failed = node.get(&format!("{WAIT}?timeout=100s"));
    assert!(failed.status >= 500, "{}", failed.text());
    let detail = failed.problem()["detail"].to_string();
    assert!(detail.contains(&sha256(b"else")), "{detail}");
    assert_eq!(node.state("app")["state"], "Failed");
    // A first try that has failed does not keep the node from being ready, which says so.
    let ready = node.get("/readyz");
    assert_eq!(ready.status, 200);
    assert!(ready.text().contains("app"), "{}", ready.text());
}

#[test]
fn ready_comes_after_the_first_try() {
    let releases = Releases::with("v1");
    releases.origin.always("/latest", Fault::StallAfter(0));
    let node = Node::start_with(&releases.document());
    let not_yet = node.get("/readyz");
    assert_eq!(not_yet.status, 503);
    assert!(not_yet.text().contains("app"), "{}", not_yet.text());
    assert_eq!(node.get("/healthz").status, 200);
    releases.origin.heal("/latest");
    until("readiness", PATIENCE, || (node.get("/readyz").status == 200).then_some(()));
    assert_eq!(node.state("app")["state"], "Ready");
}

#[test]
fn over_tcp_only_declared_targets_are_seeded() {
    let releases = Releases::with("v1");
    let node = Node::start_with(&releases.document_with("app", true, "  seeds: [{target: declared}]\n"));
    node.wait_ready("app");
    let seed = |over, target: &str| node.post_json(over, "/v1/artifacts/app/seed", &json!({"target": target}));
    let declared = seed(Over::Tcp, "declared");
    assert_eq!((declared.status, &declared.json()["version"]), (200, &json!("v1")));
    let refused = seed(Over::Tcp, "undeclared");
    assert_eq!(refused.status, 403, "{}", refused.text());
    refused.problem();
    assert!(!node.root().join("undeclared").exists());
    let allowed = seed(Over::Socket, "undeclared");
    assert_eq!((allowed.status, &allowed.json()["artifact"]), (200, &json!("app")));
    assert!(node.root().join("undeclared/VERSION").exists());
    let unknown = node.post_json(Over::Socket, "/v1/artifacts/app/seed", &json!({"target": "x", "lnik": "copy"}));
    assert!((400..500).contains(&unknown.status), "{}", unknown.text());
    assert!(unknown.problem()["detail"].to_string().contains("lnik"));
}

#[test]
fn other_changes_over_tcp_want_the_token() {
    let releases = Releases::with("v1");
    let refresh = |node: &Node, headers: &[(&str, &str)]| node.request("POST", "/v1/artifacts/app/refresh", headers);
    let without = Node::start_with(&releases.document());
    assert_eq!(refresh(&without, &[]).status, 403);
    drop(without);

    let dir = scratch();
    let file = dir.path().join("token");
    std::fs::write(&file, "t0ken\n").unwrap();
    let settings = format!("listen: {{tokenFile: '{}'}}", file.display());
    let node = Node::builder().settings(&settings).document("app.yaml", &releases.document()).start();
    let unauthorised = refresh(&node, &[]);
    assert_eq!(unauthorised.status, 401);
    assert!(unauthorised.header("www-authenticate").is_some_and(|scheme| scheme.starts_with("Bearer")));
    assert_eq!(refresh(&node, &[("Authorization", "Bearer wrong")]).status, 401);
    let accepted = refresh(&node, &[("Authorization", "Bearer t0ken")]);
    assert!((200..300).contains(&accepted.status), "{}", accepted.text());
    let meant_for_another = node.post_json(Over::Socket, "/v1/artifacts/app/refresh", &json!({"version": "v1"}));
    assert_eq!(meant_for_another.status, 400, "{}", meant_for_another.text());
    let by_socket = node.post_json(Over::Socket, "/v1/artifacts/app/refresh", &json!({}));
    assert!((200..300).contains(&by_socket.status), "{}", by_socket.text());
    assert!(!node.log_text().contains("t0ken"), "a secret is in the log");
}

#[test]
fn metrics_are_prometheus_text() {
    let releases = Releases::with("v1");
    let node = Node::start_with(&releases.document());
    node.wait_ready("app");
    let metrics = node.get("/metrics");
    assert_eq!(metrics.status, 200);
    let text = metrics.text();
    assert!(text.contains("seedcache_build_info{"), "{text}");
    let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(!samples.is_empty());
    for sample in samples {
        let (name, value) = sample.rsplit_once(' ').unwrap_or_else(|| panic!("{sample}"));
        assert!(name.starts_with("seedcache_"), "{sample}");
        value.parse::<f64>().unwrap_or_else(|e| panic!("{sample}: {e}"));
    }
}

#[test]
fn what_is_in_flight_is_finished_before_the_end() {
    // Larger than what sockets buffer, so that the answer is still under way.
    let size = 64_000_000;
    let releases = Releases::with("v1");
    releases.publish("v1", &app("v1", size));
    let mut node = Node::start_with(&releases.document());
    node.wait_ready("app");
    let address = node.url();
    let mut stream = TcpStream::connect(address.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request =
        "GET /v1/artifacts/app/versions/v1/files/noise HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = vec![0; 1024];
    stream.read_exact(&mut answer).unwrap();
    node.ask_to_end();
    // New connections are refused from now on, the old one goes on.
    until("the listener to close", PATIENCE, || {
        TcpStream::connect(address.trim_start_matches("http://")).is_err().then_some(())
    });
    stream.read_to_end(&mut answer).unwrap();
    let body = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(answer.len() - body, size);
    let status = node.wait_end();
    assert!(status.success(), "{status}");
}

#[test]
fn a_document_that_changes_is_taken_up() {
    let releases = Releases::with("v1");
    let node = Node::start_with(&releases.document());
    let before = node.wait_ready("app")["observedGeneration"].clone();
    releases.publish("v2", &app("v2", 1_000));
    let edited = releases.document_with("app", true, "  version: v2\n");
    node.write_config("artifacts.yaml", &edited);
    let state = node.wait_state("app", "v2 is current", PATIENCE, |state| state["current"] == "v2");
    assert_ne!(state["observedGeneration"], before);
    // A bad edit leaves what was.
    node.write_config("artifacts.yaml", &edited.replace("kind: Artifact", "kind: Artefact"));
    until("the refusal in the log", PATIENCE, || node.log_text().contains("Artefact").then_some(()));
    assert_eq!(node.state("app")["current"], "v2");
}
