//! Why bytes did not become a verified version, and what that means for the next try.

use std::path::PathBuf;
use std::time::Duration;

use crate::acquire::pipeline::IngestError;
use crate::acquire::resolve::NamingError;
use crate::acquire::source::HttpError;
use crate::acquire::unpack::UnpackError;
use crate::fs;
use crate::intent::Digest;
use crate::store::Staging;

/// Why bytes did not become a verified version.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// The daemon was told to stop.
    #[error("fetching was interrupted; it goes on where it was at the next start")]
    Cancelled,
    /// The bytes are not those that were promised.
    #[error(
        "the bytes of {url} have the digest {found}, not {expected}; compare the document's digest and the sums file \
         with what the origin publishes"
    )]
    Digest {
        /// Where from.
        url: Box<str>,
        /// What was demanded.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// The archive is refused, or could not be unpacked.
    #[error("the archive from {url} cannot be unpacked")]
    Unpack {
        /// Where from.
        url: Box<str>,
        /// Why.
        #[source]
        source: UnpackError,
    },
    /// The archive's top directory names no version.
    #[error("the top directory of the archive from {url} names no version")]
    Naming {
        /// Where from.
        url: Box<str>,
        /// Why.
        #[source]
        source: NamingError,
    },
    /// The archive has no single top directory.
    #[error("the archive from {url} has no single top directory to name the version by; use another `latest.from`")]
    NoTopDirectory {
        /// Where from.
        url: Box<str>,
    },
    /// The disk is full.
    #[error(
        "there is no room left below {}; free some, lower `retain` or `store.maxBytes`, or give the store a larger disk",
        path.display()
    )]
    NoSpace {
        /// The staging directory.
        path: PathBuf,
        /// What failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// More bytes than are allowed.
    #[error("the archive from {url} is larger than `unpack.limits.bytes` ({limit} bytes); raise it if that is right")]
    TooLarge {
        /// Where from.
        url: Box<str>,
        /// Bytes allowed.
        limit: u64,
    },
    /// No address gives the bytes.
    #[error("{}{}", HttpError::of_none(*addresses), HttpError::list(others))]
    Unavailable {
        /// How many were tried.
        addresses: usize,
        /// What the one said that may do better later, else the first.
        #[source]
        source: HttpError,
        /// What the others said.
        others: Vec<HttpError>,
        /// When an origin wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The object kept changing.
    #[error(
        "the download of {url} broke off again and again and could not be resumed: each time the origin answered with \
         another archive, or with the whole instead of the rest; it is fetched again later"
    )]
    Unstable {
        /// Where from.
        url: Box<str>,
    },
    /// The version's name was made of another file than the one that is there now.
    #[error("the source file was replaced since it was asked what version it is; it is asked again")]
    Changed {
        /// Where from.
        url: Box<str>,
    },
    /// The source file cannot be opened.
    #[error("the source file cannot be opened; check `source.file.path`")]
    Open(#[source] fs::Error),
    /// Staging cannot be used, or the bytes cannot be taken in.
    #[error("the archive cannot be staged")]
    Ingest(#[source] IngestError),
    /// The resolution is of another kind of source than the artifact.
    #[error("the document's source changed while it was being fetched; it is asked again")]
    SourceChanged,
}

impl AcquireError {
    /// Trying again later may help: the network or the origin was at fault, not what the bytes are.
    pub fn is_transient(&self) -> bool {
        match self {
            AcquireError::Unavailable { source, .. } => source.is_transient(),
            AcquireError::Ingest(error) => {
                matches!(error, IngestError::Changed | IngestError::Input(_) | IngestError::Thread(_))
            }
            AcquireError::Cancelled
            | AcquireError::Unpack { source: UnpackError::Thread { .. }, .. }
            | AcquireError::Changed { .. }
            | AcquireError::Unstable { .. }
            | AcquireError::Open(_)
            | AcquireError::SourceChanged => true,
            _ => false,
        }
    }

    /// The staged archive failed a check and should be put into quarantine with this error as the reason.
    pub fn is_bad_content(&self) -> bool {
        match self {
            AcquireError::Digest { .. } => true,
            AcquireError::Unpack { source, .. } => source.is_bad_content(),
            _ => false,
        }
    }

    /// The disk that the store is on is at fault: it may pass, and nothing is said of the bytes.
    pub fn is_of_disk(&self) -> bool {
        match self {
            AcquireError::Ingest(error) => error.is_of_disk(),
            AcquireError::Unpack { source, .. } => source.is_of_disk(),
            _ => self.is_no_space(),
        }
    }

    /// The disk is full.
    pub fn is_no_space(&self) -> bool {
        matches!(self, AcquireError::NoSpace { .. })
    }

    /// When the origin wants to be asked again, where it said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            AcquireError::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    pub(in crate::acquire) fn from_ingest(error: IngestError, staging: &Staging) -> Self {
        match error {
            error if error.is_no_space() => Self::no_space(error, staging),
            IngestError::Aborted => AcquireError::Cancelled,
            error => AcquireError::Ingest(error),
        }
    }

    pub(super) fn no_space(source: impl std::error::Error + Send + Sync + 'static, staging: &Staging) -> Self {
        AcquireError::NoSpace { path: staging.dir().path().to_path_buf(), source: Box::new(source) }
    }
}
