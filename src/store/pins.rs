//! Which versions operators pinned by hand on this node: `pins.json` in the store.
//!
//! What must hold: a pin that was acknowledged survives whatever happens next. A file that is not understood costs the pins,
//! never the start.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use super::json_file::read_json_file;
use super::layout::{lock, own};
use super::{Store, StoreError};
use crate::fs::{self, Dir, fail_point};
use crate::intent::{ArtifactName, VersionName};

/// Bytes of `pins.json`.
const LIMIT: u64 = 16 << 20;

/// The node's pins, by artifact.
pub type Pinned = BTreeMap<ArtifactName, VersionName>;

/// What there was when an artifact was pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinning {
    /// The pin before.
    pub before: Option<VersionName>,
    /// The version is on the node.
    pub is_here: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Written {
    pins: Pinned,
}

/// The pins in memory, as they stand on disk.
#[derive(Debug, Default)]
pub(super) struct Pins {
    known: RwLock<Pinned>,
    /// Held while the file is written, so that readers never wait for a disk. Whether what is on disk is unknown: a write
    /// failed, perhaps only after the new file was in its place.
    writing: Mutex<bool>,
}

impl Pins {
    /// Reads `pins.json` below the store's root; one that is not understood is put aside.
    pub(super) fn open(root: &Dir) -> fs::Result<Self> {
        let Written { pins } = read_json_file(root, "pins.json", LIMIT)?.unwrap_or_default();
        Ok(Self { known: RwLock::new(pins), writing: Mutex::default() })
    }

    fn get(&self) -> Pinned {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the pins on disk, then in memory.
    fn change<T>(&self, root: &Dir, change: impl FnOnce(&mut Pinned) -> T) -> fs::Result<T> {
        let mut unsure = lock(&self.writing);
        let before = self.get();
        let mut pins = before.clone();
        let changed = change(&mut pins);
        if pins != before || *unsure {
            let written = Written { pins };
            let json = serde_json::to_vec_pretty(&written)
                .unwrap_or_else(|e| unreachable!("names with text keys serialise: {e}"));
            fail_point("store.pins.before-write");
            *unsure = true;
            root.write_atomic(&own("pins.json"), &json, 0o644)?;
            *unsure = false;
            fail_point("store.pins.after-write");
            *self.known.write().unwrap_or_else(PoisonError::into_inner) = written.pins;
        }
        Ok(changed)
    }

    /// Writes them anew where what is on disk is unknown.
    pub(super) fn write_unsure(&self, root: &Dir) -> fs::Result<()> {
        self.change(root, |_| ())
    }
}

impl Store {
    /// Every pin made on this node.
    pub fn pins(&self) -> Pinned {
        self.pins.get()
    }

    /// The version that one artifact is pinned at on this node.
    pub fn pin_of(&self, artifact: &ArtifactName) -> Option<VersionName> {
        self.pins.known.read().unwrap_or_else(PoisonError::into_inner).get(artifact).cloned()
    }

    /// Pins an artifact at a version, which need not be here unless it is to be; durable when this returns. One that is here
    /// is not about to go.
    pub fn pin(
        &self,
        artifact: &ArtifactName,
        version: &VersionName,
        is_to_be_here: bool,
    ) -> Result<Pinning, StoreError> {
        // As for a lease: no version is removed meanwhile.
        let _granting = lock(&self.timed_leases.granting);
        let is_here = self.head(artifact, version).is_some();
        if is_to_be_here && !is_here {
            return Err(StoreError::NoVersion { artifact: artifact.clone(), version: version.clone() });
        }
        let before = self.pins.change(&self.root, |pins| pins.insert(artifact.clone(), version.clone()))?;
        Ok(Pinning { before, is_here })
    }

    /// Makes the pin what it was `before`, if it is at `version` still.
    pub fn take_back_pin(
        &self,
        artifact: &ArtifactName,
        version: &VersionName,
        before: Option<VersionName>,
    ) -> fs::Result<()> {
        self.pins.change(&self.root, |pins| {
            if pins.get(artifact) == Some(version) {
                match before {
                    Some(before) => drop(pins.insert(artifact.clone(), before)),
                    None => drop(pins.remove(artifact)),
                }
            }
        })
    }

    /// Takes the pin away; durable when this returns. Gives the pin that was there.
    pub fn unpin(&self, artifact: &ArtifactName) -> fs::Result<Option<VersionName>> {
        self.pins.change(&self.root, |pins| pins.remove(artifact))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;

    #[test]
    fn pins_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b): (ArtifactName, ArtifactName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let (v1, v2): (VersionName, VersionName) = ("v1".parse().unwrap(), "v2+b".parse().unwrap());
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.unpin(&a).unwrap(), None);
        assert!(!dir.path().join("pins.json").exists(), "nothing changed, nothing written");
        let pin = |artifact, version| store.pin(artifact, version, false).unwrap().before;
        assert_eq!(pin(&a, &v1), None);
        assert_eq!(pin(&a, &v2), Some(v1.clone()));
        pin(&b, &v1);
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.pins(), Pinned::from([(a.clone(), v2.clone()), (b.clone(), v1)]));
        assert_eq!(store.unpin(&a).unwrap(), Some(v2));
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!((store.pin_of(&a), store.pin_of(&b).is_some()), (None, true));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_put_aside() {
        for bad in ["{", "", r#"{"pins":{"a":"../x"}}"#, r#"{"pins":["a"]}"#] {
            let dir = tempfile::tempdir().unwrap();
            drop(Store::open(dir.path()).unwrap());
            std::fs::write(dir.path().join("pins.json"), bad).unwrap();
            let store = Store::open(dir.path()).unwrap();
            assert_eq!(store.pins(), Pinned::new(), "{bad}");
            assert_eq!(std::fs::read_to_string(dir.path().join("pins.json.unreadable")).unwrap(), bad);
            store.pin(&"a".parse().unwrap(), &"v1".parse().unwrap(), false).unwrap();
            drop(store);
            assert_eq!(Store::open(dir.path()).unwrap().pins().len(), 1);
        }
    }

    #[test]
    fn a_pin_that_cannot_be_written_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        // A directory in its place: the rename fails for root too.
        std::fs::create_dir_all(dir.path().join("pins.json/x")).unwrap();
        assert!(store.pin(&"a".parse().unwrap(), &"v1".parse().unwrap(), false).is_err());
        assert_eq!(store.pins(), Pinned::new());
    }

    #[test]
    fn a_pin_is_taken_back_unless_it_is_another_by_then() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let a: ArtifactName = "a".parse().unwrap();
        let [v1, v2, v3]: [VersionName; 3] = ["v1", "v2", "v3"].map(|version| version.parse().unwrap());
        for before in [None, Some(v1)] {
            let pinning = store.pin(&a, &v2, false).unwrap();
            assert_eq!(pinning, Pinning { before: before.clone(), is_here: false });
            store.take_back_pin(&a, &v3, None).unwrap();
            assert_eq!(store.pin_of(&a), Some(v2.clone()), "another");
            store.take_back_pin(&a, &v2, before.clone()).unwrap();
            assert_eq!(store.pin_of(&a), before);
            store.pin(&a, &"v1".parse().unwrap(), false).unwrap();
        }
    }
}
