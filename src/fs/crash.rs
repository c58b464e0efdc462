//! Sudden ends, for tests: after so many changes to the file system every further one fails, so that what is left on
//! the disk is what a process that was killed there leaves.

use std::cell::Cell;

use rustix::io::Errno;

thread_local! {
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    static USED: Cell<bool> = const { Cell::new(false) };
}

/// Ends this thread's changes after `changes` more.
pub(crate) fn end_after(changes: u64) {
    LEFT.set(Some(changes));
    USED.set(true);
}

/// Whether this thread has to do with sudden ends: of a process, not of the machine, so that there is nothing to sync.
pub(super) fn in_use() -> bool {
    USED.get()
}

/// Lets this thread change things again; whether the end had come.
pub(crate) fn revive() -> bool {
    LEFT.take() == Some(0)
}

/// Called before each change.
pub(super) fn point() -> Result<(), Errno> {
    match LEFT.get() {
        None => Ok(()),
        Some(0) => Err(Errno::IO),
        Some(left) => {
            LEFT.set(Some(left - 1));
            Ok(())
        }
    }
}
