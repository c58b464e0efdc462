//! Errors from the disk at the places that matter most, one by one: the step fails, what was there goes on, and all comes
//! right by itself. The campaign (`tests/faults/disk.rs`) does this at every place.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rustix::io::Errno;
use serde_json::{Value, json};

use crate::fixture::archive::app;
use crate::fixture::loopfs::LoopFs;
use crate::fixture::node::{Node, Over};
use crate::fixture::releases::Releases;
use crate::fixture::syscalls::{Fault, Supervisor, Watch, supervised};
use crate::fixture::tree::{Demand, assert_same};
use crate::fixture::{PATIENCE, calls, noise, scratch, until};

/// In which a node must come back once the cause is gone. It is also what tells a retry from a next refresh.
const LIMIT: Duration = Duration::from_secs(30);
/// Nodes side by side: they mostly wait until they try again.
const NODES: usize = 4;

/// What fails, on what below `seed.root`, and how.
const PLACES: [(&str, &str, Errno); 14] = [
    ("write", ".seedcache/staging/app/archive.part", Errno::NOSPC),
    ("create", ".seedcache/staging/app/version/tree/VERSION", Errno::DQUOT),
    ("write", ".seedcache/staging/app/version/tree/noise", Errno::IO),
    ("fsync", ".seedcache/staging/app/version/tree/noise", Errno::IO),
    ("fsync", ".seedcache/staging/app/version/tree/bin", Errno::IO),
    ("write", ".seedcache/staging/app/version/manifest.json", Errno::NOSPC),
    ("fsync", ".seedcache/staging/app/version/manifest.json", Errno::IO),
    ("fsync", ".seedcache/staging/app/version", Errno::IO),
    ("rename", ".seedcache/versions/app/v*", Errno::ROFS),
    ("fsync", ".seedcache/versions/app", Errno::IO),
    ("rename", ".seedcache/current/app", Errno::DQUOT),
    ("fsync", ".seedcache/current", Errno::IO),
    ("link", ".pod.seedcache-*/noise", Errno::IO),
    ("rename", "pod", Errno::ROFS),
];

fn fault(name: &'static str, path: &str, errno: Errno) -> Fault {
    Fault { name, path: path.to_owned(), after: 0, times: 1, errno: errno.raw_os_error() }
}

/// A node with `v1`, seeded at `pod`.
fn node(supervisor: &Supervisor) -> (Releases, Node, Watch) {
    let releases = Releases::with("v1");
    let seeds = "  seeds:\n    - {target: pod, link: hardlink}\n";
    let node = Node::start_with(&releases.document_with("app", true, seeds));
    node.wait_state("app", "the first seed", PATIENCE, |state| seeded(state, "v1"));
    let watch = supervisor.watch(&node.root().canonicalize().unwrap());
    (releases, node, watch)
}

fn seeded(state: &Value, version: &str) -> bool {
    let seed = &state["seeds"][0];
    state["current"] == version
        && seed["version"] == version
        && seed["state"] == "Ready"
        && state["lastError"].is_null()
}

fn holds(node: &Node, version: &str) {
    let seed = version.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    for tree in [node.tree("app", version), node.root().join("pod")] {
        assert_eq!(std::fs::read_to_string(tree.join("VERSION")).unwrap(), version);
        assert!(
            std::fs::read(tree.join("noise")).unwrap() == noise(seed, 500_000),
            "{} has other bytes",
            tree.display()
        );
    }
}

#[test]
fn an_update_that_meets_an_error_is_told_and_made_anew() {
    supervised(|supervisor| {
        std::thread::scope(|scope| {
            for worker in 0..NODES {
                scope.spawn(move || {
                    let (releases, node, watch) = node(supervisor);
                    for (at, place) in PLACES.iter().enumerate().skip(worker).step_by(NODES) {
                        update_through(&releases, &node, &watch, *place, &format!("v{}", at + 2));
                    }
                });
            }
        });
    });
}

fn update_through(
    releases: &Releases,
    node: &Node,
    watch: &Watch,
    (name, path, errno): (&'static str, &str, Errno),
    version: &str,
) {
    let before = node.state("app")["current"].as_str().unwrap().to_owned();
    releases.publish(version, &app(version, 500_000));
    releases.point_to(version);
    watch.forget();
    watch.fail(fault(name, path, errno));
    assert_eq!(node.post_json(Over::Socket, "/v1/artifacts/app/refresh", &json!({})).status, 202);
    let what = format!("{name} of {path} to be told as {errno:?}");
    let said = errno.to_string();
    let told = |text: &Value| text.as_str().is_some_and(|text| text.contains(said.split(" (").next().unwrap_or(&said)));
    let state = node.wait_state("app", &what, PATIENCE, |state| {
        told(&state["lastError"]) || (state["seeds"][0]["state"] == "Failed" && told(&state["seeds"][0]["reason"]))
    });
    assert!(state["current"] == *before || state["current"] == version, "{state}");
    assert_eq!(watch.heal(), 1);
    let file = node.get(&format!("/v1/artifacts/app/versions/{before}/files/VERSION"));
    assert_eq!((file.status, file.text()), (200, before));
    node.wait_state("app", &format!("{version} in spite of {name} of {path}"), LIMIT, |state| seeded(state, version));
    holds(node, version);
    let made = watch.calls();
    assert_eq!(calls::retried(&made), Vec::<String>::new());
    assert_eq!(calls::version_not_durable(&made, ".seedcache"), None);
}

fn pin(node: &Node, method: &str, version: &str) -> u16 {
    let (headers, body) = ([("Content-Type", "application/json")], json!({"version": version}).to_string());
    let sent = match method {
        "PUT" => node.try_request(Over::Socket, method, "/v1/artifacts/app/pin", &headers, Some(body.as_bytes())),
        _ => node.try_request(Over::Socket, method, "/v1/artifacts/app/pin", &[], None),
    };
    sent.unwrap().status
}

#[test]
fn a_pin_is_acknowledged_when_it_is_durable_and_not_before() {
    supervised(|supervisor| {
        let (_releases, mut node, watch) = node(supervisor);
        let file = ".seedcache/pins.json";
        for (name, path, errno, status) in [
            ("write", ".seedcache/.pins.json.seedcache-*", Errno::NOSPC, 507),
            ("fsync", ".seedcache/.pins.json.seedcache-*", Errno::IO, 500),
            ("rename", file, Errno::ROFS, 500),
            ("fsync", ".seedcache", Errno::IO, 500),
        ] {
            watch.forget();
            watch.fail(fault(name, path, errno));
            assert_eq!(pin(&node, "PUT", "v1"), status, "{name} of {path}");
            assert_eq!(watch.heal(), 1);
            assert_eq!(node.state("app")["pin"], Value::Null);
            // Refused, it may be on disk all the same, until it is written anew.
            until("the pins to be written anew", PATIENCE, || {
                let calls = watch.calls();
                let is_put = calls.iter().any(|call| call.name == "rename" && call.path == file && !call.failed);
                (is_put && calls::not_durable(&calls, file).is_none()).then_some(())
            });
        }
        assert_eq!(pin(&node, "DELETE", "v1"), 200);
        node.kill9();
        node.start();
        node.wait_ready("app");
        assert_eq!(node.state("app")["pin"], Value::Null);
        watch.forget();
        assert_eq!(pin(&node, "PUT", "v1"), 200);
        assert_eq!(calls::not_durable(&watch.calls(), file), None);
        assert!(watch.calls().iter().any(|call| call.name == "rename" && call.path == file));
    });
}

#[test]
fn a_removal_that_may_not_last_is_told_and_is_one_all_the_same() {
    supervised(|supervisor| {
        let (releases, node, watch) = node(supervisor);
        update_through(&releases, &node, &watch, ("fsync", ".seedcache/versions/app", Errno::IO), "v2");
        watch.fail(fault("fsync", ".seedcache/versions/app", Errno::IO));
        let remove =
            || node.try_request(Over::Socket, "DELETE", "/v1/artifacts/app/versions/v1", &[], None).unwrap().status;
        assert_eq!((remove(), watch.heal()), (500, 1));
        assert_eq!(node.state("app")["versions"].as_array().unwrap().len(), 1);
        assert_eq!(remove(), 404);
        // Nothing is left that would fail each time.
        node.cli(&["gc"]).ok();
    });
}

#[test]
fn a_switch_that_may_not_last_is_taken_back() {
    supervised(|supervisor| {
        let (releases, node, watch) = node(supervisor);
        watch.fail(Fault { times: usize::MAX, ..fault("fsync", ".seedcache/current", Errno::IO) });
        releases.publish("v2", &app("v2", 20_000));
        releases.point_to("v2");
        assert_eq!(node.post_json(Over::Socket, "/v1/artifacts/app/refresh", &json!({})).status, 202);
        let state = node.wait_state("app", "the error to be told", PATIENCE, |state| !state["lastError"].is_null());
        assert_eq!(state["current"], "v1");
        // It is tried again meanwhile.
        until("the link to say what is said", PATIENCE, || {
            let link = std::fs::read_link(node.store().join("current/app")).unwrap();
            (link == std::path::Path::new("../versions/app/v1/tree")).then_some(())
        });
        assert!(watch.heal() > 0);
        node.wait_state("app", "v2 to be current", LIMIT, |state| seeded(state, "v2"));
    });
}

#[test]
fn a_version_made_anew_that_may_not_last_gives_its_place_back() {
    supervised(|supervisor| {
        let (releases, node, watch) = node(supervisor);
        let here =
            || ["VERSION", "noise"].map(|file| node.get(&format!("/v1/artifacts/app/versions/v1/files/{file}")).status);
        let place = ".seedcache/versions/app/v*";
        watch.forget();
        watch.fail(Fault { times: usize::MAX, ..fault("fsync", ".seedcache/versions/app", Errno::IO) });
        let anew = releases.document_with("app", true, "  seeds:\n    - {target: pod, link: hardlink}\n");
        node.write_config(
            "artifacts.yaml",
            &anew.replace("{stripComponents: 1}", "{stripComponents: 1, exclude: [noise]}"),
        );
        node.wait_state("app", "the error to be told", PATIENCE, |state| !state["lastError"].is_null());
        until("it to be put there twice", PATIENCE, || {
            // Until it is known to last nobody gets it.
            assert_eq!(here(), [200, 200]);
            (watch.hits() >= 2).then_some(())
        });
        let failed = watch.heal();
        node.wait_state("app", "the other recipe's", LIMIT, |_| here() == [200, 404]);
        until("what was replaced to go", PATIENCE, || {
            let staging = std::fs::read_dir(node.store().join("staging")).unwrap();
            let drained = |entry: std::io::Result<std::fs::DirEntry>| {
                entry.unwrap().file_name().to_string_lossy().starts_with(".drain-")
            };
            (!staging.into_iter().any(drained)).then_some(())
        });
        node.cli(&["verify", "app"]).ok();
        let calls = watch.calls();
        let given_back = calls.iter().filter(|call| call.name == "rename" && call.from.as_deref() == Some(place));
        assert_eq!(given_back.count(), failed);
    });
}

#[test]
fn what_stands_where_a_version_belongs_gives_way() {
    let releases = Releases::with("v1");
    let node = Node::start_with(&releases.document());
    node.wait_ready("app");
    // As a publish leaves it that could neither be made durable nor taken back.
    let left = node.store().join("versions/app/v2");
    std::fs::create_dir_all(left.join("tree/half")).unwrap();
    releases.publish("v2", &app("v2", 20_000));
    releases.point_to("v2");
    node.cli(&["refresh", "app", "--wait"]).ok();
    assert_eq!(node.state("app")["current"], "v2");
    assert!(!left.join("tree/half").exists());
    node.cli(&["verify", "app"]).ok();
}

#[test]
fn what_could_not_be_collected_is_collected_soon() {
    supervised(|supervisor| {
        let releases = Releases::with("v1");
        let node = Node::start_with(&releases.document_with("app", true, "  retain: {versions: 1, for: 0s}\n"));
        node.wait_ready("app");
        let watch = supervisor.watch(&node.root().canonicalize().unwrap());
        watch.fail(fault("rename", ".seedcache/staging/.drain-*", Errno::ROFS));
        releases.publish("v2", &app("v2", 20_000));
        releases.point_to("v2");
        node.cli(&["refresh", "app", "--wait"]).ok();
        until("the collection to fail", PATIENCE, || (watch.hits() == 1).then_some(()));
        node.wait_state("app", "v1 to go", LIMIT, |state| state["versions"].as_array().unwrap().len() == 1);
    });
}

/// Seeds that nobody seeds again: one by hand, and a pod's directory.
#[test]
fn what_could_not_be_mended_after_a_repair_is_mended_once_it_can_be() {
    supervised(|supervisor| {
        let dir = scratch();
        let (root, pods) = (dir.path().join("root"), dir.path().join("pods"));
        std::fs::create_dir(&pods).unwrap();
        let releases = Releases::with("v1");
        let mut node = Node::builder().root(&root).document("app.yaml", &releases.document()).start();
        node.wait_ready("app");
        let targets = [root.join("hand"), pods.join("pod")];
        for target in &targets {
            let said = node.cli(&["seed", "app", target.to_str().unwrap(), "--link", "hardlink"]);
            assert_eq!(said.code, 0, "{}", said.all());
        }
        let watch = supervisor.watch(&dir.path().canonicalize().unwrap());
        for (path, errno, restart) in [
            ("root/hand/noise", Errno::IO, false),
            ("root/hand/noise", Errno::ROFS, true),
            ("pods/pod/noise", Errno::NOSPC, false),
            ("pods/pod/noise", Errno::DQUOT, true),
        ] {
            let stored = node.tree("app", "v1").join("noise");
            std::fs::set_permissions(&stored, std::fs::Permissions::from_mode(0o644)).unwrap();
            std::fs::write(&stored, "damaged").unwrap();
            watch.fail(Fault { times: usize::MAX, ..fault("rename", path, errno) });
            node.cli(&["verify", "app", "--repair"]);
            let told = |state: &Value| state["lastError"].as_str().is_some_and(|said| said.contains("is here again"));
            node.wait_state("app", "it to be told", PATIENCE, told);
            let damaged = node.store().join("quarantine/app/v1/version");
            until("the damaged bytes to take no room", PATIENCE, || (!damaged.exists()).then_some(()));
            if restart {
                node.kill9();
                node.start();
                node.wait_state("app", "it to be told again", PATIENCE, told);
            }
            assert!(watch.heal() > 0);
            node.wait_state("app", "all to be mended", LIMIT, |state| state["lastError"].is_null());
            for target in &targets {
                assert_same(&node.tree("app", "v1"), target, Demand::CONTENT);
            }
            assert_eq!(node.cli(&["verify", "app"]).code, 0);
            let quarantined = std::fs::read_dir(node.store().join("quarantine/app")).unwrap();
            let open = quarantined.filter(|place| place.as_ref().unwrap().path().join("repair.json").exists());
            assert_eq!(open.count(), 0);
        }
    });
}

/// Where the client swaps, what is swapped out of a target that stays where it is lies in it.
#[test]
fn what_a_client_could_not_remove_of_the_version_before_is_no_part_of_a_seed() {
    supervised(|supervisor| {
        let (releases, node, _watch) = node(supervisor);
        releases.publish("v2", &app("v2", 20_000));
        releases.point_to("v2");
        node.cli(&["refresh", "app", "--wait"]).ok();
        let other = LoopFs::tmpfs(16, 1000);
        let watch = supervisor.watch(&other.path().canonicalize().unwrap());
        let target = other.path().join("pod");
        let seed = |wish: &str| node.cli(&["seed", wish, target.to_str().unwrap(), "--swap", "inPlace"]);
        seed("app@v1").ok();
        watch.fail(fault("unlink", "pod/.seedcache-within.seedcache-*/bin", Errno::IO));
        let refused = seed("app@v2");
        assert!(refused.code != 0 && refused.stderr.contains("Input/output error"), "{}", refused.all());
        assert_eq!(watch.heal(), 1);
        seed("app@v2").ok();
        std::fs::remove_file(target.join(".seedcache-owned")).unwrap();
        assert_same(&node.tree("app", "v2"), &target, Demand::CONTENT);
    });
}

/// On another file system the daemon tries reflinks within the directory that it was passed; then the client writes the tree.
#[test]
fn what_a_fill_could_not_discard_is_no_part_of_a_seed() {
    supervised(|supervisor| {
        let (_releases, node, _watch) = node(supervisor);
        let other = LoopFs::tmpfs(16, 1000);
        let watch = supervisor.watch(&other.path().canonicalize().unwrap());
        for name in ["unlink", "chmod"] {
            let target = other.path().join(name);
            let temporary = format!(".{name}.seedcache-*/.seedcache-within.seedcache-*");
            watch.fail(fault(name, &temporary, Errno::IO));
            node.cli(&["seed", "app", target.to_str().unwrap()]).ok();
            assert_eq!(watch.heal(), 1, "{name}");
            assert_same(&node.tree("app", "v1"), &target, Demand::CONTENT);
        }
        // As long as it cannot be removed nothing is acknowledged.
        let target = other.path().join("held");
        let temporary = ".held.seedcache-*/.seedcache-within.seedcache-*";
        watch.fail(Fault { times: usize::MAX, ..fault("unlink", temporary, Errno::IO) });
        let refused = node.cli(&["seed", "app", target.to_str().unwrap(), "--wait", "1s"]);
        assert!(refused.code != 0 && !target.exists(), "{}", refused.all());
        assert!(watch.heal() > 1);
        node.cli(&["seed", "app", target.to_str().unwrap()]).ok();
        assert_same(&node.tree("app", "v1"), &target, Demand::CONTENT);
    });
}
