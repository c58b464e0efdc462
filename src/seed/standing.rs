//! What stands at a target, and what is to be done about it: a pure decision.

use super::mark::Mark;
use crate::fs::{Dir, Kind, LinkMode, Stat};
use crate::intent::Link;
use crate::store::ManifestHead;

/// What stands at a target.
#[derive(Debug)]
pub(super) enum Standing {
    /// Nothing.
    Nothing,
    /// A directory that seedcache made.
    Ours(Box<Seed>),
    /// Something else.
    Foreign(Stat, Empty),
}

/// A directory that seedcache made.
#[derive(Debug)]
pub(super) struct Seed {
    pub(super) dir: Dir,
    pub(super) stat: Stat,
    pub(super) mark: Mark,
}

/// Whether a directory that is not ours holds anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Empty {
    Yes,
    No,
}

/// What to do about it.
#[derive(Debug)]
pub(super) enum Step {
    /// Hold it against the manifest and mend it.
    Mend(Box<Seed>),
    /// Build the tree and put it where nothing is.
    Create,
    /// Build the tree and swap it with what is there, whose inode this is.
    Exchange(Stat),
    /// Leave it: it is this.
    Refuse(&'static str),
}

/// What to do about `standing` so that the target holds the version. `device` is the store's.
pub(super) fn decide(standing: Standing, head: &ManifestHead, asked: Link, force: bool, device: u64) -> Step {
    match standing {
        Standing::Nothing => Step::Create,
        Standing::Foreign(stat, _) if force => Step::Exchange(stat),
        Standing::Foreign(stat, empty) => Step::Refuse(words(stat.kind, empty)),
        Standing::Ours(seed) => {
            let linkable = seed.mark.mode != LinkMode::Hardlink || seed.stat.stamp.dev == device;
            if seed.mark.holds(head) && satisfies(seed.mark.mode, asked) && linkable {
                Step::Mend(seed)
            } else {
                Step::Exchange(seed.stat)
            }
        }
    }
}

/// Whether a tree made by `mode` is what `asked` wants.
fn satisfies(mode: LinkMode, asked: Link) -> bool {
    match asked {
        Link::Auto => true,
        Link::Reflink => mode == LinkMode::Reflink,
        Link::Hardlink => mode == LinkMode::Hardlink,
        Link::Copy => mode == LinkMode::Copy,
    }
}

fn words(kind: Kind, empty: Empty) -> &'static str {
    match (kind, empty) {
        (Kind::Dir, Empty::Yes) => "an empty directory",
        (Kind::Dir, Empty::No) => "a directory",
        (kind, _) => kind_words(kind),
    }
}

/// As people say it.
pub(super) fn kind_words(kind: Kind) -> &'static str {
    match kind {
        Kind::Dir => "a directory",
        Kind::File => "a file",
        Kind::Symlink => "a symlink",
        Kind::Other => "a device, fifo or socket",
    }
}
