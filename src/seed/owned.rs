//! What in a target is seedcache's: a list in the target itself (`.seedcache-owned`), for swaps that work inside it.
//! Only what is listed is ever removed or replaced there. It is written durably before a swap begins, old and new names
//! together, and after it with the new ones alone: what a crash left half done, the next seed ends.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, Read as _};
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::SeedError;
use super::mark::{FILE, Identity};
use super::place::component;
use super::target::{is_leftover, is_reserved};
use crate::fs::{self, Dir, Kind, RelPath};
use crate::intent::Swap;
use crate::store::Entry;

/// The list's own name.
const LIST: &[u8] = b".seedcache-owned";
/// Bytes of the list's first line.
const HEAD: u64 = 4096;
/// Bytes of a whole list.
const LIMIT: u64 = 512 << 20;
/// Bytes that are read of a peer's list at least.
const PEERS_LIMIT: u64 = 32 << 20;
/// Names that are read of one: those of two large trees.
const MOST: usize = 4_000_000;
/// Bytes of memory for the names of one target, as large as two trees of a million entries have them. A pod may write the list,
/// and what else there is.
const ROOM: usize = 256 << 20;
/// What one name takes besides its bytes.
const EACH: usize = 40;
/// Bytes of one name, and what tells its kind and its end.
const LONGEST: u64 = 4096 + 2;
/// The symlink that a target of [`Swap::Symlink`] shows its tree through.
pub(super) const DATA: &[u8] = b"..data";
/// Letters and digits that end the name of a tree beside it.
const RANDOM: usize = 12;

/// The first line of a list: what a look at the target needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Head {
    /// The target: a copy of it, list and all, is not ours.
    id: Identity,
    pub(super) swap: Swap,
    /// No swap is under way: the target holds what its mark says.
    pub(super) whole: bool,
    /// The tree that was in use before this one ([`Swap::Symlink`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) previous: Option<RelPath>,
}

/// Names below a target.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Names {
    pub(super) directories: BTreeSet<RelPath>,
    /// All that is no directory.
    pub(super) files: BTreeSet<RelPath>,
}

impl Head {
    pub(super) fn new(target: &Dir, swap: Swap, whole: bool, previous: Option<RelPath>) -> fs::Result<Self> {
        Ok(Self { id: Identity::of(target)?, swap, whole, previous })
    }

    /// Of the list in `target`; `None` where there is none, or that of another directory.
    pub(super) fn of(target: &Dir) -> fs::Result<Option<Self>> {
        let Some(file) = open_list(target)? else { return Ok(None) };
        let mut bytes = Vec::new();
        (&file)
            .take(HEAD)
            .read_to_end(&mut bytes)
            .map_err(|e| fs::Error::new("read", &target.path_of(&component(LIST)), e))?;
        Self::parse(&bytes, target)
    }

    fn parse(bytes: &[u8], target: &Dir) -> fs::Result<Option<Self>> {
        let line = bytes.split(|&b| b == b'\n').next().unwrap_or_default();
        let Ok(head) = serde_json::from_slice::<Self>(line) else { return Ok(None) };
        Ok(head.id.is_of(target)?.then_some(head))
    }

    /// Writes the list, durably.
    pub(super) fn write(&self, target: &Dir, names: &Names) -> Result<(), SeedError> {
        self.write_both(target, names, &Names::default())
    }

    /// The same of the names of two, which may be large. More than can be read again is refused, and nothing is written.
    pub(super) fn write_both(&self, target: &Dir, some: &Names, others: &Names) -> Result<(), SeedError> {
        let bytes = self.list(some, others, Room(ROOM), MOST).ok_or_else(|| too_many(target))?;
        Ok(target.write_atomic(&component(LIST), &bytes, 0o644)?)
    }

    /// The whole list, where there is room for so many names.
    fn list(&self, some: &Names, others: &Names, mut room: Room, mut most: usize) -> Option<Vec<u8>> {
        let mut bytes =
            serde_json::to_vec(self).unwrap_or_else(|e| unreachable!("plain fields with text keys serialise: {e}"));
        bytes.push(b'\n');
        let directories = some.directories.union(&others.directories);
        let files = some.files.union(&others.files);
        for (kind, paths) in [(b'd', directories), (b'f', files)] {
            for path in paths {
                most = most.checked_sub(1)?;
                if !room.take(path) {
                    return None;
                }
                bytes.push(kind);
                bytes.extend_from_slice(path.as_bytes());
                bytes.push(0);
            }
        }
        Some(bytes)
    }
}

impl Names {
    /// Those of the list in `target`.
    pub(crate) fn of(target: &Dir) -> Result<Option<Self>, SeedError> {
        Self::wanted(target, |_, _| true)
    }

    /// Those of them that are wanted: the others take no memory.
    pub(super) fn wanted(target: &Dir, wanted: impl Fn(&RelPath, Kind) -> bool) -> Result<Option<Self>, SeedError> {
        Self::within(target, LIMIT, wanted)
    }

    /// The same of a list of at most `limit` bytes, which is an error where it has more.
    pub(super) fn within(
        target: &Dir,
        limit: u64,
        wanted: impl Fn(&RelPath, Kind) -> bool,
    ) -> Result<Option<Self>, SeedError> {
        let Some(file) = open_list(target)? else { return Ok(None) };
        let failed = |source| fs::Error::new("read", &target.path_of(&component(LIST)), source);
        let mut list = std::io::BufReader::new(file.take(limit.saturating_add(1)));
        let mut line = Vec::new();
        (&mut list).take(HEAD).read_until(b'\n', &mut line).map_err(failed)?;
        if Head::parse(&line, target)?.is_none() {
            return Ok(None);
        }
        let mut names = Self::default();
        let (mut room, mut count) = (Room(ROOM), 0);
        loop {
            line.clear();
            let read = (&mut list).take(LONGEST).read_until(0, &mut line).map_err(failed)?;
            let ended = line.pop_if(|last| *last == 0).is_some();
            count += usize::from(read > 0);
            if count > MOST || list.get_ref().limit() == 0 || (!ended && read as u64 == LONGEST) {
                return Err(too_many(target));
            }
            let Some((kind, path)) = line.split_first() else {
                if read == 0 {
                    return Ok(Some(names));
                }
                continue;
            };
            let (kind, set) = match kind {
                b'd' => (Kind::Dir, &mut names.directories),
                _ => (Kind::File, &mut names.files),
            };
            if let Some(path) = RelPath::parse(path).ok().filter(|path| wanted(path, kind)) {
                room.take(&path).then(|| set.insert(path)).ok_or_else(|| too_many(target))?;
            }
        }
    }

    /// Lists `files` as ours, where there is a list in `tree`: before something is put beside a tree that stands, which
    /// the next swap shall replace or remove.
    pub(crate) fn add(tree: &Dir, files: &[RelPath]) -> Result<(), SeedError> {
        let (Some(head), Some(mut names)) = (Head::of(tree)?, Self::of(tree)?) else { return Ok(()) };
        if files.iter().all(|path| names.files.contains(path)) {
            return Ok(());
        }
        for path in files {
            names.files.insert(path.clone());
            let mut above = path.parent();
            while let Some(path) = above {
                if tree.stat(&path)?.is_none() {
                    names.directories.insert(path.clone());
                }
                above = path.parent();
            }
        }
        head.write(tree, &names)
    }

    /// All that `dir` holds, but for what seedcache keeps at the top of a target.
    pub(super) fn in_dir(dir: &Dir) -> Result<Self, SeedError> {
        Self::in_dir_within(dir, Room(ROOM))
    }

    fn in_dir_within(dir: &Dir, mut room: Room) -> Result<Self, SeedError> {
        let mut names = Self::default();
        let full = visit(dir, None, &mut |path, kind| {
            if !room.take(&path) {
                return Some(());
            }
            match kind {
                Kind::Dir => names.directories.insert(path),
                _ => names.files.insert(path),
            };
            None
        })?;
        full.map_or(Ok(names), |()| Err(too_many(dir)))
    }

    /// Something below `dir`, which is at `at` in the target, that is not among these.
    pub(super) fn stranger_in(&self, dir: &Dir, at: Option<&RelPath>) -> fs::Result<Option<RelPath>> {
        visit(dir, at, &mut |path, kind| (!self.has(&path, kind)).then_some(path))
    }

    pub(super) fn has(&self, path: &RelPath, kind: Kind) -> bool {
        if kind == Kind::Dir { self.directories.contains(path) } else { self.files.contains(path) }
    }

    /// These but for `path`.
    pub(super) fn without(mut self, path: &RelPath) -> Self {
        self.directories.remove(path);
        self.files.remove(path);
        self
    }

    /// Removes what is among these and not among `kept`. A directory stays while anything is in it. Whether there was
    /// something to remove.
    pub(super) fn remove_all_but(&self, kept: &Self, target: &Dir) -> fs::Result<bool> {
        let mut removed = false;
        for path in self.files.difference(&kept.files) {
            let Some(parent) = holding(target, path)? else { continue };
            let name = component(path.file_name());
            if parent.stat(&name)?.is_some_and(|stat| stat.kind != Kind::Dir) {
                make_workable(&parent)?;
                parent.remove_file(&name)?;
                removed = true;
            }
        }
        for path in self.directories.iter().rev().filter(|path| !kept.directories.contains(*path)) {
            let Some(parent) = holding(target, path)? else { continue };
            make_workable(&parent)?;
            removed |= parent.remove_empty_dir(&component(path.file_name()))?;
        }
        Ok(removed)
    }
}

/// Bytes that are read of a peer's list in a directory that holds these entries: what their names take, and those of as large a
/// version before them.
pub(super) fn peers_limit(entries: &[Entry]) -> u64 {
    let names: u64 = entries.iter().map(|entry| entry.path.as_bytes().len() as u64 + 2).sum();
    PEERS_LIMIT.max(HEAD + 2 * names)
}

/// The list in `target`. What is no regular file is none: whoever may write there can put anything by that name.
fn open_list(target: &Dir) -> fs::Result<Option<File>> {
    let list = component(LIST);
    if target.stat(&list)?.is_none_or(|found| found.kind != Kind::File) {
        return Ok(None);
    }
    match target.open_file(&list) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e),
    }
}

/// Memory that is left for names.
struct Room(usize);

impl Room {
    /// Whether there was enough for one more.
    fn take(&mut self, path: &RelPath) -> bool {
        let left = self.0.checked_sub(path.as_bytes().len() + EACH);
        self.0 = left.unwrap_or(0);
        left.is_some()
    }
}

fn too_many(target: &Dir) -> SeedError {
    SeedError::TooManyNames { target: target.path().into() }
}

/// Calls `each` on all below `dir` until it returns something. What seedcache keeps at the top of a target is left out.
fn visit<T>(
    dir: &Dir,
    at: Option<&RelPath>,
    each: &mut impl FnMut(RelPath, Kind) -> Option<T>,
) -> fs::Result<Option<T>> {
    let (mut found, mut directories) = (Ok(None), Vec::new());
    dir.each_entry(|entry| {
        if at.is_none() && is_internal(entry.name.as_bytes()) {
            return ControlFlow::Continue(());
        }
        found = below(at, &entry.name).map(|path| each(path, entry.kind));
        if !matches!(found, Ok(None)) {
            return ControlFlow::Break(());
        }
        directories.extend((entry.kind == Kind::Dir).then_some(entry.name));
        ControlFlow::Continue(())
    })?;
    if let Some(found) = found? {
        return Ok(Some(found));
    }
    for name in directories {
        if let Some(found) = visit(&dir.open_dir(&name)?, Some(&below(at, &name)?), each)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Whether a name at the top of a target is one that seedcache, or the file system, keeps there for itself.
pub(super) fn is_internal(name: &[u8]) -> bool {
    is_reserved(name) || name == b"lost+found" || name == DATA || is_tree(name)
}

/// Whether `name` is that of a list, a `..data` or a mark that was being written.
pub(super) fn is_temporary(name: &[u8]) -> bool {
    [LIST, DATA, FILE].iter().any(|own| is_leftover(name, &Dir::temporary_prefix(&component(own))))
}

/// Whether `name` is that of a tree beside `..data`.
pub(super) fn is_tree(name: &[u8]) -> bool {
    let random = |tail: &[u8]| tail.len() == RANDOM && tail.iter().all(u8::is_ascii_alphanumeric);
    name.strip_prefix(b"..")
        .and_then(|name| Some(&name[name.iter().rposition(|&b| b == b'-')? + 1..]))
        .is_some_and(random)
}

/// `name` below `at`.
pub(super) fn below(at: Option<&RelPath>, name: &RelPath) -> fs::Result<RelPath> {
    let Some(at) = at else { return Ok(name.clone()) };
    at.join(name)
        .map_err(|e| fs::Error::new("name", at.as_path(), std::io::Error::new(std::io::ErrorKind::InvalidInput, e)))
}

/// The directory that holds `path`; `None` where there is no such directory any more.
fn holding(target: &Dir, path: &RelPath) -> fs::Result<Option<Dir>> {
    let Some(parent) = path.parent() else { return Ok(Some(target.clone())) };
    match target.open_dir(&parent) {
        Ok(dir) => Ok(Some(dir)),
        Err(e) if e.leads_nowhere() => Ok(None),
        Err(e) => Err(e),
    }
}

/// Lets its owner change the names in a directory; root may anyway.
pub(super) fn make_workable(dir: &Dir) -> fs::Result<()> {
    const WORKABLE: u32 = 0o700;
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let stat = dir.stat_self()?;
    if stat.mode & WORKABLE != WORKABLE {
        dir.apply_meta(&fs::Meta { mode: stat.mode | WORKABLE, owner: None, mtime: stat.mtime })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::EntryType;

    #[test]
    fn a_list_is_read_as_it_was_written_and_only_in_its_own_directory() {
        let root = tempfile::tempdir().unwrap();
        let root = Dir::open(root.path()).unwrap();
        let made = |name: &str| root.ensure_dir(&name.parse().unwrap(), 0o755).unwrap();
        let dir = made("dir");
        // One that was made at another time, as the file system counts it.
        let others = (0..).map(|i| made(&format!("other-{i}")));
        let other = others.into_iter().find(|other| other.born().unwrap() != dir.born().unwrap()).unwrap();
        assert_eq!(Names::of(&dir).unwrap(), None);
        let path = |bytes: &[u8]| RelPath::parse(bytes).unwrap();
        let names = Names {
            directories: [path(b"a"), path(b"a/line\nbreak")].into(),
            files: [path(b"a/\xff"), path(b"f")].into(),
        };
        let head = Head::new(&dir, Swap::InPlace, false, Some(path(b"..v1-abcdefghijkl"))).unwrap();
        head.write(&dir, &names).unwrap();
        assert_eq!(Head::of(&dir).unwrap(), Some(head.clone()));
        assert_eq!(Names::of(&dir).unwrap(), Some(names.clone()));
        head.write(&other, &names).unwrap();
        assert_eq!((Head::of(&other).unwrap(), Names::of(&other).unwrap()), (None, None));
    }

    #[test]
    fn of_a_list_only_what_is_wanted_is_kept_and_none_is_read_for_ever() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open(root.path()).unwrap();
        let mut names = Names::default();
        names.directories.extend((0..1000).map(|n| RelPath::parse(format!("d{n}")).unwrap()));
        names.files = names.directories.clone();
        Head::new(&dir, Swap::InPlace, true, None).unwrap().write(&dir, &names).unwrap();
        let wanted = RelPath::parse("d7").unwrap();
        let read = |limit| Names::within(&dir, limit, |path, kind| kind == Kind::Dir && *path == wanted);
        let own = Names { directories: [wanted.clone()].into(), files: BTreeSet::new() };
        assert_eq!(read(1 << 20).unwrap(), Some(own));
        let whole = dir.read(&component(LIST), 1 << 20).unwrap();
        let size = whole.len() as u64;
        assert!(read(size).unwrap().is_some());
        assert!(matches!(read(size - 1), Err(SeedError::TooManyNames { .. })));
        let long = [&whole[..], &[b'f'; LONGEST as usize]].concat();
        dir.write_atomic(&component(LIST), &long, 0o644).unwrap();
        read(1 << 20).unwrap_err();
    }

    #[test]
    fn no_list_is_made_that_could_not_be_read_again() {
        let root = tempfile::tempdir().unwrap();
        let head = Head::new(&Dir::open(root.path()).unwrap(), Swap::InPlace, false, None).unwrap();
        let names = |files: [&str; 2], directory: &str| Names {
            directories: [directory.parse().unwrap()].into(),
            files: files.map(|file| file.parse().unwrap()).into(),
        };
        let (some, others) = (names(["a", "b"], "d"), names(["b", "c"], "e"));
        let room = 5 * (EACH + 1);
        let made = |room, most| head.list(&some, &others, Room(room), most).is_some();
        assert!(made(room, 5) && !made(room - 1, 5) && !made(room, 4));
    }

    #[test]
    fn the_names_of_a_large_version_and_the_one_before_it_are_read_of_a_peers_list() {
        let root = tempfile::tempdir().unwrap();
        let head = Head::new(&Dir::open(root.path()).unwrap(), Swap::InPlace, false, None).unwrap();
        let deep = &format!("/{}", "x".repeat(200)).repeat(19);
        let paths = |stamp| (1000..6000).map(move |n| RelPath::parse(format!("{stamp}-{n}{deep}")).unwrap());
        let entry = |path| Entry {
            path,
            kind: EntryType::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: jiff::Timestamp::UNIX_EPOCH,
            size: 0,
            sha256: None,
            target: None,
        };
        let entries: Vec<Entry> = paths("v2").map(entry).collect();
        let names = |stamp| Names { files: paths(stamp).collect(), ..Names::default() };
        let list = head.list(&names("v1"), &names("v2"), Room(ROOM), MOST).unwrap();
        let limit = peers_limit(&entries);
        assert!(list.len() as u64 > PEERS_LIMIT && list.len() as u64 <= limit, "{} {limit}", list.len());
        assert_eq!(peers_limit(&entries[..1]), PEERS_LIMIT);
    }

    #[test]
    fn what_a_directory_holds_is_kept_in_mind_as_far_as_there_is_room() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open(root.path()).unwrap();
        let below = dir.ensure_dir(&"d/e".parse().unwrap(), 0o755).unwrap();
        below.write_atomic(&component(b"f"), b"", 0o644).unwrap();
        let room = 3 * EACH + b"d".len() + b"d/e".len() + b"d/e/f".len();
        let names = Names::in_dir_within(&dir, Room(room)).unwrap();
        assert_eq!((names.directories.len(), names.files.len()), (2, 1));
        let refused = Names::in_dir_within(&dir, Room(room - 1)).unwrap_err();
        assert!(matches!(refused, SeedError::TooManyNames { target } if target == root.path()));
    }

    #[test]
    fn trees_are_told_by_their_names() {
        for tree in ["..v1-abcdefghijkl", "..2026.1-rc-1-ABCDEFGHIJK0"] {
            assert!(is_tree(tree.as_bytes()), "{tree}");
        }
        for other in ["..data", "..v1", "v1-abcdefghijkl", "..v1-abcdefghijk", "..v1-abcdefghijk+", "..2026_01_01.12"] {
            assert!(!is_tree(other.as_bytes()), "{other}");
        }
    }
}
