//! Files that leave by sendfile(2), beneath an HTTP library that knows only of bytes in memory.
//!
//! A body gives the library a stand-in for a piece of a file: as many bytes of [`BLANK`]. The piece itself goes into the
//! connection's [`Outbox`]. The connection ([`Sending`]) knows a stand-in by its address, and sends the piece in its place.
//!
//! What must hold: no blank byte is ever sent, and no byte within a piece. Stand-ins come in the order of their pieces, and
//! where one begins within [`BLANK`] is how far its piece was sent. One without a piece, or at another place, or gone before
//! its piece was sent (the library may have copied it) ends the connection before another byte is written.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::fs::send_file;
use crate::store::Version;

/// Bytes of a piece at most: what other tasks wait for while a fast peer takes it.
pub(super) const PIECE: usize = 512 * 1024;

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
    _version: Version,
}

impl Held {
    pub(super) fn new(file: File, version: Version) -> Self {
        Self { file, _version: version }
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

    /// Sends what the socket takes of it.
    fn send(&mut self, socket: impl AsFd, stand_in: &[u8]) -> io::Result<usize> {
        let piece = self.piece(stand_in).ok_or_else(astray)?;
        let sent = send_file(socket, &piece.held.file, piece.at + piece.sent as u64, piece.length - piece.sent)?;
        if sent == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        piece.sent += sent;
        if piece.sent == piece.length {
            self.pieces.pop_front();
            self.done += 1;
        }
        Ok(sent)
    }
}

/// A socket that files can be sent to.
pub(super) trait Socket: AsyncRead + AsyncWrite + AsFd + Unpin + Send + 'static {
    /// Waits until it takes bytes.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Tries what may find that it takes none after all.
    fn try_write<T>(&self, write: impl FnOnce() -> io::Result<T>) -> io::Result<T>;
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
#[derive(Debug)]
pub(super) struct Sending<S> {
    stream: S,
    outbox: Outbox,
}

impl<S> Sending<S> {
    /// The connection, and where its files go.
    pub(super) fn new(stream: S) -> (Self, Outbox) {
        let outbox = Outbox::default();
        (Self { stream, outbox: outbox.clone() }, outbox)
    }
}

impl<S: Socket> Sending<S> {
    fn poll_send(&self, cx: &mut Context<'_>, stand_in: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_writable(cx))?;
            match self.stream.try_write(|| self.outbox.lock().send(&self.stream, stand_in)) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => {
                    if error.kind() == io::ErrorKind::UnexpectedEof {
                        tracing::error!("a file ended early; the answer was cut short");
                    }
                    return Poll::Ready(Err(error));
                }
                sent => return Poll::Ready(sent),
            }
        }
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
