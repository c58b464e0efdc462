//! Declared seeds: the targets that the daemon keeps at the current version, and the files rendered into them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::text_or_file::TextOrFile;
use super::yaml::blank_is_default;
use crate::fs::RelPath;

/// A declared seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SeedTarget {
    /// Directory, relative to `settings.seed.root`.
    #[schemars(with = "String")]
    pub target: RelPath,
    /// How files get there.
    #[serde(default, deserialize_with = "blank_is_default")]
    pub link: Link,
    /// How a new version takes the old one's place; absent: by exchange, or in place where the target is a mount point.
    #[serde(default, deserialize_with = "blank_is_default", skip_serializing_if = "Option::is_none")]
    pub swap: Option<Swap>,
    /// Templated files put beside the tree; they are swapped in with it.
    #[serde(default, deserialize_with = "blank_is_default", skip_serializing_if = "Vec::is_empty")]
    pub render: Vec<Render>,
    /// What templates call `values.NAME`.
    #[serde(default, deserialize_with = "blank_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, SeedValue>,
}

/// How files get to a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
#[value(rename_all = "camelCase")]
pub enum Link {
    /// The best that works: reflink, hard link, copy.
    #[default]
    Auto,
    /// Shared extents, or fail.
    Reflink,
    /// Shared inodes, or fail.
    Hardlink,
    /// Own bytes, for pods that write.
    Copy,
}

/// How a new version takes the old one's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
#[value(rename_all = "camelCase")]
pub enum Swap {
    /// The whole directory in one rename.
    #[default]
    Exchange,
    /// A `..data` symlink, as ConfigMaps have.
    Symlink,
    /// File by file within the directory.
    InPlace,
}

/// As documents and callers write it.
impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Link::Auto => "auto",
            Link::Reflink => "reflink",
            Link::Hardlink => "hardlink",
            Link::Copy => "copy",
        })
    }
}

/// As documents and callers write it.
impl fmt::Display for Swap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Swap::Exchange => "exchange",
            Swap::Symlink => "symlink",
            Swap::InPlace => "inPlace",
        })
    }
}

/// A small templated file put beside the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Render {
    /// Where, relative to the target.
    #[schemars(with = "String")]
    pub path: RelPath,
    /// The template, in the language of Jinja. It may name `artifact`, `version`, `digest`, `treeDigest`, `publishedAt`,
    /// `node`, `env.NAME` (names that `settings.seed.env` lists) and `values.NAME`.
    pub template: String,
    /// The file's rights, as octal digits.
    #[serde(default, deserialize_with = "blank_is_default")]
    pub mode: FileMode,
}

/// A value for templates.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, deny_unknown_fields, from = "TextOrFile")]
#[schemars(!from)]
pub enum SeedValue {
    /// As it stands.
    Text(String),
    /// The content of a file without its trailing newline, read again for each rendering; when it changes, the file is
    /// rendered again. The path is relative to the document.
    #[serde(rename_all = "camelCase")]
    File {
        /// The file.
        from_file: PathBuf,
    },
}

impl From<TextOrFile> for SeedValue {
    fn from(read: TextOrFile) -> Self {
        match read {
            TextOrFile::Text(text) => Self::Text(text),
            TextOrFile::File(from_file) => Self::File { from_file },
        }
    }
}

/// Values may be secrets: they are not shown.
impl fmt::Debug for SeedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SeedValue::Text(_) => f.write_str("<hidden>"),
            SeedValue::File { from_file } => write!(f, "fromFile {}", from_file.display()),
        }
    }
}

/// The rights of a rendered file, written `"0644"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("pattern" = "^0?[0-7]{3}$"))]
pub struct FileMode(pub u32);

/// Why a text is no such mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no mode of a file; write three octal digits, like \"0644\"")]
pub struct FileModeError {
    given: Box<str>,
}

impl Default for FileMode {
    fn default() -> Self {
        Self(0o644)
    }
}

impl FromStr for FileMode {
    type Err = FileModeError;
    fn from_str(text: &str) -> Result<Self, FileModeError> {
        let digits = if text.len() == 4 { text.strip_prefix('0') } else { Some(text) };
        let digits = digits.filter(|digits| digits.len() == 3 && digits.bytes().all(|b| matches!(b, b'0'..=b'7')));
        let mode = digits.and_then(|digits| u32::from_str_radix(digits, 8).ok());
        mode.map(Self).ok_or_else(|| FileModeError { given: text.into() })
    }
}

impl TryFrom<String> for FileMode {
    type Error = FileModeError;
    fn try_from(text: String) -> Result<Self, FileModeError> {
        text.parse()
    }
}

impl From<FileMode> for String {
    fn from(mode: FileMode) -> String {
        format!("0{:03o}", mode.0)
    }
}
