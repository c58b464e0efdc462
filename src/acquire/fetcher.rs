//! The fetch pipeline put together: resolve and acquire.

mod error;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use self::error::AcquireError;
use super::download::Download;
use super::note::Note;
use super::pipeline::{AbortOnDrop, Input, Outcome, Sink, Work, ingest};
use super::ranges::{Ahead, Joins};
use super::resolve::{Known, by_digest, find_version};
use super::source::ClientError;
use super::source::file::{Watched, joined};
use super::source::http::HttpClient;
use super::transfer::{AHEAD, Held, Rules, Validators};
use super::unpack::{Unpacked, unpack_in_turn};
use super::{Location, Naming, Phase, Progress, Resolution, ResolveError, resolve};
use crate::fs::{self, fail_point};
use crate::intent::{Algorithm, Artifact, Digest, FetchSettings, Source, VersionName, VersionWish};
use crate::store::{Entry, ResolvedFrom, Staging};

/// Fetches artifacts; one for the node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Fetcher {
    http: HttpClient,
    /// Their `max_bytes` is each artifact's own.
    rules: Rules,
    known: Arc<Known>,
    ahead: Ahead,
    /// Turns for decoders with large windows, as many as downloads have turns.
    large: Arc<Semaphore>,
    sink: Sink,
}

/// A version as it lies in staging, verified: `staging.dir()/version/tree`, and the archive in `archive.part`.
#[derive(Debug)]
pub struct Acquired {
    /// Its name.
    pub version: VersionName,
    /// SHA-256 of the archive.
    pub digest: Digest,
    /// Bytes of the archive.
    pub size: u64,
    /// Demanded digests that matched.
    pub verified_by: Vec<Digest>,
    /// Where the bytes came from, without secrets.
    pub source_url: String,
    /// What the source said.
    pub resolved_from: ResolvedFrom,
    /// The tree, sorted by path.
    pub entries: Vec<Entry>,
}

/// Checks the demanded digests, then what became of the tree: wrong bytes are told as such even where they don't
/// unpack either.
pub(super) fn accept(outcome: Outcome, work: &Work, url: &str) -> Result<(u64, Digest, Unpacked), AcquireError> {
    fail_point("acquire.digest.before-check");
    for expected in &work.demanded {
        let found = outcome.digests.iter().find(|found| found.algorithm() == expected.algorithm());
        if let Some(found) = found.filter(|found| *found != expected) {
            return Err(AcquireError::Digest { url: url.into(), expected: expected.clone(), found: found.clone() });
        }
    }
    let unpacked = match outcome.unpacked {
        Ok(unpacked) => unpacked,
        Err(error) if error.is_no_space() => return Err(AcquireError::no_space(error, &work.staging)),
        Err(source) => return Err(AcquireError::Unpack { url: url.into(), source }),
    };
    fail_point("acquire.digest.after-check");
    let sha256 = outcome.digests.into_iter().find(|digest| digest.algorithm() == Algorithm::Sha256);
    let Some(digest) = sha256 else { unreachable!("all of an archive that unpacks was hashed with SHA-256") };
    Ok((outcome.size, digest, unpacked))
}

impl Fetcher {
    /// Builds the HTTP client: custom CAs, proxies from the environment, no total time-out.
    pub fn new(settings: &FetchSettings) -> Result<Self, ClientError> {
        // A plain function is wanted, and `unpack` is a generic one.
        let sink: Sink = |archive, recipe, file_name, tree, donors, progress, abort| {
            let large = archive.large.clone();
            unpack_in_turn(archive, Some(&large), recipe, file_name, (tree, donors), progress, abort)
        };
        let (http, ahead) = (HttpClient::new(settings)?, Ahead::new(AHEAD));
        let large = Arc::new(Semaphore::new(settings.concurrency.max(1) as usize));
        Ok(Self { http, rules: Rules::new(u64::MAX), known: Arc::default(), ahead, large, sink })
    }

    /// Bytes per second that a download must get: `fetch.minThroughput`.
    pub fn min_throughput(&self) -> u64 {
        self.http.floor().bytes_per_second
    }

    /// Asks the source what `wish` is now.
    pub async fn resolve(
        &self,
        artifact: &Artifact,
        wish: &VersionWish,
        cancel: &CancellationToken,
    ) -> Result<Resolution, ResolveError> {
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(ResolveError::Cancelled),
            resolution = resolve::resolve(&self.http, &self.known, self.rules, artifact, wish) => resolution,
        }
    }

    /// Fetches, verifies and unpacks what was resolved into `staging`. On an error the half-made tree is gone; the part
    /// stays only where resuming can help, or where the bytes are bad and the caller puts them into quarantine.
    pub async fn acquire(
        &self,
        artifact: &Artifact,
        resolution: &Resolution,
        staging: &Staging,
        progress: &Arc<Progress>,
        cancel: &CancellationToken,
    ) -> Result<Acquired, AcquireError> {
        progress.enter(Phase::Downloading);
        progress.set_bytes(0);
        progress.set_total(None);
        progress.reset_unpacked();
        let work = Work {
            staging: staging.clone(),
            demanded: resolution.demanded.clone(),
            recipe: artifact.unpack.clone(),
            file_name: artifact.unpack.file_name.clone().unwrap_or_else(|| resolution.file_name.clone()),
            progress: progress.clone(),
            sink: self.sink,
            large: self.large.clone(),
            abort: Arc::new(AtomicBool::new(false)),
        };
        let acquired = self.acquire_into(artifact, resolution, work, cancel).await;
        if let Err(error) = &acquired {
            let keep = error.is_bad_content() || (error.is_transient() && !error.is_no_space());
            let staging = staging.clone();
            let mut cleaned = tokio::task::spawn_blocking(move || {
                staging.discard_tree().and_then(|()| if keep { Ok(()) } else { staging.discard_download() })
            });
            if let Err(error) = joined(&mut cleaned).await {
                // The next try empties staging before it begins; what is to be told is why this one failed.
                tracing::warn!(error = %error, "staging cannot be emptied");
            }
        }
        acquired
    }

    async fn acquire_into(
        &self,
        artifact: &Artifact,
        resolution: &Resolution,
        work: Work,
        cancel: &CancellationToken,
    ) -> Result<Acquired, AcquireError> {
        let mut resolved_from = resolution.resolved_from.clone();
        let (source_url, size, digest, unpacked) = match (&artifact.source, resolution.locations.first()) {
            (Source::Http(source), Some(Location::Http(_))) => {
                let (resumed, boot_id) = self.resumed(resolution, &work.staging).await?;
                let only_url = |location: &Location| match location {
                    Location::Http(url) => Ok(url.clone()),
                    Location::File(_) => Err(AcquireError::SourceChanged),
                };
                let urls: Vec<_> = resolution.locations.iter().map(only_url).collect::<Result<_, _>>()?;
                let rules = Rules { max_bytes: artifact.unpack.limits.bytes.0, ..self.rules };
                let joins = Joins { connections: source.connections.0, ahead: self.ahead.clone() };
                let http = self.http.clone();
                let (run, wrong, noted, errors) = (None, None, Vec::new(), urls.iter().map(|_| None).collect());
                let download =
                    Download { http, rules, source, resolution, urls, boot_id, work, joins, run, errors, wrong, noted };
                let fetched = download.run(resumed, cancel).await?;
                let said = fetched.validators;
                if resolution.version().is_some() {
                    resolved_from.etag = resolved_from.etag.or(said.etag);
                    resolved_from.last_modified = resolved_from.last_modified.or(said.last_modified);
                } else {
                    // What the source has next is told from these: they are of the bytes, whatever it said when it was asked,
                    // and none of a mirror's.
                    let is_its_own = resolution.locations.first() == Some(&Location::Http(fetched.url.clone()));
                    let said = if is_its_own { said } else { Validators::default() };
                    (resolved_from.etag, resolved_from.last_modified) = (said.etag, said.last_modified);
                }
                (super::source::redacted(&fetched.url), fetched.size, fetched.digest, fetched.unpacked)
            }
            // Of a source of any kind: what is here already, in an archive that was kept, comes this way too.
            (_, Some(location @ Location::File(path))) => {
                let url = location.redacted();
                let read = read_file(artifact, resolution, path.clone(), &url, work, cancel).await?;
                if resolution.version().is_none() && resolved_from.last_modified.is_some() {
                    // Of the bytes, whatever stood there when it was asked.
                    resolved_from.last_modified = Some(read.time.to_string());
                }
                (url, read.size, read.digest, read.unpacked)
            }
            _ => return Err(AcquireError::SourceChanged),
        };
        let version = name(&resolution.naming, &digest, &unpacked, &source_url)?;
        let verified_by = resolution.demanded.clone();
        Ok(Acquired { version, digest, size, verified_by, source_url, resolved_from, entries: unpacked.entries })
    }

    /// What an earlier try left that this one can go on with, and the running system's id. Anything else is removed.
    async fn resumed(
        &self,
        resolution: &Resolution,
        staging: &Staging,
    ) -> Result<(Option<(Held, u64)>, Option<String>), AcquireError> {
        let (resolution, staging_) = (resolution.clone(), staging.clone());
        let mut read = tokio::task::spawn_blocking(move || {
            let boot_id = fs::boot_id();
            let note = staging_.download_note()?.as_deref().and_then(Note::parse);
            let held = note.and_then(|note| note.worth(&resolution, boot_id.as_deref()));
            let length = staging_.dir().stat(&Staging::part_name())?.map_or(0, |stat| stat.size);
            let resumed = held.filter(|held| length > 0 && held.total.is_none_or(|total| length <= total));
            if resumed.is_none() {
                staging_.discard_download()?;
            }
            Ok((resumed.map(|held| (held, length)), boot_id))
        });
        joined(&mut read).await.map_err(|error: fs::Error| AcquireError::from_ingest(error.into(), staging))
    }
}

/// What came of a file.
struct FileRead {
    /// When it was written to last.
    time: jiff::Timestamp,
    size: u64,
    digest: Digest,
    unpacked: Unpacked,
}

async fn read_file(
    artifact: &Artifact,
    resolution: &Resolution,
    path: PathBuf,
    url: &str,
    work: Work,
    cancel: &CancellationToken,
) -> Result<FileRead, AcquireError> {
    let keep = artifact.keep_archive;
    let limit = artifact.unpack.limits.bytes.0;
    let (ours, shown) = (work.clone(), Box::<str>::from(url));
    let asked = resolution.clone();
    // Set when this future is dropped too, so that the threads never outlive it for long.
    let abort = work.abort.clone();
    let guard = AbortOnDrop(&abort);
    let mut reading = tokio::task::spawn_blocking(move || {
        ours.staging.discard_download().map_err(|e| AcquireError::from_ingest(e.into(), &ours.staging))?;
        let file = Watched::open(&path).map_err(AcquireError::Open)?;
        let time = file.time();
        if asked.is_named_by_another_file(time, file.size()) {
            return Err(AcquireError::Changed { url: shown });
        }
        if file.size() > limit {
            return Err(AcquireError::TooLarge { url: shown, limit });
        }
        ours.progress.set_total(Some(file.size()));
        let outcome = ingest(&ours, Input::File { file, keep });
        outcome.map(|outcome| (time, outcome)).map_err(|error| AcquireError::from_ingest(error, &ours.staging))
    });
    let outcome = tokio::select! {
        biased;
        () = cancel.cancelled() => {
            work.abort.store(true, Relaxed);
            let _ = joined(&mut reading).await;
            Err(AcquireError::Cancelled)
        }
        outcome = joined(&mut reading) => outcome,
    };
    drop(guard);
    let (time, outcome) = outcome?;
    let (size, digest, unpacked) = accept(outcome, &work, url)?;
    Ok(FileRead { time, size, digest, unpacked })
}

fn name(naming: &Naming, digest: &Digest, unpacked: &Unpacked, url: &str) -> Result<VersionName, AcquireError> {
    match naming {
        Naming::Known(version) => Ok(version.clone()),
        Naming::Content => Ok(by_digest(digest)),
        Naming::TopDirectory { pattern } => {
            let top = unpacked.top_directory.as_deref();
            let top = top.ok_or_else(|| AcquireError::NoTopDirectory { url: url.into() })?;
            find_version(pattern.as_deref(), top).map_err(|source| AcquireError::Naming { url: url.into(), source })
        }
    }
}

#[cfg(test)]
mod tests;
