//! Bodies that are read from disk: in pieces, off the async threads, one piece ahead of what is being sent.
//!
//! Two pieces is all that a body holds, so a thousand slow readers stay within bounds. A source that ends early fails
//! the body, and with it the connection: what is cut short never looks whole.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::Extension;
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use tokio::task::{JoinHandle, spawn_blocking};

use super::sendfile::{self, Held, Outbox};
use crate::fs::read_at_once;
use crate::intent::error_chain;
use crate::store::Version;

/// Bytes read at once.
const PIECE: u64 = 256 * 1024;
/// So many bytes are read in the request's own task, where they are in memory: that is less work than to send them.
pub(super) const FEW: usize = 32 * 1024;

/// A body of exactly `length` bytes read from `source`.
pub(super) fn stream(source: impl Read + Send + Unpin + 'static, length: u64) -> Body {
    Body::new(Pieces { reading: read_on(source, length, None), left: length, last: None })
}

struct Pieces<R> {
    reading: Option<JoinHandle<io::Result<(R, Bytes)>>>,
    /// Bytes not handed out yet, those being read included.
    left: u64,
    /// The piece handed out last; when it was sent, its memory takes the next but one.
    last: Option<Bytes>,
}

fn read_on<R: Read + Send + 'static>(
    mut source: R,
    left: u64,
    used: Option<BytesMut>,
) -> Option<JoinHandle<io::Result<(R, Bytes)>>> {
    if left == 0 {
        return None;
    }
    Some(spawn_blocking(move || {
        // At most PIECE, which fits.
        let mut piece = used.unwrap_or_default();
        piece.resize(left.min(PIECE) as usize, 0);
        source.read_exact(&mut piece)?;
        Ok((source, piece.freeze()))
    }))
}

impl<R: Read + Send + Unpin + 'static> http_body::Body for Pieces<R> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(reading) = &mut self.reading else { return Poll::Ready(None) };
        let read = ready!(Pin::new(reading).poll(cx)).map_err(io::Error::other).and_then(|read| read);
        self.reading = None;
        Poll::Ready(Some(match read {
            Ok((source, piece)) => {
                self.left -= piece.len() as u64;
                let used = self.last.replace(piece.clone()).and_then(|last| last.try_into_mut().ok());
                self.reading = read_on(source, self.left, used);
                Ok(Frame::data(piece))
            }
            Err(error) => {
                tracing::error!(error = error_chain(&error), left = self.left, "body cut short");
                Err(error)
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Bytes of a version's file, read by position; as long as it lives, the version stays.
#[derive(Debug)]
pub(super) struct FileRange {
    held: Arc<Held>,
    at: u64,
    left: u64,
}

impl FileRange {
    pub(super) fn new(file: File, range: Range<u64>, version: Version) -> Self {
        let (at, left) = (range.start, range.end - range.start);
        Self { held: Arc::new(Held::new(file, version)), at, left }
    }

    /// Everything of the range was read.
    pub(super) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// A body of these bytes: a few at once where they are in memory, else by sendfile where the connection can, else read.
    pub(super) fn body(self, outbox: Option<Extension<Outbox>>) -> Body {
        match (self.few_at_once(), outbox) {
            (Some(bytes), _) => Body::from(bytes),
            (None, Some(Extension(outbox))) => Body::new(Sent { range: self, outbox }),
            (None, None) => {
                let length = self.left;
                stream(self, length)
            }
        }
    }

    fn few_at_once(&self) -> Option<Vec<u8>> {
        let few = usize::try_from(self.left).ok().filter(|&left| left <= FEW)?;
        read_at_once(self.held.file(), self.at, few)
    }
}

impl Read for FileRange {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.held.file().read_at(&mut buffer[..most], self.at)?;
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

/// A file that leaves by sendfile, piece by piece: the next is asked for when the one before it was sent.
struct Sent {
    /// What was not given to the outbox yet.
    range: FileRange,
    outbox: Outbox,
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let (at, left) = (self.range.at, self.range.left);
        if left == 0 {
            return Poll::Ready(None);
        }
        let length = usize::try_from(left).map_or(sendfile::PIECE, |left| left.min(sendfile::PIECE));
        let piece = self.outbox.put(self.range.held.clone(), at, length);
        self.range.at += length as u64;
        self.range.left -= length as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.range.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.range.left)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn every_byte_comes_in_order() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7] {
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let body = stream(io::Cursor::new(bytes.clone()), length);
            assert_eq!(http_body::Body::size_hint(&body).exact(), Some(length));
            assert_eq!(body.collect().await.unwrap().to_bytes(), bytes);
        }
    }

    #[tokio::test]
    async fn a_source_that_ends_early_fails_the_body() {
        for short in [0, 5, PIECE] {
            let body = stream(io::Cursor::new(vec![0; short as usize]), short + 1);
            assert!(body.collect().await.is_err(), "{short}");
        }
    }
}
