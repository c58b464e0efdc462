//! This room's fuzz targets.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "it fails by panicking, and looks at the disk from outside"
)]

use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::Progress;
use super::resolve::{WantedSum, find_sum, find_version};
use super::transfer::Head;
use super::unpack::{UnpackError, unpack};
use crate::fs::{Dir, RelPath};
use crate::fuzzing::Scratch;
use crate::intent::{Bytes, Limits, Unpack, error_chain};
use crate::store::EntryType;

pub(crate) use super::unpack::fuzzing::pax_headers;

/// A line, and what follows it.
fn first_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|&b| b == b'\n') {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &[]),
    }
}

/// The directory that a recipe puts a tree under.
const PREFIX: &str = "put/under";

/// What follows a first byte that begins no archive: a byte with what of the recipe is not as ever, then globs to include
/// and to exclude, a line each. Everything else is an archive under the usual recipe.
fn recipe(bytes: &[u8]) -> (Unpack, &[u8]) {
    let limits = Limits { bytes: Bytes(4 << 20), entries: 2000, ..Limits::default() };
    let usual = Unpack { limits, ..Unpack::default() };
    let [0xff, said, rest @ ..] = bytes else { return (usual, bytes) };
    let globs = |line: &[u8]| std::str::from_utf8(line).ok().filter(|glob| !glob.is_empty()).map(Into::into);
    let (include, rest) = first_line(rest);
    let (exclude, archive) = first_line(rest);
    let recipe = Unpack {
        strip_components: u32::from(said & 3),
        prefix: (said & 4 != 0).then(|| RelPath::parse(PREFIX).unwrap()),
        include: globs(include).into_iter().collect(),
        exclude: globs(exclude).into_iter().collect(),
        ..usual
    };
    (recipe, archive)
}

/// A recipe, and an archive through the whole unpacker onto a disk: nothing is made outside, no link leads out, what is said
/// to be there is there, and a refusal tells one line.
pub(crate) fn archives(bytes: &[u8]) {
    let scratch = Scratch::new();
    let tree = scratch.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    let (recipe, bytes) = recipe(bytes);
    let (tree_dir, progress, abort) = (Dir::open(&tree).unwrap(), Progress::default(), AtomicBool::new(false));
    let unpacked = unpack(bytes, &recipe, "single", &tree_dir, None, &progress, &abort);
    let beside = std::fs::read_dir(scratch.path()).unwrap().count();
    assert_eq!(beside, 1, "something was made beside the tree");
    let found = look(&tree, &tree, unpacked.is_ok());
    match unpacked {
        Ok(unpacked) => {
            assert_eq!(found, unpacked.entries.len() as u64, "the tree is not what it is said to be");
            let files = unpacked.entries.iter().filter(|entry| entry.kind == EntryType::File);
            let mut sum = 0;
            for entry in unpacked.entries.iter().filter(|entry| entry.kind != EntryType::Symlink) {
                let meta = std::fs::symlink_metadata(tree.join(entry.path.as_path())).unwrap();
                assert!(meta.is_dir() || meta.size() == entry.size, "{} is of another size", entry.path);
            }
            files.for_each(|file| sum += file.size);
            assert!(sum <= unpacked.bytes && unpacked.bytes <= recipe.limits.bytes.0);
            if recipe.prefix.is_some() {
                let stray = unpacked.entries.iter().find(|entry| !entry.path.as_path().starts_with("put"));
                assert!(stray.is_none(), "{stray:?} is not below the prefix");
            }
        }
        Err(error) => {
            assert!(!matches!(error, UnpackError::Read { .. } | UnpackError::Thread { .. }), "{error:?}");
            assert!(!error_chain(&error).contains('\n'));
        }
    }
}

/// Counts entries, and looks where symlinks lead: the half-made tree of a refusal has none that climbs out by itself, a
/// whole one none that leads out at all.
fn look(root: &Path, dir: &Path, whole: bool) -> u64 {
    let mut found = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        found += 1;
        if let Ok(target) = std::fs::read_link(&path) {
            let mut depth = dir.strip_prefix(root).unwrap().components().count();
            for component in target.components() {
                depth = match component {
                    Component::Normal(_) => depth + 1,
                    Component::ParentDir => depth.checked_sub(1).unwrap_or_else(|| panic!("{path:?} -> {target:?}")),
                    Component::CurDir => depth,
                    _ => panic!("{path:?} -> {target:?}"),
                };
            }
            if whole && let Ok(real) = path.canonicalize() {
                assert!(real.starts_with(root.canonicalize().unwrap()), "{path:?} leads to {real:?}");
            }
        } else if path.symlink_metadata().unwrap().is_dir() {
            found += look(root, &path, whole);
        }
    }
    found
}

/// What an origin's head says of ranges and of its object.
pub(crate) fn content_ranges(bytes: &[u8]) {
    const NAMES: [HeaderName; 8] = [
        header::CONTENT_RANGE,
        header::CONTENT_LENGTH,
        header::ETAG,
        header::LAST_MODIFIED,
        header::DATE,
        header::ACCEPT_RANGES,
        header::RETRY_AFTER,
        header::CONTENT_ENCODING,
    ];
    let mut headers = HeaderMap::new();
    for line in bytes.split(|&b| b == b'\n') {
        let Some((&name, value)) = line.split_first() else { continue };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(&NAMES[usize::from(name) % NAMES.len()], value);
        }
    }
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600);
    for status in [200, 206, 416, 429] {
        let head = Head::new(status, &headers, now);
        assert!(!head.validators.contradict(&head.validators));
        if let Some(strong) = &head.validators.strong {
            assert!(!strong.starts_with("W/"), "{strong} is weak");
            assert!(
                Some(strong) == head.validators.etag.as_ref() || Some(strong) == head.validators.last_modified.as_ref()
            );
        }
    }
}

/// A pattern in the first line, and the text that it is searched in.
pub(crate) fn pointers(bytes: &[u8]) {
    let (pattern, text) = first_line(bytes);
    let text = String::from_utf8_lossy(text);
    let pattern = std::str::from_utf8(pattern).ok();
    match find_version(pattern, &text) {
        Ok(version) => {
            assert!(text.contains(version.as_str()), "{version:?} is not in the text");
            assert!(
                RelPath::parse(version.as_str()).is_ok_and(|path| path.depth() == 1),
                "{version:?} is no file name"
            );
        }
        Err(error) => assert!(!error_chain(&error).contains('\n')),
    }
}

/// What is wanted in the first line, and the sums file.
pub(crate) fn sums(bytes: &[u8]) {
    let (wanted, text) = first_line(bytes);
    let Ok(wanted) = std::str::from_utf8(wanted) else { return };
    for wanted in [WantedSum::Name(wanted), WantedSum::Glob(wanted)] {
        match find_sum(text, wanted) {
            Ok(sum) => {
                assert!(!sum.digests.is_empty());
                assert!(RelPath::parse(&sum.name).is_ok(), "{:?} is no path", sum.name);
                let said = String::from_utf8_lossy(text).to_lowercase();
                assert!(sum.digests.iter().all(|digest| said.contains(&digest.hex())));
            }
            Err(error) => assert!(!error_chain(&error).contains('\n')),
        }
    }
}
