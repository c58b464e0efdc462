//! What a disk with a volatile cache holds: what programs see, what is durable, and the changes between the two that
//! nothing has made durable yet.
//!
//! What must hold: it promises no more than POSIX, ext4 and XFS do. A file's content is durable after fsync or fdatasync of
//! that file, its metadata after fsync; a name after fsync of its directory; everything after syncfs. A symlink cannot be
//! synced, so that it is whole with its name. In [`Order::Journal`] metadata become durable in the order of the changes, as
//! ext4 and XFS do it; in [`Order::Strict`] each change by itself, in any order but that of changes to the same name. A
//! rename is one change where it is within a directory or moves a directory (no file system leaves a directory in two
//! places); else `Strict` makes the new name and takes the old one away as two.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::io::Errno;

use super::content::{Write, after_loss, apply};

pub(crate) type Ino = u64;
pub(crate) const ROOT: Ino = 1;

/// In which order metadata become durable.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// As they were changed: a loss takes the last ones.
    #[default]
    Journal,
    /// None: a loss takes any.
    Strict,
}

#[derive(Debug, Clone)]
pub(super) struct Attr {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) atime: SystemTime,
    pub(super) mtime: SystemTime,
    pub(super) ctime: SystemTime,
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    File(Arc<Vec<u8>>),
    Dir(BTreeMap<OsString, Ino>),
    Symlink(Vec<u8>),
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) attr: Attr,
    pub(super) xattrs: BTreeMap<OsString, Vec<u8>>,
    pub(super) body: Body,
    pub(super) nlink: u32,
}

/// A name in a directory, and what it leads to from now on.
type Name = (Ino, OsString, Option<Ino>);

/// A change of metadata that is not durable yet.
enum Change {
    Names(Vec<Name>),
    Attr(Ino, Attr),
    Xattr(Ino, OsString, Option<Vec<u8>>),
}

/// What a change is of: of two with the same, the later one stands on the earlier.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key<'a> {
    Name(Ino, &'a OsStr),
    Attr(Ino),
    Xattr(Ino, &'a OsStr),
}

/// What a rename does about a destination that exists.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rename {
    Replace,
    NoReplace,
    Exchange,
}

/// What a power loss took.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Loss {
    /// Changes of metadata that were not durable.
    pub(crate) changes: usize,
    /// Those of them that are gone.
    pub(crate) lost: usize,
    /// Files with content that was not durable.
    pub(crate) unsynced: usize,
}

type Image = HashMap<Ino, Node>;
type Done<T = ()> = Result<T, Errno>;

pub(crate) struct Disk {
    order: Order,
    /// Names that differ in case or in Unicode's normal form are one, as on ext4 with casefold.
    pub(super) folds: bool,
    live: Image,
    durable: Image,
    changes: Vec<Change>,
    writes: BTreeMap<Ino, Vec<Write>>,
    next: Ino,
}

impl Change {
    fn keys(&self) -> BTreeSet<Key<'_>> {
        match self {
            Change::Names(names) => names.iter().map(|(dir, name, _)| Key::Name(*dir, name)).collect(),
            Change::Attr(ino, _) => BTreeSet::from([Key::Attr(*ino)]),
            Change::Xattr(ino, name, _) => BTreeSet::from([Key::Xattr(*ino, name)]),
        }
    }

    /// Whether an fsync of `ino` makes it durable.
    fn is_of(&self, ino: Ino, order: Order) -> bool {
        match self {
            Change::Attr(of, _) | Change::Xattr(of, ..) => *of == ino,
            Change::Names(names) => names.iter().any(|(dir, _, to)| {
                // With a journal, that an inode was made and its name are one transaction.
                *dir == ino || (order == Order::Journal && *to == Some(ino))
            }),
        }
    }

    fn apply(self, image: &mut Image) {
        match self {
            Change::Names(names) => names.into_iter().for_each(|(dir, name, to)| {
                let Some(Node { body: Body::Dir(held), .. }) = image.get_mut(&dir) else { return };
                match to {
                    Some(ino) => drop(held.insert(name, ino)),
                    None => drop(held.remove(&name)),
                }
            }),
            Change::Attr(ino, attr) => drop(image.get_mut(&ino).map(|node| node.attr = attr)),
            Change::Xattr(ino, name, value) => {
                let Some(node) = image.get_mut(&ino) else { return };
                match value {
                    Some(value) => drop(node.xattrs.insert(name, value)),
                    None => drop(node.xattrs.remove(&name)),
                }
            }
        }
    }
}

impl Disk {
    pub(crate) fn new(order: Order) -> Self {
        let root = Node::new(Body::Dir(BTreeMap::new()), 0o755, (0, 0));
        let live = Image::from([(ROOT, root)]);
        let (durable, changes, writes) = (live.clone(), Vec::new(), BTreeMap::new());
        Self { order, folds: false, durable, live, changes, writes, next: ROOT + 1 }
    }

    /// One that folds names.
    pub(crate) fn folding() -> Self {
        Self { folds: true, ..Self::new(Order::Journal) }
    }

    pub(super) fn node(&self, ino: Ino) -> Done<&Node> {
        self.live.get(&ino).ok_or(Errno::STALE)
    }

    fn node_mut(&mut self, ino: Ino) -> Done<&mut Node> {
        self.live.get_mut(&ino).ok_or(Errno::STALE)
    }

    pub(super) fn names(&self, dir: Ino) -> Done<&BTreeMap<OsString, Ino>> {
        match &self.node(dir)?.body {
            Body::Dir(names) => Ok(names),
            _ => Err(Errno::NOTDIR),
        }
    }

    pub(super) fn lookup(&self, dir: Ino, name: &OsStr) -> Done<Ino> {
        self.find(dir, name)?.map(|(_, ino)| ino).ok_or(Errno::NOENT)
    }

    /// The name as it was given first, and what it leads to.
    fn find(&self, dir: Ino, name: &OsStr) -> Done<Option<(OsString, Ino)>> {
        let names = self.names(dir)?;
        let found = match self.folds {
            false => names.get_key_value(name),
            true => names.iter().find(|(held, _)| folded(held) == folded(name)),
        };
        Ok(found.map(|(held, ino)| (held.clone(), *ino)))
    }

    fn is_dir(&self, ino: Ino) -> bool {
        self.live.get(&ino).is_some_and(|node| matches!(node.body, Body::Dir(_)))
    }

    /// Changes names, of which none is durable yet.
    fn rename_to(&mut self, names: Vec<Name>) {
        let now = SystemTime::now();
        for (dir, name, to) in &names {
            let Some(Node { body: Body::Dir(held), attr, .. }) = self.live.get_mut(dir) else { continue };
            (attr.mtime, attr.ctime) = (now, now);
            match to {
                Some(ino) => drop(held.insert(name.clone(), *ino)),
                None => drop(held.remove(name)),
            }
        }
        let one = names.iter().all(|(dir, ..)| *dir == names[0].0)
            || names.iter().any(|(.., to)| to.is_some_and(|ino| self.is_dir(ino)));
        if one || self.order == Order::Journal {
            self.changes.push(Change::Names(names));
        } else {
            self.changes.extend(names.into_iter().map(|name| Change::Names(vec![name])));
        }
    }

    fn linked(&mut self, ino: Ino, by: i32) {
        if let Some(node) = self.live.get_mut(&ino) {
            node.nlink = node.nlink.saturating_add_signed(by);
            node.attr.ctime = SystemTime::now();
        }
    }

    /// Makes a file, directory or symlink. With its name comes what it was made with: an inode and its first metadata.
    pub(super) fn make(&mut self, dir: Ino, name: &OsStr, body: Body, mode: u32, owner: (u32, u32)) -> Done<Ino> {
        if self.find(dir, name)?.is_some() {
            return Err(Errno::EXIST);
        }
        let ino = self.next;
        self.next += 1;
        let node = Node::new(body, mode, owner);
        self.live.insert(ino, node.clone());
        self.durable.insert(ino, node);
        self.rename_to(vec![(dir, name.to_owned(), Some(ino))]);
        Ok(ino)
    }

    pub(super) fn link(&mut self, ino: Ino, dir: Ino, name: &OsStr) -> Done {
        if self.find(dir, name)?.is_some() {
            return Err(Errno::EXIST);
        }
        self.linked(ino, 1);
        self.rename_to(vec![(dir, name.to_owned(), Some(ino))]);
        Ok(())
    }

    pub(super) fn remove(&mut self, dir: Ino, name: &OsStr) -> Done {
        let (name, ino) = self.find(dir, name)?.ok_or(Errno::NOENT)?;
        if self.is_dir(ino) && !self.names(ino)?.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        self.linked(ino, -1);
        self.rename_to(vec![(dir, name, None)]);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: (Ino, &OsStr), to: (Ino, &OsStr), how: Rename) -> Done {
        let (name, moved) = self.find(from.0, from.1)?.ok_or(Errno::NOENT)?;
        let (new_name, found) = self.find(to.0, to.1)?.map_or((to.1.to_owned(), None), |(name, ino)| (name, Some(ino)));
        match (how, found) {
            (Rename::NoReplace, Some(_)) => return Err(Errno::EXIST),
            (Rename::Exchange, None) => return Err(Errno::NOENT),
            (Rename::Replace | Rename::Exchange, Some(found)) if found == moved => return Ok(()),
            (Rename::Replace, Some(found)) => match (self.is_dir(moved), self.is_dir(found)) {
                (true, false) => return Err(Errno::NOTDIR),
                (false, true) => return Err(Errno::ISDIR),
                (true, true) if !self.names(found)?.is_empty() => return Err(Errno::NOTEMPTY),
                _ => self.linked(found, -1),
            },
            _ => {}
        }
        self.linked(moved, 0);
        let back = found.filter(|_| how == Rename::Exchange);
        back.into_iter().for_each(|back| self.linked(back, 0));
        self.rename_to(vec![(to.0, new_name, Some(moved)), (from.0, name, back)]);
        Ok(())
    }

    pub(super) fn set_attr(&mut self, ino: Ino, change: impl FnOnce(&mut Attr)) -> Done {
        let node = self.node_mut(ino)?;
        change(&mut node.attr);
        node.attr.ctime = SystemTime::now();
        let attr = node.attr.clone();
        self.changes.push(Change::Attr(ino, attr));
        Ok(())
    }

    pub(super) fn set_xattr(&mut self, ino: Ino, name: &OsStr, value: Option<Vec<u8>>) -> Done {
        let node = self.node_mut(ino)?;
        node.attr.ctime = SystemTime::now();
        match value.clone() {
            Some(value) => drop(node.xattrs.insert(name.to_owned(), value)),
            None => drop(node.xattrs.remove(name).ok_or(Errno::NODATA)?),
        }
        self.changes.push(Change::Xattr(ino, name.to_owned(), value));
        Ok(())
    }

    pub(super) fn write(&mut self, ino: Ino, write: Write) -> Done {
        let now = SystemTime::now();
        let node = self.node_mut(ino)?;
        let Body::File(content) = &mut node.body else { return Err(Errno::ISDIR) };
        apply(Arc::make_mut(content), &write);
        (node.attr.mtime, node.attr.ctime) = (now, now);
        self.writes.entry(ino).or_default().push(write);
        Ok(())
    }

    /// fsync, or fdatasync.
    pub(super) fn sync(&mut self, ino: Ino, data_only: bool) -> Done {
        let Node { attr, xattrs, body, .. } = self.node(ino)?.clone();
        self.writes.remove(&ino);
        if let (Some(durable), Body::File(content)) = (self.durable.get_mut(&ino), &body) {
            durable.body = Body::File(content.clone());
        }
        if data_only {
            return Ok(());
        }
        // Nothing else makes a symlink durable.
        let mut of: HashSet<Ino> = HashSet::from([ino]);
        if let Body::Dir(names) = &body {
            of.extend(names.values().filter(|ino| matches!(self.live[*ino].body, Body::Symlink(_))));
        }
        let wanted: Vec<bool> =
            self.changes.iter().map(|change| of.iter().any(|ino| change.is_of(*ino, self.order))).collect();
        self.make_durable(wanted);
        if let Some(durable) = self.durable.get_mut(&ino) {
            (durable.attr, durable.xattrs) = (attr, xattrs);
        }
        Ok(())
    }

    /// syncfs.
    pub(super) fn sync_all(&mut self) {
        self.changes.clear();
        self.writes.clear();
        self.durable = self.live.clone();
    }

    /// Makes the wanted changes durable, and those that they stand on.
    fn make_durable(&mut self, mut wanted: Vec<bool>) {
        match self.order {
            Order::Journal => {
                let end = wanted.iter().rposition(|wanted| *wanted).map_or(0, |last| last + 1);
                wanted[..end].fill(true);
            }
            Order::Strict => {
                let mut needed = BTreeSet::new();
                for (change, wanted) in self.changes.iter().zip(&mut wanted).rev() {
                    let keys = change.keys();
                    *wanted |= !keys.is_disjoint(&needed);
                    if *wanted {
                        needed.extend(keys);
                    }
                }
            }
        }
        let mut wanted = wanted.into_iter();
        let (durable, rest) =
            std::mem::take(&mut self.changes).into_iter().partition(|_| wanted.next().unwrap_or_default());
        self.changes = rest;
        Vec::into_iter(durable).for_each(|change| change.apply(&mut self.durable));
    }

    /// The power goes, and comes back: of what was not durable chance keeps some.
    pub(super) fn lose_power(&mut self, rng: &mut fastrand::Rng) -> Loss {
        let all = self.changes.len();
        let kept = match (self.order, rng.u8(0..5)) {
            (_, 0) => vec![false; all],
            (_, 1) => vec![true; all],
            (Order::Journal, _) => {
                let end = rng.usize(0..=all);
                (0..all).map(|at| at < end).collect()
            }
            (Order::Strict, _) => {
                let odds = rng.f64();
                (0..all).map(|_| rng.f64() < odds).collect()
            }
        };
        self.make_durable(kept);
        let loss = Loss { changes: all, lost: self.changes.len(), unsynced: self.writes.len() };
        self.changes.clear();
        for (ino, writes) in std::mem::take(&mut self.writes) {
            let live = self.live[&ino].attr.clone();
            let Some(Node { body: Body::File(content), attr, .. }) = self.durable.get_mut(&ino) else { continue };
            *content = Arc::new(after_loss(content, &writes, self.order == Order::Strict, rng));
            if rng.bool() {
                (attr.mtime, attr.ctime) = (live.mtime, live.ctime);
            }
        }
        self.start_from_durable();
        loss
    }

    /// What no name leads to is gone, as a file system's own check has it.
    fn start_from_durable(&mut self) {
        let mut links: HashMap<Ino, u32> = HashMap::from([(ROOT, 2)]);
        let mut open = vec![ROOT];
        while let Some(dir) = open.pop() {
            let Some(Node { body: Body::Dir(names), .. }) = self.durable.get(&dir) else { continue };
            for ino in names.values() {
                let seen = links.entry(*ino).or_default();
                *seen += 1;
                if *seen == 1 {
                    open.push(*ino);
                }
            }
        }
        self.durable.retain(|ino, _| links.contains_key(ino));
        for (ino, node) in &mut self.durable {
            let is_dir = matches!(node.body, Body::Dir(_));
            assert!(!is_dir || links[ino] <= 2, "directory {ino} stands in several places");
            node.nlink = if is_dir { 2 } else { links[ino] };
        }
        self.live = self.durable.clone();
    }
}

/// What names that are one have in common; of Unicode's forms, as far as the tests' names need it.
fn folded(name: &OsStr) -> Vec<u8> {
    match name.to_str() {
        Some(name) => name.to_lowercase().replace('\u{e9}', "e\u{301}").replace('\u{fb01}', "fi").into_bytes(),
        None => name.as_encoded_bytes().to_vec(),
    }
}

impl Node {
    fn new(body: Body, mode: u32, (uid, gid): (u32, u32)) -> Self {
        let now = SystemTime::now();
        let nlink = if matches!(body, Body::Dir(_)) { 2 } else { 1 };
        let attr = Attr { mode: mode & 0o7777, uid, gid, atime: now, mtime: now, ctime: now };
        Self { attr, xattrs: BTreeMap::new(), body, nlink }
    }
}
