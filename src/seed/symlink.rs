//! The swap behind a symlink, as mounted ConfigMaps have it: the tree lies in `..<version>-<random>` in the target,
//! `..data` points there, each top-level name is a symlink through `..data`. One rename over `..data` switches them
//! all. The tree before stays until the next swap, for those who are on the way through it.

use super::SeedError;
use super::in_place::Clashes;
use super::look::current_tree;
use super::mark::FILE;
use super::owned::{DATA, Head, Names, is_tree};
use super::place::{Inside, component};
use super::staged::{Scratch, Settled, Staged, SwappedOut};
use super::target::is_reserved;
use crate::fs::{self, Dir, Kind, Meta, RelPath, Rename, fail_point};
use crate::intent::{Swap, VersionName};

/// A name for a tree of `version`.
pub(super) fn tree_name(version: &VersionName) -> RelPath {
    let random: String = std::iter::repeat_with(fastrand::alphanumeric).take(12).collect();
    component(format!("..{version}-{random}").as_bytes())
}

/// The text of the link to a top-level name.
fn through_data(name: &RelPath) -> Vec<u8> {
    [DATA, b"/", name.as_bytes()].concat()
}

/// The names at the top of a tree.
fn top_names(tree: &Dir) -> Result<Names, SeedError> {
    let mut names = Names::default();
    for entry in tree.entries()? {
        if entry.name.as_bytes() == FILE {
            continue;
        }
        if entry.name.as_bytes().starts_with(b"..") || is_reserved(entry.name.as_bytes()) {
            return Err(SeedError::NameKept { path: tree.path_of(&entry.name) });
        }
        names.files.insert(entry.name);
    }
    Ok(names)
}

/// Makes a finished tree, which lies in the staged directory, a target that nobody sees yet.
pub(super) fn arrange(staged: &Staged) -> Result<(), SeedError> {
    let top = &staged.top;
    let Some(tree) = top.entries()?.into_iter().map(|entry| entry.name).find(|name| is_tree(name.as_bytes())) else {
        return Err(SeedError::NotOurs { target: top.path().into(), what: "a directory without its tree" });
    };
    let names = top_names(&staged.dir)?;
    fail_point("seed.symlink.before-arranging");
    for name in &names.files {
        top.symlink(&through_data(name), name)?;
    }
    top.symlink(tree.as_bytes(), &component(DATA))?;
    Head::new(top, Swap::Symlink, true, None)?.write(top, &names)?;
    fail_point("seed.symlink.after-arranging");
    Ok(top.apply_meta(&Meta { mode: 0o755, owner: None, mtime: top.stat_self()?.mtime })?)
}

/// Puts the finished tree into a standing directory.
pub(super) fn settle(inside: &Inside, staged: Staged, version: &VersionName) -> Result<Settled, SeedError> {
    let &Inside { target, before, was, force } = inside;
    let names = top_names(&staged.dir)?;
    let data = component(DATA);
    if was != Some(Swap::Symlink) && target.stat(&data)?.is_some() && !force {
        return Err(SeedError::Clash { path: target.path_of(&data) });
    }
    let Standing { missing, real } = sort(target, &names, before, force)?;
    let earlier = Head::of(target)?.and_then(|head| head.previous);
    let previous = current_tree(target)?;
    fail_point("seed.symlink.before-list");
    Head::new(target, Swap::Symlink, false, previous.clone())?.write_both(target, before, &names)?;
    fail_point("seed.symlink.after-list");

    let tree = tree_name(version);
    staged.held_in.rename(&staged.name, target, &tree, Rename::NoReplace)?;
    fail_point("seed.symlink.after-tree");
    for name in missing {
        target.symlink(&through_data(name), name)?;
    }
    fail_point("seed.symlink.before-data");
    target.switch_symlink(tree.as_bytes(), &data)?;
    target.sync()?;
    fail_point("seed.symlink.after-data");

    // From here on readers find the new tree: what stood at a name itself gives way to a link through `..data`.
    let mut old = Vec::new();
    if !real.is_empty() {
        let scratch = Scratch::within(target).stage()?;
        for name in real {
            scratch.dir.symlink(&through_data(name), name)?;
            fail_point("seed.symlink.before-name");
            scratch.dir.rename(name, target, name, Rename::Exchange)?;
            fail_point("seed.symlink.after-name");
        }
        old.push(scratch.swapped_out());
    }
    before.remove_all_but(&names, target)?;
    remove_stale(target, &names)?;
    fail_point("seed.symlink.after-removal");
    Head::new(target, Swap::Symlink, true, previous.clone())?.write(target, &names)?;
    fail_point("seed.symlink.after-whole");
    if let Some(name) = earlier.filter(|earlier| Some(earlier) != previous.as_ref() && is_tree(earlier.as_bytes())) {
        old.push(SwappedOut { held_in: target.clone(), name, by_name: true });
    }
    Ok(Settled { dir: target.open_dir(&tree)?, old })
}

/// What stands where links are to be.
struct Standing<'n> {
    missing: Vec<&'n RelPath>,
    /// Files and directories themselves.
    real: Vec<&'n RelPath>,
}

fn sort<'n>(target: &Dir, names: &'n Names, before: &Names, force: bool) -> Result<Standing<'n>, SeedError> {
    let clashes = Clashes { before, force };
    let (mut missing, mut real) = (Vec::new(), Vec::new());
    for name in &names.files {
        match target.stat(name)? {
            None => missing.push(name),
            Some(_) if is_link(target, name)? => {}
            Some(found) => {
                clashes.replace(target, name, name, found.kind)?;
                real.push(name);
            }
        }
    }
    Ok(Standing { missing, real })
}

fn is_link(target: &Dir, name: &RelPath) -> fs::Result<bool> {
    let Some(stat) = target.stat(name)? else { return Ok(false) };
    Ok(stat.kind == Kind::Symlink && target.read_link(name)? == through_data(name))
}

/// Removes links to names that the tree does not have. How many there were.
fn remove_stale(target: &Dir, names: &Names) -> Result<u64, SeedError> {
    let mut removed = 0;
    target.try_each_entry(|entry| {
        if entry.kind == Kind::Symlink && !names.files.contains(&entry.name) && is_link(target, &entry.name)? {
            target.remove_file(&entry.name)?;
            removed += 1;
        }
        Ok::<_, SeedError>(())
    })?;
    Ok(removed)
}

/// Sees that each name at the top of the tree has its link in the target, and no other. How many were not so.
pub(super) fn mend(target: &Dir, tree: &Dir) -> Result<u64, SeedError> {
    let names = top_names(tree)?;
    let mut changed = remove_stale(target, &names)?;
    for name in &names.files {
        if is_link(target, name)? {
            continue;
        }
        match target.stat(name)? {
            None => target.symlink(&through_data(name), name)?,
            Some(stat) if stat.kind == Kind::Dir => return Err(SeedError::Clash { path: target.path_of(name) }),
            Some(_) => target.switch_symlink(&through_data(name), name).and_then(|()| target.sync())?,
        }
        changed += 1;
    }
    if changed > 0
        && let Some(head) = Head::of(target)?
    {
        head.write(target, &names)?;
    }
    Ok(changed)
}

/// Removes what made a directory a target of this swap, and names its trees for removal.
pub(super) fn dismantle(target: &Dir) -> Result<Vec<SwappedOut>, SeedError> {
    if current_tree(target)?.is_some() {
        fail_point("seed.symlink.before-dismantling");
        target.remove_file(&component(DATA))?;
        fail_point("seed.symlink.after-dismantling");
    }
    let trees = target.entries()?.into_iter().filter(|entry| entry.kind == Kind::Dir && is_tree(entry.name.as_bytes()));
    Ok(trees.map(|entry| SwappedOut { held_in: target.clone(), name: entry.name, by_name: true }).collect())
}
