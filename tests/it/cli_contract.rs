//! The command line: exit codes, the fields of `-o json`, and lines for people.

use std::fs;

use regex::Regex;

use crate::fixture::archive::app;
use crate::fixture::cli::seedcache;
use crate::fixture::node::Node;
use crate::fixture::origin::Fault;
use crate::fixture::releases::Releases;
use crate::fixture::scratch;

fn ready() -> (Releases, Node) {
    let releases = Releases::with("v1");
    let node = Node::start_with(&releases.document());
    node.wait_ready("app");
    (releases, node)
}

#[test]
fn wrong_usage_is_2() {
    for args in [&["seed"][..], &["no-such-command"], &["seed", "app", "pod", "--link", "magic"], &[]] {
        let output = seedcache(args).exits(2);
        assert!(output.stderr.contains("--help"), "{args:?}: {}", output.stderr);
    }
    seedcache(&["--help"]).ok();
    seedcache(&["--version"]).ok();
}

#[test]
fn what_is_not_there_is_3() {
    let (_releases, node) = ready();
    let not_found = node.seed("nosuch", "pod", &[]).exits(3);
    assert!(not_found.stderr.contains("nosuch"), "{}", not_found.stderr);
    let not_found = node.seed("app@v9", "pod", &[]).exits(3);
    assert!(not_found.stderr.contains("v9"), "{}", not_found.stderr);
    for args in [&["status", "nosuch"][..], &["versions", "nosuch"], &["refresh", "nosuch"], &["verify", "nosuch"]] {
        node.cli(args).exits(3);
    }
}

#[test]
fn waiting_too_long_is_4() {
    let releases = Releases::with("v1");
    releases.origin.always(&Releases::path("v1"), Fault::StallAfter(1_000));
    let node = Node::start_with(&releases.document());
    let timed_out = node.seed("app", "pod", &["--wait", "1s"]).exits(4);
    assert!(timed_out.stderr.contains("app"), "{}", timed_out.stderr);
    assert!(!node.root().join("pod").exists());
    releases.origin.heal(&Releases::path("v1"));
    node.seed("app", "pod", &["--wait", "2m"]).ok();
}

#[test]
fn no_daemon_is_5() {
    let dir = scratch();
    let nobody = format!("unix://{}/none.sock", dir.path().display());
    let unreachable = seedcache(&["status", "--server", &nobody]).exits(5);
    assert!(unreachable.stderr.contains("none.sock"), "{}", unreachable.stderr);
    let port = crate::fixture::system::free_port();
    seedcache(&["status", "--server", &format!("http://127.0.0.1:{port}")]).exits(5);
}

#[test]
fn the_server_can_be_asked_over_tcp() {
    let (_releases, node) = ready();
    let listed = seedcache(&["--server", &node.url(), "status"]).ok();
    assert!(listed.stdout.contains("app"), "{}", listed.stdout);
}

#[test]
fn seed_says_what_it_did() {
    let (_releases, node) = ready();
    let target = node.root().join("pod");
    let line = node.cli(&["seed", "app", target.to_str().unwrap()]).ok().stdout;
    let form =
        Regex::new(r"^app@v1 -> (\S+): (reflink|hard link|copy), 3 files, \S+ \S+, \S+ m?s(; no reflink: .+)?\n$")
            .unwrap();
    let found = form.captures(&line).unwrap_or_else(|| panic!("{line:?}"));
    assert_eq!(&found[1], target.to_str().unwrap());
    let report = node.seed("app", "other", &[]).ok().json();
    let fields =
        ["artifact", "bytes", "changed", "digest", "elapsedMs", "files", "mode", "reason", "target", "version"];
    let mut said: Vec<&String> = report.as_object().unwrap().keys().collect();
    said.sort();
    assert_eq!(said, fields);
    assert!(report["bytes"].as_u64().is_some_and(|bytes| bytes > 500_000), "{report}");
}

#[test]
fn status_tells_people_and_machines() {
    let (releases, node) = ready();
    let table = node.cli(&["status"]).ok().stdout;
    assert!(table.lines().any(|line| ["app", "Ready", "v1"].iter().all(|word| line.contains(word))), "{table}");
    let state = node.cli(&["status", "app", "-o", "json"]).ok().json();
    for field in ["name", "state", "current", "latest", "pin", "versions", "progress", "lastError", "nextTry", "seeds"]
    {
        assert!(state.as_object().unwrap().contains_key(field), "no {field}: {state}");
    }
    for field in ["version", "digest", "bytes", "publishedAt", "state", "kept"] {
        assert!(state["versions"][0].as_object().unwrap().contains_key(field), "no {field}: {state}");
    }
    let published = state["versions"][0]["publishedAt"].as_str().unwrap();
    published.parse::<jiff::Timestamp>().unwrap();
    let all = node.cli(&["status", "-o", "json"]).ok().json();
    assert_eq!(all[0]["name"], "app", "{all}");

    releases.publish("v2", &app("v2", 1_000));
    releases.point_to("v2");
    let asked = node.cli(&["refresh", "app", "-o", "json"]).ok().json();
    assert_eq!(asked["name"], "app", "{asked}");
    let refreshed = node.cli(&["refresh", "app", "--wait", "-o", "json"]).ok().json();
    assert!(refreshed["current"].is_string(), "{refreshed}");
    node.cli(&["refresh", "app", "--wait"]).ok();
    let versions = node.cli(&["versions", "app"]).ok().stdout;
    assert!(["v1", "v2"].iter().all(|version| versions.contains(version)), "{versions}");
}

#[test]
fn verify_finds_what_was_changed() {
    let (_releases, node) = ready();
    node.cli(&["verify"]).ok();
    node.cli(&["verify", "app@v1"]).ok();
    let file = node.tree("app", "v1").join("bin/run");
    let mut bytes = fs::read(&file).unwrap();
    bytes[0] ^= 1;
    // Tests run as the store's owner, who may write after chmod.
    let writable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(&file, writable).unwrap();
    fs::write(&file, bytes).unwrap();
    let found = node.cli(&["verify", "app"]).exits(1);
    assert!(found.all().contains("bin/run"), "{}", found.all());
}

#[test]
fn check_names_file_line_and_field() {
    let releases = Releases::with("v1");
    let dir = scratch();
    let check = |yaml: &str| {
        fs::write(dir.path().join("app.yaml"), yaml).unwrap();
        seedcache(&["check", dir.path().to_str().unwrap()])
    };
    let good = releases.document();
    check(&good).ok();
    let refused = |yaml: String, said: &[&str]| {
        let output = check(&yaml).exits(1);
        for said in said {
            assert!(output.all().contains(said), "{said:?} is not in {}", output.all());
        }
    };
    let line = |yaml: &str, field: &str| 1 + yaml.lines().position(|line| line.contains(field)).unwrap();
    let unknown = format!("{good}  keepArchve: true\n");
    refused(unknown.clone(), &["app.yaml", "keepArchve", &format!(":{}", line(&unknown, "keepArchve"))]);
    let bad = format!("{good}  refresh: soon\n");
    refused(bad.clone(), &["app.yaml", "refresh", "soon", &format!(":{}", line(&bad, "refresh"))]);
    refused(format!("{good}---\n{good}"), &["app.yaml", "app"]);
    // One bad document is told of, and so is the next.
    refused(format!("{unknown}---\n{}", bad.replace("name: app", "name: other")), &["keepArchve", "soon"]);
}

#[test]
fn one_bad_document_does_not_take_the_others_down() {
    let releases = Releases::with("v1");
    let good = releases.document();
    let bad = releases.document_with("bad", true, "  refresh: soon\n");
    let node = Node::builder().document("good.yaml", &good).document("bad.yaml", &bad).start();
    node.wait_ready("app");
    assert!(node.log_text().contains("bad.yaml"), "the refusal is logged");
}

#[test]
fn the_schema_is_one() {
    let schema = seedcache(&["schema"]).ok().json();
    assert!(schema["$schema"].is_string(), "{schema}");
    assert!(schema.to_string().contains("stripComponents"));
}
