//! The store through its own doors, on a real directory.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]

use std::fs as sys;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use jiff::Timestamp;

use super::*;
use crate::fs::{Dir, Meta, RelPath};
use crate::intent::{ArtifactName, Digest, VersionName};

pub(crate) fn artifact() -> ArtifactName {
    "os".parse().unwrap()
}

pub(crate) fn version(name: &str) -> VersionName {
    name.parse().unwrap()
}

fn path(text: &str) -> RelPath {
    text.parse().unwrap()
}

/// Stages `d/`, `d/f` with `content` and `d/l` -> `f`, as the unpacker would.
fn stage(store: &Store, content: &[u8]) -> (Staging, Vec<Entry>) {
    let staging = store.staging(&artifact()).unwrap();
    let tree = staging.fresh_tree().unwrap();
    tree.make_dir(&path("d"), 0o755).unwrap();
    let mut file = tree.create_file(&path("d/f"), 0o644).unwrap();
    file.write_all(content).unwrap();
    tree.symlink(b"f", &path("d/l")).unwrap();
    let mtime = (1_767_225_600, 7);
    let meta = |mode| Meta { mode, owner: None, mtime };
    crate::fs::apply_meta(&file, Path::new("f"), &meta(0o444)).unwrap();
    tree.apply_symlink_meta(&path("d/l"), &meta(0)).unwrap();
    tree.open_dir(&path("d")).unwrap().apply_meta(&meta(0o555)).unwrap();
    let own = tree.stat_self().unwrap();
    let entry = |name: &str, kind, mode| Entry {
        path: path(name),
        kind,
        mode,
        uid: own.uid,
        gid: own.gid,
        mtime: Timestamp::new(mtime.0, mtime.1 as i32).unwrap(),
        size: 0,
        sha256: None,
        target: None,
    };
    let sha256 = hex::decode(Digest::sha256(content).hex()).unwrap().try_into().ok();
    let entries = vec![
        entry("d", EntryType::Dir, 0o755),
        Entry { size: content.len() as u64, sha256, ..entry("d/f", EntryType::File, 0o644) },
        Entry { target: Some(b"f".into()), ..entry("d/l", EntryType::Symlink, 0o777) },
    ];
    (staging, entries)
}

fn publish_as(
    store: &Store,
    name: &str,
    content: &[u8],
    recipe: &str,
) -> Result<std::sync::Arc<ManifestHead>, PublishError> {
    let (staging, entries) = stage(store, content);
    publish_entries(store, name, content, recipe, &staging, entries)
}

fn publish_entries(
    store: &Store,
    name: &str,
    content: &[u8],
    recipe: &str,
    staging: &Staging,
    entries: Vec<Entry>,
) -> Result<std::sync::Arc<ManifestHead>, PublishError> {
    store.publish(staging, new_version(name, content, recipe, entries), Timestamp::now())
}

fn new_version(name: &str, content: &[u8], recipe: &str, entries: Vec<Entry>) -> NewVersion {
    NewVersion {
        artifact: artifact(),
        version: version(name),
        source_url: "file:///x".into(),
        digest: Digest::sha256(content),
        size: 1,
        verified_by: vec![],
        resolved_from: ResolvedFrom::default(),
        recipe: Digest::sha256(recipe.as_bytes()),
        keep_archive: false,
        entries,
    }
}

fn publish(store: &Store, name: &str, content: &[u8]) {
    publish_as(store, name, content, "recipe").unwrap();
}

fn content_of(version: &Version) -> Vec<u8> {
    let mut bytes = Vec::new();
    version.tree().open_file(&path("d/f")).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn what_was_published_is_there_after_a_restart_and_sound() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let before = {
        let store = Store::open(&root).unwrap();
        publish(&store, "1", b"one");
        publish(&store, "2", b"two");
        store.switch_current(&artifact(), &version("1")).unwrap();
        store.inventory()
    };
    let store = Store::open(&root).unwrap();
    assert_eq!(store.inventory(), before);
    assert_eq!(store.holding(&artifact()).current, Some(version("1")));
    assert_eq!(sys::read(root.join("current/os/d/f")).unwrap(), b"one");
    let opened = store.open_version(&artifact(), &version("2")).unwrap();
    assert_eq!(store.verify(&opened, |_| {}).unwrap(), Report { entries: 3, bytes: 3, ..Report::default() });
    assert_eq!(sys::read_dir(root.join("staging/os")).unwrap().count(), 0);
}

#[test]
fn the_answers_are_the_same_whatever_happened_to_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let before = {
        let store = Store::open(&root).unwrap();
        for i in 0..20 {
            publish(&store, &format!("v{i}"), format!("content {i}").as_bytes());
        }
        store.inventory()
    };
    let noise = |seed: u64| {
        let mut random = fastrand::Rng::with_seed(seed);
        for file in walk(&root.join("index")) {
            let mut bytes = sys::read(&file).unwrap();
            for byte in &mut bytes {
                if random.u8(..) < 32 {
                    *byte = random.u8(..);
                }
            }
            sys::write(&file, bytes).unwrap();
        }
    };
    let damages: [&dyn Fn(); 5] = [
        &|| {},
        &|| sys::remove_dir_all(root.join("index")).unwrap(),
        &|| walk(&root.join("index")).iter().for_each(|f| sys::write(f, b"").unwrap()),
        &|| noise(1),
        &|| noise(2),
    ];
    for (i, damage) in damages.iter().enumerate() {
        damage();
        let store = Store::open(&root).unwrap();
        assert_eq!(store.inventory(), before, "after damage {i}");
    }
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in sys::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

#[test]
fn an_index_that_tells_of_another_state_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let (root, kept) = (dir.path().join("store"), dir.path().join("kept"));
    {
        let store = Store::open(&root).unwrap();
        publish(&store, "1", b"old");
    }
    copy_tree(&root.join("index"), &kept);
    let after = {
        let store = Store::open(&root).unwrap();
        store.remove_version(&artifact(), &version("1"), || true).unwrap();
        publish(&store, "1", b"new bytes");
        publish(&store, "2", b"two");
        store.inventory()
    };
    sys::remove_dir_all(root.join("index")).unwrap();
    copy_tree(&kept, &root.join("index"));
    let store = Store::open(&root).unwrap();
    assert_eq!(store.inventory(), after);
    assert!(!root.join("quarantine/.index").exists(), "the old index was read and held against the manifests");
}

#[test]
fn a_sound_index_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    {
        let store = Store::open(&root).unwrap();
        publish(&store, "1", b"one");
    }
    let store = Store::open(&root).unwrap();
    assert_eq!(store.index.load().len(), 1);
    assert!(!root.join("quarantine/.index").exists());
}

fn copy_tree(from: &Path, to: &Path) {
    sys::create_dir_all(to).unwrap();
    for entry in sys::read_dir(from).unwrap() {
        let entry = entry.unwrap().path();
        let to = to.join(entry.file_name().unwrap());
        if entry.is_dir() { copy_tree(&entry, &to) } else { assert!(sys::copy(&entry, &to).is_ok()) }
    }
}

#[test]
fn a_damaged_manifest_takes_only_its_own_version_out_of_service() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    {
        let store = Store::open(&root).unwrap();
        publish(&store, "1", b"one");
        publish(&store, "2", b"two");
        store.switch_current(&artifact(), &version("2")).unwrap();
    }
    let manifest = root.join("versions/os/2/manifest.json");
    sys::set_permissions(&manifest, sys::Permissions::from_mode(0o644)).unwrap();
    let mut bytes = sys::read(&manifest).unwrap();
    bytes[40] ^= 1;
    sys::write(&manifest, bytes).unwrap();
    let store = Store::open(&root).unwrap();
    let holding = store.holding(&artifact());
    assert_eq!(holding.versions.keys().collect::<Vec<_>>(), [&version("1")]);
    assert_eq!(holding.current, None);
    let reason = sys::read_to_string(root.join("quarantine/os/2/reason.json")).unwrap();
    assert!(reason.contains("checksum"), "{reason}");
    assert!(root.join("quarantine/os/2/version/tree/d/f").is_file());
}

#[test]
fn every_kind_of_damage_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    let tree = root.join("versions/os/1/tree");
    let file = tree.join("d/f");
    let open = |path: &Path| sys::set_permissions(path, sys::Permissions::from_mode(0o755)).unwrap();
    let flip = || {
        let before = sys::metadata(&file).unwrap().modified().unwrap();
        open(&file);
        let written = sys::OpenOptions::new().write(true).open(&file).unwrap();
        written.write_all_at(b"X", 1).unwrap();
        written.set_modified(before).unwrap();
        sys::set_permissions(&file, sys::Permissions::from_mode(0o444)).unwrap();
    };
    let damages: [(&str, &dyn Fn()); 6] = [
        ("d/f", &flip),
        ("d/f", &|| sys::remove_file(&file).unwrap()),
        ("d/f", &|| open(&file)),
        ("d/x", &|| sys::write(tree.join("d/x"), b"").unwrap()),
        ("d/l", &|| {
            sys::remove_file(tree.join("d/l")).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", tree.join("d/l")).unwrap();
        }),
        ("d", &|| {
            sys::remove_dir_all(tree.join("d")).unwrap();
            std::os::unix::fs::symlink("/etc", tree.join("d")).unwrap();
        }),
    ];
    for (i, (entry, damage)) in damages.iter().enumerate() {
        publish(&store, "1", b"content");
        open(&tree.join("d"));
        damage();
        if tree.join("d").is_dir() && !tree.join("d").is_symlink() {
            let time =
                sys::FileTimes::new().set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(1_767_225_600, 7));
            sys::File::open(tree.join("d")).unwrap().set_times(time).unwrap();
            sys::set_permissions(tree.join("d"), sys::Permissions::from_mode(0o555)).unwrap();
        }
        let report = store.verify(&store.open_version(&artifact(), &version("1")).unwrap(), |_| {}).unwrap();
        assert!(report.damage.iter().any(|found| found.path == path(entry)), "damage {i}: {report:?}");
        store.remove_version(&artifact(), &version("1"), || true).unwrap();
    }
}

#[test]
fn what_was_left_out_at_the_start_stands_until_it_is_replaced_and_keeps_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    publish(&store, "1", b"one");
    // As at a start that cannot read it.
    store.forget(&artifact(), &version("1"));
    let refused = publish_as(&store, "1", b"other", "recipe").unwrap_err();
    assert!(matches!(refused, PublishError::OtherBytes { .. }), "{refused}");
    let stands = root.join("versions/os/1/tree/d/f");
    assert_eq!(sys::read(&stands).unwrap(), b"one");
    publish_as(&store, "1", b"one", "another recipe").unwrap();
    assert_eq!(content_of(&store.open_version(&artifact(), &version("1")).unwrap()), b"one");
    // Not to be read at all: it makes way, and nothing of it is left.
    store.forget(&artifact(), &version("1"));
    sys::write(root.join("versions/os/1/manifest.json"), b"damaged").unwrap();
    publish_as(&store, "1", b"other", "recipe").unwrap();
    assert_eq!(sys::read(&stands).unwrap(), b"other");
    assert_eq!(sys::read_dir(root.join("staging/os")).unwrap().count(), 0);
}

#[test]
fn a_file_that_is_renamed_all_the_time_is_not_called_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    let content = vec![7; 16 << 20];
    publish(&store, "1", &content);
    let version = store.open_version(&artifact(), &version("1")).unwrap();
    let [one, other] = ["one", "other"].map(|name| dir.path().join(name));
    sys::hard_link(root.join("versions/os/1/tree/d/f"), &one).unwrap();
    let sha256: [u8; 32] = hex::decode(Digest::sha256(&content).hex()).unwrap().try_into().unwrap();
    let (done, until) = (std::sync::atomic::AtomicBool::new(false), std::time::Instant::now());
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    let judge = || version.judge(&version.tree().open_file(&path("d/f")).unwrap(), &sha256, Path::new("d/f")).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(relaxed) {
                sys::rename(&one, &other).unwrap();
                sys::rename(&other, &one).unwrap();
            }
        });
        loop {
            let judged = judge();
            let waited = until.elapsed() > std::time::Duration::from_secs(60);
            if judged != Judged::Sound || waited {
                done.store(true, relaxed);
                assert_eq!(judged, Judged::Unsettled);
                break;
            }
        }
    });
    assert_eq!(judge(), Judged::Sound);
}

#[test]
fn a_name_never_changes_its_bytes_but_may_be_made_by_another_recipe() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    publish(&store, "1", b"one");
    let refused = publish_as(&store, "1", b"other", "recipe").unwrap_err();
    assert!(matches!(refused, PublishError::OtherBytes { .. }), "{refused}");
    let reader = store.open_version(&artifact(), &version("1")).unwrap();
    let replaced = publish_as(&store, "1", b"one", "another recipe").unwrap();
    assert_eq!(store.head(&artifact(), &version("1")), Some(replaced.clone()));
    assert_eq!(store.manifest(&store.open_version(&artifact(), &version("1")).unwrap()).unwrap().head, *replaced);
    assert_eq!(content_of(&reader), b"one");
}

#[test]
fn a_reader_keeps_a_removed_version_until_it_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    publish(&store, "1", b"one");
    let reader = store.open_version(&artifact(), &version("1")).unwrap();
    store.remove_version(&artifact(), &version("1"), || true).unwrap();
    assert!(matches!(store.open_version(&artifact(), &version("1")), Err(StoreError::NoVersion { .. })));
    store.sweep().unwrap();
    assert_eq!(content_of(&reader), b"one");
    drop(reader);
    store.sweep().unwrap();
    let drained =
        sys::read_dir(root.join("staging")).unwrap().filter(|e| e.as_ref().unwrap().file_name() != "os").count();
    assert_eq!(drained, 0);
}

#[test]
fn one_writer_one_known_format_and_nothing_foreign() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let first = Store::open(&root).unwrap();
    assert!(matches!(Store::open(&root), Err(OpenError::Lock(crate::fs::LockError::Held { .. }))));
    drop(first);
    sys::write(root.join("FORMAT"), "2\n").unwrap();
    assert!(matches!(Store::open(&root), Err(OpenError::Format { found, .. }) if found == "2"));
    let foreign = dir.path().join("home");
    sys::create_dir(&foreign).unwrap();
    sys::write(foreign.join("letter.txt"), "dear").unwrap();
    assert!(matches!(Store::open(&foreign), Err(OpenError::Foreign { .. })));
    assert_eq!(sys::read_dir(&foreign).unwrap().count(), 1);
}

#[test]
fn a_version_directory_that_vanishes_is_found_missing() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    publish(&store, "1", b"one");
    Dir::open(&root).unwrap().remove_tree(&path("versions/os/1")).unwrap();
    assert!(matches!(store.open_version(&artifact(), &version("1")), Err(StoreError::NoVersion { .. })));
    assert_eq!(store.head(&artifact(), &version("1")), None);
}

#[test]
fn bad_downloads_are_put_aside_with_the_reason_and_replace_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    for bytes in [b"first", b"other"] {
        let staging = store.staging(&artifact()).unwrap();
        staging.part().unwrap().write_all(bytes).unwrap();
        let reason = Reason::new("digest", &std::io::Error::other("wrong digest"));
        store.quarantine_download(&artifact(), &staging, &reason).unwrap();
        assert_eq!(sys::read_dir(root.join("staging/os")).unwrap().count(), 0);
    }
    assert_eq!(sys::read(root.join("quarantine/os/.download/archive")).unwrap(), b"other");
    assert!(sys::read_to_string(root.join("quarantine/os/.download/reason.json")).unwrap().contains("wrong digest"));
}

#[test]
fn a_start_writes_nothing_that_is_there_already() {
    use std::os::unix::fs::MetadataExt as _;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    drop(Store::open(&root).unwrap());
    let format = || sys::metadata(root.join("FORMAT")).unwrap().ino();
    // Held open, so that its inode's number is not given to another.
    let (before, _held) = (format(), sys::File::open(root.join("FORMAT")).unwrap());
    drop(Store::open(&root).unwrap());
    assert_eq!(format(), before, "a full disk must not keep the daemon from starting");
}

#[test]
fn a_current_link_never_dangles() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    {
        let store = Store::open(&root).unwrap();
        publish(&store, "1", b"one");
        store.switch_current(&artifact(), &version("1")).unwrap();
    }
    Dir::open(&root).unwrap().remove_tree(&path("versions/os/1")).unwrap();
    std::os::unix::fs::symlink("../versions/other/9/tree", root.join("current/other")).unwrap();
    // Left by a switch that was cut short.
    std::os::unix::fs::symlink("../versions/os/1/tree", root.join("current/.os.seedcache-abcdefghijkl")).unwrap();
    sys::write(root.join("current/.note"), "somebody's own").unwrap();
    let store = Store::open(&root).unwrap();
    assert_eq!(store.holding(&artifact()).current, None);
    let left: Vec<_> = sys::read_dir(root.join("current")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [".note"]);
}

#[test]
fn a_version_whose_manifest_cannot_be_read_is_left_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    {
        let store = Store::open(&root).unwrap();
        publish(&store, "1", b"one");
        publish(&store, "2", b"two");
        store.switch_current(&artifact(), &version("2")).unwrap();
    }
    // A directory in the manifest's place fails the open itself, as a broken disk would.
    let manifest = root.join("versions/os/2/manifest.json");
    sys::remove_file(&manifest).unwrap();
    sys::create_dir(&manifest).unwrap();
    let store = Store::open(&root).unwrap();
    let holding = store.holding(&artifact());
    assert_eq!(holding.versions.keys().collect::<Vec<_>>(), [&version("1")]);
    assert_eq!(holding.current, None);
    assert_eq!(sys::read(root.join("current/os/d/f")).unwrap(), b"two", "its link is left, too");
}

#[test]
fn a_current_link_removed_by_hand_does_not_hold_up_quarantine() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    publish(&store, "1", b"one");
    publish(&store, "2", b"two");
    store.switch_current(&artifact(), &version("1")).unwrap();
    sys::remove_file(root.join("current/os")).unwrap();
    let reason = Reason::new("verify", &std::io::Error::other("bad"));
    store.quarantine_version(&artifact(), &version("1"), &reason).unwrap();
    assert_eq!(store.holding(&artifact()).current, None);
}

#[test]
fn a_quarantine_that_fails_leaves_no_current_that_is_not_linked() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    publish(&store, "1", b"one");
    store.switch_current(&artifact(), &version("1")).unwrap();
    // In the way of the artifact's place in quarantine.
    sys::write(root.join("quarantine/os"), "").unwrap();
    let reason = Reason::new("verify", &std::io::Error::other("bad"));
    store.quarantine_version(&artifact(), &version("1"), &reason).unwrap_err();
    assert!(!root.join("current/os").exists());
    assert_eq!(store.holding(&artifact()).current, None, "the planner must see that there is a link to make");
}

#[test]
fn readers_are_counted_once_nobody_can_open_the_version_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    publish(&store, "1", b"one");
    let reader = store.open_version(&artifact(), &version("1")).unwrap();
    let versions = Dir::open(&root.join("versions/os")).unwrap();
    let readers = || {
        assert!(!root.join("versions/os/1").exists(), "whoever opens it now would not be counted");
        store.close(&artifact(), &version("1"))
    };
    store.drain(&versions, &path("1"), readers).unwrap();
    assert_eq!((content_of(&reader), drained(&root)), (b"one".to_vec(), 1));
    drop(reader);
    store.sweep().unwrap();
    assert_eq!(drained(&root), 0);
}

#[test]
fn a_version_kept_open_is_opened_anew_once_it_is_another() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    publish(&store, "1", b"one");
    assert!(store.version_at_once(&artifact(), &version("1")).is_none(), "nobody asked for it yet");
    let first = store.open_version(&artifact(), &version("1")).unwrap();
    let manifest = store.manifest(&first).unwrap();
    let (again, same) = store.version_at_once(&artifact(), &version("1")).unwrap();
    assert!(again.is_same(&first).unwrap() && std::sync::Arc::ptr_eq(&same, &manifest));
    store.remove_version(&artifact(), &version("1"), || true).unwrap();
    assert!(store.version_at_once(&artifact(), &version("1")).is_none());
    store.open_version(&artifact(), &version("1")).unwrap_err();
    assert_eq!(content_of(&again), b"one", "it is read still");
    publish(&store, "1", b"two");
    assert!(store.version_at_once(&artifact(), &version("1")).is_none());
    assert_eq!(content_of(&store.open_version(&artifact(), &version("1")).unwrap()), b"two");
    drop((first, again));
    store.sweep().unwrap();
    assert_eq!(drained(&dir.path().join("store")), 0);
}

#[test]
fn what_a_late_look_missed_is_not_forgotten_once_it_is_published_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    publish(&store, "1", b"one");
    let late = store.head(&artifact(), &version("1")).unwrap();
    store.remove_version(&artifact(), &version("1"), || true).unwrap();
    publish(&store, "1", b"two");
    store.forget_vanished(&late);
    assert_eq!(content_of(&store.open_version(&artifact(), &version("1")).unwrap()), b"two");
}

#[test]
fn what_is_published_while_another_of_its_name_is_missed_is_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    publish(&store, "1", b"one");
    for _ in 0..1000 {
        let known = store.head(&artifact(), &version("1")).unwrap();
        let anew = std::sync::Arc::new((*known).clone());
        let both = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                both.wait();
                store.forget_vanished(&known);
            });
            both.wait();
            // As a publish does.
            store.change_inventory(|inventory| {
                inventory.entry(artifact()).or_default().versions.insert(version("1"), anew.clone());
            });
        });
        assert!(store.head(&artifact(), &version("1")).is_some_and(|head| std::sync::Arc::ptr_eq(&head, &anew)));
    }
}

#[test]
fn what_is_claimed_up_to_the_last_moment_stays_and_what_goes_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let (key, seeded) = ((artifact(), version("1")), std::sync::atomic::AtomicBool::new(false));
    let (mut kept, mut gone) = (0, 0);
    while kept == 0 || gone == 0 {
        if store.head(&key.0, &key.1).is_none() {
            publish(&store, "1", b"content");
        }
        seeded.store(false, Relaxed);
        std::thread::scope(|scope| {
            // As a seed by hard link does: what it claims is noted before it lets go of the version.
            scope.spawn(|| {
                std::thread::sleep(std::time::Duration::from_micros(fastrand::u64(0..300)));
                store.open_version(&key.0, &key.1).inspect(|_| seeded.store(true, Relaxed)).is_ok()
            });
            std::thread::sleep(std::time::Duration::from_micros(fastrand::u64(0..300)));
            let removed = store.remove_unclaimed(&key.0, &key.1, || seeded.load(Relaxed)).unwrap();
            (kept, gone) = (kept + i32::from(!removed), gone + i32::from(removed));
        });
        assert!(!seeded.load(Relaxed) || store.head(&key.0, &key.1).is_some(), "seeded, and gone");
    }
}

#[test]
fn what_cannot_be_removed_is_opened_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    publish(&store, "1", b"one");
    let manifest = store.manifest(&store.open_version(&artifact(), &version("1")).unwrap()).unwrap();
    // Where it would be moved there is no directory any more.
    sys::remove_dir_all(dir.path().join("store/staging")).unwrap();
    store.remove_unclaimed(&artifact(), &version("1"), || false).unwrap_err();
    let (reader, same) = store.version_at_once(&artifact(), &version("1")).unwrap();
    assert!(std::sync::Arc::ptr_eq(&same, &manifest));
    assert_eq!(content_of(&reader), b"one");
    // Who reads it by then is known of by whoever removes it next.
    assert!(!store.remove_unclaimed(&artifact(), &version("1"), || false).unwrap());
}

#[test]
fn a_version_kept_open_that_is_taken_away_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    publish(&store, "1", b"one");
    drop(store.open_version(&artifact(), &version("1")).unwrap());
    std::fs::remove_dir_all(root.join("versions/os/1")).unwrap();
    store.open_version(&artifact(), &version("1")).unwrap_err();
    assert_eq!(store.head(&artifact(), &version("1")), None);
}

#[test]
fn a_crowd_that_wants_one_manifest_reads_it_once() {
    const CROWD: usize = 16;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let (staging, mut entries) = stage(&store, b"one");
    // So many that one who reads it is at it while the others come.
    entries.extend(
        (0..20_000).map(|at| Entry { path: path(&format!("e{at:05}")), ..entries[0].clone() }).collect::<Vec<_>>(),
    );
    publish_entries(&store, "1", b"one", "recipe", &staging, entries).unwrap();
    let (began, read) = (std::sync::Barrier::new(CROWD), std::sync::Barrier::new(CROWD));
    let one = || {
        let version = store.open_version(&artifact(), &version("1")).unwrap();
        began.wait();
        let manifest = store.manifest(&version).unwrap();
        read.wait();
        std::sync::Arc::as_ptr(&manifest) as usize
    };
    let different: std::collections::BTreeSet<usize> = std::thread::scope(|scope| {
        let crowd: Vec<_> = (0..CROWD).map(|_| scope.spawn(one)).collect();
        crowd.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(different.len(), 1);
}

fn drained(root: &Path) -> usize {
    let names = sys::read_dir(root.join("staging")).unwrap().map(|e| e.unwrap().file_name());
    names.filter(|name| name.as_encoded_bytes().starts_with(b".drain-")).count()
}

/// The content of an inventory, by name and second of publication.
pub(crate) fn inventory_of(versions: &[(&str, i64)]) -> Inventory {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    for (name, second) in versions {
        let (staging, entries) = stage(&store, name.as_bytes());
        let at = Timestamp::from_second(*second).unwrap();
        store.publish(&staging, new_version(name, name.as_bytes(), "recipe", entries), at).unwrap();
    }
    store.inventory()
}

#[test]
fn a_file_is_read_only_in_a_state_that_is_not_known() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let sha256: [u8; 32] = hex::decode(Digest::sha256(b"one").hex()).unwrap().try_into().unwrap();
    let linked = dir.path().join("linked");
    {
        let store = Store::open(&root).unwrap();
        publish(&store, "1", b"one");
        let version = store.open_version(&artifact(), &version("1")).unwrap();
        let stat = || version.tree().stat(&path("d/f")).unwrap().unwrap();
        let published = stat();
        assert!(version.knows(&published, &sha256));
        assert!(!version.knows(&published, &[0; 32]), "the state goes with the digest");
        // A name more changes the ctime: known when followed, else only once it was read.
        let inode = version.tree().path().join("d/f");
        sys::hard_link(&inode, &linked).unwrap();
        assert!(!version.knows(&stat(), &sha256));
        version.follow(&published, &stat(), &sha256);
        assert!(version.knows(&stat(), &sha256) && !version.knows(&published, &sha256));
        sys::remove_file(&linked).unwrap();
        assert!(!version.knows(&stat(), &sha256));
        let file = version.tree().open_file(&path("d/f")).unwrap();
        assert_eq!(version.judge(&file, &sha256, Path::new("d/f")).unwrap(), Judged::Sound);
        assert!(version.knows(&stat(), &sha256));
        store.remember_sound().unwrap();
    }
    {
        let store = Store::open(&root).unwrap();
        let version = store.open_version(&artifact(), &version("1")).unwrap();
        let stat = || version.tree().stat(&path("d/f")).unwrap().unwrap();
        let known = stat();
        assert!(version.knows(&known, &sha256), "over a restart");
        // A byte flipped and the time set back.
        let inode = version.tree().path().join("d/f");
        sys::set_permissions(&inode, sys::Permissions::from_mode(0o644)).unwrap();
        let file = sys::File::options().write(true).open(&inode).unwrap();
        file.write_all_at(b"0", 1).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(known.mtime.0 as u64, known.mtime.1))
            .unwrap();
        sys::set_permissions(&inode, sys::Permissions::from_mode(known.mode)).unwrap();
        assert_eq!((stat().mtime, stat().size, stat().mode), (known.mtime, known.size, known.mode));
        let file = version.tree().open_file(&path("d/f")).unwrap();
        assert_eq!(version.judge(&file, &sha256, Path::new("d/f")).unwrap(), Judged::Damaged);
    }
    let file = root.join("sound");
    let mut bytes = sys::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    sys::write(&file, bytes).unwrap();
    let store = Store::open(&root).unwrap();
    let version = store.open_version(&artifact(), &version("1")).unwrap();
    let stat = version.tree().stat(&path("d/f")).unwrap().unwrap();
    assert!(!version.knows(&stat, &sha256), "a damaged file of what is known tells nothing");
}

#[test]
fn what_a_stranger_did_to_names_is_seen_and_only_that_is_read() {
    use std::ops::ControlFlow::Continue;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    publish(&store, "1", b"one");
    let version = store.open_version(&artifact(), &version("1")).unwrap();
    let telltales = store.telltales(&version).unwrap();
    let bytes = || store.recheck_while(&version, |_| Continue(())).unwrap().unwrap().bytes;
    assert_eq!((telltales.unknown().unwrap(), bytes()), (vec![], 0));
    let inode = version.tree().path().join("d/f");
    let linked = dir.path().join("linked");
    sys::hard_link(&inode, &linked).unwrap();
    sys::remove_file(&linked).unwrap();
    let state = version.tree().stat(&path("d/f")).unwrap().unwrap().stamp;
    assert_eq!(telltales.unknown().unwrap(), [Some(state)]);
    assert_eq!(bytes(), 3);
    assert_eq!((telltales.unknown().unwrap(), bytes()), (vec![], 0));
    sys::set_permissions(&inode, sys::Permissions::from_mode(0o644)).unwrap();
    sys::write(&inode, b"two").unwrap();
    assert_eq!(store.recheck_while(&version, |_| Continue(())).unwrap().unwrap().damaged, 1);
    sys::remove_dir_all(version.tree().path()).unwrap();
    assert_eq!(telltales.unknown().unwrap(), [None]);
}

#[test]
fn a_damaged_version_is_to_be_had_again_until_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    publish(&store, "1", b"one");
    publish(&store, "2", b"two");
    store.switch_current(&artifact(), &version("2")).unwrap();
    let damaged = store.open_version(&artifact(), &version("2")).unwrap();
    let reason = Reason::new(
        "scrub",
        &PublishError::from(crate::fs::Error::new("read", Path::new("x"), std::io::Error::other("bad"))),
    );
    assert!(store.pending_repairs().unwrap().is_empty());
    assert!(store.quarantine_damaged(&damaged, &reason).unwrap());
    assert!(!store.quarantine_damaged(&damaged, &reason).unwrap(), "it is out of service already");
    assert_eq!(store.holding(&artifact()).current, None);
    assert!(!root.join("current/os").exists());
    assert_eq!(content_of(&damaged), b"two", "who reads it goes on");
    drop((damaged, store));
    let store = Store::open(&root).unwrap();
    let pending = store.pending_repairs().unwrap();
    assert_eq!(pending.iter().map(|head| head.version.to_string()).collect::<Vec<_>>(), ["2"]);
    assert_eq!(store.quarantined_archive(&pending[0]).unwrap(), None);
    assert!(store.quarantined_spare().unwrap() < store.quarantined().unwrap());
    store.clear_quarantine(store.age(std::time::Duration::ZERO), true).unwrap();
    assert_eq!(store.pending_repairs().unwrap().len(), 1, "what is to be had again is needed");
    let before = store.open_version(&artifact(), &version("1")).unwrap();
    publish(&store, "2", b"two");
    store.repaired(&pending[0]).unwrap();
    assert!(store.pending_repairs().unwrap().is_empty());
    store.clear_quarantine(store.age(std::time::Duration::ZERO), true).unwrap();
    assert_eq!(store.quarantined().unwrap(), 0);
    // A late report of what was open before the repair does not take the good one.
    let late = store.open_version(&artifact(), &version("2")).unwrap();
    store.remove_version(&artifact(), &version("2"), || true).unwrap();
    publish(&store, "2", b"two");
    assert!(!store.quarantine_damaged(&late, &reason).unwrap());
    assert!(store.quarantine_damaged(&before, &reason).unwrap());
    assert_eq!(store.holding(&artifact()).versions.len(), 1);
}

#[test]
fn a_check_stops_when_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    publish(&store, "1", &vec![7; 1 << 20]);
    let version = store.open_version(&artifact(), &version("1")).unwrap();
    let mut read = 0;
    let stopped = store.verify_while(&version, |bytes| {
        read += bytes;
        if bytes > 0 { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) }
    });
    assert_eq!(stopped.unwrap(), None);
    assert!(read > 0 && read < 1 << 20, "{read}");
    assert_eq!(store.verify(&version, |_| {}).unwrap().bytes, 1 << 20);
}

#[test]
fn what_a_killed_daemon_was_writing_is_gone_after_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(dir.path()).unwrap());
    sys::create_dir(dir.path().join("staging/os")).unwrap();
    let left = [".pins.json.seedcache-abcdefghijk1", "staging/os/.download.json.seedcache-abcdefghijk1"];
    left.iter().for_each(|name| sys::write(dir.path().join(name), "{").unwrap());
    sys::write(dir.path().join("staging/os/archive.part"), "bytes").unwrap();
    drop(Store::open(dir.path()).unwrap());
    assert_eq!(left.map(|name| dir.path().join(name).exists()), [false, false]);
    assert!(dir.path().join("staging/os/archive.part").exists(), "a download is resumed");
}

#[test]
fn current_is_never_switched_to_a_version_that_goes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let link = dir.path().join("current/os");
    let reason = Reason::new("verify", &std::io::Error::other("bad"));
    for removal in [false, true] {
        publish(&store, "1", b"content");
        store.switch_current(&artifact(), &version("1")).unwrap();
        std::thread::scope(|scope| {
            // As the planner does, which sees that nothing is current and the version still there.
            let switching = scope.spawn(|| while store.switch_current(&artifact(), &version("1")).is_ok() {});
            match removal {
                true => assert!(store.remove_version(&artifact(), &version("1"), || true).unwrap()),
                false => store.quarantine_version(&artifact(), &version("1"), &reason).unwrap(),
            }
            switching.join().unwrap();
        });
        assert!(sys::symlink_metadata(&link).is_err(), "it leads nowhere");
        assert_eq!(store.current(&artifact()), None);
    }
}
