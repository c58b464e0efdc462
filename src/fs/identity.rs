//! What a file is, as the system says it: plain data.

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags};
use serde::{Deserialize, Serialize};

use super::{Dir, Error, Result};

/// The type of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// A directory.
    Dir,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// Anything else: device, fifo, socket.
    Other,
}

impl From<FileType> for Kind {
    fn from(file_type: FileType) -> Self {
        match file_type {
            FileType::Directory => Kind::Dir,
            FileType::RegularFile => Kind::File,
            FileType::Symlink => Kind::Symlink,
            _ => Kind::Other,
        }
    }
}

/// A file's metadata, links not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Its type.
    pub kind: Kind,
    /// Permission bits (`0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// How many names it has.
    pub links: u64,
    /// Modification time: seconds since the epoch and nanoseconds.
    pub mtime: (i64, u32),
    /// Which inode it is, and when that last changed in any way.
    pub stamp: Stamp,
}

/// What tells one state of one inode from every other: device, inode, size, mtime and ctime. A file whose stamp is
/// unchanged has not been written through any of its names (the clock not set back).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Modification time, nanoseconds since the epoch.
    pub mtime: i128,
    /// Change time, nanoseconds since the epoch.
    pub ctime: i128,
}

impl Stat {
    /// The modification time, where it is one that can be written down (years -9999 to 9999).
    pub fn mtime_timestamp(&self) -> Option<jiff::Timestamp> {
        jiff::Timestamp::new(self.mtime.0, i32::try_from(self.mtime.1).ok()?).ok()
    }

    pub(crate) fn from_statx(x: &Statx) -> Self {
        let nanos = |t: rustix::fs::StatxTimestamp| i128::from(t.tv_sec) * 1_000_000_000 + i128::from(t.tv_nsec);
        Self {
            kind: FileType::from_raw_mode(u32::from(x.stx_mode)).into(),
            mode: u32::from(x.stx_mode) & 0o7777,
            uid: x.stx_uid,
            gid: x.stx_gid,
            size: x.stx_size,
            links: u64::from(x.stx_nlink),
            mtime: (x.stx_mtime.tv_sec, x.stx_mtime.tv_nsec),
            stamp: Stamp {
                dev: rustix::fs::makedev(x.stx_dev_major, x.stx_dev_minor),
                ino: x.stx_ino,
                size: x.stx_size,
                mtime: nanos(x.stx_mtime),
                ctime: nanos(x.stx_ctime),
            },
        }
    }
}

impl Dir {
    /// Whether something is mounted here: it is the top of a mount, and no rename can move it.
    pub fn is_mount_root(&self) -> Result<bool> {
        let x = rustix::fs::statx(self, c"", AtFlags::EMPTY_PATH, StatxFlags::empty())
            .map_err(|e| Error::new("stat", self.path(), e))?;
        Ok(x.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT))
    }

    /// When this directory was made, nanoseconds since the epoch; `None` where the file system does not say. It stays
    /// through renames and through changes of what the directory holds, and a copy has another.
    pub fn born(&self) -> Result<Option<i64>> {
        let x = rustix::fs::statx(self, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME)
            .map_err(|e| Error::new("stat", self.path(), e))?;
        let known = x.stx_mask & StatxFlags::BTIME.bits() != 0;
        let nanos = x.stx_btime.tv_sec.checked_mul(1_000_000_000).map(|s| s + i64::from(x.stx_btime.tv_nsec));
        Ok(nanos.filter(|_| known))
    }
}
