//! Archives that mean ill or are broken: each is refused, with the entry named, and leaves nothing outside the tree.

use std::error::Error;
use std::path::{Component, Path};

use super::builder::Tar;
use super::cases::{Case, Expect, OUTSIDE, cases, compress, names};
use super::*;
use crate::intent::error_chain;

/// The names of an error and of its causes, as far as they are ours.
fn kind(error: &UnpackError) -> String {
    let name = |error: &(dyn Error + 'static)| {
        let told = format!("{error:?}");
        told.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
    };
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    let ours = matches!(error, UnpackError::Malformed { .. } | UnpackError::Refused { .. });
    let names: Vec<String> = std::iter::once(name(error)).chain(causes.filter(|_| ours).map(name)).collect();
    names.join("/")
}

/// Even the half-made tree that a refusal leaves has no link that leads out by itself.
fn assert_links_stay_inside(root: &Path, dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if let Ok(target) = std::fs::read_link(&path) {
            let mut depth = dir.strip_prefix(root).unwrap().components().count();
            for component in target.components() {
                depth = match component {
                    Component::Normal(_) => depth + 1,
                    Component::ParentDir if depth > 0 => depth - 1,
                    Component::CurDir => depth,
                    _ => panic!("{} -> {}", path.display(), target.display()),
                };
            }
        } else if path.is_dir() {
            assert_links_stay_inside(root, &path);
        }
    }
}

/// What is wrong with what becomes of a case, read whole and byte by byte.
fn wrong(case: &Case, archive: &[u8]) -> Vec<String> {
    let look = |trickle: bool| {
        let sandbox = Sandbox::new();
        let input: Box<dyn Read + Send> = if trickle { Box::new(Trickle(archive)) } else { Box::new(archive) };
        let unpacked = sandbox.unpack(input, &Unpack::default());
        sandbox.assert_nothing_outside();
        assert!(!Path::new(OUTSIDE).exists(), "{}: {OUTSIDE} is there", case.name);
        let found = match (case.expect, unpacked) {
            (Expect::Refused { kind: expected, entry }, Err(error)) => {
                let told = error_chain(&error);
                assert!(error.is_bad_content(), "{}: {told}", case.name);
                assert_links_stay_inside(&sandbox.tree(), &sandbox.tree());
                if kind(&error) == expected && names(&told, entry) {
                    return None;
                }
                format!("{}, {told}", kind(&error))
            }
            (Expect::Taken(expected), Ok(unpacked)) if paths(&unpacked) == expected => return None,
            (_, found) => format!("{found:?}"),
        };
        Some(format!(
            "{}, {}: {found}; expected: {:?}",
            case.name,
            if trickle { "byte by byte" } else { "whole" },
            case.expect
        ))
    };
    [false, true].into_iter().filter_map(look).collect()
}

fn check_all(encode: impl Fn(&[u8]) -> Vec<u8>) {
    let wrong: Vec<String> = cases().iter().flat_map(|case| wrong(case, &encode(&case.archive))).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_case_as_it_is() {
    check_all(<[u8]>::to_vec);
}

#[test]
fn every_case_in_gzip() {
    check_all(compress::gzip);
}

#[test]
fn every_case_in_zstd() {
    check_all(compress::zstd);
}

#[test]
fn every_case_in_xz() {
    check_all(compress::xz);
}

#[test]
fn every_case_in_bzip2() {
    check_all(compress::bzip2);
}

#[test]
fn every_case_of_a_compression() {
    let wrong: Vec<String> = compress::cases().iter().flat_map(|case| wrong(case, &case.archive)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_two_cases_have_one_name() {
    let all = || cases().into_iter().chain(compress::cases()).map(|case| case.name);
    assert_eq!(all().collect::<std::collections::HashSet<_>>().len(), all().count());
}

#[test]
fn a_cut_anywhere_is_found() {
    let archive = Tar::default().file("first", b"1").pax(&[("path", "d/long")]).file("long", &[5; 40]).0;
    let with_end = [&archive[..], &[0; 1024]].concat();
    // Around each block's border, and here and there within.
    let cuts = (0..=with_end.len()).filter(|cut| matches!(cut % 512, 0 | 1 | 511) || cut.is_multiple_of(37));
    for cut in cuts {
        let unpacked = Sandbox::new().unpack(&with_end[..cut], &Unpack::default());
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
    let head = Tar::default().file("first", b"1").file("../x", b"").0;
    let error = Sandbox::new().unpack((&head[..]).chain(io::repeat(0)), &Unpack::default()).unwrap_err();
    assert!(matches!(error, UnpackError::Refused { .. }), "{error}");
}

/// Nor does a gzip header: its fields have no length that is said first.
#[test]
fn a_gzip_field_that_never_ends_is_refused() {
    for flag in [8, 16] {
        let head: [u8; 10] = [0x1f, 0x8b, 8, flag, 0, 0, 0, 0, 0, 3];
        let error = Sandbox::new().unpack((&head[..]).chain(io::repeat(b'n')), &Unpack::default()).unwrap_err();
        assert!(matches!(error, UnpackError::Decode { entry: None, .. }), "{error:?}");
    }
}

#[test]
fn targets_of_symlinks_are_kept_byte_for_byte() {
    use std::os::unix::ffi::OsStrExt as _;
    let (short, long) = (&b"\xff\xfe/\x01x"[..], [&b"\x80"[..], &[0xfd; 150]].concat());
    let archive = Tar::default()
        .entry(b'2', b"short", b"", |header| builder::set_link(header, short))
        .long(b'K', &long)
        .symlink("long", "x")
        .end();
    let sandbox = Sandbox::new();
    let unpacked = sandbox.unpack(&archive[..], &Unpack::default()).unwrap();
    for (entry, target) in unpacked.entries.iter().zip([&long[..], short]) {
        let read = std::fs::read_link(sandbox.tree().join(entry.path.to_string())).unwrap();
        assert_eq!((read.as_os_str().as_bytes(), entry.target.as_deref()), (target, Some(target)), "{}", entry.path);
    }
}

/// What a file system does that takes two names for one: the second is there when the tree does not know of it.
#[test]
fn names_that_are_one_for_the_file_system() {
    type Add = fn(Tar) -> Tar;
    let ways: [Add; 4] = [
        |tar| tar.file("there", b"x"),
        |tar| tar.dir("there"),
        |tar| tar.symlink("there", "first"),
        |tar| tar.hard_link("there", "first"),
    ];
    for add in ways {
        let sandbox = Sandbox::new();
        std::fs::write(sandbox.tree().join("there"), "another's").unwrap();
        let archive = add(Tar::default().file("first", b"1")).end();
        let error = sandbox.unpack(&archive[..], &Unpack::default()).unwrap_err();
        assert!(
            matches!(&error, UnpackError::Refused { source: Refusal::SameName, entry } if &**entry == "there"),
            "{error:?}"
        );
        assert_eq!(read(&sandbox.tree().join("there")), b"another's");
    }
}
