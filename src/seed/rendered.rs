//! Rendered files beside a tree's own entries: made with the tree, and compared and replaced one by one in a tree that
//! stands. What the tree itself holds is never replaced.

use std::io::Write as _;

use super::SeedError;
use super::place::component;
use super::renderer::Rendered;
use super::staged::{Scratch, Staged};
use super::standing::kind_words;
use crate::fs::{self, Dir, Kind, Meta, RelPath, Rename, fail_point};
use crate::store::{Entry, EntryType};

/// Without these its owner cannot work in a directory.
const WORKABLE: u32 = 0o700;

/// Refuses files that would stand where the tree has an entry. `entries` are sorted by path.
pub(super) fn check(files: &[Rendered], entries: &[Entry]) -> Result<(), SeedError> {
    let clash = |file: &Rendered, entry: &Entry| {
        Err(SeedError::RenderedTaken { path: file.path.clone(), entry: entry.path.clone() })
    };
    for file in files {
        // What lies in a directory of that name sorts directly after it.
        let at = entries.partition_point(|entry| entry.path < file.path);
        if let Some(entry) = entries.get(at).filter(|entry| entry.path.starts_with(&file.path)) {
            return clash(file, entry);
        }
        for above in above(&file.path) {
            if let Some(entry) = entry_at(entries, &above).filter(|entry| entry.kind != EntryType::Dir) {
                return clash(file, entry);
            }
        }
    }
    Ok(())
}

fn entry_at<'e>(entries: &'e [Entry], path: &RelPath) -> Option<&'e Entry> {
    entries.binary_search_by(|entry| entry.path.cmp(path)).ok().map(|at| &entries[at])
}

/// The directories that a path leads through, the nearest first.
fn above(path: &RelPath) -> impl Iterator<Item = RelPath> {
    std::iter::successors(path.parent(), RelPath::parent)
}

/// Puts the files into a tree that nobody sees yet.
pub(super) fn build(top: &Dir, files: &[Rendered]) -> Result<u64, SeedError> {
    for file in files {
        let dir = holding(top, &file.path)?;
        fail_point("seed.rendered.before-write");
        among(&dir, || write(&dir, &component(file.path.file_name()), file))?;
        fail_point("seed.rendered.after-write");
    }
    Ok(files.len() as u64)
}

/// Makes the files of a tree that stands as they should be, and removes those of `before` that are not wanted any more.
/// Returns how many were written or removed.
pub(super) fn mend(
    top: &Dir,
    scratch: &Scratch,
    files: &[Rendered],
    before: &[RelPath],
    entries: &[Entry],
) -> Result<u64, SeedError> {
    let mut written = 0;
    for path in before.iter().filter(|path| !files.iter().any(|file| file.path == **path)) {
        written += u64::from(remove(top, path, entries)?);
    }
    let mut staged = None;
    let replaced = files.iter().try_for_each(|file| {
        written += u64::from(replace(top, scratch, &mut staged, file)?);
        Ok(())
    });
    staged.iter().for_each(Staged::discard);
    replaced.map(|()| written)
}

fn replace(top: &Dir, scratch: &Scratch, staged: &mut Option<Staged>, file: &Rendered) -> Result<bool, SeedError> {
    let dir = holding(top, &file.path)?;
    let name = component(file.path.file_name());
    let found = dir.stat(&name)?;
    if let Some(stat) = found.filter(|stat| stat.kind == Kind::Dir) {
        return Err(SeedError::RenderedBlocked { path: dir.path_of(&name), what: kind_words(stat.kind) });
    }
    let size = file.content.len() as u64;
    if let Some(stat) = found
        && (stat.kind, stat.mode, stat.stamp.size) == (Kind::File, file.mode, size)
        && dir.read(&name, size)? == file.content
    {
        return Ok(false);
    }
    let staged = match staged {
        Some(staged) => staged,
        none => none.insert(scratch.stage()?),
    };
    write(staged.dir(), &name, file)?;
    fail_point("seed.rendered.before-rename");
    among(&dir, || staged.dir().rename(&name, &dir, &name, Rename::Replace))?;
    fail_point("seed.rendered.after-rename");
    Ok(true)
}

/// Removes what was rendered, and the directories that were made for it alone: also those that an end in between left.
fn remove(top: &Dir, path: &RelPath, entries: &[Entry]) -> Result<bool, SeedError> {
    if entry_at(entries, path).is_some() {
        return Ok(false);
    }
    let mut removed = false;
    if let Some(parent) = directory(top, path.parent())? {
        let name = component(path.file_name());
        if parent.stat(&name)?.is_some_and(|stat| stat.kind == Kind::File) {
            fail_point("seed.rendered.before-removal");
            among(&parent, || parent.remove_file(&name))?;
            fail_point("seed.rendered.after-removal");
            removed = true;
        }
    }
    for made in above(path).take_while(|dir| entry_at(entries, dir).is_none()) {
        let Some(holder) = directory(top, made.parent())? else { continue };
        let name = component(made.file_name());
        if holder.stat(&name)?.is_some() && !among(&holder, || holder.remove_empty_dir(&name))? {
            break;
        }
    }
    Ok(removed)
}

/// A directory of the tree, where it is there.
fn directory(top: &Dir, path: Option<RelPath>) -> fs::Result<Option<Dir>> {
    match path.map_or_else(|| Ok(top.clone()), |path| top.open_dir(&path)) {
        Err(error) if error.is_not_found() => Ok(None),
        opened => opened.map(Some),
    }
}

/// The directory that a file goes into, made where it is missing.
fn holding(top: &Dir, path: &RelPath) -> Result<Dir, SeedError> {
    let Some(parent) = path.parent() else { return Ok(top.clone()) };
    let mut dir = top.clone();
    for name in parent.components().map(component) {
        match dir.stat(&name)? {
            Some(stat) if stat.kind != Kind::Dir => {
                return Err(SeedError::RenderedBlocked { path: dir.path_of(&name), what: kind_words(stat.kind) });
            }
            Some(_) => dir = dir.open_dir(&name)?,
            None => {
                among(&dir, || dir.make_dir(&name, 0o755))?;
                dir = dir.open_dir(&name)?;
                // The mask of the process may have taken rights that pods need to get through.
                dir.apply_meta(&Meta { mode: 0o755, owner: None, mtime: dir.stat_self()?.mtime })?;
            }
        }
    }
    Ok(dir)
}

/// Changes names in a directory, whose rights and time are the tree's and stay as they are.
fn among<T>(dir: &Dir, change: impl FnOnce() -> fs::Result<T>) -> fs::Result<T> {
    let before = dir.stat_self()?;
    let meta = Meta { mode: before.mode, owner: None, mtime: before.mtime };
    if before.mode & WORKABLE != WORKABLE {
        dir.apply_meta(&Meta { mode: before.mode | WORKABLE, ..meta })?;
    }
    let changed = change();
    dir.apply_meta(&meta)?;
    changed
}

fn write(dir: &Dir, name: &RelPath, file: &Rendered) -> fs::Result<()> {
    let path = dir.path_of(name);
    // Nobody else reads it before its rights are set.
    let mut handle = dir.create_file(name, 0o600)?;
    handle.write_all(&file.content).map_err(|e| fs::Error::new("write", &path, e))?;
    let mtime = Dir::stat_file(&handle, &path)?.mtime;
    fs::apply_meta(&handle, &path, &Meta { mode: file.mode, owner: None, mtime })
}
