//! Seeding as a whole, on real directories.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use jiff::Timestamp;
use sha2::Digest as _;
use tempfile::TempDir;

use super::*;
use crate::fs::{Dir, LinkMode, Meta, RelPath};
use crate::intent::{ArtifactName, Digest, Link, Swap, VersionName};
use crate::store::{Entry, EntryType, NewVersion, ResolvedFrom, Store, Version, store_mode};

mod again;
mod hanging;
mod owned;
mod peers;
mod rendered;
mod swaps;
mod unread;

/// A store and a seed root of their own.
struct House {
    dir: TempDir,
    store: Arc<Store>,
    seeder: Arc<Seeder>,
}

/// What a test tree is made of; sorted by path.
enum Thing {
    Dir(&'static str, u32),
    File(&'static str, u32, String),
    Symlink(&'static str, &'static str),
    Link(&'static str, &'static str),
}
use Thing::{Dir as D, File as F, Link as L, Symlink as S};

fn path(text: &str) -> RelPath {
    text.parse().unwrap()
}

/// Every entry has a time of its own.
fn time(i: usize) -> Timestamp {
    Timestamp::new(1_600_000_000 + i as i64, 123_456_789).unwrap()
}

fn place(tree: &Dir, root: &Path, thing: &Thing, i: usize) -> Entry {
    let (name, kind, mode, content, target) = match thing {
        D(name, mode) => (name, EntryType::Dir, *mode, None, None),
        F(name, mode, content) => (name, EntryType::File, *mode, Some(content), None),
        S(name, target) => (name, EntryType::Symlink, 0o777, None, Some(*target)),
        L(name, target) => (name, EntryType::Hardlink, 0o644, None, Some(*target)),
    };
    let (rel, at) = (path(name), root.join(name));
    match kind {
        EntryType::Dir => fs::create_dir(&at).unwrap(),
        EntryType::File => fs::write(&at, content.unwrap()).unwrap(),
        EntryType::Symlink => symlink(target.unwrap(), &at).unwrap(),
        EntryType::Hardlink => fs::hard_link(root.join(target.unwrap()), &at).unwrap(),
    }
    let found = fs::symlink_metadata(&at).unwrap();
    let mut entry = Entry {
        path: rel,
        kind,
        mode,
        uid: found.uid(),
        gid: found.gid(),
        mtime: time(i),
        size: if found.is_file() { found.len() } else { 0 },
        sha256: content.map(|content| sha2::Sha256::digest(content).into()),
        target: target.map(|target| target.as_bytes().to_vec()),
    };
    let meta = |mode| Meta { mode, owner: None, mtime: entry.mtime_parts() };
    match kind {
        EntryType::File => {
            crate::fs::apply_meta(fs::File::open(&at).unwrap(), &at, &meta(store_mode(mode))).unwrap();
        }
        EntryType::Symlink => tree.apply_symlink_meta(&entry.path, &meta(0)).unwrap(),
        EntryType::Hardlink => {
            let modified = Timestamp::try_from(found.modified().unwrap()).unwrap();
            (entry.mtime, entry.mode) = (modified, found.mode() & 0o777);
        }
        EntryType::Dir => {}
    }
    entry
}

impl House {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("root/.seedcache")).unwrap());
        let seeder = Arc::new(Seeder::open(&dir.path().join("root"), store.clone()).unwrap());
        Self { dir, store, seeder }
    }

    fn at(&self, rel: &str) -> PathBuf {
        self.dir.path().join("root").join(rel)
    }

    fn publish(&self, version: &str, things: &[Thing]) -> Version {
        self.publish_owned(version, things, None)
    }

    /// Files belong to `owner`.
    fn publish_owned(&self, version: &str, things: &[Thing], owner: Option<u32>) -> Version {
        let (artifact, version): (ArtifactName, VersionName) = ("thing".parse().unwrap(), version.parse().unwrap());
        let staging = self.store.staging(&artifact).unwrap();
        let tree = staging.fresh_tree().unwrap();
        let root = tree.path().to_owned();
        let mut entries: Vec<Entry> =
            things.iter().enumerate().map(|(i, thing)| place(&tree, &root, thing, i)).collect();
        for entry in entries.iter_mut().filter(|entry| owner.is_some() && entry.kind == EntryType::File) {
            std::os::unix::fs::chown(root.join(entry.path.as_path()), owner, owner).unwrap();
            (entry.uid, entry.gid) = (owner.unwrap(), owner.unwrap());
        }
        for entry in entries.iter().rev().filter(|entry| entry.kind == EntryType::Dir) {
            let meta = Meta { mode: store_mode(entry.mode), owner: None, mtime: entry.mtime_parts() };
            tree.open_dir(&entry.path).unwrap().apply_meta(&meta).unwrap();
        }
        let digest = Digest::sha256(version.as_str().as_bytes());
        let new = NewVersion {
            artifact: artifact.clone(),
            version: version.clone(),
            source_url: "file:thing".into(),
            verified_by: vec![digest.clone()],
            recipe: digest.clone(),
            digest,
            size: 1,
            resolved_from: ResolvedFrom::default(),
            keep_archive: false,
            entries,
        };
        self.store.publish(&staging, new, Timestamp::now()).unwrap();
        self.store.open_version(&artifact, &version).unwrap()
    }

    fn ask(&self, version: &Version, request: &Request) -> Result<Seeded, SeedError> {
        self.seeder.seed(version, request, &SeedProgress::default())
    }

    fn seed(&self, version: &Version, link: Link) -> Seeded {
        self.ask(version, &to("pod/data", link)).unwrap()
    }

    /// Removes a seed, read-only directories in it and all.
    fn remove(&self, rel: &str) {
        Dir::open(&self.at("")).unwrap().remove_tree(&path(rel)).unwrap();
    }

    /// Nothing is left beside a target.
    fn assert_tidy(&self, dir: &str) {
        self.seeder.retired.remove(std::time::Duration::ZERO);
        for entry in fs::read_dir(self.at(dir)).unwrap() {
            let name = entry.unwrap().file_name();
            assert!(!name.to_string_lossy().contains(".seedcache-"), "{name:?} is left");
        }
    }
}

/// What the temporary directory alone would leave: read-only directories, when this is not root.
impl Drop for House {
    fn drop(&mut self) {
        let _ = Dir::open(self.dir.path()).and_then(|dir| dir.clear());
    }
}

fn to(target: &str, link: Link) -> Request {
    Request { target: path(target), link, swap: None, force: false, rendered: None, only_rendered: false }
}

fn forced(target: &str) -> Request {
    Request { force: true, ..to(target, Link::Auto) }
}

fn platform(stamp: &str) -> Vec<Thing> {
    vec![
        D("platform", 0o755),
        D("platform/empty", 0o700),
        D("platform/etc", 0o555),
        F("platform/etc/version", 0o644, format!("{stamp}\n")),
        L("platform/etc/version.link", "platform/etc/version"),
        D("platform/kernel", 0o755),
        F("platform/kernel/unix", 0o755, format!("unix of {stamp}")),
        F("platform/kernel/zero", 0o600, String::new()),
        S("platform/latest", "kernel/unix"),
    ]
}

/// Everything that a tree shows: type, mode, mtime, size or target, content; by path.
fn shape(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut shapes = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let at = entry.unwrap().path();
            let meta = fs::symlink_metadata(&at).unwrap();
            let what = if meta.is_symlink() {
                format!("-> {}", fs::read_link(&at).unwrap().display())
            } else if meta.is_dir() {
                todo.push(at.clone());
                format!("dir {:o}", meta.mode() & 0o7777)
            } else {
                format!("{:o} {}", meta.mode() & 0o7777, fs::read_to_string(&at).unwrap())
            };
            let text = format!("{what} {}.{}", meta.mtime(), meta.mtime_nsec());
            shapes.insert(at.strip_prefix(root).unwrap().to_owned(), text);
        }
    }
    shapes
}

fn inodes(root: &Path) -> Vec<(PathBuf, u64, i64)> {
    let seen = |rel: PathBuf| {
        let meta = fs::symlink_metadata(root.join(&rel)).unwrap();
        (rel, meta.ino(), meta.ctime() * 1_000_000_000 + meta.ctime_nsec())
    };
    shape(root).into_keys().map(seen).collect()
}

fn ino(at: &Path) -> u64 {
    fs::symlink_metadata(at).unwrap().ino()
}

/// What a seed of `things` shows when its files have inodes of their own.
fn expected(things: &[Thing]) -> BTreeMap<PathBuf, String> {
    let line = |(i, thing): (usize, &Thing)| {
        let (name, what) = match thing {
            D(name, mode) => (name, format!("dir {mode:o}")),
            F(name, mode, content) => (name, format!("{mode:o} {content}")),
            S(name, target) => (name, format!("-> {target}")),
            L(name, target) => {
                let (at, first) =
                    things.iter().enumerate().find(|(_, t)| matches!(t, F(n, ..) if n == target)).unwrap();
                let F(_, mode, content) = first else { unreachable!() };
                return (name.into(), format!("{mode:o} {content} {}.123456789", time(at).as_second()));
            }
        };
        (name.into(), format!("{what} {}.123456789", time(i).as_second()))
    };
    things.iter().enumerate().map(line).collect()
}

#[test]
fn a_fresh_seed_has_all_that_the_version_has() {
    let house = House::new();
    let version = house.publish("v1", &platform("v1"));
    let done = house.seed(&version, Link::Copy);
    assert_eq!((done.mode, done.reason.clone(), done.changed, done.written), (LinkMode::Copy, None, true, 9));
    assert_eq!((done.files, done.bytes), (3, 13));
    assert_eq!(done.target, house.at("pod/data").display().to_string());
    let target = house.at("pod/data");
    assert_eq!(shape(&target), expected(&platform("v1")));
    assert_eq!(fs::metadata(&target).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(house.at("pod")).unwrap().mode() & 0o7777, 0o755);
    let etc = target.join("platform/etc");
    assert_eq!(ino(&etc.join("version")), ino(&etc.join("version.link")));
    house.assert_tidy("pod");
}

#[test]
fn a_hard_linked_seed_shares_the_stores_inodes() {
    let house = House::new();
    let version = house.publish("v1", &platform("v1"));
    let done = house.seed(&version, Link::Hardlink);
    assert_eq!((done.mode, done.reason), (LinkMode::Hardlink, None));
    let target = house.at("pod/data");
    for name in ["platform/kernel/unix", "platform/kernel/zero", "platform/etc/version", "platform/etc/version.link"] {
        assert_eq!(ino(&target.join(name)), ino(&version.tree().path().join(name)), "{name}");
    }
    let modes = |name| fs::metadata(target.join(name)).unwrap().mode() & 0o7777;
    assert_eq!((modes("platform/kernel/unix"), modes("platform/etc"), modes("platform/empty")), (0o555, 0o555, 0o700));
}

#[test]
fn who_holds_the_stores_own_files_is_known_at_once() {
    let house = House::new();
    let version = house.publish("v1", &platform("1"));
    let linked = || house.seeder.is_linked(&version.head().artifact, &version.head().version);
    house.seed(&version, Link::Copy);
    assert!(!linked());
    house.ask(&version, &to("linked", Link::Hardlink)).unwrap();
    assert!(linked());
    let other = house.publish("v2", &platform("2"));
    assert!(!house.seeder.is_linked(&other.head().artifact, &other.head().version));
}

#[test]
fn auto_says_why_it_is_not_the_best() {
    let house = House::new();
    let version = house.publish("v1", &platform("v1"));
    let done = house.seed(&version, Link::Auto);
    // Whether there are reflinks is the file system's; that the reason goes with the mode is ours.
    assert_eq!(done.reason.is_none(), done.mode == LinkMode::Reflink);
    assert_ne!(done.mode, LinkMode::Copy);
    if done.mode == LinkMode::Hardlink {
        assert_eq!(done.reason.as_deref(), Some("no reflink: the file system has no reflinks"));
        let refused = house.ask(&version, &to("pod/other", Link::Reflink)).unwrap_err();
        assert!(matches!(refused, SeedError::LinkRefused { mode: LinkMode::Reflink, .. }), "{refused}");
        assert!(!house.at("pod/other").exists());
        house.assert_tidy("pod");
    }
    let again = house.seed(&version, Link::Auto);
    assert_eq!((again.mode, again.reason, again.changed), (done.mode, done.reason, false));
}

#[test]
fn a_new_version_comes_whole_and_nothing_of_the_old_stays() {
    let house = House::new();
    house.seed(&house.publish("v1", &platform("v1")), Link::Copy);
    fs::write(house.at("pod/data/platform/own"), "the pod's").unwrap();
    let next = vec![D("boot", 0o755), F("boot/unix", 0o644, "v2".into())];
    let done = house.seed(&house.publish("v2", &next), Link::Copy);
    assert_eq!((done.version.as_str(), done.changed), ("v2", true));
    assert_eq!(shape(&house.at("pod/data")), expected(&next));
    house.assert_tidy("pod");
    let records = house.seeder.records();
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].target.clone(), records[0].version.as_str()), (path("pod/data"), "v2"));
}

#[test]
fn who_was_on_the_way_through_the_old_tree_gets_there() {
    let house = House::new();
    house.seed(&house.publish("v1", &platform("v1")), Link::Auto);
    // As the resolution of a path does between two components.
    let old = Dir::open(&house.at("pod/data")).unwrap();
    house.seed(&house.publish("v2", &platform("v2")), Link::Auto);
    house.seed(&house.publish("v3", &platform("v3")), Link::Auto);
    house.seeder.remove_retired();
    assert!(old.open_file(&path("platform/kernel/unix")).is_ok());
    house.assert_tidy("pod");
    assert!(old.open_file(&path("platform/kernel/unix")).is_err());
}

#[test]
fn targets_do_not_lie_in_one_another_or_in_the_store() {
    let house = House::new();
    let version = house.publish("v1", &platform("v1"));
    house.seed(&version, Link::Copy);
    for nested in ["pod", "pod/data/platform/more"] {
        let error = house.ask(&version, &forced(nested)).unwrap_err();
        assert!(matches!(error, SeedError::Nested { .. }), "{error}");
    }
    let error = house.ask(&version, &forced(".seedcache/versions/x")).unwrap_err();
    assert!(matches!(error, SeedError::Target(TargetError::InStore { .. })), "{error}");
    house.remove("pod/data");
    house.ask(&version, &forced("pod")).unwrap();
    let inside = Seeder::open(&house.at(".seedcache/seeds"), house.store.clone()).unwrap_err();
    assert!(matches!(inside, SeedError::RootInStore { .. }), "{inside}");
}

#[test]
fn symlinks_on_the_way_are_refused_and_lead_nowhere() {
    let house = House::new();
    let version = house.publish("v1", &platform("v1"));
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), house.at("way")).unwrap();
    fs::write(house.at("file"), "").unwrap();
    for target in ["way/data", "way/a/b", "file/data"] {
        let error = house.ask(&version, &forced(target)).unwrap_err();
        assert!(matches!(error, SeedError::InTheWay { .. }), "{error}");
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    house.ask(&version, &forced("way")).unwrap();
    assert!(house.at("way/platform").is_dir());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn leftovers_of_a_crash_are_cleared() {
    let house = House::new();
    let version = house.publish("v1", &platform("v1"));
    fs::create_dir_all(house.at("pod/.data.seedcache-abcdefghijkl/half")).unwrap();
    fs::create_dir_all(house.at("pod/.database.seedcache-abcdefghijkl")).unwrap();
    house.seed(&version, Link::Copy);
    assert!(!house.at("pod/.data.seedcache-abcdefghijkl").exists());
    assert!(house.at("pod/.database.seedcache-abcdefghijkl").exists());
    let long = "x".repeat(255);
    house.ask(&version, &to(&long, Link::Copy)).unwrap();
    assert!(house.at(&long).is_dir());
}

#[test]
fn many_askers_get_one_result() {
    let house = House::new();
    let version = house.publish("v1", &platform("v1"));
    let changed: Vec<bool> = std::thread::scope(|scope| {
        let askers: Vec<_> = (0..8).map(|_| scope.spawn(|| house.seed(&version, Link::Auto).changed)).collect();
        askers.into_iter().map(|asker| asker.join().unwrap()).collect()
    });
    assert_eq!(changed.iter().filter(|&&changed| changed).count(), 1);
    house.assert_tidy("pod");
}

#[test]
fn a_reader_never_finds_it_missing_or_mixed() {
    let house = House::new();
    // Each only once: one that came back between two reads would look like one that had stayed.
    let versions: Vec<Version> = (0..24).map(|i| format!("v{i}")).map(|v| house.publish(&v, &platform(&v))).collect();
    house.seed(&versions[0], Link::Auto);
    let done = AtomicBool::new(false);
    let read = |name: &str| fs::read_to_string(house.at("pod/data/platform").join(name)).unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut rounds = 0u32;
            while !done.load(SeqCst) || rounds == 0 {
                let (before, unix, after) = (read("etc/version"), read("kernel/unix"), read("etc/version"));
                if before == after {
                    assert_eq!(unix, format!("unix of {}", before.trim()));
                }
                rounds += 1;
            }
        });
        for version in &versions[1..] {
            assert!(house.seed(version, Link::Auto).changed);
        }
        done.store(true, SeqCst);
        reader.join().unwrap();
    });
}

#[test]
fn many_entries_come_right_on_many_threads() {
    let house = House::new();
    let names: Vec<String> = (0..40).map(|i| format!("d{i:02}")).collect();
    let names: &'static [String] = names.leak();
    let mut things = Vec::new();
    for name in names {
        things.push(D(name, 0o755));
        for i in 0..15 {
            things.push(F(format!("{name}/f{i:02}").leak(), 0o644, format!("{name} {i}")));
        }
    }
    let version = house.publish("v1", &things);
    for link in [Link::Copy, Link::Hardlink] {
        let progress = SeedProgress::default();
        let done = house.seeder.seed(&version, &to("pod/data", link), &progress).unwrap();
        assert_eq!((done.written, progress.entries.into_inner()), (640, 640));
        assert_eq!(progress.bytes.into_inner(), done.bytes);
        assert!(!house.seed(&version, link).changed);
        fs::remove_dir_all(house.at("pod/data/d07")).unwrap();
        assert_eq!(house.seed(&version, link).written, 16);
    }
}

#[test]
fn an_empty_tree_is_a_seed_too() {
    let house = House::new();
    let version = house.publish("v1", &[]);
    let done = house.seed(&version, Link::Auto);
    assert_eq!((done.changed, done.reason), (true, None));
    assert!(!house.seed(&version, Link::Auto).changed);
}
