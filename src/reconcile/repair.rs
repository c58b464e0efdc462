//! Damaged versions: taken out of service, had again, and their seeds mended. There is one way for whoever comes across
//! damage: the scrub, a verification, the seeder or the file server.
//!
//! The bytes come from the archive that was kept beside the tree, else from where the document says that this version
//! is, else from where it was fetched; whichever it is, they must have the digest that was recorded. What is still to
//! be done stands in quarantine as `repair.json` until the seeds are mended, and is gone on with after a restart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::SeedAskError;
use super::ask::Caller;
use super::fetch::Turn;
use super::plan::{self, Moment, Step};
use super::run::Shared;
use super::step::StepError;
use crate::acquire::{Location, Naming, Resolution, ResolveError};
use crate::fs::{LinkMode, RelPath};
use crate::intent::{Artifact, ArtifactName, VersionName, VersionWish, error_chain};
use crate::seed::{self, Record};
use crate::store::{ManifestHead, Reason, StoreError, Version};

/// How long to wait before a report that could not be acted on is taken up again.
const PAUSE: Duration = Duration::from_secs(5);

/// The reason that stands in quarantine.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
struct Damaged {
    what: String,
}

/// Versions to be had again.
#[derive(Debug, Default)]
pub(super) struct Repairs(BTreeMap<ArtifactName, BTreeMap<VersionName, Repair>>);

#[derive(Debug, Clone)]
struct Repair {
    head: Arc<ManifestHead>,
    failures: u32,
    next_try: Option<Moment>,
    /// Why the last try failed.
    error: Option<String>,
}

impl Repairs {
    pub(super) fn of(pending: Vec<ManifestHead>) -> Self {
        let mut repairs = Self::default();
        pending.into_iter().for_each(|head| repairs.add(Arc::new(head)));
        repairs
    }

    fn add(&mut self, head: Arc<ManifestHead>) {
        let repair = Repair { head: head.clone(), failures: 0, next_try: None, error: None };
        self.0.entry(head.artifact.clone()).or_default().insert(head.version.clone(), repair);
    }

    /// Artifacts of which there are any.
    pub(super) fn artifacts(&self) -> impl Iterator<Item = &ArtifactName> {
        self.0.keys()
    }

    /// What is to be had again of an artifact.
    pub(super) fn heads(&self, name: &ArtifactName) -> impl Iterator<Item = &Arc<ManifestHead>> {
        self.of_artifact(name).map(|repair| &repair.head)
    }

    /// What this version was, where it is to be had again.
    pub(super) fn head(&self, name: &ArtifactName, version: &VersionName) -> Option<Arc<ManifestHead>> {
        Some(self.0.get(name)?.get(version)?.head.clone())
    }

    /// The one of this very version: what was published anew since, and found damaged too, is another.
    pub(super) fn is_of(&self, head: &Arc<ManifestHead>) -> bool {
        let repair = self.0.get(&head.artifact).and_then(|of| of.get(&head.version));
        repair.is_some_and(|repair| Arc::ptr_eq(&repair.head, head))
    }

    pub(super) fn remove(&mut self, head: &Arc<ManifestHead>) {
        if self.is_of(head)
            && let Some(of) = self.0.get_mut(&head.artifact)
        {
            of.remove(&head.version);
            if of.is_empty() {
                self.0.remove(&head.artifact);
            }
        }
    }

    fn failed(&mut self, head: &Arc<ManifestHead>, error: String, next_try: impl FnOnce(u32) -> Moment) {
        if self.is_of(head)
            && let Some(repair) = self.0.get_mut(&head.artifact).and_then(|of| of.get_mut(&head.version))
        {
            repair.failures = repair.failures.saturating_add(1);
            repair.next_try = Some(next_try(repair.failures));
            repair.error = Some(error);
        }
    }

    fn of_artifact(&self, name: &ArtifactName) -> impl Iterator<Item = &Repair> {
        self.0.get(name).into_iter().flat_map(BTreeMap::values)
    }

    /// What is to be done for an artifact now, and when to look again.
    pub(super) fn plan(&self, name: &ArtifactName, now: Moment) -> (Option<Step>, Option<Moment>) {
        let is_due = |repair: &&Repair| repair.next_try.is_none_or(|at| at <= now);
        let due = self.of_artifact(name).find(is_due);
        let step = due.map(|repair| Step::Repair { artifact: name.clone(), head: repair.head.clone() });
        (step, self.of_artifact(name).filter_map(|repair| repair.next_try).filter(|at| *at > now).min())
    }

    /// Whether one is on its way that has not failed yet: seeds wait for it rather than go back to an older version.
    pub(super) fn is_hopeful(&self, name: &ArtifactName) -> bool {
        self.of_artifact(name).any(|repair| repair.failures == 0)
    }

    /// Whether the first try to have this version again is still to end.
    pub(super) fn is_first_try(&self, name: &ArtifactName, version: &VersionName) -> bool {
        self.0.get(name).and_then(|of| of.get(version)).is_some_and(|repair| repair.failures == 0)
    }

    /// Whether this version is to be had again.
    pub(super) fn holds(&self, name: &ArtifactName, version: &VersionName) -> bool {
        self.0.get(name).is_some_and(|of| of.contains_key(version))
    }

    /// Why a version could not be had again.
    pub(super) fn error(&self, name: &ArtifactName) -> Option<String> {
        let failed = self.of_artifact(name).find_map(|repair| Some((&repair.head.version, repair.error.as_ref()?)));
        failed.map(|(version, error)| format!("version {version} was damaged and cannot be fetched again: {error}"))
    }
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
        self.store.quarantine_damaged(version, &reason, || {
            tracing::error!(artifact = %head.artifact, version = %head.version, check, what,
                "version is damaged: put into quarantine, fetched again");
            self.to_be_repaired(head);
        })
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
        self.mend_seeds(artifact, head).await;
        self.mend_filled(head).await;
        let (shared, head_) = (self.clone(), head.clone());
        let noted = tokio::task::spawn_blocking(move || shared.note_repaired(&head_)).await;
        if let Err(error) = noted {
            tracing::error!(error = error_chain(&error), "repair not noted");
        }
        self.rest(artifact, cancel);
    }

    /// A repair is done, unless the version was found damaged again meanwhile: that is another one. Blocks.
    pub(super) fn note_repaired(&self, head: &Arc<ManifestHead>) {
        let is_done = || self.store.head(&head.artifact, &head.version).is_some() && self.world().repairs.is_of(head);
        match self.store.repaired(head, is_done) {
            Ok(false) => return,
            Ok(true) => {}
            Err(error) => {
                tracing::warn!(error = error_chain(&error), "repair not noted; it is looked at after a restart");
            }
        }
        self.counts.repaired.inc();
        tracing::info!(artifact = %head.artifact, version = %head.version, "version repaired");
        self.world().repairs.remove(head);
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
        self.world().repairs.failed(head, text, next_try);
        self.rest(artifact, cancel);
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
        if self.store.head(&head.artifact, &head.version).is_some() {
            return Ok(());
        }
        let wish = VersionWish::Exact(head.version.clone());
        let (store, head_) = (self.store.clone(), head.clone());
        if let Some(path) = tokio::task::spawn_blocking(move || store.quarantined_archive(&head_)).await?? {
            let kept = Resolution::recorded(head, Location::File(path));
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
        let recorded = Resolution::recorded(head, location);
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

    /// Targets whose files are the damaged inodes get the good ones. A declared one that fails is tried again.
    async fn mend_seeds(self: &Arc<Self>, artifact: &Arc<Artifact>, head: &ManifestHead) {
        let seeder = self.seeder.clone();
        let Ok(records) = tokio::task::spawn_blocking(move || seeder.records()).await else { return };
        for record in records.into_iter().filter(|record| is_of(record, head)) {
            if let Err(error) = self.mend_seed(artifact, head, &record.target).await {
                tracing::error!(artifact = %head.artifact, target = %record.target, error = error_chain(&error),
                    "seed of a repaired version not mended; seed it again");
                self.update(artifact, |tracked| {
                    if let Some(facts) = tracked.facts.seeds.get_mut(&record.target) {
                        facts.holds = None;
                    }
                });
            }
        }
    }

    pub(super) async fn mend_seed(
        self: &Arc<Self>,
        artifact: &Artifact,
        head: &ManifestHead,
        target: &RelPath,
    ) -> Result<(), SeedAskError> {
        let caller = Caller::none();
        let turn = self.turn_at(target, caller.patience).await?;
        // Whoever had the turn before may have seeded another version there.
        let (seeder, target_) = (self.seeder.clone(), target.clone());
        let record = self.tasks.spawn_blocking(move || seeder.record(&target_)).await?;
        if !record.is_some_and(|record| is_of(&record, head)) {
            return Ok(());
        }
        let declared = artifact.seeds.iter().find(|seed| seed.target == *target);
        let request = seed::Request {
            target: target.clone(),
            link: declared.map(|seed| seed.link).unwrap_or_default(),
            swap: declared.and_then(|seed| seed.swap),
            force: false,
            rendered: None,
            only_rendered: false,
        };
        self.seed_in_turn(turn, head.artifact.clone(), head.version.clone(), request, caller).await.map(drop)
    }
}

/// Whether a target holds a version's own files.
fn is_of(record: &Record, head: &ManifestHead) -> bool {
    record.mode == LinkMode::Hardlink && record.artifact == head.artifact && record.version == head.version
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn head(artifact: &str, version: &str) -> ManifestHead {
        let sample = ManifestHead::sample(artifact, version);
        ManifestHead { source_url: "https://h/a%20b/x%2b.tgz".into(), ..sample }
    }

    fn of(repairs: &Repairs, artifact: &str, version: &str) -> Arc<ManifestHead> {
        let found = repairs.0[&artifact.parse().unwrap()].get(&version.parse().unwrap());
        found.unwrap().head.clone()
    }

    fn due(repairs: &Repairs, artifact: &str, now: u64) -> (Option<String>, Option<u64>) {
        let (step, again) = repairs.plan(&artifact.parse().unwrap(), Moment::from_secs(now));
        let version = step.map(|step| match step {
            Step::Repair { head, .. } => head.version.to_string(),
            other => panic!("{other:?}"),
        });
        (version, again.map(|at| at.as_secs()))
    }

    #[test]
    fn each_is_tried_until_it_is_here_and_those_that_failed_wait() {
        let mut repairs = Repairs::of(vec![head("os", "1"), head("os", "2")]);
        let os = "os".parse().unwrap();
        assert_eq!(due(&repairs, "os", 0), (Some("1".into()), None));
        assert_eq!(due(&repairs, "other", 0), (None, None));
        let [first, second] = ["1", "2"].map(|version| of(&repairs, "os", version));
        repairs.failed(&first, "no".into(), |failures| Moment::from_secs(10 * u64::from(failures)));
        assert_eq!(due(&repairs, "os", 0), (Some("2".into()), Some(10)));
        assert!(repairs.is_hopeful(&os) && !repairs.is_first_try(&os, &"1".parse().unwrap()));
        repairs.remove(&second);
        assert_eq!(due(&repairs, "os", 9), (None, Some(10)));
        assert!(!repairs.is_hopeful(&os));
        assert!(repairs.error(&os).unwrap().contains("version 1"));
        assert_eq!(due(&repairs, "os", 10), (Some("1".into()), None));
        repairs.remove(&first);
        assert!(repairs.0.is_empty() && repairs.error(&os).is_none());
    }

    #[test]
    fn what_ends_is_the_repair_that_was_begun() {
        let [before, since] = [(); 2].map(|()| Arc::new(head("os", "1")));
        let mut repairs = Repairs::default();
        repairs.add(before.clone());
        repairs.add(since.clone());
        repairs.failed(&before, "no".into(), |_| Moment::from_secs(10));
        repairs.remove(&before);
        assert!(repairs.is_of(&since) && repairs.is_hopeful(&since.artifact));
        repairs.remove(&since);
        assert!(repairs.0.is_empty());
    }

    #[test]
    fn what_was_recorded_is_demanded_under_its_own_name() {
        let head = head("os", "1");
        let resolution = Resolution::recorded(&head, Location::recorded(&head.source_url).unwrap());
        assert_eq!(resolution.version(), Some(&head.version));
        assert_eq!(resolution.demanded, std::slice::from_ref(&head.archive.digest));
        assert_eq!(resolution.file_name, "x+.tgz");
        assert_eq!(Location::recorded("file:///a%20b"), Some(Location::File("/a b".into())));
        assert_eq!(Location::recorded("nowhere"), None);
    }
}
