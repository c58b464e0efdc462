//! Why a seed was not done. What stood at the target before stands there still, unless only its removal failed.

use std::io;
use std::path::PathBuf;

use super::{RenderError, TargetError, Why};
use crate::fs::{self, LinkMode, RelPath};
use crate::intent::{ArtifactName, VersionName};
use crate::store::StoreError;

/// Why a target was not seeded; what was there before is there still. Of a client it may also be that the new tree stands, and
/// the one before could not be removed for the disk's sake: the next seed clears it.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] fs::Error),
    /// The version cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The target is not one to seed.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Its files cannot be rendered.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// A rendered file where the version has an entry.
    #[error("{path} cannot be rendered: the version itself has {entry} there; render to another path")]
    RenderedTaken {
        /// The rendered file.
        path: RelPath,
        /// The entry of the version's tree.
        entry: RelPath,
    },
    /// Something of others where a rendered file, or a directory for it, is to be.
    #[error("{} is {what}, where a rendered file is to be; move it away, or render to another path", path.display())]
    RenderedBlocked {
        /// What stands there.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// `seed.root` lies in the store.
    #[error(
        "seed.root ({}) lies in the store ({}), which only seedcache writes; set seed.root to a directory outside it",
        root.display(), store.display()
    )]
    RootInStore {
        /// `seed.root`.
        root: PathBuf,
        /// `store.root`.
        store: PathBuf,
    },
    /// Something else stands there.
    #[error("{} is {what} that seedcache did not make; seed with --force to replace it, or choose another target", target.display())]
    NotOurs {
        /// The target.
        target: PathBuf,
        /// What stands there.
        what: &'static str,
    },
    /// A component of its path is no directory.
    #[error(
        "{} is {what} on the way to the target, and seedcache goes through directories only; give the path of the \
         directory itself",
        path.display()
    )]
    InTheWay {
        /// The component.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A directory on record that cannot be opened.
    #[error("{} cannot be reached by its file handle; have the pod seed it again", target.display())]
    Unreachable {
        /// Where its pod had it.
        target: PathBuf,
        /// Why.
        #[source]
        source: fs::HandleError,
    },
    /// A seed above or below it.
    #[error(
        "{target} and {other}, which is seeded already, lie one in the other, and each would replace what the other \
         holds; choose another target, or remove {other} first"
    )]
    Nested {
        /// The target.
        target: RelPath,
        /// The seed that is there.
        other: RelPath,
    },
    /// Another seed of the same place goes on and on.
    #[error("{target} is still being seeded by another request after {seconds} s; ask again later")]
    Busy {
        /// The target.
        target: RelPath,
        /// How long this one waited.
        seconds: u64,
    },
    /// Another client works there on and on.
    #[error("{} is still being seeded by another client after {seconds} s; ask again later", target.display())]
    Locked {
        /// The target.
        target: PathBuf,
        /// How long this one waited.
        seconds: u64,
    },
    /// Too many targets.
    #[error("{most} targets are seeded on this node, which is the most that are kept; remove some that are not needed")]
    TooMany {
        /// The most.
        most: usize,
    },
    /// More names in a target, or in its list, than are kept in mind.
    #[error(
        "{} holds more names than a swap in place can keep in mind, or .seedcache-owned in it lists as many; remove what is not \
         the seed's, or remove the target and seed it again",
        target.display()
    )]
    TooManyNames {
        /// The target.
        target: PathBuf,
    },
    /// Something of others where an entry of the tree, or the whole target, is to be.
    #[error(
        "{} was not put there by seedcache, and the seed would replace it; move it away, or seed with --force to replace it",
        path.display()
    )]
    Clash {
        /// What stands there.
        path: PathBuf,
    },
    /// The tree has an entry by a name that the swap needs for itself.
    #[error(
        "{} has a name that seedcache keeps for itself in a target; seed with swap `exchange`, or leave it out of the tree",
        path.display()
    )]
    NameKept {
        /// The entry.
        path: PathBuf,
    },
    /// The mode asked for does not work here.
    #[error("a {} was demanded but does not work here: {why}; ask for `auto`, which falls back and says why", mode.words())]
    LinkRefused {
        /// The mode.
        mode: LinkMode,
        /// Why it does not work.
        why: Why,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A file of the store cannot be judged: somebody links, unlinks or renames it all the time.
    #[error(
        "{path} of {artifact}@{version} changes its names all the time, so that it cannot be judged; end what does that to \
         a hard-linked seed, or ask again"
    )]
    Unsettled {
        /// The artifact.
        artifact: ArtifactName,
        /// The version.
        version: VersionName,
        /// The file.
        path: RelPath,
    },
    /// The store's bytes were changed behind its back.
    #[error(
        "{path} of {artifact}@{version} is damaged in the store: {what}; the version goes into quarantine and is fetched \
         again: ask again in a while"
    )]
    StoreDamaged {
        /// The artifact.
        artifact: ArtifactName,
        /// The version.
        version: VersionName,
        /// The entry.
        path: RelPath,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The file system has no exchange.
    #[error(
        "the file system of {} cannot swap directories in one step; choose a target on ext4, XFS, btrfs or tmpfs",
        target.display()
    )]
    ExchangeNotSupported {
        /// The target.
        target: PathBuf,
        /// The system's reason.
        #[source]
        source: fs::Error,
    },
    /// Something is mounted there.
    #[error("{} is a mount point, which cannot be exchanged; seed with swap `inPlace` or `symlink`, or choose a directory below it", target.display())]
    MountPoint {
        /// The target.
        target: PathBuf,
        /// The system's reason.
        #[source]
        source: fs::Error,
    },
    /// The disk is full.
    #[error("no room to seed {}; free space there, or ask for a reflink or hard link instead of a copy", target.display())]
    NoSpace {
        /// The target.
        target: PathBuf,
        /// The system's reason.
        #[source]
        source: fs::Error,
    },
}

impl SeedError {
    /// The same may go well later without anybody's help.
    pub fn may_pass(&self) -> bool {
        match self {
            // Others come of what the owner of the target did there.
            SeedError::Fs(error) => error.is_of_disk(),
            SeedError::Render(RenderError::Value { source, .. }) => source.is_of_disk(),
            SeedError::Store(_)
            | SeedError::NoSpace { .. }
            | SeedError::Busy { .. }
            | SeedError::Locked { .. }
            | SeedError::Unsettled { .. }
            | SeedError::StoreDamaged { .. } => true,
            _ => false,
        }
    }

    /// A full disk told as what it means for the target.
    pub(super) fn at(self, target: PathBuf) -> Self {
        match self {
            SeedError::Fs(source) if source.is_no_space() => SeedError::NoSpace { target, source },
            other => other,
        }
    }
}
