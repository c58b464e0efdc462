//! Seeding by descriptor: directories that a peer holds open are filled through the store's own mount, or the peer is
//! told why it has to write the tree by itself; nothing is written anywhere else, whatever the peer does meanwhile.
//!
//! These tests mount, and act as other users: they run as root.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use seedcache::fs::{Dir, HandleError};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixture::archive::{Archive, every_kind, every_kind_for_all};
use crate::fixture::http::Response;
use crate::fixture::loopfs::LoopFs;
use crate::fixture::mounted::Mounted;
use crate::fixture::node::{Node, Over};
use crate::fixture::origin::Origin;
use crate::fixture::passing::{as_user, post, send, try_post};
use crate::fixture::system::{is_root, run, tool};
use crate::fixture::tree::{Demand, assert_same, differences, inodes, walk};
use crate::fixture::{PATIENCE, noise, scratch, until};

const POD: u32 = 1000;
/// Drops the capability that opening by handle needs.
const WITHOUT: [&str; 3] = ["setpriv", "--bounding-set", "-dac_read_search"];

/// A node on a file system of its own, and the tree that it has as version 1 of `kinds`.
struct House {
    node: Node,
    _origin: Origin,
    /// The archive as GNU tar unpacks it.
    expected: TempDir,
    disk: LoopFs,
}

impl House {
    fn on(disk: LoopFs, archive: Vec<u8>, through: &[&str]) -> Self {
        assert!(is_root(), "run these tests as root");
        let (origin, expected) = (Origin::start(), scratch());
        let packed = tempfile::NamedTempFile::new().unwrap();
        fs::write(packed.path(), &archive).unwrap();
        let (from, to) = (packed.path().to_str().unwrap(), expected.path().to_str().unwrap());
        run("tar", ["--delay-directory-restore", "-xpf", from, "-C", to, "--strip-components=1"]);
        origin.serve("/kinds.tgz", archive);
        let document = format!(
            "apiVersion: seedcache.dev/v1alpha1
kind: Artifact
metadata: {{name: kinds}}
spec:
  version: '1'
  source: {{http: {{url: '{}'}}}}
  unpack: {{stripComponents: 1}}
  seeds: [{{target: declared/here}}]
",
            origin.url("/kinds.tgz")
        );
        let node =
            Node::builder().root(&disk.path().join("root")).document("kinds.yaml", &document).through(through).start();
        node.wait_ready("kinds");
        // Other users come to the socket, too.
        fs::set_permissions(node.socket().parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { node, _origin: origin, expected, disk }
    }

    fn ext4() -> Self {
        Self::on(LoopFs::ext4(64), every_kind(), &[])
    }

    /// A directory of a pod's on the same disk, and that directory in a mount of its own.
    fn volume(&self, name: &str, owner: u32) -> Mounted {
        let path = self.disk.path().join(name);
        fs::create_dir(&path).unwrap();
        chown(&path, Some(owner), Some(owner)).unwrap();
        Mounted::bind(&path)
    }

    fn expected(&self) -> &Path {
        self.expected.path()
    }

    fn tree(&self) -> PathBuf {
        self.node.tree("kinds", "1")
    }

    fn fill_with(&self, dir: &File, link: &str) -> Response {
        let body = json!({"link": link, "target": "/data/kinds"});
        post(&self.node.socket(), "/v1/artifacts/kinds/versions/1/fill", &body, dir)
    }

    fn fill(&self, dir: &Path) -> Response {
        self.fill_with(&File::open(dir).unwrap(), "auto")
    }

    /// Filled, or the test fails.
    #[track_caller]
    fn filled(&self, dir: &Path) -> Value {
        let answer = self.fill(dir);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Why the client is to write it by itself.
    #[track_caller]
    fn received(&self, answer: &Response) -> String {
        let problem = answer.problem();
        assert_eq!(problem["type"], "urn:seedcache:problem:receive", "{problem}");
        problem["detail"].as_str().unwrap().to_owned()
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.node.pid())).unwrap().count()
    }
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

#[test]
fn a_volume_is_hard_linked_across_mounts_and_holds_its_version() {
    let mut house = House::ext4();
    let volume = house.volume("volume", 0);
    let target = volume.path().join("kinds");
    fs::create_dir(&target).unwrap();
    let answer = house.filled(&target);
    assert_eq!(
        (&answer["mode"], &answer["changed"], &answer["target"]),
        (&"hardlink".into(), &true.into(), &"/data/kinds".into())
    );
    assert!(answer["reason"].as_str().unwrap().contains("no reflink"), "{answer}");
    assert_same(house.expected(), &target, Demand::LINKED);
    let file = "deep/data";
    assert_eq!(fs::metadata(target.join(file)).unwrap().ino(), fs::metadata(house.tree().join(file)).unwrap().ino());

    let before = inodes(&target);
    let again = house.filled(&target);
    assert_eq!((&again["changed"], inodes(&target)), (&false.into(), before));
    fs::remove_file(target.join(file)).unwrap();
    fs::remove_dir_all(target.join("deep/er")).unwrap();
    assert_eq!(house.filled(&target)["changed"], true);
    assert_same(house.expected(), &target, Demand::LINKED);

    let seeded = |state: &Value| {
        let seeds = state["seeds"].as_array().unwrap();
        seeds.iter().any(|seed| seed["target"] == "/data/kinds" && seed["byHandle"] == true)
    };
    let state = house.node.state("kinds");
    let declared = state["seeds"].as_array().unwrap().iter().find(|seed| seed["target"] == "declared/here").unwrap();
    assert_eq!((&declared["byHandle"], &declared["declared"]), (&false.into(), &true.into()), "{state}");
    assert!(seeded(&house.node.state("kinds")));
    // Where a pod has it is told to operators alone.
    let told = house.node.get_json("/v1/artifacts/kinds");
    let hidden = told["seeds"].as_array().unwrap().iter().find(|seed| seed["byHandle"] == true).unwrap();
    assert_eq!((&hidden["target"], &hidden["mode"]), (&"…".into(), &"hardlink".into()), "{told}");
    let fates = house.node.request("POST", "/v1/gc?dryRun=true", &[]).json();
    assert!(fates.to_string().contains("a directory of a pod"), "{fates}");
    assert!(!told.to_string().contains("/data") && !fates.to_string().contains("/data"), "{told}\n{fates}");
    house.node.restart();
    let state = house.node.wait_state("kinds", "seeds known again", PATIENCE, seeded);
    let kept = &state["versions"][0]["kept"];
    assert!(kept.as_str().unwrap().contains("current"), "{state}");
    let removal = house.node.try_request(Over::Socket, "DELETE", "/v1/artifacts/kinds/versions/1", &[], None).unwrap();
    assert!(removal.text().contains("/data/kinds"), "{}", removal.text());

    fs::remove_dir_all(&target).unwrap();
    let gone = || {
        let fates = house.node.post_json(Over::Socket, "/v1/gc", &json!({}));
        (fates.status == 200 && !seeded(&house.node.state("kinds"))).then_some(())
    };
    until("the record to end with its directory", PATIENCE, gone);
}

#[test]
fn damage_is_mended_in_filled_directories_too() {
    let house = House::ext4();
    let volume = house.volume("volume", 0);
    house.filled(volume.path());
    let file = volume.path().join("deep/data");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    File::options().append(true).open(&file).unwrap().write_all(b"damage").unwrap();
    house.node.cli(&["verify", "kinds", "--repair"]);
    until("the repair", PATIENCE, || (fs::metadata(&file).ok()?.len() == 300_000).then_some(()));
    until("the whole tree", PATIENCE, || {
        differences(house.expected(), volume.path(), Demand::LINKED).is_empty().then_some(())
    });
    assert_eq!(fs::metadata(&file).unwrap().ino(), fs::metadata(house.tree().join("deep/data")).unwrap().ino());
}

#[test]
fn what_a_peer_has_no_right_to_is_refused_and_stays_as_it_is() {
    let house = House::ext4();
    let refused = |answer: Response, status: u16, said: &str| {
        let problem = answer.problem();
        assert_eq!(answer.status, status, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(said), "{problem}");
    };
    let volume = house.volume("volume", 0);
    refused(house.fill(Mounted::read_only(volume.path()).path()), 403, "read-only");
    let root_only = File::open(volume.path()).unwrap();
    refused(as_user(POD, || house.fill_with(&root_only, "auto")), 403, "uid 0");
    assert!(is_empty(volume.path()));

    fs::write(volume.path().join("theirs"), "keep").unwrap();
    refused(house.fill(volume.path()), 409, "not empty");
    refused(house.fill(&volume.path().join("theirs")), 400, "a file");
    let (socket, _other) = UnixStream::pair().unwrap();
    let body = json!({"target": "x"});
    let path = "/v1/artifacts/kinds/versions/1/fill";
    refused(post(&house.node.socket(), path, &body, &socket), 400, "fifo or socket");
    refused(house.node.post_json(Over::Socket, path, &body), 400, "no descriptor");
    refused(house.node.post_json(Over::Tcp, path, &body), 400, "no descriptor");
    assert_eq!(fs::read_to_string(volume.path().join("theirs")).unwrap(), "keep");
    assert_eq!(walk(volume.path()).len(), 1);

    let stray = house.node.store().join("versions/stray");
    fs::create_dir(&stray).unwrap();
    refused(house.fill(&stray), 403, "the store");
    refused(house.fill(Mounted::bind(&stray).path()), 403, "the store");
    refused(house.fill(&house.node.tree("kinds", "1").join("empty")), 403, "the store");
    refused(house.fill(house.node.store()), 403, "the store");
    refused(house.fill(house.disk.path()), 403, "the store");
    let moved = house.disk.path().join("moved");
    fs::create_dir(&moved).unwrap();
    fs::write(moved.join(".seedcache"), "").unwrap();
    refused(house.fill(&moved), 409, "not empty");
    let empty = house.volume("empty", 0);
    let unknown =
        post(&house.node.socket(), "/v1/artifacts/kinds/versions/9/fill", &body, File::open(empty.path()).unwrap());
    assert_eq!(unknown.status, 404, "{}", unknown.text());
}

#[test]
fn where_nothing_can_be_linked_the_client_is_told_why() {
    let house = House::ext4();
    let empty = house.volume("volume", 0);
    let dir = File::open(empty.path()).unwrap();
    assert!(house.received(&house.fill_with(&dir, "copy")).contains("asked for"));
    for other in [Mounted::tmpfs(), Mounted::overlay()] {
        assert!(house.received(&house.fill(other.path())).contains("different file systems"));
        assert!(is_empty(other.path()));
        let demanded = house.fill_with(&File::open(other.path()).unwrap(), "hardlink");
        assert_eq!(demanded.status, 409, "{}", demanded.text());
        assert_eq!(demanded.problem()["type"], "urn:seedcache:problem:conflict");
    }
}

/// As project quotas have it: nothing is renamed into a directory of another project.
#[test]
fn what_a_project_keeps_out_is_left_to_the_client() {
    let house = House::on(LoopFs::xfs(), every_kind(), &[]);
    let volume = house.volume("volume", 0);
    house.filled(volume.path());
    run("chattr", ["-p", "7", "+P", volume.path().to_str().unwrap()]);
    fs::remove_file(volume.path().join("deep/data")).unwrap();
    run("chattr", ["-p", "7", "+P", volume.path().join("deep").to_str().unwrap()]);
    assert!(house.received(&house.fill(volume.path())).contains("the store's part of the file system"));
    let empty = house.volume("empty", 0);
    run("chattr", ["-p", "7", "+P", empty.path().to_str().unwrap()]);
    assert!(house.received(&house.fill(empty.path())).contains("the store's part of the file system"));
    assert!(is_empty(empty.path()));
}

#[test]
fn a_pod_of_its_own_user_can_do_away_with_what_it_got() {
    // A clone belongs to the pod, whoever may read the store's file.
    for (disk, archive, mode) in
        [(LoopFs::ext4(64), every_kind_for_all(), "hardlink"), (LoopFs::xfs(), every_kind(), "reflink")]
    {
        let house = House::on(disk, archive, &[]);
        let volume = house.volume("volume", POD);
        let dir = File::open(volume.path()).unwrap();
        let answer = as_user(POD, || house.fill_with(&dir, "auto"));
        assert_eq!((answer.status, &answer.json()["mode"]), (200, &mode.into()), "{}", answer.text());
        let check = || {
            for (path, meta) in walk(volume.path()) {
                let owner = if meta.is_file() && mode == "hardlink" { 0 } else { POD };
                assert_eq!(meta.uid(), owner, "{}", path.display());
            }
            assert_same(house.expected(), volume.path(), Demand { owner: false, ..Demand::LINKED });
        };
        check();
        let again = as_user(POD, || house.fill_with(&dir, "auto"));
        assert_eq!(again.json()["changed"], false, "{}", again.text());
        fs::remove_file(volume.path().join("soft")).unwrap();
        let mended = as_user(POD, || house.fill_with(&dir, "auto"));
        assert_eq!(mended.json()["written"], 1, "{}", mended.text());
        fs::remove_dir_all(volume.path().join("deep")).unwrap();
        fs::remove_dir(volume.path().join("empty")).unwrap();
        fs::write(volume.path().join("empty"), "in the way").unwrap();
        let mended = as_user(POD, || house.fill_with(&dir, "auto"));
        assert_eq!(mended.status, 200, "{}", mended.text());
        check();
        as_user(POD, || {
            for entry in fs::read_dir(volume.path()).unwrap().map(Result::unwrap) {
                let (path, kind) = (entry.path(), entry.file_type().unwrap());
                if kind.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
            }
        });
    }
}

#[test]
fn what_a_pod_could_not_read_as_a_hard_link_is_left_to_it() {
    let house = House::ext4();
    let volume = house.volume("volume", POD);
    let dir = File::open(volume.path()).unwrap();
    let why = "only their owner or group may read";
    assert!(house.received(&as_user(POD, || house.fill_with(&dir, "auto"))).contains(why));
    let demanded = as_user(POD, || house.fill_with(&dir, "hardlink"));
    assert!(demanded.status == 409 && demanded.text().contains(why), "{}", demanded.text());
    assert!(is_empty(volume.path()));
    // Nor does a mark help it, be it a good one: root is handed the links, and puts them into the pod's directory.
    assert_eq!(house.filled(volume.path())["mode"], "hardlink");
    fs::remove_file(volume.path().join("deep/data")).unwrap();
    assert!(house.received(&as_user(POD, || house.fill_with(&dir, "auto"))).contains(why));
    assert!(!volume.path().join("deep/data").exists());
}

#[test]
fn a_forged_mark_gives_nobody_what_is_not_theirs() {
    let house = House::on(LoopFs::ext4(64), every_kind_for_all(), &[]);
    let volume = house.volume("volume", POD);
    let dir = File::open(volume.path()).unwrap();
    assert_eq!(as_user(POD, || house.fill_with(&dir, "auto")).status, 200);
    // As if the files were the pod's own: then mending would give them to the pod, and the store's inodes they are.
    let mut mark = vec![0; 4096];
    let length = rustix::fs::getxattr(volume.path(), "user.seedcache", &mut mark).unwrap();
    let mark = String::from_utf8(mark[..length].to_vec()).unwrap();
    let forged = mark.replace("hardlink", "copy");
    assert_ne!(mark, forged);
    let flags = rustix::fs::XattrFlags::REPLACE;
    rustix::fs::setxattr(volume.path(), "user.seedcache", forged.as_bytes(), flags).unwrap();
    let before: Vec<(u32, u32)> = walk(&house.tree()).values().map(|meta| (meta.uid(), meta.mode())).collect();
    assert_eq!(as_user(POD, || house.fill_with(&dir, "auto")).status, 200);
    let after: Vec<(u32, u32)> = walk(&house.tree()).values().map(|meta| (meta.uid(), meta.mode())).collect();
    assert_eq!(before, after);
    assert_same(house.expected(), volume.path(), Demand::CONTENT);
}

#[test]
fn without_the_capability_reflinks_still_work_and_else_the_client_writes() {
    let house = House::on(LoopFs::ext4(64), every_kind(), &WITHOUT);
    let volume = house.volume("volume", 0);
    assert!(house.received(&house.fill(volume.path())).contains("CAP_DAC_READ_SEARCH"));
    assert!(is_empty(volume.path()));
    let pods = house.volume("pods", POD);
    let dir = File::open(pods.path()).unwrap();
    assert!(as_user(POD, || house.received(&house.fill_with(&dir, "auto"))).contains("CAP_DAC_READ_SEARCH"));

    let house = House::on(LoopFs::xfs(), every_kind(), &WITHOUT);
    let volume = house.volume("volume", 0);
    assert_eq!(house.filled(volume.path())["mode"], "reflink");
    assert_same(house.expected(), volume.path(), Demand { mode_mask: 0, ..Demand::EXACT });
    assert_eq!(house.filled(volume.path())["changed"], false);
    fs::write(volume.path().join("deep/second"), "changed").unwrap();
    assert_eq!(house.filled(volume.path())["changed"], true);
    assert_same(house.expected(), volume.path(), Demand { mode_mask: 0, ..Demand::EXACT });
}

#[test]
fn without_the_right_to_give_files_away_the_peer_writes_its_own() {
    let house = House::on(LoopFs::ext4(64), every_kind_for_all(), &["setpriv", "--bounding-set", "-chown"]);
    let pods = house.volume("pods", POD);
    let dir = File::open(pods.path()).unwrap();
    assert!(as_user(POD, || house.received(&house.fill_with(&dir, "auto"))).contains("CAP_CHOWN"));
    assert!(is_empty(pods.path()));
    // Root's own need not be given.
    let volume = house.volume("volume", 0);
    assert_eq!(house.filled(volume.path())["mode"], "hardlink");
}

#[test]
fn a_seed_by_its_parent_is_a_path_seed_only_where_it_is_that_place() {
    let house = House::ext4();
    let socket = house.node.socket();
    let ask = |parent: &Path, target: &str| {
        post(&socket, "/v1/artifacts/kinds/seed", &json!({"target": target}), File::open(parent).unwrap())
    };
    let root = house.node.root();
    let own = ask(root, root.join("mine").to_str().unwrap());
    assert_eq!(own.status, 200, "{}", own.text());
    assert_same(house.expected(), &root.join("mine"), Demand::LINKED);

    let elsewhere = |answer: Response| {
        let problem = answer.problem();
        assert_eq!(problem["type"], "urn:seedcache:problem:not-below-root", "{problem}");
        assert_eq!(problem["version"], "1");
        for digest in ["digest", "treeDigest"] {
            assert!(problem[digest].as_str().unwrap().starts_with("sha256:"), "{problem}");
        }
    };
    let volume = house.volume("volume", 0);
    // The daemon has a place of that name, but it is another.
    elsewhere(ask(volume.path(), root.join("mine").to_str().unwrap()));
    elsewhere(ask(volume.path(), "/data/kinds"));
    assert!(is_empty(volume.path()));

    let held = |state: &Value| state["seeds"][0]["version"] == "1";
    house.node.wait_state("kinds", "the declared seed", PATIENCE, held);
    let (declared, plain) = (Mounted::bind(&root.join("declared")), File::open(root).unwrap());
    let parent = File::open(declared.path()).unwrap();
    let as_pod = |parent: &File, body: Value| as_user(POD, || post(&socket, "/v1/artifacts/kinds/seed", &body, parent));
    let there = as_pod(&parent, json!({"target": "/data/here"}));
    assert_eq!((there.status, &there.json()["changed"]), (200, &false.into()), "{}", there.text());
    elsewhere(as_pod(&parent, json!({"target": "/data/there"})));
    elsewhere(as_pod(&parent, json!({"target": "/data/here", "force": true})));
    elsewhere(as_pod(&plain, json!({"target": root.join("pods").to_str().unwrap()})));
    assert!(!root.join("pods").exists());
}

#[test]
fn whatever_peers_send_nothing_stays_open() {
    let house = House::ext4();
    let volume = house.volume("volume", 0);
    let dir = File::open(volume.path()).unwrap();
    let socket = house.node.socket();
    let path = "/v1/artifacts/kinds/versions/1/fill";
    let before = until("the daemon to be at rest", PATIENCE, || {
        let first = house.descriptors();
        (0..20).all(|_| house.descriptors() == first).then_some(first)
    });
    let many: Vec<BorrowedFd<'_>> = vec![dir.as_fd(); 60];
    for count in [2, 3, 60] {
        try_post(&socket, path, &json!({"target": "x"}), &many[..count]).expect_err("the connection ends");
    }
    let mut unfinished = Vec::new();
    for round in 0..200 {
        let stream = UnixStream::connect(&socket).unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n");
        let bytes = [&b"P"[..], head.as_bytes()][round % 2];
        send(&stream, bytes, &many[..1]).unwrap();
        match round % 3 {
            0 => drop(stream),
            _ => unfinished.push(stream),
        }
    }
    // A second one while the first waits.
    for mut stream in unfinished {
        if send(&stream, b"x", &many[..1]).is_ok() {
            let _ = stream.read(&mut [0; 1]);
        }
    }
    // Where none is expected.
    for _ in 0..50 {
        let answer = post(&socket, "/v1/gc?dryRun=true", &json!({}), &dir);
        assert!(answer.status < 300, "{}", answer.text());
    }
    until("all descriptors to be closed", PATIENCE, || (house.descriptors() <= before + 2).then_some(()));
    house.filled(volume.path());
}

/// A pod that swaps what it got for links to elsewhere, again and again while it is filled and mended.
#[test]
fn swapped_components_lead_nowhere() {
    let mut archive = Archive::new().dir("top/", 0o755);
    for number in 0..40 {
        archive = archive
            .dir(&format!("top/d{number}/"), 0o755)
            .dir(&format!("top/d{number}/sub/"), 0o755)
            .file(&format!("top/d{number}/sub/file"), 0o644, &noise(number, 100))
            .file(&format!("top/d{number}/file"), 0o644, b"x");
    }
    let house = House::on(LoopFs::ext4(64), archive.tgz(), &[]);
    let outside = house.volume("outside", 0);
    fs::create_dir(outside.path().join("sub")).unwrap();
    fs::write(outside.path().join("file"), "theirs").unwrap();
    let volume = house.volume("volume", POD);
    let before = |path: &Path| {
        let meta = fs::symlink_metadata(path).unwrap();
        (meta.ino(), meta.uid(), meta.mode(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec())
    };
    let watched = ["", "sub", "file"].map(|name| outside.path().join(name));
    let was = watched.each_ref().map(|path| before(path));
    let stop = AtomicBool::new(false);
    let (mut fills, mut swaps) = (0, 0u64);
    std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            let mut swaps = 0u64;
            while !stop.load(Ordering::Relaxed) {
                for number in 0..40 {
                    let component = volume.path().join(format!("d{number}"));
                    let aside = volume.path().join(format!("aside{number}"));
                    if fs::rename(&component, &aside).is_ok() {
                        let _ = symlink(outside.path(), &component);
                        let _ = fs::remove_file(&component);
                        let _ = symlink(outside.path(), aside.join("sub2"));
                        let _ = fs::rename(aside.join("sub"), aside.join("sub1"));
                        let _ = fs::rename(aside.join("sub2"), aside.join("sub"));
                        let _ = fs::rename(&aside, &component);
                        swaps += 1;
                    }
                }
            }
            swaps
        });
        let began = std::time::Instant::now();
        while fills < 3000 && began.elapsed() < Duration::from_secs(8) {
            let name = volume.path().join("new");
            // Now one that was filled before and is swapped about, now a new one.
            if fills % 3 == 0 {
                let _ = fs::create_dir(&name);
                chown(&name, Some(POD), Some(POD)).unwrap();
                let dir = File::open(&name).unwrap();
                let _ = as_user(POD, || house.fill_with(&dir, "auto"));
                fs::remove_dir_all(&name).unwrap();
            }
            let dir = File::open(volume.path()).unwrap();
            let answer = as_user(POD, || house.fill_with(&dir, "auto"));
            assert!(matches!(answer.status, 200 | 409 | 500), "{}", answer.text());
            fills += 1;
        }
        stop.store(true, Ordering::Relaxed);
        swaps = swapper.join().unwrap();
    });
    assert!(fills > 20 && swaps > 1000, "{fills} fills, {swaps} swaps");
    assert_eq!(watched.each_ref().map(|path| before(path)), was, "something outside was changed");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 2);
    assert!(is_empty(&outside.path().join("sub")));
    house.node.cli(&["verify", "kinds"]).ok();
}

/// Run by itself, and once more under valgrind.
#[test]
fn handles_are_taken_and_opened() {
    assert!(is_root(), "run these tests as root");
    let scratch = scratch();
    let top = Dir::open(scratch.path()).unwrap();
    for name in ["a", "b"] {
        let made = Dir::create_all(&scratch.path().join(name)).unwrap();
        let (again, handle) = made.reopened_through(&top).unwrap();
        assert_eq!(again.stat_self().unwrap().stamp.ino, made.stat_self().unwrap().stamp.ino);
        drop((again, made));
        fs::remove_dir(scratch.path().join(name)).unwrap();
        assert!(matches!(top.open_by_handle(&handle, Path::new(name)), Err(HandleError::Stale)));
    }
    let longest = format!("00000001{}", "ff".repeat(128)).parse().unwrap();
    top.open_by_handle(&longest, Path::new("x")).unwrap_err();
}

#[test]
fn valgrind_finds_nothing_in_what_is_unsafe() {
    let own = std::env::current_exe().unwrap();
    let mut valgrind = Command::new(tool("valgrind"));
    valgrind.args(["--quiet", "--error-exitcode=99", "--leak-check=no"]).arg(own);
    valgrind.args(["--exact", "descriptor::handles_are_taken_and_opened", "--test-threads=1"]);
    let output = valgrind.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{}: {said}", output.status);
}
