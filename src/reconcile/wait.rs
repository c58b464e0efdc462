//! Waiting for an artifact without asking again and again.

use super::ArtifactState;
use crate::intent::ArtifactName;

/// Why the wait ended without a version.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// No document declares it and the node has no version of it.
    #[error("there is no artifact {name} on this node; `seedcache status` lists those there are")]
    Unknown {
        /// What was asked for.
        name: ArtifactName,
    },
    /// Time is up; it may still come.
    #[error("{} is not ready yet", state.name)]
    TimedOut {
        /// Where it stands.
        state: Box<ArtifactState>,
    },
    /// It failed in a way that waiting does not mend.
    #[error("{} cannot be had: {}", state.name, state.last_error.as_deref().unwrap_or("no error was recorded"))]
    Failed {
        /// Where it stands.
        state: Box<ArtifactState>,
    },
    /// The daemon is stopping.
    #[error("the daemon is shutting down; ask again in a moment")]
    ShuttingDown,
}
