//! Leases that consumers ask for.

use std::time::Duration;

use super::run::Reconciler;
use crate::intent::{ArtifactName, VersionName};
use crate::store::{HolderName, LeaseError, StoreError, TimedLease};

/// Why a lease is not granted or dropped.
#[derive(Debug, thiserror::Error)]
pub enum LeaseAskError {
    /// There is nothing to lease.
    #[error("{artifact} has no current version yet")]
    NoCurrent {
        /// The artifact.
        artifact: ArtifactName,
    },
    /// There is nothing to drop.
    #[error("{holder} has no lease on {artifact}")]
    NoLease {
        /// The artifact.
        artifact: ArtifactName,
        /// Who was to have one.
        holder: HolderName,
    },
    /// Refused.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// Leases cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A defect.
    #[error("the leasing task ended unexpectedly; this is a defect of seedcache, please report it")]
    Task(#[from] tokio::task::JoinError),
}

impl Reconciler {
    /// Grants or renews a lease on a version (`None`: the current one).
    pub async fn lease(
        &self,
        artifact: &ArtifactName,
        version: Option<VersionName>,
        holder: &HolderName,
        ttl: Duration,
    ) -> Result<TimedLease, LeaseAskError> {
        let (store, artifact, holder) = (self.shared.store.clone(), artifact.clone(), holder.clone());
        let granted = tokio::task::spawn_blocking(move || {
            let version = version.or_else(|| store.holding(&artifact).current);
            let version = version.ok_or_else(|| LeaseAskError::NoCurrent { artifact: artifact.clone() })?;
            Ok::<_, LeaseAskError>(store.grant_lease(&artifact, &version, &holder, ttl)?)
        });
        let lease = granted.await?.inspect_err(|error| {
            if matches!(error, LeaseAskError::Lease(LeaseError::Store(StoreError::Fs(_)))) {
                self.shared.house.due.notify_one();
            }
        })?;
        tracing::info!(artifact = %lease.artifact, version = %lease.version, holder = %lease.holder,
            expires_at = %lease.expires_at, "lease granted");
        self.shared.changed();
        Ok(lease)
    }

    /// Drops a lease.
    pub async fn drop_lease(&self, artifact: &ArtifactName, holder: &HolderName) -> Result<(), LeaseAskError> {
        let (store, name, of) = (self.shared.store.clone(), artifact.clone(), holder.clone());
        let dropped = tokio::task::spawn_blocking(move || store.drop_lease(&name, &of)).await?;
        // What was not written is to be written anew.
        if !dropped.inspect_err(|_| self.shared.house.due.notify_one())? {
            return Err(LeaseAskError::NoLease { artifact: artifact.clone(), holder: holder.clone() });
        }
        tracing::info!(%artifact, %holder, "lease dropped");
        self.shared.house.due.notify_one();
        self.shared.changed();
        Ok(())
    }
}
