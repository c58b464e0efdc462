//! Downloads that found no room: what each would have needed. None is begun again before there is as much, so that a full
//! disk costs its origin no bytes, however often it is looked whether room was made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use crate::acquire::{Naming, Resolution};
use crate::intent::{Artifact, ArtifactName, Digest, recipe_digest};
use crate::store::ResolvedFrom;

/// Downloads of one artifact that are remembered: a repair tries three ways in turn.
const EACH: usize = 4;

/// What was short, by artifact.
#[derive(Debug, Default)]
pub(super) struct Shortages(Mutex<BTreeMap<ArtifactName, Vec<(Sought, Need)>>>);

/// Which bytes, and what is made of them: others may need less.
#[derive(Debug, PartialEq)]
struct Sought {
    naming: Naming,
    demanded: Vec<Digest>,
    resolved_from: ResolvedFrom,
    recipe: Digest,
    keep_archive: bool,
}

impl Sought {
    fn new(artifact: &Artifact, resolution: &Resolution) -> Self {
        let Resolution { naming, demanded, resolved_from, .. } = resolution.clone();
        let (recipe, keep_archive) = (recipe_digest(&artifact.unpack), artifact.keep_archive);
        Self { naming, demanded, resolved_from, recipe, keep_archive }
    }
}

/// What a download takes in the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Need {
    /// Bytes of the archive and of its files.
    pub(super) bytes: u64,
    /// Entries, each an inode.
    pub(super) entries: u64,
}

impl Need {
    /// What is enough for both.
    fn and(self, other: Self) -> Self {
        Self { bytes: self.bytes.max(other.bytes), entries: self.entries.max(other.entries) }
    }
}

impl Shortages {
    /// Notes that there is less room than what was resolved needs. What an earlier try found still counts: one that did
    /// not begin knows less.
    pub(super) fn note(&self, artifact: &Artifact, resolution: &Resolution, need: Need) {
        let sought = Sought::new(artifact, resolution);
        self.with(|all| {
            let short = all.entry(artifact.name.clone()).or_default();
            let known = short.iter().position(|(of, _)| *of == sought).map(|at| short.remove(at).1);
            short.truncate(EACH - 1);
            short.insert(0, (sought, known.map_or(need, |known| known.and(need))));
        });
    }

    /// What this very download was short of; nothing where it was not.
    pub(super) fn of(&self, artifact: &Artifact, resolution: &Resolution) -> Option<Need> {
        let sought = Sought::new(artifact, resolution);
        self.with(|all| all.get(&artifact.name)?.iter().find(|(of, _)| *of == sought).map(|(_, need)| *need))
    }

    /// There was room for this one.
    pub(super) fn forget(&self, artifact: &Artifact, resolution: &Resolution) {
        let sought = Sought::new(artifact, resolution);
        self.with(|all| {
            if let Some(short) = all.get_mut(&artifact.name) {
                short.retain(|(of, _)| *of != sought);
            }
        });
    }

    /// Forgets artifacts that are declared no more.
    pub(super) fn keep(&self, declared: &BTreeSet<&ArtifactName>) {
        self.with(|all| all.retain(|name, short| declared.contains(name) && !short.is_empty()));
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<ArtifactName, Vec<(Sought, Need)>>) -> T) -> T {
        // Plain data, put in whole.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::room::tests::artifact;
    use super::*;

    fn resolution(version: &str, etag: &str) -> Resolution {
        Resolution {
            naming: Naming::Known(version.parse().unwrap()),
            locations: vec![],
            demanded: vec![],
            resolved_from: ResolvedFrom { etag: Some(etag.into()), ..ResolvedFrom::default() },
            file_name: "x".into(),
        }
    }

    #[test]
    fn what_was_short_counts_for_the_same_bytes_and_recipe_only() {
        let (app, need) = (artifact(""), Need { bytes: 9, entries: 2 });
        let shortages = Shortages::default();
        shortages.note(&app, &resolution("v1", "a"), need);
        assert_eq!(shortages.of(&app, &resolution("v1", "a")), Some(need));
        assert_eq!(shortages.of(&app, &resolution("v2", "a")), None);
        assert_eq!(shortages.of(&app, &resolution("v1", "b")), None, "other bytes at the same address");
        assert_eq!(shortages.of(&artifact("  unpack: {include: [a]}\n"), &resolution("v1", "a")), None, "less of them");
        shortages.forget(&app, &resolution("v2", "a"));
        assert_eq!(shortages.of(&app, &resolution("v1", "a")), Some(need), "there was room for another one");
        shortages.forget(&app, &resolution("v1", "a"));
        assert_eq!(shortages.of(&app, &resolution("v1", "a")), None);
    }

    #[test]
    fn a_try_that_did_not_begin_takes_nothing_from_what_was_known() {
        let (app, v1) = (artifact(""), resolution("v1", "a"));
        let shortages = Shortages::default();
        shortages.note(&app, &v1, Need { bytes: 9, entries: 200 });
        shortages.note(&app, &v1, Need { bytes: 10, entries: 16 });
        assert_eq!(shortages.of(&app, &v1), Some(Need { bytes: 10, entries: 200 }));
    }

    #[test]
    fn only_so_many_are_remembered() {
        let (app, need) = (artifact(""), Need { bytes: 9, entries: 2 });
        let shortages = Shortages::default();
        for version in ["v1", "v2", "v3", "v1", "v4", "v5"] {
            shortages.note(&app, &resolution(version, "a"), need);
        }
        let known = |version: &str| shortages.of(&app, &resolution(version, "a")).is_some();
        assert_eq!(["v1", "v2", "v3", "v4", "v5"].map(known), [true, false, true, true, true]);
        shortages.keep(&BTreeSet::new());
        assert!(!known("v5"));
    }
}
