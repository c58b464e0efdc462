//! An artifact's state as the API tells it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::acquire::Phase;
use crate::fs::LinkMode;
use crate::intent::{ArtifactName, Digest, VersionName};
use crate::store::Report;

/// Where an artifact stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

/// One artifact, as `GET /v1/artifacts/{name}` gives it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
}

/// One version on the node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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

/// One seeded or declared target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SeedState {
    /// From the root of the daemon's file system.
    pub target: String,
    /// The version it holds; absent when it holds none yet.
    pub version: Option<VersionName>,
    /// How the files got there.
    pub mode: Option<LinkMode>,
    /// Why not by a better way, or why it failed.
    pub reason: Option<String>,
    /// `Pending` until seeded, `Ready` when it holds the version it should, `Failed` when the last try failed.
    pub state: State,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
