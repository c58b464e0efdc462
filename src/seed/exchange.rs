//! The swap of a whole directory in one rename. It is not synced: file systems keep the order of what is done to names,
//! so a power loss leaves the old tree's names or the new one's (bytes that are copied are not synced either), and a sync
//! would make each pod wait for the disk's whole journal.

use rustix::io::Errno;

use super::SeedError;
use super::place::same_inode;
use super::staged::Staged;
use crate::fs::{self, Dir, RelPath, Rename, Stat, fail_point};

/// Puts the finished tree where nothing stands.
pub(super) fn create(parent: &Dir, staged: &Staged, target: &RelPath) -> Result<(), SeedError> {
    fail_point("seed.create.before-rename");
    let moved = staged.held_in.rename(&staged.name, parent, target, Rename::NoReplace);
    fail_point("seed.create.after-rename");
    match moved {
        Ok(()) => Ok(()),
        Err(e) if e.is_exists() => Err(SeedError::NotOurs { target: parent.path_of(target), what: "something new" }),
        Err(e) => Err(refusal(parent, target, e)),
    }
}

/// Puts the finished tree in the place of what was seen there, which then stands under the tree's temporary name.
pub(super) fn exchange(parent: &Dir, staged: &Staged, target: &RelPath, seen: &Stat) -> Result<(), SeedError> {
    let swap = || staged.held_in.rename(&staged.name, parent, target, Rename::Exchange);
    fail_point("seed.exchange.before-rename");
    swap().map_err(|e| refusal(parent, target, e))?;
    fail_point("seed.exchange.after-rename");
    if !staged.held_in.stat(&staged.name)?.is_some_and(|out| same_inode(&out, seen)) {
        // Somebody put another thing there after it was looked at.
        swap()?;
        return Err(SeedError::NotOurs { target: parent.path_of(target), what: "something new" });
    }
    Ok(())
}

fn refusal(parent: &Dir, target: &RelPath, source: fs::Error) -> SeedError {
    let target = parent.path_of(target);
    match source.errno().map(Errno::from_raw_os_error) {
        Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => SeedError::ExchangeNotSupported { target, source },
        Some(Errno::BUSY) => SeedError::MountPoint { target, source },
        _ => source.into(),
    }
}
