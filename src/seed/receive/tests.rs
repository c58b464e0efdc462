//! Streams that are the manifest's tree, and streams that nearly are.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use jiff::Timestamp;
use tar::{Builder, EntryType as Flag, Header};

use super::*;
use crate::store::{ManifestHead, tree_digest};

/// Makes a good tree another one, and what is then said.
type Change<'a> = (&'a dyn Fn(&mut Vec<Thing>), &'a str);
/// An entry, and its content or nothing.
type Thing = (Entry, Vec<u8>);

fn thing(path: &str, kind: EntryType, mode: u32, content: &[u8], target: Option<&str>) -> Thing {
    let entry = Entry {
        path: path.parse().unwrap(),
        kind,
        mode,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime: Timestamp::new(1_600_000_000, 0).unwrap(),
        size: content.len() as u64,
        sha256: (kind == EntryType::File).then(|| Sha256::digest(content).into()),
        target: target.map(|target| target.as_bytes().to_vec()),
    };
    (entry, content.to_vec())
}

fn things() -> Vec<Thing> {
    let long = format!("deep/{}/{}", "d".repeat(200), "f".repeat(250));
    let mut things = vec![
        thing("a", EntryType::File, 0o640, b"first", None),
        thing("closed", EntryType::Dir, 0o500, b"", None),
        thing("closed/in", EntryType::File, 0o444, &[7; 100_000], None),
        thing("deep", EntryType::Dir, 0o755, b"", None),
        thing(&format!("deep/{}", "d".repeat(200)), EntryType::Dir, 0o751, b"", None),
        thing(&long, EntryType::File, 0o755, b"long", None),
        thing("empty", EntryType::File, 0o600, b"", None),
        thing("hard", EntryType::Hardlink, 0o640, b"", Some("a")),
        thing("soft", EntryType::Symlink, 0o777, b"", Some("deep/../a")),
    ];
    things.sort_by(|a, b| a.0.path.cmp(&b.0.path));
    things
}

fn manifest(things: &[Thing]) -> Manifest {
    let entries: Vec<Entry> = things.iter().map(|(entry, _)| entry.clone()).collect();
    let (bytes, files) = (0, 0);
    let head = ManifestHead { tree_digest: tree_digest(&entries), bytes, files, ..ManifestHead::sample("thing", "v1") };
    Manifest { head, entries }
}

fn stream(things: &[Thing]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (entry, content) in things {
        let mut header = Header::new_gnu();
        header.set_mode(0o7);
        header.set_uid(12345);
        header.set_gid(12345);
        header.set_mtime(1);
        header.set_size(content.len() as u64);
        let path = entry.path.to_string();
        let target = entry.target.as_deref().map(|target| std::str::from_utf8(target).unwrap());
        let flag = match entry.kind {
            EntryType::Dir => Flag::Directory,
            EntryType::File => Flag::Regular,
            EntryType::Symlink => Flag::Symlink,
            EntryType::Hardlink => Flag::Link,
        };
        header.set_entry_type(flag);
        match target {
            Some(target) => tar.append_link(&mut header, path, target).unwrap(),
            None => tar.append_data(&mut header, path, &content[..]).unwrap(),
        }
    }
    tar.into_inner().unwrap()
}

fn into_empty(stream: &[u8], manifest: &Manifest) -> (tempfile::TempDir, Result<u64, ReceiveError>) {
    let dir = tempfile::tempdir().unwrap();
    let received = receive(stream, manifest, &Dir::open(dir.path()).unwrap(), &SeedProgress::default());
    (dir, received)
}

fn holds(at: &Path, things: &[Thing]) {
    for (entry, content) in things {
        let path = at.join(entry.path.as_path());
        let found = std::fs::symlink_metadata(&path).unwrap();
        assert_eq!((found.mtime(), found.mtime_nsec()), (1_600_000_000, 0), "{}", entry.path);
        match entry.kind {
            EntryType::File => assert_eq!(&std::fs::read(&path).unwrap(), content),
            EntryType::Symlink => assert_eq!(std::fs::read_link(&path).unwrap(), Path::new("deep/../a")),
            EntryType::Hardlink => assert_eq!(found.ino(), std::fs::metadata(at.join("a")).unwrap().ino()),
            EntryType::Dir => {}
        }
        if entry.kind != EntryType::Symlink {
            assert_eq!(found.mode() & 0o7777, entry.mode, "{}", entry.path);
        }
    }
}

#[test]
fn a_tree_comes_as_its_manifest_says() {
    let things = things();
    let manifest = manifest(&things);
    let (dir, received) = into_empty(&stream(&things), &manifest);
    assert_eq!(received.unwrap(), things.len() as u64);
    holds(dir.path(), &things);
    assert_eq!(std::fs::metadata(dir.path()).unwrap().mode() & 0o7777, TOP_MODE);
}

#[test]
fn what_is_not_empty_is_not_written_over() {
    let things = things();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a"), "theirs").unwrap();
    let opened = Dir::open(dir.path()).unwrap();
    let refused = receive(&stream(&things)[..], &manifest(&things), &opened, &SeedProgress::default()).unwrap_err();
    assert!(matches!(&refused, ReceiveError::Fs(error) if error.is_exists()), "{refused}");
    assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), b"theirs");
}

#[test]
fn every_difference_is_named() {
    let good = things();
    let manifest = manifest(&good);
    let refused = |change: &dyn Fn(&mut Vec<Thing>)| {
        let mut things = good.clone();
        change(&mut things);
        into_empty(&stream(&things), &manifest).1.unwrap_err().to_string()
    };
    let last = good.len() - 1;
    let table: [Change<'_>; 8] = [
        (&|things| drop(things.pop()), "ended before `soft`"),
        (&|things| drop(things.remove(0)), "`closed` came where the manifest has `a`"),
        (&|things| things.push(thing("z", EntryType::File, 0o644, b"", None)), "`z` came with the tree"),
        (&|things| things.swap(0, 1), "where the manifest has `a`"),
        (&|things| things[0].1 = b"fIrst".to_vec(), "`a` came with another content"),
        (&|things| things[0].1.push(0), "`a` came with another size"),
        (&|things| things[last].0.target = Some(b"../a".to_vec()), "`soft` came with another target"),
        (&|things| things[last].0.kind = EntryType::Hardlink, "`soft` came with another type"),
    ];
    for (number, (change, words)) in table.into_iter().enumerate() {
        let said = refused(change);
        assert!(said.contains(words), "{number}: {said}");
    }
}

#[test]
fn a_stream_cut_anywhere_is_no_tree() {
    let things = things();
    let (manifest, whole) = (manifest(&things), stream(&things));
    // The last block of zeros may go: the one before says that the archive is over.
    for end in (0..whole.len() - 1024).step_by(4 * 512).chain(whole.len() - 1100..whole.len() - 1024) {
        assert!(into_empty(&whole[..end], &manifest).1.is_err(), "cut at {end} of {}", whole.len());
    }
}
