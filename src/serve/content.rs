//! A tree's file, held against the manifest before any of its bytes are promised to anyone; what of it is small is read
//! first, so that nobody gets bytes that were not judged.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::body::FEW;
use crate::fs::{self, Dir, RelPath};
use crate::intent::{ArtifactName, VersionName};
use crate::store::{Entry, Judged, Version};

/// Why a file of a version cannot be served.
#[derive(Debug, thiserror::Error)]
pub(super) enum ContentError {
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] fs::Error),
    /// Written to behind the store's back.
    #[error(
        "{path} of {artifact}@{version} was changed after it was published; the version is being fetched again, ask \
         again in a while"
    )]
    Damaged { artifact: ArtifactName, version: VersionName, path: RelPath },
}

/// The content of a regular file of a version.
#[derive(Debug)]
pub(super) enum Content {
    /// All bytes, where they are a few: read before they were judged, they are those that the version has.
    Few(Bytes),
    /// The file, which was unchanged when it was opened.
    File(File),
}

/// The content of a regular file (or a further name of one), which has this digest; one that was changed is refused, and
/// its version reported.
pub(super) fn open_entry(version: &Version, entry: &Entry, sha256: &[u8; 32]) -> Result<Content, ContentError> {
    if let Some(content) = entry_at_once(version, entry, sha256) {
        return Ok(content);
    }
    let damaged = || {
        version.report(format!("{} was changed after it was published", entry.path));
        ContentError::Damaged {
            artifact: version.head().artifact.clone(),
            version: version.head().version.clone(),
            path: entry.path.clone(),
        }
    };
    let file = match version.tree().open_file(&entry.path) {
        Err(error) if error.is_not_found() => return Err(damaged()),
        other => other?,
    };
    let stat = Dir::stat_file(&file, entry.path.as_path())?;
    let path = version.tree().path_of(&entry.path);
    if stat.size != entry.size || stat.mtime != entry.mtime_parts() {
        return Err(damaged());
    }
    match version.judge(&file, sha256, &path)? {
        Judged::Sound => {}
        Judged::Damaged => return Err(damaged()),
        // Somebody links, unlinks or renames it all the time: each reading found the right bytes. A file of many could be written
        // to after any judgement, and a few tell by themselves which ones they are.
        Judged::Unsettled => {}
    }
    let Some(few) = few(entry) else { return Ok(Content::File(file)) };
    let mut bytes = vec![0; few];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) if *Sha256::digest(&bytes) == *sha256 => Ok(Content::Few(bytes.into())),
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(fs::Error::new("read", &path, error).into()),
        // Written to since it was judged.
        _ => Err(damaged()),
    }
}

/// The same where no disk need be asked for it and all is well; else `None`.
pub(super) fn entry_at_once(version: &Version, entry: &Entry, sha256: &[u8; 32]) -> Option<Content> {
    let file = version.tree().open_file_at_once(&entry.path)?;
    let few = match few(entry) {
        Some(length) => Some(fs::read_at_once(&file, 0, length)?),
        None => None,
    };
    // After reading: who has a link to the file may write to it at any time.
    let stat = fs::stat_at_once(&file)?;
    let unchanged = stat.size == entry.size && stat.mtime == entry.mtime_parts() && version.knows(&stat, sha256);
    unchanged.then(|| few.map_or_else(|| Content::File(file), |bytes| Content::Few(bytes.into())))
}

/// How many bytes the file has, if they are a few.
fn few(entry: &Entry) -> Option<usize> {
    usize::try_from(entry.size).ok().filter(|&size| size <= FEW)
}

/// The media type of a file, by its name. Nothing that a browser would run: trees come from outside.
pub(super) fn media_type(name: &[u8]) -> &'static str {
    let extension = name.iter().rposition(|&b| b == b'.').map_or(&b""[..], |dot| &name[dot + 1..]);
    match &extension.to_ascii_lowercase()[..] {
        b"txt" | b"log" | b"md" | b"conf" | b"cfg" | b"ini" | b"toml" | b"csv" | b"ipxe" | b"hash" => {
            "text/plain; charset=utf-8"
        }
        b"yaml" | b"yml" => "text/plain; charset=utf-8",
        b"json" => "application/json",
        b"gz" | b"tgz" => "application/gzip",
        b"zst" => "application/zstd",
        b"tar" => "application/x-tar",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::time::{Duration, Instant};

    use super::super::fixture::Fixture;
    use super::*;

    /// As a pod does that has a hard-linked seed of it.
    #[test]
    fn a_small_file_is_given_though_its_names_change_all_the_time() {
        let fixture = Fixture::new();
        let (version, manifest) = fixture.opened();
        let entry = manifest.entries.iter().find(|entry| entry.path.as_bytes() == b"hello.txt").unwrap();
        let one = fixture.link("hello.txt", "one");
        let other = one.with_file_name("other");
        let done = AtomicBool::new(false);
        let given: Vec<_> = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    std::fs::rename(&one, &other).unwrap();
                    std::fs::rename(&other, &one).unwrap();
                }
            });
            let given = (0..300).map(|_| open_entry(&version, entry, &entry.sha256.unwrap())).collect();
            done.store(true, Relaxed);
            given
        });
        for content in given {
            let Content::Few(bytes) = content.unwrap() else { panic!("it is small") };
            assert_eq!(*bytes, *fixture.content(&entry.path));
        }
    }

    #[test]
    fn a_large_file_is_given_though_its_names_change_all_the_time() {
        let fixture = Fixture::with_large(16 << 20);
        let (version, manifest) = fixture.opened();
        let entry = manifest.entries.iter().find(|entry| entry.path.as_bytes() == b"large").unwrap();
        let sha256 = entry.sha256.unwrap();
        let one = fixture.link("large", "one");
        let other = one.with_file_name("other");
        let (done, began) = (AtomicBool::new(false), Instant::now());
        let unsettled = || {
            let file = version.tree().open_file(&entry.path).unwrap();
            version.judge(&file, &sha256, entry.path.as_path()).unwrap() == Judged::Unsettled
        };
        let (seen, given) = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    std::fs::rename(&one, &other).unwrap();
                    std::fs::rename(&other, &one).unwrap();
                }
            });
            let mut seen = unsettled();
            while !seen && began.elapsed() < Duration::from_secs(60) {
                seen = unsettled();
            }
            let given = [0; 3].map(|_| open_entry(&version, entry, &sha256));
            done.store(true, Relaxed);
            (seen, given)
        });
        assert!(seen, "it settled each time");
        for content in given {
            let Content::File(mut file) = content.unwrap() else { panic!("it is large") };
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut file, &mut bytes).unwrap();
            assert!(bytes == fixture.content(&entry.path));
        }
    }

    #[test]
    fn nothing_that_a_browser_runs() {
        assert_eq!(media_type(b"a.JSON"), "application/json");
        assert_eq!(media_type(b"notes.txt"), "text/plain; charset=utf-8");
        for name in [&b"x.html"[..], b"x.svg", b"x.js", b"unix", b"x.", b"\xff"] {
            assert_eq!(media_type(name), "application/octet-stream");
        }
    }
}
