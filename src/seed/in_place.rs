//! The swap file by file, for a target that stays the directory it is: what is missing comes by one rename, directories
//! with all that is in them; a file takes the place of the one before by another; only when all is there does what the
//! new version no longer has go. What others put there stays.

use std::collections::BTreeSet;

use super::SeedError;
use super::mark::{FILE, Identity, Marks};
use super::owned::{Head, Names, below, make_workable};
use super::place::Inside;
use super::staged::{Settled, Staged};
use super::symlink;
use super::target::is_reserved;
use crate::fs::{self, Dir, Kind, Meta, RelPath, Rename, Stat, fail_point};
use crate::intent::Swap;

/// Whether something that stands in the way may be replaced.
pub(super) struct Clashes<'a> {
    /// What is ours.
    pub(super) before: &'a Names,
    /// Whatever it is.
    pub(super) force: bool,
}

impl Clashes<'_> {
    /// Of `name` in `dir`, at `path` in the target.
    pub(super) fn replace(&self, dir: &Dir, name: &RelPath, path: &RelPath, kind: Kind) -> Result<(), SeedError> {
        if self.force {
            return Ok(());
        }
        let stranger = if !self.before.has(path, kind) {
            Some(path.clone())
        } else if kind == Kind::Dir {
            self.before.stranger_in(&dir.open_dir(name)?, Some(path))?
        } else {
            None
        };
        match stranger {
            None => Ok(()),
            Some(stranger) => Err(SeedError::Clash { path: at(dir, name, path, &stranger) }),
        }
    }

    /// Looks at all that would be replaced by what is below `from`. Returns the directories of others that the tree
    /// shares.
    fn check(
        &self,
        from: &Dir,
        to: &Dir,
        path: Option<&RelPath>,
        shared: &mut BTreeSet<RelPath>,
    ) -> Result<(), SeedError> {
        let ours = |name: &RelPath| path.is_some() || name.as_bytes() != FILE;
        for entry in from.entries()?.into_iter().filter(|entry| ours(&entry.name)) {
            let own = below(path, &entry.name)?;
            let Some(found) = to.stat(&entry.name)? else { continue };
            if (entry.kind, found.kind) != (Kind::Dir, Kind::Dir) {
                self.replace(to, &entry.name, &own, found.kind)?;
                continue;
            }
            if !self.before.directories.contains(&own) {
                shared.insert(own.clone());
            }
            self.check(&from.open_dir(&entry.name)?, &to.open_dir(&entry.name)?, Some(&own), shared)?;
        }
        Ok(())
    }
}

/// For messages: `stranger` is `path` or below it, which is `name` in `dir`.
fn at(dir: &Dir, name: &RelPath, path: &RelPath, stranger: &RelPath) -> std::path::PathBuf {
    let rest = stranger.as_path().strip_prefix(path.as_path()).unwrap_or(stranger.as_path());
    if rest.as_os_str().is_empty() { dir.path_of(name) } else { dir.path_of(name).join(rest) }
}

fn names_of(tree: &Dir) -> Result<Names, SeedError> {
    for entry in tree.entries()? {
        if is_reserved(entry.name.as_bytes()) && entry.name.as_bytes() != FILE {
            return Err(SeedError::NameKept { path: tree.path_of(&entry.name) });
        }
    }
    Names::in_dir(tree)
}

/// Makes a finished tree a target that nobody sees yet.
pub(super) fn arrange(tree: &Dir) -> Result<(), SeedError> {
    let names = names_of(tree)?;
    fail_point("seed.in-place.before-arranging");
    Head::new(tree, Swap::InPlace, true, None)?.write(tree, &names)?;
    fail_point("seed.in-place.after-arranging");
    Ok(())
}

/// Puts what is in the finished tree into a standing directory.
pub(super) fn settle(inside: &Inside, staged: Staged, marks: &dyn Marks) -> Result<Settled, SeedError> {
    let &Inside { target, before, was, force } = inside;
    let mut names = names_of(&staged.dir)?;
    let mut shared = BTreeSet::new();
    let clashes = Clashes { before, force };
    clashes.check(&staged.dir, target, None, &mut shared)?;
    names.directories.retain(|path| !shared.contains(path));
    fail_point("seed.in-place.before-list");
    Head::new(target, Swap::InPlace, false, None)?.write_both(target, before, &names)?;
    fail_point("seed.in-place.after-list");

    let mut moving = Moving { clashes: &clashes, shared: &shared, late: Vec::new(), stranger: None };
    if let Err(error) = moving.put(&staged.dir, target, None) {
        if let Some(path) = &moving.stranger {
            // Listed as what was to come, it would be taken for ours by the next seed.
            Head::new(target, Swap::InPlace, false, None)?.write_both(target, before, &names.without(path))?;
        }
        return Err(error);
    }
    let late = moving.late;
    fail_point("seed.in-place.before-removal");
    let mut removed = before.remove_all_but(&names, target)?;
    fail_point("seed.in-place.after-removal");
    let mut old = Vec::new();
    if was.is_some() {
        old = symlink::dismantle(target)?;
        removed |= !old.is_empty();
    }
    // Children first: a finished parent may not let anyone in.
    for (path, meta) in late.iter().rev() {
        target.open_dir(path)?.apply_meta(meta)?;
    }
    if let Some(mut mark) = marks.of(&staged.dir)? {
        mark.id = Identity::of(target)?;
        fail_point("seed.in-place.before-mark");
        marks.put(target, &mark)?;
        fail_point("seed.in-place.after-mark");
    }
    if removed {
        // What is no longer listed must be gone, also after a loss of power.
        target.sync_filesystem()?;
    }
    fail_point("seed.in-place.before-whole");
    Head::new(target, Swap::InPlace, true, None)?.write(target, &names)?;
    fail_point("seed.in-place.after-whole");
    old.push(staged.swapped_out());
    Ok(Settled { dir: target.clone(), old })
}

/// A finished tree on its way into a standing directory.
struct Moving<'a> {
    clashes: &'a Clashes<'a>,
    /// Directories of others that both have.
    shared: &'a BTreeSet<RelPath>,
    /// Directories whose metadata is set when all is there, and what it shall be.
    late: Vec<(RelPath, Meta)>,
    /// What somebody put in the way after it was looked there.
    stranger: Option<RelPath>,
}

impl Moving<'_> {
    /// Moves all that is in `from` into `to`.
    fn put(&mut self, from: &Dir, to: &Dir, path: Option<&RelPath>) -> Result<(), SeedError> {
        let entries = from.entries()?;
        make_workable(from)?;
        if path.is_some_and(|path| !self.shared.contains(path)) {
            make_workable(to)?;
        }
        // The mark is put on the target for itself.
        let ours = |name: &RelPath| path.is_some() || name.as_bytes() != FILE;
        for entry in entries.into_iter().filter(|entry| ours(&entry.name)) {
            let (name, own) = (&entry.name, below(path, &entry.name)?);
            let found = to.stat(name)?.map(|stat| stat.kind);
            if (entry.kind, found) == (Kind::Dir, Some(Kind::Dir)) {
                let inner = from.open_dir(name)?;
                if !self.shared.contains(&own) {
                    self.late.push((own.clone(), meta_of(&inner.stat_self()?)));
                }
                self.put(&inner, &to.open_dir(name)?, Some(&own))?;
                continue;
            }
            if entry.kind == Kind::Dir {
                let inner = from.open_dir(name)?;
                let stat = inner.stat_self()?;
                // A directory that changes its parent is written to.
                make_workable(&inner)?;
                if inner.stat_self()?.mode != stat.mode {
                    self.late.push((own.clone(), meta_of(&stat)));
                }
            }
            self.put_one(from, to, name, &own, (entry.kind, found))?;
        }
        Ok(())
    }

    /// Moves one entry; the kinds are its own and that of what was found at its name.
    fn put_one(
        &mut self,
        from: &Dir,
        to: &Dir,
        name: &RelPath,
        own: &RelPath,
        kinds: (Kind, Option<Kind>),
    ) -> Result<(), SeedError> {
        let how = match kinds {
            (_, None) => Rename::NoReplace,
            (Kind::Dir, _) | (_, Some(Kind::Dir)) => Rename::Exchange,
            _ => Rename::Replace,
        };
        if let Some(found) = kinds.1
            && let Err(clash) = self.clashes.replace(to, name, own, found)
        {
            self.stranger = Some(own.clone());
            return Err(clash);
        }
        fail_point("seed.in-place.before-rename");
        let moved = from.rename(name, to, name, how);
        fail_point("seed.in-place.after-rename");
        match moved {
            Err(e) if e.is_exists() => {
                self.stranger = Some(own.clone());
                Err(SeedError::Clash { path: to.path_of(name) })
            }
            other => Ok(other?),
        }
    }
}

fn meta_of(stat: &Stat) -> Meta {
    let owners = fs::may_give_away();
    Meta { mode: stat.mode, owner: owners.then_some((stat.uid, stat.gid)), mtime: stat.mtime }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;

    #[test]
    fn what_came_after_the_look_stays() {
        let root = tempfile::tempdir().unwrap();
        for dir in ["from/d", "to/d"] {
            std::fs::create_dir_all(root.path().join(dir)).unwrap();
            std::fs::write(root.path().join(dir).join("file"), dir).unwrap();
        }
        let open = |name: &str| Dir::open(&root.path().join(name)).unwrap();
        let names = Names { files: BTreeSet::new(), directories: ["d".parse().unwrap()].into() };
        let shared = BTreeSet::new();
        let put = |force| {
            let clashes = Clashes { before: &names, force };
            let mut moving = Moving { clashes: &clashes, shared: &shared, late: Vec::new(), stranger: None };
            (moving.put(&open("from"), &open("to"), None), moving.stranger)
        };
        let read = || std::fs::read_to_string(root.path().join("to/d/file")).unwrap();
        let (refused, stranger) = put(false);
        assert!(matches!(refused, Err(SeedError::Clash { path }) if path.ends_with("to/d/file")));
        assert_eq!((stranger, read()), (Some("d/file".parse().unwrap()), "to/d".to_owned()));
        let (done, stranger) = put(true);
        assert!(done.is_ok());
        assert_eq!((stranger, read()), (None, "from/d".to_owned()));
    }
}
