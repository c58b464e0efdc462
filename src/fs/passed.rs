//! What is asked of a directory that somebody else opened, or that lies anywhere.

use std::os::fd::AsFd;

use rustix::fs::{self as sys, AtFlags, Mode, OFlags, RawDir, ResolveFlags, StatVfsMountFlags, StatxFlags};
use rustix::io::Errno;

use super::beneath::again;
use super::{Dir, Error, Result, Stat};

/// Deeper than any directory that people make.
const DEEPEST: usize = 512;
/// `OVERLAYFS_SUPER_MAGIC`.
const OVERLAY: sys::FsWord = 0x794c_7630;

/// Whether a descriptor is of a directory, as this kernel remembers it: no server is asked.
pub fn is_dir_unsynced(fd: impl AsFd) -> bool {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let of = |x: sys::Statx| sys::FileType::from_raw_mode(u32::from(x.stx_mode));
    sys::statx(fd, c"", flags, StatxFlags::TYPE).is_ok_and(|x| of(x) == sys::FileType::Directory)
}

impl Dir {
    /// Whether the mount that this directory was opened in lets nothing be written.
    pub fn is_read_only(&self) -> Result<bool> {
        sys::fstatvfs(self)
            .map(|v| v.f_flag.contains(StatVfsMountFlags::RDONLY))
            .map_err(|e| Error::new("statvfs", self.path(), e))
    }

    /// Whether the same directory may have another inode number the next time: an overlay of several file systems gives
    /// those that it thinks up, and forgets them.
    pub fn may_be_numbered_anew(&self) -> Result<bool> {
        sys::fstatfs(self).map(|v| v.f_type == OVERLAY).map_err(|e| Error::new("statfs", self.path(), e))
    }

    /// What this is, as this kernel remembers it: no server is asked, which might never answer.
    pub fn stat_unsynced(&self) -> Result<Stat> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        sys::statx(self, c"", flags, StatxFlags::BASIC_STATS)
            .map(|x| Stat::from_statx(&x))
            .map_err(|e| Error::new("stat", self.path(), e))
    }

    /// Whether there is no name in this directory; it may be as large as somebody likes.
    pub fn is_empty(&self) -> Result<bool> {
        let own = self.reopen()?;
        let mut buffer = Vec::with_capacity(4096);
        let mut listing = RawDir::new(&own, buffer.spare_capacity_mut());
        while let Some(entry) = listing.next() {
            let entry = entry.map_err(|e| Error::new("list directory", self.path(), e))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether this directory is `top` or lies below it, as far as the mount that it was opened in shows it. One that
    /// lies deeper than any does is said to.
    pub fn lies_in(&self, top: &Dir) -> Result<bool> {
        let inode = |stat: Stat| (stat.stamp.dev, stat.stamp.ino);
        let top = inode(top.stat_self()?);
        let mut here = self.clone();
        for _ in 0..DEEPEST {
            let own = inode(here.stat_self()?);
            if own == top {
                return Ok(true);
            }
            match here.above()? {
                Some(above) if inode(above.stat_self()?) != own => here = above,
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The directory above this one in the same mount; `None` where that ends, or where the mount does not show it.
    fn above(&self) -> Result<Option<Dir>> {
        // O_PATH: no right to list what is above is needed.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match again(|| sys::openat2(self, c"..", flags, Mode::empty(), ResolveFlags::NO_XDEV)) {
            Ok(fd) => Ok(Some(Dir::adopt(fd, &self.path().join("..")))),
            Err(Errno::XDEV | Errno::NOENT) => Ok(None),
            Err(e) => Err(Error::new("open the directory above", self.path(), e)),
        }
    }
}
