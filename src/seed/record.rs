//! What a target holds: on the target itself (`user.seedcache`), and all of them in `seeds.json`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fs::{LinkMode, RelPath};
use crate::intent::{ArtifactName, Digest, VersionName};

/// What one target holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Below `seed.root`.
    pub target: RelPath,
    /// Which artifact.
    pub artifact: ArtifactName,
    /// Which version.
    pub version: VersionName,
    /// Digest of the tree that was put there.
    pub tree_digest: Digest,
    /// How the files got there.
    pub mode: LinkMode,
    /// Why not by a better way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When.
    pub at: Timestamp,
}
