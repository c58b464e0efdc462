//! Decoded bytes on their way from the thread that decodes to the one that unpacks: a bounded channel of buffers that
//! are used again, so memory is the same whatever the archive's size.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use super::error::shown;
use super::policy::{Limits, Refusal};
use super::{UnpackError, policy};

/// Bytes of one buffer.
const PIECE: usize = 256 * 1024;
/// Buffers on their way; one more is being filled and one being unpacked.
const WAITING: usize = 2;

/// A buffer of decoded bytes.
pub(super) struct Piece {
    pub(super) bytes: Vec<u8>,
    /// How many of them are filled.
    pub(super) length: usize,
    /// Archive bytes taken in so far.
    pub(super) packed: u64,
}

enum Message {
    Piece(Piece),
    End(Result<(), UnpackError>),
}

/// The decoding thread's end.
pub(super) struct Feed {
    to: SyncSender<Message>,
    used: Receiver<Vec<u8>>,
}

impl Feed {
    /// A buffer to fill.
    pub(super) fn buffer(&self) -> Vec<u8> {
        self.used.try_recv().unwrap_or_else(|_| vec![0; PIECE])
    }

    /// Hands a piece on; `false` when nobody takes it any more.
    pub(super) fn send(&self, piece: Piece) -> bool {
        self.to.send(Message::Piece(piece)).is_ok()
    }

    /// Says how it ended.
    pub(super) fn end(&self, end: Result<(), UnpackError>) {
        // Nobody left to hear it: the other thread has an error of its own.
        let _ = self.to.send(Message::End(end));
    }
}

/// Why the next bytes cannot be had.
#[derive(Debug)]
pub(super) enum Halt {
    /// The decoder's own error.
    Failed(UnpackError),
    /// Fewer bytes than were needed.
    Ended,
    /// Too many unpacked bytes for the packed ones.
    Refused(Refusal),
}

impl Halt {
    /// The error for a halt within `entry`.
    pub(super) fn within(self, entry: &[u8]) -> UnpackError {
        match self {
            Halt::Failed(UnpackError::Decode { codec, entry: None, source }) if !entry.is_empty() => {
                UnpackError::Decode { codec, entry: Some(shown(entry)), source }
            }
            Halt::Failed(error) => error,
            Halt::Ended => UnpackError::Truncated { place: format!("within entry `{}`", shown(entry)).into() },
            Halt::Refused(refusal) => UnpackError::refused(entry, refusal),
        }
    }
}

/// The unpacking thread's end: decoded bytes in order.
pub(super) struct Stream {
    from: Receiver<Message>,
    used: Sender<Vec<u8>>,
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    ended: bool,
    limits: Limits,
    /// Bytes decoded so far, and the holes of sparse files, which are bytes of the tree too.
    unpacked: u64,
    packed: u64,
}

/// The two ends of a new channel; `limits` judge the ratio piece by piece.
pub(super) fn channel_within(limits: Limits) -> (Feed, Stream) {
    let (to, from) = sync_channel(WAITING);
    let (back, used) = channel();
    let stream =
        Stream { from, used: back, bytes: Vec::new(), start: 0, end: 0, ended: false, limits, unpacked: 0, packed: 0 };
    (Feed { to, used }, stream)
}

impl Stream {
    /// Up to `max` of the next bytes, as many as lie in one buffer, without taking them; none only at the end.
    pub(super) fn peek(&mut self, max: u64) -> Result<&[u8], Halt> {
        while self.start == self.end && !self.ended {
            self.next_piece()?;
        }
        let available = self.end - self.start;
        let n = usize::try_from(max).map_or(available, |max| max.min(available));
        Ok(&self.bytes[self.start..self.start + n])
    }

    /// Takes `n` bytes that were looked at.
    pub(super) fn take(&mut self, n: usize) {
        self.start = self.end.min(self.start + n);
    }

    /// Fills `to`; returns how many bytes there were, fewer only at the end.
    pub(super) fn read(&mut self, to: &mut [u8]) -> Result<usize, Halt> {
        let mut length = 0;
        while length < to.len() {
            let from = self.peek((to.len() - length) as u64)?;
            if from.is_empty() {
                break;
            }
            let n = from.len();
            to[length..length + n].copy_from_slice(from);
            self.take(n);
            length += n;
        }
        Ok(length)
    }

    /// Passes over `n` bytes.
    pub(super) fn skip(&mut self, mut n: u64) -> Result<(), Halt> {
        while n > 0 {
            let passed = self.peek(n)?.len();
            if passed == 0 {
                return Err(Halt::Ended);
            }
            self.take(passed);
            n -= passed as u64;
        }
        Ok(())
    }

    /// Counts bytes that came of the archive's, holes among them.
    pub(super) fn count(&mut self, unpacked: u64) -> Result<(), Refusal> {
        self.unpacked = self.unpacked.saturating_add(unpacked);
        policy::check_ratio(&self.limits, self.unpacked, self.packed)
    }

    /// Whether a file that is `stored` in so many bytes may have so many more in `holes`, whatever the compression: the
    /// stored ones are at most as many in the archive.
    pub(super) fn check_holes(&self, stored: u64, holes: u64) -> Result<(), Refusal> {
        policy::check_ratio(&self.limits, self.unpacked.saturating_add(holes), self.packed.saturating_add(stored))
    }

    fn next_piece(&mut self) -> Result<(), Halt> {
        let used = std::mem::take(&mut self.bytes);
        if !used.is_empty() {
            // The decoder may be done already.
            let _ = self.used.send(used);
        }
        (self.start, self.end) = (0, 0);
        match self.from.recv() {
            Ok(Message::Piece(piece)) => {
                (self.bytes, self.end) = (piece.bytes, piece.length);
                self.packed = piece.packed;
                self.count(piece.length as u64).map_err(Halt::Refused)
            }
            Ok(Message::End(Ok(()))) => {
                self.ended = true;
                Ok(())
            }
            Ok(Message::End(Err(error))) => Err(Halt::Failed(error)),
            // The decoder panicked; the scope that it runs in passes that on.
            Err(_) => Err(Halt::Ended),
        }
    }
}
