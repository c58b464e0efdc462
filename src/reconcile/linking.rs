//! Versions that somebody is linking files of: a seed or a fill that has begun, and is not on record yet.
//!
//! What must hold: who links has begun before it opens the version, and ends once what it did is on record. So whoever looks
//! here and there when nobody can open the version any more misses none.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::intent::{ArtifactName, Link, VersionName};

type Key = (ArtifactName, VersionName);

/// How many are at work with each version.
#[derive(Debug, Default)]
pub(super) struct Linking(Mutex<BTreeMap<Key, usize>>);

/// One of them; it is no more when this is dropped.
pub(super) struct Linker<'a> {
    all: &'a Linking,
    key: Key,
}

impl Linking {
    /// Notes one that begins; `None` where it will not link whatever happens.
    pub(super) fn begin(&self, artifact: &ArtifactName, version: &VersionName, link: Link) -> Option<Linker<'_>> {
        match link {
            Link::Auto | Link::Hardlink => {}
            Link::Reflink | Link::Copy => return None,
        }
        let key = (artifact.clone(), version.clone());
        *self.lock().entry(key.clone()).or_default() += 1;
        Some(Linker { all: self, key })
    }

    /// Whether anyone is at work with a version.
    pub(super) fn any(&self, artifact: &ArtifactName, version: &VersionName) -> bool {
        self.lock().contains_key(&(artifact.clone(), version.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, usize>> {
        // Numbers: whoever panicked left them usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Linker<'_> {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(count) = all.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_version_is_free_when_the_last_who_may_link_is_done() {
        let (all, artifact, version) = (Linking::default(), "a".parse().unwrap(), "v".parse().unwrap());
        assert!(all.begin(&artifact, &version, Link::Copy).is_none());
        let first = all.begin(&artifact, &version, Link::Auto);
        let second = all.begin(&artifact, &version, Link::Hardlink);
        drop(first);
        assert!(all.any(&artifact, &version));
        assert!(!all.any(&artifact, &"w".parse().unwrap()));
        drop(second);
        assert!(!all.any(&artifact, &version));
    }
}
