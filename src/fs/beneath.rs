//! Opening what lies beneath a held directory: no link is followed, and nothing above is reached.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// How a path is resolved beneath a held directory.
pub(super) const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// How often something is looked for again that moves away while it is opened.
const MOVED: u32 = 100;

/// How often something is tried that the kernel asks to try again, and how many of these times at once.
const TRIES: u32 = 40;
const AT_ONCE: u32 = 10;
/// Before each further try: well under 100 ms in all.
const PAUSE: Duration = Duration::from_millis(1);

/// Does `work` until it is neither interrupted nor to be tried again: a rename elsewhere may have raced with it, which passes.
/// A lease that somebody has on a file stays for as long as that holds it, and whoever serves a file system may say so for ever:
/// that is an error in the end.
pub(super) fn again<T>(mut work: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    for tried in 1..TRIES {
        match work() {
            Err(Errno::AGAIN | Errno::INTR) if tried < AT_ONCE => {}
            Err(Errno::AGAIN | Errno::INTR) => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
    work()
}

/// Opens `rel` beneath `dir`.
pub(super) fn open_beneath(dir: impl AsFd, rel: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let mut moved = 0;
    loop {
        match again(|| openat2(&dir, rel, flags | OFlags::CLOEXEC, mode, BENEATH)) {
            // Without links and `..` nothing leads out: what was found was moved away in that instant (`complete_walk` in
            // fs/namei.c), and is looked for again.
            Err(Errno::XDEV) if moved < MOVED => moved += 1,
            other => return other,
        }
    }
}
