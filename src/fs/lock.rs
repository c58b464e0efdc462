//! Locks by `flock`, gone with the process that held them: the file that makes a store have one writer (invariant 3),
//! and directories that several processes work in by turns.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::{Dir, Error, RelPath, Result};

/// Between two tries for a directory that another process holds, at most.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// A held lock; dropped, it is released.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Why the lock is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{path} is locked by {holder}; stop that daemon, or give this one a store of its own")]
    Held {
        /// The lock file, for the message.
        path: std::path::PathBuf,
        /// What the holder wrote into it.
        holder: String,
    },
    /// The file could not be opened or locked.
    #[error(transparent)]
    Fs(#[from] Error),
}

impl Lock {
    /// Takes the lock without waiting, and leaves word of who holds it.
    pub fn try_take(dir: &Dir, name: &RelPath) -> std::result::Result<Self, LockError> {
        let mut file = dir.open_or_create_file(name, 0o644)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only the message gets poorer when the holder left no word.
                let _ = (&file).take(64).read_to_string(&mut holder);
                let holder = if holder.is_empty() { "another process".into() } else { holder.trim().to_owned() };
                return Err(LockError::Held { path: dir.path_of(name), holder });
            }
            Err(TryLockError::Error(e)) => return Err(Error::new("lock", &dir.path_of(name), e).into()),
        }
        let word = format!("process {}\n", std::process::id());
        // On a full disk the lock holds without the word; only another's message gets poorer.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(word.as_bytes()));
        Ok(Self { _file: file })
    }
}

/// A directory held against the other processes that lock it; dropped, it is released.
#[derive(Debug)]
pub struct DirLock {
    _dir: Dir,
}

impl Dir {
    /// Locks this directory, waiting for other holders up to `limit`; `None` when it did not come to that. Where the
    /// file system cannot lock directories all are let through.
    pub fn lock(&self, limit: Duration) -> Result<Option<DirLock>> {
        let deadline = Instant::now() + limit;
        // A handle of its own: a lock belongs to the open file, and clones of this one may outlive the lock.
        let dir = self.reopen()?;
        let mut pause = Duration::from_millis(1);
        loop {
            match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(DirLock { _dir: dir })),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) if Instant::now() >= deadline => return Ok(None),
                Err(Errno::WOULDBLOCK) => {
                    std::thread::sleep(pause.mul_f32(0.5 + fastrand::f32() / 2.0));
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error @ (Errno::BADF | Errno::NOLCK | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL)) => {
                    tracing::debug!(%error, path = %self.path().display(), "directory cannot be locked here");
                    return Ok(Some(DirLock { _dir: dir }));
                }
                Err(error) => return Err(Error::new("lock", self.path(), error)),
            }
        }
    }
}
