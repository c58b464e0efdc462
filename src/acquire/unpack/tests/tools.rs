//! Archives that GNU tar, bsdtar, cpio, Python, busybox and git make come out as GNU tar extracts them, whatever compressed
//! them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt, symlink};
use std::process::Command;

use super::*;
use crate::store::{Entry, EntryType};

/// What an archive's tree is, as seen on disk. Modes without write bits; hard links by the first of their names.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    content: Vec<u8>,
    first_name: Option<PathBuf>,
}

fn look(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut seen = BTreeMap::new();
    let mut found = vec![root.to_path_buf()];
    while let Some(dir) = found.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let (kind, content) = match meta.file_type() {
                t if t.is_dir() => ("dir", vec![]),
                t if t.is_symlink() => ("symlink", std::fs::read_link(&path).unwrap().into_os_string().into_vec()),
                _ => ("file", read(&path)),
            };
            if kind == "dir" {
                found.push(path.clone());
            }
            let mode = if kind == "symlink" { 0 } else { meta.mode() & 0o7555 };
            let rel = path.strip_prefix(root).unwrap().to_path_buf();
            let owner = (meta.uid(), meta.gid());
            let mtime = (meta.mtime(), meta.mtime_nsec());
            seen.insert(rel, (meta.ino(), Seen { kind, mode, owner, mtime, content, first_name: None }));
        }
    }
    let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let name = |(path, (inode, mut one)): (PathBuf, (u64, Seen))| {
        one.first_name = (one.kind == "file").then(|| first.entry(inode).or_insert_with(|| path.clone()).clone());
        (path, one)
    };
    seen.into_iter().map(name).collect()
}

/// The same from the entries, content by its digest.
fn assert_entries_match(entries: &[Entry], seen: &BTreeMap<PathBuf, Seen>) {
    assert_eq!(entries.len(), seen.len());
    for entry in entries {
        let one = &seen[entry.path.as_path()];
        let kind = match entry.kind {
            EntryType::Dir => "dir",
            EntryType::Symlink => "symlink",
            EntryType::File | EntryType::Hardlink => "file",
        };
        let nanos = i128::from(one.mtime.0) * 1_000_000_000 + i128::from(one.mtime.1);
        assert_eq!((kind, entry.mtime.as_nanosecond()), (one.kind, nanos), "{}", entry.path);
        assert_eq!((entry.uid, entry.gid), one.owner, "{}", entry.path);
        match entry.kind {
            EntryType::Symlink => assert_eq!(entry.target.as_ref(), Some(&one.content)),
            EntryType::Dir => assert_eq!(entry.mode & 0o7555, one.mode),
            EntryType::File | EntryType::Hardlink => {
                assert_eq!((entry.mode & 0o7555, entry.size), (one.mode, one.content.len() as u64), "{}", entry.path);
                let digest = crate::intent::Digest::sha256(&one.content).hex();
                assert_eq!(entry.sha256.map(hex::encode), Some(digest), "{}", entry.path);
            }
        }
    }
}

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn command(name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(name);
    command.args(args).env("LC_ALL", "C.UTF-8").env("TZ", "UTC").env_remove("TAR_OPTIONS");
    command
}

/// Unpacks `archive`, whole and byte by byte, and compares with what GNU tar extracts.
fn assert_as_gnu_tar(archive: &[u8], what: &str) {
    let extracted = Sandbox::new();
    let file = extracted.outer.path().join("archive.tar");
    std::fs::write(&file, archive).unwrap();
    // Or it forgets the times of directories that others come between.
    run(command("tar", &["--numeric-owner", "--delay-directory-restore", "-xpf"])
        .arg(&file)
        .arg("-C")
        .arg(extracted.tree()));
    let expected = look(&extracted.tree());
    assert!(!expected.is_empty());
    for trickle in [false, true] {
        let sandbox = Sandbox::new();
        let input: Box<dyn Read + Send> = if trickle { Box::new(Trickle(archive)) } else { Box::new(archive) };
        let unpacked = sandbox.unpack(input, &Unpack::default()).unwrap_or_else(|e| panic!("{what}: {e:?}"));
        let seen = look(&sandbox.tree());
        for (path, one) in &expected {
            assert_eq!(seen.get(path), Some(one), "{what}: {}", path.display());
        }
        assert_eq!(seen.len(), expected.len(), "{what}");
        assert_entries_match(&unpacked.entries, &seen);
    }
}

/// Files of every kind. `plain` has only what the oldest formats can hold.
fn fixture(plain: bool) -> Sandbox {
    let sandbox = Sandbox::new();
    let top = sandbox.tree().join("top");
    std::fs::create_dir_all(top.join("dir/empty")).unwrap();
    std::fs::write(top.join("file"), b"content").unwrap();
    std::fs::write(top.join("dir/empty file"), b"").unwrap();
    std::fs::write(top.join("dir/block"), [1; 512]).unwrap();
    std::fs::write(top.join("dir/script"), b"#!/bin/sh\n").unwrap();
    std::fs::write(top.join("dir/large"), (0..200_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>()).unwrap();
    std::fs::hard_link(top.join("file"), top.join("dir/second name")).unwrap();
    std::fs::hard_link(top.join("file"), top.join("third name")).unwrap();
    symlink("dir/script", top.join("link")).unwrap();
    symlink("../../top/nowhere", top.join("dir/dangling")).unwrap();
    let mode = |path: &str, mode| std::fs::set_permissions(top.join(path), PermissionsExt::from_mode(mode)).unwrap();
    mode("dir/script", 0o751);
    mode("dir/empty", 0o1777);
    mode("file", 0o640);
    if !plain {
        let long = top.join("l".repeat(120)).join("m".repeat(120));
        std::fs::create_dir_all(&long).unwrap();
        std::fs::write(long.join("n".repeat(255)), b"long name").unwrap();
        symlink("d/".repeat(100) + "x", top.join("long link")).unwrap();
        std::fs::hard_link(long.join("n".repeat(255)), top.join("z link to long")).unwrap();
        std::fs::write(top.join("żółw"), b"unicode").unwrap();
        std::fs::write(top.join(OsStr::from_bytes(b"not \xff utf-8")), b"bytes").unwrap();
        let sparse = std::fs::File::create(top.join("sparse")).unwrap();
        sparse.set_len(5_000_000).unwrap();
        for (at, byte) in [(8192, 1u8), (1_000_000, 2), (1_100_000, 3), (2_000_000, 4), (3_000_000, 5), (4_900_001, 6)]
        {
            sparse.write_all_at(&[byte; 5000], at).unwrap();
        }
        std::fs::File::create(top.join("all hole")).unwrap().set_len(3_000_000).unwrap();
    }
    let second = |path: &str| {
        std::time::UNIX_EPOCH + std::time::Duration::new(1_234_567_890, 123_456_789)
            - std::time::Duration::from_secs(path.len() as u64)
    };
    for path in ["dir/script", "file", "dir/empty", "dir"] {
        std::fs::File::open(top.join(path)).unwrap().set_modified(second(path)).unwrap();
    }
    let before_epoch = std::time::UNIX_EPOCH - std::time::Duration::from_millis(1_500);
    if !plain {
        std::fs::File::open(top.join("dir/large")).unwrap().set_modified(before_epoch).unwrap();
    }
    sandbox
}

#[test]
fn gnu_tar_in_every_format_it_has() {
    for (format, plain) in [("v7", true), ("ustar", true), ("oldgnu", false), ("gnu", false), ("posix", false)] {
        let fixture = fixture(plain);
        let tree = fixture.tree();
        let format = format!("--format={format}");
        let owners: &[&str] = &["--owner=4242", "--group=4343", "--numeric-owner"];
        let archive = |args: &[&str]| {
            run(command("tar", &[&format]).args(owners).args(args).arg("-C").arg(&tree).args(["-cf", "-"]).arg("top"))
        };
        assert_as_gnu_tar(&archive(&[]), &format);
        if !plain {
            assert_as_gnu_tar(&archive(&["-S"]), &format!("{format} sparse"));
            assert_as_gnu_tar(&archive(&["--label=a volume"]), &format!("{format} with a label"));
        }
    }
}

#[test]
fn gnu_tars_sparse_forms_and_options() {
    let fixture = fixture(false);
    let tar = |args: &[&str]| {
        run(command("tar", &["--format=posix"]).args(args).arg("-C").arg(fixture.tree()).args(["-cf", "-", "."]))
    };
    for version in ["0.0", "0.1", "1.0"] {
        assert_as_gnu_tar(&tar(&["-S", &format!("--sparse-version={version}")]), version);
    }
    assert_as_gnu_tar(&tar(&["--pax-option=globexthdr.name=g,mtime=1000000.25"]), "a global mtime");
    assert_as_gnu_tar(&tar(&["--xattrs", "--acls", "--sort=name"]), "extended attributes");
    assert_as_gnu_tar(&tar(&["--blocking-factor=1"]), "small records");
    let uncompressed = fixture.outer.path().join("appended.tar");
    run(command("tar", &["-C"]).arg(fixture.tree()).arg("-cf").arg(&uncompressed).args([
        "--no-recursion",
        "top",
        "top/dir",
    ]));
    run(command("tar", &["-C"]).arg(fixture.tree()).arg("-rf").arg(&uncompressed).arg("top/dir"));
    assert_as_gnu_tar(&read(&uncompressed), "appended to");
}

/// Where they are no ASCII, or long, they stand beside the real ones; some are cut, and some come of a name before it was
/// transformed.
#[test]
fn the_names_that_tools_make_up_for_sparse_files_are_none() {
    let fixture = Sandbox::new();
    for dir in ["top", &format!("top/{}", "ż".repeat(60))] {
        let dir = fixture.tree().join(dir);
        std::fs::create_dir_all(&dir).unwrap();
        for name in ["żółw", "plain", &"n".repeat(120)] {
            let file = std::fs::File::create(dir.join(name)).unwrap();
            file.set_len(1_000_000).unwrap();
            file.write_all_at(b"x", 500_000).unwrap();
        }
    }
    let create = |mut tool: Command| run(tool.arg("-C").arg(fixture.tree()).args(["-cf", "-", "top"]));
    for version in ["0.0", "0.1", "1.0"] {
        for transform in [None, Some("--transform=s,^top,other,")] {
            let mut tar = command("tar", &["--format=posix", "-S", &format!("--sparse-version={version}")]);
            tar.args(transform);
            assert_as_gnu_tar(&create(tar), &format!("{version}, {transform:?}"));
        }
    }
    assert_as_gnu_tar(&create(command("bsdtar", &["--format=pax"])), "bsdtar");
}

#[test]
fn the_holes_of_a_sparse_file_stay_holes() {
    let fixture = fixture(false);
    let archive = run(command("tar", &["-S", "-C"]).arg(fixture.tree()).args(["-cf", "-", "top/all hole"]));
    let sandbox = Sandbox::new();
    let unpacked = sandbox.unpack(&archive[..], &Unpack::default()).unwrap();
    assert_eq!(unpacked.bytes, 3_000_000);
    assert_eq!(std::fs::metadata(sandbox.tree().join("top/all hole")).unwrap().blocks(), 0);
}

#[test]
fn compressed_by_the_tools_themselves() {
    let fixture = fixture(false);
    for flag in ["-z", "-J", "-j", "--zstd"] {
        let tar = |name: &str| run(command("tar", &[flag, "-C"]).arg(fixture.tree()).args(["-cf", "-", name]));
        assert_as_gnu_tar(&tar("top"), flag);
    }
}

/// These write several members, frames, streams or blocks, each for itself.
#[test]
fn compressed_by_many_threads() {
    let fixture = fixture(false);
    let file = fixture.outer.path().join("all.tar");
    run(command("tar", &["-C"]).arg(fixture.tree()).arg("-cf").arg(&file).arg("top"));
    for tool in [
        &["pigz", "-c", "-b", "128", "-p", "3"][..],
        &["pigz", "-c", "-i", "-p", "3"],
        &["pbzip2", "-c", "-p3", "-b1"],
        &["pixz", "-t", "-f", "0.01", "-p", "3"],
        &["zstd", "-qc", "-T3", "-B1MiB"],
        &["zstd", "-qc", "-19", "--long=27"],
        &["bgzip", "-c", "-@", "3"],
        &["xz", "-c", "-0", "-T3", "--block-size=1MiB"],
        &["xz", "-c", "-9e"],
    ] {
        let mut compress = command(tool[0], &tool[1..]);
        let archive = run(compress.stdin(std::fs::File::open(&file).unwrap()).stdout(std::process::Stdio::piped()));
        assert!(archive.len() as u64 <= std::fs::metadata(&file).unwrap().len());
        assert_as_gnu_tar(&archive, &tool.join(" "));
    }
    let whole = read(&file);
    let parts = whole.chunks(whole.len() / 3).map(super::compress::gzip);
    assert_as_gnu_tar(&parts.collect::<Vec<_>>().concat(), "members put together");
}

/// What `pixz` adds to a tar unless it is told not to (`-t`) follows the archive's end, where anything could be hidden.
#[test]
fn an_index_after_the_end_is_refused() {
    let fixture = fixture(true);
    let file = fixture.outer.path().join("all.tar");
    run(command("tar", &["-C"]).arg(fixture.tree()).arg("-cf").arg(&file).arg("top"));
    let archive = run(command("pixz", &[]).stdin(std::fs::File::open(&file).unwrap()));
    let error = Sandbox::new().unpack(&archive[..], &Unpack::default()).unwrap_err();
    assert!(matches!(error, UnpackError::TrailingBytes { .. }), "{error:?}");
}

#[test]
fn bsdtar_in_every_format_it_has() {
    for (format, plain) in [("v7tar", true), ("ustar", true), ("gnutar", false), ("pax", false)] {
        let fixture = fixture(plain);
        let format = format!("--format={format}");
        let tar = |args: &[&str]| {
            run(command("bsdtar", &[&format]).args(args).arg("-C").arg(fixture.tree()).args(["-cf", "-", "top"]))
        };
        assert_as_gnu_tar(&tar(&["--uid", "4242", "--gid", "4343"]), &format);
        assert_as_gnu_tar(&tar(&["--no-read-sparse", "-z"]), &format);
    }
}

#[test]
fn cpio_in_both_of_its_tar_formats() {
    for format in ["tar", "ustar"] {
        let fixture = fixture(true);
        let list = fixture.outer.path().join("list");
        std::fs::write(&list, run(command("find", &["top"]).current_dir(fixture.tree()))).unwrap();
        let mut cpio = command("cpio", &["-o", "--quiet", "-H", format]);
        let archive = run(cpio.stdin(std::fs::File::open(&list).unwrap()).current_dir(fixture.tree()));
        assert_as_gnu_tar(&archive, format);
    }
}

#[test]
fn attributes_are_passed_over_and_hard_links_may_be_files() {
    let fixture = fixture(false);
    let top = fixture.tree().join("top");
    for path in ["file", "dir"] {
        let (name, none) = ("user.note", rustix::fs::XattrFlags::empty());
        rustix::fs::setxattr(top.join(path), name, b"value \n=\0", none).unwrap();
    }
    let tar =
        |tool: &str, args: &[&str]| run(command(tool, args).arg("-C").arg(fixture.tree()).args(["-cf", "-", "top"]));
    assert_as_gnu_tar(&tar("tar", &["--xattrs", "--selinux", "--acls", "--format=posix"]), "extended attributes");
    assert_as_gnu_tar(
        &tar("bsdtar", &["--xattrs", "--acls", "--fflags", "--format=pax"]),
        "bsdtar's extended attributes",
    );
    assert_as_gnu_tar(&tar("tar", &["--hard-dereference"]), "hard links as files");
}

/// A symlink with two names is one, and the other one a hard link to it.
#[test]
fn a_symlink_may_have_two_names() {
    let fixture = fixture(false);
    std::fs::hard_link(fixture.tree().join("top/link"), fixture.tree().join("top/link again")).unwrap();
    for (tool, format) in [("tar", "--format=gnu"), ("tar", "--format=posix"), ("bsdtar", "--format=pax")] {
        let mut create = command(tool, &[format]);
        let archive = run(create.arg("-C").arg(fixture.tree()).args(["-cf", "-", "top"]));
        assert_as_gnu_tar(&archive, &format!("{tool} {format}"));
    }
}

/// One tells changes since another, deletions among them: unpacked alone it would be a tree that never was.
#[test]
fn an_incremental_dump_is_refused() {
    let fixture = fixture(true);
    let snapshot = fixture.outer.path().join("snapshot");
    let archive = run(command("tar", &["-g"]).arg(&snapshot).arg("-C").arg(fixture.tree()).args(["-cf", "-", "top"]));
    let error = Sandbox::new().unpack(&archive[..], &Unpack::default()).unwrap_err();
    let UnpackError::Malformed { entry, source: Malformed::Type { flag: b'D' } } = &error else { panic!("{error:?}") };
    assert_eq!(&**entry, "top/");
}

#[test]
fn pythons_three_formats() {
    const SCRIPT: &str = "
import sys, tarfile
fmt = {'ustar': tarfile.USTAR_FORMAT, 'gnu': tarfile.GNU_FORMAT, 'pax': tarfile.PAX_FORMAT}[sys.argv[1]]
with tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=fmt) as tar:
    tar.add(sys.argv[2], arcname='top')
";
    for (format, plain) in [("ustar", true), ("gnu", false), ("pax", false)] {
        let fixture = fixture(plain);
        let archive = run(command("python3", &["-c", SCRIPT, format]).arg(fixture.tree().join("top")));
        assert_as_gnu_tar(&archive, format);
    }
}

#[test]
fn busybox() {
    for plain in [true, false] {
        let fixture = fixture(plain);
        let archive = run(command("busybox", &["tar", "-C"]).arg(fixture.tree()).args(["-cf", "-", "top"]));
        assert_as_gnu_tar(&archive, "busybox");
    }
}

#[test]
fn git_archive() {
    let fixture = fixture(false);
    let git = |args: &[&str]| {
        let quiet = [("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_SYSTEM", "/dev/null")];
        let identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"];
        run(command("git", &identity).envs(quiet).args(args).current_dir(fixture.tree()))
    };
    git(&["init", "-q"]);
    git(&["add", "top"]);
    git(&["commit", "-q", "-m", "one"]);
    assert_as_gnu_tar(&git(&["archive", "--format=tar", "--prefix=project-1/", "HEAD"]), "git archive");
    assert_as_gnu_tar(&git(&["archive", "--format=tar.gz", "HEAD"]), "git archive, compressed");
}
