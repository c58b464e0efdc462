//! Why an archive did not become a tree.

use std::fmt;
use std::io;

use super::codec::Codec;
use super::header::Malformed;
use super::policy::Refusal;
use crate::fs::{self, PathError, RelPath};

/// Why an archive is refused, or why unpacking it failed.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The stream that brings the archive failed or was cancelled: nothing is said about its content.
    #[error("the archive could not be read to its end")]
    Read {
        /// What the stream said.
        #[source]
        source: io::Error,
    },
    /// Damaged, cut short or followed by other bytes.
    #[error(
        "the archive is no sound {codec} data{}: compare it with what the origin has, and fetch it anew",
        entry.as_deref().map(|entry| format!(", which shows at entry `{entry}`")).unwrap_or_default()
    )]
    Decode {
        /// The compression it has.
        codec: Codec,
        /// The entry that could not be read on, or was the last; none where there was none before the damage.
        entry: Option<Box<str>>,
        /// What the decoder said.
        #[source]
        source: io::Error,
    },
    /// The document names one format, the content has another.
    #[error(
        "the archive is {found}, but `unpack.format` says it is {declared}: set it to what the content is, or `auto`"
    )]
    Format {
        /// What the document says.
        declared: Codec,
        /// What the content is.
        found: Codec,
    },
    /// Sound, perhaps, but no tar.
    #[error("{} no tar: set `unpack.format: none` if it is a single file to be stored as it is", no_tar(*codec))]
    NotTar {
        /// The compression around it.
        codec: Codec,
    },
    /// It ends too early.
    #[error("the archive is cut short {place}: compare its size with the origin's, and fetch it anew")]
    Truncated {
        /// Where, in words.
        place: Box<str>,
    },
    /// More follows where it has ended.
    #[error("bytes follow the end of the archive, after entry `{entry}`: it was damaged, or two archives were joined")]
    TrailingBytes {
        /// The last entry.
        entry: Box<str>,
    },
    /// A header that is damaged, contradicts itself, or means different things to different readers.
    #[error("the header of entry `{entry}` is malformed")]
    Malformed {
        /// The entry, as far as its name is known.
        entry: Box<str>,
        /// What is wrong with it.
        #[source]
        source: Malformed,
    },
    /// The entry policy says no.
    #[error("entry `{entry}` is refused")]
    Refused {
        /// The entry as the archive names it.
        entry: Box<str>,
        /// Why.
        #[source]
        source: Refusal,
    },
    /// Only root could read it back.
    #[error(
        "entry `{entry}` has mode {mode:04o}, which keeps its owner from reading it, so that only a daemon that runs as \
         root can hand it on: run seedcache as root, or leave the entry out with `unpack.exclude`"
    )]
    OwnerCannotRead {
        /// The entry as the archive names it.
        entry: Box<str>,
        /// Its permission bits.
        mode: u32,
    },
    /// `unpack.require` names what the tree does not hold.
    #[error("the tree lacks what `unpack.require` demands: {}", listed(paths))]
    Missing {
        /// The paths that are missing.
        paths: Vec<RelPath>,
    },
    /// No entry is left.
    #[error(
        "of {seen} entries none is left to unpack: check `unpack.stripComponents`, `include` and `exclude` against \
         what the archive holds"
    )]
    Empty {
        /// Entries that the archive holds.
        seen: u64,
    },
    /// `unpack.include` or `unpack.exclude` holds what is no glob.
    #[error("{pattern:?} in `unpack.include` or `unpack.exclude` is no glob")]
    Glob {
        /// The pattern.
        pattern: Box<str>,
        /// What is wrong with it.
        #[source]
        source: globset::Error,
    },
    /// A single file cannot have this name.
    #[error("a single file cannot be stored as {given:?}: set `unpack.fileName`")]
    FileName {
        /// The name.
        given: Box<str>,
        /// Why not.
        #[source]
        source: PathError,
    },
    /// The tree cannot be written.
    #[error("the tree cannot be written")]
    Write {
        /// Which operation, on what.
        #[from]
        source: fs::Error,
    },
    /// No thread to decompress on.
    #[error("no thread could be started to decompress the archive: raise the limit on processes")]
    Thread {
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl UnpackError {
    /// The disk that the tree is written to is at fault.
    pub fn is_of_disk(&self) -> bool {
        matches!(self, UnpackError::Write { source } if source.is_of_disk())
    }

    /// The disk is full, or the quota used up.
    pub fn is_no_space(&self) -> bool {
        matches!(self, UnpackError::Write { source } if source.is_no_space())
    }

    /// The bytes themselves were judged and found wrong (for this document), not the way they came or were written.
    pub fn is_bad_content(&self) -> bool {
        match self {
            UnpackError::Decode { .. }
            | UnpackError::Format { .. }
            | UnpackError::NotTar { .. }
            | UnpackError::Truncated { .. }
            | UnpackError::TrailingBytes { .. }
            | UnpackError::Malformed { .. }
            | UnpackError::Refused { .. }
            | UnpackError::Missing { .. }
            | UnpackError::Empty { .. } => true,
            UnpackError::Read { .. }
            | UnpackError::Glob { .. }
            | UnpackError::FileName { .. }
            | UnpackError::OwnerCannotRead { .. }
            | UnpackError::Write { .. }
            | UnpackError::Thread { .. } => false,
        }
    }

    pub(super) fn malformed(entry: &[u8], source: Malformed) -> Self {
        UnpackError::Malformed { entry: shown(entry), source }
    }

    pub(super) fn refused(entry: &[u8], source: Refusal) -> Self {
        UnpackError::Refused { entry: shown(entry), source }
    }
}

/// A name from an archive as one line of text, cut where it is too long to read.
pub(super) fn shown(name: &[u8]) -> Box<str> {
    const LONGEST: usize = 300;
    let cut = &name[..name.len().min(LONGEST)];
    let mut text: String = String::from_utf8_lossy(cut).chars().flat_map(escaped).collect();
    if name.len() > LONGEST {
        text.push('…');
    }
    text.into()
}

fn escaped(c: char) -> impl Iterator<Item = char> {
    let escape = c.is_control().then(|| c.escape_default());
    let plain = escape.is_none().then_some(c);
    escape.into_iter().flatten().chain(plain)
}

fn no_tar(codec: Codec) -> impl fmt::Display {
    match codec {
        Codec::Plain => "the archive is neither gzip, zstd, xz nor bzip2 data, and".to_owned(),
        packed => format!("the archive is {packed} data, but what it holds is"),
    }
}

fn listed(paths: &[RelPath]) -> impl fmt::Display {
    paths.iter().map(|path| format!("`{path}`")).collect::<Vec<_>>().join(", ")
}
