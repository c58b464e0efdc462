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

mod claims;
mod current;
mod damage;
mod readers;

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
fn what_was_given_up_while_it_was_published_does_not_come() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let (staging, entries) = stage(&store, b"one");
    let new = new_version("1", b"one", "recipe", entries);
    let refused = store.publish_if(&staging, new, Timestamp::now(), || false).unwrap_err();
    assert!(matches!(refused, PublishError::GivenUp { .. }), "{refused}");
    assert!(store.head(&artifact(), &version("1")).is_none());
    drop(staging);
    publish(&store, "1", b"one");
    assert_eq!(content_of(&store.open_version(&artifact(), &version("1")).unwrap()), b"one");
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
fn a_directory_where_current_belongs_gives_way_while_nothing_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    publish(&store, "1", b"one");
    // As a container's runtime makes it of what a pod mounts before it is there.
    let link = dir.path().join("current/os");
    sys::create_dir(&link).unwrap();
    store.switch_current(&artifact(), &version("1")).unwrap();
    assert_eq!(sys::read_link(&link).unwrap(), Path::new("../versions/os/1/tree"));
    sys::remove_file(&link).unwrap();
    sys::create_dir_all(link.join("theirs")).unwrap();
    store.switch_current(&artifact(), &version("1")).unwrap_err();
    assert!(link.join("theirs").is_dir());
}

#[test]
fn a_start_does_without_an_artifact_that_cannot_be_listed() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = Store::open(dir.path()).unwrap();
        publish(&store, "1", b"one");
        store.switch_current(&artifact(), &version("1")).unwrap();
    }
    let (bad, other) = (dir.path().join("versions/bad"), dir.path().join("current/bad"));
    sys::create_dir_all(bad.join("1")).unwrap();
    std::os::unix::fs::symlink("../versions/bad/1/tree", &other).unwrap();
    sys::set_permissions(&bad, sys::Permissions::from_mode(0o000)).unwrap();
    let store = crate::fs::without_override(|| Store::open(dir.path())).unwrap();
    assert_eq!(store.current(&artifact()), Some(version("1")));
    assert!(other.is_symlink(), "what it leads to may be there");
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
