//! Directory handles against what tries to lead them astray.
#![allow(clippy::unwrap_used)]

use std::fs as sys;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

fn path(text: &str) -> RelPath {
    text.parse().unwrap()
}

#[test]
fn symlinks_are_never_followed_beneath_a_handle() {
    let dir = tempfile::tempdir().unwrap();
    let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
    sys::create_dir(&inside).unwrap();
    sys::create_dir(&outside).unwrap();
    sys::write(outside.join("f"), b"secret").unwrap();
    symlink(&outside, inside.join("link")).unwrap();
    symlink("../out/f", inside.join("f")).unwrap();
    let held = Dir::open(&inside).unwrap();
    assert!(held.open_file(&path("link/f")).is_err());
    assert!(held.open_file(&path("f")).is_err());
    assert!(held.open_dir(&path("link")).is_err());
    assert!(held.create_file(&path("link/new"), 0o644).is_err());
    assert!(held.make_dir(&path("link/new"), 0o755).is_err());
    assert!(held.symlink(b"x", &path("link/new")).is_err());
    assert!(held.rename(&path("f"), &held, &path("link/new"), Rename::Replace).is_err());
    assert!(held.remove_file(&path("link/f")).is_err());
    assert!(held.write_atomic(&path("link/new"), b"x", 0o644).is_err());
    assert!(held.stat(&path("link/f")).is_err());
    assert_eq!(held.stat(&path("f")).unwrap().unwrap().kind, Kind::Symlink);
    held.remove_tree(&path("link")).unwrap();
    assert_eq!(sys::read(outside.join("f")).unwrap(), b"secret");
    assert_eq!(sys::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn a_tree_without_write_bits_is_removed_whole() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("t");
    sys::create_dir_all(tree.join("a/b")).unwrap();
    sys::write(tree.join("a/b/f"), b"x").unwrap();
    for p in ["a/b", "a", ""] {
        sys::set_permissions(tree.join(p), sys::Permissions::from_mode(0o555)).unwrap();
    }
    let held = Dir::open(dir.path()).unwrap();
    held.remove_tree(&path("t")).unwrap();
    held.remove_tree(&path("t")).unwrap();
    assert_eq!(sys::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_fifo_neither_hangs_nor_passes_for_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("mkfifo").arg(dir.path().join("p")).status().unwrap();
    assert!(made.success());
    assert!(Dir::open(dir.path()).unwrap().open_file(&path("p")).is_err());
}

#[test]
fn limits_on_reading_fail_and_do_not_cut() {
    let dir = tempfile::tempdir().unwrap();
    let held = Dir::open(dir.path()).unwrap();
    held.write_atomic(&path("f"), b"12345", 0o644).unwrap();
    assert_eq!(held.read(&path("f"), 5).unwrap(), b"12345");
    assert_eq!(held.read(&path("f"), 4).unwrap_err().kind(), std::io::ErrorKind::FileTooLarge);
}

#[test]
fn metadata_is_set_as_asked_and_copies_are_equal() {
    let dir = tempfile::tempdir().unwrap();
    let held = Dir::open(dir.path()).unwrap();
    let mut from = held.create_file(&path("from"), 0o600).unwrap();
    from.write_all(&[7; 100_000]).unwrap();
    drop(from);
    let from = held.open_file(&path("from")).unwrap();
    let to = held.create_file(&path("to"), 0o600).unwrap();
    let mut told = 0;
    assert_eq!(copy_file(&from, &to, |n| told += n).unwrap(), 100_000);
    assert_eq!(told, 100_000);
    let mut bytes = Vec::new();
    held.open_file(&path("to")).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, [7; 100_000]);
    apply_meta(&to, std::path::Path::new("to"), &Meta { mode: 0o1751, owner: None, mtime: (-5, 3) }).unwrap();
    let stat = held.stat(&path("to")).unwrap().unwrap();
    assert_eq!((stat.mode, stat.mtime, stat.size), (0o1751, (-5, 3), 100_000));
    let nanos = stat.mtime_timestamp().unwrap().as_nanosecond();
    assert_eq!(nanos, -4_999_999_997);
}

#[test]
fn a_mode_is_set_on_what_is_there_and_not_through_a_symlink() {
    let dir = tempfile::tempdir().unwrap();
    let held = Dir::open(dir.path()).unwrap();
    held.write_atomic(&path("file"), b"", 0o600).unwrap();
    held.symlink(b"file", &path("link")).unwrap();
    let _ = held.set_mode(&path("link"), 0o777);
    assert_eq!(held.stat(&path("file")).unwrap().unwrap().mode, 0o600);
    held.set_mode(&path("file"), 0o640).unwrap();
    assert_eq!(held.stat(&path("file")).unwrap().unwrap().mode, 0o640);
}

#[test]
fn exchange_swaps_and_noreplace_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let held = Dir::open(dir.path()).unwrap();
    held.make_dir(&path("a"), 0o755).unwrap();
    held.write_atomic(&path("b"), b"x", 0o644).unwrap();
    assert!(held.rename(&path("a"), &held, &path("b"), Rename::NoReplace).unwrap_err().is_exists());
    held.rename(&path("a"), &held, &path("b"), Rename::Exchange).unwrap();
    assert_eq!(held.stat(&path("a")).unwrap().unwrap().kind, Kind::File);
    assert_eq!(held.stat(&path("b")).unwrap().unwrap().kind, Kind::Dir);
}

#[test]
fn attributes_are_kept_where_the_file_system_has_them() {
    let dir = tempfile::tempdir().unwrap();
    let held = Dir::open(dir.path()).unwrap();
    assert_eq!(held.xattr("user.seedcache").unwrap(), None);
    if held.set_xattr("user.seedcache", b"word").unwrap() {
        assert_eq!(held.xattr("user.seedcache").unwrap(), Some(b"word".to_vec()));
    } else {
        assert_eq!(held.xattr("user.seedcache").unwrap(), None);
    }
}

#[test]
fn a_fifo_where_a_file_is_named_does_not_hang() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert_eq!(open_read(&fifo).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn what_moves_away_while_it_is_opened_is_there_or_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let held = Dir::open(dir.path()).unwrap();
    for name in ["a", "b", "a/x"] {
        held.make_dir(&path(name), 0o700).unwrap();
    }
    let (a, b) = (held.open_dir(&path("a")).unwrap(), held.open_dir(&path("b")).unwrap());
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                a.rename(&path("x"), &b, &path("x"), Rename::NoReplace).unwrap();
                b.rename(&path("x"), &a, &path("x"), Rename::NoReplace).unwrap();
            }
        });
        let odd = (0..200_000).find_map(|_| a.open_dir(&path("x")).err().filter(|error| !error.is_not_found()));
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(odd.is_none(), "{odd:?}");
    });
}

#[test]
fn a_file_that_somebody_has_a_lease_on_is_told_as_busy_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let held = Dir::open(dir.path()).unwrap();
    held.write_atomic(&path("f"), b"x", 0o644).unwrap();
    let lease = Leased::new(&dir.path().join("f"));
    let error = held.open_file(&path("f")).unwrap_err();
    assert!(error.is_busy() && error.is_passing(), "{error:?}");
    drop(lease);
    assert_eq!(held.read(&path("f"), 1).unwrap(), b"x");
}
