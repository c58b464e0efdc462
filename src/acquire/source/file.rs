//! Files on the node as a source: read off the async threads.

use std::fs::File;
use std::path::{Path, PathBuf};

use tokio::task::JoinHandle;

use crate::fs::{self, Dir, Stat};

/// The outcome of blocking work. A panic in it goes on here, as if it had been called.
pub(in crate::acquire) async fn joined<T>(work: &mut JoinHandle<T>) -> T {
    match work.await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going away, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// A whole small file.
pub(in crate::acquire) async fn small(path: &Path, limit: u64) -> fs::Result<Vec<u8>> {
    let path = path.to_path_buf();
    joined(&mut tokio::task::spawn_blocking(move || fs::read_limited(&path, limit))).await
}

/// Metadata of a file.
pub(in crate::acquire) async fn stat(path: &Path) -> fs::Result<Stat> {
    let path = path.to_path_buf();
    joined(&mut tokio::task::spawn_blocking(move || fs::stat_path(&path))).await
}

/// When a file was written to last; what is no time counts as the beginning of all.
pub(in crate::acquire) fn time_of(stat: &Stat) -> jiff::Timestamp {
    let nanos = i32::try_from(stat.mtime.1).unwrap_or_default();
    jiff::Timestamp::new(stat.mtime.0, nanos).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

/// A file that is read once from start to end, and that must not change meanwhile.
#[derive(Debug)]
pub(in crate::acquire) struct Watched {
    /// Open for reading.
    pub file: File,
    path: PathBuf,
    before: Stat,
}

impl Watched {
    /// Opens it and remembers its size and time.
    pub(in crate::acquire) fn open(path: &Path) -> fs::Result<Self> {
        let file = fs::open_read(path)?;
        let before = Dir::stat_file(&file, path)?;
        Ok(Self { file, path: path.to_path_buf(), before })
    }

    /// When it was written to last.
    pub(in crate::acquire) fn time(&self) -> jiff::Timestamp {
        time_of(&self.before)
    }

    /// Bytes it held when it was opened.
    pub(in crate::acquire) fn size(&self) -> u64 {
        self.before.size
    }

    /// Whether it was written to since it was opened.
    pub(in crate::acquire) fn changed(&self) -> fs::Result<bool> {
        let now = Dir::stat_file(&self.file, &self.path)?;
        Ok((now.size, now.mtime) != (self.before.size, self.before.mtime))
    }
}
