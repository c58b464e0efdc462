//! Limits: they fail, before more than a buffer is overshot.

use std::io::Write as _;

use super::builder::Tar;
use super::cases::bombs::bombs;
use super::*;
use crate::intent::{Bytes, Limits};

fn limited(limits: Limits) -> Unpack {
    Unpack { limits, ..Unpack::default() }
}

fn refusal(bytes: &[u8], recipe: &Unpack) -> (String, Refusal) {
    match Sandbox::new().unpack(bytes, recipe).unwrap_err() {
        UnpackError::Refused { entry, source } => (entry.into(), source),
        other => panic!("{other:?}"),
    }
}

#[test]
fn bytes_are_judged_by_what_a_header_says_before_any_is_written() {
    let archive = Tar::default().file("a", &[1; 600]).file("b", &[2; 401]).end();
    let recipe = limited(Limits { bytes: Bytes(1000), ..Limits::default() });
    let sandbox = Sandbox::new();
    let error = sandbox.unpack(&archive[..], &recipe).unwrap_err();
    assert!(
        matches!(error, UnpackError::Refused { source: Refusal::Bytes { bytes: 1001, limit: 1000 }, .. }),
        "{error:?}"
    );
    assert!(!sandbox.tree().join("b").exists());
    let recipe = limited(Limits { bytes: Bytes(1001), ..Limits::default() });
    assert_eq!(Sandbox::new().unpack(&archive[..], &recipe).unwrap().bytes, 1001);
    // Holes count: a copy of the file would fill them.
    let huge = Tar::default()
        .pax(&[
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.name", "h"),
            ("GNU.sparse.realsize", "9999999999999"),
        ])
        .file("x", &Tar::default().content(b"0\n").0)
        .end();
    assert_eq!(refusal(&huge, &Unpack::default()).0, "h");
}

#[test]
fn a_single_file_is_judged_piece_by_piece() {
    let limits = Limits { bytes: Bytes(1 << 20), ..Limits::default() };
    let recipe = Unpack { format: UnpackFormat::None, ..limited(limits) };
    let sandbox = Sandbox::new();
    let error = sandbox.unpack(io::repeat(7), &recipe).unwrap_err();
    assert!(matches!(error, UnpackError::Refused { source: Refusal::Bytes { .. }, .. }), "{error:?}");
    assert!(read(&sandbox.tree().join("single.bin")).len() <= 1 << 20);
    assert!(sandbox.unpack(&[][..], &Unpack { file_name: Some("empty".into()), ..recipe }).is_ok());
}

#[test]
fn entries_count_with_those_left_out_and_directories_not_listed() {
    let archive = Tar::default().dir("a").file("a/1", b"").file("a/2", b"").end();
    let recipe = Unpack { exclude: vec!["a/2".into()], ..limited(Limits { entries: 2, ..Limits::default() }) };
    assert_eq!(refusal(&archive, &recipe), ("a/2".into(), Refusal::Entries { limit: 2 }));
    let recipe = limited(Limits { entries: 3, ..Limits::default() });
    assert!(Sandbox::new().unpack(&archive[..], &recipe).is_ok());
    // The last one's directories, too: of themselves they would be found only by the next entry.
    let archive = Tar::default().file("a/b/c/1", b"").end();
    assert_eq!(refusal(&archive, &recipe), ("a/b/c/1".into(), Refusal::Entries { limit: 3 }));
    let recipe = limited(Limits { entries: 4, ..Limits::default() });
    assert_eq!(Sandbox::new().unpack(&archive[..], &recipe).unwrap().entries.len(), 4);
    let archive = Tar::default().file("a/b/c/1", b"").file("2", b"").end();
    assert_eq!(refusal(&archive, &recipe), ("2".into(), Refusal::Entries { limit: 4 }));
}

/// A hard link is held with the first name of its file, whichever of its names the archive has it name.
#[test]
fn the_first_names_of_files_count_with_their_links() {
    let long = "n".repeat(200) + "/" + &"n".repeat(200);
    let links = |mut tar: Tar, to: &str| {
        for at in 0..100 {
            tar = tar.hard_link(&format!("x{at}"), to);
        }
        tar.end()
    };
    let by_another =
        Tar::default().pax(&[("path", &long)]).file("x", b"").pax(&[("linkpath", &long)]).hard_link("a", "x");
    let by_a_later = Tar::default().file("z", b"").pax(&[("path", &long)]).hard_link("x", "z");
    for (archive, entry) in [(links(by_another, "a"), "x72"), (links(by_a_later, "z"), "x46")] {
        let limits = |entries| limited(Limits { entries, ..Limits::default() });
        assert_eq!(refusal(&archive, &limits(150)), (entry.into(), Refusal::Entries { limit: 150 }));
        assert_eq!(Sandbox::new().unpack(&archive[..], &limits(300)).unwrap().entries.len(), 103);
    }
}

#[test]
fn depth_is_that_of_the_path_in_the_tree() {
    let archive = Tar::default().file("a/b/c", b"").end();
    let limits = Limits { depth: 2, ..Limits::default() };
    assert_eq!(refusal(&archive, &limited(limits)).1, Refusal::Depth { depth: 3, limit: 2 });
    let stripped = Unpack { strip_components: 1, ..limited(limits) };
    assert!(Sandbox::new().unpack(&archive[..], &stripped).is_ok());
    let prefixed = Unpack { prefix: Some("p".parse().unwrap()), ..stripped };
    assert_eq!(refusal(&archive, &prefixed).1, Refusal::Depth { depth: 3, limit: 2 });
}

#[test]
fn a_bomb_is_stopped_at_the_first_piece_over_the_ratio() {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let header = Tar::default().entry(b'0', b"bomb", b"", |header| header.set_size(64 << 20)).0;
    out.write_all(&header).unwrap();
    for _ in 0..64 {
        out.write_all(&[0; 1 << 20]).unwrap();
    }
    out.write_all(&[0; 1024]).unwrap();
    let bytes = out.finish().unwrap();
    for (ratio, passes) in [(200, false), (2000, true)] {
        let recipe = limited(Limits { ratio, ..Limits::default() });
        let sandbox = Sandbox::new();
        let progress = Progress::default();
        let unpacked = sandbox.unpack_until(&bytes[..], &recipe, &progress, false);
        assert_eq!(unpacked.is_ok(), passes, "{ratio}");
        if let Err(error) = unpacked {
            assert!(matches!(&error, UnpackError::Refused { source: Refusal::Ratio { .. }, .. }), "{error:?}");
            assert!(error.to_string().contains("bomb"), "{error}");
            assert!(progress.snapshot().unpacked_bytes <= 16 << 20);
        }
    }
}

/// A sparse file of form 1.0: its size, and where its parts of so many bytes lie. What it stores is to follow.
fn sparse(size: u64, parts: &[(u64, u64)]) -> Tar {
    let lines: String = parts.iter().map(|(offset, length)| format!("{offset}\n{length}\n")).collect();
    let map = Tar::default().content(format!("{}\n{lines}", parts.len()).as_bytes()).0;
    let stored: u64 = parts.iter().map(|(_, length)| length).sum();
    let size = size.to_string();
    let records = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "holes"),
        ("GNU.sparse.realsize", &size),
    ];
    Tar::default().pax(&records).header(b'0', b"x", map.len() as u64 + stored, |_| ()).raw(&map)
}

#[test]
fn no_hole_is_passed_for_what_an_archive_only_says_to_store() {
    const SIZE: u64 = 64 << 30;
    const STORED: u64 = (SIZE / 201 / 512 + 1) * 512;
    let archive = sparse(SIZE, &[(SIZE - STORED, STORED)]).0;
    assert_eq!(archive.len(), 2048);
    let (sandbox, progress) = (Sandbox::new(), Progress::default());
    let error = sandbox.unpack_until(&archive[..], &Unpack::default(), &progress, false).unwrap_err();
    assert!(matches!(error, UnpackError::Truncated { .. }), "{error:?}");
    assert_eq!(progress.snapshot().unpacked_bytes, 0);
}

/// As in the image of a disk: larger than the bytes that came before it allow.
#[test]
fn a_hole_before_what_is_stored_is_hashed_after_it() {
    const PART: u64 = 512 << 10;
    const HOLE: u64 = 100 << 20;
    let parts = [(0, 4096), (8192, 4096), (HOLE, PART), (HOLE + PART + 4096, PART)];
    let size = HOLE + 3 * PART;
    let mut expected = vec![0; usize::try_from(size).unwrap()];
    let mut stored = Vec::new();
    let mut rng = fastrand::Rng::with_seed(3);
    for (offset, length) in parts {
        let range = usize::try_from(offset).unwrap()..usize::try_from(offset + length).unwrap();
        rng.fill(&mut expected[range.clone()]);
        stored.extend_from_slice(&expected[range]);
    }
    let archive = sparse(size, &parts).raw(&stored).end();
    let (sandbox, progress) = (Sandbox::new(), Progress::default());
    let unpacked = sandbox.unpack_until(&archive[..], &Unpack::default(), &progress, false).unwrap();
    assert!(read(&sandbox.tree().join("holes")) == expected);
    let digest = crate::intent::Digest::sha256(&expected).hex();
    assert_eq!(unpacked.entries[0].sha256.map(hex::encode), Some(digest));
    assert_eq!((unpacked.bytes, progress.snapshot().unpacked_bytes), (size, stored.len() as u64));
}

#[test]
fn what_is_to_end_passes_no_hole() {
    let archive = sparse(8 << 20, &[(4096, 512)]).raw(&[7; 512]).end();
    assert!(Sandbox::new().unpack(&archive[..], &Unpack::default()).is_ok());
    let error = Sandbox::new().unpack_until(&archive[..], &Unpack::default(), &Progress::default(), true).unwrap_err();
    assert!(matches!(error, UnpackError::Read { .. }), "{error:?}");
}

#[test]
fn deeper_than_handles_are_held_is_fine() {
    let deep = "d/".repeat(150) + "f";
    let archive = Tar::default().pax(&[("path", &deep)]).file("f", b"deep").hard_link("h", "f2").end();
    let recipe = limited(Limits { depth: 200, ..Limits::default() });
    assert!(Sandbox::new().unpack(&archive[..], &recipe).is_err());
    let archive =
        Tar::default().pax(&[("path", &deep)]).file("f", b"deep").pax(&[("linkpath", &deep)]).hard_link("h", "x").end();
    let sandbox = Sandbox::new();
    let unpacked = sandbox.unpack(&archive[..], &recipe).unwrap();
    assert_eq!(unpacked.entries.len(), 152);
    assert_eq!(read(&sandbox.tree().join("h")), b"deep");
}

#[test]
fn every_bomb_is_stopped_within_a_buffer_of_its_limit() {
    for bomb in bombs() {
        let mut limits = Limits::default();
        match bomb.limits {
            "" => {}
            "bytes: 8MiB" => limits.bytes = Bytes(8 << 20),
            "entries: 5000" => limits.entries = 5000,
            other => panic!("{other}"),
        }
        let (sandbox, progress) = (Sandbox::new(), Progress::default());
        let error = sandbox.unpack_until(&bomb.archive[..], &limited(limits), &progress, false).unwrap_err();
        let told = crate::intent::error_chain(&error);
        assert!(told.contains(bomb.says) && told.contains(bomb.entry), "{}: {told}", bomb.name);
        let unpacked = progress.snapshot().unpacked_bytes;
        assert!(unpacked <= bomb.allowed + (256 << 10), "{}: {unpacked} bytes", bomb.name);
    }
}
