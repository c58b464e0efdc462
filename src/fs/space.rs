//! Room on a file system.

use rustix::fs::StatVfs;

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
