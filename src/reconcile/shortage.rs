//! Downloads that found no room: what each would have needed. None is begun again before there is as much, so that a full
//! disk costs its origin no bytes, however often it is looked whether room was made.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::acquire::{Naming, Resolution};
use crate::intent::{ArtifactName, Digest};

/// What was short, by artifact.
#[derive(Debug, Default)]
pub(super) struct Shortages(Mutex<BTreeMap<ArtifactName, Shortage>>);

#[derive(Debug)]
struct Shortage {
    /// Of which bytes: others may need less.
    naming: Naming,
    demanded: Vec<Digest>,
    need: Need,
}

/// What a download takes in the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Need {
    /// Bytes of the archive and of its files.
    pub(super) bytes: u64,
    /// Entries, each an inode.
    pub(super) entries: u64,
}

impl Shortages {
    /// Notes that there is less room than what was resolved needs.
    pub(super) fn note(&self, artifact: &ArtifactName, resolution: &Resolution, need: Need) {
        let Resolution { naming, demanded, .. } = resolution.clone();
        self.with(|all| all.insert(artifact.clone(), Shortage { naming, demanded, need }));
    }

    /// What this very download was short of; nothing where it was not.
    pub(super) fn of(&self, artifact: &ArtifactName, resolution: &Resolution) -> Option<Need> {
        let same = |short: &&Shortage| (&short.naming, &short.demanded) == (&resolution.naming, &resolution.demanded);
        self.with(|all| all.get(artifact).filter(same).map(|short| short.need))
    }

    /// There was room.
    pub(super) fn forget(&self, artifact: &ArtifactName) {
        self.with(|all| all.remove(artifact));
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<ArtifactName, Shortage>) -> T) -> T {
        // Plain data, put in whole.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::ResolvedFrom;

    #[test]
    fn what_was_short_counts_for_the_same_bytes_only() {
        let resolution = |version: &str| Resolution {
            naming: Naming::Known(version.parse().unwrap()),
            locations: vec![],
            demanded: vec![Digest::sha256(version.as_bytes())],
            resolved_from: ResolvedFrom::default(),
            file_name: "x".into(),
        };
        let (name, need) = ("app".parse().unwrap(), Need { bytes: 9, entries: 2 });
        let shortages = Shortages::default();
        shortages.note(&name, &resolution("v1"), need);
        assert_eq!(shortages.of(&name, &resolution("v1")), Some(need));
        assert_eq!(shortages.of(&name, &resolution("v2")), None);
        shortages.forget(&name);
        assert_eq!(shortages.of(&name, &resolution("v1")), None);
    }
}
