//! Room for downloads: promised before they begin from what is known of their size, and again as more is known.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::downloads::{Place, Seen};
use super::run::Shared;
use super::shortage::Need;
use super::step::StepError;
use crate::acquire::{Progress, Snapshot};
use crate::fs::Dir;
use crate::intent::{Artifact, ArtifactName, Bytes, Source};
use crate::store::{ManifestHead, Room, StoreError, Taken};

/// A download that found no room needs so much more than it had taken, at least.
const MORE: u64 = 1 << 20;
const MORE_FILES: u64 = 16;
/// How often a running download is held against its promise.
const LOOK: Duration = Duration::from_millis(20);

/// What does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.words())]
pub(super) struct NoRoom {
    /// Whose download; `None`: the store as it is.
    pub(super) artifact: Option<ArtifactName>,
    /// What it needs, compressed and unpacked.
    pub(super) bytes: u64,
    /// What there is.
    pub(super) room: Room,
    /// What could be freed.
    pub(super) freed: u64,
}

impl NoRoom {
    fn words(&self) -> String {
        let Room { max_bytes, used, min_free, free } = self.room;
        let limit = match max_bytes {
            Some(most) if used.saturating_add(self.bytes).saturating_sub(self.freed) > most => {
                format!("store.maxBytes is {}, of which {} are taken", Bytes(most), Bytes(used))
            }
            _ => format!("store.minFree keeps {} of the disk free, and {} are", Bytes(min_free), Bytes(free)),
        };
        let subject = match &self.artifact {
            Some(artifact) => {
                format!("there is no space for the next version of {artifact}, which needs {}", Bytes(self.bytes))
            }
            None => "the store takes more space than it may".to_owned(),
        };
        let freed = Bytes(self.freed);
        format!(
            "{subject}: {limit}, and no more than {freed} can be freed; lower `retain`, drop leases, pins or hard-linked \
             seeds, raise the limit, or give the store a larger disk"
        )
    }
}

/// Why a download was promised no room.
#[derive(Debug, thiserror::Error)]
pub(super) enum RoomError {
    /// It does not fit.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The store cannot be looked at.
    #[error(transparent)]
    Fs(#[from] crate::fs::Error),
    /// A version in the way cannot be removed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A defect.
    #[error("a task ended unexpectedly; this is a defect of seedcache, please report it")]
    Task(#[from] tokio::task::JoinError),
}

/// The promise ends with the download, however that ends.
struct Promised<'a>(&'a Shared, &'a ArtifactName);

impl Drop for Promised<'_> {
    fn drop(&mut self) {
        self.0.store.end_promise(&self.0.house.promises, self.1);
    }
}

impl Shared {
    /// Carries a download out within the room that there is: `work` ends early when `stop` is cancelled. What an
    /// earlier try was `short` of in its staging directory must be there before this one begins. What is done before it was
    /// looked at is held against the room, too.
    pub(super) async fn within_room<T, E>(
        self: &Arc<Self>,
        artifact: &Arc<Artifact>,
        progress: &Progress,
        short: Option<(Need, Dir)>,
        place: &mut Place,
        stop: &CancellationToken,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<Result<T, E>, RoomError> {
        let holding = self.store.holding(&artifact.name);
        let previous = holding.newest_first().first().map(|head| (**head).clone());
        let at_least = short.as_ref().map_or(0, |(need, _)| need.bytes);
        let need = |seen: Option<Snapshot>| need(artifact, previous.as_deref(), seen).max(at_least);
        let _promised = Promised(self, &artifact.name);
        let mut promised = need(None);
        self.ask_room(artifact, promised, Taken::default()).await?;
        if let Some((Need { bytes, entries }, staging)) = short {
            tokio::task::spawn_blocking(move || staging.try_room(bytes, entries)).await??;
        }
        let mut work = std::pin::pin!(work);
        // Making room was no wait for the source.
        place.look_anew(flow(progress), self.now());
        loop {
            let done = tokio::select! {
                done = &mut work => Some(done),
                () = tokio::time::sleep(LOOK) => None,
            };
            place.look(flow(progress), self.now());
            let seen = progress.snapshot();
            let (needed, taken) = (need(Some(seen)), taken(artifact, seen));
            match done {
                Some(Ok(done)) if taken.written > promised => {
                    self.ask_room(artifact, taken.written, taken).await?;
                    return Ok(Ok(done));
                }
                Some(done) => return Ok(done),
                None if needed <= promised => {
                    self.house.promises.note(&artifact.name, taken);
                    continue;
                }
                None => {}
            }
            // Meanwhile nothing is read from the source.
            if let Err(error) = self.ask_room(artifact, needed, taken).await {
                stop.cancel();
                let _ = work.await;
                return Err(error);
            }
            promised = needed;
            place.look_anew(flow(progress), self.now());
        }
    }

    /// What a download that found no room would have needed at least.
    pub(super) fn need_of(&self, artifact: &Artifact, seen: Snapshot, error: &StepError) -> Need {
        let told = if let StepError::Room(RoomError::NoRoom(no_room)) = error { no_room.bytes } else { 0 };
        let holding = self.store.holding(&artifact.name);
        let likely = need(artifact, holding.newest_first().first().map(|head| &***head), Some(seen));
        // What it took is free again by now: more than that is needed.
        let more = taken(artifact, seen).written.saturating_add(MORE);
        Need { bytes: likely.max(told).max(more), entries: seen.entries.saturating_add(MORE_FILES) }
    }

    async fn ask_room(self: &Arc<Self>, artifact: &Arc<Artifact>, bytes: u64, taken: Taken) -> Result<(), RoomError> {
        let (shared, artifact) = (self.clone(), artifact.clone());
        tokio::task::spawn_blocking(move || shared.promise(&artifact.name, bytes, taken)).await?
    }
}

fn flow(progress: &Progress) -> Seen {
    let (came, waits) = progress.flow();
    Seen { came, waits }
}

/// Whether the archive itself is written to the store.
fn stores_archive(artifact: &Artifact) -> bool {
    artifact.keep_archive || matches!(artifact.source, Source::Http(_))
}

fn taken(artifact: &Artifact, seen: Snapshot) -> Taken {
    let archive = if stores_archive(artifact) { seen.bytes } else { 0 };
    Taken { written: seen.unpacked_bytes.saturating_add(archive), aside: seen.aside_bytes }
}

/// Bytes that a download takes in all, as far as can be told: the archive's and those of its files, told by how far it
/// is, else by the version before it.
fn need(artifact: &Artifact, previous: Option<&ManifestHead>, seen: Option<Snapshot>) -> u64 {
    let archive = seen.and_then(|seen| seen.total_bytes).or(previous.map(|head| head.archive.size)).unwrap_or(0);
    let archive = archive.max(seen.map_or(0, |seen| seen.bytes));
    let likely = previous.map_or(archive, |head| scaled(head.bytes, archive, head.archive.size));
    let files = match seen {
        // The beginning tells little.
        Some(seen) if seen.bytes > archive / 8 => {
            let so_far = scaled(seen.unpacked_bytes, archive, seen.bytes);
            so_far.max(seen.unpacked_bytes.saturating_add(seen.unpacked_bytes / 16))
        }
        Some(seen) => likely.max(seen.unpacked_bytes),
        None => likely,
    };
    files.saturating_add(if stores_archive(artifact) { archive } else { 0 })
}

/// `bytes` times `by / of`.
fn scaled(bytes: u64, by: u64, of: u64) -> u64 {
    let scaled = u128::from(bytes) * u128::from(by) / u128::from(of.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::acquire::Phase;
    use crate::store::Archive;

    /// A document with `more` in its spec.
    pub(in crate::reconcile) fn artifact(more: &str) -> Artifact {
        let yaml = format!(
            "apiVersion: seedcache.dev/v1alpha1\nkind: Artifact\nmetadata: {{name: app}}\nspec:\n  source: {{http: \
             {{url: 'https://origin.invalid/app.tgz'}}}}\n  version: v1\n{more}"
        );
        let parsed = crate::intent::parse_documents(std::path::Path::new("app.yaml"), &yaml).unwrap();
        parsed.into_iter().next().unwrap().artifact.unwrap()
    }

    fn previous(size: u64, bytes: u64) -> ManifestHead {
        let sample = ManifestHead::sample("app", "v0");
        ManifestHead { archive: Archive { size, ..sample.archive.clone() }, bytes, ..sample }
    }

    fn seen(bytes: u64, total_bytes: Option<u64>, unpacked_bytes: u64) -> Option<Snapshot> {
        Some(Snapshot { phase: Phase::Downloading, bytes, total_bytes, unpacked_bytes, aside_bytes: 0, entries: 1 })
    }

    #[test]
    fn what_a_download_needs_is_told_from_what_is_known() {
        let artifact = artifact("");
        let like = previous(100, 300);
        assert_eq!(need(&artifact, None, None), 0);
        assert_eq!(need(&artifact, Some(&like), None), 400);
        assert_eq!(need(&artifact, None, seen(0, Some(1000), 0)), 2000);
        assert_eq!(need(&artifact, Some(&like), seen(0, Some(1000), 0)), 4000);
        assert_eq!(need(&artifact, Some(&like), seen(10, Some(1000), 5000)), 6000, "more than likely already");
        // Half of it tells what all of it takes.
        assert_eq!(need(&artifact, Some(&like), seen(500, Some(1000), 3200)), 7400);
        // All here, and it swells: always a little ahead of what is there.
        assert_eq!(need(&artifact, None, seen(1000, Some(1000), 16_000)), 18_000);
        assert_eq!(need(&artifact, None, seen(700, None, 160)), 870);
    }

    #[test]
    fn the_message_names_the_limit_and_the_need() {
        let room = Room { max_bytes: Some(5 << 20), used: 4 << 20, min_free: 1 << 20, free: 9 << 20 };
        let no_room = NoRoom { artifact: Some("app".parse().unwrap()), bytes: 3 << 20, room, freed: 1 << 20 };
        let text = no_room.to_string();
        let said = "there is no space for the next version of app, which needs 3.0 MiB: store.maxBytes is 5.0 MiB, of \
                    which 4.0 MiB are taken, and no more than 1.0 MiB can be freed; ";
        assert!(text.starts_with(said), "{text}");
        let room = Room { max_bytes: None, free: 2 << 20, ..room };
        let text = NoRoom { artifact: None, bytes: 0, room, freed: 0 }.to_string();
        assert!(text.contains("store.minFree keeps 1.0 MiB of the disk free, and 2.0 MiB are"), "{text}");
    }
}
