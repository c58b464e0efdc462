//! What is kept and what goes: retention, leases, removal on demand, the budget.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::fixture::archive::app;
use crate::fixture::http::Response;
use crate::fixture::node::{Node, Over, version_row};
use crate::fixture::origin::Fault;
use crate::fixture::releases::Releases;
use crate::fixture::{PATIENCE, scratch, until};

const LEASE: &str = "/v1/artifacts/app/leases/job-1";

fn document(releases: &Releases, retain: &str) -> String {
    releases.document_with("app", true, &format!("  retain: {retain}\n"))
}

/// Has the node take versions one by one.
fn take(node: &Node, releases: &Releases, versions: &[&str], len: usize) {
    for version in versions {
        releases.publish(version, &app(version, len));
        releases.point_to(version);
        node.cli(&["refresh", "app", "--wait"]).ok();
        node.wait_state("app", version, PATIENCE, |state| state["current"] == *version);
    }
}

fn held(node: &Node) -> Vec<String> {
    let state = node.state("app");
    let versions = state["versions"].as_array().expect("an array").iter();
    let mut names: Vec<String> = versions.map(|row| row["version"].as_str().unwrap().to_owned()).collect();
    let on_disk: Vec<String> = std::fs::read_dir(node.store().join("versions/app"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    // A removal is in the state a moment after it is on disk.
    names.extend(on_disk);
    names.sort();
    names.dedup();
    names
}

fn ask(node: &Node, over: Over, method: &str, path: &str, body: Option<Value>) -> Response {
    let body = body.map(|body| body.to_string());
    let headers = [("Content-Type", "application/json")];
    node.try_request(over, method, path, &headers, body.as_deref().map(str::as_bytes)).unwrap()
}

fn fate(collected: &Value, version: &str) -> String {
    let mut fates = collected["fates"].as_array().expect("an array").iter();
    let fate = fates.find(|fate| fate["version"] == version).unwrap_or_else(|| panic!("no {version}: {collected}"));
    format!("{}: {}", fate["fate"].as_str().unwrap(), fate["why"].as_str().unwrap())
}

#[test]
fn retention_lets_go_by_number_and_age_and_says_why() {
    let releases = Releases::with("v1");
    let node = Node::start_with(&document(&releases, "{versions: 3, for: 1000h}"));
    node.wait_ready("app");
    take(&node, &releases, &["v2", "v3", "v4", "v5", "v6"], 20_000);
    assert_eq!(held(&node), ["v1", "v2", "v3", "v4", "v5", "v6"], "all are young");
    let linked = node.seed("app@v1", "linked", &["--link", "hardlink"]).ok().json();
    assert_eq!(linked["mode"], "hardlink");
    node.seed("app@v2", "copied", &["--link", "copy"]).ok();
    let row = version_row(&node.state("app"), "v1");
    assert_eq!(row["kept"], "seeded at linked");

    node.write_config("artifacts.yaml", &document(&releases, "{versions: 2, for: 0s}"));
    until("retention", PATIENCE, || (held(&node) == ["v1", "v5", "v6"]).then_some(()));
    let count = |name: &str| {
        let metrics = node.get("/metrics").text();
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{metrics}"));
        line.trim().parse::<f64>().unwrap()
    };
    // Counted a moment after the disk shows it.
    until("the count", PATIENCE, || (count("seedcache_store_collected_versions_total") == 3.0).then_some(()));
    assert!(count("seedcache_store_collected_bytes_total") > 3.0 * 20_000.0);
    let told = node.cli(&["gc", "--dry-run"]).ok().stdout;
    for line in ["app@v6: kept: current", "app@v5: kept: newest 2", "app@v1: kept: seeded at linked"] {
        assert!(told.contains(line), "{told}");
    }
    assert!(told.ends_with("0 B would be freed\n"), "{told}");
    // What went is known to be gone after a restart too, and the seeds still hold.
    node.cli(&["verify", "app"]).ok();
    assert_eq!(node.get("/v1/artifacts/app/versions/v3").status, 404);
    assert_eq!(std::fs::read_to_string(node.root().join("copied/VERSION")).unwrap(), "v2");
}

#[test]
fn a_dry_run_tells_and_changes_nothing() {
    let releases = Releases::with("v1");
    let node = Node::start_with(&document(&releases, "{versions: 1, for: 0s}"));
    node.wait_ready("app");
    let lease = ask(&node, Over::Socket, "PUT", LEASE, Some(json!({"version": "current", "ttl": "10m"})));
    assert_eq!(lease.status, 200, "{}", lease.text());
    let lease = lease.json();
    assert_eq!(
        (&lease["artifact"], &lease["version"], &lease["holder"]),
        (&json!("app"), &json!("v1"), &json!("job-1"))
    );
    take(&node, &releases, &["v2"], 20_000);

    let told = node.cli(&["gc", "--dry-run", "-o", "json"]).ok().json();
    let leased =
        format!("kept: leased by job-1 until {}", lease["expiresAt"].as_str().unwrap().split('.').next().unwrap());
    assert!(fate(&told, "v1").starts_with(&leased), "{told}");
    assert_eq!((fate(&told, "v2"), &told["freed"]), ("kept: current".to_owned(), &json!(0)));
    // A dry run is open to all, a real one is not.
    assert_eq!(ask(&node, Over::Tcp, "POST", "/v1/gc?dryRun=true", None).status, 200);
    assert_eq!(ask(&node, Over::Tcp, "POST", "/v1/gc", None).status, 403);
    assert_eq!(ask(&node, Over::Socket, "POST", "/v1/gc?dryrun=true", None).status, 400);

    assert_eq!(ask(&node, Over::Socket, "DELETE", LEASE, None).status, 204);
    until("the collection of v1", PATIENCE, || (held(&node) == ["v2"]).then_some(()));
    assert_eq!(ask(&node, Over::Socket, "DELETE", LEASE, None).status, 404);
}

#[test]
fn leases_live_over_kills_and_end() {
    let releases = Releases::with("v1");
    let mut node = Node::start_with(&document(&releases, "{versions: 1, for: 0s}"));
    node.wait_ready("app");
    let put = |node: &Node, over, path: &str, body| ask(node, over, "PUT", path, Some(body));
    assert_eq!(put(&node, Over::Socket, LEASE, json!({"version": "v1", "ttl": "10m"})).status, 200);
    take(&node, &releases, &["v2"], 20_000);
    node.kill9();
    node.start();
    node.wait_ready("app");
    node.cli(&["gc"]).ok();
    assert_eq!(held(&node), ["v1", "v2"]);
    let state = node.state("app");
    assert_eq!((&state["leases"][0]["holder"], &state["leases"][0]["version"]), (&json!("job-1"), &json!("v1")));
    assert!(state["leases"][0]["expiresAt"].is_string(), "{state}");

    // Renewed for less, it ends by itself.
    assert_eq!(put(&node, Over::Socket, LEASE, json!({"version": "v1", "ttl": "100ms"})).status, 200);
    until("the lease's end", PATIENCE, || {
        node.cli(&["gc"]).ok();
        (held(&node) == ["v2"]).then_some(())
    });
    assert_eq!(node.state("app")["leases"], json!([]));

    for (body, status) in [
        (json!({"version": "v9", "ttl": "1m"}), 404),
        (json!({"version": "v2", "ttl": "8d"}), 400),
        (json!({"version": "v2", "ttl": "200h"}), 400),
        (json!({"version": "v2", "ttl": "0s"}), 400),
        (json!({"version": "v2"}), 400),
        (json!({"version": "../x", "ttl": "1m"}), 400),
    ] {
        let answer = put(&node, Over::Socket, LEASE, body.clone());
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        answer.problem();
    }
    assert_eq!(
        put(&node, Over::Socket, "/v1/artifacts/app/leases/a%20b", json!({"version": "v2", "ttl": "1m"})).status,
        400
    );
    assert_eq!(
        put(&node, Over::Socket, "/v1/artifacts/none/leases/a", json!({"version": "current", "ttl": "1m"})).status,
        404
    );
    // Refused before any body is read.
    assert_eq!(ask(&node, Over::Tcp, "PUT", LEASE, None).status, 403);
    assert_eq!(ask(&node, Over::Tcp, "DELETE", LEASE, None).status, 403);
}

#[test]
fn removal_on_demand_respects_claims_unless_forced() {
    let dir = scratch();
    let token = dir.path().join("token");
    std::fs::write(&token, "t0ken\n").unwrap();
    let releases = Releases::with("v1");
    let node = Node::builder()
        .settings(&format!("listen: {{tokenFile: '{}'}}", token.display()))
        .document("app.yaml", &releases.document())
        .start();
    node.wait_ready("app");
    take(&node, &releases, &["v2", "v3"], 20_000);
    node.seed("app@v2", "linked", &["--link", "hardlink"]).ok();
    let of = |version: &str| format!("/v1/artifacts/app/versions/{version}");
    assert_eq!(ask(&node, Over::Tcp, "DELETE", &of("v1"), None).status, 401);
    for (version, why) in [("v3", "current"), ("current", "current"), ("v2", "seeded at linked")] {
        let refused = ask(&node, Over::Socket, "DELETE", &of(version), None);
        assert_eq!(refused.status, 409, "{}", refused.text());
        assert!(refused.problem()["detail"].as_str().unwrap().contains(why), "{}", refused.text());
    }
    let with_token = [("Authorization", "Bearer t0ken")];
    let removed = node.request("DELETE", &of("v1"), &with_token);
    assert_eq!((removed.status, &removed.json()["fate"]), (200, &json!("removed")), "{}", removed.text());
    assert_eq!(ask(&node, Over::Socket, "DELETE", &of("v1"), None).status, 404);
    let forced = ask(&node, Over::Socket, "DELETE", &format!("{}?force=true", of("v2")), None);
    assert_eq!(forced.status, 200, "{}", forced.text());
    assert_eq!(held(&node), ["v3"]);
    // The seed's files are its own names of the same inodes.
    assert_eq!(std::fs::read_to_string(node.root().join("linked/VERSION")).unwrap(), "v2");
}

#[test]
fn a_reader_that_began_before_gets_every_byte() {
    const LEN: usize = 30_000_000;
    let releases = Releases::with("v0");
    let node = Node::start_with(&document(&releases, "{versions: 1, for: 0s}"));
    node.wait_ready("app");
    take(&node, &releases, &["v1"], LEN);
    let wanted = std::fs::read(node.tree("app", "v1").join("noise")).unwrap();
    // More than socket buffers hold is left unread while the version goes.
    let mut stream = TcpStream::connect(node.url().trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /v1/artifacts/app/versions/v1/files/noise HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut got = vec![0; 4096];
    stream.read_exact(&mut got).unwrap();

    take(&node, &releases, &["v2"], 20_000);
    let told = node.cli(&["gc", "-o", "json"]).ok().json();
    assert_eq!(fate(&told, "v1"), "kept: being read");
    assert_eq!(ask(&node, Over::Socket, "DELETE", "/v1/artifacts/app/versions/v1", None).status, 200);
    assert_eq!(held(&node), ["v2"]);
    assert_eq!(node.get("/v1/artifacts/app/versions/v1/files/VERSION").status, 404);
    stream.read_to_end(&mut got).unwrap();
    let body = got.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert!(got[body..] == wanted, "{} of {} bytes", got.len() - body, wanted.len());
    until("its bytes to go with the last reader", PATIENCE, || {
        node.cli(&["gc"]).ok();
        let staged = std::fs::read_dir(node.store().join("staging")).unwrap();
        (!staged.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(".drain"))).then_some(())
    });
}

#[cfg(feature = "failpoints")]
#[test]
fn a_version_that_is_being_linked_is_removed_by_force_alone() {
    let releases = Releases::with("v1");
    // The first seed stops after its second entry.
    let node = &Node::builder()
        .document("app.yaml", &document(&releases, "{versions: 10, for: 48h}"))
        .env("FAILPOINTS", "seed.build.after-entry=1*off->sleep(600000)")
        .start();
    node.wait_ready("app");
    take(node, &releases, &["v2"], 20_000);
    let remove =
        |query: &str| ask(node, Over::Socket, "DELETE", &format!("/v1/artifacts/app/versions/v1{query}"), None);
    std::thread::scope(|scope| {
        // Never answered: the daemon ends before it.
        let seed = json!({"target": "pod", "version": "v1", "link": "hardlink"}).to_string();
        scope.spawn(move || {
            let headers = [("Content-Type", "application/json")];
            let _ = node.try_request(Over::Socket, "POST", "/v1/artifacts/app/seed", &headers, Some(seed.as_bytes()));
        });
        let is_linked = || {
            let tree = node.tree("app", "v1");
            let files = ["VERSION", "noise", "bin/run"].map(|file| std::fs::metadata(tree.join(file)).unwrap());
            files.iter().any(|meta| std::os::unix::fs::MetadataExt::nlink(meta) > 1).then_some(())
        };
        until("a file to be linked", PATIENCE, is_linked);
        let refused = remove("");
        assert_eq!((refused.status, held(node)), (409, vec!["v1".to_owned(), "v2".to_owned()]));
        assert!(refused.text().contains("version v1 of app is being seeded"), "{}", refused.text());
        assert_eq!(remove("?force=true").status, 200);
        let pid = rustix::process::Pid::from_raw(node.pid().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    });
}

#[cfg(feature = "failpoints")]
#[test]
fn nobody_waits_for_the_removal_of_what_an_earlier_daemon_left() {
    let releases = Releases::with("v1");
    let mut node = Node::builder()
        .document("app.yaml", &document(&releases, "{versions: 10, for: 48h}"))
        .env("FAILPOINTS", "store.drain.before-removal=sleep(600000)")
        .start();
    node.wait_ready("app");
    node.terminate();
    std::fs::create_dir_all(node.store().join("staging/.drain-left/tree")).unwrap();
    node.start();
    node.wait_ready("app");
    take(&node, &releases, &["v2"], 20_000);
    node.cli(&["gc", "--dry-run"]).ok();
    assert!(node.store().join("staging/.drain-left").exists());
}

#[test]
fn the_budget_frees_the_oldest_and_refuses_what_cannot_fit() {
    let releases = Releases::with("v1");
    releases.publish("v1", &app("v1", 1_000_000));
    let node = Node::builder()
        .settings("store: {maxBytes: 5000000, minFree: 0}")
        .document("app.yaml", &document(&releases, "{versions: 10, for: 1000h}"))
        .start();
    node.wait_ready("app");
    take(&node, &releases, &["v2", "v3"], 1_000_000);
    assert_eq!(held(&node), ["v1", "v2", "v3"]);
    // Archive and tree of the next one need 2 MB of the 5.
    take(&node, &releases, &["v4"], 1_000_000);
    let after = held(&node);
    assert!(!after.contains(&"v1".to_owned()) && after.contains(&"v4".to_owned()), "{after:?}");
    assert!(node.log_text().contains("room is needed"));

    releases.publish("v5", &app("v5", 4_000_000));
    releases.point_to("v5");
    let refused = node.cli(&["refresh", "app", "--wait"]).exits(1);
    for said in ["store.maxBytes", "space", "larger disk"] {
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
    assert_eq!(node.state("app")["current"], "v4");
    // Room was made for one as big as the one before it; that it is bigger costs nothing more.
    let after = held(&node);
    assert!(after.contains(&"v3".to_owned()), "{after:?}");
    node.cli(&["refresh", "app", "--wait"]).exits(1);
    assert_eq!(held(&node), after, "what cannot fit anyway costs no version");
    assert!(!node.store().join("staging/app/archive.part").exists());
    assert_eq!(node.get("/v1/artifacts/app/versions/current/files/VERSION").text(), "v4");

    // One that tells nothing of its size before it is unpacked is stopped while it is.
    let swelling = crate::fixture::archive::Archive::new()
        .file("app/noise", 0o644, &crate::fixture::noise(9, 200_000))
        .file("app/zeros", 0o644, &vec![0; 30_000_000])
        .tgz();
    releases.publish("v6", &swelling);
    releases.point_to("v6");
    let refused = node.cli(&["refresh", "app", "--wait"]).exits(1);
    assert!(refused.stderr.contains("space"), "{}", refused.stderr);
    assert_eq!(node.state("app")["current"], "v4");
    assert!(!node.store().join("staging/app/version").exists());

    take(&node, &releases, &["v7"], 1_000_000);
    let log = node.log_text();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn quarantine_gives_way_before_versions_do() {
    let releases = Releases::with("v1");
    releases.publish("v1", &app("v1", 1_000_000));
    let node = Node::builder()
        .settings("store: {maxBytes: 5000000, minFree: 0}")
        .document("app.yaml", &document(&releases, "{versions: 10, for: 1000h}"))
        .start();
    node.wait_ready("app");
    take(&node, &releases, &["v2"], 1_000_000);
    releases.publish_with_sum("v3", &app("v3", 1_000_000), &"0".repeat(64));
    releases.point_to("v3");
    node.cli(&["refresh", "app", "--wait"]).exits(1);
    let bad = node.store().join("quarantine/app/.download");
    assert!(bad.exists(), "it fits beside the two versions");
    take(&node, &releases, &["v4"], 1_000_000);
    assert!(!bad.exists());
    assert_eq!(held(&node), ["v1", "v2", "v4"]);
}

#[test]
fn a_download_left_to_be_resumed_gives_way_after_versions_do() {
    // A stall, since what a reset connection still held would be lost.
    let (releases, others) = (Releases::with("v1"), Releases::with("v1"));
    releases.publish("v1", &app("v1", 1_000_000));
    others.publish("v1", &app("v1", 2_000_000));
    others.origin.once(&Releases::path("v1"), Fault::StallAfter(1_900_000));
    others.origin.always(&Releases::path("v1"), Fault::Status(503, Some(3600)));
    let node = Node::builder()
        .settings("store: {maxBytes: 6000000, minFree: 0}\nfetch: {stallTimeout: 1s}")
        .document("app.yaml", &document(&releases, "{versions: 10, for: 1000h}"))
        .start();
    node.wait_ready("app");
    // One after the other: two at once would compete for the room.
    node.write_config("other.yaml", &others.document_with("other", true, ""));
    until("the document to be read", PATIENCE, || (node.get("/v1/artifacts/other").status == 200).then_some(()));
    let failed = |state: &Value| state["lastError"].as_str().is_some_and(|error| error.contains("503"));
    node.wait_state("other", "a failure", PATIENCE, failed);
    let part = node.store().join("staging/other/archive.part");
    assert!(part.exists());
    // The only version is current, and archive and tree of the next one need 4.1 MB. Slowly, so that its room is asked for
    // while it comes.
    let slow = Fault::Trickle { bytes: 50_000, pause: Duration::from_millis(10) };
    releases.publish("v2", &app("v2", 2_000_000));
    releases.origin.always(&Releases::path("v2"), slow);
    releases.point_to("v2");
    node.cli(&["refresh", "app", "--wait"]).ok();
    assert!(!part.exists());
}

#[test]
fn downloads_of_documents_that_are_gone_are_not_kept() {
    let releases = Releases::with("v1");
    releases.origin.always(&Releases::path("v1"), Fault::StallAfter(100_000));
    let node =
        Node::builder().settings("fetch: {stallTimeout: 1h}").document("artifacts.yaml", &releases.document()).start();
    let staged = node.store().join("staging/app");
    until("the download to begin", PATIENCE, || staged.join("archive.part").exists().then_some(()));
    node.write_config("artifacts.yaml", "");
    until("its part to go", PATIENCE, || {
        node.cli(&["gc"]).ok();
        (!staged.exists()).then_some(())
    });
}
