//! What stands at a target, by looking.

use std::ops::ControlFlow;

use super::SeedError;
use super::mark::Marks;
use super::owned::{DATA, Head, is_tree};
use super::place::component;
use super::standing::{Empty, Form, Seed, Standing};
use super::target::is_reserved;
use crate::fs::{Dir, Kind, RelPath};
use crate::intent::Swap;

/// What the directory `dir`, which stands at a target, is.
pub(super) fn look_in(dir: Dir, marks: &dyn Marks) -> Result<Standing, SeedError> {
    let stat = dir.stat_self()?;
    let Some(head) = Head::of(&dir)? else {
        let form = Form { stat, swap: Swap::Exchange };
        return Ok(match marks.of(&dir)? {
            Some(mark) => Standing::Ours(Box::new(Seed { dir: dir.clone(), target: dir, form, mark })),
            None if is_empty(&dir)? => Standing::Foreign(stat, Empty::Yes),
            None => Standing::Foreign(stat, Empty::No),
        });
    };
    let form = Form { stat, swap: head.swap };
    let tree = match head.swap {
        Swap::Symlink => current_tree(&dir)?.map(|name| dir.open_dir(&name)).transpose()?,
        _ => Some(dir.clone()),
    };
    let Some(tree) = tree.filter(|_| head.whole) else { return Ok(Standing::Torn(form)) };
    Ok(match marks.of(&tree)? {
        Some(mark) => Standing::Ours(Box::new(Seed { dir: tree, target: dir, form, mark })),
        None => Standing::Torn(form),
    })
}

/// The name of the tree that `..data` points to, where both are there.
pub(super) fn current_tree(target: &Dir) -> Result<Option<RelPath>, SeedError> {
    let data = component(DATA);
    if target.stat(&data)?.is_none_or(|stat| stat.kind != Kind::Symlink) {
        return Ok(None);
    }
    let Ok(name) = RelPath::parse(target.read_link(&data)?) else { return Ok(None) };
    let there = is_tree(name.as_bytes()) && target.stat(&name)?.is_some_and(|stat| stat.kind == Kind::Dir);
    Ok(there.then_some(name))
}

/// Whether there is nothing in it but what its file system or seedcache made.
fn is_empty(dir: &Dir) -> Result<bool, SeedError> {
    let counts = |name: &[u8]| name != b"lost+found" && !is_reserved(name);
    let mut empty = true;
    dir.each_entry(|entry| {
        empty = !counts(entry.name.as_bytes());
        if empty { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(empty)
}
