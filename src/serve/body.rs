//! Bodies that are read from disk: in pieces, off the async threads, two of them at once and ahead of what is being sent.
//!
//! These and the one being sent are all that a body holds, and all bodies together have so much room and no more
//! (`load.rs`): slow readers by the thousand take turns. A source that ends early fails the body, and with it the
//! connection: what is cut short never looks whole.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::iter::Peekable;
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

use super::load::{LOAD, Load, Room, Turn};
use super::sendfile::{self, Held, Outbox};
use crate::fs::read_at_once;
use crate::intent::error_chain;
use crate::store::Version;

/// Bytes of a piece, or a few more.
pub(super) const PIECE: u64 = 128 * 1024;
/// Pieces being read, or read and not asked for yet.
const AHEAD: usize = 2;
/// So many bytes are read in the request's own task, where they are in memory: that is less work than to send them.
pub(super) const FEW: usize = 32 * 1024;

/// A body of exactly `length` bytes that `pieces` read, each by itself: the next ones are read while one is sent.
pub(super) fn stream<R>(pieces: impl Iterator<Item = R> + Send + Unpin + 'static, length: u64) -> Body
where
    R: FnOnce(&mut BytesMut) -> io::Result<()> + Send + 'static,
{
    Body::new(Pieces::new(pieces, length, &LOAD))
}

struct Pieces<I: Iterator> {
    pieces: Peekable<I>,
    /// In the order in which they are sent.
    reading: VecDeque<Reading>,
    /// Bytes not handed out yet, those being read included.
    left: u64,
    /// The piece handed out last; once it was sent, its memory and its room take another.
    last: Option<(Bytes, Room)>,
    /// The wait for room, where nothing is being read.
    turn: Option<Turn>,
    load: &'static Load,
}

// Nothing in it is pinned.
impl<I: Iterator> Unpin for Pieces<I> {}

/// A piece that is being read, and room for it.
struct Reading {
    read: JoinHandle<io::Result<Bytes>>,
    room: Room,
}

impl<R, I> Pieces<I>
where
    R: FnOnce(&mut BytesMut) -> io::Result<()> + Send + 'static,
    I: Iterator<Item = R>,
{
    fn new(pieces: I, length: u64, load: &'static Load) -> Self {
        let (pieces, reading) = (pieces.peekable(), VecDeque::with_capacity(AHEAD));
        let mut this = Self { pieces, reading, left: length, last: None, turn: None, load };
        this.read_ahead();
        this
    }

    /// Has as many pieces read as there is room for at once. Where others wait for room there is none: all have a turn for
    /// each piece, however long their bodies are.
    fn read_ahead(&mut self) {
        while self.reading.len() < AHEAD && self.pieces.peek().is_some() {
            let (used, room) = self.last.take().unzip();
            let room = room.filter(|_| !self.load.is_waited_for());
            let Some(room) = room.or_else(|| Room::at_once(self.load, self.bytes_of_a_piece())) else { return };
            self.read(room, used);
        }
    }

    fn bytes_of_a_piece(&self) -> u64 {
        self.left.min(PIECE)
    }

    /// Has the next piece read, if there is one.
    fn read(&mut self, room: Room, used: Option<Bytes>) {
        let Some(read) = self.pieces.next() else { return };
        let used = used.and_then(|used| used.try_into_mut().ok());
        let read = spawn_blocking(move || {
            let mut piece = used.unwrap_or_default();
            piece.clear();
            read(&mut piece)?;
            Ok(piece.freeze())
        });
        self.reading.push_back(Reading { read, room });
    }

    /// Waits for the next piece; `None`: there is no more.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<(Bytes, Room)>>> {
        if self.turn.is_none() {
            self.read_ahead();
        }
        if self.reading.is_empty() && self.pieces.peek().is_some() {
            let bytes = self.bytes_of_a_piece();
            let turn = self.turn.get_or_insert_with(|| Room::in_turn(self.load, bytes));
            let room = ready!(turn.as_mut().poll(cx));
            self.turn = None;
            match room {
                Ok(room) => self.read(room, None),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        let Some(Reading { read, .. }) = self.reading.front_mut() else { return Poll::Ready(None) };
        let read = ready!(Pin::new(read).poll(cx)).map_err(io::Error::other).and_then(|read| read);
        let room = self.reading.pop_front().map(|reading| reading.room);
        Poll::Ready(room.map(|room| read.map(|piece| (piece, room))))
    }

    /// Counts a piece that was read.
    fn count(&mut self, piece: &Bytes) -> io::Result<()> {
        let left = self.left.checked_sub(piece.len() as u64).filter(|_| !piece.is_empty());
        self.left = left.ok_or(io::ErrorKind::InvalidData)?;
        Ok(())
    }
}

impl<R, I> http_body::Body for Pieces<I>
where
    R: FnOnce(&mut BytesMut) -> io::Result<()> + Send + 'static,
    I: Iterator<Item = R> + Send + Unpin + 'static,
{
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let read = match ready!(self.poll_piece(cx)) {
            None if self.left == 0 => return Poll::Ready(None),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(read) => read,
        };
        let counted = read.and_then(|(piece, room)| self.count(&piece).map(|()| (piece, room)));
        Poll::Ready(Some(match counted {
            // It outlives the body.
            Ok((piece, room)) if self.left == 0 => Ok(Frame::data(room.go_with(piece))),
            Ok((piece, room)) => {
                self.last = Some((piece.clone(), room));
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

/// Appends `range` of a file.
pub(super) fn read_range(file: &File, range: Range<u64>, piece: &mut BytesMut) -> io::Result<()> {
    let (begin, length) = (piece.len(), usize::try_from(range.end - range.start).map_err(io::Error::other)?);
    piece.resize(begin + length, 0);
    file.read_exact_at(&mut piece[begin..], range.start)
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

    /// A body of these bytes: a few at once where they are in memory, else by sendfile where the connection can, else read.
    pub(super) fn body(self, outbox: Option<Extension<Outbox>>) -> Body {
        match (self.few_at_once(), outbox) {
            (Some(bytes), _) => Body::from(bytes),
            (None, Some(Extension(outbox))) => Body::new(Sent { range: self, outbox }),
            (None, None) => {
                let length = self.left;
                stream(self.pieces(), length)
            }
        }
    }

    fn pieces(self) -> impl Iterator<Item = impl FnOnce(&mut BytesMut) -> io::Result<()>> {
        let end = self.at + self.left;
        std::iter::successors(Some(self.at), |at| Some(at + PIECE)).take_while(move |&at| at < end).map(move |at| {
            let held = self.held.clone();
            move |piece: &mut BytesMut| read_range(held.file(), at..end.min(at + PIECE), piece)
        })
    }

    fn few_at_once(&self) -> Option<Vec<u8>> {
        let few = usize::try_from(self.left).ok().filter(|&left| left <= FEW)?;
        read_at_once(self.held.file(), self.at, few)
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
    use futures_util::FutureExt as _;
    use http_body_util::BodyExt as _;

    fn pieces(bytes: Vec<u8>) -> impl Iterator<Item = impl FnOnce(&mut BytesMut) -> io::Result<()>> + Unpin {
        let cut: Vec<Vec<u8>> = bytes.chunks(PIECE as usize).map(<[u8]>::to_vec).collect();
        cut.into_iter().enumerate().map(|(at, bytes)| {
            move |piece: &mut BytesMut| {
                // Not in the order in which they are sent.
                std::thread::sleep(std::time::Duration::from_millis(at as u64 % 2 * 5));
                piece.extend_from_slice(&bytes);
                Ok(())
            }
        })
    }

    #[tokio::test]
    async fn every_byte_comes_in_order() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE + 7] {
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let body = stream(pieces(bytes.clone()), length);
            assert_eq!(http_body::Body::size_hint(&body).exact(), Some(length));
            assert_eq!(body.collect().await.unwrap().to_bytes(), bytes);
        }
    }

    #[tokio::test]
    async fn a_source_that_ends_early_or_late_fails_the_body() {
        for (has, promised) in [(0, 1), (5, 6), (PIECE, PIECE + 1), (6, 5)] {
            let body = stream(pieces(vec![0; has as usize]), promised);
            assert!(body.collect().await.is_err(), "{has} {promised}");
        }
    }

    #[tokio::test]
    async fn bodies_take_turns_piece_by_piece() {
        static LOAD: Load = Load::new();
        let _rest = Room::at_once(&LOAD, LOAD.room() - PIECE).unwrap();
        let body = || Pieces::new(pieces(vec![7; 3 * PIECE as usize]), 3 * PIECE, &LOAD);
        let (mut first, mut second) = (body(), body());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(second.frame().poll_unpin(&mut cx).is_pending());
        for left in [2, 1, 0] {
            for body in [&mut first, &mut second] {
                assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len() as u64, PIECE);
                // It was sent: the next is to come, but behind the other's.
                assert_eq!(body.frame().poll_unpin(&mut cx).is_pending(), left > 0);
            }
        }
        assert!(first.frame().await.is_none() && second.frame().await.is_none());
    }
}
