//! This room's fuzz targets.
#![allow(clippy::unwrap_used, reason = "it fails by panicking")]

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, sendmsg, shutdown};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::caller::Peer;
use super::conditional::{Answer, Validators, answer};
use super::descriptor::{Descriptor, Taking, Waiting};
use super::listener::{Accept, Connections, Limits};

/// A representation's length in the first eight bytes, then headers, a line each, the first byte of which says which.
pub(crate) fn ranges(bytes: &[u8]) {
    const NAMES: [HeaderName; 6] = [
        header::RANGE,
        header::IF_RANGE,
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_UNMODIFIED_SINCE,
    ];
    let Some((length, lines)) = bytes.split_first_chunk::<8>() else { return };
    let length = u64::from_le_bytes(*length);
    let mut headers = HeaderMap::new();
    for line in lines.split(|&b| b == b'\n') {
        let Some((&name, value)) = line.split_first() else { continue };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(&NAMES[usize::from(name) % NAMES.len()], value);
        }
    }
    for modified in [None, Some(1_767_225_600)] {
        let validators = Validators { etag: "\"sha256:aa\"".into(), modified };
        if let Answer::Part(range) = answer(&Method::GET, &headers, &validators, length) {
            assert!(range.start < range.end && range.end <= length, "{range:?} of {length}");
        }
        let head = answer(&Method::HEAD, &headers, &validators, length);
        assert!(!matches!(head, Answer::Part(_) | Answer::Unsatisfiable), "a HEAD has no range");
    }
}

/// One connection, and then none.
struct Once(Mutex<Option<UnixStream>>);

impl Accept for Once {
    type Stream = Taking;

    async fn accept(&self) -> io::Result<(Taking, Peer, Waiting)> {
        let stream = self.0.lock().unwrap().take();
        let Some(stream) = stream else { return std::future::pending().await };
        let (stream, waiting) = Taking::new(stream)?;
        Ok((stream, Peer::Unix { uid: 1000, gid: 1000, outside: true }, waiting))
    }
}

static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());

/// What a peer sends over the Unix socket, in messages: how many descriptors come with it, how many bytes, and the bytes.
/// Every answer is one, and in the end all descriptors are closed.
pub(crate) fn socket(bytes: &[u8]) {
    let (sent, mut left) = std::os::unix::net::UnixStream::pair().unwrap();
    let answered = RUNTIME.block_on(converse(bytes, sent.into()));
    assert!(answered.is_empty() || answered.starts_with(b"HTTP/1."), "{:?}", String::from_utf8_lossy(&answered));
    // Threads close them. The other end of what was sent is at its end when nobody has one any more.
    left.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // `copy` begins again where the fuzzer's alarm interrupts it.
    let rest = io::copy(&mut left, &mut io::sink());
    assert!(matches!(rest, Ok(0)), "descriptors are left open: {rest:?}");
}

async fn converse(bytes: &[u8], descriptor: OwnedFd) -> Vec<u8> {
    let (theirs, ours) = UnixStream::pair().unwrap();
    let router = Router::new().fallback(async |descriptor: Option<axum::Extension<Descriptor>>, body: Bytes| {
        format!("{} {}", descriptor.is_some(), body.len())
    });
    let connections = Connections::new(router, Limits::default());
    let cancel = CancellationToken::new();
    let accepting = connections.accept_from(Once(Mutex::new(Some(ours))), &cancel);
    let talking = async {
        let answered = talk(theirs, bytes, descriptor).await;
        cancel.cancel();
        answered
    };
    let ((), answered) = tokio::join!(accepting, talking);
    connections.drain().await;
    answered
}

async fn talk(mut theirs: UnixStream, mut bytes: &[u8], descriptor: OwnedFd) -> Vec<u8> {
    while let [descriptors, length, rest @ ..] = bytes {
        // Mostly none or one, now and then as many as one message may have.
        let descriptors = match descriptors {
            0..=223 => usize::from(descriptors % 4),
            _ => usize::from(*descriptors) - 3,
        };
        let (piece, rest) = rest.split_at(rest.len().min(usize::from(*length).max(1)));
        bytes = rest;
        if piece.is_empty()
            || theirs.writable().await.is_err()
            || send(&theirs, piece, &vec![descriptor.as_fd(); descriptors]).is_err()
        {
            break;
        }
        tokio::task::yield_now().await;
    }
    // No more comes; what is answered is read.
    let _ = shutdown(&theirs, Shutdown::Write);
    let mut answered = Vec::new();
    let _ = theirs.read_to_end(&mut answered).await;
    answered
}

fn send(socket: &UnixStream, bytes: &[u8], descriptors: &[std::os::fd::BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
