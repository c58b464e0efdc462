//! Damaged versions: taken out of service, had again, and their seeds mended. There is one way for whoever comes across
//! damage: the scrub, a verification, the seeder or the file server.
//!
//! The bytes come from the archive that was kept beside the tree, else from where the document says that this version
//! is, else from where it was fetched; whichever it is, they must have the digest that was recorded. What is still to
//! be done stands in quarantine as `repair.json` until the seeds are mended, and is gone on with after a restart.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::fetch::Turn;
use super::plan::{self, Moment};
use super::run::Shared;
use super::step::StepError;
use crate::acquire::{Location, Naming, Resolution, ResolveError};
use crate::intent::{Artifact, VersionWish, error_chain};
use crate::store::{ManifestHead, Reason, StoreError, Version};

/// How long to wait before a report that could not be acted on is taken up again.
const PAUSE: Duration = Duration::from_secs(5);

/// The reason that stands in quarantine.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
struct Damaged {
    what: String,
}

/// Takes up reports of damage until the node stops.
pub(super) async fn attend(shared: Arc<Shared>) {
    loop {
        let reports = tokio::select! {
            () = shared.cancel.cancelled() => return,
            reports = shared.store.damage_reports() => reports,
        };
        let ours = shared.clone();
        let taken = tokio::task::spawn_blocking(move || {
            let mut all = true;
            for report in reports {
                if let Err(error) = ours.take_out(&report.version, "read", &report.what) {
                    tracing::error!(
                        error = error_chain(&error),
                        "damaged version not put into quarantine; tried again"
                    );
                    report.version.report(report.what);
                    all = false;
                }
            }
            all
        });
        if !taken.await.unwrap_or(false) {
            tokio::select! {
                () = shared.cancel.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }
}

impl Shared {
    /// Takes a version found damaged out of service, to be had again; `false` when somebody has. Blocks.
    pub(super) fn take_out(&self, version: &Version, check: &'static str, what: &str) -> Result<bool, StoreError> {
        let head = version.head();
        let reason = Reason::new(check, &Damaged { what: what.to_owned() });
        let taken = self.store.quarantine_damaged(version, &reason, || {
            tracing::error!(artifact = %head.artifact, version = %head.version, check, what,
                "version is damaged: put into quarantine, fetched again");
            self.to_be_repaired(head);
        });
        // Where it could not, current may have to be linked again.
        taken.inspect_err(|_| self.changed())
    }

    /// A version is to be had again: nobody is to see it gone, and not this.
    fn to_be_repaired(&self, head: &Arc<ManifestHead>) {
        self.counts.damaged.inc();
        let mut world = self.world();
        world.repairs.add(head.clone());
        if !world.catalog.artifacts.contains_key(&head.artifact) {
            let error = "no document declares the artifact any more; declare it again".to_owned();
            world.repairs.failed(head, error, |_| Moment::ZERO);
        }
        drop(world);
        self.changed();
    }

    /// The same for whoever cannot do anything about a failure: it is tried again later.
    pub(super) fn take_out_sometime(&self, version: &Version, check: &'static str, what: String) {
        if let Err(error) = self.take_out(version, check, &what) {
            tracing::error!(error = error_chain(&error), "damaged version not put into quarantine; tried again");
            version.report(what);
        }
    }

    /// Has a damaged version again and mends its seeds.
    pub(super) async fn repair(
        self: &Arc<Self>,
        artifact: &Arc<Artifact>,
        head: &Arc<ManifestHead>,
        cancel: &CancellationToken,
    ) {
        let outcome = self.have_again(artifact, head, cancel).await;
        if cancel.is_cancelled() {
            // Another try goes on from here: it is the one that is heard.
            return self.changed();
        }
        if let Err(error) = outcome {
            return self.not_repaired(artifact, head, &error, cancel);
        }
        let left = self.mend_targets(head, self.targets_of(head).await).await;
        // Pods may keep their directories locked, and disks fail for long: the artifact does not wait for them.
        self.world().repairs.set_here(head, true);
        self.rest(artifact, cancel);
        self.mend_until_done(head, left).await;
        for failures in 1.. {
            if self.cancel.is_cancelled() {
                // Not all may be mended: the next start goes on.
                return;
            }
            let (shared, head_) = (self.clone(), head.clone());
            let noted = tokio::task::spawn_blocking(move || shared.note_repaired(&head_)).await;
            let Err(error) = noted.map_err(StepError::from).and_then(|noted| noted.map_err(StepError::from)) else {
                break;
            };
            tracing::warn!(artifact = %head.artifact, version = %head.version, error = error_chain(&error),
                "repair not noted; tried again");
            self.not_yet(head, error_chain(&error), failures).await;
        }
        // If it was not, since the version went away meanwhile, it is to be had again.
        self.world().repairs.set_here(head, false);
        self.changed();
    }

    /// A repair is done, unless the version was found damaged again meanwhile: that is another one. Blocks.
    pub(super) fn note_repaired(&self, head: &Arc<ManifestHead>) -> crate::fs::Result<()> {
        if self.store.repaired(head, || self.is_here_again(head))? {
            self.counts.repaired.inc();
            tracing::info!(artifact = %head.artifact, version = %head.version, "version repaired");
            self.world().repairs.remove(head);
        }
        Ok(())
    }

    /// Whether the version of this very repair is on the node.
    pub(super) fn is_here_again(&self, head: &Arc<ManifestHead>) -> bool {
        self.store.head(&head.artifact, &head.version).is_some() && self.world().repairs.is_of(head)
    }

    /// A try to have a damaged version again failed.
    pub(super) fn not_repaired(
        &self,
        artifact: &Artifact,
        head: &Arc<ManifestHead>,
        error: &StepError,
        cancel: &CancellationToken,
    ) {
        let (failing, now, text) = (error.failing(), self.now(), error_chain(error));
        self.counts.repair_failures.inc();
        tracing::warn!(artifact = %head.artifact, version = %head.version, error = %text,
            "damaged version cannot be fetched again yet");
        let next_try = |failures| now + plan::back_off(failing, failures, fastrand::f64());
        // While it is mended the artifact is busy with other things.
        let was_here = self.world().repairs.failed(head, text, next_try);
        match was_here {
            true => self.changed(),
            false => self.rest(artifact, cancel),
        }
    }

    /// The try is over, unless it was given up and something else is done for the artifact by now.
    fn rest(&self, artifact: &Artifact, cancel: &CancellationToken) {
        self.update(artifact, |tracked| {
            if !cancel.is_cancelled() {
                tracked.facts.busy = false;
                tracked.running = None;
            }
            // What could not be seeded from a damaged version need not wait any longer.
            tracked.facts.seeds.values_mut().for_each(|seed| seed.next_try = None);
        });
    }

    async fn have_again(
        self: &Arc<Self>,
        artifact: &Arc<Artifact>,
        head: &Arc<ManifestHead>,
        cancel: &CancellationToken,
    ) -> Result<(), StepError> {
        let mut turn = tokio::select! {
            () = cancel.cancelled() => return Err(StepError::Resolve(ResolveError::Cancelled)),
            turn = self.turn(&artifact.name) => turn,
        };
        let here = self.store.head(&head.artifact, &head.version);
        if here.is_some_and(|here| here.archive.digest == head.archive.digest) {
            return Ok(());
        }
        let wish = VersionWish::Exact(head.version.clone());
        let (store, head_) = (self.store.clone(), head.clone());
        let kept = tokio::task::spawn_blocking(move || store.quarantined_archive(&head_)).await?;
        // It lies where the damage is.
        let kept = kept.unwrap_or_else(|error| {
            tracing::warn!(artifact = %head.artifact, version = %head.version, error = error_chain(&error),
                "the kept archive cannot be looked at; fetched from the source");
            None
        });
        if let Some(path) = kept {
            let kept = Resolution::recorded(artifact, head, Location::File(path));
            match self.fetch_and_publish(artifact, &wish, &kept, Some(head), &mut turn, cancel).await {
                Ok(_) => return Ok(()),
                Err(error) => tracing::warn!(artifact = %head.artifact, version = %head.version,
                    error = error_chain(&error), "the kept archive is no good either; fetched from the source"),
            }
        }
        let declared = self.as_declared(artifact, head, &mut turn, cancel).await;
        let Err(error) = declared else { return Ok(()) };
        let Some(location) = Location::recorded(&head.source_url) else { return Err(error) };
        tracing::info!(artifact = %head.artifact, version = %head.version, error = error_chain(&error),
            url = head.source_url, "fetched from where it came from");
        let recorded = Resolution::recorded(artifact, head, location);
        match self.fetch_and_publish(artifact, &wish, &recorded, Some(head), &mut turn, cancel).await {
            Ok(_) => Ok(()),
            // What the document leads to is what its author can mend.
            Err(_) => Err(error),
        }
    }

    async fn as_declared(
        self: &Arc<Self>,
        artifact: &Arc<Artifact>,
        head: &Arc<ManifestHead>,
        turn: &mut Turn,
        cancel: &CancellationToken,
    ) -> Result<(), StepError> {
        let wish = VersionWish::Exact(head.version.clone());
        turn.lend();
        let found = self.fetcher.resolve(artifact, &wish, cancel).await?;
        if let Some((found, held)) = plan::contradiction(&found.demanded, head) {
            return Err(StepError::OtherBytes { version: head.version.clone(), found, held });
        }
        let mut demanded = found.demanded;
        if !demanded.contains(&head.archive.digest) {
            demanded.push(head.archive.digest.clone());
        }
        let resolution = Resolution { naming: Naming::Known(head.version.clone()), demanded, ..found };
        self.fetch_and_publish(artifact, &wish, &resolution, Some(head), turn, cancel).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn head(artifact: &str, version: &str) -> ManifestHead {
        let sample = ManifestHead::sample(artifact, version);
        ManifestHead { source_url: "https://h/a%20b/x%2b.tgz".into(), ..sample }
    }

    #[test]
    fn what_was_recorded_is_demanded_under_its_own_name() {
        let head = head("os", "1");
        let recorded = |url: &str| {
            let spec = serde_json::json!({ "version": "1", "source": { "http": { "url": url, "checksums": { "url": url } } } });
            let artifact = Artifact {
                name: head.artifact.clone(),
                spec: serde_json::from_value(spec).unwrap(),
                generation: head.recipe.clone(),
                file: "a.yaml".into(),
            };
            Resolution::recorded(&artifact, &head, Location::recorded(&head.source_url).unwrap())
        };
        let resolution = recorded("https://other/{version}/x-{version}%2b.tgz?y");
        assert_eq!(resolution.version(), Some(&head.version));
        assert_eq!(resolution.demanded, std::slice::from_ref(&head.archive.digest));
        assert_eq!(resolution.file_name, "x-1+.tgz", "as the document says");
        assert_eq!(recorded("https://other/{file}").file_name, "x+.tgz", "where it came from");
        assert_eq!(Location::recorded("file:///a%20b"), Some(Location::File("/a b".into())));
        assert_eq!(Location::recorded("nowhere"), None);
    }
}
