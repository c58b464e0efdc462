//! Bytes from a source into a published version: the part of a step that an acquisition and a repair share.

use std::sync::{Arc, PoisonError};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::downloads::Place;
use super::run::Shared;
use super::step::StepError;
use crate::acquire::{AcquireError, Acquired, Phase, Progress, Resolution};
use crate::intent::{Artifact, ArtifactName, VersionWish, error_chain, recipe_digest};
use crate::store::{ManifestHead, NewVersion, Reason, Staging};

impl Shared {
    /// Held by whoever works in the artifact's staging directory.
    pub(super) fn staging_gate(&self, artifact: &ArtifactName) -> Arc<tokio::sync::Mutex<()>> {
        let mut gates = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        gates.entry(artifact.clone()).or_default().clone()
    }

    /// Waits until nobody else uses the artifact's staging directory, and for a download's place.
    pub(super) async fn turn(&self, artifact: &ArtifactName) -> Turn {
        let gate = self.staging_gate(artifact);
        Turn { _alone: gate.lock_owned().await, place: self.downloads.enter(artifact, || self.now()).await }
    }

    /// With what is being repaired: it comes back as it was.
    pub(super) async fn fetch_and_publish(
        self: &Arc<Self>,
        artifact: &Arc<Artifact>,
        wish: &VersionWish,
        resolution: &Resolution,
        repaired: Option<&Arc<ManifestHead>>,
        turn: &mut Turn,
        cancel: &CancellationToken,
    ) -> Result<Arc<ManifestHead>, StepError> {
        let progress = self.progress(artifact);
        let fetched = self.fetch(artifact, wish, resolution, repaired, (&progress, turn), cancel).await;
        match &fetched {
            Ok(_) => self.house.shortages.forget(artifact, resolution),
            Err(error) if error.is_no_room() => {
                let need = self.need_of(artifact, progress.snapshot(), error);
                self.house.shortages.note(artifact, resolution, need);
            }
            Err(_) => {}
        }
        fetched
    }

    async fn fetch(
        self: &Arc<Self>,
        artifact: &Arc<Artifact>,
        wish: &VersionWish,
        resolution: &Resolution,
        repaired: Option<&Arc<ManifestHead>>,
        (progress, turn): (&Arc<Progress>, &mut Turn),
        cancel: &CancellationToken,
    ) -> Result<Arc<ManifestHead>, StepError> {
        let (store, name) = (self.store.clone(), artifact.name.clone());
        let likely = resolution.version().cloned();
        let stage = move || Ok::<_, StepError>(store.staging(&name)?.with_donors(store.donors(&name, likely.as_ref())));
        let staging = tokio::task::spawn_blocking(stage).await??;
        let short = self.house.shortages.of(artifact, resolution).map(|need| (need, staging.dir().clone()));
        let began = tokio::time::Instant::now();
        let stop = cancel.child_token();
        let work = self.fetcher.acquire(artifact, resolution, &staging, progress, &stop);
        let acquired = match self.within_room(artifact, progress, short, &mut turn.place, &stop, work).await {
            Ok(Ok(acquired)) => acquired,
            Err(error) => {
                // What does not fit takes no room while it waits for more.
                empty(staging).await?;
                return Err(error.into());
            }
            Ok(Err(error)) => {
                if let Err(left) = self.clean_up(artifact, &staging, &error).await {
                    // What is to be told is why the bytes are bad.
                    tracing::warn!(artifact = %artifact.name, error = error_chain(&left), "bad bytes not in quarantine");
                }
                return Err(error.into());
            }
        };
        tracing::info!(artifact = %artifact.name, version = %acquired.version, digest = %acquired.digest,
            bytes = acquired.size, elapsed_ms = began.elapsed().as_millis() as u64, "archive fetched and verified");
        if let VersionWish::Exact(wanted) = wish
            && *wanted != acquired.version
        {
            empty(staging).await?;
            return Err(StepError::OtherVersion { wanted: wanted.clone(), found: acquired.version });
        }
        progress.enter(Phase::Publishing);
        let (shared, artifact, repaired) = (self.clone(), artifact.clone(), repaired.cloned());
        tokio::task::spawn_blocking(move || {
            let store = &shared.store;
            let mut new = new_version(&artifact, acquired);
            let at = repaired.as_deref().map_or_else(Timestamp::now, |head| as_it_was(&mut new, head));
            // What is damaged comes back with its own bytes or not at all.
            let damaged = || shared.world().repairs.head(&new.artifact, &new.version);
            if let Some(held) = damaged().map(|head| head.archive.digest.clone()).filter(|held| *held != new.digest) {
                staging.discard_tree().and_then(|()| staging.discard_download())?;
                return Err(StepError::OtherBytes { version: new.version, found: new.digest, held });
            }
            let (key, digest) = ((new.artifact.clone(), new.version.clone()), new.digest.clone());
            let may_come = || match shared.world().repairs.head(&key.0, &key.1) {
                Some(head) => head.archive.digest == digest,
                // It may have been removed on demand meanwhile.
                None => repaired.is_none(),
            };
            // The same bytes under the same recipe: a source that cannot be asked what it has, only for all of it.
            if let Some(head) = store.head(&new.artifact, &new.version)
                && head.archive.digest == new.digest
                && head.recipe == new.recipe
                // Else it would be fetched again at each refresh: what the source says then is held against this.
                && head.resolved_from == new.resolved_from
            {
                staging.discard_tree()?;
                staging.discard_download()?;
                return Ok(head);
            }
            store
                .publish_if(&staging, new, at, may_come)
                .inspect_err(|error| {
                    let emptied = staging
                        .discard_tree()
                        .and_then(|()| if error.is_no_space() { staging.discard_download() } else { Ok(()) });
                    if let Err(error) = emptied {
                        tracing::warn!(%error, "staging not cleaned");
                    }
                })
                .map_err(StepError::from)
        })
        .await?
    }

    /// Bad bytes go into quarantine with the reason; whatever else fails cleans up after itself.
    async fn clean_up(&self, artifact: &Artifact, staging: &Staging, error: &AcquireError) -> Result<(), StepError> {
        if !error.is_bad_content() {
            return Ok(());
        }
        let reason = Reason::new("acquire", error);
        let (store, name, staging) = (self.store.clone(), artifact.name.clone(), staging.clone());
        let put_aside = move || {
            let done = store.quarantine_download(&name, &staging, &reason);
            if done.is_err() {
                // Bad bytes are not resumed from.
                staging.discard_tree().and_then(|()| staging.discard_download())?;
            }
            done
        };
        Ok(tokio::task::spawn_blocking(put_aside).await??)
    }

    fn progress(&self, artifact: &Artifact) -> Arc<Progress> {
        let mut progress = Arc::default();
        self.update(artifact, |tracked| {
            if let Some(running) = &tracked.running {
                progress = running.progress.clone();
            }
        });
        progress
    }
}

/// One's turn to fetch, until it is dropped.
pub(super) struct Turn {
    _alone: tokio::sync::OwnedMutexGuard<()>,
    place: Place,
}

impl Turn {
    /// What follows takes little: others may download meanwhile.
    pub(super) fn lend(&mut self) {
        self.place.step_aside();
    }
}

/// What is said of a repaired version is what was said of it before, the time that it came included.
fn as_it_was(new: &mut NewVersion, head: &ManifestHead) -> Timestamp {
    new.source_url.clone_from(&head.source_url);
    new.verified_by.clone_from(&head.archive.verified_by);
    new.resolved_from = head.resolved_from.clone();
    head.published_at
}

/// Forgets what was downloaded and unpacked.
async fn empty(staging: Staging) -> Result<(), StepError> {
    Ok(tokio::task::spawn_blocking(move || staging.discard_tree().and_then(|()| staging.discard_download())).await??)
}

fn new_version(artifact: &Artifact, acquired: Acquired) -> NewVersion {
    NewVersion {
        artifact: artifact.name.clone(),
        version: acquired.version,
        source_url: acquired.source_url,
        digest: acquired.digest,
        size: acquired.size,
        verified_by: acquired.verified_by,
        resolved_from: acquired.resolved_from,
        recipe: recipe_digest(&artifact.unpack),
        keep_archive: artifact.keep_archive,
        entries: acquired.entries,
    }
}
