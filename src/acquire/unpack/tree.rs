//! The tree so far: what each path in it is, and what may therefore be added. Pure.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;
use jiff::Timestamp;

use super::error::shown;
use super::policy::{self, Refusal};
use crate::fs::RelPath;
use crate::store::{Entry, EntryType};

/// Steps that are taken to find where all symlinks lead: so many, and so many more for each entry. A step is a component
/// walked, or some of a long target or path. Real trees need a few for each symlink; without a bound an archive could
/// ask for 2 to the power of its entries.
const STEPS: u64 = 1_000_000;
const STEPS_AN_ENTRY: u64 = 100;
/// Bytes of a path or target that are looked at in one step.
const STEP: usize = 256;
/// Components that may be ahead at once, 24 bytes each: targets that name targets add up.
const MOST_AHEAD: usize = 100_000;
/// Bytes of a path that is walked on where nothing is.
const LONGEST_WALKED: usize = 64 * 1024;

/// The name of a file that came first in the archive, to the one that comes first in the tree.
pub(super) type FirstNames = HashMap<Vec<u8>, RelPath>;

/// All of an [`Entry`] but its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) kind: EntryType,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) mtime: Timestamp,
    pub(super) size: u64,
    pub(super) sha256: Option<[u8; 32]>,
    pub(super) target: Option<Vec<u8>>,
}

/// What adding an entry needs to be done on disk.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It is free, once these directories are made, the topmost first.
    Free(Vec<RelPath>),
    /// It is a directory already, and the new entry says it again.
    Listed,
}

/// The entries that the tree holds, found by path: about 180 bytes each with its path, and each there once, since they
/// are what the manifest is written from.
#[derive(Debug, Default)]
pub(super) struct Tree {
    entries: Vec<Entry>,
    /// Where each is in `entries`, by the hash of its path.
    places: HashTable<usize>,
    /// Keyed anew for each tree: an archive cannot choose paths that collide.
    hashing: RandomState,
}

impl Tree {
    /// Whether an entry may be added at `path`.
    pub(super) fn place(&self, path: &RelPath, kind: EntryType) -> Result<Place, Refusal> {
        if let Some(entry) = self.get(path.as_bytes()) {
            return match (entry.kind, kind) {
                (EntryType::Dir, EntryType::Dir) => Ok(Place::Listed),
                _ => Err(Refusal::Duplicate),
            };
        }
        let mut missing = Vec::new();
        let mut above = path.parent();
        while let Some(parent) = above {
            match self.get(parent.as_bytes()).map(|entry| entry.kind) {
                Some(EntryType::Dir) => break,
                Some(EntryType::Symlink) => return Err(Refusal::BelowSymlink { link: parent }),
                Some(EntryType::File | EntryType::Hardlink) => return Err(Refusal::BelowFile { file: parent }),
                None => {
                    above = parent.parent();
                    missing.push(parent);
                }
            }
        }
        missing.reverse();
        Ok(Place::Free(missing))
    }

    /// Adds an entry, or says a directory again: the last word counts, as with GNU tar.
    pub(super) fn add(&mut self, path: &RelPath, node: Node) {
        let entry = entry(path.clone(), node);
        let Self { entries, places, hashing } = self;
        let hash_of = |at: &usize| hashing.hash_one(entries[*at].path.as_bytes());
        let is_it = |at: &usize| entries[*at].path == *path;
        match places.entry(hashing.hash_one(path.as_bytes()), is_it, hash_of) {
            hashbrown::hash_table::Entry::Occupied(place) => {
                let at = *place.get();
                entries[at] = entry;
            }
            hashbrown::hash_table::Entry::Vacant(place) => {
                place.insert(entries.len());
                entries.push(entry);
            }
        }
    }

    fn get(&self, path: &[u8]) -> Option<&Entry> {
        self.find(path).map(|at| &self.entries[at])
    }

    /// Where the entry at `path` is in `entries`.
    fn find(&self, path: &[u8]) -> Option<usize> {
        let found = |at: &usize| self.entries[*at].path.as_bytes() == path;
        self.places.find(self.hashing.hash_one(path), found).copied()
    }

    /// The first name of the regular file at `path`, and what it is.
    pub(super) fn file(&self, path: &RelPath) -> Result<(RelPath, Node), Refusal> {
        let none = || Refusal::HardLinkTarget { target: path.clone() };
        let entry = self.get(path.as_bytes()).ok_or_else(none)?;
        match (entry.kind, &entry.target) {
            (EntryType::File, _) => Ok((path.clone(), node(entry))),
            (EntryType::Hardlink, Some(first)) => Ok((RelPath::parse(first).map_err(|_| none())?, node(entry))),
            _ => Err(none()),
        }
    }

    /// The symlink at `path`, if one is there, and its target.
    pub(super) fn symlink(&self, path: &RelPath) -> Option<(Node, Vec<u8>)> {
        let entry = self.get(path.as_bytes())?;
        Some((node(entry), Self::link_of(entry)?.to_vec()))
    }

    /// Whether `path` is there.
    pub(super) fn holds(&self, path: &RelPath) -> bool {
        self.get(path.as_bytes()).is_some()
    }

    /// Finds a symlink that leads above the tree's top by way of other symlinks, with the reason to refuse it. One that
    /// leads nowhere or in a circle leads out of nothing. Links are followed however many there are: the system stops at
    /// 40, programs that resolve paths themselves do not.
    ///
    /// `is_there` says what the file system holds. It is asked about names that no entry has and from where a link goes
    /// up: where the file system finds them all the same, it takes them for other ones, and what lies there is unknown.
    ///
    /// # Errors
    /// Those of `is_there`.
    pub(super) fn escaping_symlink<E>(
        &self,
        mut is_there: impl FnMut(&RelPath) -> Result<bool, E>,
    ) -> Result<Option<(&[u8], Refusal)>, E> {
        let mut walk = Walk {
            tree: self,
            steps: STEPS.saturating_add(STEPS_AN_ENTRY.saturating_mul(self.entries.len() as u64)),
            is_followed: vec![false; self.entries.len()],
            followed: Vec::new(),
            ahead: Vec::new(),
        };
        for (at, entry) in self.entries.iter().enumerate() {
            let Some(target) = Self::link_of(entry) else { continue };
            let path = entry.path.as_bytes();
            let refusal = match walk.leads(path, at, target) {
                None => Refusal::Maze,
                Some(Leads::Out) => Refusal::SymlinkEscapes { target: shown(target) },
                Some(Leads::Inside) => continue,
                Some(Leads::InsideUnlessThere(other)) if is_there(&other)? => {
                    Refusal::SymlinkByOtherName { target: shown(target), other: shown(other.as_bytes()) }
                }
                Some(Leads::InsideUnlessThere(_)) => continue,
            };
            return Ok(Some((path, refusal)));
        }
        Ok(None)
    }

    fn link_of(entry: &Entry) -> Option<&[u8]> {
        entry.target.as_deref().filter(|_| entry.kind == EntryType::Symlink)
    }

    /// Of each file whose first name in the archive is not that in the tree's order, the one and the other.
    pub(super) fn first_names(&self) -> FirstNames {
        // Without a copy of a name for each of the links.
        let mut first: HashMap<&[u8], &RelPath> = HashMap::new();
        for entry in self.entries.iter().filter(|entry| entry.kind == EntryType::Hardlink) {
            let Some(target) = &entry.target else { continue };
            let name = first.entry(target).or_insert(&entry.path);
            *name = (*name).min(&entry.path);
        }
        first.retain(|archived, name| RelPath::parse(archived).is_ok_and(|archived| **name < archived));
        first.into_iter().map(|(archived, name)| (archived.into(), name.clone())).collect()
    }

    /// The hard links that name a file's longer name once they name its first, and how many entries more they count for.
    pub(super) fn grown_by(&self, first: &FirstNames) -> impl Iterator<Item = (&RelPath, u64)> {
        self.entries.iter().filter(|entry| entry.kind == EntryType::Hardlink).filter_map(move |entry| {
            let target = entry.target.as_deref()?;
            let with = |target: &[u8]| policy::weight((entry.path.as_bytes().len() + target.len()) as u64);
            let name = first.get(target).filter(|name| **name != entry.path)?;
            let more = with(name.as_bytes()).saturating_sub(with(target));
            (more > 0).then_some((&entry.path, more))
        })
    }

    /// All entries, sorted by path; the first name of each file's in that order is the file.
    pub(super) fn into_entries(self, first: &FirstNames) -> Vec<Entry> {
        let Self { mut entries, places, .. } = self;
        drop(places);
        entries.shrink_to_fit();
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        names_in_order(&mut entries, first);
        entries
    }
}

/// Where a symlink leads.
#[derive(Debug)]
enum Leads {
    /// To something in the tree, in a circle, or nowhere.
    Inside,
    /// Above the tree's top.
    Out,
    /// Nowhere, unless the file system finds something at this path, which no entry has.
    InsideUnlessThere(RelPath),
}

/// Finds where symlinks lead.
struct Walk<'a> {
    tree: &'a Tree,
    /// That may be taken still.
    steps: u64,
    /// Of each entry, whether it is among those followed.
    is_followed: Vec<bool>,
    /// Links being followed, each from within the one before it.
    followed: Vec<usize>,
    /// What is walked still, the next last, each with how many links were being followed when it was read.
    ahead: Vec<(&'a [u8], usize)>,
}

impl<'a> Walk<'a> {
    /// Walks the `target` of the link at `path`, the entry `link`, from the directory that holds it; `None` when the steps
    /// are used up.
    fn leads(&mut self, path: &[u8], link: usize, target: &'a [u8]) -> Option<Leads> {
        self.ahead.clear();
        self.return_to(0);
        self.follow(link, target)?;
        let mut at: Vec<u8> = parent(path).to_vec();
        let mut unknown = None;
        // The system would not go on: only what stands in the links is walked still.
        let mut is_at_end = false;
        while let Some((component, depth)) = self.ahead.pop() {
            self.take(1)?;
            self.return_to(depth);
            if component == b".." {
                if at.is_empty() {
                    return Some(Leads::Out);
                }
                at.truncate(parent(&at).len());
                continue;
            }
            let above = at.len();
            if above > 0 {
                at.push(b'/');
            }
            at.extend_from_slice(component);
            if at.len() > LONGEST_WALKED {
                return None;
            }
            // No entry has a path that long.
            let found = if at.len() < RelPath::LIMIT {
                self.take(at.len() / STEP)?;
                self.tree.find(&at)
            } else {
                None
            };
            let entry = found.map(|found| &self.tree.entries[found]);
            if let (Some(found), Some(target)) = (found, entry.and_then(Tree::link_of)) {
                // To follow it, it would have to have been followed.
                if self.is_followed[found] {
                    break;
                }
                at.truncate(above);
                self.follow(found, target)?;
            } else if !is_at_end && entry.is_none_or(|entry| entry.kind != EntryType::Dir) {
                is_at_end = true;
                if entry.is_none() && self.goes_up()? {
                    if at.len() >= RelPath::LIMIT {
                        // By another name an entry's path may be longer than it is, and this one cannot be asked for.
                        return None;
                    }
                    // What has a name that cannot be one is not there.
                    unknown = RelPath::parse(&at).ok();
                }
            }
        }
        Some(unknown.map_or(Leads::Inside, Leads::InsideUnlessThere))
    }

    /// Whether any of what is ahead goes upwards.
    fn goes_up(&mut self) -> Option<bool> {
        self.take(self.ahead.len() / STEP)?;
        Some(self.ahead.iter().any(|(component, _)| *component == b".."))
    }

    /// Reads a link: its components come next.
    fn follow(&mut self, link: usize, target: &'a [u8]) -> Option<()> {
        self.take(target.len() / STEP)?;
        self.is_followed[link] = true;
        self.followed.push(link);
        let components = target.rsplit(|&b| b == b'/').filter(|component| !matches!(*component, b"" | b"."));
        let depth = self.followed.len();
        self.ahead.extend(components.map(|component| (component, depth)));
        (self.ahead.len() <= MOST_AHEAD).then_some(())
    }

    /// Only so many links are being followed still.
    fn return_to(&mut self, depth: usize) {
        while self.followed.len() > depth {
            if let Some(link) = self.followed.pop() {
                self.is_followed[link] = false;
            }
        }
    }

    fn take(&mut self, steps: usize) -> Option<()> {
        self.steps = self.steps.checked_sub(steps as u64)?;
        Some(())
    }
}

/// Has the first of a file's names in the tree's order be the file, whichever came first in the archive: a hard link
/// names an entry before it.
fn names_in_order(entries: &mut [Entry], first: &FirstNames) {
    for entry in entries.iter_mut() {
        match entry.kind {
            EntryType::File => {
                let Some(name) = first.get(entry.path.as_bytes()) else { continue };
                (entry.kind, entry.target) = (EntryType::Hardlink, Some(name.as_bytes().to_vec()));
            }
            EntryType::Hardlink => {
                let Some(name) = entry.target.as_ref().and_then(|target| first.get(target)) else { continue };
                let own = *name == entry.path;
                (entry.kind, entry.target) = match own {
                    true => (EntryType::File, None),
                    false => (EntryType::Hardlink, Some(name.as_bytes().to_vec())),
                };
            }
            EntryType::Dir | EntryType::Symlink => {}
        }
    }
}

fn node(entry: &Entry) -> Node {
    Node {
        kind: entry.kind,
        mode: entry.mode,
        owner: (entry.uid, entry.gid),
        mtime: entry.mtime,
        size: entry.size,
        sha256: entry.sha256,
        target: entry.target.clone(),
    }
}

fn entry(path: RelPath, node: Node) -> Entry {
    Entry {
        path,
        kind: node.kind,
        mode: node.mode,
        uid: node.owner.0,
        gid: node.owner.1,
        mtime: node.mtime,
        size: node.size,
        sha256: node.sha256,
        target: node.target,
    }
}

/// The bytes before the last `/`; none where there is none.
fn parent(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|&b| b == b'/').unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn node(kind: EntryType, target: Option<&str>) -> Node {
        let target = target.map(|t| t.as_bytes().to_vec());
        Node { kind, mode: 0o755, owner: (0, 0), mtime: Timestamp::UNIX_EPOCH, size: 0, sha256: None, target }
    }

    fn tree(links: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::default();
        for (path, target) in links {
            tree.add(&path.parse().unwrap(), node(EntryType::Symlink, Some(target)));
        }
        tree
    }

    /// Where the file system tells names apart.
    fn escaping(tree: &Tree) -> Option<(&[u8], Refusal)> {
        tree.escaping_symlink(|_| Ok::<_, &str>(false)).unwrap()
    }

    #[test]
    fn a_chain_of_links_that_each_stay_inside_may_still_lead_out() {
        for links in [
            &[("a/b/up", "../.."), ("out", "a/b/up/../etc")][..],
            &[("a/b/up", "../.."), ("c", "a/b/up"), ("out", "c/..")],
            &[("d", "."), ("e/out", "../d/..")],
        ] {
            assert!(escaping(&tree(links)).is_some(), "{links:?}");
        }
        for links in [
            &[("a/b/up", "../.."), ("in", "a/b/up/etc")][..],
            &[("loop", "loop/.."), ("a", "b"), ("b", "a")],
            &[("dangling", "nowhere/../else")],
        ] {
            assert_eq!(escaping(&tree(links)), None, "{links:?}");
        }
    }

    #[test]
    fn what_has_a_link_go_up_from_another_name_of_an_entry_is_refused() {
        let refused = |links: &[(&str, &str)]| {
            let mut tree = tree(links);
            tree.add(&"a".parse().unwrap(), node(EntryType::Dir, None));
            let folded = |path: &RelPath| Ok::<_, &str>(tree.holds(&path.to_string().to_lowercase().parse().unwrap()));
            tree.escaping_symlink(folded).unwrap().map(|(path, refusal)| (path.to_vec(), refusal))
        };
        let by = |path: &str, target: &str, other: &str| {
            let refusal = Refusal::SymlinkByOtherName { target: target.into(), other: other.into() };
            Some((path.as_bytes().to_vec(), refusal))
        };
        let top = ("a/l", "..");
        assert_eq!(refused(&[top, ("out", "A/L/..")]), by("out", "A/L/..", "A"));
        assert_eq!(refused(&[top, ("b", "a/L"), ("c/out", "../b/..")]), by("c/out", "../b/..", "a/L"));
        for links in [[top, ("in", "A/l")], [top, ("nowhere", "X/L/..")]] {
            assert_eq!(refused(&links), None, "{links:?}");
        }
        // Where the other name is so long that nobody can ask for it.
        let deep = vec!["d".repeat(250); 16].join("/");
        let (link, out) = (format!("{deep}/{}", "\u{390}".repeat(20)), format!("{deep}/out"));
        let by = format!("{}/..", "\u{3b9}\u{308}\u{301}".repeat(20));
        let maze = refused(&[(&link, &"../".repeat(16)), (&out, &by)]);
        assert_eq!(maze, Some((out.into_bytes(), Refusal::Maze)));
        let failing = tree(&[("out", "A/L/..")]).escaping_symlink(|_| Err("failed")).map(|_| ());
        assert_eq!(failing, Err("failed"));
    }

    #[test]
    fn targets_that_add_up_are_a_maze() {
        let mut links: Vec<(String, String)> =
            (0..200).map(|at| (format!("l{at}"), format!("l{}{}", at + 1, "/x".repeat(1000)))).collect();
        let refused = |links: &[(String, String)]| {
            let links: Vec<(&str, &str)> = links.iter().map(|(path, target)| (&**path, &**target)).collect();
            escaping(&tree(&links)).map(|(_, refusal)| refusal)
        };
        assert!(matches!(refused(&links), Some(Refusal::Maze)));
        links.truncate(20);
        assert!(refused(&links).is_none());
        // And few components that are long.
        let mut links: Vec<(String, String)> = (0..40)
            .map(|at| (format!("l{at}"), format!("l{}{}", at + 1, "/".to_owned() + &"x".repeat(3_900))))
            .collect();
        assert!(matches!(refused(&links), Some(Refusal::Maze)));
        links.truncate(15);
        assert!(refused(&links).is_none());
        // What is empty in a target takes nothing.
        let empty: Vec<_> = (0..200).map(|at| (format!("l{at}"), format!("l{}{}", at + 1, "/".repeat(4000)))).collect();
        assert!(refused(&empty).is_none());
    }

    #[test]
    fn a_long_chain_is_walked_or_refused_in_steps_that_are_counted() {
        let links: Vec<_> = (0..100_000).map(|at| (format!("l{at}"), format!("l{}", at + 1))).collect();
        let links: Vec<(&str, &str)> = links.iter().map(|(path, target)| (&**path, &**target)).collect();
        // Each of the links before the last leads through all that follow.
        assert!(matches!(escaping(&tree(&links)), Some((_, Refusal::Maze))));
        assert!(escaping(&tree(&links[..1000])).is_none());
    }

    #[test]
    fn nothing_is_put_below_what_is_no_directory_or_over_what_is_there() {
        let mut tree = tree(&[("link", "d")]);
        tree.add(&"file".parse().unwrap(), node(EntryType::File, None));
        tree.add(&"d".parse().unwrap(), node(EntryType::Dir, None));
        let place = |path: &str, kind| tree.place(&path.parse().unwrap(), kind);
        assert!(matches!(place("link/x/y", EntryType::File), Err(Refusal::BelowSymlink { .. })));
        assert!(matches!(place("file/x", EntryType::Dir), Err(Refusal::BelowFile { .. })));
        assert_eq!(place("file", EntryType::File), Err(Refusal::Duplicate));
        assert_eq!(place("d", EntryType::File), Err(Refusal::Duplicate));
        assert_eq!(place("link", EntryType::Dir), Err(Refusal::Duplicate));
        assert_eq!(place("d", EntryType::Dir), Ok(Place::Listed));
        assert_eq!(place("d/x", EntryType::Dir), Ok(Place::Free(vec![])));
        let missing = ["n", "n/m"].map(|p| p.parse().unwrap()).to_vec();
        assert_eq!(place("n/m/x", EntryType::File), Ok(Place::Free(missing)));
    }

    #[test]
    fn a_file_is_the_first_of_its_names_in_the_tree() {
        let mut tree = Tree::default();
        for (path, target) in [("z", None), ("b", Some("z")), ("a", Some("z")), ("m", None), ("n", Some("m"))] {
            let kind = if target.is_some() { EntryType::Hardlink } else { EntryType::File };
            tree.add(&path.parse().unwrap(), node(kind, target));
        }
        let first = tree.first_names();
        assert!(tree.grown_by(&first).next().is_none());
        let found = tree.into_entries(&first).into_iter().map(|entry| {
            (entry.path.to_string(), entry.kind, entry.target.map(|target| String::from_utf8(target).unwrap()))
        });
        let link = |path: &str, target: &str| (path.to_owned(), EntryType::Hardlink, Some(target.to_owned()));
        let file = |path: &str| (path.to_owned(), EntryType::File, None);
        assert_eq!(found.collect::<Vec<_>>(), [file("a"), link("b", "a"), file("m"), link("n", "m"), link("z", "a")]);
    }

    proptest! {
        /// Held against the system's own resolution: made on disk, walked by hand with `canonicalize`.
        #[test]
        #[allow(clippy::disallowed_methods)]
        fn what_is_let_through_stays_inside_on_disk(
            links in proptest::collection::vec(("[ab](/[ab]){0,2}", "([ab]|\\.\\.|\\.)(/([ab]|\\.\\.|\\.)){0,4}"), 1..6),
        ) {
            let outer = tempfile::tempdir().unwrap();
            let outer = outer.path().canonicalize().unwrap();
            let root = outer.join("p/q/r/root");
            std::fs::create_dir_all(&root).unwrap();
            let mut tree = Tree::default();
            for (path, target) in &links {
                let path: RelPath = path.parse().unwrap();
                let Ok(Place::Free(dirs)) = tree.place(&path, EntryType::Symlink) else { continue };
                for dir in dirs {
                    std::fs::create_dir(root.join(dir.as_path())).unwrap();
                    tree.add(&dir, node(EntryType::Dir, None));
                }
                std::os::unix::fs::symlink(target, root.join(path.as_path())).unwrap();
                tree.add(&path, node(EntryType::Symlink, Some(target)));
            }
            if escaping(&tree).is_none() {
                for path in tree.entries.iter().map(|entry| &entry.path) {
                    if let Ok(real) = root.join(path.as_path()).canonicalize() {
                        prop_assert!(real.starts_with(&root), "{path} leads to {}", real.display());
                    }
                }
            }
        }
    }
}
