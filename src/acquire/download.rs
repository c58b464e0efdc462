//! Carries out the steps of a transfer: requests, bodies into the pipeline, waits. It decides nothing about resuming.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::{Bytes, BytesMut};
use http::header::{IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method};
use reqwest::{Response, Url};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::fetcher::AcquireError;
use super::note::Note;
use super::pipeline::{Feed, IngestError, Input, Outcome, Work, ingest};
use super::ranges::{Body, Joins, Origin};
use super::source::HttpError;
use super::source::file::joined;
use super::source::http::{Credentials, HttpClient, content_encoding, head_of, status_error};
use super::source::redacted;
use super::transfer::{Event, GiveUp, Held, Range, Rules, Step, Transfer, Validators};
use super::unpack::Unpacked;
use super::{Phase, Resolution};
use crate::intent::{Digest, HttpSource, UnpackFormat};

/// Small chunks are put together to pieces of at least this size, big ones cut to at most twice it: with the queues
/// that bounds what is in memory.
const PIECE: usize = 64 * 1024;
/// Pieces waiting to be written.
const QUEUE: usize = 8;

/// What was downloaded, checked and unpacked.
pub(super) struct Fetched {
    /// Where from.
    pub url: Url,
    /// What the origin said of it.
    pub validators: Validators,
    /// Bytes.
    pub size: u64,
    /// SHA-256.
    pub digest: Digest,
    /// The tree.
    pub unpacked: Unpacked,
}

/// One download.
pub(super) struct Download<'a> {
    pub http: HttpClient,
    pub rules: Rules,
    pub source: &'a HttpSource,
    pub resolution: &'a Resolution,
    /// As [`Resolution::locations`].
    pub urls: Vec<Url>,
    pub boot_id: Option<String>,
    pub work: Work,
    /// How many connections may read one body.
    pub joins: Joins,
    /// The threads at work on the bytes of this download, while there are any.
    pub run: Option<Run>,
    /// The last error of each address.
    pub errors: Vec<Option<HttpError>>,
    /// What was wrong with the bytes of an address.
    pub wrong: Option<AcquireError>,
    /// The note on disk.
    pub noted: Vec<u8>,
}

/// The threads at work on one unbroken sequence of bytes.
pub(super) struct Run {
    feeds: Option<mpsc::Sender<Feed>>,
    ingest: JoinHandle<Result<Outcome, IngestError>>,
    abort: Arc<AtomicBool>,
}

/// Dropped in the middle (its future was), the threads end by themselves.
impl Drop for Run {
    fn drop(&mut self) {
        self.abort.store(true, Relaxed);
    }
}

impl Download<'_> {
    /// Downloads until all is done or given up, on top of the part that `resumed` tells of.
    pub(super) async fn run(
        mut self,
        resumed: Option<(Held, u64)>,
        cancel: &CancellationToken,
    ) -> Result<Fetched, AcquireError> {
        let fetched = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(AcquireError::Cancelled),
            fetched = self.drive(resumed) => fetched,
        };
        if !matches!(fetched, Err(AcquireError::Cancelled)) {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = self.settle() => {}
            }
        }
        self.stop().await;
        fetched
    }

    /// Has the threads take in what they were fed: the next try goes on behind it.
    async fn settle(&mut self) {
        let Some(run) = &mut self.run else { return };
        run.feeds = None;
        let _ = joined(&mut run.ingest).await;
        self.run = None;
    }

    async fn drive(&mut self, resumed: Option<(Held, u64)>) -> Result<Fetched, AcquireError> {
        if let Some((held, offset)) = &resumed {
            self.work.progress.set_total(held.total);
            self.begin(*offset);
        }
        let splice = self.resolution.has_strong_digest();
        let mut at = Transfer::start(self.rules, self.urls.len(), splice, resumed, fastrand::u64(..));
        let mut response = None;
        let mut good = None;
        loop {
            let (transfer, step) = at;
            at = match step {
                Step::Ask { location, range } => match self.work.progress.waits(self.ask(location, range)).await {
                    Ok(answer) => {
                        let next = transfer.on(Event::Head(head_of(&answer)));
                        if !matches!(next.1, Step::Receive { .. } | Step::Judge) {
                            self.unfit_head(location, &answer);
                        }
                        response = Some(answer);
                        next
                    }
                    Err(error) => {
                        let event = match &error {
                            error if error.is_slow() => Event::Slow,
                            // However often it is asked: that version is not to be had there.
                            HttpError::Changed { .. } => Event::Refused,
                            error if error.is_transient() => Event::Failed,
                            _ => Event::Refused,
                        };
                        self.failed(location, error);
                        transfer.on(event)
                    }
                },
                Step::Receive { from } => {
                    if from == 0 {
                        self.stop().await;
                        self.begin(0);
                    }
                    self.note(&transfer).await;
                    match response.take() {
                        Some(response) => self.receive(transfer, response).await?,
                        None => transfer.on(Event::Failed),
                    }
                }
                Step::Wait(wait) => {
                    self.work.progress.waits(tokio::time::sleep(wait)).await;
                    transfer.on(Event::Waited)
                }
                Step::Judge => {
                    let outcome = self.finish().await?;
                    match self.judge(transfer.location(), outcome)? {
                        Some(accepted) => {
                            good = Some((transfer.location(), transfer.held().cloned(), accepted));
                            transfer.on(Event::Good)
                        }
                        None => transfer.on(Event::Wrong),
                    }
                }
                Step::Done => {
                    let Some((location, held, (size, digest, unpacked))) = good else {
                        unreachable!("a transfer is done only after its bytes were judged good");
                    };
                    let validators = held.map(|held| held.validators).unwrap_or_default();
                    return Ok(Fetched { url: self.urls[location].clone(), validators, size, digest, unpacked });
                }
                Step::GiveUp(why) => return Err(self.given_up(why, transfer.location())),
                Step::Take => unreachable!("only a chunk is taken, and chunks are read in `receive`"),
            };
        }
    }

    async fn ask(&self, location: usize, range: Option<Range>) -> Result<Response, HttpError> {
        let url = &self.urls[location];
        // Read for each request: a token may have been replaced while this one failed.
        let credentials = Credentials::read(self.source, self.resolution.version()).await?;
        let mut headers = HeaderMap::new();
        if let Some(Range { from, if_range }) = range {
            let text = format!("bytes={from}-");
            headers.insert(RANGE, HeaderValue::from_str(&text).unwrap_or_else(|e| unreachable!("digits: {e}")));
            // It came in a header, so it fits into one.
            if let Some(validator) = if_range.and_then(|text| HeaderValue::from_str(&text).ok()) {
                headers.insert(IF_RANGE, validator);
            }
        }
        tracing::debug!(url = redacted(url), range = ?headers.get(RANGE), "requesting");
        let response = self.http.send(Method::GET, url, &credentials, &headers).await?;
        self.refuse_encoded(url, &response)?;
        // A mirror's validators say nothing of the origin's.
        let is_origins = location == 0 && response.status().is_success();
        if is_origins && self.resolution.is_named_by_others(&head_of(&response).validators) {
            return Err(HttpError::Changed { url: redacted(url).into() });
        }
        Ok(response)
    }

    /// Bytes are taken as they come, never decoded: object stores label a stored `.gz` with the encoding gzip, and a
    /// digest or the archive's format tells the bytes anyway. Only for a plain file without a digest nothing would.
    fn refuse_encoded(&self, url: &Url, response: &Response) -> Result<(), HttpError> {
        let told = self.work.recipe.format != UnpackFormat::None || !self.work.demanded.is_empty();
        match content_encoding(response.headers()) {
            Some(encoding) if !told && response.status().is_success() => {
                Err(HttpError::Encoded { url: redacted(url).into(), encoding: encoding.into() })
            }
            _ => Ok(()),
        }
    }

    /// Reads a body into the pipeline.
    async fn receive(&mut self, transfer: Transfer, response: Response) -> Result<(Transfer, Step), AcquireError> {
        let location = transfer.location();
        let url = self.urls[location].clone();
        let (http, version) = (self.http.clone(), self.resolution.version());
        let origin = Origin { http, source: self.source, version, url: url.clone() };
        let mut body = Body::new(origin, &self.joins, self.rules.window, transfer.shareable(), response);
        let mut pending = BytesMut::new();
        let mut transfer = transfer;
        loop {
            let chunk = match self.work.progress.waits(body.next()).await {
                Ok(Some(chunk)) => chunk,
                ended => {
                    if body.lied() {
                        self.joins.connections = 1;
                    }
                    if !self.feed(pending.freeze()).await {
                        return self.ended_early(transfer, location).await;
                    }
                    return Ok(match ended {
                        Err(error) => {
                            let event = if error.is_slow() { Event::Slow } else { Event::Failed };
                            self.failed(location, error);
                            transfer.on(event)
                        }
                        Ok(_) => {
                            let next = transfer.on(Event::End);
                            if next.1 != Step::Judge {
                                self.failed(location, HttpError::Range { url: redacted(&url).into() });
                            }
                            next
                        }
                    });
                }
            };
            self.work.progress.came(chunk.len() as u64);
            if body.is_joined() {
                transfer = transfer.joined();
            }
            let next = transfer.on(Event::Chunk(chunk.len() as u64));
            if next.1 != Step::Take {
                self.failed(location, HttpError::Range { url: redacted(&url).into() });
                let taken = self.feed(pending.freeze()).await;
                return if taken { Ok(next) } else { self.ended_early(next.0, location).await };
            }
            transfer = next.0;
            let piece = if pending.is_empty() && chunk.len() >= PIECE {
                chunk
            } else {
                pending.extend_from_slice(&chunk);
                if pending.len() < PIECE {
                    continue;
                }
                pending.split().freeze()
            };
            if !body.meanwhile(self.feed(piece)).await {
                return self.ended_early(transfer, location).await;
            }
        }
    }

    /// The pipeline took no more bytes of that address: it knows why.
    async fn ended_early(&mut self, transfer: Transfer, location: usize) -> Result<(Transfer, Step), AcquireError> {
        let outcome = self.finish().await?;
        match self.judge(location, outcome)? {
            None => Ok(transfer.on(Event::Wrong)),
            Some(_) => unreachable!("the pipeline ends early only on an error"),
        }
    }

    /// Hands bytes on; `false` when the pipeline takes no more.
    async fn feed(&mut self, mut bytes: Bytes) -> bool {
        let Some(feeds) = self.run.as_ref().and_then(|run| run.feeds.as_ref()) else { return false };
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(2 * PIECE));
            if feeds.send(Feed::Bytes(piece)).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Notes what the part is now, before its bytes come; nothing where that is noted already.
    async fn note(&mut self, transfer: &Transfer) {
        let Some(held) = transfer.held() else { return };
        self.work.progress.set_total(held.total);
        let note = Note::new(self.resolution, held, &self.urls[held.location], self.boot_id.as_deref()).to_bytes();
        if note == self.noted {
            return;
        }
        if let Some(feeds) = self.run.as_ref().and_then(|run| run.feeds.as_ref()) {
            // An error comes back with the first bytes.
            let _ = feeds.send(Feed::Note(note.clone())).await;
        }
        self.noted = note;
    }

    /// Starts the threads on the first `prefix` bytes of the part.
    fn begin(&mut self, prefix: u64) {
        let (feeds, receiver) = mpsc::channel(QUEUE);
        let abort = Arc::new(AtomicBool::new(false));
        let work = Work { abort: abort.clone(), ..self.work.clone() };
        self.work.progress.enter(Phase::Downloading);
        self.work.progress.set_bytes(0);
        let input = Input::Download { prefix, feeds: receiver };
        let ingest = tokio::task::spawn_blocking(move || ingest(&work, input));
        self.run = Some(Run { feeds: Some(feeds), ingest, abort });
    }

    /// Ends the threads in the middle of their work.
    async fn stop(&mut self) {
        if let Some(run) = &mut self.run {
            run.abort.store(true, Relaxed);
            run.feeds = None;
            // Whatever they were at, it does not count any more.
            let _ = joined(&mut run.ingest).await;
            self.run = None;
        }
    }

    /// Waits for the threads to work off what they were fed.
    async fn finish(&mut self) -> Result<Outcome, AcquireError> {
        let Some(run) = &mut self.run else { unreachable!("bytes are judged only once per run") };
        if let Some(feeds) = run.feeds.take() {
            // An error says that they have ended already.
            let _ = feeds.send(Feed::End).await;
        }
        let outcome = joined(&mut run.ingest).await;
        self.run = None;
        outcome.map_err(|error| AcquireError::from_ingest(error, &self.work.staging))
    }

    /// Checks digests and tree. `None`: these bytes are wrong, remembered in `wrong`.
    fn judge(&mut self, location: usize, outcome: Outcome) -> Result<Option<(u64, Digest, Unpacked)>, AcquireError> {
        match super::fetcher::accept(outcome, &self.work, &redacted(&self.urls[location])) {
            Ok(accepted) => Ok(Some(accepted)),
            Err(error) if error.is_bad_content() => {
                tracing::warn!(url = redacted(&self.urls[location]), error = %error, "wrong bytes");
                self.wrong = Some(error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn unfit_head(&mut self, location: usize, response: &Response) {
        let url = &self.urls[location];
        let error = match response.status().as_u16() {
            200 | 206 | 416 => HttpError::Range { url: redacted(url).into() },
            _ => status_error(url, response),
        };
        self.failed(location, error);
    }

    fn failed(&mut self, location: usize, error: HttpError) {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::info!(error = %error, cause, "download interrupted");
        self.errors[location] = Some(error);
    }

    fn given_up(&mut self, why: GiveUp, location: usize) -> AcquireError {
        let url: Box<str> = redacted(&self.urls[location]).into();
        match (why, self.wrong.take()) {
            (GiveUp::TooLarge, _) => AcquireError::TooLarge { url, limit: self.rules.max_bytes },
            // The bytes of one address were wrong and no other has any: that is what has to be told.
            (_, Some(wrong)) => wrong,
            (GiveUp::Unstable | GiveUp::Wrong, None) => AcquireError::Unstable { url },
            (GiveUp::Unavailable { retry_after }, None) => {
                let mut errors: Vec<HttpError> = self.errors.iter_mut().filter_map(Option::take).collect();
                let blamed = errors.iter().position(HttpError::is_transient).unwrap_or(0);
                let unknown = || HttpError::Range { url: url.clone() };
                let source = if errors.is_empty() { unknown() } else { errors.swap_remove(blamed) };
                AcquireError::Unavailable { addresses: self.urls.len(), source, others: errors, retry_after }
            }
        }
    }
}
