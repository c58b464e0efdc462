//! The head of a version for tests, which change what they care about.
#![allow(clippy::unwrap_used)]

use jiff::Timestamp;

use super::{Archive, ManifestHead, ResolvedFrom};
use crate::intent::Digest;

impl ManifestHead {
    /// Its digests are of the version's name.
    pub(crate) fn sample(artifact: &str, version: &str) -> Self {
        let digest = Digest::sha256(version.as_bytes());
        Self {
            format: 1,
            artifact: artifact.parse().unwrap(),
            version: version.parse().unwrap(),
            source_url: format!("https://origin.invalid/{artifact}.tgz"),
            archive: Archive { digest: digest.clone(), size: 1, verified_by: vec![], weak: true, kept: false },
            resolved_from: ResolvedFrom::default(),
            published_at: Timestamp::UNIX_EPOCH,
            recipe: digest.clone(),
            tree_digest: digest,
            bytes: 1,
            files: 1,
        }
    }
}
