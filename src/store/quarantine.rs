//! Where bytes go that failed a check, with the reason. One place for each artifact's archive and for each version: a
//! source that is wrong again and again does not fill the disk.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::Serialize;

use super::layout::{lock, own};
use super::{ManifestHead, Staging, Store, StoreError, Version};
use crate::fs::{self, Dir, Kind, RelPath, Rename, fail_point};
use crate::intent::{ArtifactName, VersionName, error_chain};

/// Bytes of `repair.json`.
const REPAIR_LIMIT: u64 = 1 << 20;

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
            fail_point("store.quarantine.before-archive");
            staging.dir().rename(&Staging::part_name(), &place, &own("archive"), Rename::Replace)?;
            self.sizes.forget();
            fail_point("store.quarantine.after-archive");
            place.sync()?;
            self.tidy();
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
        let alone = lock(&self.switching);
        self.put_aside(artifact, version, reason)?;
        drop(alone);
        // May take long: nobody who switches waits for it.
        self.tidy();
        Ok(())
    }

    /// The same for a version found damaged while it was open; `false` when that very directory is out of service
    /// already, by whoever found it too. Then all is `noted`, before anybody can switch to another one or find it so.
    pub fn quarantine_damaged(
        &self,
        version: &Version,
        reason: &Reason,
        noted: impl FnOnce(),
    ) -> Result<bool, StoreError> {
        let (artifact, name) = (&version.head().artifact, &version.head().version);
        // Nothing else comes there between the look and the step.
        let alone = lock(&self.switching);
        let parent = self.versions.open_dir(&artifact.as_component());
        match parent.and_then(|parent| parent.open_dir(&name.as_component())) {
            Ok(dir) if self.head(artifact, name).is_some() && version.is_at(&dir)? => {}
            Ok(_) => return Ok(false),
            Err(e) if e.is_not_found() => {
                drop(alone);
                self.forget_vanished(version.head());
                return Ok(false);
            }
            Err(e) => return Err(e.into()),
        }
        self.put_aside(artifact, name, reason)?;
        noted();
        drop(alone);
        // May take long.
        self.tidy();
        Ok(true)
    }

    /// The step itself, while nothing is switched. Its readers keep its bytes.
    fn put_aside(&self, artifact: &ArtifactName, version: &VersionName, reason: &Reason) -> Result<(), StoreError> {
        let head = self.head(artifact, version);
        // What needs room comes first: on a full disk what is current stays so.
        let place = self.place_of_version(artifact, version, reason, head.as_deref())?;
        self.unlink_current_if(artifact, version)?;
        self.move_aside(artifact, version, &place)?;
        self.quarantine_readers.put(artifact, version, self.close(artifact, version));
        self.forget(artifact, version);
        lock(&self.manifests).remove(&(artifact.clone(), version.clone()));
        Ok(())
    }

    /// Versions in quarantine that are still to be had again, over restarts. What cannot be looked at there is told of, and
    /// passed over: what the store serves does not wait for it.
    pub fn pending_repairs(&self) -> Vec<ManifestHead> {
        let mut pending = Vec::new();
        for artifact in dirs(self.sizes.entries(&self.quarantine)) {
            let Some(dir) = self.looked_at(self.quarantine.open_dir(&artifact.name)) else { continue };
            for place in dirs(self.sizes.entries(&dir)) {
                pending.extend(
                    self.looked_at(dir.open_dir(&place.name).and_then(|place| pending_repair(&place))).flatten(),
                );
            }
        }
        pending
    }

    fn looked_at<T>(&self, found: fs::Result<T>) -> Option<T> {
        found.inspect_err(|error| self.sizes.passed_over(error)).ok()
    }

    /// Notes that a version in quarantine is on the node again, seeds and all, or need not be, if that `is_so`: this is asked
    /// while nothing else is put there. Whether it was.
    pub fn repaired(&self, head: &ManifestHead, is_so: impl FnOnce() -> bool) -> fs::Result<bool> {
        let _alone = lock(&self.switching);
        if !is_so() {
            return Ok(false);
        }
        let parent = self.quarantine.open_dir(&head.artifact.as_component());
        let place = match parent.and_then(|parent| parent.open_dir(&head.version.as_component())) {
            // Somebody has cleared it away.
            Err(error) if error.is_not_found() => return Ok(true),
            place => place?,
        };
        fail_point("store.quarantine.before-repaired");
        place.remove_tree(&own("repair.json"))?;
        fail_point("store.quarantine.after-repaired");
        place.sync()?;
        Ok(true)
    }

    /// Removes the bytes of a version in quarantine that is on the node again, if that `is_so`; that it is still to be mended
    /// stays noted, and the reason is `here` from then on.
    pub fn let_go_of_damaged(&self, head: &ManifestHead, is_so: impl FnOnce() -> bool) -> fs::Result<()> {
        let alone = lock(&self.switching);
        let (artifact, name) = (head.artifact.as_component(), head.version.as_component());
        let place = match self.quarantine.open_dir(&artifact).and_then(|parent| parent.open_dir(&name)) {
            Err(error) if error.is_not_found() => return Ok(()),
            place => place?,
        };
        if !is_so() || place.stat(&own("version"))?.is_none() {
            return Ok(());
        }
        // Nothing new is made: there may be no room, which this is to make.
        if place.stat(&own("here"))?.is_none() {
            place.rename(&own("reason.json"), &place, &own("here"), Rename::Replace)?;
            place.sync()?;
        }
        fail_point("store.quarantine.after-here");
        self.drain(&place, &own("version"), || self.quarantine_readers.take(&artifact, &name))?;
        drop(alone);
        self.tidy();
        Ok(())
    }

    /// Where the archive of a version in quarantine is, if it was kept.
    pub fn quarantined_archive(&self, head: &ManifestHead) -> fs::Result<Option<PathBuf>> {
        let place = || {
            let parent = self.quarantine.open_dir(&head.artifact.as_component())?;
            parent.open_dir(&head.version.as_component())?.open_dir(&own("version"))
        };
        match place() {
            Ok(place) => Ok(place.stat(&own("archive"))?.map(|_| place.path_of(&own("archive")))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts a directory aside that does not say which version it is. With the `head` that the index knows of it, it is to be
    /// had again.
    pub(super) fn quarantine_dir(
        &self,
        artifact: &ArtifactName,
        version: &VersionName,
        reason: &Reason,
        head: Option<&ManifestHead>,
    ) -> fs::Result<()> {
        let place = self.place_of_version(artifact, version, reason, head)?;
        self.move_aside(artifact, version, &place)
    }

    /// Where it goes, with the `head` of a version that is to be had again.
    fn place_of_version(
        &self,
        artifact: &ArtifactName,
        version: &VersionName,
        reason: &Reason,
        head: Option<&ManifestHead>,
    ) -> fs::Result<Dir> {
        let place = self.fresh_place(artifact, &version.as_component(), reason)?;
        if let Some(head) = head {
            let json = serde_json::to_vec_pretty(head)
                .unwrap_or_else(|e| unreachable!("plain fields with text keys always serialise: {e}"));
            place.write_atomic(&own("repair.json"), &json, 0o600)?;
            fail_point("store.quarantine.after-head");
        }
        Ok(place)
    }

    fn move_aside(&self, artifact: &ArtifactName, version: &VersionName, place: &Dir) -> fs::Result<()> {
        let parent = self.versions.open_dir(&artifact.as_component())?;
        fail_point("store.quarantine.before-version");
        parent.rename(&version.as_component(), place, &own("version"), Rename::NoReplace)?;
        self.sizes.forget();
        fail_point("store.quarantine.after-version");
        // It is out of service. Should a power loss bring it back, it is found damaged again.
        if let Err(error) = parent.sync().and_then(|()| place.sync()) {
            tracing::warn!(%artifact, %version, error = error_chain(&error), "quarantine not synced");
        }
        Ok(())
    }

    /// `quarantine/<artifact>/<name>/` with nothing but the reason in it. What stood there waits to be removed.
    fn fresh_place(&self, artifact: &ArtifactName, name: &RelPath, reason: &Reason) -> fs::Result<Dir> {
        let parent = self.quarantine.ensure_dir(&artifact.as_component(), 0o700)?;
        fail_point("store.quarantine.before-place");
        if parent.stat(name)?.is_some() {
            self.drain(&parent, name, || self.quarantine_readers.take(&artifact.as_component(), name))?;
        }
        fail_point("store.quarantine.after-clearing");
        parent.make_dir(name, 0o700)?;
        fail_point("store.quarantine.after-place");
        let place = parent.open_dir(name)?;
        let json = serde_json::to_vec_pretty(reason)
            .unwrap_or_else(|e| unreachable!("three plain fields always serialise: {e}"));
        place.write_atomic(&own("reason.json"), &json, 0o600)?;
        fail_point("store.quarantine.after-reason");
        parent.sync()?;
        self.quarantine.sync()?;
        Ok(place)
    }
}

fn dirs(entries: Vec<fs::DirEntry>) -> impl Iterator<Item = fs::DirEntry> {
    entries.into_iter().filter(|entry| entry.kind == Kind::Dir)
}

/// What `place` says is to be had again.
fn pending_repair(place: &Dir) -> fs::Result<Option<ManifestHead>> {
    // Without the version it never got here, and is found again where it is; unless it was let go of.
    if place.stat(&own("version"))?.is_none() && place.stat(&own("here"))?.is_none() {
        return Ok(None);
    }
    match place.read(&own("repair.json"), REPAIR_LIMIT) {
        Ok(json) => Ok(serde_json::from_slice(&json).ok()),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
