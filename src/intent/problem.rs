//! What can be wrong with a document or the settings, and where it stands.

use std::fmt;
use std::path::PathBuf;

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
    /// A word on the command line.
    #[error("{option}")]
    Option {
        /// Which.
        option: &'static str,
        /// What is wrong with it.
        #[source]
        problem: Problem,
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
    pub(super) fn line_of(&self) -> String {
        format!("{}:{}", self.file.display(), self.line)
    }
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// No YAML, or a value of the wrong form.
    #[error("{why}")]
    Form {
        /// What the parser says, its place left out.
        why: Box<str>,
    },
    /// A field that there is not.
    #[error("there is no such field{}; known here are {known}", meant(*.like))]
    UnknownField {
        /// What was probably meant.
        like: Option<&'static str>,
        /// What there is.
        known: Box<str>,
    },
    /// A field that must be there.
    #[error("the field is missing; add it")]
    Missing,
    /// A word that is none of the choices.
    #[error("{given:?} is not known here{}; known are {known}", meant(*.like))]
    UnknownChoice {
        /// What was given.
        given: Box<str>,
        /// What was probably meant.
        like: Option<&'static str>,
        /// The choices.
        known: Box<str>,
    },
    /// Nothing where a choice must be.
    #[error("nothing is given; give one of {known}")]
    NoChoice {
        /// The choices.
        known: Box<str>,
    },
    /// A field that stands there twice.
    #[error("the field is given twice; keep one")]
    GivenTwice,
    /// A source of two kinds.
    #[error("more than one kind is given; keep one")]
    SeveralKinds,
    /// Another kind of document.
    #[error("a {found} does not belong here; every document is of kind {wanted}")]
    Kind {
        /// What it says.
        found: String,
        /// What it must say.
        wanted: &'static str,
    },
    /// Another API.
    #[error("{found:?} is not known here; write {wanted}")]
    ApiVersion {
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
    #[error("it is no http or https address; write it like `https://host/path`")]
    Url,
    /// Not a host.
    #[error("it is no host; write it like `s3.internal`, `10.0.0.5` or `[fd00::5]`, without scheme, port and path")]
    Host,
    /// An address where a path belongs.
    #[error("a file source takes paths on the node; for an address declare `source.http`")]
    NotAPath,
    /// An empty path.
    #[error("the path is empty")]
    EmptyPath,
    /// The document's directory has no name in UTF-8.
    #[error("it is relative to a directory whose name is no UTF-8; write it from the root `/`")]
    DirectoryName,
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
    /// `{version}` with nothing that tells it.
    #[error("nothing tells what `{{version}}` is; give `latest.url` (a pointer), or an exact `version`")]
    VersionUntold,
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
    /// Out of range, above.
    #[error("it must be at most {most}")]
    TooLarge {
        /// The largest value allowed.
        most: &'static str,
    },
    /// Out of range, on either side.
    #[error("it must be from {least} to {most}")]
    OutOfRange {
        /// The smallest value allowed.
        least: u8,
        /// The largest.
        most: u8,
    },
    /// Without meaning for a single file.
    #[error("`format: none` stores one file as it is; this field has no meaning there")]
    SingleFile,
    /// Without meaning for an archive.
    #[error("only a single file is named so; add `format: none`, or leave the field out")]
    NotSingleFile,
    /// Can never be there.
    #[error("nothing can be there: the whole tree is put under {prefix}; put `{prefix}/` before it")]
    OutsidePrefix {
        /// The prefix.
        prefix: String,
    },
    /// Two files in one place.
    #[error("it is where another rendered file is, or lies in or around it; give each a path of its own")]
    RenderTaken,
    /// More rendered files than a seed's mark can name.
    #[error("a seed has at most {files} rendered files, and their paths together at most {bytes} bytes")]
    RenderTooMuch {
        /// How many.
        files: usize,
        /// How long.
        bytes: usize,
    },
    /// A path that no terminal should see.
    #[error("the path has a control character in it")]
    ControlCharacter,
    /// A template that cannot be read, or names what there is not.
    #[error("it cannot be rendered")]
    Template(#[source] super::TemplateError),
    /// A name that a template could not say.
    #[error("{given:?} is no name for a value; use letters, digits and `_`, no digit first")]
    ValueName {
        /// What was given.
        given: String,
    },
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
    /// Not a filter for the log.
    #[error("it is no log level or filter; write it like `info` or `seedcache=debug,info`")]
    LogLevel(#[source] tracing_subscriber::filter::ParseError),
    /// Not the name of a variable.
    #[error("{given:?} is no name of an environment variable")]
    EnvName {
        /// What was given.
        given: String,
    },
    /// Pods would be seeded into the store.
    #[error("it lies in the store ({store}); choose a directory outside it")]
    RootInStore {
        /// The store's directory.
        store: String,
    },
    /// A second document among the settings.
    #[error("the settings are one document; artifacts are declared in other files")]
    SecondSettings,
    /// Nowhere to listen.
    #[error("neither `http` nor `socket` is set: nobody could reach the daemon")]
    NowhereToListen,
}

fn meant(like: Option<&str>) -> String {
    like.map(|like| format!("; did you mean `{like}`?")).unwrap_or_default()
}
