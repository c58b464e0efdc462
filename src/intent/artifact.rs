//! The Artifact document: what operators declare, field by field as in the contract.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::text_or_file::TextOrFile;
use super::yaml::blank_is_default;
use super::{ArtifactName, Bytes, Digest, Interval, SeedTarget, VersionName};
use crate::fs::RelPath;

/// One declared artifact: a document, checked, with the digest of what it says.
#[derive(Debug, Clone, PartialEq)]
pub struct Artifact {
    /// `metadata.name`.
    pub name: ArtifactName,
    /// `spec`, relative file paths made absolute.
    pub spec: Spec,
    /// SHA-256 of the spec as read: a changed document has another.
    pub generation: Digest,
    /// The file it stands in.
    pub file: PathBuf,
}

impl std::ops::Deref for Artifact {
    type Target = Spec;
    fn deref(&self) -> &Spec {
        &self.spec
    }
}

/// `spec` of an Artifact document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Spec {
    /// Where the bytes come from.
    pub source: Source,
    /// `latest`, or one exact version.
    #[serde(default, deserialize_with = "blank_is_default")]
    pub version: VersionWish,
    /// SHA-256 that the archive must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// SHA-512 that the archive must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha512: Option<Digest>,
    /// Version that is current whatever `latest` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<VersionName>,
    /// How often `latest` is asked again; jittered.
    #[serde(default = "default_refresh")]
    pub refresh: Interval,
    /// How the archive becomes a tree.
    #[serde(default, deserialize_with = "blank_is_default")]
    pub unpack: Unpack,
    /// Keep the downloaded bytes beside the tree.
    #[serde(default, deserialize_with = "blank_is_default")]
    pub keep_archive: bool,
    /// What collection leaves: so many of the newest, those in use counted, and all younger ones; what is in use stays
    /// besides.
    #[serde(default, deserialize_with = "blank_is_default")]
    pub retain: Retain,
    /// Targets that the daemon keeps seeded by itself.
    #[serde(default, deserialize_with = "blank_is_default", skip_serializing_if = "Vec::is_empty")]
    pub seeds: Vec<SeedTarget>,
}

fn default_refresh() -> Interval {
    Interval(Duration::from_secs(3600))
}

/// Where an artifact's bytes come from: exactly one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum Source {
    /// An HTTP or HTTPS origin.
    Http(HttpSource),
    /// A file on the node.
    File(FileSource),
}

/// An HTTP or HTTPS origin. `{version}` and `{file}` are filled in where URLs hold them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HttpSource {
    /// The archive.
    pub url: String,
    /// How `latest` becomes a version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<Latest>,
    /// A sums file that names the archive and its digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksums: Option<Checksums>,
    /// Tried in order when `url` fails; the same digest is demanded of each.
    #[serde(default, deserialize_with = "blank_is_default", skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<String>,
    /// Sent with each request to the origin (scheme, host, port) of `url`, the pointer's and sums file's included; never to
    /// another one: neither a mirror nor where it redirects to.
    #[serde(default, deserialize_with = "blank_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, HeaderValue>,
    /// Most connections that one download reads at once, each a range of the archive; for origins that limit each
    /// connection.
    #[serde(default, deserialize_with = "blank_is_default", skip_serializing_if = "Connections::is_one")]
    pub connections: Connections,
    /// Hosts on private networks that redirects may lead to besides those of the addresses here: names or addresses, without
    /// scheme, port and path. Hosts on the internet need not be named.
    #[serde(default, deserialize_with = "blank_is_default", skip_serializing_if = "Vec::is_empty")]
    pub redirects_to: Vec<String>,
}

/// How many connections one download may read at once, 1 to 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Connections(#[schemars(range(min = 1, max = 16))] pub u8);

impl Connections {
    /// No document may ask for more: it is one client of many to its origin.
    pub const MOST: u8 = 16;

    /// As where nothing is said: not told apart, so that older documents keep their generation.
    fn is_one(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self(1)
    }
}

/// A file on the node, with the same ways of telling versions. Paths are relative to the document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FileSource {
    /// The archive; `{version}` and `{file}` are filled in.
    pub path: String,
    /// How `latest` becomes a version; its `url` is a path here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<Latest>,
    /// A sums file that names the archive and its digest; its `url` is a path here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksums: Option<Checksums>,
}

/// How `latest` becomes a version name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(transform = super::schema::url_or_path)]
pub struct Latest {
    /// A small text object that holds the version (a pointer); for a file source its path.
    #[serde(default, alias = "path", skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Finds the version in what `from` gives; its group `version` is the name. Without it the whole trimmed text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// What the version is read from; without it `pointer` where `url` is given, `checksums` where the sums file's own
    /// address needs no version, else `validator`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<LatestFrom>,
}

/// What `latest` is told by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum LatestFrom {
    /// The text object at `url`.
    Pointer,
    /// The name of the file that the sums file lists; without a pattern the digest names the version.
    Checksums,
    /// ETag and Last-Modified of the archive (size and time of a file).
    Validator,
    /// The name of the archive's top directory, known once its first entry was read.
    TopDirectory,
}

/// A sums file (`HASH  name` or `HASH name` on each line).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(transform = super::schema::url_or_path)]
pub struct Checksums {
    /// Where it is; for a file source its path.
    #[serde(alias = "path")]
    pub url: String,
    /// Glob for the archive's name in it; exactly one line may match. Without it the last segment of the archive's URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// The value of a request header.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, deny_unknown_fields, from = "TextOrFile")]
#[schemars(!from)]
pub enum HeaderValue {
    /// As it stands.
    Text(String),
    /// The content of a file without its trailing newline, read again for each fetch.
    #[serde(rename_all = "camelCase")]
    File {
        /// The file.
        from_file: PathBuf,
    },
}

impl From<TextOrFile> for HeaderValue {
    fn from(read: TextOrFile) -> Self {
        match read {
            TextOrFile::Text(text) => Self::Text(text),
            TextOrFile::File(from_file) => Self::File { from_file },
        }
    }
}

/// Header values are often secrets: they are not shown.
impl std::fmt::Debug for HeaderValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HeaderValue::Text(_) => f.write_str("<hidden>"),
            HeaderValue::File { from_file } => write!(f, "fromFile {}", from_file.display()),
        }
    }
}

/// The version asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum VersionWish {
    /// The newest that the source names.
    #[default]
    Latest,
    /// This one.
    Exact(VersionName),
}

impl TryFrom<String> for VersionWish {
    type Error = super::NameError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == "latest" { Ok(VersionWish::Latest) } else { text.try_into().map(VersionWish::Exact) }
    }
}

impl From<VersionWish> for String {
    fn from(wish: VersionWish) -> String {
        match wish {
            VersionWish::Latest => "latest".into(),
            VersionWish::Exact(name) => name.into(),
        }
    }
}

/// How an archive becomes a tree.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Unpack {
    /// The archive's format; `auto` is told by content.
    #[serde(deserialize_with = "blank_is_default")]
    pub format: UnpackFormat,
    /// Leading components dropped from each entry's path, as by tar a `.` among them; entries with no more than that many
    /// vanish.
    #[serde(deserialize_with = "blank_is_default")]
    pub strip_components: u32,
    /// Directory that the tree is put under.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub prefix: Option<RelPath>,
    /// Globs on the path after stripping, before the prefix; with any, only what matches is kept.
    #[serde(deserialize_with = "blank_is_default")]
    pub include: Vec<String>,
    /// Globs on the same path; what matches is left out, a directory with all below it.
    #[serde(deserialize_with = "blank_is_default")]
    pub exclude: Vec<String>,
    /// Paths (with the prefix) that the tree must hold.
    #[serde(deserialize_with = "blank_is_default")]
    #[schemars(with = "Vec<String>")]
    pub require: Vec<RelPath>,
    /// Where unpacking fails.
    #[serde(deserialize_with = "blank_is_default")]
    pub limits: Limits,
    /// Owner of every entry; absent: as in the archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// The name of a single file (`format: none`); without it the last segment of its URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_name: Option<String>,
}

/// An archive's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum UnpackFormat {
    /// Told by content, not by name: a tar in any of the compressions; anything else is refused.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// Uncompressed tar.
    #[serde(rename = "tar")]
    Tar,
    /// gzip.
    #[serde(rename = "tar.gz", alias = "tgz")]
    TarGz,
    /// Zstandard.
    #[serde(rename = "tar.zst")]
    TarZst,
    /// xz.
    #[serde(rename = "tar.xz")]
    TarXz,
    /// bzip2.
    #[serde(rename = "tar.bz2")]
    TarBz2,
    /// A single file, stored as it is.
    #[serde(rename = "none")]
    None,
}

/// Where unpacking fails; nothing is ever truncated.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Limits {
    /// Bytes of all files.
    pub bytes: Bytes,
    /// Unpacked to packed bytes.
    #[schemars(range(min = 1))]
    pub ratio: u32,
    /// Entries.
    #[schemars(range(min = 1))]
    pub entries: u64,
    /// Components of a path.
    #[schemars(range(min = 1))]
    pub depth: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: Bytes(64 << 30), ratio: 200, entries: 1_000_000, depth: 64 }
    }
}

/// An owner by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Owner {
    /// User.
    #[schemars(range(max = 4_294_967_294_u32))]
    pub uid: u32,
    /// Group.
    #[schemars(range(max = 4_294_967_294_u32))]
    pub gid: u32,
}

/// What collection leaves besides what is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Retain {
    /// So many of the newest versions.
    pub versions: u32,
    /// Versions younger than this.
    #[serde(rename = "for")]
    pub age: Interval,
}

impl Default for Retain {
    fn default() -> Self {
        Self { versions: 3, age: Interval(Duration::from_secs(48 * 3600)) }
    }
}
