//! Removal on demand: of a version on the node, or of a damaged one that is to be had again.

use super::collect::{FateState, store_turn};
use super::run::{Reconciler, Shared};
use crate::intent::{ArtifactName, VersionName};
use crate::store::{Claim, Fate, StoreError, Why};

/// Why a version was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// It is needed.
    #[error("version {version} of {artifact} is {why}")]
    Claimed {
        /// The artifact.
        artifact: ArtifactName,
        /// The version.
        version: VersionName,
        /// By what it is claimed, in words.
        why: String,
    },
    /// It is not here, or cannot be removed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A defect.
    #[error("the removing task ended unexpectedly; this is a defect of seedcache, please report it")]
    Task(#[from] tokio::task::JoinError),
}

impl Reconciler {
    /// Removes a version now; one that is current, pinned, leased, seeded by hard link, or being seeded so, only with `force`.
    /// Readers that have it open keep its bytes until they are done. What a document still wants is fetched again.
    pub async fn remove_version(
        &self,
        artifact: &ArtifactName,
        version: &VersionName,
        force: bool,
    ) -> Result<FateState, RemoveError> {
        let (shared, artifact, version) = (self.shared.clone(), artifact.clone(), version.clone());
        let removed = tokio::task::spawn_blocking(move || {
            let _turn = store_turn(&shared.house.turn);
            shared.look_at_records();
            shared.look_at_filled();
            let fates = shared.fates_of(&shared.world(), &artifact, &shared.store.holding(&artifact));
            let Some(mut fate) = fates.into_iter().find(|fate| fate.version == version) else {
                return shared.remove_damaged(artifact, version, force);
            };
            let mut why = None;
            let may_go = || {
                why = shared.forbidden(&artifact, &version).filter(|_| !force);
                why.is_none()
            };
            // Seeded since it was looked at, or being seeded: whoever opens it later is told that it is gone.
            let is_linked =
                || !force && (shared.linking.any(&artifact, &version) || shared.seeder.is_linked(&artifact, &version));
            if !shared.store.remove_though_read(&artifact, &version, may_go, is_linked)? {
                let why = why.unwrap_or_else(|| "being seeded".to_owned());
                return Err(RemoveError::Claimed { artifact, version, why });
            }
            tracing::info!(%artifact, %version, bytes = fate.bytes, force, "version removed on demand");
            // Had again already, but its repair was not over.
            shared.abandon(&artifact, &version, || true).map_err(StoreError::from)?;
            fate.why = Why::Asked;
            Ok::<_, RemoveError>(FateState::from(&fate))
        })
        .await??;
        self.shared.changed();
        Ok(removed)
    }
}

impl Shared {
    /// By what a version is claimed that may be removed only by force, in words.
    fn forbidden(&self, artifact: &ArtifactName, version: &VersionName) -> Option<String> {
        let fates = self.fates_of(&self.world(), artifact, &self.store.holding(artifact));
        fates.into_iter().find(|fate| fate.version == *version).and_then(forbidding)
    }

    /// As [`Reconciler::remove_version`] for one that is to be had again. Blocks.
    fn remove_damaged(
        &self,
        artifact: ArtifactName,
        version: VersionName,
        force: bool,
    ) -> Result<FateState, RemoveError> {
        let fate = || {
            let fates = self.fates_of_repairs(&self.world(), &artifact);
            fates.into_iter().find(|fate| fate.version == version)
        };
        let absent = || StoreError::NoVersion { artifact: artifact.clone(), version: version.clone() };
        let mut found = fate().ok_or_else(absent)?;
        found.bytes = self.store.quarantined_version(&artifact, &version);
        let mut why = None;
        let may_go = || {
            let is_linked = || self.linking.any(&artifact, &version) || self.seeder.is_linked(&artifact, &version);
            why = match fate().and_then(forbidding) {
                None if is_linked() => Some("being seeded".to_owned()),
                why => why,
            };
            force || why.is_none()
        };
        if !self.abandon(&artifact, &version, may_go).map_err(StoreError::from)? {
            // Without a reason it came back meanwhile, or somebody else had it removed.
            let Some(why) = why else { return Err(absent().into()) };
            return Err(RemoveError::Claimed { artifact, version, why });
        }
        tracing::info!(%artifact, %version, bytes = found.bytes, force, "damaged version removed on demand");
        found.why = Why::Asked;
        Ok(FateState::from(&found))
    }
}

/// The claims for which a version is removed only by force, in words.
fn forbidding(fate: Fate) -> Option<String> {
    let Why::Claimed(mut claims) = fate.why else { return None };
    claims.retain(Claim::forbids_removal);
    (!claims.is_empty()).then(|| Why::Claimed(claims).in_full())
}
