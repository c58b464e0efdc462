//! Room on a file system, and what a tree takes of it.

use std::collections::HashSet;

use rustix::fs::{self as sys, AtFlags, FallocateFlags, Mode, OFlags, StatVfs, StatxFlags};
use rustix::io::Errno;

use super::{Dir, Error, Kind, Result};

/// Bytes and inodes of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that this process may still use.
    pub free: u64,
    /// Inodes that this process may still use; some file systems say 0 where they have no limit.
    pub free_inodes: u64,
}

impl Space {
    pub(super) fn from_statvfs(v: &StatVfs) -> Self {
        Self { total: v.f_blocks * v.f_frsize, free: v.f_bavail * v.f_frsize, free_inodes: v.f_favail }
    }
}

/// What `statx` calls a block, in bytes.
const BLOCK: u64 = 512;

impl Dir {
    /// Whether so many bytes in so many new files fit; else the error that writing them would end with. Quotas are counted:
    /// the bytes are taken, by a file without a name, and given back.
    pub fn try_room(&self, bytes: u64, files: u64) -> Result<()> {
        let fail = |e: Errno| Error::new("make room in", self.path(), e);
        let room = sys::fstatvfs(self).map_err(fail)?;
        let few_inodes = room.f_files > 0 && room.f_favail < files;
        if few_inodes || Space::from_statvfs(&room).free < bytes {
            return Err(fail(Errno::NOSPC));
        }
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let taken = sys::openat(self, c".", flags, Mode::RUSR | Mode::WUSR)
            .and_then(|file| sys::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, bytes.max(1)));
        match taken {
            // A file system without it tells when it is written to.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::ISDIR) => Ok(()),
            Err(e) => Err(fail(e)),
        }
    }

    /// Bytes of disk that this directory and all below it take: an inode with several names counts once, extents shared
    /// by reflink count for each file. What vanishes meanwhile is left out.
    pub fn disk_use(&self) -> Result<u64> {
        let mut linked = HashSet::new();
        Ok(blocks(self, c"", AtFlags::EMPTY_PATH, &mut linked)? + below(self, &mut linked)?)
    }
}

fn below(dir: &Dir, linked: &mut HashSet<(u64, u64)>) -> Result<u64> {
    let mut bytes = 0;
    for entry in dir.entries()? {
        bytes += blocks(dir, entry.name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW, linked)?;
        if entry.kind == Kind::Dir {
            match dir.open_dir(&entry.name) {
                Ok(child) => bytes += below(&child, linked)?,
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(bytes)
}

fn blocks(dir: &Dir, name: impl rustix::path::Arg, flags: AtFlags, linked: &mut HashSet<(u64, u64)>) -> Result<u64> {
    match sys::statx(dir, name, flags, StatxFlags::BASIC_STATS) {
        Ok(x) => {
            let inode = (rustix::fs::makedev(x.stx_dev_major, x.stx_dev_minor), x.stx_ino);
            let many = x.stx_nlink > 1 && Kind::from(sys::FileType::from_raw_mode(u32::from(x.stx_mode))) != Kind::Dir;
            Ok(if many && !linked.insert(inode) { 0 } else { x.stx_blocks * BLOCK })
        }
        Err(rustix::io::Errno::NOENT) => Ok(0),
        Err(e) => Err(Error::new("stat below", dir.path(), e)),
    }
}
