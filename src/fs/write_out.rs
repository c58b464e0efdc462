//! Dirty pages on their way to the disk before anyone waits for them.

use std::fs::File;
use std::num::NonZeroU64;

use rustix::fs::{Advice, fadvise};

/// Has the kernel begin to write out `length` bytes from `at` on, which were just written. Nothing is waited for, and nothing
/// is durable by it: an fsync later finds less to do, and tells what went wrong.
///
/// Linux takes `POSIX_FADV_DONTNEED` for this: pages that are dirty are sent out, and stay in memory (`mm/fadvise.c`).
pub fn begin_write_out(file: &File, at: u64, length: u64) {
    // Advice: whoever does not take it has lost nothing.
    let _ = fadvise(file, at, NonZeroU64::new(length), Advice::DontNeed);
}
