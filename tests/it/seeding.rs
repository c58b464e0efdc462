//! What a seed is: every entry as in the archive, by the best way that works, and never over what is not ours.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use tempfile::TempDir;

use crate::fixture::archive::every_kind;
use crate::fixture::loopfs::LoopFs;
use crate::fixture::node::{Builder, Node, Over};
use crate::fixture::origin::Origin;
use crate::fixture::scratch;
use crate::fixture::system::{run, run_as_root};
use crate::fixture::tree::{Demand, assert_same, inodes, walk};

/// An origin with one of each kind of entry, the document for it, and the tree that GNU tar makes of it.
struct Kinds {
    origin: Origin,
    dir: TempDir,
}

impl Kinds {
    fn new() -> Self {
        let (origin, dir) = (Origin::start(), scratch());
        origin.serve("/kinds.tgz", every_kind());
        fs::write(dir.path().join("kinds.tgz"), every_kind()).unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        let (archive, tree) = (dir.path().join("kinds.tgz"), dir.path().join("tree"));
        run(
            "tar",
            [
                "--delay-directory-restore".as_ref(),
                "-xpf".as_ref(),
                archive.as_os_str(),
                "-C".as_ref(),
                tree.as_os_str(),
                "--strip-components=1".as_ref(),
            ],
        );
        Self { origin, dir }
    }

    fn expected(&self) -> std::path::PathBuf {
        self.dir.path().join("tree")
    }

    fn builder(&self) -> Builder {
        let document = format!(
            "apiVersion: seedcache.dev/v1alpha1
kind: Artifact
metadata: {{name: kinds}}
spec:
  version: '1'
  source: {{http: {{url: '{}'}}}}
  unpack: {{stripComponents: 1}}
  seeds: [{{target: declared/by/document}}, {{target: declared/linked, swap: symlink}}]
",
            self.origin.url("/kinds.tgz")
        );
        Node::builder().document("kinds.yaml", &document)
    }

    fn node(&self) -> Node {
        let node = self.builder().start();
        node.wait_ready("kinds");
        node
    }
}

#[test]
fn a_copy_is_as_the_archive_has_it() {
    let kinds = Kinds::new();
    let node = kinds.node();
    let report = node.seed("kinds@1", "pod", &["--link", "copy"]).ok().json();
    assert_eq!((&report["mode"], &report["version"]), (&"copy".into(), &"1".into()), "{report}");
    assert_same(&kinds.expected(), &node.root().join("pod"), Demand::EXACT);
}

#[test]
fn a_declared_seed_comes_by_itself() {
    let kinds = Kinds::new();
    let node = kinds.node();
    let seeded = |state: &serde_json::Value| state["seeds"][0]["version"] == "1";
    let state = node.wait_state("kinds", "seeded", crate::fixture::PATIENCE, seeded);
    assert_eq!(state["seeds"][0]["target"], "declared/by/document", "{state}");
    assert_same(&kinds.expected(), &node.root().join("declared/by/document"), Demand::LINKED);
    let linked = |state: &serde_json::Value| state["seeds"][1]["version"] == "1";
    node.wait_state("kinds", "seeded behind a symlink", crate::fixture::PATIENCE, linked);
    let target = node.root().join("declared/linked");
    let tree = target.join(fs::read_link(target.join("..data")).unwrap());
    assert_same(&kinds.expected(), &tree, Demand::LINKED);
    assert_eq!(fs::read_link(target.join("deep")).unwrap(), Path::new("..data/deep"));
}

#[test]
fn a_second_seeding_changes_nothing_and_mends_what_is_damaged() {
    let kinds = Kinds::new();
    let node = kinds.node();
    for link in ["hardlink", "copy"] {
        let pod = node.root().join(link);
        let demand = if link == "copy" { Demand::EXACT } else { Demand::LINKED };
        let seed = || node.seed("kinds", link, &["--link", link]).ok().json();
        assert_eq!(seed()["changed"], true);
        let before = inodes(&pod);
        assert_eq!(seed()["changed"], false);
        assert_eq!(inodes(&pod), before, "{link}");
        let damages: [&dyn Fn(); 5] = [
            &|| fs::remove_file(pod.join("deep/er/script")).unwrap(),
            &|| replace(&pod.join("deep/data"), b"changed"),
            &|| fs::remove_dir_all(pod.join("deep")).unwrap(),
            &|| fs::remove_dir(pod.join("empty")).unwrap(),
            &|| {
                fs::remove_file(pod.join("soft")).unwrap();
                std::os::unix::fs::symlink("elsewhere", pod.join("soft")).unwrap();
            },
        ];
        for (number, damage) in damages.iter().enumerate() {
            damage();
            assert_eq!(seed()["changed"], true, "{link}, damage {number}");
            assert_same(&kinds.expected(), &pod, demand);
        }
        assert_eq!(seed()["changed"], false);
    }
}

/// Another file under the same name; the old inode, which the store may share, keeps its bytes.
fn replace(path: &Path, content: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, content).unwrap();
}

#[test]
fn a_writer_in_a_copy_does_not_reach_the_store() {
    let kinds = Kinds::new();
    let node = kinds.node();
    node.seed("kinds", "pod", &["--link", "copy"]).ok();
    let mut file = fs::File::options().append(true).open(node.root().join("pod/deep/data")).unwrap();
    file.write_all(b"more").unwrap();
    node.cli(&["verify", "kinds"]).ok();
    node.seed("kinds", "pod", &["--link", "copy"]).ok();
    assert_same(&kinds.expected(), &node.root().join("pod"), Demand::EXACT);
}

#[test]
fn what_is_not_ours_stays() {
    let kinds = Kinds::new();
    let node = kinds.node();
    let theirs = node.root().join("pod/theirs");
    fs::create_dir(theirs.parent().unwrap()).unwrap();
    fs::write(&theirs, "keep").unwrap();
    let refused = node.seed("kinds", "pod", &[]).exits(1);
    assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
    assert_eq!(fs::read_to_string(&theirs).unwrap(), "keep");
    assert_eq!(walk(&node.root().join("pod")).len(), 1);
    node.seed("kinds", "pod", &["--force"]).ok();
    assert_same(&kinds.expected(), &node.root().join("pod"), Demand::LINKED);
}

#[test]
fn two_askers_get_one_result() {
    let kinds = Kinds::new();
    let node = kinds.node();
    let reports: Vec<_> = std::thread::scope(|scope| {
        let askers: Vec<_> = (0..8).map(|_| scope.spawn(|| node.seed("kinds", "pod", &[]).ok().json())).collect();
        askers.into_iter().map(|asker| asker.join().unwrap()).collect()
    });
    let made = reports.iter().filter(|report| report["changed"] == true).count();
    assert_eq!(made, 1, "{reports:?}");
    assert_same(&kinds.expected(), &node.root().join("pod"), Demand::LINKED);
}

#[test]
fn nothing_is_seeded_outside_the_root() {
    let kinds = Kinds::new();
    let node = kinds.node();
    let outside = scratch();
    let absolute = outside.path().join("pod");
    std::os::unix::fs::symlink(outside.path(), node.root().join("link")).unwrap();
    for target in ["../outside", "link/pod", "a/../../outside", ".seedcache/versions/kinds", absolute.to_str().unwrap()]
    {
        let answer = node.post_json(Over::Socket, "/v1/artifacts/kinds/seed", &serde_json::json!({"target": target}));
        assert!((400..500).contains(&answer.status), "{target}: {answer:?}");
        answer.problem();
    }
    assert!(walk(outside.path()).is_empty());
    assert!(!node.root().parent().unwrap().join("outside").exists());
}

/// Seeds on these two places, and says by which mode and why.
fn ladder(kinds: &Kinds, store: &Path, seeds: &Path) -> (String, String) {
    let node = kinds.builder().root(seeds).store(store).start();
    node.wait_ready("kinds");
    let report = node.seed("kinds", "pod", &[]).ok().json();
    let demand = if report["mode"] == "hardlink" { Demand::LINKED } else { Demand::EXACT };
    assert_same(&kinds.expected(), &seeds.join("pod"), demand);
    let again = node.seed("kinds", "pod", &[]).ok().json();
    assert_eq!(again["changed"], false, "{again}");
    // Null where there is no better mode.
    let text = |field: &str| report[field].as_str().unwrap_or_default().to_owned();
    (text("mode"), text("reason"))
}

#[test]
fn where_extents_can_be_shared_they_are() {
    let kinds = Kinds::new();
    for disk in [LoopFs::xfs(), LoopFs::btrfs()] {
        assert_eq!(
            ladder(&kinds, &disk.path().join("store"), &disk.path().join("seeds")),
            ("reflink".into(), String::new())
        );
    }
}

#[test]
fn where_they_cannot_inodes_are() {
    let (kinds, disk) = (Kinds::new(), LoopFs::ext4(64));
    let (mode, reason) = ladder(&kinds, &disk.path().join("store"), &disk.path().join("seeds"));
    assert_eq!(mode, "hardlink");
    assert!(reason.contains("reflink"), "{reason}");
}

#[test]
fn across_file_systems_bytes_are_copied() {
    let (kinds, disk) = (Kinds::new(), LoopFs::ext4(64));
    let seeds = scratch();
    let (mode, reason) = ladder(&kinds, &disk.path().join("store"), seeds.path());
    assert_eq!(mode, "copy");
    assert!(reason.contains("file system"), "{reason}");
}

#[test]
fn a_way_that_was_demanded_and_does_not_work_fails() {
    let (kinds, disk) = (Kinds::new(), LoopFs::ext4(64));
    let node = kinds.builder().root(disk.path()).start();
    node.wait_ready("kinds");
    let refused = node.seed("kinds", "pod", &["--link", "reflink"]).exits(1);
    assert!(refused.stderr.contains("reflink"), "{}", refused.stderr);
    assert!(!disk.path().join("pod").exists());
}

/// A directory seen at a second place, until dropped.
struct Bind(std::path::PathBuf);

impl Bind {
    fn new(from: &Path, to: &Path) -> Self {
        run_as_root("mount", ["--bind".as_ref(), from.as_os_str(), to.as_os_str()]);
        Self(to.to_owned())
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        run_as_root("umount", ["-l".as_ref(), self.0.as_os_str()]);
    }
}

fn same_content(kinds: &Kinds, pod: &Path, name: &str) {
    assert_eq!(fs::read(pod.join(name)).unwrap(), fs::read(kinds.expected().join(name)).unwrap(), "{name}");
}

#[test]
fn a_mount_point_is_seeded_in_place_with_what_others_have_there() {
    let (kinds, volume) = (Kinds::new(), scratch());
    let mut node = kinds.node();
    let pod = node.root().join("pod");
    fs::create_dir(&pod).unwrap();
    fs::write(volume.path().join("theirs"), "keep").unwrap();
    let bind = Bind::new(volume.path(), &pod);
    let report = node.seed("kinds", "pod", &[]).ok().json();
    assert_eq!(report["changed"], true, "{report}");
    assert!(report["reason"].as_str().unwrap().contains("in place: the target is a mount point"), "{report}");
    same_content(&kinds, volume.path(), "deep/data");
    assert_eq!(fs::read_to_string(volume.path().join("theirs")).unwrap(), "keep");
    let refused = node.seed("kinds", "pod", &["--swap", "exchange", "--force"]).exits(1);
    assert!(refused.stderr.contains("inPlace"), "{}", refused.stderr);
    // The daemon ends, and knows it again.
    node.restart();
    let state = node.wait_ready("kinds");
    let seeds = state["seeds"].as_array().unwrap();
    assert!(seeds.iter().any(|seed| seed["target"] == "pod" && seed["version"] == "1"), "{state}");
    assert_eq!(node.seed("kinds", "pod", &[]).ok().json()["changed"], false);
    drop(bind);
}

#[test]
fn a_target_is_swapped_as_it_was_asked_for() {
    let kinds = Kinds::new();
    let node = kinds.node();
    let pod = node.root().join("pod");
    for (swap, hidden) in [("symlink", "..data"), ("inPlace", ".seedcache-owned"), ("exchange", "deep")] {
        let report = node.seed("kinds", "pod", &["--swap", swap, "--link", "copy"]).ok().json();
        assert_eq!(report["changed"], true, "{swap}: {report}");
        same_content(&kinds, &pod, "deep/data");
        assert!(pod.join(hidden).exists(), "{swap}");
        let again = node.post_json(Over::Socket, "/v1/artifacts/kinds/seed", &serde_json::json!({"target": pod}));
        assert_eq!((again.status, &again.json()["changed"]), (200, &false.into()), "{swap}: {again:?}");
    }
    assert_same(&kinds.expected(), &pod, Demand::EXACT);
}

#[test]
fn what_clashes_in_place_is_named() {
    let kinds = Kinds::new();
    let node = kinds.node();
    let pod = node.root().join("pod");
    fs::create_dir_all(pod.join("deep")).unwrap();
    fs::write(pod.join("deep/data"), "keep").unwrap();
    let refused = node.seed("kinds", "pod", &["--swap", "inPlace"]).exits(1);
    assert!(refused.stderr.contains("pod/deep/data") && refused.stderr.contains("--force"), "{}", refused.stderr);
    assert_eq!(fs::read_to_string(pod.join("deep/data")).unwrap(), "keep");
    node.seed("kinds", "pod", &["--swap", "inPlace", "--force"]).ok();
    same_content(&kinds, &pod, "deep/data");
}
