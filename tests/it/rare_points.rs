//! Fail points that only damage, or an error of the disk, leads to: a daemon that dies at one of them is well again after.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use rustix::io::Errno;
use seedcache::fs::RARE_FAIL_POINTS;
use serde_json::Value;

use crate::fixture::archive::app;
use crate::fixture::node::Node;
use crate::fixture::releases::Releases;
use crate::fixture::syscalls::{Fault, supervised};
use crate::fixture::{PATIENCE, until};

/// Where the bytes of a damaged version are let go of that is here again, and cannot be mended everywhere yet.
const LETS_GO: &str = "store.quarantine.after-here";

fn armed(point: &str) -> String {
    format!("{point}=return")
}

fn killed(status: ExitStatus) -> bool {
    status.signal() == Some(9)
}

/// Points that a start gets to, with the damage that leads there.
fn damage_for(point: &str) -> Option<(&'static str, &'static [u8])> {
    match point.rsplit_once('.').unwrap().0 {
        "store.index" => Some(("index/conf", b"no configuration of sled's")),
        "store.json" => Some(("leases.json", b"{\"leases\": [")),
        _ => None,
    }
}

#[test]
fn a_start_that_dies_while_it_puts_something_aside_is_made_up_for_by_the_next() {
    let releases = Releases::with("v1");
    let mut node = Node::start_with(&releases.document());
    node.wait_ready("app");
    node.cli(&["pin", "app", "v1"]).ok();
    let points = RARE_FAIL_POINTS.iter().filter_map(|point| Some((point, damage_for(point)?)));
    for (point, (file, bytes)) in points {
        assert!(node.terminate().success());
        std::fs::write(node.store().join(file), bytes).unwrap();
        let mut dies = node.spawn_with(Some(("FAILPOINTS", &armed(point))));
        let status = until(&format!("{point} to be reached"), PATIENCE, || dies.try_wait().unwrap());
        assert!(killed(status), "{point}: {status}");
        node.start();
        node.wait_ready("app");
        let state = node.state("app");
        assert_eq!((&state["current"], &state["pin"]), (&Value::from("v1"), &Value::from("v1")), "{point}");
        node.cli(&["verify", "app"]).ok();
    }
    assert!(node.store().join("leases.json.unreadable").exists());
    assert!(node.store().join("quarantine/.index").exists());
}

#[test]
fn a_publish_that_is_killed_while_it_is_taken_back_is_whole_or_not_there() {
    let mut points: Vec<&str> = RARE_FAIL_POINTS.iter().copied().filter(|point| damage_for(point).is_none()).collect();
    points.retain(|point| *point != LETS_GO);
    assert!(points.iter().all(|point| point.ends_with("-taking-back")), "{points:?}");
    supervised(|supervisor| {
        for point in points {
            let releases = Releases::with("v1");
            let mut node =
                Node::builder().document("app.yaml", &releases.document()).env("FAILPOINTS", &armed(point)).start();
            node.wait_ready("app");
            let watch = supervisor.watch(&node.root().canonicalize().unwrap());
            let path = ".seedcache/versions/app".to_owned();
            watch.fail(Fault { name: "fsync", path, after: 0, times: 1, errno: Errno::IO.raw_os_error() });
            releases.publish("v2", &app("v2", 20_000));
            releases.point_to("v2");
            node.cli(&["refresh", "app"]).ok();
            let status = node.wait_end();
            assert!(killed(status), "{point}: {status}");
            assert_eq!(watch.heal(), 1);
            node.start();
            node.wait_state("app", "the version after it was taken back", PATIENCE, |state| state["current"] == "v2");
            node.cli(&["verify", "app"]).ok();
        }
    });
}

#[test]
fn a_repair_that_is_killed_while_it_lets_go_of_the_damaged_bytes_is_gone_on_with() {
    supervised(|supervisor| {
        let releases = Releases::with("v1");
        let mut node =
            Node::builder().document("app.yaml", &releases.document()).env("FAILPOINTS", &armed(LETS_GO)).start();
        node.wait_ready("app");
        node.cli(&["seed", "app", node.root().join("hand").to_str().unwrap(), "--link", "hardlink"]).ok();
        let watch = supervisor.watch(&node.root().canonicalize().unwrap());
        let (path, errno) = ("hand/noise".to_owned(), Errno::IO.raw_os_error());
        watch.fail(Fault { name: "rename", path, after: 0, times: usize::MAX, errno });
        let stored = node.tree("app", "v1").join("noise");
        std::fs::set_permissions(&stored, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::write(&stored, "damaged").unwrap();
        node.cli(&["verify", "app", "--repair"]);
        let status = node.wait_end();
        assert!(killed(status), "{status}");
        assert!(watch.heal() > 0);
        node.start();
        let mended = || std::fs::read(node.root().join("hand/noise")).is_ok_and(|bytes| bytes != b"damaged");
        until("the seed to be mended", PATIENCE, || mended().then_some(()));
        node.wait_state("app", "the repair to be over", PATIENCE, |state| state["lastError"].is_null());
        node.cli(&["verify", "app"]).ok();
    });
}
