//! A full disk: the artifact that doesn't fit is refused, the last good version stays, and room made is room used.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::fixture::PATIENCE;
use crate::fixture::archive::{Archive, app};
use crate::fixture::loopfs::LoopFs;
use crate::fixture::node::Node;
use crate::fixture::releases::Releases;
use crate::fixture::system::run_as_root;

/// In which a node comes back once the cause is gone.
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn what_does_not_fit_changes_nothing() {
    let disk = LoopFs::ext4(24);
    let releases = Releases::with("v1");
    let node = Node::builder().root(disk.path()).document("app.yaml", &releases.document()).start();
    node.wait_ready("app");
    releases.publish("v2", &app("v2", 40_000_000));
    releases.point_to("v2");

    let refused = node.cli(&["refresh", "app", "--wait"]).exits(1);
    let state = node.state("app");
    assert_eq!(state["current"], "v1", "{state}");
    for said in [refused.stderr.as_str(), state["lastError"].as_str().expect("it is a text")] {
        assert!(said.contains("space") && said.contains("larger disk"), "{said}");
    }
    assert_eq!(node.get("/v1/artifacts/app/versions/current/files/VERSION").text(), "v1");
    assert_eq!(node.get("/readyz").status, 200);
    assert_eq!(node.seed("app", "pod", &[]).ok().json()["version"], "v1");

    releases.publish("v3", &app("v3", 300_000));
    releases.point_to("v3");
    node.cli(&["refresh", "app", "--wait"]).ok();
    assert_eq!(node.state("app")["current"], "v3");
    assert_eq!(node.seed("app", "pod", &[]).ok().json()["version"], "v3");
}

#[test]
fn what_does_not_fit_unpacked_changes_nothing() {
    let disk = LoopFs::ext4(24);
    let releases = Releases::with("v1");
    let node = Node::builder().root(disk.path()).document("app.yaml", &releases.document()).start();
    node.wait_ready("app");
    // Small to fetch and within the limits, too big when unpacked.
    let swelling = crate::fixture::archive::Archive::new()
        .file("app/noise", 0o644, &crate::fixture::noise(9, 1_000_000))
        .file("app/zeros", 0o644, &vec![0; 60_000_000])
        .tgz();
    releases.publish("v2", &swelling);
    releases.point_to("v2");
    let refused = node.cli(&["refresh", "app", "--wait"]).exits(1);
    assert!(refused.stderr.contains("space"), "{}", refused.stderr);
    assert_eq!(node.state("app")["current"], "v1");
    node.cli(&["verify", "app"]).ok();
}

/// A node on a small disk that may be filled to its last byte, with `v1`.
fn tight(disk: &LoopFs) -> (Releases, Node) {
    let releases = Releases::with("v1");
    let settings = "store: {minFree: 0B}";
    let node = Node::builder().settings(settings).root(disk.path()).document("app.yaml", &releases.document()).start();
    node.wait_ready("app");
    (releases, node)
}

/// Takes room on a file system until so many bytes are left.
pub(crate) fn fill(path: &Path, left: u64) -> std::path::PathBuf {
    let ballast = path.join("ballast");
    let free = rustix::fs::statvfs(path).unwrap();
    let mut bytes = (free.f_bavail * free.f_frsize).saturating_sub(left);
    let file = fs::File::create(&ballast).unwrap();
    // The file system's own blocks for it take some, too.
    while rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).is_err() {
        bytes -= 64 << 10;
    }
    ballast
}

/// Waits for several tries that fail, for which the archive was `asked` for so often, then has room made, and waits for the
/// version to come by itself.
fn comes_when_there_is_room(releases: &Releases, node: &Node, version: &str, asked: usize, make_room: impl FnOnce()) {
    let before = node.state("app")["current"].as_str().unwrap().to_owned();
    releases.point_to(version);
    node.cli(&["refresh", "app", "--wait"]).exits(1);
    let state = node.wait_state("app", "another try", PATIENCE, |state| state["failures"].as_u64() >= Some(4));
    let told = state["lastError"].as_str().unwrap();
    assert!(["no room", "no space", "No space", "quota"].iter().any(|words| told.contains(words)), "{told}");
    assert_eq!(state["current"], *before);
    let served = node.get(&format!("/v1/artifacts/app/versions/{before}/files/VERSION"));
    assert_eq!((served.status, served.text()), (200, before));
    // Bytes that find no room are fetched once, and not at all where the version before it says that there is none.
    assert_eq!(releases.origin.requests(&Releases::path(version)).len(), asked, "{asked} requests were due");
    make_room();
    node.wait_state("app", "what there is room for now", LIMIT, |state| state["current"] == *version);
    node.cli(&["verify", "app"]).ok();
    assert_eq!(node.state("app")["lastError"], Value::Null);
}

#[test]
fn whatever_is_left_a_version_comes_once_there_is_room() {
    let disk = LoopFs::ext4(40);
    let (releases, node) = tight(&disk);
    for (at, (left, asked)) in [(5 << 19, 1), (64 << 10, 0), (1 << 20, 0)].into_iter().enumerate() {
        let version = format!("v{}", at + 2);
        releases.publish(&version, &app(&version, 2_000_000));
        let ballast = fill(disk.path(), left);
        comes_when_there_is_room(&releases, &node, &version, asked, || fs::remove_file(ballast).unwrap());
    }
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let releases = Releases::with("v1");
    let full = ["sh", "-c", "exec \"$0\" \"$@\" >/dev/full 2>/dev/full"];
    let mut node = Node::builder().through(&full).document("app.yaml", &releases.document()).start();
    node.wait_ready("app");
    assert_eq!(node.seed("app", "pod", &[]).ok().json()["version"], "v1");
    assert!(node.terminate().success());
}

#[test]
fn inodes_may_be_short_too() {
    let disk = LoopFs::tmpfs(64, 150);
    let (releases, node) = tight(&disk);
    let mut many = Archive::new().file("app/VERSION", 0o644, b"v2");
    for at in 0..60 {
        many = many.file(&format!("app/{at}"), 0o644, format!("{at}").as_bytes());
    }
    releases.publish("v2", &many.tgz());
    let ballast = disk.path().join("ballast");
    fs::create_dir(&ballast).unwrap();
    let left = rustix::fs::statvfs(disk.path()).unwrap().f_favail;
    (40..left).for_each(|at| fs::write(ballast.join(at.to_string()), "").unwrap());
    comes_when_there_is_room(&releases, &node, "v2", 1, || fs::remove_dir_all(ballast).unwrap());
}

#[test]
fn a_quota_that_is_used_up_is_no_room() {
    let disk = LoopFs::btrfs();
    let path = |name: &str| disk.path().join(name).to_str().unwrap().to_owned();
    run_as_root("btrfs", ["quota", "enable", &path("")]);
    run_as_root("btrfs", ["subvolume", "create", &path("sub")]);
    let quota = |limit: &str| drop(run_as_root("btrfs", ["qgroup", "limit", limit, &path("sub")]));
    let releases = Releases::with("v1");
    let settings = "store: {minFree: 0B}";
    let root = disk.path().join("sub");
    let node = Node::builder().settings(settings).root(&root).document("app.yaml", &releases.document()).start();
    node.wait_ready("app");
    releases.publish("v2", &app("v2", 12_000_000));
    quota("8M");
    comes_when_there_is_room(&releases, &node, "v2", 1, || quota("none"));
}

#[test]
fn a_disk_that_can_only_be_read_still_serves() {
    let disk = LoopFs::ext4(40);
    let (releases, mut node) = tight(&disk);
    node.seed("app", "pod", &[]).ok();
    disk.break_ext4();
    releases.publish("v2", &app("v2", 20_000));
    releases.point_to("v2");
    node.cli(&["refresh", "app", "--wait"]).exits(1);
    let state = node.state("app");
    assert!(state["lastError"].as_str().unwrap().contains("Read-only"), "{state}");
    assert_eq!((&state["current"], &state["state"]), (&"v1".into(), &"Ready".into()));
    node.cli(&["pin", "app", "v1"]).exits(1);
    node.seed("app", "other", &[]).exits(1);
    assert_eq!(node.seed("app", "pod", &[]).ok().json()["changed"], false);
    assert_eq!(node.get("/v1/artifacts/app/versions/current/files/VERSION").text(), "v1");
    assert_eq!(node.get("/readyz").status, 200);
    assert!(node.terminate().success(), "it ends in good order all the same");
    disk.check_ext4();
    node.start();
    node.wait_state("app", "the next version", LIMIT, |state| state["current"] == "v2");
    assert_eq!(node.state("app")["pin"], Value::Null);
    node.cli(&["verify", "app"]).ok();
    assert_eq!(node.seed("app", "other", &[]).ok().json()["version"], "v2");
}
