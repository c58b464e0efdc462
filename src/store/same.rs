//! The same content once: files of a staged tree that a version of the same artifact already has become reflinks of
//! that version's files, or hard links to them, before the tree is published.
//!
//! What must hold: manifests only say where to look. What takes a staged file's place was compared with it byte by byte,
//! so a file that somebody changed in the store never spreads. A file that cannot be shared keeps its own copy.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use super::{Entry, EntryType, Manifest, Store, Version, store_mode};
use crate::fs::{self, Dir, Kind, LinkMode, Meta, RelPath, Rename, Stat, apply_meta};
use crate::intent::{ArtifactName, VersionName};

/// So many versions of the artifact are looked through; content that left and came back later is stored anew.
const LOOKED_AT: usize = 3;
/// An inode with so many names gets no more of them here: ext4 allows 65,000, and seeds want theirs.
const MOST_NAMES: u64 = 32_000;
/// Bytes compared at once.
const PIECE: usize = 128 * 1024;

/// What was shared with versions that the node had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Shared {
    /// Files that have no second copy.
    pub(super) files: u64,
    /// Their bytes.
    pub(super) bytes: u64,
}

impl Store {
    /// Shares what `tree`, staged as `version` of `artifact`, has in common with the versions on the node.
    pub(super) fn share_content(
        &self,
        artifact: &ArtifactName,
        version: &VersionName,
        tree: &Dir,
        entries: &[Entry],
    ) -> fs::Result<Shared> {
        let mut sharing = Sharing::new(tree, entries);
        for (donor, manifest) in self.donors(artifact, version) {
            sharing.share_with(&donor, &manifest)?;
        }
        sharing.follow_hard_links()?;
        let bytes = sharing.shared.iter().map(|&at| entries[at].size).sum();
        Ok(Shared { files: sharing.shared.len() as u64, bytes })
    }

    /// The versions to look through: the one being replaced, current, then the newest. Opened one at a time, since a
    /// manifest may be large.
    fn donors(
        &self,
        artifact: &ArtifactName,
        version: &VersionName,
    ) -> impl Iterator<Item = (Version, Arc<Manifest>)> + use<'_> {
        let holding = self.holding(artifact);
        let mut heads = holding.newest_first();
        // A stable sort: the rest stays newest first.
        heads.sort_by_key(|head| (head.version != *version, Some(&head.version) != holding.current.as_ref()));
        let heads: Vec<_> = heads.into_iter().take(LOOKED_AT).cloned().collect();
        heads.into_iter().filter_map(|head| {
            let opened = self.open_version(&head.artifact, &head.version);
            let read = opened.and_then(|donor| self.manifest(&donor).map(|manifest| (donor, manifest)));
            read.inspect_err(|error| {
                tracing::warn!(artifact = %head.artifact, version = %head.version, %error, "no content shared with it");
            })
            .ok()
        })
    }
}

/// A staged tree whose files are being shared.
struct Sharing<'a> {
    tree: &'a Dir,
    entries: &'a [Entry],
    /// How many further names each file has in this tree.
    names: HashMap<&'a [u8], u64>,
    /// Which entries are shared by now.
    shared: HashSet<usize>,
    /// Reflink until the file system refuses one, then hard link.
    rung: LinkMode,
}

impl<'a> Sharing<'a> {
    fn new(tree: &'a Dir, entries: &'a [Entry]) -> Self {
        let mut names = HashMap::new();
        for entry in entries.iter().filter(|entry| entry.kind == EntryType::Hardlink) {
            *names.entry(entry.target.as_deref().unwrap_or_default()).or_default() += 1;
        }
        Self { tree, entries, names, shared: HashSet::new(), rung: LinkMode::Reflink }
    }

    fn share_with(&mut self, donor: &Version, manifest: &Manifest) -> fs::Result<()> {
        let mut found = self.found_in(&manifest.entries);
        // Directory by directory: each is made writable and given its times back once.
        found.sort_by(|(a, _), (b, _)| above(&self.entries[*a]).cmp(&above(&self.entries[*b])));
        let entries = self.entries;
        for group in found.chunk_by(|(a, _), (b, _)| above(&entries[*a]) == above(&entries[*b])) {
            let Some((first, _)) = group.first() else { continue };
            self.change_directory(entries[*first].path.parent().as_ref(), |sharing, dir| {
                for (at, other) in group {
                    if sharing.share_file(donor, other, dir, &entries[*at])? {
                        sharing.shared.insert(*at);
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The files to share, each with the donor's entry of the same content: that of the same path, else any.
    fn found_in<'d>(&self, donor: &'d [Entry]) -> Vec<(usize, &'d Entry)> {
        let of_donor = donor.iter().filter_map(|entry| Some((content(entry)?, entry)));
        let by_content: HashMap<&[u8; 32], &Entry> = of_donor.collect();
        let find = |entry: &Entry| {
            let wanted = content(entry)?;
            let there = donor.binary_search_by(|other| other.path.cmp(&entry.path)).ok().map(|at| &donor[at]);
            there.filter(|other| content(other) == Some(wanted)).or_else(|| by_content.get(wanted).copied())
        };
        let unshared = self.entries.iter().enumerate().filter(|(at, _)| !self.shared.contains(at));
        unshared.filter_map(|(at, entry)| Some((at, find(entry)?))).collect()
    }

    /// Lets `change` replace names in a staged directory, which has its own mode and times again afterwards.
    fn change_directory(
        &mut self,
        path: Option<&RelPath>,
        change: impl FnOnce(&mut Self, &Dir) -> fs::Result<()>,
    ) -> fs::Result<()> {
        let Some(path) = path else {
            // The top is listed in no manifest and is writable.
            let top = self.tree;
            return change(self, top);
        };
        let entry = self.entries.binary_search_by(|entry| entry.path.cmp(path)).map(|at| &self.entries[at]);
        let entry = entry.unwrap_or_else(|_| unreachable!("the parents of every entry are entries: {path}"));
        let dir = self.tree.open_dir(path)?;
        let meta = meta(entry);
        dir.apply_meta(&Meta { mode: meta.mode | 0o700, ..meta })?;
        change(self, &dir)?;
        dir.apply_meta(&meta)
    }

    /// Puts the donor's content in the place of the staged file; false where that keeps its own copy.
    fn share_file(&mut self, donor: &Version, other: &Entry, dir: &Dir, entry: &Entry) -> fs::Result<bool> {
        let name = last(&entry.path);
        let beside = dir.temporary_name(&name)?;
        match self.make_beside(donor, other, dir, &beside, entry) {
            Ok(true) => {
                dir.rename(&beside, dir, &name, Rename::Replace)?;
                return Ok(true);
            }
            Ok(false) => {}
            // Nothing depends on it: the file has its own copy already.
            Err(error) => tracing::debug!(error = crate::intent::error_chain(&error), "content not shared"),
        }
        dir.remove_tree(&beside)?;
        Ok(false)
    }

    /// Makes `beside` of the donor's file. True when it is the staged file in content and metadata; else something may
    /// be left there.
    fn make_beside(
        &mut self,
        donor: &Version,
        other: &Entry,
        dir: &Dir,
        beside: &RelPath,
        entry: &Entry,
    ) -> fs::Result<bool> {
        if self.rung == LinkMode::Reflink {
            let from = donor.tree().open_file(&other.path)?;
            let to = dir.create_file(beside, 0o600)?;
            match fs::reflink(&from, &to) {
                Ok(()) => {
                    let stat = Dir::stat_file(&from, other.path.as_path())?;
                    apply_meta(&to, entry.path.as_path(), &meta(entry))?;
                    return same(donor, other, &stat, dir, beside, entry);
                }
                Err(_) => {
                    self.rung = LinkMode::Hardlink;
                    dir.remove_file(beside)?;
                }
            }
        }
        if !agree(entry, other) {
            return Ok(false);
        }
        fs::hard_link(donor.tree(), &other.path, dir, beside)
            .map_err(|e| fs::Error::new("link", &dir.path_of(beside), e))?;
        // Looked at under its new name: that is the inode which would stand in the tree, whatever the donor's path is.
        let Some(stat) = dir.stat(beside)? else { return Ok(false) };
        let further = self.names.get(entry.path.as_bytes()).copied().unwrap_or(0);
        if stat.links + further > MOST_NAMES {
            return Ok(false);
        }
        same(donor, other, &stat, dir, beside, entry)
    }

    /// Gives the further names of shared files to what they are now.
    fn follow_hard_links(&mut self) -> fs::Result<()> {
        let entries = self.entries;
        for entry in entries.iter().filter(|entry| entry.kind == EntryType::Hardlink) {
            let target = entry.target.as_deref().and_then(|target| RelPath::parse(target).ok());
            let first = target.as_ref().and_then(|target| entries.binary_search_by(|e| e.path.cmp(target)).ok());
            let Some(first) = first.filter(|first| self.shared.contains(first)) else { continue };
            self.change_directory(entry.path.parent().as_ref(), |sharing, dir| {
                let name = last(&entry.path);
                let beside = dir.temporary_name(&name)?;
                fs::hard_link(sharing.tree, &entries[first].path, dir, &beside)
                    .map_err(|e| fs::Error::new("link", &dir.path_of(&name), e))?;
                dir.rename(&beside, dir, &name, Rename::Replace)
            })?;
        }
        Ok(())
    }
}

/// The digest of a file that has content to share.
fn content(entry: &Entry) -> Option<&[u8; 32]> {
    entry.sha256.as_ref().filter(|_| entry.kind == EntryType::File && entry.size > 0)
}

/// Whether two entries of the same content can be one inode.
fn agree(a: &Entry, b: &Entry) -> bool {
    let shown = |entry: &Entry| (entry.size, store_mode(entry.mode), entry.uid, entry.gid, entry.mtime);
    shown(a) == shown(b)
}

/// Whether the donor's file is as its manifest says, and `beside`, made of it, has the bytes of the staged file.
fn same(donor: &Version, other: &Entry, stat: &Stat, dir: &Dir, beside: &RelPath, entry: &Entry) -> fs::Result<bool> {
    let expected = (Kind::File, other.size, store_mode(other.mode), other.uid, other.gid, other.mtime_parts());
    let sound = (stat.kind, stat.size, stat.mode, stat.uid, stat.gid, stat.mtime) == expected && {
        let (made, staged) = (dir.open_file(beside)?, dir.open_file(&last(&entry.path))?);
        same_bytes(&made, &staged, entry.size).map_err(|e| fs::Error::new("read", &dir.path_of(beside), e))?
    };
    if !sound {
        tracing::warn!(artifact = %donor.head().artifact, version = %donor.head().version, path = %other.path,
            "a stored file is not as its manifest says: its content is not shared; run `seedcache verify --repair`");
    }
    Ok(sound)
}

fn same_bytes(a: &File, b: &File, size: u64) -> io::Result<bool> {
    let piece = usize::try_from(size).map_or(PIECE, |size| size.clamp(1, PIECE));
    let mut pieces = [vec![0; piece], vec![0; piece]];
    loop {
        let [left, right] = &mut pieces;
        let (n, m) = (read_full(a, left)?, read_full(b, right)?);
        if left[..n] != right[..m] {
            return Ok(false);
        }
        if n == 0 {
            return Ok(true);
        }
    }
}

fn read_full(mut file: &File, piece: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < piece.len() {
        match file.read(&mut piece[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// The directory that holds an entry, as bytes.
fn above(entry: &Entry) -> Option<&[u8]> {
    entry.path.split_last().0
}

fn last(path: &RelPath) -> RelPath {
    RelPath::parse(path.file_name()).unwrap_or_else(|e| unreachable!("it is a component of a path: {e}"))
}

/// An entry's metadata as it is in the store.
fn meta(entry: &Entry) -> Meta {
    Meta { mode: store_mode(entry.mode), owner: Some((entry.uid, entry.gid)), mtime: entry.mtime_parts() }
}
