//! How a staged version becomes visible: all of it durable, then one rename, then the directories durable
//! (invariant 1).

use std::collections::HashMap;
use std::io::{BufReader, BufWriter};
use std::sync::{Arc, Weak};

use jiff::Timestamp;

use super::layout::{lock, own};
use super::version::dirs_of;
use super::{Archive, Entry, EntryType, Manifest, ManifestHead, ResolvedFrom, Staging, Store, StoreError, tree_digest};
use crate::fs::{self, Dir, RelPath, Rename, fail_point};
use crate::intent::{ArtifactName, Digest, VersionName, error_chain};

/// Up to so many entries are synced one by one; more go by one sync of the file system, which also waits for what
/// others wrote there.
const SYNC_EACH: usize = 256;

/// A verified version in staging, about to be published.
#[derive(Debug)]
pub struct NewVersion {
    /// Which artifact.
    pub artifact: ArtifactName,
    /// Which version.
    pub version: VersionName,
    /// Where the bytes came from, without secrets.
    pub source_url: String,
    /// SHA-256 of the archive.
    pub digest: Digest,
    /// Bytes of the archive.
    pub size: u64,
    /// Demanded digests that matched.
    pub verified_by: Vec<Digest>,
    /// What the source said.
    pub resolved_from: ResolvedFrom,
    /// The recipe it was made under.
    pub recipe: Digest,
    /// Keep `archive.part` beside the tree.
    pub keep_archive: bool,
    /// The tree, sorted by path.
    pub entries: Vec<Entry>,
}

/// Why a version was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// A file operation failed; nothing became visible.
    #[error(transparent)]
    Fs(#[from] fs::Error),
    /// Reading or removing the old one failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nobody wants it any more.
    #[error("version {version} of {artifact} was given up while it was published; nothing became visible")]
    GivenUp {
        /// The artifact.
        artifact: ArtifactName,
        /// The version.
        version: VersionName,
    },
    /// The name is taken by other bytes.
    #[error(
        "the source gives other bytes for version {version} of {artifact} than the node has ({found}, here {held}); a \
         version never changes its bytes: ask the origin's owner, or remove the version to take the new bytes"
    )]
    OtherBytes {
        /// The artifact.
        artifact: ArtifactName,
        /// The version.
        version: VersionName,
        /// Digest of the archive just fetched.
        found: Digest,
        /// Digest of the one published.
        held: Digest,
    },
}

impl PublishError {
    /// The disk is full.
    pub fn is_no_space(&self) -> bool {
        match self {
            PublishError::Fs(e) | PublishError::Store(StoreError::Fs(e)) => e.is_no_space(),
            _ => false,
        }
    }
}

impl Store {
    /// Makes the staged version visible. A version of the same name and bytes that is there already is replaced in one
    /// step (it was made under another recipe, or is being repaired).
    pub fn publish(
        &self,
        staging: &Staging,
        new: NewVersion,
        now: Timestamp,
    ) -> Result<Arc<ManifestHead>, PublishError> {
        self.publish_if(staging, new, now, || true)
    }

    /// The same if it `may_come`, which is asked at last, while nothing is switched.
    pub fn publish_if(
        &self,
        staging: &Staging,
        new: NewVersion,
        now: Timestamp,
        may_come: impl FnOnce() -> bool,
    ) -> Result<Arc<ManifestHead>, PublishError> {
        let held = self.head_not_vanished(&new.artifact, &new.version)?;
        if let Some(held) = held.or_else(|| self.standing(&new.artifact, &new.version))
            && held.archive.digest != new.digest
        {
            return Err(PublishError::OtherBytes {
                artifact: new.artifact,
                version: new.version,
                found: new.digest,
                held: held.archive.digest.clone(),
            });
        }
        let staged = staging.dir().open_dir(&Staging::version_name())?;
        if new.keep_archive {
            fail_point("store.publish.before-archive");
            staging.dir().rename(&Staging::part_name(), &staged, &own("archive"), Rename::Replace)?;
            fail_point("store.publish.after-archive");
            let archive = staged.open_file(&own("archive"))?;
            archive.sync_all().map_err(|e| fs::Error::new("sync", staged.path(), e))?;
        }
        let tree = staged.open_dir(&own("tree"))?;
        let shared = self.share_content(staging, (&new.artifact, &new.version), &tree, &new.entries)?;
        if shared.files > 0 {
            tracing::info!(artifact = %new.artifact, version = %new.version, files = shared.files,
                bytes = shared.bytes, "content shared with versions on the node");
        }
        let manifest = seal(new, now);
        self.seal_files(&tree, &manifest.entries);
        fail_point("store.publish.before-sync");
        make_durable(staging.dir(), &tree, &manifest.entries)?;
        fail_point("store.publish.after-sync");
        self.soundness.learn_tree(&tree, &manifest.entries)?;
        write_manifest(&staged, &manifest)?;
        let head = self.reveal(staging, manifest, may_come)?;
        fail_point("store.publish.before-clearing");
        staging.discard_download()?;
        fail_point("store.publish.after-clearing");
        Ok(head)
    }

    /// The directory of an artifact's versions, durable. One that could not be synced goes, and is made anew by the next try:
    /// a sync that failed is not tried again.
    fn directory_of(&self, artifact: &ArtifactName) -> fs::Result<Dir> {
        let name = artifact.as_component();
        match self.versions.make_dir(&name, 0o755) {
            // Synced before the first of them was published.
            Err(e) if e.is_exists() && !self.holding(artifact).versions.is_empty() => {}
            // A daemon that was killed may have made it.
            Err(e) if !e.is_exists() => return Err(e),
            _ => self.versions.sync().inspect_err(|_| drop(self.versions.remove_empty_dir(&name)))?,
        }
        self.versions.open_dir(&name)
    }

    /// A version that is known; not one whose directory was taken away, and nobody looked since.
    fn head_not_vanished(
        &self,
        artifact: &ArtifactName,
        version: &VersionName,
    ) -> fs::Result<Option<Arc<ManifestHead>>> {
        let Some(head) = self.head(artifact, version) else { return Ok(None) };
        let found = match self.versions.open_dir(&artifact.as_component()) {
            Err(e) if e.is_not_found() => None,
            parent => parent?.stat(&version.as_component())?,
        };
        if found.is_none() {
            self.forget_vanished(&head);
        }
        Ok(found.map(|_| head))
    }

    /// A version that is on disk and was left out at the start, since it could not be read then.
    fn standing(&self, artifact: &ArtifactName, version: &VersionName) -> Option<Arc<ManifestHead>> {
        let parent = self.versions.open_dir(&artifact.as_component()).ok()?;
        let file = parent.open_dir(&version.as_component()).ok()?.open_file(&own("manifest.json")).ok()?;
        let Manifest { head, .. } = Manifest::read(BufReader::with_capacity(128 * 1024, file)).ok()?;
        (head.artifact == *artifact && head.version == *version).then(|| Arc::new(head))
    }

    /// Puts what is whole and durable in its place. Who opens a version that is being replaced meanwhile gets the one before,
    /// until the new one is durable and known.
    fn reveal(
        &self,
        staging: &Staging,
        manifest: Manifest,
        may_come: impl FnOnce() -> bool,
    ) -> Result<Arc<ManifestHead>, PublishError> {
        let head = Arc::new(manifest.head);
        let key = (head.artifact.clone(), head.version.clone());
        let (artifact, version) = (&key.0, &key.1);
        let parent = self.directory_of(artifact)?;
        // What stands there goes nowhere meanwhile, and nothing else comes there.
        let alone = lock(&self.switching);
        if !may_come() {
            return Err(PublishError::GivenUp { artifact: key.0, version: key.1 });
        }
        let from = self.make_way(staging, &parent, &key)?;
        fail_point("store.publish.before-rename");
        from.dir
            .rename(&from.name, &parent, &version.as_component(), from.how)
            .inspect_err(|_| self.give_back(staging, &key, &from))?;
        fail_point("store.publish.after-rename");
        if let Err(error) = parent.sync() {
            // Not known to be durable, it must not be seen: what stood there before stands again.
            fail_point("store.publish.before-taking-back");
            // Else who opens it gets what stood there still: that stays out of sight until the next start.
            if parent.rename(&version.as_component(), &from.dir, &from.name, from.how).is_ok() {
                self.give_back(staging, &key, &from);
            }
            fail_point("store.publish.after-taking-back");
            return Err(error.into());
        }
        fail_point("store.publish.after-durable");
        // Only for the index: a start without it reads the manifest.
        let stamp = parent.open_dir(&version.as_component()).and_then(|dir| dir.stat(&own("manifest.json")));
        let stamp = stamp.ok().flatten().map(|stat| stat.stamp);
        // In one step: nobody opens one of the two and takes it for the other.
        let readers = self.change_inventory(|inventory| {
            let holding = inventory.entry(artifact.clone()).or_default();
            holding.versions.insert(version.clone(), head.clone());
            self.close(artifact, version)
        });
        if let Some(stamp) = stamp {
            self.index.put(&head, &stamp);
        }
        drop(alone);
        if from.how == Rename::Exchange {
            match from.dir.sync() {
                Ok(()) => self.drained(from.name, readers.unwrap_or_default()),
                // The new one stands, and lasts.
                Err(error) => tracing::warn!(%artifact, %version, error = error_chain(&error),
                    "what it replaced is not removed before the next start"),
            }
            self.tidy();
        }
        staging.dir().sync()?;
        Ok(head)
    }

    /// Whence the staged version is put in its place, and how. What it replaces comes to where it was: out of sight, not where
    /// the next try is made and whatever is left of the last one removed.
    fn make_way(&self, staging: &Staging, parent: &Dir, key: &(ArtifactName, VersionName)) -> fs::Result<Whence> {
        let staged = Whence {
            dir: staging.dir().clone(),
            name: Staging::version_name(),
            how: Rename::NoReplace,
            is_replacing: false,
        };
        let version = key.1.as_component();
        // It may be what is not known to be whole and durable: a publish that failed could not take it back, or it could not be
        // read at the start. It stands until the new one does.
        if parent.stat(&version)?.is_none() {
            return Ok(staged);
        }
        let standing = match dirs_of(parent, &key.1) {
            Err(e) if e.is_passing() => return Err(e),
            // There is nothing that could be opened meanwhile.
            Err(_) => None,
            Ok(dirs) => self.head(&key.0, &key.1).map(|_| dirs),
        };
        let (dir, name) = self.out_of_sight();
        staged.dir.rename(&staged.name, &dir, &name, Rename::NoReplace)?;
        let is_replacing = standing.is_some_and(|dirs| self.replacing(key.clone(), dirs));
        Ok(Whence { dir, name, how: Rename::Exchange, is_replacing })
    }

    /// Puts the staged version back where it was made, after it could not be put in its place.
    fn give_back(&self, staging: &Staging, key: &(ArtifactName, VersionName), from: &Whence) {
        if from.is_replacing {
            self.not_replaced(key);
        }
        if from.how == Rename::Exchange
            && from.dir.rename(&from.name, staging.dir(), &Staging::version_name(), Rename::NoReplace).is_err()
        {
            self.drained(from.name.clone(), Weak::new());
        }
    }
}

/// Where a version lies that is about to be put in its place.
struct Whence {
    dir: Dir,
    name: RelPath,
    how: Rename,
    /// Since then what stands there is opened as it was, and was not before.
    is_replacing: bool,
}

fn seal(new: NewVersion, now: Timestamp) -> Manifest {
    let files = || new.entries.iter().filter(|entry| entry.kind == EntryType::File);
    let head = ManifestHead {
        format: super::manifest::FORMAT,
        artifact: new.artifact,
        version: new.version,
        source_url: new.source_url,
        archive: Archive {
            digest: new.digest,
            size: new.size,
            weak: !new.verified_by.iter().any(|digest| !digest.algorithm().is_weak()),
            verified_by: new.verified_by,
            kept: new.keep_archive,
        },
        resolved_from: new.resolved_from,
        published_at: now,
        recipe: new.recipe,
        tree_digest: tree_digest(&new.entries),
        bytes: files().map(|entry| entry.size).sum(),
        files: files().count() as u64,
    };
    Manifest { head, entries: new.entries }
}

/// `before` was opened before the tree was written: a sync of the file system tells of errors since its descriptor was
/// opened, and one opened later would miss those that somebody else was told of meanwhile.
fn make_durable(before: &Dir, tree: &Dir, entries: &[Entry]) -> Result<(), PublishError> {
    if entries.len() > SYNC_EACH {
        return Ok(before.sync_filesystem()?);
    }
    let mut names: HashMap<&[u8], u64> = HashMap::new();
    for entry in entries.iter().filter(|entry| entry.kind == EntryType::Hardlink) {
        *names.entry(entry.target.as_deref().unwrap_or_default()).or_insert(1) += 1;
    }
    for entry in entries {
        match entry.kind {
            EntryType::File => {
                let file = tree.open_file(&entry.path)?;
                let here = names.get(entry.path.as_bytes()).copied().unwrap_or(1);
                // Another version's, too: synced when that was published. Were it synced again, an error would be met by
                // the next try on the same file, which would then be told of none.
                if Dir::stat_file(&file, entry.path.as_path())?.links > here {
                    continue;
                }
                file.sync_all().map_err(|e| fs::Error::new("sync", &tree.path_of(&entry.path), e))?;
            }
            EntryType::Dir => tree.open_dir(&entry.path)?.sync()?,
            EntryType::Symlink | EntryType::Hardlink => {}
        }
    }
    Ok(tree.sync()?)
}

fn write_manifest(staged: &Dir, manifest: &Manifest) -> Result<(), PublishError> {
    let name = own("manifest.json");
    // One that an interrupted publish left is made anew.
    staged.remove_tree(&name)?;
    let file = staged.create_file(&name, 0o444)?;
    let fail = |e| fs::Error::new("write", &staged.path_of(&name), e);
    fail_point("store.manifest.before-write");
    manifest.write(BufWriter::with_capacity(128 * 1024, &file)).map_err(fail)?;
    fail_point("store.manifest.after-write");
    file.sync_all().map_err(fail)?;
    staged.sync()?;
    fail_point("store.manifest.after-sync");
    Ok(())
}
