//! Files that leave by sendfile(2), beneath an HTTP library that knows only of bytes in memory.
//!
//! A body gives the library a stand-in for a piece of a file: as many bytes of [`BLANK`]. The piece itself goes into the
//! connection's [`Outbox`]. The connection ([`Sending`]) knows a stand-in by its address, and sends the piece in its place.
//!
//! What must hold: no blank byte is ever sent, and no byte within a piece. Stand-ins come in the order of their pieces, and
//! where one begins within [`BLANK`] is how far its piece was sent. One without a piece, or at another place, or gone before
//! its piece was sent (the library may have copied it) ends the connection before another byte is written.
//!
//! Sending hardly waits for a disk: right before it the kernel is asked what seems to be in memory, and only pages between
//! those it was asked for may be gone. What is not there is read by a thread that may wait, and sent from the cache or, where
//! the file system has none for it or no sendfile, from what was read.

use std::collections::VecDeque;
use std::fs::File;
use std::future::Future as _;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_blocking};

use super::load::{LOAD, Room, Turn};
use super::patient::Writes;
use crate::fs::{seem_in_memory, send_file};
use crate::intent::error_chain;
use crate::store::Version;

/// Bytes of a piece at most: what other tasks wait for while a fast peer takes it.
pub(super) const PIECE: usize = 512 * 1024;
/// Bytes read at once at most by a thread that may wait.
const PART: usize = 128 * 1024;

/// What stands for pieces of files. Never written to, so that it takes no memory.
static BLANK: LazyLock<Box<[u8]>> = LazyLock::new(|| vec![0; PIECE].into());

/// Where in [`BLANK`] bytes begin that lie there.
fn blank_at(bytes: &[u8]) -> Option<usize> {
    let range = BLANK.as_ptr_range();
    range.contains(&bytes.as_ptr()).then(|| bytes.as_ptr().addr() - range.start.addr())
}

/// A file that is being sent. Its version stays for as long.
#[derive(Debug)]
pub(super) struct Held {
    file: File,
    /// Its file system does not do sendfile.
    refused: AtomicBool,
    _version: Version,
}

impl Held {
    pub(super) fn new(file: File, version: Version) -> Self {
        Self { file, refused: AtomicBool::new(false), _version: version }
    }

    /// How many bytes from there on can, as it seems, be sent without waiting.
    fn at_hand(&self, at: u64, length: usize) -> usize {
        if self.refused.load(Relaxed) { 0 } else { seem_in_memory(&self.file, at, length) }
    }

    /// Bytes from there on: at least one.
    fn read(&self, at: u64, length: usize) -> io::Result<Bytes> {
        let mut bytes = vec![0; length.min(PART)];
        loop {
            match self.file.read_at(&mut bytes, at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    bytes.truncate(n);
                    return Ok(bytes.into());
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

#[derive(Debug)]
struct Piece {
    held: Arc<Held>,
    at: u64,
    length: usize,
    sent: usize,
}

#[derive(Debug, Default)]
struct State {
    pieces: VecDeque<Piece>,
    /// Pieces put in so far.
    given: u64,
    /// Pieces sent whole.
    done: u64,
    broken: bool,
}

/// The pieces of files that a connection has still to send.
#[derive(Debug, Clone, Default)]
pub(super) struct Outbox(Arc<Mutex<State>>);

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked left numbers that fit, or a stand-in that does not, which ends the connection.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `length` bytes (at most [`PIECE`], more than none) of a file sent in place of the bytes returned.
    pub(super) fn put(&self, held: Arc<Held>, at: u64, length: usize) -> Bytes {
        let length = length.min(PIECE);
        let mut state = self.lock();
        state.pieces.push_back(Piece { held, at, length, sent: 0 });
        state.given += 1;
        Bytes::from_owner(StandIn { outbox: self.clone(), number: state.given, length })
    }
}

struct StandIn {
    outbox: Outbox,
    number: u64,
    length: usize,
}

impl AsRef<[u8]> for StandIn {
    fn as_ref(&self) -> &[u8] {
        &BLANK[..self.length]
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let mut state = self.outbox.lock();
        state.broken |= self.number > state.done;
    }
}

fn astray() -> io::Error {
    io::Error::other("a file's place in an answer was lost; this is a bug in seedcache, please report it")
}

impl State {
    /// Other bytes may be written: nothing went astray, and no piece is half sent.
    fn is_between(&self) -> bool {
        !self.broken && self.pieces.front().is_none_or(|piece| piece.sent == 0)
    }

    /// The piece that a stand-in stands for.
    fn piece(&mut self, stand_in: &[u8]) -> Option<&mut Piece> {
        let at = blank_at(stand_in)?;
        let piece = self.pieces.front_mut().filter(|_| !self.broken)?;
        (piece.sent == at && piece.length == at + stand_in.len()).then_some(piece)
    }

    /// What of its file is to be sent next: from where, and how much there is of the piece.
    fn next(&mut self, stand_in: &[u8]) -> io::Result<(Arc<Held>, u64, usize)> {
        let piece = self.piece(stand_in).ok_or_else(astray)?;
        Ok((piece.held.clone(), piece.at + piece.sent as u64, piece.length - piece.sent))
    }

    /// So much of it was sent.
    fn sent(&mut self, bytes: usize) {
        let Some(piece) = self.pieces.front_mut() else { return };
        piece.sent += bytes;
        if piece.sent == piece.length {
            self.pieces.pop_front();
            self.done += 1;
        }
    }
}

/// A socket that files can be sent to.
pub(super) trait Socket: AsyncRead + AsyncWrite + AsFd + Unpin + Send + 'static {
    /// Waits until it takes bytes.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Tries what may find that it takes none after all.
    fn try_write<T>(&self, write: impl FnOnce() -> io::Result<T>) -> io::Result<T>;

    /// Has the system hold less for it that its peer has not taken, where that costs little speed: over TCP it would cost
    /// nearly all.
    fn hold_little(&self) {}
}

impl Socket for TcpStream {
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write_ready(cx)
    }

    fn try_write<T>(&self, write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.try_io(Interest::WRITABLE, write)
    }
}

/// A connection that sends files in place of what stands for them.
pub(super) struct Sending<S> {
    stream: S,
    outbox: Outbox,
    /// Of the piece that is being sent, from where it was sent to.
    reading: Option<JoinHandle<io::Result<Bytes>>>,
    read: Bytes,
    /// Room for what is read,
    room: Option<Room>,
    /// or the wait for it.
    turn: Option<Turn>,
}

impl<S> Sending<S> {
    /// The connection, and where its files go.
    pub(super) fn new(stream: S) -> (Self, Outbox) {
        let outbox = Outbox::default();
        (Self { stream, outbox: outbox.clone(), reading: None, read: Bytes::new(), room: None, turn: None }, outbox)
    }
}

impl<S: Socket> Sending<S> {
    /// Holds nothing of what was read.
    fn let_go(&mut self) {
        self.read = Bytes::new();
        self.room = None;
    }

    fn poll_room(&mut self, cx: &mut Context<'_>, bytes: u64) -> Poll<io::Result<()>> {
        if self.room.is_none() {
            let turn = self.turn.get_or_insert_with(|| Room::in_turn(&LOAD, bytes));
            let room = ready!(turn.as_mut().poll(cx));
            self.turn = None;
            self.room = Some(room?);
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what the socket takes of a piece.
    fn poll_send(&mut self, cx: &mut Context<'_>, stand_in: &[u8]) -> Poll<io::Result<usize>> {
        let sent = ready!(self.poll_part(cx, stand_in));
        match &sent {
            Ok(bytes) => self.outbox.lock().sent(*bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                tracing::error!("a file ended early; the answer was cut short");
            }
            Err(error) => tracing::debug!(error = error_chain(error), "a file's piece not sent"),
        }
        Poll::Ready(sent)
    }

    fn poll_part(&mut self, cx: &mut Context<'_>, stand_in: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let (held, at, length) = self.outbox.lock().next(stand_in)?;
            if let Some(reading) = &mut self.reading {
                let read = ready!(Pin::new(reading).poll(cx)).map_err(io::Error::other).and_then(|read| read);
                self.reading = None;
                let read = read?;
                // From the cache, where it is now: who takes it slowly then holds no memory of ours.
                if held.at_hand(at, length) == 0 {
                    self.read = read;
                } else {
                    self.let_go();
                }
            }
            if !self.read.is_empty() {
                let outcome = Pin::new(&mut self.stream).poll_write(cx, &self.read);
                if outcome.is_pending() && LOAD.is_crowded() {
                    // It is read again once the peer takes more.
                    self.let_go();
                }
                let sent = ready!(outcome)?;
                self.read.advance(sent);
                if self.read.is_empty() {
                    self.let_go();
                }
                return Poll::Ready(Ok(sent));
            }
            ready!(self.stream.poll_writable(cx))?;
            let at_hand = held.at_hand(at, length);
            if at_hand == 0 {
                ready!(self.poll_room(cx, length.min(PART) as u64))?;
                self.reading = Some(spawn_blocking(move || held.read(at, length)));
                continue;
            }
            match self.stream.try_write(|| send_file(&self.stream, &held.file, at, at_hand)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) if is_refusal(&error) => held.refused.store(true, Relaxed),
                sent => return Poll::Ready(sent),
            }
        }
    }
}

/// The file system, or the socket, does no sendfile.
fn is_refusal(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP))
}

impl<S: Socket> Writes for Sending<S> {
    fn waits_for_bytes(&self) -> bool {
        self.reading.is_some() || self.turn.is_some()
    }
}

impl<S: Socket> AsyncRead for Sending<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: Socket> AsyncWrite for Sending<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let plain = slices.iter().take_while(|slice| blank_at(slice).is_none()).count();
        match slices.get(plain) {
            Some(stand_in) if plain == 0 => self.poll_send(cx, stand_in),
            _ if !self.outbox.lock().is_between() => Poll::Ready(Err(astray())),
            _ => Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..plain]),
        }
    }

    /// Whatever the stream says: bytes that are gathered first would be blank.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
