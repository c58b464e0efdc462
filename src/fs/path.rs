//! Relative paths that were checked once and can then be trusted to stay where they are resolved.
//!
//! A [`RelPath`] is bytes, since file names on Linux are; it has one or more components, none of them empty, `.`, `..`
//! or with a NUL in it, each at most 255 bytes long, 4,096 in all.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The longest component that Linux file systems take, in bytes (`NAME_MAX`).
const NAME_MAX: usize = 255;
/// The longest path that Linux takes, in bytes (`PATH_MAX`).
const PATH_MAX: usize = 4096;

/// A relative path of plain components.
#[derive(Clone, PartialEq, Eq, Hash, JsonSchema)]
#[schemars(with = "lossless::Written")]
pub struct RelPath(Box<[u8]>);

/// Why bytes are no [`RelPath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No component at all.
    #[error("the path is empty")]
    Empty,
    /// It starts with `/`.
    #[error("the path is absolute; give it relative to its root")]
    Absolute,
    /// A component is `..`.
    #[error("the path has a `..` component, which could lead out of its root")]
    Parent,
    /// A component is `.` or empty.
    #[error("the path has an empty or `.` component")]
    Dot,
    /// A NUL byte.
    #[error("the path has a NUL byte in it")]
    Nul,
    /// A component over 255 bytes.
    #[error("a component of the path is longer than {NAME_MAX} bytes")]
    NameTooLong,
    /// Over 4,096 bytes.
    #[error("the path is longer than {PATH_MAX} bytes")]
    PathTooLong,
}

impl RelPath {
    /// Bytes that a path has less than.
    pub const LIMIT: usize = PATH_MAX;

    /// Checks `bytes` and takes them as they are: nothing is normalised.
    pub fn parse(bytes: impl AsRef<[u8]>) -> Result<Self, PathError> {
        let bytes = bytes.as_ref();
        if bytes.is_empty() {
            return Err(PathError::Empty);
        }
        if bytes[0] == b'/' {
            return Err(PathError::Absolute);
        }
        if bytes.len() >= PATH_MAX {
            return Err(PathError::PathTooLong);
        }
        for component in bytes.split(|&b| b == b'/') {
            check_component(component)?;
        }
        Ok(Self(bytes.into()))
    }

    /// Like [`RelPath::parse`], but forgives what people and archives write: a leading `./`, doubled and trailing
    /// slashes and `.` components are dropped. `None` when nothing is left (`.` or `./`).
    pub fn normalize(bytes: &[u8]) -> Result<Option<Self>, PathError> {
        if bytes.first() == Some(&b'/') {
            return Err(PathError::Absolute);
        }
        let mut clean: Vec<u8> = Vec::with_capacity(bytes.len());
        for component in bytes.split(|&b| b == b'/') {
            if component.is_empty() || component == b"." {
                continue;
            }
            check_component(component)?;
            if !clean.is_empty() {
                clean.push(b'/');
            }
            clean.extend_from_slice(component);
        }
        if clean.is_empty() {
            return Ok(None);
        }
        if clean.len() >= PATH_MAX {
            return Err(PathError::PathTooLong);
        }
        Ok(Some(Self(clean.into())))
    }

    /// The bytes, components joined by `/`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As a path to hand to the system beneath a directory handle.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// As text, when it is UTF-8.
    pub fn to_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// The components in order.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/')
    }

    /// How many components it has.
    pub fn depth(&self) -> usize {
        1 + self.0.iter().filter(|&&b| b == b'/').count()
    }

    /// All but the last component; `None` when there is only one.
    pub fn parent(&self) -> Option<RelPath> {
        self.split_last().0.map(|parent| Self(parent.into()))
    }

    /// The last component.
    pub fn file_name(&self) -> &[u8] {
        self.split_last().1
    }

    /// The bytes before the last `/`, if any, and those after it.
    pub fn split_last(&self) -> (Option<&[u8]>, &[u8]) {
        match self.0.iter().rposition(|&b| b == b'/') {
            Some(at) => (Some(&self.0[..at]), &self.0[at + 1..]),
            None => (None, &self.0),
        }
    }

    /// This path with `tail` below it.
    pub fn join(&self, tail: &RelPath) -> Result<RelPath, PathError> {
        if self.0.len() + 1 + tail.0.len() >= PATH_MAX {
            return Err(PathError::PathTooLong);
        }
        Ok(Self([&self.0[..], b"/", &tail.0[..]].concat().into()))
    }

    /// Whether `prefix` names this path or a directory above it.
    pub fn starts_with(&self, prefix: &RelPath) -> bool {
        self.0.strip_prefix(&prefix.0[..]).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }
}

fn check_component(component: &[u8]) -> Result<(), PathError> {
    match component {
        b"" | b"." => Err(PathError::Dot),
        b".." => Err(PathError::Parent),
        _ if component.contains(&0) => Err(PathError::Nul),
        _ if component.len() > NAME_MAX => Err(PathError::NameTooLong),
        _ => Ok(()),
    }
}

/// Component by component, so that a directory sorts directly before what it holds.
impl Ord for RelPath {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.components().cmp(other.components())
    }
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() {
                    write!(f, "{}", c.escape_default())?;
                } else {
                    write!(f, "{c}")?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl std::str::FromStr for RelPath {
    type Err = PathError;
    fn from_str(text: &str) -> Result<Self, PathError> {
        Self::parse(text)
    }
}

/// File-name bytes in JSON: a string where they are UTF-8, else `{"base64": "…"}`, so that no name is lost. Also for
/// values that are no checked path (link targets).
pub(crate) mod lossless {
    use super::*;

    /// How they are written, for those who read the JSON.
    #[derive(JsonSchema)]
    #[serde(untagged)]
    #[schemars(inline)]
    #[allow(dead_code, reason = "told, never made")]
    pub(crate) enum Written {
        Text(String),
        Bytes(Encoded),
    }

    #[derive(Serialize, JsonSchema)]
    #[schemars(deny_unknown_fields, inline)]
    pub(crate) struct Encoded {
        base64: String,
    }

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Encoded { base64: BASE64_STANDARD.encode(bytes) }.serialize(serializer),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        deserialize_with(deserializer, |bytes| Ok(bytes.to_vec()))
    }

    /// Has the bytes looked at where they stand: a manifest has many.
    pub(super) fn deserialize_with<'de, D: Deserializer<'de>, T>(
        deserializer: D,
        make: fn(&[u8]) -> Result<T, PathError>,
    ) -> Result<T, D::Error> {
        deserializer.deserialize_any(Bytes(make))
    }

    struct Bytes<T>(fn(&[u8]) -> Result<T, PathError>);

    impl<'de, T> de::Visitor<'de> for Bytes<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string or {\"base64\": …}")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            (self.0)(text.as_bytes()).map_err(E::custom)
        }

        fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
            match map.next_entry::<String, String>()? {
                Some((key, base64)) if key == "base64" => {
                    let bytes = BASE64_STANDARD.decode(base64).map_err(de::Error::custom)?;
                    (self.0)(&bytes).map_err(de::Error::custom)
                }
                _ => Err(de::Error::missing_field("base64")),
            }
        }
    }
}

impl Serialize for RelPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        lossless::serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for RelPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        lossless::deserialize_with(deserializer, |bytes| RelPath::parse(bytes))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_what_leads_out() {
        for (text, why) in [
            ("", PathError::Empty),
            ("/etc", PathError::Absolute),
            ("a/../b", PathError::Parent),
            ("..", PathError::Parent),
            ("a//b", PathError::Dot),
            ("a/", PathError::Dot),
            ("./a", PathError::Dot),
            ("a\0b", PathError::Nul),
        ] {
            assert_eq!(RelPath::parse(text), Err(why), "{text:?}");
        }
        assert_eq!(RelPath::parse("x".repeat(256)), Err(PathError::NameTooLong));
        assert_eq!(RelPath::parse("x/".repeat(2100) + "x"), Err(PathError::PathTooLong));
    }

    #[test]
    fn normalizes_as_archives_write() {
        assert_eq!(RelPath::normalize(b"./a//b/./c/").unwrap(), Some(RelPath::parse("a/b/c").unwrap()));
        assert_eq!(RelPath::normalize(b"./").unwrap(), None);
        assert_eq!(RelPath::normalize(b"a/.."), Err(PathError::Parent));
    }

    #[test]
    fn a_directory_sorts_directly_before_what_it_holds() {
        let mut paths: Vec<RelPath> = ["a.b", "a/c", "a", "a-", "a/b/c"].map(|p| p.parse().unwrap()).into();
        paths.sort();
        assert_eq!(paths, ["a", "a/b/c", "a/c", "a-", "a.b"].map(|p| p.parse::<RelPath>().unwrap()));
    }

    #[test]
    fn a_name_that_is_no_utf8_survives_json() {
        let path = RelPath::parse(b"a/\xff\xfe").unwrap();
        let json = serde_json::to_string(&path).unwrap();
        assert_eq!(serde_json::from_str::<RelPath>(&json).unwrap(), path);
        assert_eq!(path.to_string(), "a/\\xff\\xfe");
    }

    proptest! {
        #[test]
        fn whatever_parses_has_only_plain_components(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(path) = RelPath::parse(&bytes) {
                prop_assert!(path.as_path().is_relative());
                prop_assert!(path.as_path().components().all(|c| matches!(c, std::path::Component::Normal(_))));
                prop_assert_eq!(path.components().count(), path.depth());
            }
            if let Ok(Some(path)) = RelPath::normalize(&bytes) {
                prop_assert_eq!(RelPath::parse(path.as_bytes()), Ok(path));
            }
        }
    }
}
