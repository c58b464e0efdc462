//! A path in a tree, found in the manifest alone: symlinks are followed by what the manifest says, so that nothing on
//! disk can lead out.

use crate::fs::RelPath;
use crate::store::{Entry, EntryType, Manifest};

/// As many symlinks as Linux follows in one path.
const HOPS: usize = 40;
/// So many components the targets of the symlinks of one path may have together.
const COMPONENTS: usize = 2048;

/// What a path names once its symlinks are followed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Found<'a> {
    /// The top of the tree.
    Root,
    /// A directory, a file or a further name of one.
    Entry(&'a Entry),
}

/// Why a path names nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ResolveError {
    #[error("the tree has no such path")]
    NotFound,
    #[error("a symlink on the path leads out of the tree")]
    Outside,
    #[error(
        "the path goes through more than {HOPS} symlinks, or their targets have more than {COMPONENTS} components in all"
    )]
    TooManyLinks,
}

/// The entry at exactly this path, symlinks not followed.
pub(super) fn entry_at<'a>(manifest: &'a Manifest, path: &[u8]) -> Option<&'a Entry> {
    let components = || path.split(|&b| b == b'/');
    let at = manifest.entries.binary_search_by(|entry| entry.path.components().cmp(components())).ok()?;
    Some(&manifest.entries[at])
}

/// Follows `path` through the manifest.
pub(super) fn resolve<'a>(manifest: &'a Manifest, path: &RelPath) -> Result<Found<'a>, ResolveError> {
    // Components still to go, the next one last.
    let mut ahead: Vec<&[u8]> = path.components().rev().collect();
    let mut done: Vec<&[u8]> = Vec::new();
    let mut found = Found::Root;
    let (mut hops, mut components) = (0, 0);
    while let Some(component) = ahead.pop() {
        // Only a directory has anything below it, `.` and `..` included.
        if matches!(found, Found::Entry(entry) if entry.kind != EntryType::Dir) {
            return Err(ResolveError::NotFound);
        }
        match component {
            b"" | b"." => continue,
            b".." => {
                done.pop().ok_or(ResolveError::Outside)?;
                found = locate(manifest, &done)?;
                continue;
            }
            name => done.push(name),
        }
        found = locate(manifest, &done)?;
        if let Found::Entry(entry) = found
            && entry.kind == EntryType::Symlink
        {
            let target = entry.target.as_deref().unwrap_or_default();
            if target.is_empty() || target[0] == b'/' {
                return Err(ResolveError::Outside);
            }
            done.pop();
            found = locate(manifest, &done)?;
            let before = ahead.len();
            ahead.extend(target.split(|&b| b == b'/').rev());
            // All of them, not only those still to go: each is work, whether it leads down or up.
            (hops, components) = (hops + 1, components + ahead.len() - before);
            if hops > HOPS || components > COMPONENTS {
                return Err(ResolveError::TooManyLinks);
            }
        }
    }
    Ok(found)
}

fn locate<'a>(manifest: &'a Manifest, components: &[&[u8]]) -> Result<Found<'a>, ResolveError> {
    if components.is_empty() {
        return Ok(Found::Root);
    }
    entry_at(manifest, &components.join(&b'/')).map(Found::Entry).ok_or(ResolveError::NotFound)
}

/// The SHA-256 of a file's content; a further name has that of the file it names.
pub(super) fn content_of(manifest: &Manifest, entry: &Entry) -> Option<[u8; 32]> {
    match entry.kind {
        EntryType::Hardlink => entry.sha256.or_else(|| entry_at(manifest, entry.target.as_deref()?)?.sha256),
        _ => entry.sha256,
    }
}

/// What lies directly in a directory, in the manifest's order. What lies deeper is passed over, not walked: a step takes
/// about as long however much that is.
#[derive(Debug)]
pub(super) struct Children<'a> {
    manifest: &'a Manifest,
    /// `None`: the top.
    dir: Option<&'a RelPath>,
    /// Of the next one in the manifest.
    place: usize,
}

impl<'a> Children<'a> {
    pub(super) fn of(manifest: &'a Manifest, dir: Option<&'a RelPath>) -> Self {
        let first = |dir: &RelPath| manifest.entries.partition_point(|entry| entry.path <= *dir);
        Self::at(manifest, dir, dir.map_or(0, first))
    }

    /// From one on, at a place that [`Self::place`] told.
    pub(super) fn at(manifest: &'a Manifest, dir: Option<&'a RelPath>, place: usize) -> Self {
        Self { manifest, dir, place }
    }

    /// Where in the manifest the next one is, if there is one.
    pub(super) fn place(&self) -> usize {
        self.place
    }
}

impl<'a> Iterator for Children<'a> {
    type Item = &'a Entry;

    fn next(&mut self) -> Option<&'a Entry> {
        let entry = self.manifest.entries.get(self.place)?;
        if self.dir.is_some_and(|dir| !entry.path.starts_with(dir)) {
            return None;
        }
        self.place = behind(&self.manifest.entries, self.place);
        Some(entry)
    }
}

/// The place behind an entry and all that lies below it, which follows it.
fn behind(entries: &[Entry], place: usize) -> usize {
    let is_within = |entry: &Entry| entry.path.starts_with(&entries[place].path);
    let mut step = 1;
    while entries.get(place + step).is_some_and(is_within) {
        step *= 2;
    }
    let (from, to) = (place + step / 2, entries.len().min(place + step));
    from + entries[from..to].partition_point(is_within)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::fixture::{entry, manifest};
    use super::*;

    fn sample() -> Manifest {
        manifest(vec![
            entry("a", EntryType::Dir, None),
            entry("a/b", EntryType::Dir, None),
            entry("a/b/file", EntryType::File, None),
            entry("a/hard", EntryType::Hardlink, Some("a/b/file")),
            entry("a/up", EntryType::Symlink, Some("../a/b//./file")),
            entry("a-b", EntryType::File, None),
            entry("dir", EntryType::Symlink, Some("a/b")),
            entry("etc", EntryType::Symlink, Some("/etc")),
            entry("loop", EntryType::Symlink, Some("loop")),
            entry("out", EntryType::Symlink, Some("a/../../x")),
            entry("through", EntryType::Symlink, Some("a-b/../a")),
            entry("dangling", EntryType::Symlink, Some("nowhere")),
            entry("top", EntryType::Symlink, Some("a/..")),
        ])
    }

    #[test]
    fn links_lead_where_the_manifest_says_and_never_out() {
        let manifest = sample();
        let find = |path: &str| match resolve(&manifest, &path.parse().unwrap()) {
            Ok(Found::Root) => Ok(".".to_owned()),
            Ok(Found::Entry(entry)) => Ok(entry.path.to_string()),
            Err(error) => Err(error),
        };
        for (path, to) in [
            ("a/b/file", "a/b/file"),
            ("a/up", "a/b/file"),
            ("dir", "a/b"),
            ("dir/file", "a/b/file"),
            ("a/hard", "a/hard"),
            ("a-b", "a-b"),
            ("top", "."),
            ("top/a-b", "a-b"),
        ] {
            assert_eq!(find(path), Ok(to.to_owned()), "{path}");
        }
        for (path, why) in [
            ("nothing", ResolveError::NotFound),
            ("a/b/file/x", ResolveError::NotFound),
            ("a/up/x", ResolveError::NotFound),
            ("through", ResolveError::NotFound),
            ("dangling", ResolveError::NotFound),
            ("etc/passwd", ResolveError::Outside),
            ("out", ResolveError::Outside),
            ("loop", ResolveError::TooManyLinks),
        ] {
            assert_eq!(find(path), Err(why), "{path}");
        }
    }

    #[test]
    fn what_links_add_to_a_path_is_bounded_in_all() {
        // Two components for each turn, and then the next link.
        let around = |turns: usize, next: &str| format!("{}{next}", "d/../".repeat(turns));
        let resolved = |turns: usize| {
            let links: Vec<String> = ["two", "three", "file"].iter().map(|next| around(turns, next)).collect();
            let mut entries = vec![entry("d", EntryType::Dir, None), entry("file", EntryType::File, None)];
            for (name, target) in ["one", "two", "three"].into_iter().zip(&links) {
                entries.push(entry(name, EntryType::Symlink, Some(target)));
            }
            resolve(&manifest(entries), &"one".parse().unwrap()).map(|_| ())
        };
        assert_eq!(resolved((COMPONENTS / 3 - 1) / 2), Ok(()));
        assert_eq!(resolved(COMPONENTS / 3), Err(ResolveError::TooManyLinks), "though none is ahead for long");
    }

    #[test]
    fn a_directory_lists_what_lies_directly_in_it() {
        let manifest = sample();
        let list = |dir: Option<&str>| -> Vec<String> {
            let dir = dir.map(|dir| dir.parse().unwrap());
            Children::of(&manifest, dir.as_ref()).map(|entry| entry.path.to_string()).collect()
        };
        assert_eq!(list(Some("a")), ["a/b", "a/hard", "a/up"]);
        assert_eq!(list(Some("a/b")), ["a/b/file"]);
        assert_eq!(list(None), ["a", "a-b", "dangling", "dir", "etc", "loop", "out", "through", "top"]);
    }

    #[test]
    fn a_further_name_has_the_digest_of_its_file() {
        let manifest = sample();
        let hard = entry_at(&manifest, b"a/hard").unwrap();
        assert_eq!(hard.sha256, None);
        assert_eq!(content_of(&manifest, hard), entry_at(&manifest, b"a/b/file").unwrap().sha256);
        assert!(content_of(&manifest, hard).is_some());
    }
}
