//! What is published, as plain data: what reconcile plans from.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ManifestHead;
use crate::intent::{ArtifactName, VersionName};

/// Everything published on the node, by artifact.
pub type Inventory = BTreeMap<ArtifactName, Holding>;

/// The versions of one artifact.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Holding {
    /// Every published version.
    pub versions: BTreeMap<VersionName, Arc<ManifestHead>>,
    /// Where `current/<artifact>` points; always a key of `versions`.
    pub current: Option<VersionName>,
}

impl Holding {
    /// The versions, newest first: by the time they were published, then by name.
    pub fn newest_first(&self) -> Vec<&Arc<ManifestHead>> {
        let mut heads: Vec<_> = self.versions.values().collect();
        heads.sort_by(|a, b| (b.published_at, &b.version).cmp(&(a.published_at, &a.version)));
        heads
    }
}
