//! What a file operation says when it fails: the operation, the path, and the system's reason as its source.

use std::io;
use std::path::{Path, PathBuf};

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {op} {}", path.display())]
pub struct Error {
    /// What was tried, as a verb that fits after "cannot".
    pub op: &'static str,
    /// The path as far as it is known; for messages only, never opened again.
    pub path: PathBuf,
    #[source]
    source: io::Error,
}

/// The result of a file operation.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(op: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self { op, path: path.to_path_buf(), source: source.into() }
    }

    /// The kind of the system's error.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// The thing named does not exist.
    pub fn is_not_found(&self) -> bool {
        self.kind() == io::ErrorKind::NotFound
    }

    /// The thing named exists already.
    pub fn is_exists(&self) -> bool {
        self.kind() == io::ErrorKind::AlreadyExists
    }

    /// The file system has no room (or quota) left.
    pub fn is_no_space(&self) -> bool {
        is_no_space(&self.source)
    }

    /// The disk is at fault, or what this process may have open: it may pass, and nothing is said of what was to be written.
    pub fn is_of_disk(&self) -> bool {
        is_of_disk(&self.source)
    }

    /// A want of this machine, or of the moment: no word on what there is. (A stale handle is one: the path is looked up anew.)
    pub fn is_passing(&self) -> bool {
        is_passing(&self.source)
    }

    /// Somebody keeps it from being opened for the moment, as by a lease: no word on what it holds.
    pub fn is_busy(&self) -> bool {
        self.is_one_of(&[rustix::io::Errno::AGAIN])
    }

    /// No such thing is there: nothing is, or what the path leads through is no directory.
    pub fn leads_nowhere(&self) -> bool {
        use rustix::io::Errno;
        self.is_one_of(&[Errno::NOENT, Errno::NOTDIR, Errno::LOOP])
    }

    fn is_one_of(&self, those: &[rustix::io::Errno]) -> bool {
        those.iter().any(|errno| self.errno() == Some(errno.raw_os_error()))
    }

    /// The raw `errno`, where the system gave one.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// The system's own error: what was tried with what is for the caller to say.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        error.source
    }
}

/// See [`Error::is_passing`].
pub(crate) fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    const PASSING: [Errno; 6] = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::STALE, Errno::INTR, Errno::AGAIN];
    Errno::from_io_error(error).is_some_and(|errno| PASSING.contains(&errno))
}

/// Whether an I/O error says that the disk, or a limit of this machine, is at fault.
pub(crate) fn is_of_disk(error: &io::Error) -> bool {
    use rustix::io::Errno;
    const OF_DISK: [Errno; 10] = [
        Errno::IO,
        Errno::NOSPC,
        Errno::DQUOT,
        Errno::ROFS,
        Errno::UCLEAN,
        Errno::STALE,
        Errno::NXIO,
        Errno::NOMEM,
        Errno::MFILE,
        Errno::NFILE,
    ];
    is_no_space(error) || Errno::from_io_error(error).is_some_and(|errno| OF_DISK.contains(&errno))
}

/// Whether an I/O error, or any error it wraps, says that the disk is full or the quota used up.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
