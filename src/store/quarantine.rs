//! Where bytes go that failed a check, with the reason. One place for each artifact's archive and for each version: a
//! source that is wrong again and again does not fill the disk.

use jiff::Timestamp;
use serde::Serialize;

use super::layout::{lock, own};
use super::{Staging, Store, StoreError};
use crate::fs::{self, Dir, RelPath, Rename};
use crate::intent::{ArtifactName, VersionName, error_chain};

/// Why something is in quarantine; stands beside it as `reason.json`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// Which check failed.
    pub check: String,
    /// What it found, with its causes.
    pub error: String,
    /// When.
    pub at: Timestamp,
}

impl Reason {
    /// The reason that an error gives, its chain of sources included.
    pub fn new(check: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        Self { check: check.into(), error: error_chain(error), at: Timestamp::now() }
    }
}

impl Store {
    /// Puts an artifact's staged download aside; the one put aside before goes.
    pub fn quarantine_download(
        &self,
        artifact: &ArtifactName,
        staging: &Staging,
        reason: &Reason,
    ) -> Result<(), StoreError> {
        if staging.dir().stat(&Staging::part_name())?.is_some() {
            let place = self.fresh_place(artifact, &own(".download"), reason)?;
            staging.dir().rename(&Staging::part_name(), &place, &own("archive"), Rename::Replace)?;
            place.sync()?;
        }
        staging.discard_tree()?;
        Ok(staging.discard_download()?)
    }

    /// Takes a published version out of service and keeps it aside with the reason.
    pub fn quarantine_version(
        &self,
        artifact: &ArtifactName,
        version: &VersionName,
        reason: &Reason,
    ) -> Result<(), StoreError> {
        self.unlink_current_if(artifact, version)?;
        self.quarantine_dir(artifact, version, reason)?;
        self.forget(artifact, version);
        lock(&self.manifests).remove(&(artifact.clone(), version.clone()));
        Ok(())
    }

    pub(super) fn quarantine_dir(
        &self,
        artifact: &ArtifactName,
        version: &VersionName,
        reason: &Reason,
    ) -> fs::Result<()> {
        let place = self.fresh_place(artifact, &version.as_component(), reason)?;
        let parent = self.versions.open_dir(&artifact.as_component())?;
        parent.rename(&version.as_component(), &place, &own("version"), Rename::NoReplace)?;
        parent.sync()?;
        place.sync()
    }

    /// `quarantine/<artifact>/<name>/` with nothing but the reason in it.
    fn fresh_place(&self, artifact: &ArtifactName, name: &RelPath, reason: &Reason) -> fs::Result<Dir> {
        let parent = self.quarantine.ensure_dir(&artifact.as_component(), 0o700)?;
        parent.remove_tree(name)?;
        parent.make_dir(name, 0o700)?;
        let place = parent.open_dir(name)?;
        let json = serde_json::to_vec_pretty(reason)
            .unwrap_or_else(|e| unreachable!("three plain fields always serialise: {e}"));
        place.write_atomic(&own("reason.json"), &json, 0o600)?;
        parent.sync()?;
        self.quarantine.sync()?;
        Ok(place)
    }
}
