//! An archive stream to a tree below a directory handle.

use std::io::Read;

use super::Progress;
use crate::fs::Dir;
use crate::intent::Unpack;
use crate::store::Entry;

/// What was unpacked.
#[derive(Debug)]
pub struct Unpacked {
    /// Every entry, sorted by path; files hashed.
    pub entries: Vec<Entry>,
    /// The archive's top directory, where all entries share one (before stripping).
    pub top_directory: Option<String>,
    /// Bytes of all regular files.
    pub bytes: u64,
}

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The input stream failed.
    #[error("the archive cannot be read")]
    Read {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It ends too early.
    #[error("the archive is cut short {place}")]
    Truncated {
        /// Where, in words.
        place: Box<str>,
    },
    /// The tree cannot be written.
    #[error("the tree cannot be written")]
    Write {
        /// Which operation, on what.
        #[from]
        source: crate::fs::Error,
    },
}

impl UnpackError {
    /// The disk is full.
    pub fn is_no_space(&self) -> bool {
        matches!(self, UnpackError::Write { source } if source.is_no_space())
    }

    /// The archive itself is at fault.
    pub fn is_bad_content(&self) -> bool {
        matches!(self, UnpackError::Truncated { .. })
    }
}

/// Unpacks `archive` into the empty directory `tree`. `file_name` names the single file of `format: none`.
pub fn unpack(
    _archive: impl Read + Send,
    _recipe: &Unpack,
    _file_name: &str,
    _tree: &Dir,
    _progress: &Progress,
) -> Result<Unpacked, UnpackError> {
    unimplemented!()
}
