//! What stands at a target, and what is to be done about it: a pure decision.

use super::mark::{Mark, Wanted};
use crate::fs::{Dir, Kind, LinkMode, Stat};
use crate::intent::{Link, Swap};

/// What stands at a target.
#[derive(Debug)]
pub(crate) enum Standing {
    /// Nothing.
    Nothing,
    /// A directory that seedcache made.
    Ours(Box<Seed>),
    /// Something else.
    Foreign(Stat, Empty),
}

/// A directory that seedcache made.
#[derive(Debug)]
pub(crate) struct Seed {
    /// The top of its tree.
    pub(crate) dir: Dir,
    /// Of the target itself.
    pub(super) stat: Stat,
    pub(crate) mark: Mark,
}

/// Whether a directory that is not ours holds anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Empty {
    Yes,
    No,
}

/// What to do about it.
#[derive(Debug)]
pub(crate) enum Step {
    /// Hold it against the manifest and mend it.
    Mend(Box<Seed>),
    /// Make the tree beside, and have it take its place.
    Swap(Switch),
    /// Leave it: it is this.
    Refuse(&'static str),
}

/// How a new tree takes the target.
#[derive(Debug)]
pub(crate) struct Switch {
    /// What it takes the place of.
    pub(super) seen: Option<Stat>,
}

/// What is asked of a target.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// What it is to hold.
    pub(crate) wanted: Wanted<'a>,
    pub(crate) link: Link,
    /// `None`: as is best there.
    pub(crate) swap: Option<Swap>,
    pub(crate) force: bool,
    /// The store's device, where that can be seen from here: hard links to another are none.
    pub(crate) device: Option<u64>,
    /// Something is mounted on the target itself.
    pub(crate) mount_point: bool,
}

/// What to do about `standing` so that the target holds what is wanted.
pub(crate) fn decide(standing: Standing, asked: &Asked) -> Step {
    match standing {
        Standing::Nothing => Step::Swap(Switch { seen: None }),
        Standing::Foreign(stat, _) if asked.force => Step::Swap(Switch { seen: Some(stat) }),
        Standing::Foreign(stat, empty) => Step::Refuse(words(stat.kind, empty)),
        Standing::Ours(seed) => {
            let linkable =
                seed.mark.mode != LinkMode::Hardlink || asked.device.is_none_or(|dev| seed.stat.stamp.dev == dev);
            if seed.mark.holds(asked.wanted) && satisfies(seed.mark.mode, asked.link) && linkable {
                Step::Mend(seed)
            } else {
                Step::Swap(Switch { seen: Some(seed.stat) })
            }
        }
    }
}

/// Whether a tree made by `mode` is what `asked` wants.
pub(super) fn satisfies(mode: LinkMode, asked: Link) -> bool {
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
