//! Seeds from inside a pod that mounts only its own volume and the daemon's socket, into directories that the daemon
//! does not see: by which way they go, that they are whole at any time, and that nothing is left beside them.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::Value;
use tempfile::TempDir;

use crate::fixture::archive::app;
use crate::fixture::loopfs::LoopFs;
use crate::fixture::node::Node;
use crate::fixture::pod::{BindMount, Pod, RamFs};
use crate::fixture::releases::Releases;
use crate::fixture::system::run_as_root;
use crate::fixture::tree::{Demand, assert_same, inodes};
use crate::fixture::{PATIENCE, scratch, until};

const POD: u32 = 1000;
const NOISE: usize = 500_000;
const CLIENTS: usize = 50;

/// A node whose daemon sees nothing of the disk but its store.
struct Ground {
    node: Node,
    releases: Releases,
    _store: BindMount,
    _seeds: TempDir,
}

impl Ground {
    fn with_store_on(disk: &Path) -> Self {
        Self::of(disk, &[])
    }

    /// The daemon is run by this command, which it becomes.
    fn of(disk: &Path, through: &[&str]) -> Self {
        let (store, seeds, releases) = (BindMount::of(&disk.join("store")), scratch(), Releases::with("v1"));
        releases.publish("v2", &app("v2", NOISE));
        let builder = Node::builder().root(seeds.path()).store(store.path()).through(through);
        let node = builder.document("app.yaml", &releases.document()).start();
        node.wait_ready("app");
        Self { node, releases, _store: store, _seeds: seeds }
    }

    fn next_version(&self) {
        self.releases.point_to("v2");
        self.node.cli(&["refresh", "app", "--wait"]).ok();
    }

    /// The version is in the pod's volume, and nothing else is.
    #[track_caller]
    fn holds(&self, volume: &Path, version: &str, demand: Demand) {
        assert_same(&self.node.tree("app", version), &volume.join("app"), demand);
        let beside: Vec<_> = fs::read_dir(volume).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(beside, ["app"]);
    }
}

/// Content, times and owners; seeds have other modes than the store.
const COPIED: Demand = Demand { mode_mask: 0, ..Demand::EXACT };

fn text<'a>(answer: &'a Value, field: &str) -> &'a str {
    // Null where there is no better way.
    answer[field].as_str().unwrap_or_default()
}

/// A pod's life with its seed: made, found as it should be, mended, moved on.
fn a_life(ground: &Ground, pod: &Pod, demand: Demand) -> Value {
    let seed = || pod.seed("app", "/data/app", &[]).ok().json();
    let first = seed();
    assert_eq!((text(&first, "version"), &first["changed"]), ("v1", &true.into()), "{first}");
    assert_eq!(text(&first, "target"), "/data/app");
    ground.holds(pod.volume(), "v1", demand);

    let before = inodes(pod.volume());
    let second = seed();
    assert_eq!((&second["changed"], &second["mode"]), (&false.into(), &first["mode"]), "{second}");
    assert_eq!(inodes(pod.volume()), before);

    let app = pod.volume().join("app");
    fs::remove_file(app.join("bin/run")).unwrap();
    fs::remove_file(app.join("VERSION")).unwrap();
    fs::write(app.join("VERSION"), "v0").unwrap();
    assert_eq!(seed()["changed"], true);
    ground.holds(pod.volume(), "v1", demand);

    ground.next_version();
    let third = while_read(&app, seed);
    assert_eq!((text(&third, "version"), &third["mode"]), ("v2", &first["mode"]), "{third}");
    ground.holds(pod.volume(), "v2", demand);
    first
}

/// What lies at the target when a reader comes by: the version, or nothing where there is none yet.
fn look(target: &Path) -> Option<String> {
    let read = |path: &str| fs::read_to_string(target.join(path));
    let version = match read("VERSION") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        other => other.unwrap(),
    };
    let script = read("bin/run");
    // In between the next version may have come.
    if read("VERSION").unwrap() == version {
        assert_eq!(script.unwrap(), format!("#!/bin/sh\necho {version}\n"));
    }
    Some(version)
}

/// The same where the set of files is not switched as one: each is whole.
fn look_at_each(target: &Path) -> Option<String> {
    let read = |path: &str| fs::read_to_string(target.join(path)).unwrap();
    let scripts = ["v1", "v2"].map(|version| format!("#!/bin/sh\necho {version}\n"));
    assert!(scripts.contains(&read("bin/run")));
    Some(read("VERSION"))
}

/// Works while a reader loops on the target: once it is there it is whole, and no version ever goes back.
fn while_read<T>(target: &Path, work: impl FnOnce() -> T) -> T {
    while_read_by(look, target, work)
}

fn while_read_by<T>(look: fn(&Path) -> Option<String>, target: &Path, work: impl FnOnce() -> T) -> T {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen: Option<String> = None;
            loop {
                // One more look when all is done.
                let last = over.load(Ordering::Relaxed);
                let now = look(target);
                assert!(now >= seen, "after {seen:?} came {now:?}");
                seen = now;
                if last {
                    return;
                }
            }
        });
        let stop = Stop(&over);
        let done = work();
        drop(stop);
        reader.join().unwrap();
        done
    })
}

#[test]
fn across_mounts_of_one_file_system_inodes_are_shared() {
    let disk = LoopFs::ext4(64);
    let ground = Ground::with_store_on(disk.path());
    let pod = Pod::with(&disk.path().join("volumes/pod"), &ground.node);
    let first = a_life(&ground, &pod, COPIED);
    assert_eq!(text(&first, "mode"), "hardlink", "{first}");
    assert!(text(&first, "reason").contains("no reflink: "), "{first}");
    let (store, seed) = (inodes(&ground.node.tree("app", "v2")), inodes(&pod.volume().join("app")));
    assert_eq!(store[Path::new("noise")], seed[Path::new("noise")]);
}

#[test]
fn where_extents_can_be_shared_they_are() {
    for disk in [LoopFs::xfs(), LoopFs::btrfs()] {
        let ground = Ground::with_store_on(disk.path());
        let pod = Pod::with(&disk.path().join("volumes/pod"), &ground.node);
        let first = a_life(&ground, &pod, COPIED);
        assert_eq!((text(&first, "mode"), text(&first, "reason")), ("reflink", ""), "{first}");
    }
}

#[test]
fn across_file_systems_bytes_are_copied() {
    let (disk, other) = (LoopFs::ext4(64), LoopFs::ext4(64));
    let ground = Ground::with_store_on(disk.path());
    let pod = Pod::with(&other.path().join("pod"), &ground.node);
    let first = a_life(&ground, &pod, COPIED);
    assert_eq!(text(&first, "mode"), "copy", "{first}");
    assert!(text(&first, "reason").contains("different file systems"), "{first}");
}

#[test]
fn without_the_capability_bytes_are_copied() {
    let disk = LoopFs::ext4(64);
    let ground = Ground::of(disk.path(), &["setpriv", "--bounding-set", "-dac_read_search,-sys_admin"]);
    let pod = Pod::with(&disk.path().join("volumes/pod"), &ground.node);
    let first = a_life(&ground, &pod, COPIED);
    assert_eq!(text(&first, "mode"), "copy", "{first}");
    assert!(text(&first, "reason").contains("CAP_DAC_READ_SEARCH"), "{first}");
    let refused = pod.seed("app", "/data/other", &["--link", "hardlink"]).exits(1);
    assert!(refused.stderr.contains("CAP_DAC_READ_SEARCH"), "{}", refused.stderr);
}

#[test]
fn root_without_capabilities_gets_copies_of_its_own() {
    let (disk, other) = (LoopFs::ext4(64), LoopFs::ext4(64));
    let ground = Ground::with_store_on(disk.path());
    let document = ground.releases.document_with("owned", true, "");
    let owned = document.replace("stripComponents: 1", "stripComponents: 1, owner: {uid: 4711, gid: 4711}");
    ground.node.write_config("owned.yaml", &owned);
    until("the document", PATIENCE, || (ground.node.get("/v1/artifacts/owned").status == 200).then_some(()));
    ground.node.wait_ready("owned");
    let pod = Pod::with(&other.path().join("pod"), &ground.node).without("-chown,-fowner");
    let seed = || pod.seed("owned", "/data/app", &[]).ok().json();
    let first = seed();
    assert_eq!(text(&first, "mode"), "copy", "{first}");
    assert!(text(&first, "reason").contains("CAP_CHOWN"), "{first}");
    assert_eq!(seed()["changed"], false);
    assert_eq!(fs::metadata(pod.volume().join("app/bin/run")).unwrap().uid(), 0);
}

/// A volume that belongs to the pod's user, and one that all may write to.
fn volumes_of_a_user(disk: &Path) -> [PathBuf; 2] {
    let volumes = ["own", "open"].map(|name| disk.join(name));
    for volume in &volumes {
        fs::create_dir_all(volume).unwrap();
    }
    run_as_root("chown", [format!("{POD}:{POD}").as_ref(), volumes[0].as_os_str()]);
    fs::set_permissions(&volumes[1], fs::Permissions::from_mode(0o777)).unwrap();
    volumes
}

#[test]
fn a_pod_of_an_ordinary_user_gets_links_too() {
    let disk = LoopFs::ext4(64);
    let ground = Ground::with_store_on(disk.path());
    for volume in volumes_of_a_user(disk.path()) {
        let pod = Pod::with(&volume, &ground.node).of_user(POD);
        let seed = |more: &[&str]| pod.seed("app@v1", "/data/app", more).ok().json();
        let first = seed(&[]);
        assert_eq!((text(&first, "mode"), &first["changed"]), ("hardlink", &true.into()), "{first}");
        ground.holds(&volume, "v1", Demand { owner: false, mtime: true, mode_mask: 0 });
        assert_eq!(seed(&[])["changed"], false);
        fs::remove_file(volume.join("app/bin/run")).unwrap();
        assert_eq!(seed(&[])["changed"], true);

        // What it wants to write to is its own.
        let copied = seed(&["--link", "copy"]);
        assert_eq!((text(&copied, "mode"), text(&copied, "reason")), ("copy", ""), "{copied}");
        assert_eq!(seed(&["--link", "copy"])["changed"], false);
        ground.holds(&volume, "v1", Demand { owner: false, ..COPIED });
        for path in ["", "bin/run", "latest", "noise"] {
            assert_eq!(fs::symlink_metadata(volume.join("app").join(path)).unwrap().uid(), POD, "{path}");
        }
    }
}

#[test]
fn a_pod_of_an_ordinary_user_gets_copies_across_file_systems() {
    let (disk, other) = (LoopFs::ext4(64), LoopFs::ext4(64));
    let ground = Ground::with_store_on(disk.path());
    for volume in volumes_of_a_user(other.path()) {
        let pod = Pod::with(&volume, &ground.node).of_user(POD);
        let seed = || pod.seed("app@v1", "/data/app", &[]).ok().json();
        assert_eq!(text(&seed(), "mode"), "copy");
        assert_eq!(seed()["changed"], false);
        ground.holds(&volume, "v1", Demand { owner: false, ..COPIED });
    }
}

#[test]
fn many_clients_of_one_target_make_one_tree() {
    let disk = LoopFs::ext4(64);
    let ground = Ground::with_store_on(disk.path());
    let pod = Pod::with(&disk.path().join("volumes/pod"), &ground.node);
    let at_once = |version: &str| {
        let wish = format!("app@{version}");
        let answers: Vec<Value> = thread::scope(|scope| {
            let client = || pod.seed(&wish, "/data/app", &[]).ok().json();
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        assert_eq!(answers.iter().filter(|answer| answer["changed"] == true).count(), 1, "{answers:?}");
        ground.holds(pod.volume(), version, COPIED);
    };
    while_read(&pod.volume().join("app"), || {
        at_once("v1");
        ground.next_version();
        at_once("v2");
    });
}

/// A pod that mounts the target itself holds that directory: the tree is swapped inside it.
#[test]
fn a_target_that_is_a_mount_point_is_swapped_in_place() {
    let (disk, other) = (LoopFs::ext4(64), LoopFs::ext4(64));
    let ground = Ground::with_store_on(disk.path());
    for (volume, mode) in [(disk.path().join("volumes/pod"), "hardlink"), (other.path().join("pod"), "copy")] {
        let pod = Pod::with(&volume, &ground.node);
        let seed = |version: &str| pod.seed(&format!("app@{version}"), "/data", &[]).ok().json();
        let top = fs::metadata(&volume).unwrap().ino();
        let first = seed("v1");
        assert_eq!(text(&first, "mode"), mode, "{first}");
        // What is linked is on record, so that the version stays and damage to it is mended here too.
        // A collection looks at all that is on record. Of the second pod's copy nothing is.
        ground.node.cli(&["gc"]).ok();
        let state = ground.node.state("app");
        let recorded = state["seeds"].as_array().unwrap().iter().filter(|seed| seed["target"] == "/data").count();
        assert_eq!(recorded, 1, "{state}");
        assert!(text(&first, "reason").contains("swapped in place: the target is a mount point"), "{first}");
        fs::write(volume.join("own"), "the pod's").unwrap();
        let second = seed("v1");
        assert_eq!((&second["changed"], &second["reason"]), (&false.into(), &first["reason"]), "{second}");
        fs::remove_file(volume.join("bin/run")).unwrap();
        assert_eq!(seed("v1")["changed"], true);
        ground.next_version();
        let third = while_read_by(look_at_each, &volume, || seed("v2"));
        assert_eq!((text(&third, "version"), text(&third, "mode")), ("v2", mode), "{third}");
        assert_eq!(fs::metadata(&volume).unwrap().ino(), top);
        assert_eq!(fs::read_to_string(volume.join("own")).unwrap(), "the pod's");
        fs::remove_file(volume.join("own")).unwrap();
        fs::remove_file(volume.join(".seedcache-owned")).unwrap();
        assert_same(&ground.node.tree("app", "v2"), &volume, COPIED);
    }
}

/// A volume that belongs to root and is mounted at the target itself: the pod's user may write there, and no more.
#[test]
fn a_volume_of_anothers_is_seeded_again_and_again() {
    let disk = LoopFs::ext4(64);
    let ground = Ground::with_store_on(disk.path());
    let [_, volume] = volumes_of_a_user(disk.path());
    let pod = Pod::with(&volume, &ground.node).of_user(POD);
    let seed = || pod.seed("app@v1", "/data", &[]).ok().json();
    assert_eq!(text(&seed(), "mode"), "hardlink");
    assert_eq!(seed()["changed"], false);
    fs::remove_file(volume.join("bin/run")).unwrap();
    assert_eq!(seed()["changed"], true);
    assert_eq!(look(&volume).as_deref(), Some("v1"));
}

#[test]
fn a_target_swapped_by_symlink_shows_one_version_at_a_time() {
    let disk = LoopFs::ext4(64);
    let ground = Ground::with_store_on(disk.path());
    let pod = Pod::with(&disk.path().join("volumes/pod"), &ground.node);
    let target = pod.volume().join("app");
    let seed = |version: &str, more: &[&str]| pod.seed(&format!("app@{version}"), "/data/app", more).ok().json();
    seed("v1", &["--swap", "symlink"]);
    let top = fs::metadata(&target).unwrap().ino();
    assert_eq!(seed("v1", &[])["changed"], false);
    // The links through `..data` are mended with the tree.
    fs::remove_file(target.join("VERSION")).unwrap();
    symlink("../elsewhere", target.join("bin.new")).unwrap();
    fs::rename(target.join("bin.new"), target.join("bin")).unwrap();
    assert_eq!(seed("v1", &[])["changed"], true);
    assert_eq!(look(&target).as_deref(), Some("v1"));
    ground.next_version();
    while_read(&target, || seed("v2", &[]));
    assert_eq!(fs::metadata(&target).unwrap().ino(), top);
    assert!(fs::symlink_metadata(target.join("VERSION")).unwrap().is_symlink());
    assert_eq!(look(&target).as_deref(), Some("v2"));
}

#[test]
fn without_attributes_a_seed_is_known_by_a_file() {
    let (disk, volume) = (LoopFs::ext4(64), RamFs::new());
    let ground = Ground::with_store_on(disk.path());
    ground.next_version();
    let pod = Pod::with(volume.path(), &ground.node);
    for swap in ["exchange", "symlink", "inPlace"] {
        let target = format!("/data/{swap}");
        let seed = |version: &str| pod.seed(&format!("app@{version}"), &target, &["--swap", swap]).ok().json();
        for version in ["v1", "v2"] {
            let told = [seed(version)["changed"].clone(), seed(version)["changed"].clone()];
            assert_eq!(told, [true, false], "{swap} of {version}");
            assert_eq!(look(&volume.path().join(swap)).as_deref(), Some(version));
        }
    }
}

#[test]
fn what_is_not_ours_stays() {
    let disk = LoopFs::ext4(64);
    let ground = Ground::with_store_on(disk.path());
    let pod = Pod::with(&disk.path().join("volumes/pod"), &ground.node);
    fs::create_dir(pod.volume().join("app")).unwrap();
    fs::write(pod.volume().join("app/theirs"), "keep").unwrap();
    let refused = pod.seed("app", "/data/app", &[]).exits(1);
    assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
    assert_eq!(fs::read_to_string(pod.volume().join("app/theirs")).unwrap(), "keep");
    pod.seed("app", "/data/app", &["--force"]).ok();
    ground.holds(pod.volume(), "v1", COPIED);
}

#[test]
fn what_the_daemon_does_not_have_has_its_code() {
    let disk = LoopFs::ext4(64);
    let ground = Ground::with_store_on(disk.path());
    let pod = Pod::with(&disk.path().join("volumes/pod"), &ground.node);
    pod.seed("nosuch", "/data/app", &["--wait", "0s"]).exits(3);
    pod.seed("app@v9", "/data/app", &["--wait", "0s"]).exits(3);
    assert!(!pod.volume().join("app").exists());
}
