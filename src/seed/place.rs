//! Where a target stands: the directory that holds it, held open, and its name in there. The daemon makes one of a
//! target below `seed.root` ([`Place::reach`]), a client of a path in its own mount namespace ([`Place::at`]); from
//! there on both do the same:
//!
//! ```text
//! let lock     = place.lock(limit)?;                // clients: one after the other at one target
//! place.clear_leftovers(|_| false)?;                // what a crash left
//! let standing = place.look(&marks)?;               // what stands there; `marks`: mark::OnTargets for clients
//! match decide(standing, &asked) {                  // pure
//!     Step::Mend(seed)   => …                       // hold `seed.dir` against the manifest, mend it where it is
//!     Step::Swap(switch) => {
//!         let staged = place.stage(&switch)?;       // `staged.dir()`: empty, 0700, on the target's file system
//!         …                                         // fill it and mark it; on failure `staged.discard()`
//!         let settled = place.settle(switch, staged, &marks)?;
//!         settled.retire(linger);                   // removes what was swapped out; the daemon keeps it a moment
//!     }
//!     Step::Refuse(what) => …
//! }
//! ```
//!
//! What must hold: whatever fails or ends in between, a reader of the target finds the old tree or the new, and the
//! next seed clears what is left.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::exchange;
use super::mark::Marks;
use super::standing::{Empty, Seed, Standing, Switch, kind_words};
use super::target::{Grounds, is_leftover};
use super::{SeedError, TargetError};
use crate::fs::{self, Dir, DirLock, Kind, Meta, PathError, RelPath, Stat};
use crate::intent::Digest;

/// Names longer than this are cut in temporary names.
const LONGEST: usize = 160;

/// The directory that holds a target, and the target's name in it.
#[derive(Debug)]
pub(crate) struct Place {
    parent: Dir,
    name: RelPath,
}

/// Where temporary directories of one target are made, and what their names start with.
#[derive(Debug, Clone)]
pub(crate) struct Scratch {
    dir: Dir,
    stem: RelPath,
}

/// A directory under a temporary name, which becomes the tree of a target or was it.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(super) held_in: Dir,
    pub(super) name: RelPath,
    dir: Dir,
}

/// A tree that stands at its target now.
#[derive(Debug)]
pub(crate) struct Settled {
    /// The top of the tree.
    pub(super) dir: Dir,
    /// What was swapped out for it.
    pub(super) old: Vec<SwappedOut>,
}

/// What stood at a target, under a temporary name now.
#[derive(Debug)]
pub(super) struct SwappedOut {
    pub(super) held_in: Dir,
    pub(super) name: RelPath,
}

impl Place {
    /// Goes to the target's parent, made where it is missing (mode 0755), through directories only.
    pub(super) fn reach(root: &Dir, store: &Dir, grounds: &Grounds, target: &RelPath) -> Result<Self, SeedError> {
        let store = store.stat_self()?;
        let mut parent = root.clone();
        let components: Vec<RelPath> = target.components().map(component).collect();
        let Some((name, above)) = components.split_last() else { unreachable!("a path has a component") };
        for component in above {
            parent = enter(&parent, component)?;
            // The store may be seen here through another mount, which no comparison of names tells.
            if same_inode(&parent.stat_self()?, &store) {
                return Err(grounds.in_store(target).into());
            }
        }
        if parent.stat(name)?.is_some_and(|stat| same_inode(&stat, &store)) {
            return Err(grounds.in_store(target).into());
        }
        Ok(Self { parent, name: name.clone() })
    }

    /// Goes to the parent of `path` as this process sees it, through symlinks as any tool would; missing directories
    /// on the way are made (mode 0755).
    pub(crate) fn at(path: &Path) -> Result<Self, SeedError> {
        let absolute = fs::absolute(path)?;
        // `..` at the end names what only the file system can tell.
        let absolute = if absolute.file_name().is_some() { absolute } else { fs::canonical(&absolute)? };
        let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
            return Err(TargetError::Top { given: path.into() }.into());
        };
        let unfit = |source| SeedError::from(TargetError::Unfit { given: path.into(), source });
        let name = RelPath::parse(name.as_bytes()).map_err(unfit)?;
        if super::target::is_reserved(name.as_bytes()) {
            return Err(TargetError::Reserved { target: name }.into());
        }
        Ok(Self { parent: open_or_make(parent, &unfit)?, name })
    }

    /// The directory that holds the target.
    pub(crate) fn parent(&self) -> &Dir {
        &self.parent
    }

    /// The target's name in it.
    pub(crate) fn name(&self) -> &RelPath {
        &self.name
    }

    /// Where the target is, for messages.
    pub(crate) fn path(&self) -> PathBuf {
        self.parent.path_of(&self.name)
    }

    /// Whether something is mounted on the target itself: then it cannot be swapped whole.
    pub(crate) fn is_mount_point(&self) -> Result<bool, SeedError> {
        match self.directory()? {
            Some(dir) => Ok(dir.is_mount_root()?),
            None => Ok(false),
        }
    }

    /// Keeps the other clients off the target, also those that see it mounted elsewhere. Waits for them up to `limit`.
    pub(crate) fn lock(&self, limit: Duration) -> Result<Vec<DirLock>, SeedError> {
        let started = std::time::Instant::now();
        let locked = SeedError::Locked { target: self.path(), seconds: limit.as_secs() };
        let Some(parent) = self.parent.lock(limit)? else { return Err(locked) };
        // With the parent held nobody can exchange the target, so this is the one that will be looked at.
        let Some(target) = self.directory()? else { return Ok(vec![parent]) };
        match target.lock(limit.saturating_sub(started.elapsed()))? {
            Some(target) => Ok(vec![parent, target]),
            None => Err(locked),
        }
    }

    /// The target, where it is a directory.
    fn directory(&self) -> Result<Option<Dir>, SeedError> {
        match self.parent.stat(&self.name)? {
            Some(stat) if stat.kind == Kind::Dir => Ok(Some(self.parent.open_dir(&self.name)?)),
            _ => Ok(None),
        }
    }

    /// What stands there.
    pub(crate) fn look(&self, marks: &dyn Marks) -> Result<Standing, SeedError> {
        let Some(stat) = self.parent.stat(&self.name)? else { return Ok(Standing::Nothing) };
        if stat.kind != Kind::Dir {
            return Ok(Standing::Foreign(stat, Empty::No));
        }
        let dir = self.parent.open_dir(&self.name)?;
        let stat = dir.stat_self()?;
        match marks.of(&dir)? {
            Some(mark) => Ok(Standing::Ours(Box::new(Seed { dir, stat, mark }))),
            None if dir.entries()?.is_empty() => Ok(Standing::Foreign(stat, Empty::Yes)),
            None => Ok(Standing::Foreign(stat, Empty::No)),
        }
    }

    /// Where temporary directories beside the target are made.
    fn beside(&self) -> Scratch {
        let name = self.name.as_bytes();
        let stem = if name.len() <= LONGEST {
            self.name.clone()
        } else {
            // A long name is cut, and told from others by its digest.
            let digest = Digest::sha256(name);
            component(&[&name[..LONGEST - 17], b"-", digest.short(16).as_bytes()].concat())
        };
        Scratch { dir: self.parent.clone(), stem }
    }

    /// Where what replaces single entries of a seed is made.
    pub(super) fn scratch(&self, _seed: &Seed) -> Scratch {
        self.beside()
    }

    /// Removes what earlier tries left, but for what `keep` wants.
    pub(crate) fn clear_leftovers(&self, keep: impl Fn(&RelPath) -> bool) -> Result<(), SeedError> {
        self.beside().clear(&keep)
    }

    /// An empty directory (mode 0700) where the switch wants the tree made, on the target's file system.
    pub(crate) fn stage(&self, _switch: &Switch) -> Result<Staged, SeedError> {
        self.beside().stage()
    }

    /// Has the finished tree take its place. Where that fails the tree is removed, and what stood there stands there.
    pub(crate) fn settle(&self, switch: Switch, staged: Staged, _marks: &dyn Marks) -> Result<Settled, SeedError> {
        let settled = match &switch.seen {
            Some(seen) => exchange::exchange(&self.parent, &staged, &self.name, seen),
            None => exchange::create(&self.parent, &staged, &self.name),
        };
        if let Err(error) = settled {
            staged.discard();
            return Err(error);
        }
        let Staged { held_in, name, dir } = staged;
        let old = switch.seen.map(|_| SwappedOut { held_in, name }).into_iter().collect();
        Ok(Settled { dir, old })
    }
}

impl Scratch {
    /// In a directory that is nobody's target, or in a target of which nothing else can be reached.
    pub(super) fn within(dir: &Dir) -> Self {
        Self { dir: dir.clone(), stem: component(b"seed") }
    }

    /// A new directory of its own.
    pub(crate) fn stage(&self) -> Result<Staged, SeedError> {
        let name = self.dir.temporary_name(&self.stem)?;
        self.dir.make_dir(&name, 0o700)?;
        Ok(Staged { held_in: self.dir.clone(), dir: self.dir.open_dir(&name)?, name })
    }

    pub(super) fn clear(&self, keep: &impl Fn(&RelPath) -> bool) -> Result<(), SeedError> {
        let prefix = Dir::temporary_prefix(&self.stem);
        for entry in self.dir.entries()? {
            if is_leftover(entry.name.as_bytes(), &prefix) && !keep(&entry.name) {
                tracing::info!(path = %self.dir.path_of(&entry.name).display(), "leftover of an interrupted seed removed");
                self.dir.remove_tree(&entry.name)?;
            }
        }
        Ok(())
    }
}

impl Staged {
    /// The directory itself.
    pub(crate) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Removes it, if it is still what stands under its name. A failure is only told: the next seed clears it.
    pub(crate) fn discard(&self) {
        if let (Ok(Some(found)), Ok(own)) = (self.held_in.stat(&self.name), self.dir.stat_self())
            && same_inode(&found, &own)
            && let Err(error) = self.held_in.remove_tree(&self.name)
        {
            tracing::warn!(%error, "temporary directory of a seed left behind");
        }
    }
}

impl Settled {
    /// Removes what was swapped out, after a moment for those who are on the way through it. Blocks.
    pub(crate) fn retire(self, linger: Duration) {
        if self.old.is_empty() {
            return;
        }
        std::thread::sleep(linger);
        for SwappedOut { held_in, name } in self.old {
            if let Err(error) = held_in.remove_tree(&name) {
                tracing::warn!(%error, "tree swapped out of its target left behind; the next seed of the target clears it");
            }
        }
    }
}

pub(super) fn same_inode(a: &Stat, b: &Stat) -> bool {
    (a.stamp.dev, a.stamp.ino) == (b.stamp.dev, b.stamp.ino)
}

pub(super) fn component(name: &[u8]) -> RelPath {
    RelPath::parse(name).unwrap_or_else(|e| unreachable!("a component of a checked path: {e}"))
}

/// Opens a directory by path, made with all its parents where they are missing.
fn open_or_make(path: &Path, unfit: &impl Fn(PathError) -> SeedError) -> Result<Dir, SeedError> {
    match (Dir::open(path), path.parent(), path.file_name()) {
        (Err(error), Some(above), Some(name)) if error.is_not_found() => {
            let name = RelPath::parse(name.as_bytes()).map_err(unfit)?;
            enter(&open_or_make(above, unfit)?, &name)
        }
        (opened, ..) => Ok(opened?),
    }
}

/// Opens `name` in `parent`, made where it is missing.
fn enter(parent: &Dir, name: &RelPath) -> Result<Dir, SeedError> {
    match parent.stat(name)? {
        Some(stat) if stat.kind != Kind::Dir => {
            return Err(SeedError::InTheWay { path: parent.path_of(name), what: kind_words(stat.kind) });
        }
        Some(_) => return Ok(parent.open_dir(name)?),
        None => {}
    }
    match parent.make_dir(name, 0o755) {
        Ok(()) => {
            let dir = parent.open_dir(name)?;
            // The mask of the process may have taken rights that pods need to get through.
            dir.apply_meta(&Meta { mode: 0o755, owner: None, mtime: dir.stat_self()?.mtime })?;
            Ok(dir)
        }
        Err(e) if e.is_exists() => Ok(parent.open_dir(name)?),
        Err(e) => Err(e.into()),
    }
}
