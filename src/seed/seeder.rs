//! Seeds one target: what is there is checked, what is wrong is mended, what is old is swapped whole.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde::{Deserialize, Serialize};

use super::{Record, TargetError};
use crate::fs::{LinkMode, RelPath};
use crate::intent::{ArtifactName, Digest, Link, Swap, VersionName};
use crate::store::{Store, Version};

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Directory below `seed.root`.
    pub target: RelPath,
    /// How files get there.
    pub link: Link,
    /// How a new version takes the old one's place.
    pub swap: Swap,
    /// Replace a target that seedcache did not make.
    pub force: bool,
}

/// What was done; the answer that people and machines get.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seeded {
    /// Which artifact.
    pub artifact: ArtifactName,
    /// Which version.
    pub version: VersionName,
    /// SHA-256 of its archive.
    pub digest: Digest,
    /// The target, from the root of the daemon's file system.
    pub target: String,
    /// How the files got there.
    pub mode: LinkMode,
    /// Why not by a better way; absent when it is the best, or the one asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Regular files in the tree.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Anything was written; false when all was there as it should be.
    pub changed: bool,
    /// Entries written.
    pub written: u64,
    /// How long it took.
    pub elapsed_ms: u64,
}

/// How far a seed is.
#[derive(Debug, Default)]
pub struct SeedProgress {
    /// Entries done.
    pub entries: AtomicU64,
    /// Entries in all.
    pub total_entries: AtomicU64,
    /// Bytes done.
    pub bytes: AtomicU64,
}

/// Why a target was not seeded; what was there before is there still.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] crate::fs::Error),
}

/// Seeds targets below `seed.root`; one for the node.
#[derive(Debug)]
pub struct Seeder {}

impl Seeder {
    /// Opens `root`, made where it is missing, and the records in the store.
    pub fn open(_root: &Path, _store: Arc<Store>) -> Result<Self, SeedError> {
        unimplemented!()
    }

    /// Where targets are, for messages.
    pub fn root(&self) -> &Path {
        unimplemented!()
    }

    /// A target given by people: absolute and below `seed.root`, or relative to it.
    pub fn target(&self, _given: &str) -> Result<RelPath, TargetError> {
        unimplemented!()
    }

    /// Makes the target hold the version. Two who ask for one target at once wait for each other.
    pub fn seed(&self, _version: &Version, _request: &Request, _progress: &SeedProgress) -> Result<Seeded, SeedError> {
        unimplemented!()
    }

    /// What has been seeded where, as far as is known.
    pub fn records(&self) -> Vec<Record> {
        unimplemented!()
    }
}
