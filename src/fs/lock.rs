//! The lock that makes a store have one writer (invariant 3): `flock` on a file, gone with the process that held it.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};

use super::{Dir, Error, RelPath};

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
    pub fn try_take(dir: &Dir, name: &RelPath) -> Result<Self, LockError> {
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
