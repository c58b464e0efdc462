//! One question and its answer over a fresh connection to the daemon.
//!
//! What must hold: connecting, asking and the answer's length are all limited; the token goes out in no message.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::attach::Attaching;
use super::problem::Problem;
use super::server::Server;

/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Between two tries at a socket whose queue is full: at first, and at most.
const QUEUE_PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(500)];
/// Longest answer taken, in bytes.
pub(super) const ANSWER_LIMIT: usize = 64 << 20;

/// What is asked.
#[derive(Debug)]
pub(super) struct Question {
    /// The method.
    pub(super) method: Method,
    /// Path and query, percent-encoded.
    pub(super) path: String,
    /// JSON; empty: none.
    pub(super) body: Bytes,
    /// How long the answer may take.
    pub(super) limit: Duration,
}

/// Why there is no answer, or not the one that was hoped for.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// Nobody listens there.
    #[error("cannot reach the daemon at {server}")]
    Unreachable {
        /// Where it was tried.
        server: Server,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke: the daemon stopped, or something between here and there.
    #[error("the connection to the daemon at {server} broke before it answered")]
    Lost {
        /// Where it was.
        server: Server,
        /// How.
        #[source]
        source: hyper::Error,
    },
    /// It took the question and said nothing.
    #[error("the daemon at {server} has not answered for {}", super::human::duration(*limit))]
    Silent {
        /// Where it is.
        server: Server,
        /// How long it had.
        limit: Duration,
    },
    /// It refused or failed, and said why.
    #[error(transparent)]
    Problem(Box<Problem>),
    /// An error that no seedcache writes.
    #[error("what listens at {server} answered {status}, and not as seedcache does")]
    Foreign {
        /// Where it is.
        server: Server,
        /// Its status.
        status: StatusCode,
    },
    /// The answer is too long to be one.
    #[error("what listens at {server} answered with more than {ANSWER_LIMIT} bytes")]
    TooLong {
        /// Where it is.
        server: Server,
    },
    /// The answer is no such JSON.
    #[error("the answer of {server} to {path} cannot be understood; is it a seedcache of this version?")]
    Unreadable {
        /// Where it is.
        server: Server,
        /// What was asked for.
        path: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

impl ClientError {
    /// No daemon is there, or it says nothing.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, ClientError::Unreachable { .. } | ClientError::Lost { .. } | ClientError::Silent { .. })
    }

    /// What to do about it.
    pub(super) fn next(&self) -> Option<String> {
        match self {
            ClientError::Unreachable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("ask as root or as the daemon's user, or over TCP with --server http://HOST:PORT".to_owned())
            }
            ClientError::Unreachable { .. } => Some(
                "start it with `seedcache serve --config DIR`, or say where it listens with --server or \
                 SEEDCACHE_SERVER"
                    .to_owned(),
            ),
            ClientError::Lost { .. } | ClientError::Silent { .. } => {
                Some("see the daemon's log, and ask again once it is up".to_owned())
            }
            ClientError::Problem(problem) => problem.next().map(str::to_owned),
            ClientError::Foreign { .. } | ClientError::TooLong { .. } | ClientError::Unreadable { .. } => {
                Some("check --server and SEEDCACHE_SERVER".to_owned())
            }
        }
    }
}

/// Connects, asks, and reads the whole answer; an error status is an error.
pub(super) async fn ask(
    server: &Server,
    token: Option<&HeaderValue>,
    question: &Question,
) -> Result<Bytes, ClientError> {
    ask_with(server, token, question, None).await
}

/// The same with a descriptor attached to the question, where it goes to a Unix socket.
pub(super) async fn ask_with(
    server: &Server,
    token: Option<&HeaderValue>,
    question: &Question,
    descriptor: Option<OwnedFd>,
) -> Result<Bytes, ClientError> {
    let request = request(server, token, question, "application/json");
    let answered = exchange(server, request, descriptor, question.limit, async |status, body| {
        let body = whole(body, server).await?;
        if status.is_success() { Ok(body) } else { Err(refused(server, status, &body)) }
    });
    answered.await
}

/// Connects and asks for an answer that goes on: its body, to be read as it comes.
pub(super) async fn open(
    server: &Server,
    token: Option<&HeaderValue>,
    question: &Question,
    media_type: &'static str,
) -> Result<Incoming, ClientError> {
    let request = request(server, token, question, media_type);
    let answered = exchange(server, request, None, question.limit, async |status, body| {
        if status.is_success() { Ok(body) } else { Err(refused(server, status, &whole(body, server).await?)) }
    });
    answered.await
}

fn request(
    server: &Server,
    token: Option<&HeaderValue>,
    question: &Question,
    media_type: &'static str,
) -> Request<Full<Bytes>> {
    let host = match server {
        Server::Unix(_) => "localhost",
        Server::Http(authority) => authority.as_str(),
    };
    let mut request = Request::new(Full::new(question.body.clone()));
    *request.method_mut() = question.method.clone();
    *request.uri_mut() = question.path.parse().unwrap_or_else(|e| unreachable!("the path is percent-encoded: {e}"));
    let headers = request.headers_mut();
    headers.insert(HOST, host.parse().unwrap_or_else(|e| unreachable!("an authority is plain ASCII: {e}")));
    headers.insert(ACCEPT, HeaderValue::from_static(media_type));
    if !question.body.is_empty() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if let Some(token) = token {
        headers.insert(AUTHORIZATION, token.clone());
    }
    request
}

/// Connects and sends, then has the answer read; all but connecting within `limit`.
async fn exchange<T>(
    server: &Server,
    request: Request<Full<Bytes>>,
    descriptor: Option<OwnedFd>,
    limit: Duration,
    read: impl AsyncFnOnce(StatusCode, Incoming) -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let unreachable = |source| ClientError::Unreachable { server: server.clone(), source };
    let took_too_long = |_| unreachable(io::Error::new(io::ErrorKind::TimedOut, "connecting took longer than 5 s"));
    let answered = match server {
        Server::Unix(path) => {
            let stream = timeout(CONNECT_LIMIT, connect_unix(path)).await.map_err(took_too_long)?;
            let stream = Attaching::new(stream.map_err(unreachable)?, descriptor);
            timeout(limit, send(stream, request, server, read)).await
        }
        Server::Http(authority) => {
            let stream = timeout(CONNECT_LIMIT, TcpStream::connect(authority.as_str())).await.map_err(took_too_long)?;
            timeout(limit, send(stream.map_err(unreachable)?, request, server, read)).await
        }
    };
    answered.map_err(|_| ClientError::Silent { server: server.clone(), limit })?
}

/// Connects, and comes again where more wait to be accepted than the daemon's queue holds: over TCP the kernel does that,
/// here it says so at once.
async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let [mut pause, longest] = QUEUE_PAUSES;
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Each at another moment, who all came at one.
                tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
                pause = (pause * 2).min(longest);
            }
            other => return other,
        }
    }
}

async fn send<S, T>(
    stream: S,
    request: Request<Full<Bytes>>,
    server: &Server,
    read: impl AsyncFnOnce(StatusCode, Incoming) -> Result<T, ClientError>,
) -> Result<T, ClientError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let lost = |source| ClientError::Lost { server: server.clone(), source };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    // Ends with the sender and the answer's body; its errors come out there.
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await.map_err(lost)?.into_parts();
    read(head.status, body).await
}

async fn whole(body: Incoming, server: &Server) -> Result<Bytes, ClientError> {
    let body = Limited::new(body, ANSWER_LIMIT).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|error| body_error(error, server))
}

fn refused(server: &Server, status: StatusCode, body: &[u8]) -> ClientError {
    match Problem::read(status, body) {
        Some(problem) => ClientError::Problem(Box::new(problem)),
        None => ClientError::Foreign { server: server.clone(), status },
    }
}

fn body_error(error: Box<dyn std::error::Error + Send + Sync>, server: &Server) -> ClientError {
    let server = server.clone();
    match error.downcast::<hyper::Error>() {
        Ok(source) => ClientError::Lost { server, source: *source },
        Err(other) => {
            debug_assert!(other.is::<LengthLimitError>(), "a limited body fails in two ways only");
            ClientError::TooLong { server }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::net::UnixSocket;

    use super::*;

    #[tokio::test]
    async fn a_full_queue_is_waited_for() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("s");
        let socket = UnixSocket::new_stream().unwrap();
        socket.bind(&path).unwrap();
        let listener = socket.listen(1).unwrap();
        let mut waiting = Vec::new();
        let full = loop {
            match UnixStream::connect(&path).await {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let server = Server::Unix(path);
        let question =
            Question { method: Method::GET, path: "/".into(), body: Bytes::new(), limit: Duration::from_secs(10) };
        let asked = tokio::spawn(async move { ask(&server, None, &question).await });
        // Nobody is let in before the first try was made: on this thread that is when the other task waits.
        tokio::task::yield_now().await;
        let others = waiting.len();
        for _ in 0..others {
            drop(listener.accept().await.unwrap());
        }
        drop(listener.accept().await.unwrap());
        let ended = asked.await.unwrap().unwrap_err();
        assert!(matches!(ended, ClientError::Lost { .. }), "{ended:?}");
    }
}
