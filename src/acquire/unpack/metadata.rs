//! The metadata that entries are given on disk, and what the file system makes of them.

use std::fs::File;

use jiff::Timestamp;

use super::tree::Node;
use crate::fs::{self, Dir, Meta, RelPath, Stat, apply_meta};
use crate::intent::Unpack;
use crate::store::EntryType;

/// Bits of a mode that the disk has: published trees cannot be written.
pub(super) const ON_DISK: u32 = 0o7555;

/// Who owns what is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ownership {
    /// Only root gives files away.
    pub(super) change: bool,
    /// It may read what its owner may not.
    root: bool,
    /// The document's word.
    fixed: Option<(u32, u32)>,
    /// Who owns what this process makes here.
    own: (u32, u32),
    /// Who was found to own the first file made: then the others are that one's, too, since directories are given away
    /// only once all they hold is there.
    made: Option<(u32, u32)>,
}

impl Ownership {
    pub(super) fn new(recipe: &Unpack, tree: &Dir) -> fs::Result<Self> {
        let top = tree.stat_self()?;
        // The set-group-id bit of a directory gives its group to what is made in it.
        let group = if top.mode & 0o2000 == 0 { rustix::process::getegid().as_raw() } else { top.gid };
        let user = rustix::process::geteuid();
        let fixed = recipe.owner.map(|owner| (owner.uid, owner.gid));
        Ok(Self { root: user.is_root(), change: fs::may_give_away(), fixed, own: (user.as_raw(), group), made: None })
    }

    /// Whether what has this kind and mode can be read by the one who owns it here.
    pub(super) fn can_read(&self, kind: EntryType, mode: u32) -> bool {
        let needed = match kind {
            EntryType::Dir => 0o500,
            EntryType::File => 0o400,
            EntryType::Symlink | EntryType::Hardlink => 0,
        };
        self.root || mode & needed == needed
    }

    /// The owner on disk of what the archive gives to `archived`, or says nothing about.
    pub(super) fn of(&self, archived: Option<(u32, u32)>) -> (u32, u32) {
        if self.change { self.fixed.or(archived).unwrap_or(self.own) } else { self.own }
    }

    /// Gives a file just made its metadata, its owner only where that is another one than it has; and says which time it
    /// has then.
    pub(super) fn finish(&mut self, file: &File, path: &RelPath, node: &Node) -> fs::Result<Timestamp> {
        let mut meta = meta(node, *self);
        if meta.owner.is_some() {
            let made = match self.made {
                Some(made) => made,
                None => {
                    let stat = Dir::stat_file(file, path.as_path())?;
                    *self.made.insert((stat.uid, stat.gid))
                }
            };
            meta.owner = meta.owner.filter(|owner| *owner != made);
        }
        apply_meta(file, path.as_path(), &meta)?;
        kept(node.mtime, || Dir::stat_file(file, path.as_path()).map(Some))
    }
}

pub(super) fn meta(node: &Node, owners: Ownership) -> Meta {
    let owner = owners.change.then_some(node.owner);
    Meta { mode: node.mode & ON_DISK, owner, mtime: seconds_and_nanos(node.mtime) }
}

/// The time that an entry has which was given this one, so that the manifest says what is there: not every file system
/// has fractions of a second, none has every year, and all take what they have not silently.
pub(super) fn kept(given: Timestamp, stat: impl FnOnce() -> fs::Result<Option<Stat>>) -> fs::Result<Timestamp> {
    // What all of them have.
    if given.subsec_nanosecond() == 0 && (0..=i64::from(i32::MAX)).contains(&given.as_second()) {
        return Ok(given);
    }
    Ok(stat()?.and_then(|stat| stat.mtime_timestamp()).unwrap_or(given))
}

/// As the system counts: the nanoseconds go forward, before the epoch too.
pub(super) fn seconds_and_nanos(time: Timestamp) -> (i64, u32) {
    match (time.as_second(), time.subsec_nanosecond()) {
        (seconds, nanos @ 0..) => (seconds, nanos.unsigned_abs()),
        (seconds, nanos) => (seconds - 1, 1_000_000_000 - nanos.unsigned_abs()),
    }
}
