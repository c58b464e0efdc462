//! Where a target stands, and how a finished tree takes its place in one step.

use rustix::io::Errno;

use super::SeedError;
use super::record::Records;
use super::retired::Retired;
use super::standing::{Empty, Seed, Standing, kind_words};
use super::target::{Grounds, is_leftover};
use crate::fs::{self, Dir, Kind, Meta, RelPath, Rename, Stat};
use crate::intent::Digest;

/// Names longer than this are cut in temporary names.
const LONGEST: usize = 160;

/// The directory that holds a target, and the target's name in it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) parent: Dir,
    name: RelPath,
    /// Below `seed.root`.
    target: RelPath,
}

impl Place {
    /// Goes to the target's parent, made where it is missing (mode 0755), through directories only.
    pub(super) fn reach(root: &Dir, store: &Dir, grounds: &Grounds, target: &RelPath) -> Result<Self, SeedError> {
        let store = store.stat_self()?.stamp;
        let mut parent = root.clone();
        let components: Vec<RelPath> = target
            .components()
            .map(|name| RelPath::parse(name).unwrap_or_else(|e| unreachable!("a component of a checked path: {e}")))
            .collect();
        let Some((name, above)) = components.split_last() else { unreachable!("a path has a component") };
        for component in above {
            parent = enter(&parent, component)?;
            // The store may be seen here through another mount, which no comparison of names tells.
            let stamp = parent.stat_self()?.stamp;
            if (stamp.dev, stamp.ino) == (store.dev, store.ino) {
                return Err(grounds.in_store(target).into());
            }
        }
        if let Some(stat) = parent.stat(name)?
            && (stat.stamp.dev, stat.stamp.ino) == (store.dev, store.ino)
        {
            return Err(grounds.in_store(target).into());
        }
        Ok(Self { parent, name: name.clone(), target: target.clone() })
    }

    /// Where the target is, for messages.
    pub(super) fn path(&self) -> std::path::PathBuf {
        self.parent.path_of(&self.name)
    }

    /// What stands there.
    pub(super) fn look(&self, records: &Records) -> Result<Standing, SeedError> {
        let Some(stat) = self.parent.stat(&self.name)? else { return Ok(Standing::Nothing) };
        if stat.kind != Kind::Dir {
            return Ok(Standing::Foreign(stat, Empty::No));
        }
        let dir = self.parent.open_dir(&self.name)?;
        let stat = dir.stat_self()?;
        match records.mark_of(&dir, &self.target)? {
            Some(mark) => Ok(Standing::Ours(Box::new(Seed { dir, stat, mark }))),
            None if dir.entries()?.is_empty() => Ok(Standing::Foreign(stat, Empty::Yes)),
            None => Ok(Standing::Foreign(stat, Empty::No)),
        }
    }

    /// What the temporary names of this target are made of. A long name is cut, and told from others by its digest.
    fn stem(&self) -> RelPath {
        let name = self.name.as_bytes();
        if name.len() <= LONGEST {
            return self.name.clone();
        }
        let stem = [&name[..LONGEST - 17], b"-", Digest::sha256(name).short(16).as_bytes()].concat();
        RelPath::parse(stem).unwrap_or_else(|e| unreachable!("a shortened component is one: {e}"))
    }

    /// A directory of its own beside the target, for what is being made.
    pub(super) fn beside(&self) -> Result<(RelPath, Dir), SeedError> {
        let name = self.parent.temporary_name(&self.stem())?;
        self.parent.make_dir(&name, 0o700)?;
        let dir = self.parent.open_dir(&name)?;
        Ok((name, dir))
    }

    /// Removes what earlier tries left beside the target.
    pub(super) fn clear_leftovers(&self, retired: &Retired) -> Result<(), SeedError> {
        let prefix = Dir::temporary_prefix(&self.stem());
        for entry in self.parent.entries()? {
            if is_leftover(entry.name.as_bytes(), &prefix) && !retired.holds(&entry.name) {
                tracing::info!(path = %self.parent.path_of(&entry.name).display(), "leftover of an interrupted seed removed");
                self.parent.remove_tree(&entry.name)?;
            }
        }
        Ok(())
    }

    /// Removes a directory that was made beside the target. A failure is only told: the next seed clears it.
    pub(super) fn discard(&self, name: &RelPath) {
        if let Err(error) = self.parent.remove_tree(name) {
            tracing::warn!(%error, "temporary directory of a seed left behind");
        }
    }

    /// Removes what stands at `name` if it is `dir`, whatever the swap that failed has done.
    pub(super) fn discard_if(&self, name: &RelPath, dir: &Dir) {
        let inode = |stat: &Stat| (stat.stamp.dev, stat.stamp.ino);
        if let (Ok(Some(found)), Ok(own)) = (self.parent.stat(name), dir.stat_self())
            && inode(&found) == inode(&own)
        {
            self.discard(name);
        }
    }

    /// Puts the finished tree `new` where nothing stands.
    pub(super) fn create(&self, new: &RelPath) -> Result<(), SeedError> {
        match self.parent.rename(new, &self.parent, &self.name, Rename::NoReplace) {
            Ok(()) => Ok(self.parent.sync()?),
            Err(e) if e.is_exists() => Err(SeedError::NotOurs { target: self.path(), what: "something new" }),
            Err(e) => Err(self.refusal(e)),
        }
    }

    /// Puts the finished tree `new` in the place of what was seen there, which then stands at `new`.
    pub(super) fn exchange(&self, new: &RelPath, seen: &Stat) -> Result<(), SeedError> {
        let swap = || self.parent.rename(new, &self.parent, &self.name, Rename::Exchange);
        swap().map_err(|e| self.refusal(e))?;
        let out = self.parent.stat(new)?.map(|stat| (stat.stamp.dev, stat.stamp.ino));
        if out != Some((seen.stamp.dev, seen.stamp.ino)) {
            // Somebody put another thing there after it was looked at.
            swap()?;
            return Err(SeedError::NotOurs { target: self.path(), what: "something new" });
        }
        Ok(self.parent.sync()?)
    }

    fn refusal(&self, source: fs::Error) -> SeedError {
        match source.errno().map(Errno::from_raw_os_error) {
            Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                SeedError::ExchangeNotSupported { target: self.path(), source }
            }
            Some(Errno::BUSY) => SeedError::MountPoint { target: self.path(), source },
            _ => source.into(),
        }
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
