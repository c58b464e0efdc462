//! A tree that comes as a tar stream, written into an empty directory: what a client does where the daemon cannot link.
//!
//! What must hold: the tree is the manifest's, entry by entry and byte by byte, or there is an error that names what
//! differs. Everything is made beneath the directory's handle, each entry at the name that the manifest has for it, and
//! memory does not grow with bytes. Blocks as long as the stream does.

use std::fs::File;
use std::io::{Read, Write as _};
use std::sync::atomic::Ordering::Relaxed;

use sha2::{Digest as _, Sha256};

use super::SeedProgress;
use super::build::{FILLING, TOP_MODE};
use crate::acquire::{TarKind, TarMember, TarMembers, UnpackError, read_tar};
use crate::fs::{self, Chain, Dir, Meta, RelPath, apply_meta};
use crate::store::{Entry, EntryType, Manifest};

/// Why a stream did not become the tree that its manifest promises.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// It cannot be written.
    #[error(transparent)]
    Fs(#[from] fs::Error),
    /// It broke off, or is no sound tar.
    #[error("the tree did not come whole; seed again")]
    Stream(#[from] UnpackError),
    /// Fewer entries than promised.
    #[error("the tree ended before `{path}`, which its manifest has; seed again")]
    Missing {
        /// The first entry that did not come.
        path: RelPath,
    },
    /// More entries than promised.
    #[error("`{path}` came with the tree, and its manifest has no such entry; seed again")]
    Extra {
        /// As it was called.
        path: Box<str>,
    },
    /// Another entry than the one whose turn it was.
    #[error("`{found}` came where the manifest has `{expected}`; seed again")]
    Order {
        /// As it was called.
        found: Box<str>,
        /// Whose turn it was.
        expected: RelPath,
    },
    /// An entry that is not what its manifest says.
    #[error("`{path}` came with another {what} than its manifest says; seed again")]
    Differs {
        /// The entry.
        path: RelPath,
        /// What of it.
        what: &'static str,
    },
}

impl ReceiveError {
    /// The disk is full, or the quota used up.
    pub fn is_no_space(&self) -> bool {
        match self {
            ReceiveError::Fs(error) => error.is_no_space(),
            ReceiveError::Stream(error) => error.is_no_space(),
            _ => false,
        }
    }
}

/// Fills the empty directory `tree` with what `stream` brings, which must be what `manifest` says; gives the entries
/// written. On an error the tree is half made: it is the caller's to discard.
pub fn receive(
    stream: impl Read + Send,
    manifest: &Manifest,
    tree: &Dir,
    progress: &SeedProgress,
) -> Result<u64, ReceiveError> {
    progress.total_entries.store(manifest.entries.len() as u64, Relaxed);
    let mut receiver = Receiver { chain: Chain::from(tree), owners: fs::may_give_away(), progress };
    read_tar(stream, |members| {
        for entry in &manifest.entries {
            let missing = || ReceiveError::Missing { path: entry.path.clone() };
            let member = members.next()?.ok_or_else(missing)?;
            check(entry, &member)?;
            receiver.make(entry, members)?;
            progress.entries.fetch_add(1, Relaxed);
        }
        match members.next()? {
            None => Ok(()),
            Some(member) => Err(ReceiveError::Extra { path: shown(&member.path) }),
        }
    })?;
    receiver.settle(&manifest.entries)?;
    Ok(manifest.entries.len() as u64)
}

/// Why files will not belong to whom their manifest says, where root would be expected to see to that.
pub(crate) fn owners_lost(entries: &[Entry]) -> Option<&'static str> {
    let own = (rustix::process::geteuid(), rustix::process::getegid());
    let others = |entry: &Entry| (entry.uid, entry.gid) != (own.0.as_raw(), own.1.as_raw());
    let lost = own.0.is_root() && !fs::may_give_away() && entries.iter().any(others);
    lost.then_some(
        "all files are root's: this root may not give files to others (CAP_CHOWN, CAP_FOWNER, user namespace)",
    )
}

/// Whether the stream's next entry is the one that the manifest has next.
fn check(entry: &Entry, member: &TarMember) -> Result<(), ReceiveError> {
    if !RelPath::normalize(&member.path).is_ok_and(|path| path.as_ref() == Some(&entry.path)) {
        return Err(ReceiveError::Order { found: shown(&member.path), expected: entry.path.clone() });
    }
    let what = match (&member.kind, entry.kind) {
        (TarKind::Dir, EntryType::Dir) => return Ok(()),
        (TarKind::File, EntryType::File) if member.is_sparse() => "form",
        (TarKind::File, EntryType::File) if member.size == entry.size => return Ok(()),
        (TarKind::File, EntryType::File) => "size",
        (TarKind::Symlink { target }, EntryType::Symlink) | (TarKind::HardLink { target }, EntryType::Hardlink) => {
            match entry.target.as_ref() == Some(target) {
                true => return Ok(()),
                false => "target",
            }
        }
        _ => "type",
    };
    Err(ReceiveError::Differs { path: entry.path.clone(), what })
}

struct Receiver<'a> {
    chain: Chain,
    /// Only root can give files away; for others they are their own.
    owners: bool,
    progress: &'a SeedProgress,
}

impl Receiver<'_> {
    fn meta(&self, entry: &Entry) -> Meta {
        Meta { mode: entry.mode, owner: self.owners.then_some((entry.uid, entry.gid)), mtime: entry.mtime_parts() }
    }

    fn make(&mut self, entry: &Entry, content: &mut TarMembers) -> Result<(), ReceiveError> {
        let differs = |what| ReceiveError::Differs { path: entry.path.clone(), what };
        let meta = self.meta(entry);
        let target = || entry.target.as_deref().ok_or_else(|| differs("target"));
        match entry.kind {
            EntryType::Dir => {
                let (dir, name) = self.chain.parent_of(&entry.path)?;
                dir.make_dir(&name, FILLING)?;
            }
            EntryType::Symlink => {
                let (dir, name) = self.chain.parent_of(&entry.path)?;
                dir.symlink(target()?, &name)?;
                dir.apply_symlink_meta(&name, &meta)?;
            }
            EntryType::Hardlink => {
                let first = RelPath::parse(target()?).map_err(|_| differs("target"))?;
                // Two directories are needed at once, so both paths are resolved from the top.
                self.chain.top().hard_link(&first, &entry.path)?;
            }
            EntryType::File => {
                let (dir, name) = self.chain.parent_of(&entry.path)?;
                let file = dir.create_file(&name, 0o600)?;
                if Some(self.write(&file, entry, content)?) != entry.sha256 {
                    return Err(differs("content"));
                }
                apply_meta(&file, entry.path.as_path(), &meta)?;
            }
        }
        Ok(())
    }

    /// Writes what the stream has for one file; gives its digest.
    fn write(&self, mut file: &File, entry: &Entry, content: &mut TarMembers) -> Result<[u8; 32], ReceiveError> {
        let mut hasher = Sha256::new();
        loop {
            let piece = content.content(u64::MAX)?;
            if piece.is_empty() {
                return Ok(hasher.finalize().into());
            }
            hasher.update(piece);
            file.write_all(piece).map_err(|e| fs::Error::new("write", entry.path.as_path(), e))?;
            self.progress.bytes.fetch_add(piece.len() as u64, Relaxed);
            let n = piece.len();
            content.took(n);
        }
    }

    /// Gives the directories their metadata, from the bottom up: a finished one may let nobody in.
    fn settle(&mut self, entries: &[Entry]) -> Result<(), ReceiveError> {
        for entry in entries.iter().rev().filter(|entry| entry.kind == EntryType::Dir) {
            let meta = self.meta(entry);
            let (dir, name) = self.chain.parent_of(&entry.path)?;
            dir.open_dir(&name)?.apply_meta(&meta)?;
        }
        let top = self.chain.top();
        Ok(top.apply_meta(&Meta { mode: TOP_MODE, owner: None, mtime: top.stat_self()?.mtime })?)
    }
}

/// A name from the stream as one line of text.
fn shown(name: &[u8]) -> Box<str> {
    match RelPath::normalize(name) {
        Ok(Some(path)) => path.to_string().into(),
        _ => String::from_utf8_lossy(name).chars().flat_map(char::escape_default).take(300).collect(),
    }
}

#[cfg(test)]
mod tests;
