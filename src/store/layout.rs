//! The store's directories, opened once and held: `FORMAT`, `lock`, `versions/`, `current/`, `staging/`,
//! `quarantine/`, `index/`; `pins.json` beside them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use super::clock::Clock;
use super::drain::{Draining, QuarantineReaders};
use super::index::Index;
use super::leases::Leases;
use super::opening::Opening;
use super::pins::Pins;
use super::seal::Sealing;
use super::sizes::Sizes;
use super::sound::Soundness;
use super::{Inventory, Manifest, ManifestError, ManifestHead, Staging, scan};
use crate::fs::{self, Dir, Kind, Lock, LockError, RelPath, fail_point};
use crate::intent::{ArtifactName, VersionName, error_chain};

/// The on-disk format that this code reads and writes.
const FORMAT: &str = "1";

/// The store of one node.
#[derive(Debug)]
pub struct Store {
    pub(super) root: Dir,
    pub(super) versions: Dir,
    pub(super) current: Dir,
    pub(super) staging: Dir,
    pub(super) quarantine: Dir,
    pub(super) index: Index,
    pub(super) pins: Pins,
    pub(super) inventory: RwLock<Inventory>,
    pub(super) manifests: Mutex<HashMap<(ArtifactName, VersionName), Weak<Manifest>>>,
    /// Held while a manifest is read: those who want it too wait for it, rather than each read one of their own.
    pub(super) reading: Mutex<()>,
    pub(super) leases: Mutex<HashMap<(ArtifactName, VersionName), Opening>>,
    pub(super) timed_leases: Leases,
    pub(super) clock: Clock,
    pub(super) draining: Draining,
    pub(super) sizes: Sizes,
    pub(super) soundness: Arc<Soundness>,
    pub(super) sealing: Sealing,
    pub(super) quarantine_readers: QuarantineReaders,
    /// Held while `current` is switched and while a version goes out of service or is put in its place: it is never switched to
    /// one that goes, and what goes is not what just came.
    pub(super) switching: Mutex<()>,
    _lock: Lock,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] fs::Error),
    /// Another daemon has it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Written by another version of seedcache.
    #[error("the store {} has format {found:?}, this seedcache knows format {FORMAT:?}; use the seedcache that wrote it, or give this one another store.root", path.display())]
    Format {
        /// The store.
        path: PathBuf,
        /// What its FORMAT file says.
        found: String,
    },
    /// A directory with other things in it.
    #[error("{} is not empty and has no FORMAT file, so it is no store of seedcache; set store.root to an empty or a new directory", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
}

/// Why the store cannot give what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] fs::Error),
    /// No such version here.
    #[error("version {version} of {artifact} is not on this node")]
    NoVersion {
        /// The artifact.
        artifact: ArtifactName,
        /// The version.
        version: VersionName,
    },
    /// Its manifest is damaged.
    #[error("version {version} of {artifact} has a damaged manifest; run `seedcache verify {artifact} --repair`")]
    Manifest {
        /// The artifact.
        artifact: ArtifactName,
        /// The version.
        version: VersionName,
        /// What is wrong with it.
        #[source]
        source: ManifestError,
    },
}

/// A name of the store's own layout.
pub(super) fn own(name: &str) -> RelPath {
    RelPath::parse(name).unwrap_or_else(|e| unreachable!("{name} is a plain path: {e}"))
}

/// A lock whose holder panicked guards plain data that is replaced whole: it is still good.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Opens the store at `path`, made where nothing is, locks it and finds what it holds.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let root = Dir::create_all(path)?;
        let is_new = check_format(&root)?;
        let lock = Lock::try_take(&root, &own("lock"))?;
        if is_new {
            fail_point("store.format.before-write");
            root.write_atomic(&own("FORMAT"), format!("{FORMAT}\n").as_bytes(), 0o644)?;
            fail_point("store.format.after-write");
        }
        let versions = root.ensure_dir(&own("versions"), 0o755)?;
        let current = root.ensure_dir(&own("current"), 0o755)?;
        let staging = root.ensure_dir(&own("staging"), 0o700)?;
        let quarantine = root.ensure_dir(&own("quarantine"), 0o700)?;
        root.sync()?;
        if let Err(error) = clear_temporaries(&root, &staging) {
            tracing::warn!(error = error_chain(&error), "what was being written when the last daemon ended stays");
        }
        let index = Index::open(&root, &quarantine);
        let timed_leases = Leases::open(&root, jiff::Timestamp::now(), std::time::Instant::now())?;
        let clock = Clock::open(&root, jiff::Timestamp::now);
        let pins = Pins::open(&root)?;
        let soundness = Arc::new(Soundness::load(&root));
        let store = Self {
            root,
            versions,
            current,
            staging,
            quarantine,
            index,
            pins,
            inventory: RwLock::default(),
            manifests: Mutex::default(),
            reading: Mutex::default(),
            leases: Mutex::default(),
            timed_leases,
            clock,
            draining: Draining::default(),
            sizes: Sizes::default(),
            soundness,
            sealing: Sealing::default(),
            quarantine_readers: QuarantineReaders::default(),
            switching: Mutex::default(),
            _lock: lock,
        };
        if let Err(error) = store.take_drained() {
            tracing::warn!(
                error = error_chain(&error),
                "what an earlier run drained is not removed before the next start"
            );
        }
        let inventory = scan::scan(&store)?;
        *store.inventory.write().unwrap_or_else(PoisonError::into_inner) = inventory;
        Ok(store)
    }

    /// The store's directory, for messages and for records that stand in it.
    pub fn root(&self) -> &Dir {
        &self.root
    }

    /// Everything published.
    pub fn inventory(&self) -> Inventory {
        self.inventory.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is published of one artifact.
    pub fn holding(&self, artifact: &ArtifactName) -> super::Holding {
        let inventory = self.inventory.read().unwrap_or_else(PoisonError::into_inner);
        inventory.get(artifact).cloned().unwrap_or_default()
    }

    /// Where `current/<artifact>` points.
    pub fn current(&self, artifact: &ArtifactName) -> Option<VersionName> {
        let inventory = self.inventory.read().unwrap_or_else(PoisonError::into_inner);
        inventory.get(artifact)?.current.clone()
    }

    /// One published version's head.
    pub fn head(&self, artifact: &ArtifactName, version: &VersionName) -> Option<Arc<ManifestHead>> {
        let inventory = self.inventory.read().unwrap_or_else(PoisonError::into_inner);
        inventory.get(artifact)?.versions.get(version).cloned()
    }

    pub(super) fn change_inventory<T>(&self, change: impl FnOnce(&mut Inventory) -> T) -> T {
        change(&mut self.inventory.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// The staging directory of an artifact.
    pub fn staging(&self, artifact: &ArtifactName) -> fs::Result<Staging> {
        self.staging.ensure_dir(&artifact.as_component(), 0o700).map(Staging::new)
    }

    /// Points `current/<artifact>` at a published version, in one step and durably.
    pub fn switch_current(&self, artifact: &ArtifactName, version: &VersionName) -> Result<(), StoreError> {
        let _alone = lock(&self.switching);
        if self.head(artifact, version).is_none() {
            return Err(StoreError::NoVersion { artifact: artifact.clone(), version: version.clone() });
        }
        let before = self.current(artifact);
        fail_point("store.current.before-switch");
        self.link_current(artifact, version)?;
        if let Err(error) = self.current.sync() {
            // Not known to last, it is not acknowledged: the link says again what is said to be current.
            let taken_back = match &before {
                Some(before) => self.link_current(artifact, before),
                None => self.current.remove_file(&artifact.as_component()),
            };
            if taken_back.is_err() {
                // What it says is not relied on: the planner switches anew, to whatever it may be.
                self.note_current(artifact, None);
            }
            return Err(error.into());
        }
        fail_point("store.current.after-switch");
        self.note_current(artifact, Some(version.clone()));
        Ok(())
    }

    fn link_current(&self, artifact: &ArtifactName, version: &VersionName) -> fs::Result<()> {
        let (target, name) = (format!("../versions/{artifact}/{version}/tree"), artifact.as_component());
        let link = || self.current.switch_symlink(target.as_bytes(), &name);
        link().or_else(|error| match self.current.stat(&name)? {
            // What a container's runtime makes of a link that a pod mounts before it is there.
            Some(stat) if stat.kind == Kind::Dir => {
                self.current.remove_empty_dir(&name)?;
                link()
            }
            _ => Err(error),
        })
    }

    pub(super) fn note_current(&self, artifact: &ArtifactName, version: Option<VersionName>) {
        self.change_inventory(|inventory| {
            if let Some(holding) = inventory.get_mut(artifact) {
                holding.current = version;
            }
        });
    }

    /// Bytes of disk that the whole store takes, content that versions share by hard link counted once. Walks it all:
    /// seconds on a large store.
    pub fn disk_use(&self) -> fs::Result<u64> {
        self.root.disk_use()
    }

    /// Room on the store's file system.
    pub fn space(&self) -> fs::Result<fs::Space> {
        self.root.space()
    }
}

/// Removes what a killed daemon was writing: the store's lock says that no other is.
fn clear_temporaries(root: &Dir, staging: &Dir) -> fs::Result<()> {
    root.clear_temporaries()?;
    for entry in staging.entries()?.into_iter().filter(|entry| entry.kind == Kind::Dir) {
        staging.open_dir(&entry.name)?.clear_temporaries()?;
    }
    Ok(())
}

/// Whether the store is yet to be made.
fn check_format(root: &Dir) -> Result<bool, OpenError> {
    match root.read(&own("FORMAT"), 1024) {
        Ok(bytes) => {
            let found = String::from_utf8_lossy(&bytes).trim().to_owned();
            if found == FORMAT { Ok(false) } else { Err(OpenError::Format { path: root.path().into(), found }) }
        }
        Err(e) if e.is_not_found() => {
            // A first start that was cut short leaves the lock and perhaps a temporary FORMAT.
            let ours = |name: &[u8]| name == b"lock" || name.starts_with(b".FORMAT.seedcache-");
            let foreign = root.entries()?.iter().any(|entry| !ours(entry.name.as_bytes()));
            if foreign { Err(OpenError::Foreign { path: root.path().into() }) } else { Ok(true) }
        }
        Err(e) => Err(e.into()),
    }
}
