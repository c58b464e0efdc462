//! A real disk that is full at every size of what is left: the update that needs more fails whole, what is there is served,
//! and once room is made the version comes by itself.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::{LIMIT, PATIENCE, until};
use crate::fixture::archive::app;
use crate::fixture::loopfs::LoopFs;
use crate::fixture::node::Node;
use crate::fixture::releases::Releases;
use crate::report::Row;

/// What is left is smaller by this each time,
const STEP: u64 = 192 << 10;
/// beginning with more than a version needs.
const MOST: u64 = 6 << 20;
/// Of a version's noise.
const BYTES: usize = 2_000_000;

pub(super) fn run() -> Row {
    let disk = LoopFs::ext4(64);
    let releases = Releases::with("v1");
    let retain = "  retain: {versions: 1, for: 0s}\n";
    let document = releases.document_with("app", true, retain);
    let settings = "store: {minFree: 0B}";
    let node = Node::builder().settings(settings).root(disk.path()).document("app.yaml", &document).start();
    node.wait_ready("app");
    let (mut failed, mut open, mut slow, mut slowest) = (0, 0, 0, Duration::ZERO);
    let sizes = MOST / STEP;
    for at in 0..sizes {
        let (version, before) = (format!("v{}", at + 2), node.state("app")["current"].as_str().unwrap().to_owned());
        releases.publish(&version, &app(&version, BYTES));
        let ballast = fill(disk.path(), at * STEP);
        releases.point_to(&version);
        let came = node.cli(&["refresh", "app", "--wait"]).code == 0;
        let state = node.state("app");
        let current = if came { &version } else { &before };
        let served = node.get("/v1/artifacts/app/versions/current/files/VERSION").text();
        if state["current"] != **current || served != **current || state["lastError"].is_null() != came {
            eprintln!("failed open: {} bytes left, came {came}: {state}", at * STEP);
            open += 1;
        }
        failed += u32::from(!came);
        std::fs::remove_file(ballast).unwrap();
        let began = Instant::now();
        let back = until(PATIENCE, || node.state("app")["current"] == *version);
        slow += u32::from(!back || began.elapsed() > LIMIT);
        slowest = slowest.max(began.elapsed());
        let verified = node.cli(&["verify", "app"]);
        if verified.code != 0 {
            eprintln!("failed open: {} bytes left: {}", at * STEP, verified.stderr);
            open += 1;
        }
    }
    Row {
        fault: format!("a real disk (ext4) full at {sizes} sizes, {failed} of them too small for the next version"),
        figure: format!(
            "failed open {open}; not back within 30 s {slow}; slowest recovery {:.1} s",
            slowest.as_secs_f64()
        ),
        reach: "all fail closed; back by itself within 30 s",
        reached: open == 0 && slow == 0 && failed > 0 && u64::from(failed) < sizes,
    }
}

/// Takes room until about so many bytes are left.
fn fill(path: &Path, left: u64) -> std::path::PathBuf {
    let ballast = path.join("ballast");
    let free = statvfs(path).unwrap();
    let mut bytes = (free.f_bavail * free.f_frsize).saturating_sub(left);
    let file = File::create(&ballast).unwrap();
    while fallocate(&file, FallocateFlags::empty(), 0, bytes).is_err() {
        bytes -= 64 << 10;
    }
    ballast
}
