//! A file of a donor takes a place in a tree being made: as a further name of it where all metadata agree, else as a
//! reflink of it where the file system has those.
//!
//! Hard links come first: a reflink costs an inode, on XFS 512 bytes, so that each further version of a tree of 83,000
//! small files took 49 MiB instead of 11.
//!
//! What must hold: what takes the place is in a state known to be good ([`super::sound`]) or was compared byte by byte
//! with what belongs there, so a file that somebody changed in the store never spreads.

use std::fs::File;
use std::io::{self, Read};

use super::donors::{DonorFile, Donors, Found, Hand};
use super::layout::lock;
use super::sound::content_stayed;
use crate::fs::{self, Dir, Meta, RelPath, Stat, apply_meta, fail_point};

/// An inode with so many names gets no more of them here: ext4 allows 65,000, and seeds want theirs.
const MOST_NAMES: u64 = 32_000;
/// Donors' files of one content that are tried.
const TRIED: usize = 3;
/// Bytes compared at once.
const PIECE: usize = 128 * 1024;

/// What a file is to be.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Where in its tree.
    pub path: &'a RelPath,
    /// Its content.
    pub sha256: &'a [u8; 32],
    /// All of its metadata, as they are in the store.
    pub meta: Meta,
    /// How many further names it gets in its tree, as far as that is known.
    pub names: u64,
}

/// The bytes that belong into a file.
#[derive(Clone, Copy)]
pub(super) enum Content<'a> {
    /// In memory.
    Held(&'a [u8]),
    /// In a staged file.
    Staged(&'a Dir, &'a RelPath),
}

/// How a place was taken.
pub(super) struct Made<'a> {
    /// By what is in this file,
    pub(super) file: &'a DonorFile,
    /// which was in this state before,
    pub(super) before: Stat,
    /// and is in this one, its bytes known, where the place is a further name of it.
    pub(super) linked: Option<Stat>,
}

impl Donors {
    /// Gives `name` in `dir` a donor's content, which is `content`, where one has it; `false`: nothing is there, it has
    /// to be written.
    pub fn give(&self, dir: &Dir, name: &RelPath, wanted: &Wanted<'_>, content: &[u8]) -> fs::Result<bool> {
        if self.of(wanted.sha256).is_none() {
            return Ok(false);
        }
        self.set_judged(wanted.sha256);
        fail_point("store.give.before-link");
        let Some(made) = self.make(dir, name, wanted, Content::Held(content))? else { return Ok(false) };
        fail_point("store.give.after-link");
        let mut hand = lock(&self.hand);
        hand.given.0 += 1;
        hand.given.1 += content.len() as u64;
        if let Some(after) = made.linked {
            let path = (self.path(made.file) != *wanted.path).then(|| Box::new(wanted.path.clone()));
            hand.links.push((self.number(made.file), path));
            self.version(made.file).follow(&made.before, &after, wanted.sha256);
        }
        Ok(true)
    }

    /// Carries out `link`, which gives `first` in a tree being made a further name: known before, it is known after.
    pub fn follow_link(
        &self,
        tree: &Dir,
        first: &RelPath,
        sha256: &[u8; 32],
        link: impl FnOnce() -> fs::Result<()>,
    ) -> fs::Result<()> {
        let file = self.of(sha256);
        let before = if file.is_some() { tree.stat(first)? } else { None };
        link()?;
        if let (Some(file), Some(before)) = (file, before)
            && self.version(file).knows(&before, sha256)
            && let Some(after) = tree.stat(first)?
        {
            self.version(file).follow(&before, &after, sha256);
        }
        Ok(())
    }

    /// Removes the links from a tree that is thrown away, so that what is known of the donors' files stays known. Where
    /// that fails they are read once more.
    pub(super) fn take_back(&self, tree: &Dir) {
        let mut hand = lock(&self.hand);
        hand.given = (0, 0);
        for (number, path) in std::mem::take(&mut hand.links) {
            let file = self.file(number);
            let path = path.map_or_else(|| self.path(file), |path| *path);
            if let Err(error) = self.unlink(&mut hand, file, tree, &path) {
                tracing::debug!(error = crate::intent::error_chain(&error), "link to a version's file not followed");
            }
        }
    }

    fn unlink(&self, hand: &mut Hand, file: &DonorFile, tree: &Dir, path: &RelPath) -> fs::Result<()> {
        let Some(found) = self.find(hand, file)? else { return Ok(()) };
        tree.remove_file(path)?;
        if found.known
            && let Some(after) = found.dir.stat(&found.name)?
        {
            self.version(file).follow(&found.stat, &after, &file.sha256);
        }
        Ok(())
    }

    /// Makes `name` in `dir` of a donor's file; `None`: nothing is there.
    pub(super) fn make(
        &self,
        dir: &Dir,
        name: &RelPath,
        wanted: &Wanted<'_>,
        content: Content<'_>,
    ) -> fs::Result<Option<Made<'_>>> {
        let mut hand = lock(&self.hand);
        let (agreeing, other) = self.candidates(wanted.sha256, &wanted.meta, wanted.path);
        let place = Place { dir, name, wanted, content };
        for file in agreeing.iter().copied().take(TRIED) {
            match self.find(&mut hand, file).and_then(|found| found.map_or(Ok(None), |f| self.link(&place, file, &f))) {
                Ok(Some(made)) => return Ok(Some(made)),
                Ok(None) => {}
                // Not ours to remove: on a store that takes two names for one, the file by the other name.
                Err(error) if error.is_exists() => return Ok(None),
                // Nothing depends on it: the file gets its own copy.
                Err(error) => tracing::debug!(error = crate::intent::error_chain(&error), "content not shared"),
            }
            dir.remove_tree(name)?;
        }
        for file in agreeing.into_iter().chain(other).take(TRIED) {
            if !hand.reflinks {
                break;
            }
            let found = self.find(&mut hand, file);
            match found.and_then(|found| found.map_or(Ok(None), |f| self.clone_to(&place, file, &f, &mut hand))) {
                Ok(Some(made)) => return Ok(Some(made)),
                Ok(None) => {}
                Err(error) if error.is_exists() => return Ok(None),
                Err(error) => tracing::debug!(error = crate::intent::error_chain(&error), "content not shared"),
            }
            dir.remove_tree(name)?;
        }
        Ok(None)
    }

    /// As a further name.
    fn link<'a>(&self, place: &Place<'_>, file: &'a DonorFile, from: &Found) -> fs::Result<Option<Made<'a>>> {
        if from.stat.links + 1 + place.wanted.names > MOST_NAMES {
            return Ok(None);
        }
        fs::hard_link(&from.dir, &from.name, place.dir, place.name)
            .map_err(|e| fs::Error::new("link", &place.dir.path_of(place.name), e))?;
        // Looked at under its new name: that is the inode which would stand in the tree, whatever the donor's path is.
        let Some(linked) = place.dir.stat(place.name)?.filter(|linked| content_stayed(&from.stat, linked)) else {
            return Ok(None);
        };
        let good = from.known || {
            // Who has another name of it may write to it meanwhile.
            let same = self.is_same(place, file)?;
            same && place.dir.stat(place.name)?.is_some_and(|after| after.stamp == linked.stamp)
        };
        Ok(good.then_some(Made { file, before: from.stat, linked: Some(linked) }))
    }

    /// As a file of its own that shares the extents.
    fn clone_to<'a>(
        &self,
        place: &Place<'_>,
        file: &'a DonorFile,
        from: &Found,
        hand: &mut Hand,
    ) -> fs::Result<Option<Made<'a>>> {
        let path = place.wanted.path.as_path();
        let source = from.dir.open_file(&from.name)?;
        let to = place.dir.create_file(place.name, 0o600)?;
        if let Err(error) = fs::reflink(&source, &to) {
            tracing::debug!(%error, "this file system shares no content by reflink");
            hand.reflinks = false;
            return Ok(None);
        }
        apply_meta(&to, path, &place.wanted.meta)?;
        // What was cloned is what stood there from before until after it.
        let stayed = Dir::stat_file(&source, path)?.stamp == from.stat.stamp;
        let good = stayed && (from.known || self.is_same(place, file)?);
        Ok(good.then_some(Made { file, before: from.stat, linked: None }))
    }

    /// Whether what was made has the bytes that belong there.
    fn is_same(&self, place: &Place<'_>, file: &DonorFile) -> fs::Result<bool> {
        let made = place.dir.open_file(place.name)?;
        let same = fs::write_back(&made).and_then(|()| match place.content {
            Content::Held(mut bytes) => same_bytes(&mut &made, &mut bytes),
            Content::Staged(dir, name) => same_bytes(&mut &made, &mut &dir.open_file(name).map_err(io::Error::other)?),
        });
        let same = same.map_err(|e| fs::Error::new("read", &place.dir.path_of(place.name), e))?;
        if !same {
            self.tell_damage(file);
        }
        Ok(same)
    }
}

/// Where a file is to be made, and what it is to be.
struct Place<'a> {
    dir: &'a Dir,
    name: &'a RelPath,
    wanted: &'a Wanted<'a>,
    content: Content<'a>,
}

fn same_bytes(a: &mut &File, b: &mut impl Read) -> io::Result<bool> {
    let size = a.metadata()?.len();
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

fn read_full(from: &mut impl Read, piece: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < piece.len() {
        match from.read(&mut piece[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}
