//! Directories under temporary names: what becomes the tree of a target, and what was it.
//!
//! What must hold: whoever works in one holds a lock on it, and nobody removes what another holds, though both find it
//! under the same target's temporary names.

use std::sync::Arc;
use std::time::Duration;

use super::SeedError;
use super::place::{component, same_inode};
use super::target::is_leftover;
use crate::fs::{self, Dir, DirEntry, DirLock, Kind, RelPath, fail_point};

/// Tries to make a directory that nobody takes for a leftover meanwhile.
const TRIES: usize = 8;
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
    /// On `top`; gone with the last hold on this.
    lock: Arc<DirLock>,
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
        for _ in 0..TRIES {
            let name = self.dir.temporary_name(&self.stem)?;
            fail_point("seed.stage.before-directory");
            self.dir.make_dir(&name, 0o700)?;
            fail_point("seed.stage.after-directory");
            match self.take(&name) {
                Ok(Some((dir, lock))) => {
                    let (top, lock) = (dir.clone(), Arc::new(lock));
                    return Ok(Staged { held_in: self.dir.clone(), top, dir, name, lock });
                }
                Ok(None) => {}
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(SeedError::Locked { target: self.dir.path().into(), seconds: 0 })
    }

    /// Opens and locks a directory just made; `None` when another took it for a leftover before it was locked.
    fn take(&self, name: &RelPath) -> fs::Result<Option<(Dir, DirLock)>> {
        let dir = self.dir.open_dir(name)?;
        let Some(lock) = dir.lock(Duration::ZERO)? else { return Ok(None) };
        let own = dir.stat_self()?;
        let stands = self.dir.stat(name)?.is_some_and(|found| same_inode(&found, &own));
        Ok(stands.then_some((dir, lock)))
    }

    /// `done`, once what could not be discarded here is gone: it is no part of a tree, nor may a client write around it.
    pub(super) fn cleared<T>(&self, done: T) -> Result<T, SeedError> {
        self.clear(&|_| false)?;
        Ok(done)
    }

    pub(super) fn clear(&self, keep: &impl Fn(&RelPath) -> bool) -> Result<(), SeedError> {
        clear(&self.dir, keep, |name| self.made(name))
    }

    /// Whether a name is one that was made here.
    pub(super) fn made(&self, name: &[u8]) -> bool {
        is_leftover(name, &Dir::temporary_prefix(&self.stem))
    }
}

/// Removes what `is_left` names in `dir`, but for what `keep` wants and what another process works in.
pub(super) fn clear(
    dir: &Dir,
    keep: &impl Fn(&RelPath) -> bool,
    is_left: impl Fn(&[u8]) -> bool,
) -> Result<(), SeedError> {
    dir.try_each_entry(|entry| {
        if !is_left(entry.name.as_bytes()) || keep(&entry.name) {
            return Ok(());
        }
        // Held until it is gone, so that nobody begins to work in it.
        let _lock = match lock_leftover(dir, &entry) {
            Ok(Leftover::Nobodys(lock)) => lock,
            Ok(Leftover::InUse) => return Ok(()),
            Err(e) if e.is_not_found() => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        tracing::info!(path = %dir.path_of(&entry.name).display(), "leftover of an interrupted seed removed");
        fail_point("seed.leftovers.before-removal");
        dir.remove_tree(&entry.name)?;
        fail_point("seed.leftovers.after-removal");
        Ok(())
    })
}

/// What lies under a temporary name.
enum Leftover {
    /// Nobody works in it, nor will as long as the lock is held.
    Nobodys(Option<DirLock>),
    /// Another does.
    InUse,
}

fn lock_leftover(dir: &Dir, entry: &DirEntry) -> fs::Result<Leftover> {
    if entry.kind != Kind::Dir {
        return Ok(Leftover::Nobodys(None));
    }
    Ok(dir.open_dir(&entry.name)?.lock(Duration::ZERO)?.map_or(Leftover::InUse, |lock| Leftover::Nobodys(Some(lock))))
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

    /// Whether nobody else holds it: what works in it has ended.
    pub(crate) fn is_let_go(&self) -> bool {
        Arc::strong_count(&self.lock) == 1
    }

    /// Another hold on the same.
    pub(crate) fn handle(&self) -> Self {
        Self {
            held_in: self.held_in.clone(),
            name: self.name.clone(),
            top: self.top.clone(),
            dir: self.dir.clone(),
            lock: self.lock.clone(),
        }
    }

    pub(super) fn swapped_out(self) -> SwappedOut {
        SwappedOut { held_in: self.held_in, name: self.name, by_name: false }
    }
}

impl Settled {
    /// The top of the tree: another directory than the staged one where that was moved in entry by entry.
    pub(crate) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Removes what was swapped out, after a moment for those who are on the way through it. What the disk leaves of it is no
    /// part of a seed: the next one clears it. What others go on writing into stays. Blocks.
    pub(crate) fn retire(self, linger: Duration) -> Result<(), SeedError> {
        if self.old.is_empty() {
            return Ok(());
        }
        std::thread::sleep(linger);
        let mut outcome = Ok(());
        for SwappedOut { held_in, name, .. } in self.old {
            match held_in.remove_tree(&name) {
                Ok(()) => {}
                Err(error) if error.is_of_disk() => outcome = Err(error.into()),
                Err(error) => {
                    tracing::warn!(%error, "what was swapped out of a target is left behind; its next seed clears it");
                }
            }
        }
        outcome
    }
}
