//! Opening what lies beneath a held directory: no link is followed, and nothing above is reached.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// How a path is resolved beneath a held directory.
pub(super) const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// How often something is looked for again that moves away while it is opened.
const MOVED: u32 = 100;

/// Opens `rel` beneath `dir`.
pub(super) fn open_beneath(dir: impl AsFd, rel: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let mut moved = 0;
    loop {
        match openat2(&dir, rel, flags | OFlags::CLOEXEC, mode, BENEATH) {
            // A rename elsewhere raced with the resolution; the kernel asks to try again.
            Err(Errno::AGAIN | Errno::INTR) => continue,
            // Without links and `..` nothing leads out: what was found was moved away in that instant (`complete_walk` in
            // fs/namei.c), and is looked for again.
            Err(Errno::XDEV) if moved < MOVED => moved += 1,
            other => return other,
        }
    }
}
