//! Puts what the entry policy lets through on disk, hashing content as it passes.
//!
//! What must hold: each directory is reached by the handle that made it or by one opened beneath it, never by a joined
//! path; a file's metadata is final before it is closed, a directory's once all it holds is there.

use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::AtomicBool;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::UnpackError;
use super::error::shown;
use super::member::{Kind, Member, Members};
use super::metadata::{ON_DISK, Ownership, kept, meta, seconds_and_nanos};
use super::output::Output;
use super::policy::{self, Limits, Refusal};
use super::sparse::Sparse;
use super::stream::Stream;
use super::tree::{Node, Place, Tree};
use crate::acquire::Progress;
use crate::fs::{self, Chain, Dir, Meta, RelPath, fail_point};
use crate::intent::Unpack;
use crate::store::{Donors, Entry, EntryType, Wanted};

/// Bits of a mode that an entry has; setid bits were refused.
const IN_ENTRY: u32 = 0o1777;
/// A file of at most so many bytes is held whole until it is known whether a version on the node has it; a larger one
/// is written as it comes, and shared when it is published.
const WHOLE: u64 = 1 << 20;

/// Writes one tree.
pub(super) struct Writer<'a> {
    chain: Chain,
    tree: Tree,
    owners: Ownership,
    limits: Limits,
    donors: Option<&'a Donors>,
    progress: &'a Progress,
    abort: &'a AtomicBool,
    sets_room_aside: bool,
    /// A file held whole; used again for the next one.
    whole: Vec<u8>,
    bytes: u64,
    /// What directories that no entry lists count for, and what is held with hard links beyond what stands in them.
    implied: u64,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        recipe: &Unpack,
        tree: &Dir,
        donors: Option<&'a Donors>,
        progress: &'a Progress,
        abort: &'a AtomicBool,
    ) -> fs::Result<Self> {
        Ok(Self {
            chain: Chain::from(tree),
            tree: Tree::default(),
            owners: Ownership::new(recipe, tree)?,
            limits: recipe.limits,
            donors,
            progress,
            abort,
            sets_room_aside: tree.gains_by_room_aside(),
            whole: Vec::new(),
            bytes: 0,
            implied: 0,
        })
    }

    /// How many entries what is held counts for that stands in no entry: see the field.
    pub(super) fn implied(&self) -> u64 {
        self.implied
    }

    /// Adds the entry at `path`; a hard link names `link`.
    pub(super) fn add(
        &mut self,
        member: &Member,
        path: &RelPath,
        link: Option<&RelPath>,
        content: &mut Members,
    ) -> Result<(), UnpackError> {
        self.put(member, path, link, content).map_err(|error| match error {
            // The tree knows nothing of this name, so the file system takes it for another one.
            UnpackError::Write { source } if source.is_exists() => {
                UnpackError::refused(&member.path, Refusal::SameName)
            }
            error => error,
        })
    }

    fn put(
        &mut self,
        member: &Member,
        path: &RelPath,
        link: Option<&RelPath>,
        content: &mut Members,
    ) -> Result<(), UnpackError> {
        let refused = |refusal| UnpackError::refused(&member.path, refusal);
        let kind = match &member.kind {
            Kind::Dir => EntryType::Dir,
            Kind::Symlink { .. } => EntryType::Symlink,
            Kind::HardLink { .. } => EntryType::Hardlink,
            // The policy lets no special file through.
            Kind::File | Kind::Special(_) => EntryType::File,
        };
        if !self.owners.can_read(kind, member.mode) {
            return Err(UnpackError::OwnerCannotRead { entry: shown(&member.path), mode: member.mode & IN_ENTRY });
        }
        let place = self.tree.place(path, kind).map_err(refused)?;
        let mut node = Node {
            kind,
            mode: member.mode & IN_ENTRY,
            owner: self.owners.of(Some((member.uid, member.gid))),
            mtime: member.mtime,
            size: 0,
            sha256: None,
            target: None,
        };
        let listed = place == Place::Listed;
        if let Place::Free(missing) = place {
            self.imply(&missing)?;
        }
        fail_point("acquire.unpack.before-entry");
        match (&member.kind, link) {
            (Kind::Dir, _) if listed => {}
            (Kind::Dir, _) => self.make_dir(path)?,
            (Kind::Symlink { target }, _) => self.make_symlink(path, &mut node, target)?,
            (_, Some(link)) => self.put_link(member, path, link, &mut node)?,
            (_, None) => self.put_file(member, path, &mut node, content)?,
        }
        fail_point("acquire.unpack.after-entry");
        self.tree.add(path, node);
        self.progress.add_entry();
        Ok(())
    }

    /// One more name of a file, or of a symlink.
    fn put_link(
        &mut self,
        member: &Member,
        path: &RelPath,
        link: &RelPath,
        node: &mut Node,
    ) -> Result<(), UnpackError> {
        let refused = |refusal| UnpackError::refused(&member.path, refusal);
        let held = if let Some((symlink, target)) = self.tree.symlink(link) {
            // As GNU tar writes it: it leads on from where it lies itself.
            policy::check_symlink(path, &target).map_err(refused)?;
            *node = symlink;
            self.make_symlink(path, node, &target)?;
            target.len()
        } else {
            let (first, file) = self.tree.file(link).map_err(refused)?;
            self.make_hard_link(path, &first, &file)?;
            *node = Node { kind: node.kind, target: Some(first.as_bytes().to_vec()), ..file };
            first.as_bytes().len()
        };
        let names = policy::weight((path.as_bytes().len() + held) as u64);
        self.implied += names.saturating_sub(policy::weight(member.names()));
        Ok(())
    }

    fn put_file(
        &mut self,
        member: &Member,
        path: &RelPath,
        node: &mut Node,
        content: &mut Members,
    ) -> Result<(), UnpackError> {
        let refused = |refusal| UnpackError::refused(&member.path, refusal);
        self.bytes = policy::add_bytes(&self.limits, self.bytes, member.size).map_err(refused)?;
        let holes = member.sparse.as_ref().map_or(0, Sparse::holes);
        content.check_holes(holes).map_err(refused)?;
        node.size = member.size;
        match (self.donors, &member.sparse) {
            (Some(donors), None) if (1..=WHOLE).contains(&member.size) => {
                self.share_or_write(donors, path, node, content)?;
            }
            (_, sparse) => self.write_file(path, node, sparse.as_ref(), content)?,
        }
        content.count_holes(holes).map_err(refused)
    }

    /// Makes directories that no entry lists (or none has yet): readable by all, from the epoch.
    fn imply(&mut self, missing: &[RelPath]) -> Result<(), UnpackError> {
        for path in missing {
            self.make_dir(path)?;
            self.implied += policy::weight(path.as_bytes().len() as u64);
            self.tree.add(path, self.unlisted(EntryType::Dir, 0o755));
        }
        Ok(())
    }

    /// What the archive says nothing about.
    fn unlisted(&self, kind: EntryType, mode: u32) -> Node {
        let (mtime, owner) = (Timestamp::UNIX_EPOCH, self.owners.of(None));
        Node { kind, mode, owner, mtime, size: 0, sha256: None, target: None }
    }

    fn make_dir(&mut self, path: &RelPath) -> fs::Result<()> {
        let (dir, name) = self.chain.parent_of(path)?;
        dir.make_dir(&name, 0o700)
    }

    fn make_symlink(&mut self, path: &RelPath, node: &mut Node, target: &[u8]) -> fs::Result<()> {
        (node.mode, node.target) = (0o777, Some(target.to_vec()));
        let (dir, name) = self.chain.parent_of(path)?;
        dir.symlink(target, &name)?;
        dir.apply_symlink_meta(&name, &meta(node, self.owners))?;
        node.mtime = kept(node.mtime, || dir.stat(&name))?;
        Ok(())
    }

    fn make_hard_link(&self, path: &RelPath, first: &RelPath, file: &Node) -> fs::Result<()> {
        // Two directories are needed at once, so both paths are resolved from the top.
        let root = self.chain.top();
        let link = || root.hard_link(first, path);
        match (self.donors, &file.sha256) {
            (Some(donors), Some(sha256)) => donors.follow_link(root, first, sha256, link),
            _ => link(),
        }
    }

    fn create(&mut self, path: &RelPath) -> fs::Result<File> {
        let (dir, name) = self.chain.parent_of(path)?;
        dir.create_file(&name, 0o600)
    }

    fn write_file(
        &mut self,
        path: &RelPath,
        node: &mut Node,
        sparse: Option<&Sparse>,
        content: &mut Members,
    ) -> Result<(), UnpackError> {
        let aside = if self.sets_room_aside { node.size } else { 0 };
        let mut out = Output::new(self.create(path)?, path, aside, self.progress);
        match sparse {
            None => out.take_all(content)?,
            Some(sparse) => out.take_sparse(sparse, content, self.abort)?,
        }
        let (file, sha256) = out.finish();
        node.sha256 = Some(sha256);
        node.mtime = self.owners.finish(&file, path, node)?;
        Ok(())
    }

    /// Shares a small file with a version on the node that has it, else writes it.
    fn share_or_write(
        &mut self,
        donors: &Donors,
        path: &RelPath,
        node: &mut Node,
        content: &mut Members,
    ) -> Result<(), UnpackError> {
        self.whole.clear();
        loop {
            let piece = content.content(u64::MAX)?;
            if piece.is_empty() {
                break;
            }
            self.whole.extend_from_slice(piece);
            let n = piece.len();
            content.took(n);
        }
        let sha256 = Sha256::digest(&self.whole).into();
        let meta = meta(node, self.owners);
        let (dir, name) = self.chain.parent_of(path)?;
        let wanted = Wanted { path, sha256: &sha256, meta: Meta { owner: Some(node.owner), ..meta }, names: 0 };
        node.mtime = if donors.give(dir, &name, &wanted, &self.whole)? {
            kept(node.mtime, || dir.stat(&name))?
        } else {
            let mut file = dir.create_file(&name, 0o600)?;
            file.write_all(&self.whole).map_err(|e| fs::Error::new("write", path.as_path(), e))?;
            self.owners.finish(&file, path, node)?
        };
        node.sha256 = Some(sha256);
        self.progress.add_unpacked(self.whole.len() as u64);
        Ok(())
    }

    /// Writes the single file of `format: none`: all that `content` has.
    pub(super) fn add_single(&mut self, path: &RelPath, content: &mut Stream) -> Result<(), UnpackError> {
        let refused = |refusal| UnpackError::refused(path.as_bytes(), refusal);
        if let Place::Free(missing) = self.tree.place(path, EntryType::File).map_err(refused)? {
            self.imply(&missing)?;
        }
        let mut out = Output::new(self.create(path)?, path, 0, self.progress);
        loop {
            let piece = content.peek(u64::MAX).map_err(|halt| halt.within(path.as_bytes()))?;
            if piece.is_empty() {
                break;
            }
            let n = piece.len();
            self.bytes = policy::add_bytes(&self.limits, self.bytes, n as u64).map_err(refused)?;
            out.take(piece)?;
            content.take(n);
        }
        let mut node = self.unlisted(EntryType::File, 0o644);
        let (file, sha256) = out.finish();
        self.owners.finish(&file, path, &node)?;
        (node.size, node.sha256) = (self.bytes, Some(sha256));
        self.tree.add(path, node);
        self.progress.add_entry();
        Ok(())
    }

    /// Checks the whole, entries that count for `counted`, and gives the directories their metadata, from the bottom up.
    pub(super) fn finish(mut self, require: &[RelPath], counted: u64) -> Result<(Vec<Entry>, u64), UnpackError> {
        let is_there = |path: &RelPath| self.chain.top().stat(path).map(|found| found.is_some());
        if let Some((path, refusal)) = self.tree.escaping_symlink(is_there)? {
            return Err(UnpackError::refused(path, refusal));
        }
        let missing: Vec<RelPath> = require.iter().filter(|path| !self.tree.holds(path)).cloned().collect();
        if !missing.is_empty() {
            return Err(UnpackError::Missing { paths: missing });
        }
        let first = self.tree.first_names();
        let mut counted = counted + self.implied;
        for (path, more) in self.tree.grown_by(&first) {
            counted += more;
            let refused = |refusal| UnpackError::refused(path.as_bytes(), refusal);
            policy::check_entries(&self.limits, counted).map_err(refused)?;
        }
        let mut entries = self.tree.into_entries(&first);
        fail_point("acquire.unpack.before-directories");
        for entry in entries.iter_mut().rev().filter(|entry| entry.kind == EntryType::Dir) {
            let (dir, name) = self.chain.parent_of(&entry.path)?;
            let owner = self.owners.change.then_some((entry.uid, entry.gid));
            let meta = Meta { mode: entry.mode & ON_DISK, owner, mtime: seconds_and_nanos(entry.mtime) };
            let dir = dir.open_dir(&name)?;
            dir.apply_meta(&meta)?;
            entry.mtime = kept(entry.mtime, || dir.stat_self().map(Some))?;
        }
        fail_point("acquire.unpack.after-directories");
        Ok((entries, self.bytes))
    }
}
