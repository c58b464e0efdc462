//! A large file's way to the disk: room for it before its bytes come, and its pages on their way before anyone waits.

use std::fs::File;
use std::num::NonZeroU64;

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};

/// Has the kernel begin to write out `length` bytes from `at` on, which were just written. Nothing is waited for, and nothing
/// is durable by it: an fsync later finds less to do, and tells what went wrong.
///
/// Linux takes `POSIX_FADV_DONTNEED` for this: pages that are dirty are sent out, and stay in memory (`mm/fadvise.c`).
pub fn begin_write_out(file: &File, at: u64, length: u64) {
    // Advice: whoever does not take it has lost nothing.
    let _ = fadvise(file, at, NonZeroU64::new(length), Advice::DontNeed);
}

/// Sets room aside for `length` bytes from `at` on, which are to be written next; the file is no longer by it. Where there is
/// no room, whoever writes is told.
pub fn set_room_aside(file: &File, at: u64, length: u64) {
    // Advice as well: a file system without it finds room when it is written to.
    let _ = fallocate(file, FallocateFlags::KEEP_SIZE, at, length);
}
