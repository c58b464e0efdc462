//! What operators want: settings and Artifact documents, checked once, then plain data.
//!
//! Pure but for reading the files; nothing here knows what the node holds.

mod artifact;
mod catalog;
mod digest;
mod document;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod located;
mod name;
mod pattern;
mod problem;
mod quantity;
mod recipe;
mod schema;
mod seeds;
mod settings;
mod split;
mod template;
#[cfg(test)]
mod tests;
mod text_or_file;
mod validate;
mod watch;
mod yaml;

pub use artifact::{
    Artifact, Checksums, Connections, FileSource, HeaderValue, HttpSource, Latest, LatestFrom, Limits, Owner, Retain,
    Source, Spec, Unpack, UnpackFormat, VersionWish,
};
pub use catalog::{Catalog, Refused};
pub use digest::{Algorithm, Digest, DigestError, Hasher};
pub use document::{Builder, Parsed, is_settings, load_catalog, load_settings, parse_documents, parse_settings, read};
pub use name::{ArtifactName, NameError, VersionName, VersionOrCurrent};
pub use pattern::version_pattern;
pub use problem::{DocumentError, Place, Problem};
pub use quantity::{Bytes, Interval, MinFree};
pub use recipe::recipe_digest;
pub use schema::schema;
pub use seeds::{FileMode, FileModeError, Link, Render, SeedTarget, SeedValue, Swap};
pub use settings::{
    FetchSettings, Listen, LogFormat, LogSettings, ScrubSettings, SeedSettings, Settings, StoreSettings,
};
pub use template::{TEMPLATE_NAMES, TemplateError, template_engine, template_names};
pub use watch::Watch;

/// An error with its causes, in one line: what a document made it say cannot break the line or steer a terminal.
pub fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let all: Vec<String> = std::iter::successors(Some(error), |e| e.source()).map(ToString::to_string).collect();
    let plain = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    all.join(": ").chars().map(plain).collect()
}
