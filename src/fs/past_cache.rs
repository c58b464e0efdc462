//! Reading without leaving what was read in the page cache, where the kernel can: a check of everything on the node
//! must not push out what pods use.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::io::{Errno, ReadWriteFlags};

/// `RWF_DONTCACHE` (Linux 6.14): pages that the read brought in go again, those that were there before stay.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// A kernel or file system without it said so: not asked for again.
static REFUSED: AtomicBool = AtomicBool::new(false);

/// Reads at `offset` into `buffer`; zero at the end of the file.
pub fn read_past_cache(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        let flags = if REFUSED.load(Relaxed) { ReadWriteFlags::empty() } else { DONTCACHE };
        match rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], offset, flags) {
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) if flags == DONTCACHE => REFUSED.store(true, Relaxed),
            other => return Ok(other?),
        }
    }
}
