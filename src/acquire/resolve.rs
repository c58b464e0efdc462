//! `latest`, or an exact version, to a version name, digests to demand and places to fetch from.

use std::path::PathBuf;

use reqwest::Url;

use crate::intent::{Digest, VersionName};
use crate::store::{ManifestHead, ResolvedFrom};

/// What a source says is to be had.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolution {
    /// How the version is called.
    pub naming: Naming,
    /// Where its bytes are: the source itself, then mirrors.
    pub locations: Vec<Location>,
    /// Digests that the archive must have, all of them.
    pub demanded: Vec<Digest>,
    /// What the source said, to be recorded.
    pub resolved_from: ResolvedFrom,
    /// The name of a single file (`unpack.format: none`), told by the source.
    pub file_name: String,
}

/// How the version is called.
#[derive(Debug, Clone, PartialEq)]
pub enum Naming {
    /// By this name.
    Known(VersionName),
    /// By the archive's top directory, once its first entry was read; the pattern finds the name in it.
    TopDirectory {
        /// As `latest.pattern`; without one the whole name.
        pattern: Option<String>,
    },
    /// By the digest of the bytes, once they are all here: `sha256-<12 hex digits>`.
    Content,
}

/// A place to fetch from.
#[derive(Debug, Clone, PartialEq)]
pub enum Location {
    /// An HTTP or HTTPS address.
    Http(Url),
    /// A file on the node.
    File(PathBuf),
}

impl Resolution {
    /// The version's name, where it is known before the bytes are.
    pub fn version(&self) -> Option<&VersionName> {
        match &self.naming {
            Naming::Known(version) => Some(version),
            Naming::TopDirectory { .. } | Naming::Content => None,
        }
    }

    /// Whether a version on the node is what this resolution would fetch, as far as can be told without fetching:
    /// the same name, or for a name not known yet the same demanded digest or validators.
    pub fn names(&self, head: &ManifestHead) -> bool {
        self.version() == Some(&head.version)
    }
}

/// Why a source could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {}

impl ResolveError {
    /// Trying again later may help.
    pub fn is_transient(&self) -> bool {
        unimplemented!()
    }
    /// How long the origin asked to be left alone.
    pub fn retry_after(&self) -> Option<std::time::Duration> {
        unimplemented!()
    }
}
