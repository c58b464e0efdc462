//! An artifact's state as the API tells it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::plan::{self, Moment};
use super::seed_state::{SeedProgressState, SeedState, seed_states};
use super::tracked::Tracked;
use crate::acquire::Phase;
use crate::fs::RelPath;
use crate::intent::{Artifact, ArtifactName, Digest, Refused, VersionName, VersionWish, error_chain};
use crate::seed::Record;
use crate::store::{Fate, HolderName, Holding, ManifestHead, Report, TimedLease};

/// Where an artifact stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum State {
    /// Not tried yet.
    Pending,
    /// No version yet, one is being fetched.
    Warming,
    /// A version is current; a newer one may be on its way or have failed.
    Ready,
    /// No version, and the last try failed.
    Failed,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            State::Pending => "Pending",
            State::Warming => "Warming",
            State::Ready => "Ready",
            State::Failed => "Failed",
        })
    }
}

/// Where a pin stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PinnedBy {
    /// In `spec.pin`, which wins.
    Document,
    /// In the node's `pins.json`, by `seedcache pin`.
    Node,
}

/// One artifact, as `GET /v1/artifacts/{name}` gives it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactState {
    /// Its name.
    pub name: ArtifactName,
    /// Where it stands.
    pub state: State,
    /// The version served and seeded when none is named.
    pub current: Option<VersionName>,
    /// The newest version that the source named, when it was last asked.
    pub latest: Option<VersionName>,
    /// The version that operators hold it at.
    pub pin: Option<VersionName>,
    /// Who says so; null when there is no pin.
    #[serde(default)]
    pub pinned_by: Option<PinnedBy>,
    /// What is on the node, newest first.
    pub versions: Vec<VersionState>,
    /// What is being done now.
    pub progress: Option<ProgressState>,
    /// Why the last try failed; gone once one succeeds.
    pub last_error: Option<String>,
    /// When that was.
    pub last_error_at: Option<Timestamp>,
    /// When the source is asked next: a retry after a failure, else the next refresh.
    pub next_try: Option<Timestamp>,
    /// Tries that failed since the last success.
    pub failures: u32,
    /// When the source last answered.
    pub refreshed_at: Option<Timestamp>,
    /// Digest of the document that this state follows; absent when none declares it any more.
    pub observed_generation: Option<Digest>,
    /// Declared targets and those seeded by hand.
    pub seeds: Vec<SeedState>,
    /// Consumers that hold a version.
    pub leases: Vec<LeaseState>,
}

/// One version on the node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VersionState {
    /// Its name.
    pub version: VersionName,
    /// SHA-256 of its archive.
    pub digest: Digest,
    /// Bytes of its files.
    pub bytes: u64,
    /// Its regular files.
    pub files: u64,
    /// When it became visible.
    pub published_at: Timestamp,
    /// Always `Ready` for now: what is visible is whole.
    pub state: State,
    /// Nothing stronger than MD5 vouches for its bytes, or nothing at all.
    pub weak: bool,
    /// Why it is kept, in words.
    pub kept: String,
}

/// What is being done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProgressState {
    /// Which step.
    pub phase: Phase,
    /// The version being fetched, where its name is known.
    pub version: Option<VersionName>,
    /// Archive bytes here so far.
    pub bytes: u64,
    /// Archive bytes in all, where the source says.
    pub total_bytes: Option<u64>,
    /// Bytes unpacked so far.
    pub unpacked_bytes: u64,
    /// Entries unpacked so far.
    pub entries: u64,
}

/// A consumer's hold on a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeaseState {
    /// Who holds it.
    pub holder: HolderName,
    /// Which version.
    pub version: VersionName,
    /// When it ends unless it is renewed.
    pub expires_at: Timestamp,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerifyResult {
    /// Which artifact.
    pub artifact: ArtifactName,
    /// Which version.
    pub version: VersionName,
    /// What was found.
    pub report: Report,
    /// The version was put into quarantine and is being fetched again.
    pub repairing: bool,
}

/// Why the last try failed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Failure {
    /// The error with its causes, in one line.
    pub(super) error: String,
    /// Waiting alone does not mend it.
    pub(super) standing: bool,
    /// When.
    pub(super) at: Timestamp,
}

/// All that an artifact's state is told from.
pub(super) struct Seen<'a> {
    pub(super) artifact: Option<&'a Artifact>,
    pub(super) refusal: Option<&'a Refused>,
    pub(super) tracked: Option<&'a Tracked>,
    pub(super) holding: &'a Holding,
    pub(super) node_pin: Option<VersionName>,
    pub(super) records: &'a [Record],
    pub(super) fates: &'a [Fate],
    pub(super) leases: Vec<TimedLease>,
    /// Targets being seeded from this artifact.
    pub(super) seeding: &'a BTreeMap<RelPath, SeedProgressState>,
    pub(super) now: Moment,
    pub(super) wall_clock: Timestamp,
}

impl Seen<'_> {
    /// The pin that holds, and who made it.
    fn pin(&self) -> Option<(&VersionName, PinnedBy)> {
        let declared = self.artifact.and_then(|artifact| artifact.pin.as_ref());
        let declared = declared.map(|version| (version, PinnedBy::Document));
        declared.or(self.node_pin.as_ref().map(|version| (version, PinnedBy::Node)))
    }
}

/// Tells an artifact's state.
pub(super) fn view(name: &ArtifactName, seen: &Seen<'_>) -> ArtifactState {
    let tracked = seen.tracked;
    let failure = tracked.and_then(|t| t.failure.as_ref().or(t.not_switched.as_ref()));
    let (last_error, last_error_at) = match (failure, seen.refusal) {
        (_, Some(refused)) => (Some(error_chain(&*refused.error)), None),
        (Some(failure), None) => (Some(failure.error.clone()), Some(failure.at)),
        (None, None) => (None, None),
    };
    let progress = tracked.and_then(|t| t.running.as_ref()).map(|running| {
        let now = running.progress.snapshot();
        ProgressState {
            phase: now.phase,
            version: running.version.clone(),
            bytes: now.bytes,
            total_bytes: now.total_bytes,
            unpacked_bytes: now.unpacked_bytes,
            entries: now.entries,
        }
    });
    let state = if seen.holding.current.is_some() {
        State::Ready
    } else if last_error.is_some() {
        State::Failed
    } else if progress.is_some() {
        State::Warming
    } else {
        State::Pending
    };
    ArtifactState {
        name: name.clone(),
        state,
        current: seen.holding.current.clone(),
        latest: tracked.and_then(|t| t.named.clone()),
        pin: seen.pin().map(|(version, _)| version.clone()),
        pinned_by: seen.pin().map(|(_, by)| by),
        versions: seen
            .fates
            .iter()
            .filter_map(|fate| Some(version_state(seen.holding.versions.get(&fate.version)?, fate)))
            .collect(),
        progress,
        last_error,
        last_error_at,
        next_try: next_try(seen),
        failures: tracked.map_or(0, |t| t.facts.failures),
        refreshed_at: tracked.and_then(|t| t.refreshed_at),
        observed_generation: seen.artifact.map(|artifact| artifact.generation.clone()),
        seeds: seed_states(name, seen),
        leases: seen.leases.iter().cloned().map(lease_state).collect(),
    }
}

fn next_try(seen: &Seen<'_>) -> Option<Timestamp> {
    let (artifact, tracked) = (seen.artifact?, seen.tracked?);
    let settled = tracked.facts.failures == 0 && seen.holding.current.is_some();
    if tracked.facts.busy || (settled && matches!(plan::wish(artifact, seen.node_pin.as_ref()), VersionWish::Exact(_)))
    {
        return None;
    }
    let ahead = tracked.facts.next_ask?.saturating_sub(seen.now);
    seen.wall_clock.checked_add(jiff::SignedDuration::try_from(ahead).ok()?).ok()
}

fn lease_state(lease: TimedLease) -> LeaseState {
    LeaseState { holder: lease.holder, version: lease.version, expires_at: lease.expires_at }
}

fn version_state(head: &ManifestHead, fate: &Fate) -> VersionState {
    VersionState {
        version: head.version.clone(),
        digest: head.archive.digest.clone(),
        bytes: head.bytes,
        files: head.files,
        published_at: head.published_at,
        state: State::Ready,
        weak: head.archive.weak,
        kept: match fate.why.keeps() {
            true => fate.why.to_string(),
            false => format!("until it is collected: {}", fate.why),
        },
    }
}
