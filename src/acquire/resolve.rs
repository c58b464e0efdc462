//! `latest`, or an exact version, to a version name, digests to demand and places to fetch from.

mod ask;
mod fill;
mod known;
mod naming;
mod sums;

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

pub(super) use ask::resolve;
pub use fill::FillError;
pub(super) use known::Known;
pub use naming::NamingError;
pub(crate) use naming::by_digest;
pub(super) use naming::find_version;
use naming::unmarked;
pub use sums::SumsError;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) use sums::{Wanted as WantedSum, find as find_sum};

use super::source::{HttpError, redacted};
use super::transfer::Validators;
use crate::intent::{Algorithm, Artifact, Digest, VersionName};
use crate::store::{ManifestHead, ResolvedFrom};

/// What a source says is to be had.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolution {
    /// How the version is called.
    pub naming: Naming,
    /// Where its bytes are: the source itself, then mirrors.
    pub locations: Vec<Location>,
    /// Digests that the archive must have, all of them.
    pub demanded: Vec<Digest>,
    /// What the source said, to be recorded.
    pub resolved_from: ResolvedFrom,
    /// The name of a single file (`unpack.format: none`), told by the source.
    pub file_name: String,
}

/// How the version is called.
#[derive(Debug, Clone, PartialEq)]
pub enum Naming {
    /// By this name.
    Known(VersionName),
    /// By the archive's top directory, once its first entry was read; the pattern finds the name in it.
    TopDirectory {
        /// As `latest.pattern`; without one the whole name.
        pattern: Option<String>,
    },
    /// By the digest of the bytes, once they are all here: `sha256-<12 hex digits>`.
    Content,
}

/// A place to fetch from.
#[derive(Debug, Clone, PartialEq)]
pub enum Location {
    /// An HTTP or HTTPS address.
    Http(Url),
    /// A file on the node.
    File(PathBuf),
}

impl Location {
    /// The place without secrets, as it is recorded and shown.
    pub fn redacted(&self) -> String {
        match self {
            Location::Http(url) => redacted(url),
            Location::File(path) => match Url::from_file_path(path) {
                Ok(url) => url.into(),
                Err(()) => path.display().to_string(),
            },
        }
    }
}

impl Location {
    /// The place that a manifest says its version came from, whose secrets are not known any more.
    pub fn recorded(source_url: &str) -> Option<Self> {
        let url = Url::parse(source_url).ok()?;
        match url.scheme() {
            "http" | "https" => Some(Location::Http(url)),
            _ => url.to_file_path().ok().map(Location::File),
        }
    }
}

impl Resolution {
    /// The bytes of a version that the node had, to be had again at a place. A single file has the name that the document gives
    /// it, wherever it comes from.
    pub fn recorded(artifact: &Artifact, head: &ManifestHead, location: Location) -> Self {
        let of_source = || fill::last_segment(&head.source_url, true);
        Self {
            naming: Naming::Known(head.version.clone()),
            locations: vec![location],
            demanded: vec![head.archive.digest.clone()],
            resolved_from: head.resolved_from.clone(),
            file_name: ask::file_name(artifact, &head.version).or_else(of_source).unwrap_or_else(|| "data".into()),
        }
    }

    /// The version's name, where it is known before the bytes are.
    pub fn version(&self) -> Option<&VersionName> {
        match &self.naming {
            Naming::Known(version) => Some(version),
            Naming::TopDirectory { .. } | Naming::Content => None,
        }
    }

    /// Whether a version on the node is what this resolution would fetch, as far as can be told without fetching:
    /// the same name, or for a name not known yet the same demanded digest or validators.
    pub fn names(&self, head: &ManifestHead) -> bool {
        if let Some(version) = self.version() {
            return *version == head.version;
        }
        if !self.demanded.is_empty() {
            let known = |digest: &Digest| *digest == head.archive.digest || head.archive.verified_by.contains(digest);
            return self.demanded.iter().all(known);
        }
        let (now, then) = (&self.resolved_from, &head.resolved_from);
        // What gave the rest of an object may have left its time out.
        let (etag, last_modified) = (now.etag.as_deref().map(unmarked), now.last_modified.as_deref());
        let same = match etag {
            Some(_) => {
                etag == then.etag.as_deref().map(unmarked) && !differ(last_modified, then.last_modified.as_deref())
            }
            None => last_modified.is_some() && then.etag.is_none() && last_modified == then.last_modified.as_deref(),
        };
        same && self.locations.iter().any(|location| location.redacted() == head.source_url)
    }

    /// The version's name was made of validators, and they are not these: it is that state of the object, not any later one.
    pub(super) fn is_named_by_others(&self, now: &Validators) -> bool {
        matches!(self.naming, Naming::Known(_)) && self.is_contradicted_by(now)
    }

    /// The version's name was made of a file's time and size, and they are not these.
    pub(super) fn is_named_by_another_file(&self, time: jiff::Timestamp, size: u64) -> bool {
        let Naming::Known(version) = &self.naming else { return false };
        // Only a file that was asked for them has a time; a digest that is demanded tells the bytes whatever they say.
        !self.has_strong_digest()
            && self.resolved_from.last_modified.is_some()
            && *version != naming::by_time_and_size(time, size)
    }

    /// These validators of the source's own are of another state of the object than it had when it was asked. A digest that
    /// is demanded tells which one it is whatever they say.
    pub(super) fn is_contradicted_by(&self, now: &Validators) -> bool {
        let then = &self.resolved_from;
        !self.has_strong_digest()
            && (differ(then.etag.as_deref().map(unmarked), now.etag.as_deref().map(unmarked))
                || differ(then.last_modified.as_deref(), now.last_modified.as_deref()))
    }

    /// A digest is demanded that nobody can forge.
    pub(super) fn has_strong_digest(&self) -> bool {
        self.demanded.iter().any(|digest| !digest.algorithm().is_weak())
    }
}

/// Both are said, and they are not the same.
fn differ(a: Option<&str>, b: Option<&str>) -> bool {
    a.zip(b).is_some_and(|(a, b)| a != b)
}

/// Why a source could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The daemon was told to stop.
    #[error("asking the source was interrupted; it is asked again at the next start")]
    Cancelled,
    /// A request failed.
    #[error("the source cannot be asked")]
    Http(#[from] HttpError),
    /// A file cannot be read.
    #[error("the source cannot be read; check the paths under `source.file`")]
    File(#[from] crate::fs::Error),
    /// An address that is none.
    #[error("{address:?} is no http or https URL; correct it in `source.http`")]
    Address {
        /// The address, without secrets.
        address: Box<str>,
    },
    /// A template lacks its value.
    #[error("an address cannot be filled in")]
    Fill(#[from] FillError),
    /// No version name is found.
    #[error("{pointer} names no version")]
    Naming {
        /// What was asked.
        pointer: Box<str>,
        /// Why.
        #[source]
        source: NamingError,
    },
    /// The sums file does not give the archive's digest.
    #[error("the sums file {sums} gives no digest for the archive")]
    Sums {
        /// The sums file.
        sums: Box<str>,
        /// Why.
        #[source]
        source: SumsError,
    },
    /// The archive's name can't be looked up in the sums file.
    #[error("{address} ends in no file name to look for in the sums file; give `checksums.file`")]
    NoFileName {
        /// The archive's address.
        address: Box<str>,
    },
    /// The document and the sums file demand different digests.
    #[error("the document demands {document}, the sums file {sums} says {said}; correct `{}` or remove it", document.algorithm())]
    Contradiction {
        /// What the document says.
        document: Digest,
        /// The sums file.
        sums: Box<str>,
        /// What the sums file says.
        said: Digest,
    },
    /// A digest under the wrong name.
    #[error("`{field}` holds a digest of another algorithm ({given})")]
    WrongAlgorithm {
        /// Which field.
        field: Algorithm,
        /// What it holds.
        given: Digest,
    },
    /// `latest.from` asks for what the document does not give.
    #[error("`latest.from` is `{from}`, which needs `{needs}`")]
    Incomplete {
        /// What it says.
        from: &'static str,
        /// Which field is missing.
        needs: &'static str,
    },
    /// A version that the source does not have any more.
    #[error(
        "the source has no version {wanted} any more, only {has}; put `{{version}}` into its URL, or correct the pin"
    )]
    Gone {
        /// What was asked for.
        wanted: VersionName,
        /// What it has.
        has: VersionName,
    },
}

impl ResolveError {
    /// Trying again later may help without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            ResolveError::Http(error) => error.is_transient(),
            ResolveError::Cancelled | ResolveError::File(_) => true,
            _ => false,
        }
    }

    /// When the source wants to be asked again, where it said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            ResolveError::Http(error) => error.retry_after(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::Archive;

    fn head() -> ManifestHead {
        let sample = ManifestHead::sample("a", "1");
        ManifestHead {
            source_url: "http://h/x?k=***".into(),
            archive: Archive { digest: Digest::sha256(b"x"), ..sample.archive.clone() },
            resolved_from: ResolvedFrom { etag: Some("\"a\"".into()), ..Default::default() },
            ..sample
        }
    }

    fn resolution(naming: Naming) -> Resolution {
        Resolution {
            naming,
            locations: vec![Location::Http("http://u:p@h/x?k=v".parse().unwrap())],
            demanded: vec![],
            resolved_from: head().resolved_from,
            file_name: "x".into(),
        }
    }

    #[test]
    fn a_version_is_known_by_name_digest_or_validators() {
        let known = |name: &str| resolution(Naming::Known(name.parse().unwrap()));
        assert!(known("1").names(&head()));
        assert!(!known("2").names(&head()));
        assert!(resolution(Naming::Content).names(&head()));
        let silent = Resolution { resolved_from: ResolvedFrom::default(), ..resolution(Naming::Content) };
        assert!(!silent.names(&ManifestHead { resolved_from: ResolvedFrom::default(), ..head() }));
        let moved = vec![Location::Http("http://other/x?k=v".parse().unwrap())];
        assert!(!Resolution { locations: moved, ..resolution(Naming::Content) }.names(&head()));
        let other = ResolvedFrom { etag: Some("\"b\"".into()), ..Default::default() };
        let other = Resolution { resolved_from: other, ..resolution(Naming::TopDirectory { pattern: None }) };
        assert!(!other.names(&head()));
        let marked =
            ResolvedFrom { etag: Some("W/\"a\"".into()), last_modified: Some("then".into()), ..Default::default() };
        let marked = Resolution { resolved_from: marked, ..resolution(Naming::TopDirectory { pattern: None }) };
        assert!(marked.names(&head()), "as the rest of an object has it");
        let nothing = ManifestHead { resolved_from: ResolvedFrom::default(), ..head() };
        assert!(!marked.names(&nothing), "nothing vouches for what came from a mirror");
        let same_bytes = Resolution { demanded: vec![Digest::sha256(b"x")], ..other.clone() };
        assert!(same_bytes.names(&head()));
        let other_bytes = Resolution { demanded: vec![Digest::sha256(b"y")], ..resolution(Naming::Content) };
        assert!(!other_bytes.names(&head()));
    }
}
