//! Accepting connections: our own loop over TCP and the Unix socket, so that the peer's credentials, the number of
//! connections and every wait of one are ours to say.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use axum::http::{HeaderValue, StatusCode};
use futures_util::future::Either;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::caller::Peer;
use super::closing;
use super::descriptor::{Taking, Waiting};
use super::load::{Intake, LOAD};
use super::patient::Patient;
use super::quick::Quick;
use super::sendfile::{Sending, Socket};
use crate::intent::error_chain;

/// Bytes of a request's head, and of an answer waiting to be sent.
const BUFFER: usize = 64 * 1024;
/// Connections of a listener, beyond which the system holds little for each that is new, where it can.
const CROWD: usize = 64;
/// The wait after an accept that failed for want of descriptors or memory.
const BREATH: Duration = Duration::from_millis(100);

/// Connections of one listener at most: enough for every pod of a node to wait at once many times over.
const MOST_CONNECTIONS: usize = 4_096;
/// Connections of one listener where few files may be open.
const LEAST_CONNECTIONS: usize = 64;
/// Open files that are kept for the daemon's own work.
const OWN_FILES: u64 = 1024;
/// Listeners that share what is left.
const LISTENERS: u64 = 2;
/// Open files of a connection: itself, a version's two directories, and the file that is sent.
const FILES_EACH: u64 = 4;
/// How long a new connection may take to send a head where more than half of all places are taken.
const CROWDED_HEAD_TIME: Duration = Duration::from_secs(2);

/// What a listener and its connections may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections of one listener; further ones wait in the system's accept queue, which is bounded too.
    pub(super) connections: usize,
    /// How long a connection may take to send a request's head, idle time before it included.
    pub(super) head_time: Duration,
    /// How long a peer may take no bytes of an answer.
    pub(super) stall_time: Duration,
    /// How long requests in flight may take once the daemon is told to stop.
    pub(super) drain_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connections: MOST_CONNECTIONS, head_time: seconds(10), stall_time: seconds(60), drain_time: seconds(20) }
    }
}

impl Limits {
    /// As many connections as leave the daemon files to work with, where so many may be open (`None`: any number).
    pub(super) fn within(files: Option<u64>) -> Self {
        let connections = files.map_or(MOST_CONNECTIONS, |files| {
            let each = files.saturating_sub(OWN_FILES) / (LISTENERS * FILES_EACH);
            usize::try_from(each).unwrap_or(usize::MAX).clamp(LEAST_CONNECTIONS, MOST_CONNECTIONS)
        });
        Self { connections, ..Self::default() }
    }

    /// How long one may take to send a request's head that comes when so many places are taken: those who wait for one are
    /// to have it soon.
    fn head_time(&self, taken: usize) -> Duration {
        if taken > self.connections / 2 { self.head_time.min(CROWDED_HEAD_TIME) } else { self.head_time }
    }
}

/// Where connections come from.
pub(super) trait Accept {
    /// A connection.
    type Stream: Socket;

    /// Waits for the next connection: it, who is at its other end, and where descriptors from there go.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer, Waiting)>> + Send;
}

impl Accept for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<(Self::Stream, Peer, Waiting)> {
        let (stream, address) = TcpListener::accept(self).await?;
        // Answers are written whole: waiting for more to send only delays them.
        let _ = stream.set_nodelay(true);
        Ok((stream, Peer::Tcp(address), Waiting::default()))
    }
}

impl Accept for UnixListener {
    type Stream = Taking;

    async fn accept(&self) -> io::Result<(Self::Stream, Peer, Waiting)> {
        // What waits to be closed counts: as long as it is very much, nothing more is taken.
        while closing::is_full() {
            tokio::time::sleep(BREATH).await;
        }
        let (stream, _) = UnixListener::accept(self).await?;
        let peer = stream.peer_cred()?;
        let (stream, waiting) = Taking::new(stream)?;
        // The kernel gives no number to a process that this one's PID namespace does not hold: it is in another container.
        let outside = peer.pid().is_none_or(|pid| pid == 0);
        Ok((stream, Peer::Unix { uid: peer.uid(), gid: peer.gid(), outside }, waiting))
    }
}

/// The connections of all listeners.
#[derive(Debug)]
pub(super) struct Connections {
    router: Router,
    quick: Option<Quick>,
    limits: Limits,
    graceful: GracefulShutdown,
    tasks: TaskTracker,
    /// Ends connections that outstay the drain.
    end: CancellationToken,
}

impl Connections {
    pub(super) fn new(router: Router, limits: Limits) -> Self {
        let (graceful, tasks) = (GracefulShutdown::new(), TaskTracker::new());
        Self { router, quick: None, limits, graceful, tasks, end: CancellationToken::new() }
    }

    /// What is asked before the router is.
    pub(super) fn with_quick(mut self, quick: Quick) -> Self {
        self.quick = Some(quick);
        self
    }

    /// Accepts until `cancel`.
    pub(super) async fn accept_from(&self, listener: impl Accept, cancel: &CancellationToken) {
        let places = Arc::new(Semaphore::new(self.limits.connections));
        let next = async || {
            let place = places.clone().acquire_owned().await;
            let place = place.unwrap_or_else(|e| unreachable!("nobody closes this semaphore: {e}"));
            (place, listener.accept().await)
        };
        while let Some((place, accepted)) = cancel.run_until_cancelled(next()).await {
            match accepted {
                Ok((stream, peer, waiting)) => {
                    let taken = self.limits.connections.saturating_sub(places.available_permits());
                    if taken > CROWD {
                        stream.hold_little();
                    }
                    self.serve(stream, (peer, waiting), (place, self.limits.head_time(taken)));
                }
                Err(error) if is_peers_fault(&error) => tracing::debug!(%error, "connection lost before it was served"),
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    }

    fn serve(
        &self,
        stream: impl Socket,
        (peer, waiting): (Peer, Waiting),
        (place, head_time): (OwnedSemaphorePermit, Duration),
    ) {
        let (router, quick) = (self.router.clone(), self.quick.clone());
        let (stream, outbox) = Sending::new(stream);
        let intake = Intake::new(&LOAD);
        let stream = Patient::new(stream, self.limits.stall_time, &LOAD, intake.clone());
        let answer = service_fn(move |mut request: hyper::Request<Incoming>| {
            let descriptor = waiting.take();
            // Of one that also had a length, which hyper does not tell of, the sides may differ on where it ends.
            let ends = request.headers().contains_key(TRANSFER_ENCODING);
            let quick = quick.as_ref().filter(|_| !ends);
            if let Some(response) = quick.and_then(|quick| quick.answer(&request, peer, &outbox)) {
                intake.answered();
                return Either::Left(ready(Ok(response)));
            }
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(outbox.clone());
            if let Some(descriptor) = descriptor {
                request.extensions_mut().insert(descriptor);
            }
            let answer = router.clone().oneshot(request.map(axum::body::Body::new));
            let intake = intake.clone();
            Either::Right(async move {
                let mut answer = answer.await?;
                intake.answered();
                if answer.status() == StatusCode::NOT_MODIFIED {
                    // The router counts the bytes of no body; what belongs there is the length of what was not sent.
                    answer.headers_mut().remove(CONTENT_LENGTH);
                }
                if ends {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer)
            })
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head_time)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(stream), answer);
        let connection = self.graceful.watch(connection);
        let end = self.end.clone();
        self.tasks.spawn(async move {
            if let Some(Err(error)) = end.run_until_cancelled(connection).await {
                tracing::debug!(?peer, error = error_chain(&error), "connection ended");
            }
            drop(place);
        });
    }

    /// Finishes what is in flight within the drain time, then ends the rest.
    pub(super) async fn drain(self) {
        let patience = self.limits.drain_time;
        self.tasks.close();
        if tokio::time::timeout(patience, self.graceful.shutdown()).await.is_err() {
            tracing::warn!(
                connections = self.tasks.len(),
                seconds = patience.as_secs(),
                "requests cut off at shutdown"
            );
        }
        self.end.cancel();
        self.tasks.wait().await;
    }
}

/// The peer went away between connecting and being accepted.
fn is_peers_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | NotConnected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_the_work() {
        for (files, connections) in [(None, 4_096), (Some(1 << 20), 4_096), (Some(4096), 384), (Some(1024), 64)] {
            assert_eq!(Limits::within(files).connections, connections, "{files:?}");
        }
    }

    #[test]
    fn who_comes_late_is_to_ask_at_once() {
        let limits = Limits { connections: 100, ..Limits::default() };
        assert_eq!([1, 50, 51, 100].map(|taken| limits.head_time(taken).as_secs()), [10, 10, 2, 2]);
    }
}
