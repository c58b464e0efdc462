//! One body over several connections, for origins that limit each: carries out what its plan says. Bytes leave it in
//! order, as those of a single response do.
//!
//! What must hold: all connections are read by whoever reads the body, none on a task of its own, so that they wait and
//! end with it; what is held ahead of the reader is bounded, for this body and for all of the node.

mod ahead;
mod plan;
mod request;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use reqwest::Response;
use tokio::time::Instant;

pub(super) use self::ahead::Ahead;
use self::ahead::Share;
use self::plan::{Next, Plan, Stop};
pub(super) use self::request::Origin;
use self::request::Request;
use super::source::HttpError;
use super::source::http::{content_encoding, head_of, status_error};
use super::source::pace::{Floor, Pace};
use super::source::redacted;
use super::transfer::Shared;

/// Bytes are held in pieces of this size, whatever they came in: so that what they take is what they are.
const PIECE: usize = 64 * 1024;

/// What a download may do of this.
pub(super) struct Joins {
    /// Most connections for one body.
    pub connections: u8,
    /// Bytes that all bodies of the node may hold ahead of their readers, but for one range of each.
    pub ahead: Ahead,
}

/// A body being read.
pub(super) enum Body<'a> {
    /// As it comes.
    One { origin: Box<Origin<'a>>, response: Box<Response>, pace: Pace },
    /// By several connections.
    Many(Box<Ranges<'a>>),
}

impl<'a> Body<'a> {
    /// The body of `response`, over several connections where that is allowed: by the document, by what vouches for the
    /// object (`shareable`) and by what the origin says.
    pub(super) fn new(
        origin: Origin<'a>,
        joins: &Joins,
        window: u64,
        shareable: Option<Shared>,
        response: Response,
    ) -> Self {
        let head = head_of(&response);
        let floor = origin.http.floor();
        let shared = shareable.filter(|_| head.status == 206 || head.gives_ranges);
        let if_range = shared.as_ref().and_then(|shared| shared.validators.strong.clone());
        let plan = shared.and_then(|shared| Plan::new(&shared, joins.connections, window));
        match plan {
            None => {
                let pace = Pace::new(floor, Instant::now());
                Body::One { origin: Box::new(origin), response: Box::new(response), pace }
            }
            Some(plan) => {
                let mut ranges = Ranges::new(origin, joins, plan, if_range, &response);
                let pace = Pace::new(ranges.floor, Instant::now());
                ranges.go_on(0, response, pace);
                ranges.ask();
                Body::Many(Box::new(ranges))
            }
        }
    }

    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        match self {
            Body::One { origin, response, pace } => origin.http.chunk(response, pace, &origin.url).await,
            Body::Many(ranges) => ranges.next().await,
        }
    }

    /// Does `work`, which the origin is not to be blamed for, and reads ahead meanwhile.
    pub(super) async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        match self {
            Body::One { pace, .. } => {
                let before = Instant::now();
                let done = work.await;
                pace.pause(before.elapsed());
                done
            }
            Body::Many(ranges) => ranges.meanwhile(work).await,
        }
    }

    /// Its bytes come from more than one response.
    pub(super) fn is_joined(&self) -> bool {
        matches!(self, Body::Many(ranges) if ranges.plan.is_joined())
    }

    /// The origin gave other ranges than it was asked for.
    pub(super) fn lied(&self) -> bool {
        matches!(self, Body::Many(ranges) if ranges.lied)
    }
}

/// What came of a lane's last step.
enum Happened {
    Answer(Result<Response, HttpError>),
    Body { response: Response, pace: Pace, chunk: Result<Option<Bytes>, HttpError> },
}

/// A first body that waits at the end of its range.
struct Parked {
    response: Response,
    pace: Pace,
    since: Instant,
    /// What it sent of the next range.
    surplus: Bytes,
}

/// The connections of one body, and what is held of it.
pub(super) struct Ranges<'a> {
    request: Arc<Request<'a>>,
    /// The least throughput of each connection.
    floor: Floor,
    plan: Plan,
    steps: FuturesUnordered<BoxFuture<'a, (usize, Happened)>>,
    parked: Option<Parked>,
    /// What came since the last whole piece, by lane: where it belongs, and the bytes.
    pending: Vec<(u64, BytesMut)>,
    /// By the place of their first byte.
    pieces: BTreeMap<u64, Bytes>,
    /// For [`Plan::ahead`].
    share: Share,
    /// Why it ends before its end.
    stopped: Option<HttpError>,
    lied: bool,
}

impl<'a> Ranges<'a> {
    fn new(origin: Origin<'a>, joins: &Joins, plan: Plan, if_range: Option<String>, response: &Response) -> Self {
        let at = response.url().clone();
        let encoding = content_encoding(response.headers()).map(Into::into);
        tracing::debug!(url = redacted(&origin.url), connections = joins.connections, "reading ranges at once");
        Self {
            floor: origin.http.floor().shared_by(joins.connections),
            pending: vec![(plan.at(), BytesMut::new()); usize::from(joins.connections)],
            request: Arc::new(Request { origin, at, if_range, encoding }),
            plan,
            steps: FuturesUnordered::new(),
            parked: None,
            pieces: BTreeMap::new(),
            share: joins.ahead.share(),
            stopped: None,
            lied: false,
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        loop {
            if let Some(piece) = self.pieces.remove(&self.plan.at()) {
                self.plan.read(piece.len() as u64);
                self.share.keep(self.plan.ahead());
                self.ask();
                return Ok(Some(piece));
            }
            if self.plan.is_done() {
                return Ok(None);
            }
            self.unpark();
            if let Some(error) = self.stopped.take() {
                return Err(error);
            }
            if self.steps.is_empty() {
                return Err(self.cut_short());
            }
            self.step().await;
        }
    }

    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.step() => {}
            }
        }
    }

    /// Waits until something comes of a connection, and takes it up. Nothing is lost where it is dropped while waiting.
    async fn step(&mut self) {
        match self.steps.next().await {
            None => std::future::pending().await,
            Some((lane, Happened::Answer(answer))) => self.answered(lane, answer),
            Some((lane, Happened::Body { response, pace, chunk })) => match chunk {
                Ok(Some(chunk)) => self.came(lane, response, pace, chunk),
                ended => {
                    self.put_by(lane);
                    let next = match &ended {
                        Ok(_) => self.plan.ended(lane),
                        Err(error) if error.is_slow() => self.plan.slow(lane),
                        Err(_) => self.plan.failed(lane),
                    };
                    let error = ended.err().unwrap_or_else(|| self.cut_short());
                    self.obey(next, error);
                }
            },
        }
        self.ask();
    }

    fn answered(&mut self, lane: usize, answer: Result<Response, HttpError>) {
        match answer {
            Err(error) => {
                let next = self.plan.refused(lane);
                tracing::info!(error = %error, "one connection of the download less");
                self.obey(next, error);
            }
            Ok(response) => match self.plan.answered(lane, &head_of(&response)) {
                Next::Read => {
                    let pace = Pace::new(self.floor, Instant::now());
                    self.go_on(lane, response, pace);
                }
                next => {
                    let url = &self.request.origin.url;
                    let error = match response.status().as_u16() {
                        200 | 206 | 416 => self.cut_short(),
                        _ => status_error(url, &response),
                    };
                    tracing::info!(error = %error, "a range is not to be had");
                    self.obey(next, error);
                }
            },
        }
    }

    fn came(&mut self, lane: usize, response: Response, pace: Pace, mut chunk: Bytes) {
        let (taken, next) = self.plan.came(lane, chunk.len() as u64);
        let surplus = chunk.split_off(usize::try_from(taken).unwrap_or(chunk.len()).min(chunk.len()));
        self.keep(lane, &chunk);
        match next {
            Next::Read => self.go_on(lane, response, pace),
            Next::Park => {
                self.put_by(lane);
                // A copy: it may be a small part of a large buffer.
                let surplus = Bytes::copy_from_slice(&surplus);
                self.parked = Some(Parked { response, pace, since: Instant::now(), surplus });
            }
            next => {
                self.put_by(lane);
                self.obey(next, self.cut_short());
            }
        }
    }

    /// Has the first body go on, or lets it go, once that is told.
    fn unpark(&mut self) {
        let Some(parked) = self.parked.take() else { return };
        match self.plan.resume() {
            Next::Park => self.parked = Some(parked),
            Next::Read => {
                let Parked { response, mut pace, since, surplus } = parked;
                pace.pause(since.elapsed());
                self.pending[0].0 = self.plan.at();
                if surplus.is_empty() {
                    self.go_on(0, response, pace);
                } else {
                    self.came(0, response, pace, surplus);
                }
            }
            next => self.obey(next, self.cut_short()),
        }
    }

    fn obey(&mut self, next: Next, error: HttpError) {
        let Next::Stop(why) = next else { return };
        self.lied |= why == Stop::Lied;
        self.stopped = Some(error);
        self.parked = None;
        for lane in 0..self.pending.len() {
            self.put_by(lane);
        }
        self.steps.clear();
    }

    /// Asks for all that is wanted now, as far as there is memory for it.
    fn ask(&mut self) {
        self.unpark();
        while self.stopped.is_none()
            && let Some(ask) = self.plan.wanted()
            && self.share.reserve(self.plan.ahead_with(ask))
        {
            self.plan.asked(ask);
            self.pending[ask.lane] = (ask.from, BytesMut::new());
            let request = self.request.clone();
            let step = async move { (ask.lane, Happened::Answer(request.send(ask).await)) };
            self.steps.push(Box::pin(step));
        }
    }

    fn go_on(&mut self, lane: usize, mut response: Response, mut pace: Pace) {
        let request = self.request.clone();
        let step = async move {
            let Origin { http, url, .. } = &request.origin;
            let chunk = http.chunk(&mut response, &mut pace, url).await;
            (lane, Happened::Body { response, pace, chunk })
        };
        self.steps.push(Box::pin(step));
    }

    /// Holds bytes of a lane, in pieces.
    fn keep(&mut self, lane: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (_, pending) = &mut self.pending[lane];
            if pending.capacity() == 0 {
                *pending = BytesMut::with_capacity(PIECE);
            }
            let room = bytes.len().min(PIECE - pending.len());
            pending.extend_from_slice(&bytes[..room]);
            bytes = &bytes[room..];
            if pending.len() == PIECE {
                self.put_by(lane);
            }
        }
    }

    /// What a lane has is a piece now.
    fn put_by(&mut self, lane: usize) {
        let (place, pending) = &mut self.pending[lane];
        if !pending.is_empty() {
            let piece = std::mem::take(pending).freeze();
            let length = piece.len() as u64;
            self.pieces.insert(*place, piece);
            *place += length;
        }
    }

    fn cut_short(&self) -> HttpError {
        HttpError::Range { url: redacted(&self.request.origin.url).into() }
    }
}
