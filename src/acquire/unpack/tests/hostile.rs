//! Archives that mean ill or are broken: each is refused, with the entry named, and leaves nothing outside the tree.

use std::path::Path;

use super::builder::{Tar, set_link};
use super::*;
use crate::fs::PathError;

/// Unpacks `bytes`, whole and byte by byte, and asserts that both are refused for the reason given and name `entry`.
macro_rules! refused {
    ($bytes:expr, $entry:expr, $reason:pat) => {{
        let bytes: Vec<u8> = $bytes;
        for trickle in [false, true] {
            let sandbox = Sandbox::new();
            let whole = &mut &bytes[..];
            let archive: Box<dyn Read + Send> = if trickle { Box::new(Trickle(&bytes)) } else { Box::new(whole) };
            let error = sandbox.unpack(archive, &Unpack::default()).unwrap_err();
            assert!(matches!(error, $reason), "{error:?}");
            assert!(error.to_string().contains($entry), "{error}");
            assert!(error.is_bad_content());
            sandbox.assert_nothing_outside();
            assert_links_stay_inside(&sandbox.tree(), 0);
        }
    }};
}

/// Even the half-made tree that a refusal leaves has no absolute link and none that climbs out by itself.
fn assert_links_stay_inside(dir: &Path, depth: usize) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if let Ok(target) = std::fs::read_link(&path) {
            let climbs = target.components().filter(|c| *c == std::path::Component::ParentDir).count();
            assert!(target.is_relative() && climbs <= depth, "{} -> {}", path.display(), target.display());
        } else if path.is_dir() {
            assert_links_stay_inside(&path, depth + 1);
        }
    }
}

fn tar() -> Tar {
    Tar::default().file("first", b"1")
}

#[test]
fn paths_that_lead_out() {
    refused!(
        tar().file("/etc/x", b"").end(),
        "/etc/x",
        UnpackError::Refused { source: Refusal::Path(PathError::Absolute), .. }
    );
    refused!(
        tar().file("../x", b"").end(),
        "../x",
        UnpackError::Refused { source: Refusal::Path(PathError::Parent), .. }
    );
    refused!(tar().file("a/../../x", b"").end(), "a/../../x", UnpackError::Refused { source: Refusal::Path(_), .. });
    refused!(tar().dir("a/../..").end(), "a/../..", UnpackError::Refused { source: Refusal::Path(_), .. });
    refused!(tar().pax(&[("path", "../y")]).file("y", b"").end(), "../y", UnpackError::Refused { .. });
    refused!(tar().long(b'L', b"../z").file("z", b"").end(), "../z", UnpackError::Refused { .. });
    let prefixed = |header: &mut tar::Header| {
        header.as_mut_bytes()[257..265].copy_from_slice(b"ustar\x0000");
        header.as_mut_bytes()[345..347].copy_from_slice(b"..");
    };
    refused!(tar().entry(b'0', b"p", b"", prefixed).end(), "../p", UnpackError::Refused { .. });
}

#[test]
fn names_that_cannot_be() {
    refused!(tar().file("", b"").end(), "", UnpackError::Refused { source: Refusal::NoName, .. });
    refused!(tar().file("./", b"").end(), "./", UnpackError::Malformed { source: Malformed::Slash, .. });
    refused!(tar().file(".", b"").end(), "`.`", UnpackError::Refused { source: Refusal::Top, .. });
    refused!(tar().symlink(".", "x").end(), "`.`", UnpackError::Refused { source: Refusal::Top, .. });
    refused!(tar().file("d/", b"").end(), "d/", UnpackError::Malformed { source: Malformed::Slash, .. });
    refused!(
        tar().pax(&[("path", "a\0b")]).file("nul", b"").end(),
        "PaxHeaders/x",
        UnpackError::Malformed { source: Malformed::Nul, .. }
    );
    refused!(
        tar().long(b'L', b"a\0b").file("nul", b"").end(),
        "LongLink",
        UnpackError::Malformed { source: Malformed::Nul, .. }
    );
    let long = "n".repeat(256);
    refused!(
        tar().pax(&[("path", &long)]).file("x", b"").end(),
        "nnn",
        UnpackError::Refused { source: Refusal::Path(PathError::NameTooLong), .. }
    );
    let long = "n/".repeat(2100);
    refused!(
        tar().pax(&[("path", &long)]).dir("x").end(),
        "n/n/n",
        UnpackError::Refused { source: Refusal::Path(PathError::PathTooLong), .. }
    );
}

#[test]
fn symlinks_that_lead_out() {
    for target in ["/", "/etc/passwd", "..", "a/../../b", "./../x"] {
        refused!(
            tar().symlink("out", target).end(),
            "out",
            UnpackError::Refused { source: Refusal::SymlinkEscapes { .. }, .. }
        );
    }
    refused!(
        tar().symlink("d/out", "../../x").end(),
        "d/out",
        UnpackError::Refused { source: Refusal::SymlinkEscapes { .. }, .. }
    );
    refused!(tar().symlink("out", "").end(), "out", UnpackError::Refused { source: Refusal::SymlinkTarget, .. });
    let long = "t/".repeat(2100);
    refused!(
        tar().long(b'K', long.as_bytes()).symlink("out", "t").end(),
        "out",
        UnpackError::Refused { source: Refusal::SymlinkTarget, .. }
    );
}

#[test]
fn symlinks_that_lead_out_by_way_of_others() {
    let chain = tar().dir("a").dir("a/b").symlink("a/b/up", "../..").symlink("out", "a/b/up/../etc");
    let bytes = chain.end();
    let sandbox = Sandbox::new();
    let error = sandbox.unpack(&bytes[..], &Unpack::default()).unwrap_err();
    assert!(matches!(&error, UnpackError::Refused { source: Refusal::SymlinkEscapes { .. }, .. }), "{error:?}");
    assert!(error.to_string().contains("`out`"), "{error}");
}

#[test]
fn entries_below_links_and_files() {
    let below = tar().dir("d").symlink("link", "d").file("link/x", b"x").end();
    refused!(below, "link/x", UnpackError::Refused { source: Refusal::BelowSymlink { .. }, .. });
    let below = tar().symlink("link", "elsewhere").dir("link/x/y").end();
    refused!(below, "link/x/y", UnpackError::Refused { source: Refusal::BelowSymlink { .. }, .. });
    refused!(
        tar().file("first/x", b"").end(),
        "first/x",
        UnpackError::Refused { source: Refusal::BelowFile { .. }, .. }
    );
    let below = tar().hard_link("second", "first").file("second/x", b"").end();
    refused!(below, "second/x", UnpackError::Refused { source: Refusal::BelowFile { .. }, .. });
}

#[test]
fn hard_links_to_anything_but_an_earlier_file() {
    refused!(
        tar().hard_link("h", "later").file("later", b"").end(),
        "`h`",
        UnpackError::Refused { source: Refusal::HardLinkTarget { .. }, .. }
    );
    refused!(
        tar().hard_link("h", "h").end(),
        "`h`",
        UnpackError::Refused { source: Refusal::HardLinkTarget { .. }, .. }
    );
    refused!(
        tar().dir("d").hard_link("h", "d").end(),
        "`h`",
        UnpackError::Refused { source: Refusal::HardLinkTarget { .. }, .. }
    );
    refused!(
        tar().symlink("l", "x").hard_link("h", "l").end(),
        "`h`",
        UnpackError::Refused { source: Refusal::HardLinkTarget { .. }, .. }
    );
    for target in ["/etc/passwd", "../x", "", "./"] {
        refused!(
            tar().hard_link("h", target).end(),
            "`h`",
            UnpackError::Refused { source: Refusal::HardLinkPath { .. }, .. }
        );
    }
    let with_content = tar().entry(b'1', b"h", b"data", |header| set_link(header, b"first")).end();
    refused!(with_content, "`h`", UnpackError::Malformed { source: Malformed::Content, .. });
}

#[test]
fn devices_fifos_and_types_unknown() {
    for flag in [b'3', b'4', b'6'] {
        refused!(
            tar().entry(flag, b"dev/x", b"", |_| ()).end(),
            "dev/x",
            UnpackError::Refused { source: Refusal::Special { .. }, .. }
        );
    }
    for flag in [b'8', b'A', b'D', b'M', b'N', b'X', b's', 0xff] {
        refused!(
            tar().entry(flag, b"odd", b"", |_| ()).end(),
            "odd",
            UnpackError::Malformed { source: Malformed::Type { .. }, .. }
        );
    }
}

#[test]
fn duplicates() {
    refused!(tar().file("first", b"2").end(), "first", UnpackError::Refused { source: Refusal::Duplicate, .. });
    refused!(tar().file("./first", b"1").end(), "./first", UnpackError::Refused { source: Refusal::Duplicate, .. });
    refused!(tar().dir("first").end(), "first", UnpackError::Refused { source: Refusal::Duplicate, .. });
    refused!(
        tar().file("d/x", b"").file("d", b"").end(),
        "`d`",
        UnpackError::Refused { source: Refusal::Duplicate, .. }
    );
    refused!(
        tar().dir("d").symlink("d", "first").end(),
        "`d`",
        UnpackError::Refused { source: Refusal::Duplicate, .. }
    );
    refused!(tar().symlink("l", "d").dir("l").end(), "`l`", UnpackError::Refused { source: Refusal::Duplicate, .. });
    refused!(
        tar().symlink("l", "d").symlink("l", "d").end(),
        "`l`",
        UnpackError::Refused { source: Refusal::Duplicate, .. }
    );
    refused!(
        tar().hard_link("h", "first").hard_link("h", "first").end(),
        "`h`",
        UnpackError::Refused { source: Refusal::Duplicate, .. }
    );
}

#[test]
fn setid_bits() {
    for (flag, mode) in [(b'0', 0o4755), (b'0', 0o2755), (b'5', 0o2775), (b'0', 0o6000)] {
        let bytes = tar().entry(flag, b"su", b"", |header| header.set_mode(mode)).end();
        refused!(bytes, "`su`", UnpackError::Refused { source: Refusal::SetId { .. }, .. });
    }
}

#[test]
fn headers_that_are_damaged() {
    let mut bytes = tar().file("second", b"2").end();
    bytes[1024 + 124] ^= 1;
    refused!(bytes, "second", UnpackError::Malformed { source: Malformed::Checksum, .. });
    type Spoil = fn(&mut tar::Header);
    let spoils: [Spoil; 7] = [
        |header| header.as_old_mut().size.copy_from_slice(b"0000000000x\0"),
        |header| header.as_old_mut().size.copy_from_slice(b"1\x0000000000\x002"),
        |header| header.as_old_mut().size.copy_from_slice(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        |header| header.as_old_mut().size.copy_from_slice(b"\x80\x01\0\0\0\0\0\0\0\0\0\0"),
        |header| header.as_old_mut().mtime.copy_from_slice(b"yesterday..."),
        |header| header.as_old_mut().mode.copy_from_slice(b"rwxr-xr-"),
        |header| header.as_old_mut().uid.copy_from_slice(b"\x80\0\0\0\xff\xff\xff\xff"),
    ];
    for spoil in spoils {
        refused!(
            tar().entry(b'0', b"bad", b"", spoil).end(),
            "bad",
            UnpackError::Malformed { source: Malformed::Number { .. }, .. }
        );
    }
    for flag in [b'2', b'5', b'6'] {
        let bytes = tar().entry(flag, b"bad", b"content", |header| set_link(header, b"x")).end();
        refused!(bytes, "bad", UnpackError::Malformed { source: Malformed::Content, .. });
    }
}

#[test]
fn extended_headers_that_contradict() {
    // The attack of CVE-2025-62518: one reader goes by 0 bytes, the other by the extended header, and they see
    // different entries in what follows.
    let inner = Tar::default().file("smuggled", b"").0;
    let size = inner.len().to_string();
    let bytes = tar().pax(&[("size", &size)]).entry(b'0', b"nested", b"", |_| ()).raw(&inner).end();
    refused!(bytes, "nested", UnpackError::Malformed { source: Malformed::Size { .. }, .. });
    let bytes = tar().pax(&[("size", "0")]).file("nested", &inner).end();
    refused!(bytes, "nested", UnpackError::Malformed { source: Malformed::Size { .. }, .. });

    let mixed = tar().pax(&[("path", "a")]).long(b'L', b"b").file("c", b"").end();
    refused!(mixed, "`a`", UnpackError::Malformed { source: Malformed::Mixed, .. });
    let mixed = tar().long(b'L', b"b").pax(&[("path", "a")]).file("c", b"").end();
    refused!(mixed, "`b`", UnpackError::Malformed { source: Malformed::Mixed, .. });
    let twice = tar().long(b'L', b"a").long(b'L', b"b").file("c", b"").end();
    refused!(twice, "`a`", UnpackError::Malformed { source: Malformed::Mixed, .. });
    let twice = tar().pax(&[("path", "a")]).pax(&[("path", "b")]).file("c", b"").end();
    refused!(twice, "`a`", UnpackError::Malformed { source: Malformed::Mixed, .. });
    let between = tar().pax(&[("path", "a")]).global(&[("comment", "x")]).file("c", b"").end();
    refused!(between, "`a`", UnpackError::Malformed { source: Malformed::Mixed, .. });
    let twice = tar().pax(&[("path", "a"), ("path", "b")]).file("c", b"").end();
    refused!(twice, "PaxHeaders", UnpackError::Malformed { source: Malformed::Twice { .. }, .. });
    refused!(
        tar().pax(&[("path", "a")]).end(),
        "PaxHeaders",
        UnpackError::Malformed { source: Malformed::Dangling, .. }
    );
    refused!(tar().long(b'K', b"a").end(), "LongLink", UnpackError::Malformed { source: Malformed::Dangling, .. });
    for key in ["path", "linkpath", "size"] {
        let bytes = tar().global(&[(key, "1")]).file("c", b"").end();
        refused!(bytes, "pax_global_header", UnpackError::Malformed { source: Malformed::Global { .. }, .. });
    }
    let broken = tar().entry(b'x', b"PaxHeaders/c", b"99 path=a\n", |_| ()).file("c", b"").end();
    refused!(broken, "PaxHeaders/c", UnpackError::Malformed { source: Malformed::Record, .. });
    let endless = tar().entry(b'x', b"PaxHeaders/c", &[b'1'; (1 << 20) + 1], |_| ()).file("c", b"").end();
    refused!(endless, "PaxHeaders/c", UnpackError::Malformed { source: Malformed::TooLong, .. });
}

#[test]
fn sparse_files_whose_map_is_unsound() {
    let records = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "holes")];
    let sparse = |size: &str, map: &str| {
        let content = [Tar::default().content(map.as_bytes()).0, vec![7; 512]].concat();
        let records = [&records[..], &[("GNU.sparse.realsize", size)]].concat();
        tar().pax(&records).file("GNUSparseFile.0/holes", &content).end()
    };
    for (size, map) in [
        ("4096", "1\n0\n1024\n"),
        ("4096", "2\n512\n256\n0\n256\n"),
        ("100", "1\n0\n512\n"),
        ("4096", "1\n18446744073709551615\n512\n"),
        ("4096", "1\nx\n512\n"),
        ("4096", "1\n"),
        ("4096", "\n"),
    ] {
        refused!(sparse(size, map), "holes", UnpackError::Malformed { source: Malformed::Map, .. });
    }
    refused!(sparse("4096", "9999999\n"), "holes", UnpackError::Malformed { source: Malformed::TooLong, .. });
    let foreign = tar().pax(&[("SUN.holesdata", " 0 512 ")]).file("c", b"").end();
    refused!(foreign, "PaxHeaders", UnpackError::Malformed { source: Malformed::Sparse, .. });
    let unknown = tar().pax(&[("GNU.sparse.major", "2"), ("GNU.sparse.minor", "0")]).file("c", b"").end();
    refused!(unknown, "`c`", UnpackError::Malformed { source: Malformed::Sparse, .. });
}

#[test]
fn bytes_after_the_end() {
    let end = || tar().file("last", b"x").end();
    refused!([end(), b"garbage".to_vec()].concat(), "last", UnpackError::TrailingBytes { .. });
    refused!([end(), vec![0; 1 << 20], vec![1]].concat(), "last", UnpackError::TrailingBytes { .. });
    let lone_zero_block = tar().file("last", b"x").raw(&[0; 512]).file("hidden", b"").end();
    refused!(lone_zero_block, "last", UnpackError::TrailingBytes { .. });
}

#[test]
fn a_cut_anywhere_is_found() {
    let archive = tar().dir("d").pax(&[("path", "d/long")]).file("d/long", &[5; 700]).0;
    let with_end = [&archive[..], &[0; 1024]].concat();
    // Around each block's border, and here and there within.
    let is_near_border = |cut: &usize| matches!(cut % 512, 0 | 1 | 511) || cut.is_multiple_of(101);
    for cut in (0..=with_end.len()).filter(is_near_border) {
        let sandbox = Sandbox::new();
        let unpacked = sandbox.unpack(&with_end[..cut], &Unpack::default());
        // One block of zeros is enough of an end.
        assert_eq!(unpacked.is_ok(), cut >= archive.len() + 512, "cut at {cut} of {}: {unpacked:?}", archive.len());
        if cut >= 512
            && let Err(error) = unpacked
        {
            assert!(matches!(error, UnpackError::Truncated { .. }), "cut at {cut}: {error:?}");
        }
    }
}

#[test]
fn a_refusal_does_not_wait_for_the_rest_of_an_endless_archive() {
    let head = tar().file("../x", b"").0;
    let error = Sandbox::new().unpack((&head[..]).chain(io::repeat(0)), &Unpack::default()).unwrap_err();
    assert!(matches!(error, UnpackError::Refused { .. }), "{error}");
}
