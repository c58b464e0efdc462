//! The same content once: what a version shares with those before it takes no room, and is never a file that somebody
//! changed in the store.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::fixture::archive::Archive;
use crate::fixture::loopfs::LoopFs;
use crate::fixture::node::{Builder, Node};
use crate::fixture::origin::Fault;
use crate::fixture::releases::Releases;
use crate::fixture::system::run;
use crate::fixture::{PATIENCE, noise, until};

const MIB: usize = 1 << 20;

/// Files of a version: a path, the seed of its bytes, how many, and its mode.
type Files<'a> = &'a [(&'a str, u64, usize, u32)];

fn archive(files: Files<'_>) -> Vec<u8> {
    let tar = Archive::new().dir("app/", 0o755).dir("app/d/", 0o755);
    let add = |tar: Archive, &(path, seed, len, mode): &(&str, u64, usize, u32)| {
        tar.file(&format!("app/d/{path}"), mode, &noise(seed, len))
    };
    files.iter().fold(tar, add).tar()
}

struct Case {
    node: Node,
    releases: Releases,
}

impl Case {
    fn on(builder: Builder, first: Files<'_>) -> Self {
        let releases = Releases::with("v0");
        releases.publish("v1", &archive(first));
        releases.point_to("v1");
        let settings = "log: {level: 'seedcache=debug,info'}\nscrub: {every: 24h}\n";
        let node = builder.settings(settings).document("app.yaml", &releases.document()).start();
        node.wait_ready("app");
        Self { node, releases }
    }

    fn go_on(&self, version: &str, files: Files<'_>) {
        self.releases.publish(version, &archive(files));
        self.releases.point_to(version);
        self.node.cli(&["refresh", "app", "--wait"]).ok();
        assert_eq!(self.node.state("app")["current"], version);
    }

    fn file(&self, version: &str, path: &str) -> PathBuf {
        self.node.tree("app", version).join("d").join(path)
    }

    fn inode(&self, version: &str, path: &str) -> u64 {
        fs::metadata(self.file(version, path)).unwrap().ino()
    }

    fn repaired(&self, version: &str) {
        until("the damaged version to be had again", PATIENCE, || {
            let rows = self.node.state("app")["versions"].as_array().unwrap().clone();
            let log = self.node.log_text();
            (log.contains("quarantine") && rows.iter().any(|row| row["version"] == version)).then_some(())
        });
    }
}

/// Bytes taken on the file system, those that are being freed waited for.
fn used(path: &Path) -> u64 {
    run("sync", ["-f".as_ref(), path.as_os_str()]);
    let stat = rustix::fs::statvfs(path).unwrap();
    (stat.f_blocks - stat.f_bfree) * stat.f_frsize
}

/// Whether all of a file's extents belong to other files, too.
fn shares_extents(path: &Path) -> bool {
    let listed = run("filefrag", ["-v".as_ref(), path.as_os_str()]);
    let mut extents = listed.lines().filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit()));
    let found = extents.clone().count();
    assert!(found > 0, "{listed}");
    extents.all(|line| line.contains("shared"))
}

/// As root does who does not want to be seen.
fn flip(path: &Path) {
    let before = fs::metadata(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 5).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    drop(file);
    fs::set_permissions(path, before.permissions()).unwrap();
}

const FIRST: Files<'_> =
    &[("same", 1, 8 * MIB, 0o644), ("changed", 2, MIB, 0o644), ("moved", 3, MIB, 0o644), ("mode", 4, 64 * MIB, 0o644)];
const SECOND: Files<'_> = &[
    ("same", 1, 8 * MIB, 0o644),
    ("changed", 5, MIB, 0o644),
    ("elsewhere", 3, MIB, 0o644),
    ("mode", 4, 64 * MIB, 0o755),
];

/// A second version on a file system with or without reflinks: what it shares, how, and what it takes.
fn a_second_version(disk: &LoopFs, reflinks: bool) {
    let case = Case::on(Node::builder().root(disk.path()), FIRST);
    let before = used(disk.path());
    case.go_on("v2", SECOND);
    assert_eq!(case.inode("v1", "same"), case.inode("v2", "same"));
    assert_eq!(case.inode("v1", "moved"), case.inode("v2", "elsewhere"));
    // Other bytes, and the same bytes with another mode: files of their own.
    assert_ne!(case.inode("v1", "changed"), case.inode("v2", "changed"));
    assert_ne!(case.inode("v1", "mode"), case.inode("v2", "mode"));
    assert_eq!(fs::metadata(case.file("v2", "mode")).unwrap().mode() & 0o7777, 0o555);
    assert_eq!(shares_extents(&case.file("v2", "mode")), reflinks);
    assert!(!shares_extents(&case.file("v2", "changed")));
    let most = if reflinks { 8 } else { 72 } * MIB as u64;
    // Blocks of removed files are freed in the background.
    until("the second version to take little", PATIENCE, || (used(disk.path()) < before + most).then_some(()));
    case.node.cli(&["verify", "app"]).ok();
    // None of these has fs-verity here; that is said once, and nothing else comes of it.
    assert_eq!(case.node.log_text().matches("without fs-verity").count(), 1);
}

#[test]
fn ext4_shares_by_hard_link_what_agrees() {
    a_second_version(&LoopFs::ext4(400), false);
}

#[test]
fn xfs_shares_the_rest_by_reflink() {
    a_second_version(&LoopFs::xfs(), true);
}

#[test]
fn btrfs_shares_the_rest_by_reflink() {
    a_second_version(&LoopFs::btrfs(), true);
}

#[test]
fn what_was_changed_in_the_store_is_not_shared_but_mended() {
    let files = |other_mode| [("a", 1, 100_000, 0o644), ("b", 2, 100_000, other_mode), ("c", 3, 100_000, 0o644)];
    let disk = LoopFs::xfs();
    let case = Case::on(Node::builder().root(disk.path()), &files(0o644));
    for path in ["a", "b"] {
        flip(&case.file("v1", path));
    }
    let untouched = case.inode("v1", "c");
    case.go_on("v2", &files(0o755));
    for (path, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        assert!(fs::read(case.file("v2", path)).unwrap() == noise(seed, 100_000), "{path}");
    }
    assert_eq!(case.inode("v2", "c"), untouched);
    case.node.cli(&["verify", "app@v2"]).ok();
    case.repaired("v1");
    case.node.cli(&["verify", "app"]).ok();
}

#[test]
fn files_that_a_killed_daemon_knew_are_compared() {
    let files = |changed| [("a", 1, 100_000, 0o644), ("b", 2, 100_000, 0o644), ("c", changed, 100, 0o644)];
    let disk = LoopFs::ext4(64);
    let mut case = Case::on(Node::builder().root(disk.path()), &files(7));
    case.node.kill9();
    // While nobody looked: the daemon that comes does not know any of these files.
    flip(&case.file("v1", "a"));
    let flipped = case.inode("v1", "a");
    case.node.start();
    case.go_on("v2", &files(8));
    // The first version is mended meanwhile, so that its file may be the second's by now.
    assert_ne!(flipped, case.inode("v2", "a"));
    assert!(fs::read(case.file("v2", "a")).unwrap() == noise(1, 100_000));
    case.node.cli(&["verify", "app@v2"]).ok();
    case.go_on("v3", &files(9));
    assert_eq!(case.inode("v2", "b"), case.inode("v3", "b"));
}

#[test]
fn wrong_bytes_leave_the_files_they_had_in_common_good() {
    let files = |changed| [("a", 1, 100_000, 0o644), ("b", 2, 100_000, 0o644), ("c", changed, 100, 0o644)];
    let disk = LoopFs::ext4(64);
    let case = Case::on(Node::builder().root(disk.path()), &files(7));
    case.releases.publish_with_sum("v2", &archive(&files(8)), &"0".repeat(64));
    case.releases.point_to("v2");
    case.node.cli(&["refresh", "app", "--wait"]).exits(1);
    assert_eq!(case.node.state("app")["current"], "v1");
    assert_eq!(fs::metadata(case.file("v1", "a")).unwrap().nlink(), 1, "nothing of the staged tree is left");
    case.node.seed("app", "there", &["--link", "hardlink"]).ok();
    let seeded = fs::metadata(case.node.root().join("there/d/a")).unwrap();
    assert_eq!(seeded.ino(), case.inode("v1", "a"));
    case.node.cli(&["verify", "app"]).ok();
    assert!(!case.node.log_text().contains("version is damaged"));
    case.releases.publish("v2", &archive(&files(8)));
    case.go_on("v3", &files(9));
    assert_eq!(case.inode("v1", "a"), case.inode("v3", "a"));
}

#[test]
fn files_are_linked_while_a_download_comes_and_again_when_it_is_resumed() {
    let files = |changed| [("a", 1, 100_000, 0o644), ("b", changed, 4 * MIB, 0o644), ("c", 3, 100_000, 0o644)];
    let disk = LoopFs::ext4(64);
    let mut case = Case::on(Node::builder().root(disk.path()), &files(7));
    let path = Releases::path("v2");
    case.releases.publish("v2", &archive(&files(8)));
    case.releases.origin.always(&path, Fault::StallAfter(2 * MIB as u64));
    case.releases.point_to("v2");
    case.node.cli(&["refresh", "app"]).ok();
    let names = |case: &Case| fs::metadata(case.file("v1", "a")).unwrap().nlink();
    until("the file to be linked before the archive is here", PATIENCE, || (names(&case) == 2).then_some(()));
    case.node.kill9();
    case.releases.origin.heal(&path);
    case.node.start();
    case.node.wait_state("app", "the version whose download was cut", PATIENCE, |state| state["current"] == "v2");
    for path in ["a", "c"] {
        assert_eq!(case.inode("v1", path), case.inode("v2", path), "{path}");
    }
    assert_eq!(names(&case), 2);
    case.node.cli(&["verify", "app"]).ok();
}

#[test]
fn a_daemon_without_root_shares_what_it_can_read() {
    let tar = |last: u64| {
        let tar = Archive::new().dir("app/", 0o755).dir("app/closed/", 0o555).dir("app/private/", 0o700);
        let tar = tar.file("app/closed/a", 0o400, &noise(1, 1000)).file("app/private/b", 0o640, &noise(2, 1000));
        tar.file("app/c", 0o644, &noise(last, 1000))
    };
    let releases = Releases::with("v0");
    releases.publish("v1", &tar(3).tar());
    releases.point_to("v1");
    let node = Node::builder().unprivileged().document("app.yaml", &releases.document()).start();
    node.wait_ready("app");
    releases.publish("v2", &tar(4).tar());
    releases.point_to("v2");
    node.cli(&["refresh", "app", "--wait"]).ok();
    let inode = |version: &str, path: &str| fs::metadata(node.tree("app", version).join(path)).unwrap().ino();
    for path in ["closed/a", "private/b"] {
        assert_eq!(inode("v1", path), inode("v2", path), "{path}");
    }
    node.cli(&["verify", "app"]).ok();

    // What the owner itself may not read only root could hand on.
    for (version, unreadable) in [("v3", tar(5).dir("app/x/", 0o311)), ("v4", tar(6).file("app/x", 0o200, b"x"))] {
        releases.publish(version, &unreadable.tar());
        releases.point_to(version);
        let refused = node.cli(&["refresh", "app", "--wait"]).exits(1);
        assert!(refused.stderr.contains("app/x") && refused.stderr.contains("as root"), "{}", refused.stderr);
        assert_eq!(node.state("app")["current"], "v2");
    }
    node.cli(&["verify", "app"]).ok();
}
