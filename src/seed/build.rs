//! A version's whole tree made in a directory that nobody sees yet.

use super::entry::{Maker, own_name};
use super::tree::{Directory, Layout, walk};
use super::unread::read_large;
use super::{Next, Rung, SeedError, next_rung};
use crate::fs::{self, Dir, Meta, fail_point};
use crate::intent::Link;
use crate::store::Entry;

/// Directories are the maker's own until their content is there.
pub(super) const FILLING: u32 = 0o700;
/// Mode of the target directory itself.
pub(super) const TOP_MODE: u32 = 0o755;

/// A directory of the store, and that of the target which becomes like it.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) from: Dir,
    pub(super) to: Dir,
}

impl Pair {
    /// The pair of a directory directly below this one.
    pub(super) fn below(&self, entry: &Entry) -> Result<Self, SeedError> {
        let name = own_name(entry);
        Ok(Self { from: self.from.open_dir(&name)?, to: self.to.open_dir(&name)? })
    }

    /// The pair of the directory that holds an entry, from that of the tree's top.
    pub(super) fn holding(&self, entry: &Entry) -> Result<Self, SeedError> {
        match entry.path.parent() {
            Some(parent) => Ok(Self { from: self.from.open_dir(&parent)?, to: self.to.open_dir(&parent)? }),
            None => Ok(self.clone()),
        }
    }
}

/// Fills the empty directory `top.to`.
pub(super) fn build(maker: &Maker, layout: &Layout, top: &Pair) -> Result<(), SeedError> {
    read_large(maker.version, layout);
    walk(layout, top.clone(), &|directory, above: &Pair| fill(maker, layout, directory, above))?;
    for entry in &layout.links {
        link(maker, entry, top)?;
        maker.count_written();
        maker.count_done();
    }
    // The others are finished already; children first, since a finished parent may not let anyone in.
    for directory in layout.directories.iter().rev() {
        if let Some(entry) = directory.entry.filter(|entry| is_late(directory, entry)) {
            top.to.open_dir(&entry.path)?.apply_meta(&maker.meta(entry))?;
        }
    }
    Ok(top.to.apply_meta(&Meta { mode: TOP_MODE, owner: None, mtime: top.to.stat_self()?.mtime })?)
}

/// Whether a directory gets its metadata only when the whole tree is there.
fn is_late(directory: &Directory, entry: &Entry) -> bool {
    directory.links || entry.mode & FILLING != FILLING
}

fn fill<'a>(maker: &Maker, layout: &Layout<'a>, directory: &Directory<'a>, above: &Pair) -> Result<Pair, SeedError> {
    let here = match directory.entry {
        Some(entry) => above.below(entry)?,
        None => above.clone(),
    };
    // Made here rather than on their own turn: with all its names there, this directory can have its times.
    for entry in directory.below.iter().filter_map(|&below| layout.directories[below].entry) {
        here.to.make_dir(&own_name(entry), FILLING)?;
    }
    for entry in &directory.leaves {
        fail_point("seed.build.before-entry");
        maker.leaf(entry, &here.from, &here.to, &own_name(entry))?;
        fail_point("seed.build.after-entry");
        maker.count_written();
        maker.count_done();
    }
    if let Some(entry) = directory.entry {
        if !is_late(directory, entry) {
            here.to.apply_meta(&maker.meta(entry))?;
        }
        maker.count_written();
        maker.count_done();
    }
    Ok(here)
}

/// A further name of a file of the same tree, in whatever mode that came.
fn link(maker: &Maker, entry: &Entry, top: &Pair) -> Result<(), SeedError> {
    let first = maker.first_name(entry)?;
    let Err(failure) = fs::hard_link(&top.to, &first, &top.to, &entry.path) else { return Ok(()) };
    match next_rung(&Rung::resumed(Link::Auto, fs::LinkMode::Hardlink), &failure) {
        // Better a file of its own than none.
        Next::CopyOne(why) => {
            let parent = top.holding(entry)?;
            maker.copy_alone(entry, &parent.from, &parent.to, &own_name(entry), why)
        }
        _ => Err(fs::Error::new("link to", &top.to.path_of(&entry.path), failure).into()),
    }
}
