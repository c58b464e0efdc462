//! What a request's path names: an artifact, a version, a path in its tree.
//!
//! Read from the raw path, percent-decoded segment by segment and as bytes: file names need not be UTF-8, and a `%2F`
//! never becomes a separator.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use percent_encoding::percent_decode_str;

use super::problem::{Kind, Problem};
use crate::fs::{PathError, RelPath};
use crate::intent::{ArtifactName, VersionName};

/// The artifact that a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named(pub(super) ArtifactName);

/// The version that a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Addressed {
    pub(super) artifact: ArtifactName,
    /// `None`: the current one.
    pub(super) version: Option<VersionName>,
    /// What follows `files/`; `None` for the tree itself.
    pub(super) path: Option<RelPath>,
    /// The path ended with a slash: only a directory will do.
    pub(super) wants_dir: bool,
}

impl<S: Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        artifact(&mut parts.uri.path().split('/')).map(Named)
    }
}

impl<S: Sync> FromRequestParts<S> for Addressed {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        read(parts.uri.path())
    }
}

impl Addressed {
    /// What the path of a file's address names; `None` for all other addresses, and where it names nothing.
    pub(super) fn of_file(path: &str) -> Option<Self> {
        let below = path.strip_prefix("/v1/artifacts/")?;
        let mut segments = below.splitn(5, '/');
        let (_, versions, _, files, file) =
            (segments.next()?, segments.next()?, segments.next()?, segments.next()?, segments.next()?);
        (versions == "versions" && files == "files" && !file.is_empty()).then(|| read(path).ok()).flatten()
    }
}

fn artifact<'a>(segments: &mut impl Iterator<Item = &'a str>) -> Result<ArtifactName, Problem> {
    // "", "v1", "artifacts", NAME
    let name = text(segments.nth(3))?;
    let next = "GET /v1/artifacts lists those there are";
    name.parse().map_err(|error| Problem::new(Kind::NotFound, error, next))
}

fn read(path: &str) -> Result<Addressed, Problem> {
    let mut segments = path.splitn(8, '/');
    let artifact = artifact(&mut segments)?;
    // "versions", VERSION
    let version = text(segments.nth(1))?;
    let version = match &version[..] {
        "current" => None,
        name => Some(name.parse().map_err(|error| {
            Problem::new(Kind::NotFound, error, format!("GET /v1/artifacts/{artifact} lists those there are"))
        })?),
    };
    // "files", PATH
    let raw = segments.nth(1).unwrap_or_default();
    let path = tree_path(raw).map_err(|error| {
        Problem::new(Kind::Malformed, error, "name the file as the manifest does, without `.`, `..` or doubled slashes")
    })?;
    Ok(Addressed { artifact, version, path, wants_dir: raw.ends_with('/') })
}

fn text(segment: Option<&str>) -> Result<String, Problem> {
    let decoded = percent_decode_str(segment.unwrap_or_default()).decode_utf8();
    let name = decoded.map_err(|error| Problem::new(Kind::Malformed, error, "names are plain ASCII"))?;
    Ok(name.into_owned())
}

/// Why a path in a URL is none in a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum TreePathError {
    #[error("a segment of the path has a slash in it (%2F)")]
    Slash,
    #[error(transparent)]
    Path(#[from] PathError),
}

fn tree_path(raw: &str) -> Result<Option<RelPath>, TreePathError> {
    // One slash may end it; a slash alone would be a second one after `files/`.
    let raw = raw.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(raw);
    if raw.is_empty() {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(raw.len());
    for (i, segment) in raw.split('/').enumerate() {
        if i > 0 {
            bytes.push(b'/');
        }
        let start = bytes.len();
        bytes.extend(percent_decode_str(segment));
        if bytes[start..].contains(&b'/') {
            return Err(TreePathError::Slash);
        }
    }
    Ok(Some(RelPath::parse(bytes)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_bytes_and_stay_inside() {
        let path = |raw| tree_path(raw).map(|path| path.map(|path| path.as_bytes().to_vec()));
        assert_eq!(path(""), Ok(None));
        assert_eq!(path("a/b%20c/"), Ok(Some(b"a/b c".to_vec())));
        assert_eq!(path("%ff%FE"), Ok(Some(b"\xff\xfe".to_vec())));
        assert_eq!(path("100%"), Ok(Some(b"100%".to_vec())));
        assert_eq!(path("a+b"), Ok(Some(b"a+b".to_vec())));
        for (raw, why) in [
            ("..", PathError::Parent),
            ("a/../b", PathError::Parent),
            ("%2e%2E/etc", PathError::Parent),
            ("a//b", PathError::Dot),
            ("./a", PathError::Dot),
            ("/etc/passwd", PathError::Absolute),
            ("/", PathError::Absolute),
            ("//", PathError::Absolute),
            ("a%00b", PathError::Nul),
        ] {
            assert_eq!(path(raw), Err(why.into()), "{raw}");
        }
        assert_eq!(path("a%2Fb"), Err(TreePathError::Slash));
        assert_eq!(path("..%2f..%2fetc"), Err(TreePathError::Slash));
    }

    #[test]
    fn versions_are_named_or_current() {
        let addressed = read("/v1/artifacts/smartos/versions/v1.2%2Bb/files/a/b/").unwrap();
        assert_eq!(addressed.artifact.as_str(), "smartos");
        assert_eq!(addressed.version.unwrap().as_str(), "v1.2+b");
        assert_eq!(addressed.path.unwrap().as_bytes(), b"a/b");
        assert!(addressed.wants_dir);
        let current = read("/v1/artifacts/smartos/versions/current").unwrap();
        assert_eq!((current.version, current.path), (None, None));
        assert!(read("/v1/artifacts/smartos/versions/..").is_err());
        assert!(read("/v1/artifacts/%2e%2e/versions/current").is_err());
        assert!(read("/v1/artifacts/%ff/versions/current").is_err());
    }

    proptest! {
        #[test]
        fn every_name_can_be_asked_for(names in prop::collection::vec("[^/\0]{1,20}", 1..4)) {
            let path = names.join("/");
            prop_assume!(RelPath::parse(&path).is_ok());
            let encoded: Vec<String> = names
                .iter()
                .map(|name| percent_encoding::percent_encode(name.as_bytes(), percent_encoding::NON_ALPHANUMERIC).to_string())
                .collect();
            let read = tree_path(&encoded.join("/")).unwrap().unwrap();
            prop_assert_eq!(read.as_bytes(), path.as_bytes());
        }
    }
}
