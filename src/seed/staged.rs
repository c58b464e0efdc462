//! Directories under temporary names: what becomes the tree of a target, and what was it.

use std::time::Duration;

use super::SeedError;
use super::place::{component, same_inode};
use super::target::is_leftover;
use crate::fs::{Dir, RelPath};

/// The stem of temporary names inside a target.
const WITHIN: &[u8] = b"seedcache-within";

/// Where temporary directories of one target are made, and what their names start with.
#[derive(Debug, Clone)]
pub(crate) struct Scratch {
    pub(super) dir: Dir,
    pub(super) stem: RelPath,
}

/// A directory under a temporary name, which becomes the tree of a target.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(super) held_in: Dir,
    pub(super) name: RelPath,
    /// What bears the temporary name.
    pub(super) top: Dir,
    /// The tree's own directory: `top`, or one in it.
    pub(super) dir: Dir,
}

/// A tree that stands at its target now.
#[derive(Debug)]
pub(crate) struct Settled {
    /// The top of the tree.
    pub(super) dir: Dir,
    /// What was swapped out for it.
    pub(super) old: Vec<SwappedOut>,
}

/// What stood at a target, under a name of its own now.
#[derive(Debug)]
pub(super) struct SwappedOut {
    pub(super) held_in: Dir,
    pub(super) name: RelPath,
    /// Readers find it by that name: it must not be moved.
    pub(super) by_name: bool,
}

impl Scratch {
    /// Inside a directory.
    pub(crate) fn within(dir: &Dir) -> Self {
        Self { dir: dir.clone(), stem: component(WITHIN) }
    }

    /// A new directory of its own.
    pub(crate) fn stage(&self) -> Result<Staged, SeedError> {
        let name = self.dir.temporary_name(&self.stem)?;
        self.dir.make_dir(&name, 0o700)?;
        let dir = self.dir.open_dir(&name)?;
        Ok(Staged { held_in: self.dir.clone(), top: dir.clone(), dir, name })
    }

    pub(super) fn clear(&self, keep: &impl Fn(&RelPath) -> bool) -> Result<(), SeedError> {
        clear(&self.dir, keep, |name| self.made(name))
    }

    /// Whether a name is one that was made here.
    pub(super) fn made(&self, name: &[u8]) -> bool {
        is_leftover(name, &Dir::temporary_prefix(&self.stem))
    }
}

/// Removes what `is_left` names in `dir`, but for what `keep` wants.
pub(super) fn clear(
    dir: &Dir,
    keep: &impl Fn(&RelPath) -> bool,
    is_left: impl Fn(&[u8]) -> bool,
) -> Result<(), SeedError> {
    for entry in dir.entries()? {
        if is_left(entry.name.as_bytes()) && !keep(&entry.name) {
            tracing::info!(path = %dir.path_of(&entry.name).display(), "leftover of an interrupted seed removed");
            dir.remove_tree(&entry.name)?;
        }
    }
    Ok(())
}

impl Staged {
    /// The directory to fill.
    pub(crate) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Removes it, if it is still what stands under its name. A failure is only told: the next seed clears it.
    pub(crate) fn discard(&self) {
        if let (Ok(Some(found)), Ok(own)) = (self.held_in.stat(&self.name), self.top.stat_self())
            && same_inode(&found, &own)
            && let Err(error) = self.held_in.remove_tree(&self.name)
        {
            tracing::warn!(%error, "temporary directory of a seed left behind");
        }
    }

    /// Another hold on the same.
    pub(super) fn handle(&self) -> Self {
        Self { held_in: self.held_in.clone(), name: self.name.clone(), top: self.top.clone(), dir: self.dir.clone() }
    }

    pub(super) fn swapped_out(self) -> SwappedOut {
        SwappedOut { held_in: self.held_in, name: self.name, by_name: false }
    }
}

impl Settled {
    /// Removes what was swapped out, after a moment for those who are on the way through it. Blocks.
    pub(crate) fn retire(self, linger: Duration) {
        if self.old.is_empty() {
            return;
        }
        std::thread::sleep(linger);
        for SwappedOut { held_in, name, .. } in self.old {
            if let Err(error) = held_in.remove_tree(&name) {
                tracing::warn!(%error, "what was swapped out of a target is left behind; its next seed clears it");
            }
        }
    }
}
