//! The runner: carries the planner's steps out, each artifact once at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{ArtifactState, VerifyResult, WaitError};
use crate::acquire::Fetcher;
use crate::intent::{ArtifactName, Catalog, Link, Swap, VersionName};
use crate::seed::{SeedError, SeedProgress, Seeded, Seeder, TargetError};
use crate::store::{Store, StoreError};

/// What the runner works with.
#[derive(Debug)]
pub struct Parts {
    /// What the node holds.
    pub store: Arc<Store>,
    /// How bytes come.
    pub fetcher: Fetcher,
    /// How targets are seeded.
    pub seeder: Arc<Seeder>,
    /// What operators want.
    pub catalog: Catalog,
    /// Downloads at once.
    pub concurrency: usize,
}

/// The running reconciler. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reconciler {}

/// A seed asked for by a caller.
#[derive(Debug, Clone)]
pub struct SeedAsk {
    /// Which artifact.
    pub artifact: ArtifactName,
    /// Which version; `None`: the current one.
    pub version: Option<VersionName>,
    /// Target as given: absolute below `seed.root`, or relative to it.
    pub target: String,
    /// How files get there; `None`: as the document declares for that target, else `auto`.
    pub link: Option<Link>,
    /// How it is swapped; `None`: as declared, else `exchange`.
    pub swap: Option<Swap>,
    /// Replace a target that seedcache did not make.
    pub force: bool,
    /// How long to wait for a version that is not there yet; zero: not at all.
    pub wait: Duration,
    /// Only targets that a document declares for this artifact are allowed.
    pub declared_only: bool,
}

/// Why a seed was not done.
#[derive(Debug, thiserror::Error)]
pub enum SeedAskError {
    /// The version did not come.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// The target is not one to seed.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// No document declares the target.
    #[error(
        "no document declares {target} as a seed of {artifact}; over TCP only declared targets can be seeded: declare it under spec.seeds, or ask over the Unix socket as root or as the daemon's user"
    )]
    NotDeclared {
        /// The artifact.
        artifact: ArtifactName,
        /// The target as given.
        target: String,
    },
    /// The version cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Seeding failed.
    #[error(transparent)]
    Seed(#[from] SeedError),
}

/// Why a refresh was not done.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// No document declares it.
    #[error("no document declares an artifact {name}; there is nothing to refresh")]
    Unknown {
        /// What was asked for.
        name: ArtifactName,
    },
}

/// Why a verification was not done.
#[derive(Debug, thiserror::Error)]
pub enum VerifyAskError {
    /// Nothing of that name is on the node.
    #[error("there is no artifact {name} on this node; `seedcache status` lists those there are")]
    Unknown {
        /// What was asked for.
        name: ArtifactName,
    },
    /// The version cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Reconciler {
    /// Starts reconciling; every task is tracked by `tasks` and ends when `cancel` is.
    pub fn start(_parts: Parts, _tasks: &TaskTracker, _cancel: CancellationToken) -> Self {
        unimplemented!()
    }

    /// The store it works on, for readers.
    pub fn store(&self) -> &Arc<Store> {
        unimplemented!()
    }

    /// Every artifact that is declared or on the node.
    pub fn states(&self) -> Vec<ArtifactState> {
        unimplemented!()
    }

    /// One of them.
    pub fn state(&self, _name: &ArtifactName) -> Option<ArtifactState> {
        unimplemented!()
    }

    /// Counts up with every change of any state.
    pub fn changes(&self) -> watch::Receiver<u64> {
        unimplemented!()
    }

    /// Waits until the artifact (that very version, when named) is there.
    pub async fn wait(
        &self,
        _name: &ArtifactName,
        _version: Option<&VersionName>,
        _timeout: Duration,
    ) -> Result<ArtifactState, WaitError> {
        unimplemented!()
    }

    /// Has the source asked now, whatever the back-off; returns at once.
    pub fn refresh(&self, _name: &ArtifactName) -> Result<(), RefreshError> {
        unimplemented!()
    }

    /// Has the source asked now and waits until what it names is current (or the try failed).
    pub async fn refresh_and_wait(&self, _name: &ArtifactName, _timeout: Duration) -> Result<ArtifactState, WaitError> {
        unimplemented!()
    }

    /// Seeds a target, waiting for the version where it is not there yet.
    pub async fn seed(&self, _ask: SeedAsk, _progress: Arc<SeedProgress>) -> Result<Seeded, SeedAskError> {
        unimplemented!()
    }

    /// Reads a version (all of the artifact's when `None`) and compares it with its manifest; with `repair` a damaged
    /// one is put into quarantine and fetched again.
    pub async fn verify(
        &self,
        _name: &ArtifactName,
        _version: Option<&VersionName>,
        _repair: bool,
    ) -> Result<Vec<VerifyResult>, VerifyAskError> {
        unimplemented!()
    }
}
