//! Trees that clients made by themselves: one fetched and unpacked, since no daemon answered, is made a seed like any
//! other; later each is held against its manifest, or with no daemon about against what its mark says.

use std::collections::HashMap;

use super::mark::FILE;
use super::mend::content_digest;
use super::owned::Names;
use crate::fs::{self, Chain, Dir, Kind, LinkMode, RelPath, Stat};
use crate::store::{Entry, EntryType, store_mode};

/// More entries than an archive may have by default are none of ours.
const MOST: usize = 1_000_000;

/// Gives a tree just unpacked the archive's modes: unpacking leaves the write bits out, as the store wants it.
pub(crate) fn restore_modes(tree: &Dir, entries: &[Entry]) -> fs::Result<()> {
    let mut chain = Chain::from(tree);
    // From the bottom up: a finished directory may let nobody in. The tree is still closed to everybody else.
    for entry in entries.iter().rev().filter(|entry| entry.mode & 0o222 != 0) {
        if matches!(entry.kind, EntryType::Dir | EntryType::File) {
            let (dir, name) = chain.parent_of(&entry.path)?;
            dir.set_mode(&name, entry.mode)?;
        }
    }
    Ok(())
}

/// What a directory holds, told as a manifest tells it and read to the last byte; `None` when that can be no tree of
/// ours. Owner, mode and times are those on disk. Where others have their own beside, only what is `owned` is told.
pub(crate) fn entries_of(top: &Dir, owned: Option<&Names>) -> fs::Result<Option<Vec<Entry>>> {
    let mut found: Vec<(Entry, Stat)> = Vec::new();
    let mut open: Vec<Option<RelPath>> = vec![None];
    while let Some(above) = open.pop() {
        let dir = above.as_ref().map_or_else(|| Ok(top.clone()), |above| top.open_dir(above))?;
        let ours = |name: &RelPath| above.is_some() || name.as_bytes() != FILE;
        for child in dir.entries()?.into_iter().filter(|child| ours(&child.name)) {
            let path = above.as_ref().map_or_else(|| Ok(child.name.clone()), |above| above.join(&child.name));
            // Gone meanwhile, or deeper than any path: no tree that is left alone.
            let (Ok(path), Some(stat)) = (path, dir.stat(&child.name)?) else { return Ok(None) };
            if owned.is_some_and(|names| !names.has(&path, stat.kind)) {
                continue;
            }
            let Some(entry) = entry(&dir, &child.name, path, &stat)? else { return Ok(None) };
            if found.len() == MOST {
                return Ok(None);
            }
            if entry.kind == EntryType::Dir {
                open.push(Some(entry.path.clone()));
            }
            found.push((entry, stat));
        }
    }
    found.sort_unstable_by(|a, b| a.0.path.cmp(&b.0.path));
    Ok(Some(with_hard_links(found)))
}

/// The first entry that a tree does not hold as its manifest says, but for what it holds besides: that is the pod's own.
/// With `read` the files' content is read; files of a hard-linked tree have the store's modes.
pub(crate) fn first_difference(
    tree: &Dir,
    entries: &[Entry],
    mode: LinkMode,
    read: bool,
) -> fs::Result<Option<RelPath>> {
    let owners = fs::may_give_away();
    let mut chain = Chain::from(tree);
    for entry in entries {
        let (dir, name) = match chain.parent_of(&entry.path) {
            // A directory on the way is none any more.
            Err(_) => return Ok(Some(entry.path.clone())),
            Ok(found) => found,
        };
        let agrees = match dir.stat(&name)? {
            None => false,
            Some(stat) => looks_like(entry, &stat, mode, owners) && (!deeper(entry, read) || holds(dir, &name, entry)?),
        };
        if !agrees {
            return Ok(Some(entry.path.clone()));
        }
    }
    Ok(None)
}

fn looks_like(entry: &Entry, stat: &Stat, mode: LinkMode, owners: bool) -> bool {
    let (kind, size) = match entry.kind {
        EntryType::Dir => (Kind::Dir, stat.size),
        EntryType::Symlink => (Kind::Symlink, stat.size),
        EntryType::File | EntryType::Hardlink => (Kind::File, entry.size),
    };
    let shared = mode == LinkMode::Hardlink && kind == Kind::File;
    let rights = if shared { store_mode(entry.mode) } else { entry.mode };
    let owner = !owners || (stat.uid, stat.gid) == (entry.uid, entry.gid);
    // A directory's time is that of the last name that came or went in it, the pod's own too.
    let mtime = if kind == Kind::Dir { stat.mtime } else { entry.mtime_parts() };
    (stat.kind, stat.size, stat.mtime) == (kind, size, mtime) && (kind == Kind::Symlink || stat.mode == rights) && owner
}

/// Whether metadata does not tell all of it.
fn deeper(entry: &Entry, read: bool) -> bool {
    entry.kind == EntryType::Symlink || (read && entry.kind == EntryType::File)
}

fn holds(dir: &Dir, name: &RelPath, entry: &Entry) -> fs::Result<bool> {
    if entry.kind == EntryType::Symlink {
        return Ok(Some(dir.read_link(name)?) == entry.target);
    }
    let read = content_digest(&dir.open_file(name)?).map_err(|e| fs::Error::new("read", &dir.path_of(name), e))?;
    Ok(Some(read) == entry.sha256)
}

fn entry(dir: &Dir, name: &RelPath, path: RelPath, stat: &Stat) -> fs::Result<Option<Entry>> {
    let Some(mtime) = stat.mtime_timestamp() else { return Ok(None) };
    let kind = match stat.kind {
        Kind::Dir => EntryType::Dir,
        Kind::File => EntryType::File,
        Kind::Symlink => EntryType::Symlink,
        Kind::Other => return Ok(None),
    };
    let (mut size, mut sha256, mut target) = (0, None, None);
    match kind {
        EntryType::File => {
            let read = content_digest(&dir.open_file(name)?);
            sha256 = Some(read.map_err(|e| fs::Error::new("read", &dir.path_of(name), e))?);
            size = stat.size;
        }
        EntryType::Symlink => target = Some(dir.read_link(name)?),
        EntryType::Dir | EntryType::Hardlink => {}
    }
    Ok(Some(Entry { path, kind, mode: stat.mode, uid: stat.uid, gid: stat.gid, mtime, size, sha256, target }))
}

/// The first of a file's names is the file, the others are links to it.
fn with_hard_links(found: Vec<(Entry, Stat)>) -> Vec<Entry> {
    let mut names: HashMap<(u64, u64), RelPath> = HashMap::new();
    let tell = |(mut entry, stat): (Entry, Stat)| {
        if entry.kind == EntryType::File && stat.links > 1 {
            let first = names.entry((stat.stamp.dev, stat.stamp.ino)).or_insert_with(|| entry.path.clone());
            if *first != entry.path {
                (entry.kind, entry.target) = (EntryType::Hardlink, Some(first.as_bytes().to_vec()));
            }
        }
        entry
    };
    found.into_iter().map(tell).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;
    use crate::acquire::{Progress, unpack};
    use crate::intent::Unpack;
    use crate::store::tree_digest;

    /// Every kind of entry, some with modes that the store would not have, a link before its file.
    fn archive() -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |path: &str, kind, mode, content: &[u8], target: Option<&str>| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_uid(rustix::process::geteuid().as_raw().into());
            header.set_gid(rustix::process::getegid().as_raw().into());
            header.set_mtime(1_700_000_000);
            header.set_size(content.len() as u64);
            match target {
                Some(target) => tar.append_link(&mut header, path, target).unwrap(),
                None => tar.append_data(&mut header, path, content).unwrap(),
            }
        };
        add("d", tar::EntryType::Directory, 0o775, b"", None);
        add("d/closed", tar::EntryType::Directory, 0o500, b"", None);
        add("d/closed/x", tar::EntryType::Regular, 0o604, b"x", None);
        add("z", tar::EntryType::Regular, 0o666, b"content", None);
        add("a", tar::EntryType::Link, 0o666, b"", Some("z"));
        add("s", tar::EntryType::Symlink, 0o777, b"", Some("d/closed"));
        tar.into_inner().unwrap()
    }

    #[test]
    fn what_was_fetched_is_known_again_until_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Dir::open(dir.path()).unwrap();
        let recipe = Unpack::default();
        let unpacked = unpack(&archive()[..], &recipe, "x", &tree, None, &Progress::default(), &false.into()).unwrap();
        restore_modes(&tree, &unpacked.entries).unwrap();
        let found = || entries_of(&tree, None).unwrap().unwrap();
        assert_eq!(found(), unpacked.entries);
        assert_eq!(tree_digest(&found()), tree_digest(&unpacked.entries));
        let mode = |path: &str| tree.stat(&path.parse().unwrap()).unwrap().unwrap().mode;
        assert_eq!((mode("z"), mode("d"), mode("d/closed"), mode("d/closed/x")), (0o666, 0o775, 0o500, 0o604));

        let differs = |read| first_difference(&tree, &unpacked.entries, LinkMode::Copy, read).unwrap();
        assert_eq!(differs(true), None);
        let before = std::fs::metadata(dir.path().join("z")).unwrap().modified().unwrap();
        std::fs::write(dir.path().join("z"), "cOntent").unwrap();
        assert_eq!(differs(false), Some("a".parse().unwrap()), "both names have another time");
        std::fs::File::options().write(true).open(dir.path().join("z")).unwrap().set_modified(before).unwrap();
        assert_eq!((differs(false), differs(true)), (None, Some("a".parse().unwrap())));
        std::fs::write(dir.path().join("d/own"), "the pod's").unwrap();
        assert_eq!(differs(false), None);
        std::fs::remove_file(dir.path().join("d/closed/x")).unwrap();
        assert_eq!(differs(false), Some("d/closed/x".parse().unwrap()));
        assert_ne!(found(), unpacked.entries);
        std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        assert_eq!(entries_of(&tree, None).unwrap(), None);
    }
}
