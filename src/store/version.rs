//! One published version, opened for reading.

use std::fs::File;
use std::io::BufReader;
use std::sync::Arc;

use super::layout::{lock, own};
use super::opening::{Dirs, Lease};
use super::scan::current_version;
use super::sound::Soundness;
use super::{Manifest, ManifestError, ManifestHead, Store, StoreError};
use crate::fs::{self, Dir, Kind, fail_point};
use crate::intent::{ArtifactName, VersionName, error_chain};

/// A version held open: as long as it is, its bytes stay, whatever collection decides.
#[derive(Debug, Clone)]
pub struct Version {
    head: Arc<ManifestHead>,
    dir: Dir,
    tree: Dir,
    pub(super) soundness: Arc<Soundness>,
    _lease: Arc<Lease>,
}

impl Version {
    /// What it is.
    pub fn head(&self) -> &Arc<ManifestHead> {
        &self.head
    }

    /// Its tree.
    pub fn tree(&self) -> &Dir {
        &self.tree
    }

    /// The same without a hold on its bytes: it may be removed meanwhile.
    pub(super) fn not_held(self) -> Self {
        Self { _lease: Arc::default(), ..self }
    }

    /// Whether both are one directory: not one published anew since.
    #[cfg(test)]
    pub(super) fn is_same(&self, other: &Self) -> crate::fs::Result<bool> {
        self.is_at(&other.dir)
    }

    /// Whether this is its directory.
    pub(super) fn is_at(&self, dir: &Dir) -> crate::fs::Result<bool> {
        Ok(inode(&self.dir)? == inode(dir)?)
    }

    /// The manifest file as it stands on disk.
    pub fn manifest_file(&self) -> fs::Result<File> {
        self.dir.open_file(&own("manifest.json"))
    }

    /// The bytes as downloaded; `None` when they were not kept.
    pub fn archive(&self) -> Result<Option<File>, StoreError> {
        if !self.head.archive.kept {
            return Ok(None);
        }
        Ok(Some(self.dir.open_file(&own("archive"))?))
    }
}

/// Opens the version among those of its artifact.
pub(super) fn dirs_of(parent: &Dir, version: &VersionName) -> crate::fs::Result<Dirs> {
    let dir = parent.open_dir(&version.as_component())?;
    let tree = dir.open_dir(&own("tree"))?;
    Ok((dir, tree))
}

/// Which directory it is.
fn inode(dir: &Dir) -> crate::fs::Result<(u64, u64)> {
    dir.stat_self().map(|stat| (stat.stamp.dev, stat.stamp.ino))
}

/// Whether two openings of a version are of the same directories; not where that cannot be told.
fn are_same(a: &Dirs, b: &Dirs) -> bool {
    let inodes = |(dir, tree): &Dirs| inode(dir).ok().zip(inode(tree).ok());
    inodes(a).is_some_and(|a| inodes(b) == Some(a))
}

impl Store {
    /// Opens a published version.
    pub fn open_version(&self, artifact: &ArtifactName, version: &VersionName) -> Result<Version, StoreError> {
        let absent = || StoreError::NoVersion { artifact: artifact.clone(), version: version.clone() };
        // The lease first: a version collected between the two steps is not found, never half read.
        let key = (artifact.clone(), version.clone());
        let grant = self.lease(&key).ok_or_else(absent)?;
        let head = self.head(artifact, version).ok_or_else(absent)?;
        let held = |(dir, tree): Dirs| {
            let _lease = grant.lease.clone();
            Version { head: head.clone(), dir, tree, soundness: self.soundness.clone(), _lease }
        };
        if let Some(dirs) = grant.dirs.clone().filter(|_| grant.is_replaced) {
            return match self.is_granted(&key, &grant) {
                true => Ok(held(dirs)),
                false => self.open_version(artifact, version),
            };
        }
        let parent = self.versions.open_dir(&artifact.as_component());
        match parent.and_then(|parent| dirs_of(&parent, version)) {
            // What was moved away behind the store's back is not what is kept open.
            Ok(dirs)
                if grant.dirs.as_ref().is_some_and(|kept| are_same(kept, &dirs)) && self.is_granted(&key, &grant) =>
            {
                Ok(held(dirs))
            }
            Ok(dirs) if self.keep_open(&key, &grant, &dirs) => Ok(held(dirs)),
            // Replaced meanwhile: what was opened may be the new one, whose readers share another lease.
            Ok(_) => self.open_version(artifact, version),
            Err(e) if e.is_not_found() => {
                self.forget_vanished(&head);
                Err(absent())
            }
            Err(e) => Err(e.into()),
        }
    }

    /// A version and its manifest where both were just used, so that no disk need be asked for them.
    pub fn version_at_once(&self, artifact: &ArtifactName, version: &VersionName) -> Option<(Version, Arc<Manifest>)> {
        let key = (artifact.clone(), version.clone());
        let grant = self.lease(&key)?;
        let head = self.head(artifact, version)?;
        let (dir, tree) = grant.dirs.clone().filter(|_| self.is_granted(&key, &grant))?;
        let version = Version { head, dir, tree, soundness: self.soundness.clone(), _lease: grant.lease };
        let manifest = self.known_manifest(&version)?;
        Some((version, manifest))
    }

    fn known_manifest(&self, version: &Version) -> Option<Arc<Manifest>> {
        let key = (version.head.artifact.clone(), version.head.version.clone());
        let manifest = lock(&self.manifests).get(&key).and_then(std::sync::Weak::upgrade)?;
        (manifest.head == *version.head).then_some(manifest)
    }

    /// The manifest of an open version, checked; shared among those who hold it at the same time. A version whose manifest is
    /// no good is reported as damaged.
    pub fn manifest(&self, version: &Version) -> Result<Arc<Manifest>, StoreError> {
        self.checked_manifest(version).inspect_err(|error| {
            if matches!(error, StoreError::Manifest { .. }) {
                version.report(error_chain(error));
            }
        })
    }

    /// The same for who is asked whether it is damaged.
    pub(super) fn checked_manifest(&self, version: &Version) -> Result<Arc<Manifest>, StoreError> {
        let key = (version.head.artifact.clone(), version.head.version.clone());
        if let Some(manifest) = self.known_manifest(version) {
            return Ok(manifest);
        }
        let _reading = lock(&self.reading);
        if let Some(manifest) = self.known_manifest(version) {
            return Ok(manifest);
        }
        let manifest = Arc::new(read_manifest(version)?);
        let mut manifests = lock(&self.manifests);
        manifests.retain(|_, manifest| manifest.strong_count() > 0);
        manifests.insert(key, Arc::downgrade(&manifest));
        Ok(manifest)
    }

    /// Drops a version whose directory is gone, unless the store took it away itself: then nothing is wrong, and what bears
    /// its name by now is another's.
    pub(super) fn forget_vanished(&self, head: &Arc<ManifestHead>) {
        let (artifact, version) = (&head.artifact, &head.version);
        let _alone = lock(&self.switching);
        if self.forget_if(artifact, version, |known| Arc::ptr_eq(known, head)) {
            tracing::error!(%artifact, %version, "version directory vanished from the store");
        }
    }

    /// Drops a version from the inventory and the index; what is on disk stays.
    pub(super) fn forget(&self, artifact: &ArtifactName, version: &VersionName) {
        self.forget_if(artifact, version, |_| true);
    }

    /// The same if it `is_it`; whether it was. No other one gets that name in between.
    fn forget_if(
        &self,
        artifact: &ArtifactName,
        version: &VersionName,
        is_it: impl FnOnce(&Arc<ManifestHead>) -> bool,
    ) -> bool {
        self.change_inventory(|inventory| {
            let Some(holding) = inventory.get_mut(artifact) else { return false };
            if !holding.versions.get(version).is_some_and(is_it) {
                return false;
            }
            self.index.remove(artifact, version);
            self.close(artifact, version);
            holding.versions.remove(version);
            if holding.current.as_ref() == Some(version) {
                holding.current = None;
            }
            if holding.versions.is_empty() {
                inventory.remove(artifact);
            }
            true
        })
    }

    /// Takes a published version away if it `may_go`, which is asked while no lease is granted and nothing is switched; whether
    /// it went. Readers that have it open keep its bytes until they are done.
    pub fn remove_version(
        &self,
        artifact: &ArtifactName,
        version: &VersionName,
        may_go: impl FnOnce() -> bool,
    ) -> Result<bool, StoreError> {
        let granting = lock(&self.timed_leases.granting);
        let gone = self.hide_version(artifact, version, may_go)?;
        // Removing the bytes takes its time: nobody who wants a lease waits for that.
        drop(granting);
        self.tidy();
        Ok(gone)
    }

    /// Takes it out of sight, if it may go: that is asked while nothing is switched. Its bytes go with the next sweep.
    fn hide_version(
        &self,
        artifact: &ArtifactName,
        version: &VersionName,
        may_go: impl FnOnce() -> bool,
    ) -> Result<bool, StoreError> {
        let _alone = lock(&self.switching);
        if self.head(artifact, version).is_none() {
            return Err(StoreError::NoVersion { artifact: artifact.clone(), version: version.clone() });
        }
        if !may_go() {
            return Ok(false);
        }
        // Where it is still there it can be opened again.
        self.move_out_of_sight(artifact, version).inspect_err(|_| self.reopen(&(artifact.clone(), version.clone())))?;
        Ok(true)
    }

    fn move_out_of_sight(&self, artifact: &ArtifactName, version: &VersionName) -> Result<(), StoreError> {
        self.unlink_current_if(artifact, version)?;
        let dir = self.versions.open_dir(&artifact.as_component())?;
        let readers = || {
            let readers = self.close(artifact, version);
            // Before anything else can fail: it cannot be opened any more.
            self.forget(artifact, version);
            readers
        };
        Ok(self.drain(&dir, &version.as_component(), readers)?)
    }

    /// Removes `current/<artifact>` where it points at `version`: it must never dangle.
    pub(super) fn unlink_current_if(&self, artifact: &ArtifactName, version: &VersionName) -> Result<(), StoreError> {
        let known = self.holding(artifact).current;
        if known.as_ref().is_some_and(|current| current != version) {
            return Ok(());
        }
        let name = artifact.as_component();
        match self.current.stat(&name)? {
            None => {}
            // What somebody made in its place leads to no version.
            Some(stat) if stat.kind != Kind::Symlink => {
                self.note_current(artifact, None);
                return Ok(());
            }
            Some(_) => {
                // Where none is known to be current it may lead to one that was left out at the start.
                let leads_to = current_version(artifact, &self.current.read_link(&name)?);
                if known.is_none() && leads_to.is_some_and(|other| other != *version) {
                    return Ok(());
                }
            }
        }
        fail_point("store.current.before-unlink");
        match self.current.remove_file(&name) {
            Err(e) if !e.is_not_found() => return Err(e.into()),
            // Known at once: whatever fails from here on, the planner switches to what is left.
            _ => self.note_current(artifact, None),
        }
        self.current.sync()?;
        fail_point("store.current.after-unlink");
        Ok(())
    }
}

/// The disk's fault, or a want of this machine, is no word on the bytes, but where it comes again.
fn read_manifest(version: &Version) -> Result<Manifest, StoreError> {
    let read = || match version.manifest_file() {
        Ok(file) => Manifest::read(BufReader::with_capacity(128 * 1024, file)),
        Err(error) if error.is_not_found() => Err(ManifestError::Truncated),
        Err(error) => Err(ManifestError::Read(error.into())),
    };
    let manifest = match read() {
        Err(ManifestError::Read(_)) => read(),
        other => other,
    };
    manifest.map_err(|source| match source {
        ManifestError::Read(source) if fs::is_passing(&source) => {
            StoreError::Fs(fs::Error::new("read", &version.dir.path_of(&own("manifest.json")), source))
        }
        source => StoreError::Manifest {
            artifact: version.head.artifact.clone(),
            version: version.head.version.clone(),
            source,
        },
    })
}
