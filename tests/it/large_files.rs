//! Large files have room set aside for them: it counts once, and costs nothing where it would do harm.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::fixture::archive::Archive;
use crate::fixture::loopfs::LoopFs;
use crate::fixture::node::Node;
use crate::fixture::origin::Fault;
use crate::fixture::releases::Releases;
use crate::fixture::system::run_as_root;
use crate::fixture::{PATIENCE, noise, until};
use crate::full_disk::fill;

/// An archive with one file, which is four times as large as the archive all along.
fn swelling(len: usize) -> Vec<u8> {
    let noise = noise(1, 16 << 10);
    let block = [&*noise, &[0; 48 << 10]].concat();
    let body: Vec<u8> = block.iter().copied().cycle().take(len).collect();
    Archive::new().file("app/VERSION", 0o644, b"v1").file("app/large", 0o644, &body).tgz()
}

fn free(path: &Path) -> u64 {
    let room = rustix::fs::statvfs(path).unwrap();
    room.f_bavail * room.f_frsize
}

#[test]
fn room_set_aside_is_no_reason_to_find_too_little() {
    const LEN: usize = 120 << 20;
    let disk = LoopFs::ext4(320);
    let releases = Releases::with("v1");
    let archive = swelling(LEN);
    releases.publish("v1", &archive);
    // Slowly, so that it is held against its promise while room is set aside.
    releases.origin.always(&Releases::path("v1"), Fault::Trickle { bytes: 1 << 20, pause: Duration::from_millis(20) });
    let node = Node::builder().settings("store: {minFree: 0B}").root(disk.path()).start();
    fill(disk.path(), (archive.len() + LEN + (30 << 20)) as u64);
    node.write_config("app.yaml", &releases.document());
    until("the document to be read", PATIENCE, || (node.get("/v1/artifacts/app").status == 200).then_some(()));
    node.wait_ready("app");
    let state = node.state("app");
    assert_eq!((&state["lastError"], &state["failures"]), (&Value::Null, &Value::from(0)), "{state}");
    assert_eq!(releases.origin.requests(&Releases::path("v1")).len(), 1);
}

#[test]
fn btrfs_compresses_large_files() {
    const LEN: usize = 48 << 20;
    let disk = LoopFs::btrfs();
    run_as_root("btrfs", ["property", "set", disk.path().to_str().unwrap(), "compression", "zstd"]);
    let releases = Releases::with("v1");
    releases.publish("v1", &swelling(LEN));
    let node = Node::builder().root(disk.path()).document("app.yaml", &releases.document()).start();
    let before = free(disk.path());
    node.wait_ready("app");
    run_as_root("btrfs", ["filesystem", "sync", disk.path().to_str().unwrap()]);
    let taken = before.saturating_sub(free(disk.path()));
    assert!(taken < LEN as u64 / 2, "{taken} bytes");
}
