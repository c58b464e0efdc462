//! One entry made at one name, by the mode that the ladder says.

use std::fs::File;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::lock;
use super::mend::content_digest;
use super::{Next, Rung, SeedError, SeedProgress, Why, next_rung};
use crate::fs::{self, Dir, Kind, LinkMode, Meta, RelPath, Stat};
use crate::store::{Entry, EntryType, Judged, ManifestHead, Version, store_mode};

/// Looks at a file whose state changes between one and the next.
const LOOKS: usize = 8;

/// Makes the entries of one tree; shared by the threads that do.
#[derive(Debug)]
pub(super) struct Maker<'a> {
    pub(super) version: &'a Version,
    pub(super) head: &'a ManifestHead,
    pub(super) progress: &'a SeedProgress,
    rung: Mutex<Rung>,
    owners: Owners,
    /// Files copied alone because the tree's mode did not do for them, and why the first was.
    alone: Mutex<Option<(u64, Why)>>,
    written: AtomicU64,
}

/// Whom what is made belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owners {
    /// Whom the manifest says.
    AsManifest,
    /// Whoever makes it, who may not give files away.
    Maker,
    /// A peer, who may change the tree while it is worked on: what is not the peer's already stays as it is.
    Peer {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

impl Owners {
    /// Of seeds that are the daemon's alone to make.
    pub(super) fn usual() -> Self {
        if fs::may_give_away() { Owners::AsManifest } else { Owners::Maker }
    }
}

/// How a file came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    /// By the tree's mode.
    AsTheTree,
    /// The tree's mode would not do: nothing is there yet, it is to be copied.
    OnlyByCopy(Why),
}

/// The last component of an entry's path.
pub(super) fn own_name(entry: &Entry) -> RelPath {
    RelPath::parse(entry.path.file_name()).unwrap_or_else(|e| unreachable!("a component of a checked path: {e}"))
}

impl<'a> Maker<'a> {
    pub(super) fn new(version: &'a Version, rung: Rung, progress: &'a SeedProgress) -> Self {
        Self::for_owners(Owners::usual(), version, rung, progress)
    }

    pub(super) fn for_owners(owners: Owners, version: &'a Version, rung: Rung, progress: &'a SeedProgress) -> Self {
        let (rung, alone) = (Mutex::new(rung), Mutex::default());
        let head = &**version.head();
        Self { version, head, progress, rung, owners, alone, written: AtomicU64::new(0) }
    }

    /// The mode in use now.
    pub(super) fn mode(&self) -> LinkMode {
        lock(&self.rung).mode()
    }

    /// Why not by a better mode, in words.
    pub(super) fn reason(&self) -> Option<String> {
        let alone = lock(&self.alone).map(|(count, why)| format!("{count} of the files copied: {why}"));
        let parts: Vec<String> = [lock(&self.rung).reason(), alone].into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// Whether a file may be copied for itself: what is copied is read, and needs nobody's word.
    pub(super) fn may_copy(&self) -> bool {
        lock(&self.rung).may_copy()
    }

    /// Entries written so far.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// Counts an entry as written.
    pub(super) fn count_written(&self) {
        self.written.fetch_add(1, Relaxed);
    }

    /// Counts an entry as done, written or not.
    pub(super) fn count_done(&self) {
        self.progress.entries.fetch_add(1, Relaxed);
    }

    fn count_bytes(&self, bytes: u64) {
        self.progress.bytes.fetch_add(bytes, Relaxed);
    }

    /// What the metadata of an entry with an inode of its own shall be.
    pub(super) fn meta(&self, entry: &Entry) -> Meta {
        let owner = match self.owners {
            Owners::AsManifest => Some((entry.uid, entry.gid)),
            Owners::Maker => None,
            Owners::Peer { uid, gid } => Some((uid, gid)),
        };
        Meta { mode: entry.mode, owner, mtime: entry.mtime_parts() }
    }

    /// Whether what stands there may be given other metadata. In a peer's directory only what is the peer's own: what
    /// was moved there, or has another name elsewhere, is not for the peer to be given.
    pub(super) fn may_change(&self, stat: &Stat) -> bool {
        match self.owners {
            Owners::AsManifest | Owners::Maker => true,
            Owners::Peer { uid, .. } => stat.uid == uid,
        }
    }

    /// Whether a directory that stands in the way may be removed with all that is in it.
    pub(super) fn may_remove_directories(&self) -> bool {
        !matches!(self.owners, Owners::Peer { .. })
    }

    /// Whether it belongs to whom it shall.
    pub(super) fn owner_agrees(&self, entry: &Entry, stat: &Stat) -> bool {
        match self.owners {
            Owners::AsManifest => (stat.uid, stat.gid) == (entry.uid, entry.gid),
            Owners::Maker => true,
            Owners::Peer { uid, .. } => stat.uid == uid,
        }
    }

    /// Whether mode and owner are as they shall be.
    pub(super) fn rights_agree(&self, entry: &Entry, stat: &Stat) -> bool {
        self.owner_agrees(entry, stat) && (stat.kind == Kind::Symlink || stat.mode == entry.mode)
    }

    pub(super) fn damaged(&self, entry: &Entry, what: &'static str) -> SeedError {
        SeedError::StoreDamaged {
            artifact: self.head.artifact.clone(),
            version: self.head.version.clone(),
            path: entry.path.clone(),
            what,
        }
    }

    fn unsettled(&self, entry: &Entry) -> SeedError {
        SeedError::Unsettled {
            artifact: self.head.artifact.clone(),
            version: self.head.version.clone(),
            path: entry.path.clone(),
        }
    }

    /// The store's file, held against its manifest: published files never change, so any difference is somebody's
    /// doing. Its content is read only where its state is not one that is known to be good.
    pub(super) fn sound(&self, entry: &Entry, from: &Dir) -> Result<Stat, SeedError> {
        for _ in 0..LOOKS {
            let (stat, known) = self.look(entry, from)?;
            if known {
                return Ok(stat);
            }
        }
        Err(self.unsettled(entry))
    }

    /// What is in a state that was not known is read, and then looked at again: who writes to it meanwhile and sets the
    /// time back would else be taken for the daemon itself, which gives it a name more.
    fn look(&self, entry: &Entry, from: &Dir) -> Result<(Stat, bool), SeedError> {
        let stat = from.stat(&own_name(entry))?.ok_or_else(|| self.damaged(entry, "it is missing"))?;
        let what = if stat.kind != Kind::File {
            "it is no regular file any more"
        } else if stat.size != entry.size {
            "its size changed"
        } else if stat.mtime != entry.mtime_parts() {
            "it was written to"
        } else if stat.mode != store_mode(entry.mode) {
            "its mode changed"
        } else if (stat.uid, stat.gid) != (entry.uid, entry.gid) {
            "its owner changed"
        } else {
            let sha256 = self.sha256(entry)?;
            let known = self.version.knows(&stat, sha256);
            let name = own_name(entry);
            if known {
                return Ok((stat, known));
            }
            match self.version.judge(&from.open_file(&name)?, sha256, &from.path_of(&name))? {
                Judged::Sound => return Ok((stat, known)),
                Judged::Unsettled => return Err(self.unsettled(entry)),
                Judged::Damaged => "its content has another digest",
            }
        };
        Err(self.damaged(entry, what))
    }

    fn sha256<'e>(&self, entry: &'e Entry) -> Result<&'e [u8; 32], SeedError> {
        entry.sha256.as_ref().ok_or_else(|| self.damaged(entry, "the manifest has no digest of it"))
    }

    /// Makes a file at `name` in `to`, where nothing is, of the sound one in the store's directory `from`.
    pub(super) fn file(
        &self,
        entry: &Entry,
        sound: &Stat,
        from: &Dir,
        to: &Dir,
        name: &RelPath,
    ) -> Result<(), SeedError> {
        match self.file_by_mode(entry, sound, from, to, name)? {
            Made::AsTheTree => Ok(()),
            Made::OnlyByCopy(why) => self.copy_alone(entry, from, to, name, why),
        }
    }

    /// Gives the store's file a name more, which changes its ctime: no reason to read it the next time.
    fn hard_link(
        &self,
        entry: &Entry,
        sound: &Stat,
        from: &Dir,
        to: &Dir,
        name: &RelPath,
    ) -> Result<io::Result<()>, SeedError> {
        if let Err(failure) = fs::hard_link(from, &own_name(entry), to, name) {
            return Ok(Err(failure));
        }
        if let (Some(sha256), Some(linked)) = (&entry.sha256, to.stat(name)?) {
            self.version.follow(sound, &linked, sha256);
        }
        self.count_bytes(entry.size);
        Ok(Ok(()))
    }

    /// The same, but leaves the copy of a file that the tree's mode does not do for to the caller.
    pub(super) fn file_by_mode(
        &self,
        entry: &Entry,
        sound: &Stat,
        from: &Dir,
        to: &Dir,
        name: &RelPath,
    ) -> Result<Made, SeedError> {
        loop {
            let rung = *lock(&self.rung);
            let tried = match rung.mode() {
                LinkMode::Reflink => self.reflink(entry, from, to, name)?,
                LinkMode::Hardlink => self.hard_link(entry, sound, from, to, name)?,
                LinkMode::Copy => {
                    self.copy(entry, from, to, name)?;
                    Ok(())
                }
            };
            match tried {
                Ok(()) => {
                    if !rung.is_settled() {
                        lock(&self.rung).settle();
                    }
                    return Ok(Made::AsTheTree);
                }
                Err(failure) => {
                    if let Some(why) = self.step_down(rung.mode(), failure, &to.path_of(name))? {
                        return Ok(Made::OnlyByCopy(why));
                    }
                }
            }
        }
    }

    /// Copies a file in a tree of another mode.
    pub(super) fn copy_alone(
        &self,
        entry: &Entry,
        from: &Dir,
        to: &Dir,
        name: &RelPath,
        why: Why,
    ) -> Result<(), SeedError> {
        self.copy(entry, from, to, name)?;
        let mut alone = lock(&self.alone);
        *alone = Some(alone.map_or((1, why), |(count, first)| (count + 1, first)));
        Ok(())
    }

    /// After a failure of `mode`: `None` to try again with what the ladder says now, else why this file is copied.
    fn step_down(&self, mode: LinkMode, failure: io::Error, at: &std::path::Path) -> Result<Option<Why>, SeedError> {
        let mut rung = lock(&self.rung);
        if rung.mode() != mode {
            // Another thread has met the same failure.
            return Ok(None);
        }
        match next_rung(&rung, &failure) {
            Next::Try(next) => {
                *rung = next;
                Ok(None)
            }
            Next::CopyOne(why) => Ok(Some(why)),
            Next::Refuse(why) => Err(SeedError::LinkRefused { mode, why, source: failure }),
            Next::Fail => Err(fs::Error::new("link to", at, failure).into()),
        }
    }

    /// The inner result is that of the reflink itself, to decide on; nothing is left at `name` when it failed.
    fn reflink(&self, entry: &Entry, from: &Dir, to: &Dir, name: &RelPath) -> Result<io::Result<()>, SeedError> {
        let source = from.open_file(&own_name(entry))?;
        let before = Dir::stat_file(&source, &from.path_of(name))?;
        let file = to.create_file(name, 0o600)?;
        if let Err(failure) = fs::reflink(&source, &file) {
            to.remove_file(name)?;
            return Ok(Err(failure));
        }
        self.finish_file(entry, &file, to, name)?;
        self.count_bytes(entry.size);
        self.stayed(entry, &before, &source, to, name)?;
        Ok(Ok(()))
    }

    fn copy(&self, entry: &Entry, from: &Dir, to: &Dir, name: &RelPath) -> Result<(), SeedError> {
        let source = from.open_file(&own_name(entry))?;
        let before = Dir::stat_file(&source, &from.path_of(name))?;
        let file = to.create_file(name, 0o600)?;
        let copied = fs::copy_file(&source, &file, |bytes| self.count_bytes(bytes))
            .map_err(|e| fs::Error::new("copy to", &to.path_of(name), e))?;
        if copied != entry.size {
            return Err(self.damaged(entry, "its size changed while it was read"));
        }
        self.finish_file(entry, &file, to, name)?;
        self.stayed(entry, &before, &source, to, name)
    }

    /// What was copied is what was sound, where the store's file is still in the state that was known; else it is read.
    fn stayed(&self, entry: &Entry, before: &Stat, source: &File, to: &Dir, name: &RelPath) -> Result<(), SeedError> {
        let (path, sha256) = (to.path_of(name), self.sha256(entry)?);
        if self.version.knows(before, sha256) && Dir::stat_file(source, &path)?.stamp == before.stamp {
            return Ok(());
        }
        let read = content_digest(&to.open_file(name)?).map_err(|e| fs::Error::new("read", &path, e))?;
        if read == *sha256 { Ok(()) } else { Err(self.damaged(entry, "it was written to while it was copied")) }
    }

    fn finish_file(&self, entry: &Entry, file: &File, to: &Dir, name: &RelPath) -> Result<(), SeedError> {
        Ok(fs::apply_meta(file, &to.path_of(name), &self.meta(entry))?)
    }

    /// Makes a symlink at `name` in `to`, where nothing is.
    pub(super) fn symlink(&self, entry: &Entry, to: &Dir, name: &RelPath) -> Result<(), SeedError> {
        to.symlink(self.target(entry)?, name)?;
        Ok(to.apply_symlink_meta(name, &self.meta(entry))?)
    }

    /// Where a symlink or hard link points.
    pub(super) fn target<'e>(&self, entry: &'e Entry) -> Result<&'e [u8], SeedError> {
        entry.target.as_deref().ok_or_else(|| self.damaged(entry, "the manifest does not say where it points"))
    }

    /// The entry that a hard link is a further name of, as a path.
    pub(super) fn first_name(&self, entry: &Entry) -> Result<RelPath, SeedError> {
        RelPath::parse(self.target(entry)?).map_err(|_| self.damaged(entry, "the manifest has no path that it names"))
    }

    /// Makes a file or symlink at `name` in `to`, where nothing is.
    pub(super) fn leaf(&self, entry: &Entry, from: &Dir, to: &Dir, name: &RelPath) -> Result<(), SeedError> {
        match entry.kind {
            EntryType::Symlink => self.symlink(entry, to, name),
            _ => match self.sound(entry, from) {
                Err(SeedError::Unsettled { .. }) if self.may_copy() => {
                    self.copy_alone(entry, from, to, name, Why::Unsettled)
                }
                sound => self.file(entry, &sound?, from, to, name),
            },
        }
    }
}
