//! Damaged versions that nobody wants any more: not had again, so that what lies of them in quarantine may go.
//!
//! They are claimed, kept and let go as if they were on the node. One that is being had again is let be, unless somebody
//! has it removed.

use super::run::{Shared, World};
use crate::intent::{ArtifactName, VersionName};
use crate::store::{Fate, Why};

impl Shared {
    /// What would become of an artifact's versions that are to be had again, were they on the node.
    pub(super) fn fates_of_repairs(&self, world: &World, name: &ArtifactName) -> Vec<Fate> {
        let mut holding = self.store.holding(name);
        let gone: Vec<_> =
            world.repairs.heads(name).filter(|head| !holding.versions.contains_key(&head.version)).cloned().collect();
        let is_gone = |fate: &Fate| gone.iter().any(|head| head.version == fate.version);
        holding.versions.extend(gone.iter().map(|head| (head.version.clone(), head.clone())));
        let mut fates = self.fates_of(world, name, &holding);
        fates.retain(is_gone);
        fates
    }

    /// The same for all artifacts, but for versions that are being had again.
    pub(super) fn fates_of_idle_repairs(&self, world: &World) -> Vec<Fate> {
        let all = world.repairs.artifacts().flat_map(|name| self.fates_of_repairs(world, name));
        all.filter(|fate| !is_being_had(world, &fate.artifact, &fate.version)).collect()
    }

    /// Has the versions that are to go of these not had again; one that is claimed meanwhile is. Blocks.
    pub(super) fn abandon_all(&self, fates: &[Fate]) -> Result<(), crate::fs::Error> {
        let mut outcome = Ok(());
        for Fate { artifact, version, why, .. } in fates.iter().filter(|fate| !fate.why.keeps()) {
            let may_go = || {
                self.is_let_go(artifact, version)
                    && !self.linking.any(artifact, version)
                    && !self.seeder.is_linked(artifact, version)
            };
            match self.abandon(artifact, version, may_go) {
                Ok(true) => tracing::warn!(%artifact, %version, %why, "damaged version is not fetched again"),
                Ok(false) => {}
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome
    }

    /// Whether a version that is to be had again is claimed by nobody now, nor being had.
    fn is_let_go(&self, artifact: &ArtifactName, version: &VersionName) -> bool {
        let world = self.world();
        let fates = self.fates_of_repairs(&world, artifact);
        let fate = fates.iter().find(|fate| fate.version == *version);
        // What it is only kept for does not count: it may have to go for others.
        fate.is_some_and(|fate| !matches!(fate.why, Why::Claimed(_))) && !is_being_had(&world, artifact, version)
    }

    /// Has a version not had again if it `may_go`; whether that is so. Blocks.
    pub(super) fn abandon(
        &self,
        artifact: &ArtifactName,
        version: &VersionName,
        may_go: impl FnOnce() -> bool,
    ) -> Result<bool, crate::fs::Error> {
        let Some(head) = self.world().repairs.head(artifact, version) else { return Ok(false) };
        let mut taken = None;
        let is_so = || {
            if self.store.head(artifact, version).is_some() || !may_go() {
                return false;
            }
            // From here on it does not come, however far its step is.
            taken = self.world().repairs.take(&head);
            taken.is_some()
        };
        let noted = self.store.repaired(&head, is_so);
        if let (Err(_), Some(repair)) = (&noted, taken) {
            self.world().repairs.put_back(repair);
        }
        if !noted? {
            return Ok(false);
        }
        let mut world = self.world();
        if let Some(tracked) = world.tracked.get_mut(artifact)
            && tracked.is_having(version)
        {
            tracked.give_up();
        }
        drop(world);
        self.changed();
        Ok(true)
    }
}

/// Whether a step of the source is under way for this version.
fn is_being_had(world: &World, artifact: &ArtifactName, version: &VersionName) -> bool {
    world.tracked.get(artifact).is_some_and(|tracked| tracked.is_having(version))
}
