//! One pass over the bytes: written, hashed and unpacked as they come, each once.
//!
//! One thread takes pieces in order, appends them to the part and feeds the hashers; a second one unpacks the same
//! pieces. Both queues are bounded, so a slow disk slows the source. What must hold: both threads have ended when
//! [`ingest`] returns, and they end soon after [`Feed`]s cease or the abort flag is set.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::source::file::Watched;
use super::unpack::{Large, UnpackError, Unpacked};
use super::{Phase, Progress};
use crate::fs::{self, Dir, fail_point};
use crate::intent::{Algorithm, Digest, Hasher, Unpack};
use crate::store::{Donors, Staging};

/// Pieces that are read from disk are this big.
const PIECE: usize = 128 * 1024;
/// Pieces waiting to be unpacked.
const QUEUE: usize = 8;
/// Bytes of a body of unknown length that are still read to learn its digest once it was found not to unpack.
const DRAIN: u64 = 256 << 20;

/// What unpacks: [`super::unpack`], or another one in tests.
pub(super) type Sink =
    fn(Intake, &Unpack, &str, &Dir, Option<&Donors>, &Progress, &AtomicBool) -> Result<Unpacked, UnpackError>;

/// Ends the pass when it is dropped.
pub(super) struct AbortOnDrop<'a>(pub(super) &'a AtomicBool);

impl Drop for AbortOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// What is fed.
pub(super) enum Feed {
    /// The next bytes.
    Bytes(Bytes),
    /// A new note about the download, to be on disk before the bytes that follow.
    Note(Vec<u8>),
    /// All bytes were fed.
    End,
}

/// Where the bytes come from.
pub(super) enum Input {
    /// From a download, on top of the first `prefix` bytes of the part, which are read again.
    Download {
        /// Bytes of the part that count.
        prefix: u64,
        /// The rest.
        feeds: tokio::sync::mpsc::Receiver<Feed>,
    },
    /// From a file on the node; copied to the part when `keep`.
    File {
        /// The file.
        file: Watched,
        /// The archive is to be kept.
        keep: bool,
    },
}

/// What is made of the bytes.
#[derive(Clone)]
pub(super) struct Work {
    /// Where.
    pub staging: Staging,
    /// Digests that the bytes must have.
    pub demanded: Vec<Digest>,
    /// How the tree is made.
    pub recipe: Unpack,
    /// The name of a single file.
    pub file_name: String,
    /// Where to say how far it is.
    pub progress: Arc<Progress>,
    /// What unpacks.
    pub sink: Sink,
    /// The node's turns for decoders with large windows.
    pub large: Arc<Semaphore>,
    /// Set when the work is to end now.
    pub abort: Arc<AtomicBool>,
}

/// What became of the bytes.
#[derive(Debug)]
pub(super) struct Outcome {
    /// How many there were.
    pub size: u64,
    /// SHA-256 and those of the algorithms demanded; empty when not all bytes were seen.
    pub digests: Vec<Digest>,
    /// What was unpacked.
    pub unpacked: Result<Unpacked, UnpackError>,
}

/// Why the bytes could not be worked on.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// It was told to stop.
    #[error("the work on the archive was interrupted")]
    Aborted,
    /// Staging cannot be used.
    #[error(transparent)]
    Staging(#[from] fs::Error),
    /// The part cannot be written or read.
    #[error("the part of the archive in {} cannot be written or read", path.display())]
    Part {
        /// The staging directory.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The source file cannot be read.
    #[error("the source file cannot be read")]
    Input(#[source] io::Error),
    /// The source file changed while it was read.
    #[error("the source file changed while it was read; it is read again at the next try")]
    Changed,
    /// The thread that unpacks cannot be had.
    #[error(
        "no thread can be made to unpack the archive; raise the limit of tasks (`pids.max`) of the daemon's cgroup"
    )]
    Thread(#[source] io::Error),
}

impl IngestError {
    /// The disk that the store is on is at fault.
    pub(super) fn is_of_disk(&self) -> bool {
        match self {
            IngestError::Staging(error) => error.is_of_disk(),
            IngestError::Part { source, .. } => fs::is_of_disk(source),
            _ => false,
        }
    }

    /// The disk is full.
    pub(super) fn is_no_space(&self) -> bool {
        match self {
            IngestError::Staging(error) => error.is_no_space(),
            IngestError::Part { source, .. } => fs::is_no_space(source),
            _ => false,
        }
    }
}

/// Works on all bytes. Blocks: call it on a thread of its own.
pub(super) fn ingest(work: &Work, input: Input) -> Result<Outcome, IngestError> {
    let tree = work.staging.fresh_tree()?;
    work.progress.reset_unpacked();
    let (pieces, queue) = sync_channel(QUEUE);
    let abort = work.abort.clone();
    let over = Arc::new(AtomicBool::new(false));
    let (turns, progress) = (work.large.clone(), work.progress.clone());
    let large = Large { turns, abort: abort.clone(), over: over.clone(), progress };
    let intake = Intake { queue, current: Bytes::new(), ended: false, abort, large };
    let fate = AtomicU8::new(RUNNING);
    std::thread::scope(|scope| {
        let unpack = || {
            let Work { recipe, file_name, staging, progress, abort, .. } = work;
            let unpacked = (work.sink)(intake, recipe, file_name, &tree, staging.donors(), progress, abort);
            if let Err(error) = &unpacked {
                fate.store(if error.is_bad_content() { REFUSED } else { HOPELESS }, Relaxed);
            }
            unpacked
        };
        let unpacking = std::thread::Builder::new().spawn_scoped(scope, unpack).map_err(IngestError::Thread)?;
        let mut course = Course::new(work, pieces, &fate);
        // On an error the queue is dropped without its end, which fails the unpacking thread's next read; nor does it wait for
        // memory any more.
        let outcome = course.run(input).inspect_err(|_| over.store(true, Relaxed));
        let Course { size, hashers, .. } = course;
        let unpacked = match unpacking.join() {
            Ok(unpacked) => unpacked,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let complete = outcome? == Ended::Complete;
        let digests = if complete { hashers.into_iter().map(Hasher::finish).collect() } else { Vec::new() };
        Ok(Outcome { size, digests, unpacked })
    })
}

/// What is known of the unpacking thread: that it may still take bytes, or need no more to be content,
const RUNNING: u8 = 0;
/// that it refused the archive,
const REFUSED: u8 = 1;
/// or that it could not go on for a reason of its own.
const HOPELESS: u8 = 2;

/// Whether all bytes were seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Complete,
    /// The archive is refused whatever follows.
    Early,
}

struct Course<'a> {
    work: &'a Work,
    /// `None` once the unpacking thread takes no more.
    pieces: Option<SyncSender<Piece>>,
    fate: &'a AtomicU8,
    hashers: Vec<Hasher>,
    size: u64,
    /// Bytes since the archive was refused.
    drained: u64,
}

impl<'a> Course<'a> {
    fn new(work: &'a Work, pieces: SyncSender<Piece>, fate: &'a AtomicU8) -> Self {
        let mut algorithms = vec![Algorithm::Sha256];
        for digest in &work.demanded {
            if !algorithms.contains(&digest.algorithm()) {
                algorithms.push(digest.algorithm());
            }
        }
        let hashers = algorithms.into_iter().map(Hasher::new).collect();
        Self { work, pieces: Some(pieces), fate, hashers, size: 0, drained: 0 }
    }

    fn run(&mut self, input: Input) -> Result<Ended, IngestError> {
        let ended = match input {
            Input::Download { prefix, feeds } => self.download(prefix, feeds),
            Input::File { file, keep } => self.file(&file, keep),
        };
        if let (Ok(Ended::Complete), Some(pieces)) = (&ended, &self.pieces) {
            self.work.progress.enter(Phase::Unpacking);
            // An error says that the unpacking thread has ended already.
            let _ = pieces.send(Piece::End);
        }
        self.pieces = None;
        ended
    }

    fn download(&mut self, prefix: u64, mut feeds: tokio::sync::mpsc::Receiver<Feed>) -> Result<Ended, IngestError> {
        let mut part = self.work.staging.part()?;
        self.reread(&mut part, prefix)?;
        loop {
            match feeds.blocking_recv() {
                _ if self.work.abort.load(Relaxed) => return Err(IngestError::Aborted),
                None => return Err(IngestError::Aborted),
                Some(Feed::End) => return Ok(Ended::Complete),
                Some(Feed::Note(note)) => self.work.staging.set_download_note(&note)?,
                Some(Feed::Bytes(bytes)) => {
                    fail_point("acquire.download.before-write");
                    part.write_all(&bytes).map_err(|e| self.part_error(e))?;
                    fail_point("acquire.download.after-write");
                    if !self.take(bytes) {
                        return Ok(Ended::Early);
                    }
                }
            }
        }
    }

    /// Takes in what was downloaded before, the one time that archive bytes are read back.
    fn reread(&mut self, part: &mut File, prefix: u64) -> Result<(), IngestError> {
        fail_point("acquire.download.before-cut");
        part.set_len(prefix).and_then(|()| part.rewind()).map_err(|e| self.part_error(e))?;
        fail_point("acquire.download.after-cut");
        if prefix > 0 && self.work.demanded.is_empty() {
            // No digest would tell that some of it never got to the disk, and was dropped from memory since.
            part.sync_data().map_err(|e| self.part_error(e))?;
        }
        let mut left = prefix;
        while left > 0 {
            if self.work.abort.load(Relaxed) {
                return Err(IngestError::Aborted);
            }
            let mut piece = vec![0; PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
            part.read_exact(&mut piece).map_err(|e| self.part_error(e))?;
            left -= piece.len() as u64;
            // What does not unpack is judged when the driver asks, with the whole prefix hashed.
            self.take(piece.into());
        }
        part.seek(SeekFrom::Start(prefix)).map_err(|e| self.part_error(e))?;
        Ok(())
    }

    fn file(&mut self, watched: &Watched, keep: bool) -> Result<Ended, IngestError> {
        let mut part = if keep { Some(self.work.staging.part()?) } else { None };
        if let Some(part) = &mut part {
            part.set_len(0).and_then(|()| part.rewind()).map_err(|e| self.part_error(e))?;
        }
        let mut ended = Ended::Complete;
        loop {
            if self.work.abort.load(Relaxed) {
                return Err(IngestError::Aborted);
            }
            let mut piece = vec![0; PIECE];
            let n = (&watched.file).read(&mut piece).map_err(IngestError::Input)?;
            if n == 0 {
                break;
            }
            piece.truncate(n);
            if let Some(part) = &mut part {
                fail_point("acquire.copy.before-write");
                part.write_all(&piece).map_err(|e| self.part_error(e))?;
                fail_point("acquire.copy.after-write");
            }
            if !self.take(piece.into()) {
                ended = Ended::Early;
                break;
            }
        }
        if watched.changed()? { Err(IngestError::Changed) } else { Ok(ended) }
    }

    /// Hashes a piece and hands it on. `false`: the archive is refused, and what follows changes nothing.
    fn take(&mut self, piece: Bytes) -> bool {
        for hasher in &mut self.hashers {
            hasher.update(&piece);
        }
        let length = piece.len() as u64;
        self.size += length;
        self.work.progress.set_bytes(self.size);
        if let Some(pieces) = &self.pieces
            && pieces.send(Piece::Bytes(piece)).is_ok()
        {
            return true;
        }
        self.pieces = None;
        match self.fate.load(Relaxed) {
            // Where a digest is demanded, the rest decides whether these are the wrong bytes or the right ones of an
            // archive that is refused.
            REFUSED => {
                self.drained += length;
                let bounded = self.work.progress.snapshot().total_bytes.is_some();
                !self.work.demanded.is_empty() && (bounded || self.drained < DRAIN)
            }
            HOPELESS => false,
            _ => true,
        }
    }

    fn part_error(&self, source: io::Error) -> IngestError {
        IngestError::Part { path: self.work.staging.dir().path().to_path_buf(), source }
    }
}

enum Piece {
    Bytes(Bytes),
    End,
}

/// The archive as the unpacking thread reads it.
pub(super) struct Intake {
    queue: Receiver<Piece>,
    current: Bytes,
    ended: bool,
    abort: Arc<AtomicBool>,
    /// Where its decoder gets a turn for a large window.
    pub(super) large: Large,
}

impl Read for Intake {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.abort.load(Relaxed) {
            return Err(io::Error::other(IngestError::Aborted));
        }
        while self.current.is_empty() && !self.ended {
            match self.queue.recv() {
                Ok(Piece::Bytes(bytes)) => self.current = bytes,
                Ok(Piece::End) => self.ended = true,
                Err(_) => return Err(io::Error::other(IngestError::Aborted)),
            }
        }
        let n = out.len().min(self.current.len());
        out[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}
