//! A held directory handle, and everything that is done beneath it.
//!
//! Invariant: a multi-component path is resolved by `openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS |
//! RESOLVE_NO_MAGICLINKS`; the calls that take no such flags (mkdir, link, unlink, rename, symlink) get the last
//! component only, relative to the parent that was opened so.

use std::borrow::Cow;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self as sys, AtFlags, CWD, FileType, Mode, OFlags, RawDir, RenameFlags, StatxFlags};
use rustix::io::Errno;

use super::beneath::open_beneath;
use super::{Error, Kind, RelPath, Result, Space, Stat};

const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const STATX_MASK: StatxFlags = StatxFlags::BASIC_STATS;

/// A directory held open. Clones share the handle.
#[derive(Debug, Clone)]
pub struct Dir {
    fd: Arc<OwnedFd>,
    /// For messages only.
    path: Arc<Path>,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name, one component.
    pub name: RelPath,
    /// Its type.
    pub kind: Kind,
}

/// What a rename does about a destination that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rename {
    /// Replaces it (a directory only when empty).
    Replace,
    /// Fails with "exists".
    NoReplace,
    /// Swaps the two in one step.
    Exchange,
}

impl Dir {
    /// Opens a directory named by configuration or by the operator; symlinks in `path` are followed.
    pub fn open(path: &Path) -> Result<Self> {
        let fd = sys::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Error::new("open directory", path, e))?;
        Ok(Self { fd: Arc::new(fd), path: path.into() })
    }

    /// Makes a configured directory with all its parents (mode 0755), durably, then opens it.
    pub fn create_all(path: &Path) -> Result<Self> {
        let parent = path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
        let found = Self::open(path);
        if let (Err(e), Some(parent)) = (&found, parent)
            && e.is_not_found()
        {
            Self::create_all(parent)?;
            match std::fs::create_dir(path) {
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(Error::new("create directory", path, e));
                }
                _ => {}
            }
        }
        // Also of one that stood there: whoever made it may have been ended before this.
        if let Some(Ok(parent)) = parent.map(Self::open)
            && let Err(error) = parent.sync()
        {
            if found.is_err() {
                return Err(error);
            }
            tracing::warn!(error = %error, path = %path.display(), "the directory above one that is there was not synced");
        }
        found.or_else(|_| Self::open(path))
    }

    /// A directory that is open already. `path` is for messages only. What is none fails at whatever is done in it.
    pub fn adopt(fd: OwnedFd, path: &Path) -> Self {
        Self { fd: Arc::new(fd), path: path.into() }
    }

    /// Another handle on this directory, which shares nothing with this one.
    pub fn reopen(&self) -> Result<Self> {
        let fd = sys::openat(&*self.fd, c".", DIR_FLAGS, Mode::empty())
            .map_err(|e| Error::new("open directory", &self.path, e))?;
        Ok(Self { fd: Arc::new(fd), path: self.path.clone() })
    }

    /// Where this directory was opened: for messages only.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where `rel` below this directory is: for messages only.
    pub fn path_of(&self, rel: &RelPath) -> PathBuf {
        self.path.join(rel.as_path())
    }

    fn fail(&self, op: &'static str, rel: &RelPath, errno: Errno) -> Error {
        Error::new(op, &self.path_of(rel), errno)
    }

    /// The directory that holds `rel`, and the one component left.
    fn parent_of<'a>(&'a self, op: &'static str, rel: &'a RelPath) -> Result<(Cow<'a, Dir>, &'a [u8])> {
        match rel.split_last() {
            (None, name) => Ok((Cow::Borrowed(self), name)),
            (Some(parent), name) => {
                let parent = as_path(parent);
                let fd = open_beneath(self, parent, DIR_FLAGS, Mode::empty()).map_err(|e| self.fail(op, rel, e))?;
                Ok((Cow::Owned(Dir { fd: Arc::new(fd), path: self.path.join(parent).into() }), name))
            }
        }
    }

    /// Opens a directory beneath this one.
    pub fn open_dir(&self, rel: &RelPath) -> Result<Dir> {
        let fd = open_beneath(self, rel.as_path(), DIR_FLAGS, Mode::empty())
            .map_err(|e| self.fail("open directory", rel, e))?;
        Ok(Dir { fd: Arc::new(fd), path: self.path_of(rel).into() })
    }

    /// Makes one directory; its parent must exist and it must not.
    pub fn make_dir(&self, rel: &RelPath, mode: u32) -> Result<()> {
        let (parent, name) = self.parent_of("create directory", rel)?;
        change()
            .and_then(|()| sys::mkdirat(&*parent.fd, name, Mode::from_raw_mode(mode)))
            .map_err(|e| self.fail("create directory", rel, e))
    }

    /// Opens `rel`, made with all its parents where they are missing.
    pub fn ensure_dir(&self, rel: &RelPath, mode: u32) -> Result<Dir> {
        match self.open_dir(rel) {
            Err(e) if e.is_not_found() => {}
            other => return other,
        }
        if let Some(parent) = rel.parent() {
            self.ensure_dir(&parent, mode)?;
        }
        match self.make_dir(rel, mode) {
            Err(e) if !e.is_exists() => Err(e),
            _ => self.open_dir(rel),
        }
    }

    /// Opens a regular file for reading.
    pub fn open_file(&self, rel: &RelPath) -> Result<File> {
        self.open_with("open", rel, OFlags::RDONLY, 0)
    }

    /// Creates a file that must not exist yet, open for reading and writing.
    pub fn create_file(&self, rel: &RelPath, mode: u32) -> Result<File> {
        // What this makes is a regular file: no need to look.
        open_beneath(self, rel.as_path(), OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, Mode::from_raw_mode(mode))
            .map(File::from)
            .map_err(|e| self.fail("create", rel, e))
    }

    /// Opens a file for reading and writing, created empty where it is missing.
    pub fn open_or_create_file(&self, rel: &RelPath, mode: u32) -> Result<File> {
        self.open_with("open", rel, OFlags::RDWR | OFlags::CREATE, mode)
    }

    fn open_with(&self, op: &'static str, rel: &RelPath, flags: OFlags, mode: u32) -> Result<File> {
        // NONBLOCK: a fifo planted in a writable directory must not hang the open.
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let ready = if flags.contains(OFlags::CREATE) { change() } else { Ok(()) };
        let fd = ready
            .and_then(|()| open_beneath(self, rel.as_path(), flags, Mode::from_raw_mode(mode)))
            .map_err(|e| self.fail(op, rel, e))?;
        let file = File::from(fd);
        let stat = super::file::stat_file(&file).map_err(|e| self.fail(op, rel, e))?;
        if stat.kind != Kind::File {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is no regular file");
            return Err(Error::new(op, &self.path_of(rel), source));
        }
        Ok(file)
    }

    /// Reads a whole small file; fails when it holds more than `limit` bytes.
    pub fn read(&self, rel: &RelPath, limit: u64) -> Result<Vec<u8>> {
        super::read_only::read_all(&self.open_file(rel)?, limit).map_err(|e| Error::new("read", &self.path_of(rel), e))
    }

    /// Puts `bytes` at `rel` so that after a crash the old or the new content is there, whole: a temporary file,
    /// fsync, rename, fsync of the directory.
    pub fn write_atomic(&self, rel: &RelPath, bytes: &[u8], mode: u32) -> Result<()> {
        use std::io::Write as _;
        let (parent, _) = self.parent_of("write", rel)?;
        let name = RelPath::parse(rel.file_name()).map_err(|e| invalid("write", &self.path_of(rel), e))?;
        let temporary = parent.temporary_name(&name)?;
        let mut file = parent.create_file(&temporary, mode)?;
        let written = file.write_all(bytes).and_then(|()| if syncs() { file.sync_all() } else { Ok(()) });
        let moved = written
            .map_err(|e| Error::new("write", &self.path_of(rel), e))
            .and_then(|()| parent.rename(&temporary, &parent, &name, Rename::Replace));
        if moved.is_err() {
            // The error that counts is the first one; the temporary name is unique and harmless.
            let _ = parent.remove_file(&temporary);
        }
        moved?;
        parent.sync()
    }

    /// Metadata of this directory itself.
    pub fn stat_self(&self) -> Result<Stat> {
        sys::statx(&*self.fd, c"", AtFlags::EMPTY_PATH, STATX_MASK)
            .map(|x| Stat::from_statx(&x))
            .map_err(|e| Error::new("stat", &self.path, e))
    }

    /// Metadata, links not followed; `None` where nothing is.
    pub fn stat(&self, rel: &RelPath) -> Result<Option<Stat>> {
        let (parent, name) = match self.parent_of("stat", rel) {
            Err(e) if e.is_not_found() => return Ok(None),
            other => other?,
        };
        match sys::statx(&*parent.fd, name, AtFlags::SYMLINK_NOFOLLOW, STATX_MASK) {
            Ok(x) => Ok(Some(Stat::from_statx(&x))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(self.fail("stat", rel, e)),
        }
    }

    /// Where a symlink points, as written in it.
    pub fn read_link(&self, rel: &RelPath) -> Result<Vec<u8>> {
        let (parent, name) = self.parent_of("read link", rel)?;
        sys::readlinkat(&*parent.fd, name, Vec::new())
            .map(|target| target.into_bytes())
            .map_err(|e| self.fail("read link", rel, e))
    }

    /// Makes a symlink with `target` written in it as it is.
    pub fn symlink(&self, target: &[u8], rel: &RelPath) -> Result<()> {
        let (parent, name) = self.parent_of("create symlink", rel)?;
        change()
            .and_then(|()| sys::symlinkat(target, &*parent.fd, name))
            .map_err(|e| self.fail("create symlink", rel, e))
    }

    /// Points the symlink `rel` at `target` in one step; durable once the directory it is in is synced.
    pub fn switch_symlink(&self, target: &[u8], rel: &RelPath) -> Result<()> {
        let (parent, _) = self.parent_of("switch symlink", rel)?;
        let name = RelPath::parse(rel.file_name()).map_err(|e| invalid("switch symlink", &self.path_of(rel), e))?;
        let temporary = parent.temporary_name(&name)?;
        parent.symlink(target, &temporary)?;
        if let Err(error) = parent.rename(&temporary, &parent, &name, Rename::Replace) {
            let _ = parent.remove_file(&temporary);
            return Err(error);
        }
        Ok(())
    }

    /// The names in this directory, in no order.
    pub fn entries(&self) -> Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        self.each_entry(|entry| {
            entries.push(entry);
            ControlFlow::Continue(())
        })?;
        Ok(entries)
    }

    /// Calls `each` on the names in this directory until it breaks off: there may be as many as somebody likes.
    pub fn each_entry(&self, mut each: impl FnMut(DirEntry) -> ControlFlow<()>) -> Result<()> {
        let fail = |e| Error::new("list directory", &self.path, e);
        // A handle of its own: the position in a directory belongs to the open file.
        let own = self.reopen()?;
        let mut buffer = Vec::with_capacity(32 * 1024);
        let mut listing = RawDir::new(own.as_fd(), buffer.spare_capacity_mut());
        while let Some(entry) = listing.next() {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let name = RelPath::parse(name).map_err(|e| invalid("list directory", &self.path, e))?;
            let kind = match entry.file_type() {
                FileType::Unknown => match self.stat(&name)? {
                    Some(stat) => stat.kind,
                    None => continue,
                },
                known => known.into(),
            };
            if each(DirEntry { name, kind }).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The same until `each` fails. What it removes or makes here is no matter.
    pub fn try_each_entry<E: From<Error>>(
        &self,
        mut each: impl FnMut(DirEntry) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut outcome = Ok(());
        self.each_entry(|entry| {
            outcome = each(entry);
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        outcome
    }

    /// Renames `from` below this directory to `to` below `to_dir`.
    pub fn rename(&self, from: &RelPath, to_dir: &Dir, to: &RelPath, how: Rename) -> Result<()> {
        let (from_parent, from_name) = self.parent_of("rename", from)?;
        let (to_parent, to_name) = to_dir.parent_of("rename to", to)?;
        let flags = match how {
            Rename::Replace => RenameFlags::empty(),
            Rename::NoReplace => RenameFlags::NOREPLACE,
            Rename::Exchange => RenameFlags::EXCHANGE,
        };
        change()
            .and_then(|()| sys::renameat_with(&*from_parent.fd, from_name, &*to_parent.fd, to_name, flags))
            .map_err(|e| to_dir.fail("rename to", to, e))
    }

    /// Removes a file or symlink.
    pub fn remove_file(&self, rel: &RelPath) -> Result<()> {
        let (parent, name) = self.parent_of("remove", rel)?;
        change()
            .and_then(|()| sys::unlinkat(&*parent.fd, name, AtFlags::empty()))
            .map_err(|e| self.fail("remove", rel, e))
    }

    /// Makes the names in this directory durable.
    pub fn sync(&self) -> Result<()> {
        if !syncs() {
            return Ok(());
        }
        sys::fsync(&*self.fd).map_err(|e| Error::new("sync directory", &self.path, e))
    }

    /// Makes everything on this directory's file system durable, in one call; its write errors are reported here.
    pub fn sync_filesystem(&self) -> Result<()> {
        if !syncs() {
            return Ok(());
        }
        sys::syncfs(&*self.fd).map_err(|e| Error::new("sync file system of", &self.path, e))
    }

    /// Room on this directory's file system.
    pub fn space(&self) -> Result<Space> {
        sys::fstatvfs(&*self.fd).map(|v| Space::from_statvfs(&v)).map_err(|e| Error::new("statvfs", &self.path, e))
    }

    /// The parent and last component, for the other files of this room.
    pub(super) fn locate<'a>(&'a self, op: &'static str, rel: &'a RelPath) -> Result<(Cow<'a, Dir>, &'a [u8])> {
        self.parent_of(op, rel)
    }

    pub(super) fn error(&self, op: &'static str, rel: &RelPath, source: impl Into<std::io::Error>) -> Error {
        Error::new(op, &self.path_of(rel), source)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Always, but in tests of sudden ends.
fn syncs() -> bool {
    #[cfg(test)]
    return !super::crash::in_use();
    #[cfg(not(test))]
    true
}

/// A point before a change to the file system, where tests may have everything end.
pub(super) fn change() -> std::result::Result<(), Errno> {
    #[cfg(test)]
    super::crash::point()?;
    Ok(())
}

fn as_path(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt as _;
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

pub(super) fn invalid(op: &'static str, path: &Path, why: super::PathError) -> Error {
    Error::new(op, path, std::io::Error::new(std::io::ErrorKind::InvalidInput, why))
}
