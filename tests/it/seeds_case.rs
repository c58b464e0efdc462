//! The seeds' own case, from an origin laid out like Manta's to a pod's directory: warmed, seeded, seeded again, moved on
//! to the next stamp under the eyes of a reader.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::fixture::nginx::Nginx;
use crate::fixture::node::{Node, version_row};
use crate::fixture::smartos::{Platform, REAL_BOOT_ARCHIVE, SmartOs};
use crate::fixture::tree::{Demand, differences, inodes};
use crate::fixture::{BIG_PATIENCE, PATIENCE};

const ARTIFACT: &str = "smartos-platform";
const TARGET: &str = "sdc-ipxe/smartos";
const OLD: &str = "20260101T000000Z";
const NEW: &str = "20260201T000000Z_u1";

#[test]
fn a_platform_is_warmed_seeded_and_replaced() {
    the_case(3_000_000, PATIENCE);
}

#[test]
fn a_platform_of_real_size_takes_little_memory() {
    let node = the_case(REAL_BOOT_ARCHIVE, BIG_PATIENCE);
    let peak = node.peak_rss_kib();
    eprintln!("peak resident memory: {peak} KiB");
    assert!(peak < 64 * 1024, "{peak} KiB");
}

fn the_case(boot_archive: u64, patience: Duration) -> Node {
    let site = SmartOs::new();
    let (old, new) = (site.publish(OLD, boot_archive), site.publish(NEW, boot_archive));
    site.point_to(OLD);
    let nginx = Nginx::serve(&site.files());
    let node = Node::start_with(&SmartOs::document(&nginx.url()));
    let state = node.wait_state(ARTIFACT, "Ready", patience, |state| state["state"] == "Ready");
    assert_eq!((&state["current"], &state["latest"]), (&OLD.into(), &OLD.into()), "{state}");
    assert_eq!(version_row(&state, OLD)["digest"], format!("sha256:{}", old.sha256));

    let first = node.seed(ARTIFACT, TARGET, &[]).ok().json();
    let target = node.root().join(TARGET);
    assert_eq!((&first["artifact"], &first["version"]), (&ARTIFACT.into(), &OLD.into()), "{first}");
    assert_eq!((&first["files"], &first["changed"]), (&6.into(), &true.into()), "{first}");
    assert_eq!(first["target"], target.to_str().unwrap());
    assert_eq!(first["digest"], format!("sha256:{}", old.sha256));
    holds(&target, &old);

    let before = (inodes(&target), fs::metadata(&target).unwrap().ino());
    let second = node.seed(ARTIFACT, TARGET, &[]).ok().json();
    assert_eq!(second["changed"], false, "{second}");
    assert_eq!((inodes(&target), fs::metadata(&target).unwrap().ino()), before, "the second seeding changed something");

    site.point_to(NEW);
    let (stop, ready) = (AtomicBool::new(false), std::sync::Barrier::new(2));
    let seen = std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_on(&target, &ready, &stop));
        ready.wait();
        // The reader has to be told to stop also when a step fails, or the scope would wait for it for ever.
        let _stopping = StopOnDrop(&stop);
        node.cli(&["refresh", ARTIFACT, "--wait"]).ok();
        assert_eq!(node.state(ARTIFACT)["current"], NEW);
        let third = node.seed(ARTIFACT, TARGET, &[]).ok().json();
        assert_eq!((&third["version"], &third["changed"]), (&NEW.into(), &true.into()), "{third}");
        holds(&target, &new);
        drop(_stopping);
        reader.join().unwrap()
    });
    assert_eq!(seen, BTreeSet::from([OLD.to_owned(), NEW.to_owned()]));
    assert_eq!(nginx.log().iter().filter(|access| access.path.ends_with(".tgz") && access.sent > 0).count(), 2);
    node
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The target is the platform, whole, without the password and with nothing else in it.
fn holds(target: &Path, platform: &Platform) {
    let found = differences(&platform.made, &target.join("platform"), Demand::CONTENT);
    assert_eq!(found, ["root.password: missing"]);
    let top: Vec<_> = fs::read_dir(target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(top, ["platform"]);
}

/// Reads the target over and over: it is always there, and always one stamp all over. Gives the stamps seen.
fn read_on(target: &Path, ready: &std::sync::Barrier, stop: &AtomicBool) -> BTreeSet<String> {
    let inode = || fs::symlink_metadata(target).unwrap_or_else(|e| panic!("the target is missing: {e}")).ino();
    let mut seen = BTreeSet::new();
    let mut rounds = 0u64;
    loop {
        // Asked before reading, so that one whole round comes after the last change.
        let last = stop.load(Ordering::Relaxed);
        let before = inode();
        match read_stamp(target) {
            Ok(stamp) => {
                assert!(stamp != OLD || !seen.contains(NEW), "the old stamp came back");
                seen.insert(stamp);
            }
            // The tree that was opened has been replaced and removed meanwhile.
            Err(error) => assert_ne!(before, inode(), "the target's tree lacks something: {error}"),
        }
        rounds += 1;
        if rounds == 1 {
            ready.wait();
        }
        if last {
            return seen;
        }
    }
}

/// The stamp that all files tell, read beneath one directory handle.
fn read_stamp(target: &Path) -> io::Result<String> {
    let dir = File::open(target.join("platform"))?;
    let dir = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string());
    let first_line = |path: &str| {
        let mut line = String::new();
        BufReader::new(File::open(dir.join(path))?).read_line(&mut line)?;
        io::Result::Ok(line.trim_end().to_owned())
    };
    let stamp = first_line("etc/version/platform")?;
    assert_eq!(first_line("i86pc/kernel/amd64/unix")?, format!("unix {stamp}"), "a mixed platform");
    assert_eq!(first_line("i86pc/amd64/boot_archive")?, format!("boot_archive {stamp}"), "a mixed platform");
    Ok(stamp)
}
