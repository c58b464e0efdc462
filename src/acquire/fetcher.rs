//! The fetch pipeline put together: resolve and acquire.

use tokio_util::sync::CancellationToken;

use super::{Progress, Resolution, ResolveError};
use crate::intent::{Artifact, Digest, FetchSettings, VersionName, VersionWish};
use crate::store::{Entry, ResolvedFrom, Staging};

/// Fetches artifacts; one for the node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Fetcher {}

/// A version as it lies in staging, verified: `staging.dir()/version/tree`, and the archive in `archive.part`.
#[derive(Debug)]
pub struct Acquired {
    /// Its name.
    pub version: VersionName,
    /// SHA-256 of the archive.
    pub digest: Digest,
    /// Bytes of the archive.
    pub size: u64,
    /// Demanded digests that matched.
    pub verified_by: Vec<Digest>,
    /// Where the bytes came from, without secrets.
    pub source_url: String,
    /// What the source said.
    pub resolved_from: ResolvedFrom,
    /// The tree, sorted by path.
    pub entries: Vec<Entry>,
}

/// Why the HTTP client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {}

/// Why bytes did not become a verified version.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {}

impl AcquireError {
    /// Trying again later may help: the network or the origin was at fault, not what the bytes are.
    pub fn is_transient(&self) -> bool {
        unimplemented!()
    }

    /// The staged archive failed a check and should be put into quarantine with this error as the reason.
    pub fn is_bad_content(&self) -> bool {
        unimplemented!()
    }

    /// How long the origin asked to be left alone.
    pub fn retry_after(&self) -> Option<std::time::Duration> {
        unimplemented!()
    }

    /// The disk is full.
    pub fn is_no_space(&self) -> bool {
        unimplemented!()
    }
}

impl Fetcher {
    /// Builds the HTTP client: custom CAs, proxies from the environment, no total time-out.
    pub fn new(_settings: &FetchSettings) -> Result<Self, ClientError> {
        unimplemented!()
    }

    /// Asks the source what `wish` is now.
    pub async fn resolve(
        &self,
        _artifact: &Artifact,
        _wish: &VersionWish,
        _cancel: &CancellationToken,
    ) -> Result<Resolution, ResolveError> {
        unimplemented!()
    }

    /// Fetches, verifies and unpacks what was resolved into `staging`. On an error the half-made tree is gone; the part
    /// stays only where resuming can help.
    pub async fn acquire(
        &self,
        _artifact: &Artifact,
        _resolution: &Resolution,
        _staging: &Staging,
        _progress: &std::sync::Arc<Progress>,
        _cancel: &CancellationToken,
    ) -> Result<Acquired, AcquireError> {
        unimplemented!()
    }
}
