//! Where a target stands: the directory that holds it, held open, and its name in there. The daemon makes one of a
//! target below `seed.root` ([`Place::reach`]), a client of a path in its own mount namespace ([`Place::at`]); from
//! there on both do the same:
//!
//! ```text
//! let lock     = place.lock(limit)?;                // clients: one after the other at one target
//! place.clear_leftovers(|_| false)?;                // what a crash left
//! let standing = place.look(&marks)?;               // what stands there; `marks`: mark::OnTargets for clients
//! match decide(standing, &asked) {                  // pure
//!     Step::Mend(seed)   => …                       // hold `seed.dir` against the manifest, mend it where it is,
//!                                                   // then place.mend_around(&seed)?
//!     Step::Swap(switch) => {
//!         let staged = place.stage(&switch)?;       // `staged.dir()`: empty, 0700, on the target's file system
//!         …                                         // fill it and mark it (with switch.reason() in the mark's
//!                                                   // reason); on failure `staged.discard()`
//!         let settled = place.settle(switch, staged, &marks)?;
//!         settled.retire(linger)?;                  // removes what was swapped out; the daemon keeps it a moment
//!     }
//!     Step::Refuse(what) => …
//! }
//! ```
//!
//! A swap by `exchange` ([`super::exchange`]) makes the tree beside the target; `symlink` ([`super::symlink`]) and
//! `inPlace` ([`super::in_place`]) work inside it where it stands, and are the only ways where it is a mount point.
//!
//! What must hold: whatever fails or ends in between, a reader of any path in the target finds the old file or the
//! new, and the next seed clears what is left.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::look::{current_tree, look_in};
use super::mark::Marks;
use super::owned::{Head, Names, is_temporary, is_tree};
use super::staged::{Scratch, Settled, Staged, clear};
use super::standing::{Empty, Onto, Seed, Standing, Switch, kind_words};
use super::target::Grounds;
use super::{SeedError, TargetError, exchange, in_place, symlink};
use crate::fs::{self, Dir, DirLock, Kind, Meta, PathError, RelPath, Stat};
use crate::intent::{Digest, Swap};

/// Names longer than this are cut in temporary names.
const LONGEST: usize = 160;

/// The directory that holds a target, and the target's name in it.
#[derive(Debug)]
pub(crate) struct Place {
    parent: Dir,
    name: RelPath,
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

    /// Keeps off the target those who see it mounted elsewhere, where seeds work inside it. Whoever can open the target
    /// can hold the lock, also without the right to write there: after `limit` it goes on without.
    pub(super) fn lock_inside(&self, swap: Option<Swap>, limit: Duration) -> Result<Option<DirLock>, SeedError> {
        let Some(target) = self.directory()? else { return Ok(None) };
        let inside = matches!(swap, Some(Swap::Symlink | Swap::InPlace)) || target.is_mount_root()?;
        if !inside && Head::of(&target)?.is_none() {
            return Ok(None);
        }
        let lock = target.lock(limit)?;
        if lock.is_none() {
            let (target, seconds) = (self.path(), limit.as_secs());
            tracing::warn!(target = %target.display(), seconds, "another process keeps the target locked; seeded anyway");
        }
        Ok(lock)
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
        look_in(self.parent.open_dir(&self.name)?, marks)
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
    pub(crate) fn scratch(&self, seed: &Seed) -> Scratch {
        match seed.form.swap {
            Swap::Exchange => self.beside(),
            Swap::Symlink | Swap::InPlace => Scratch::within(&seed.target),
        }
    }

    /// Mends what a swap keeps around the tree: the links through `..data`. How many were not right.
    pub(crate) fn mend_around(&self, seed: &Seed) -> Result<u64, SeedError> {
        match seed.form.swap {
            Swap::Symlink => symlink::mend(&seed.target, &seed.dir),
            Swap::Exchange | Swap::InPlace => Ok(0),
        }
    }

    /// Removes what earlier tries left, but for what `keep` wants.
    pub(crate) fn clear_leftovers(&self, keep: impl Fn(&RelPath) -> bool) -> Result<(), SeedError> {
        self.beside().clear(&keep)?;
        let Some(target) = self.directory()? else { return Ok(()) };
        let within = Scratch::within(&target);
        let head = Head::of(&target)?;
        let used = [current_tree(&target)?, head.as_ref().and_then(|head| head.previous.clone())];
        let unused = |name: &[u8]| is_tree(name) && !used.iter().flatten().any(|tree| tree.as_bytes() == name);
        let left = |name: &[u8]| within.made(name) || is_temporary(name) || (head.is_some() && unused(name));
        clear(&target, &keep, left)
    }

    /// An empty directory (mode 0700) where the switch wants the tree made, on the target's file system.
    pub(crate) fn stage(&self, switch: &Switch) -> Result<Staged, SeedError> {
        let target = self.directory()?;
        match (switch.onto, target) {
            (Onto::Within(_), Some(target)) => return Scratch::within(&target).stage(),
            (Onto::Whole(_, Some(Swap::Symlink | Swap::InPlace)), Some(target)) if !switch.force => {
                // An exchange would take along what others have put there.
                let names = Names::of(&target)?.unwrap_or_default();
                if let Some(path) = names.stranger_in(&target, None)? {
                    return Err(SeedError::Clash { path: target.path_of(&path) });
                }
            }
            _ => {}
        }
        let mut staged = self.beside().stage()?;
        if switch.swap == Swap::Symlink {
            let name = symlink::tree_name(&switch.version);
            staged.top.make_dir(&name, 0o700)?;
            staged.dir = staged.top.open_dir(&name)?;
        }
        Ok(staged)
    }

    /// Has the finished tree take its place. Where that fails the tree is removed, and the old one or the new one stands
    /// there, or for a swap inside the target some names of each, which the next seed ends.
    pub(crate) fn settle(&self, switch: Switch, staged: Staged, marks: &dyn Marks) -> Result<Settled, SeedError> {
        let discard = staged.handle();
        let settled = match switch.onto {
            Onto::Within(was) => self.settle_within(&switch, staged, was, marks),
            Onto::Nothing => self.settle_whole(&switch, staged, None),
            Onto::Whole(seen, _) => self.settle_whole(&switch, staged, Some(seen)),
        };
        if settled.is_err() {
            discard.discard();
        }
        settled
    }

    fn settle_whole(&self, switch: &Switch, staged: Staged, seen: Option<Stat>) -> Result<Settled, SeedError> {
        match switch.swap {
            Swap::Exchange => {}
            Swap::Symlink => symlink::arrange(&staged)?,
            Swap::InPlace => in_place::arrange(&staged.dir)?,
        }
        match &seen {
            Some(seen) => exchange::exchange(&self.parent, &staged, &self.name, seen)?,
            None => exchange::create(&self.parent, &staged, &self.name)?,
        }
        let dir = staged.dir.clone();
        let old = seen.map(|_| staged.swapped_out()).into_iter().collect();
        Ok(Settled { dir, old })
    }

    fn settle_within(
        &self,
        switch: &Switch,
        staged: Staged,
        was: Option<Swap>,
        marks: &dyn Marks,
    ) -> Result<Settled, SeedError> {
        let target = staged.held_in.clone();
        let before = match was {
            None => Names::default(),
            // All that was put there whole goes with it, as in an exchange.
            Some(Swap::Exchange) => Names::in_dir(&target)?,
            Some(Swap::Symlink | Swap::InPlace) => Names::of(&target)?.unwrap_or_default(),
        };
        let inside = Inside { target: &target, before: &before, was, force: switch.force };
        match switch.swap {
            Swap::Symlink => symlink::settle(&inside, staged, &switch.version),
            Swap::Exchange | Swap::InPlace => in_place::settle(&inside, staged, marks),
        }
    }
}

/// A standing directory that a tree is put into.
pub(super) struct Inside<'a> {
    pub(super) target: &'a Dir,
    /// The names in it that are ours.
    pub(super) before: &'a Names,
    /// The swap that they were put there by, if any are.
    pub(super) was: Option<Swap>,
    /// What is in the way is replaced, whosever it is.
    pub(super) force: bool,
}

/// Whether two directories are one.
pub(crate) fn same_inode(a: &Stat, b: &Stat) -> bool {
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
