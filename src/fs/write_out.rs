//! A large file's way to the disk: room for it before its bytes come, and its pages on their way before anyone waits.

use std::fs::File;
use std::num::NonZeroU64;

use rustix::fs::{Advice, FallocateFlags, FsWord, fadvise, fallocate, fstatfs};

use super::Dir;

/// What btrfs says that it is.
const BTRFS: FsWord = 0x9123_683e;

/// Has the kernel begin to write out `length` bytes from `at` on, which were just written. Nothing is waited for, and nothing
/// is durable by it: an fsync later finds less to do, and tells what went wrong.
///
/// Linux takes `POSIX_FADV_DONTNEED` for this: pages that are dirty are sent out, and stay in memory (`mm/fadvise.c`).
pub fn begin_write_out(file: &File, at: u64, length: u64) {
    // Advice: whoever does not take it has lost nothing.
    let _ = fadvise(file, at, NonZeroU64::new(length), Advice::DontNeed);
}

/// Sets room aside for `length` bytes from `at` on, which are to be written next; the file is no longer by it. Whether that is
/// done: where there is no room, whoever writes is told.
pub fn set_room_aside(file: &File, at: u64, length: u64) -> bool {
    // Advice as well: a file system without it finds room when it is written to.
    fallocate(file, FallocateFlags::KEEP_SIZE, at, length).is_ok()
}

impl Dir {
    /// Whether files made here are the better for room that is set aside for them.
    pub fn gains_by_room_aside(&self) -> bool {
        // Advice once more: a file system that does not say what it is gets it.
        fstatfs(self).map_or(true, |v| gains(v.f_type))
    }
}

/// btrfs neither compresses what is written to such room nor gathers it: each write looks whether a snapshot has it, too.
fn gains(kind: FsWord) -> bool {
    kind != BTRFS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_room_is_set_aside_on_btrfs() {
        const EXT4: FsWord = 0xef53;
        assert!(gains(EXT4));
        assert!(!gains(0x9123_683e));
    }
}
