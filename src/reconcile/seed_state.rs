//! What stands at an artifact's targets, as the API tells it, and whether it can be used.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ArtifactState;
use super::state::{Seen, State};
use crate::fs::{LinkMode, RelPath};
use crate::intent::{ArtifactName, VersionName};
use crate::seed::Record;

/// One seeded or declared target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SeedState {
    /// Directory below `seed.root`; with `byHandle`, what the peer that has it called it.
    pub target: String,
    /// A directory that a peer held open and had filled: `target` is the peer's own word, and may be that of another seed.
    #[serde(default)]
    pub by_handle: bool,
    /// A document declares it: it is kept at the current version.
    #[serde(default)]
    pub declared: bool,
    /// The version it holds; absent when it holds none yet.
    pub version: Option<VersionName>,
    /// How the files got there.
    pub mode: Option<LinkMode>,
    /// Why not by a better way, or why it failed.
    pub reason: Option<String>,
    /// `Pending` until seeded, `Warming` while it is, `Ready` when it holds the version it should with its rendered files,
    /// `Failed` when the last try failed.
    pub state: State,
    /// How far its seeding is, while it is being seeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<SeedProgressState>,
}

/// How far a seeding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SeedProgressState {
    /// Entries done.
    pub entries: u64,
    /// Entries in all; 0 until they are counted.
    pub total_entries: u64,
    /// Bytes done.
    pub bytes: u64,
}

impl ArtifactState {
    /// Why it cannot be used yet: it has no version, or a declared target does not hold the current one. `None` when all
    /// is there.
    pub fn not_ready(&self) -> Option<String> {
        let Some(current) = &self.current else {
            let error = self.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            return Some(format!("{} is not ready yet{error}", self.name));
        };
        let seed = self.seeds.iter().find(|seed| seed.declared && seed.state != State::Ready)?;
        let reason = seed.reason.as_ref().filter(|_| seed.state == State::Failed);
        let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        Some(format!("{} is at {current}, which {} does not hold yet{reason}", self.name, seed.target))
    }
}

/// The declared targets of an artifact, then those seeded by hand.
pub(super) fn seed_states(name: &ArtifactName, seen: &Seen<'_>) -> Vec<SeedState> {
    let record_of =
        |target: &RelPath| seen.records.iter().find(|record| record.target == *target && record.artifact == *name);
    let current = seen.holding.current.as_ref().and_then(|current| seen.holding.versions.get(current));
    let declared = seen.artifact.map_or(&[][..], |artifact| &artifact.seeds);
    let mut states: Vec<SeedState> = declared
        .iter()
        .map(|seed| {
            let record = record_of(&seed.target);
            let facts = seen.tracked.and_then(|t| t.facts.seeds.get(&seed.target));
            let stands = facts.is_some_and(|facts| !facts.stale && current.is_some_and(|head| facts.has(head)));
            let holds = stands && record.is_some();
            // What failed may have been another version.
            let error = facts.and_then(|facts| facts.error.clone()).filter(|_| !holds);
            let state = match &error {
                Some(_) => State::Failed,
                None if holds => State::Ready,
                None if seen.seeding.contains_key(&seed.target) => State::Warming,
                None => State::Pending,
            };
            SeedState {
                progress: seen.seeding.get(&seed.target).copied(),
                target: seed.target.to_string(),
                by_handle: false,
                version: record.map(|record| record.version.clone()),
                declared: true,
                mode: record.map(|record| record.mode),
                reason: error.or_else(|| record.and_then(|record| record.reason.clone())),
                state,
            }
        })
        .collect();
    let by_hand = |record: &&Record| record.artifact == *name && !declared.iter().any(|s| s.target == record.target);
    states.extend(seen.records.iter().filter(by_hand).map(|record| SeedState {
        progress: seen.seeding.get(&record.target).copied(),
        target: record.target.to_string(),
        by_handle: false,
        declared: false,
        version: Some(record.version.clone()),
        mode: Some(record.mode),
        reason: record.reason.clone(),
        state: State::Ready,
    }));
    let new = |target: &&RelPath| !declared.iter().any(|seed| seed.target == **target) && record_of(target).is_none();
    states.extend(seen.seeding.iter().filter(|(target, _)| new(target)).map(|(target, progress)| SeedState {
        target: target.to_string(),
        by_handle: false,
        declared: false,
        version: None,
        mode: None,
        reason: None,
        state: State::Warming,
        progress: Some(*progress),
    }));
    states
}
