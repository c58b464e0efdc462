//! What can be wrong with a document or the settings, and where it stands.

use std::fmt;
use std::path::{Path, PathBuf};

/// Why a document, a file of them or the settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The file cannot be read, or is larger than a megabyte.
    #[error(transparent)]
    Fs(#[from] crate::fs::Error),
    /// Not UTF-8.
    #[error("{} is no text in UTF-8", file.display())]
    NotText {
        /// The file.
        file: PathBuf,
    },
    /// Too many documents.
    #[error("{} holds more than {limit} documents; spread them over several files", file.display())]
    TooMany {
        /// The file.
        file: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// Something at one place.
    #[error("{place}")]
    At {
        /// Where.
        place: Place,
        /// What.
        #[source]
        problem: Problem,
    },
}

/// A place in a file, written `file:line:column: field`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// From 1.
    pub line: u64,
    /// From 1.
    pub column: u64,
    /// The field's dotted path; empty for the document as a whole.
    pub field: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)?;
        if self.field.is_empty() { Ok(()) } else { write!(f, ": {}", self.field) }
    }
}

impl Place {
    /// `file:line`, for naming a second place within a message.
    pub(super) fn line_of(file: &Path, line: u64) -> String {
        format!("{}:{line}", file.display())
    }
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// No YAML, an unknown or missing field, or a value of the wrong form.
    #[error("{}", message(.0))]
    Yaml(Box<serde_saphyr::Error>),
    /// Another API.
    #[error("{found:?} is not known here; write {wanted}")]
    Header {
        /// What it says.
        found: String,
        /// What it must say.
        wanted: &'static str,
    },
    /// The name is taken.
    #[error("an artifact {name} is declared at {first} already; give this one another name")]
    Duplicate {
        /// The name.
        name: String,
        /// Where it was first.
        first: String,
    },
    /// The target is taken, or lies in or around one.
    #[error("the target overlaps with {other}, declared at {first}; give each seed a directory of its own")]
    TargetTaken {
        /// The other target.
        other: String,
        /// Where that is declared.
        first: String,
    },
    /// A target in the store.
    #[error("the target lies in the store; choose a directory outside .seedcache")]
    TargetInStore,
    /// Not a regular expression.
    #[error("it is no regular expression: {why}")]
    Pattern {
        /// What the parser says, its drawing left out.
        why: String,
    },
    /// No way to find the version.
    #[error("the pattern has groups, but none named `version`; write `(?<version>…)` around the version's name")]
    PatternGroup,
    /// Not a glob.
    #[error("it is no glob")]
    Glob(#[source] Box<globset::Error>),
    /// Not an address.
    #[error("{given:?} is no http or https address")]
    Url {
        /// What was given, without secrets.
        given: String,
    },
    /// `{something}`.
    #[error("`{{{found}}}` is nothing that is filled in; known are `{{version}}` and `{{file}}`")]
    Placeholder {
        /// What stands in the braces.
        found: String,
    },
    /// `{file}` without a way to know it.
    #[error("`{{file}}` needs `checksums.file`, the glob that finds the file's name in the sums file")]
    FileUnknown,
    /// `{version}` where the version is read from.
    #[error("`{{version}}` cannot stand here: the version is read from this very object")]
    VersionUnknown,
    /// `from` names something that is not given.
    #[error("`from: {from}` needs `{needs}`")]
    FromNeeds {
        /// What it says.
        from: &'static str,
        /// What it lacks.
        needs: &'static str,
    },
    /// A digest of another algorithm.
    #[error("it is the hex of a {found}, not of a {wanted}")]
    DigestKind {
        /// Which it is.
        found: String,
        /// Which it must be.
        wanted: &'static str,
    },
    /// Not a header.
    #[error("it is no HTTP header {part}")]
    HttpHeader {
        /// Name or value.
        part: &'static str,
    },
    /// Out of range.
    #[error("it must be at least {least}")]
    TooSmall {
        /// The smallest value allowed.
        least: &'static str,
    },
    /// Without meaning for a single file.
    #[error("`format: none` stores one file as it is; this field has no meaning there")]
    SingleFile,
    /// Not one component.
    #[error("{given:?} is no file name; give one plain name without `/`")]
    FileName {
        /// What was given.
        given: String,
    },
    /// Not an address to listen on.
    #[error("{given:?} is no address to listen on; write it like 127.0.0.1:7070")]
    Listen {
        /// What was given.
        given: String,
    },
    /// Nowhere to listen.
    #[error("neither `http` nor `socket` is set: nobody could reach the daemon")]
    NowhereToListen,
}

/// The parser's message without its place, which stands before it already.
fn message(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::MessageFormatter as _;
    serde_saphyr::DefaultMessageFormatter.format_message(error.without_snippet()).into_owned()
}
