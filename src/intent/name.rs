//! Names of artifacts and versions. Both become directory names and URL segments, so both are narrow.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fs::RelPath;

/// The name of an artifact: a DNS subdomain, as Kubernetes names are (lower-case letters, digits, `-`, `.`; at most
/// 253 long).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("maxLength" = 253, "pattern" = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"))]
pub struct ArtifactName(String);

/// The name of a version: letters, digits, `.`, `_`, `+`, `-`, a letter or digit first, at most 128; not `latest` or `current`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(
    with = "String",
    extend("maxLength" = 128, "pattern" = "^[A-Za-z0-9][A-Za-z0-9._+-]*$", "not" = { "enum": WORDS })
)]
pub struct VersionName(String);

/// What stands for a version wherever one is named, so that none can be called so.
const WORDS: [&str; 2] = ["latest", "current"];

/// A version as it is asked for: its name, or `current` for whichever that is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(
    with = "String",
    extend("maxLength" = 128, "pattern" = "^[A-Za-z0-9][A-Za-z0-9._+-]*$", "not" = { "const": "latest" })
)]
pub enum VersionOrCurrent {
    /// Whichever is current.
    Current,
    /// This one.
    Version(VersionName),
}

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not an artifact's name.
    #[error(
        "{given:?} is no artifact name: use lower-case letters, digits, `-` and `.`, a letter or digit first and last, \
         at most 253 of them"
    )]
    Artifact {
        /// What was given, cut.
        given: Box<str>,
    },
    /// Not a version's name.
    #[error(
        "{given:?} is no version name: use letters, digits, `.`, `_`, `+` and `-`, a letter or digit first, at most \
         128 of them"
    )]
    Version {
        /// What was given, cut.
        given: Box<str>,
    },
    /// A word that stands for a version.
    #[error(
        "{given:?} is no version name but a word for whichever version that is; to follow the newest, leave the version \
         out: no `pin` in a document, on a node `seedcache unpin`"
    )]
    Word {
        /// What was given.
        given: Box<str>,
    },
}

/// What was given, cut where it is far longer than any name: it may be all that an origin sent.
fn shown(text: &str) -> Box<str> {
    const LONGEST: usize = 300;
    match text.char_indices().nth(LONGEST) {
        None => text.into(),
        Some((end, _)) => format!("{}…", &text[..end]).into(),
    }
}

fn artifact_name(text: String) -> Result<String, NameError> {
    if is_artifact_name(&text) { Ok(text) } else { Err(NameError::Artifact { given: shown(&text) }) }
}

fn version_name(text: String) -> Result<String, NameError> {
    match &text[..] {
        word if WORDS.contains(&word) => Err(NameError::Word { given: text.into() }),
        name if is_version_name(name) => Ok(text),
        _ => Err(NameError::Version { given: shown(&text) }),
    }
}

fn is_artifact_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=253).contains(&bytes.len())
        && bytes.iter().all(|b| plain(b) || matches!(b, b'-' | b'.'))
        && bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && !text.contains("..")
}

fn is_version_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=128).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'+' | b'-'))
}

macro_rules! name {
    ($name:ident, $checked:ident) => {
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The name as one path component.
            pub fn as_component(&self) -> RelPath {
                RelPath::parse(&self.0).unwrap_or_else(|e| unreachable!("a checked name is a component: {e}"))
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::try_from(text.to_owned())
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                $checked(text).map(Self)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(ArtifactName, artifact_name);
name!(VersionName, version_name);

impl VersionOrCurrent {
    /// The version, where one is named.
    pub fn name(&self) -> Option<&VersionName> {
        match self {
            Self::Current => None,
            Self::Version(name) => Some(name),
        }
    }
}

impl FromStr for VersionOrCurrent {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for VersionOrCurrent {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        if text == "current" { Ok(Self::Current) } else { text.try_into().map(Self::Version) }
    }
}

impl From<VersionOrCurrent> for String {
    fn from(asked: VersionOrCurrent) -> String {
        asked.to_string()
    }
}

impl fmt::Display for VersionOrCurrent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name().map_or("current", VersionName::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_narrow() {
        for good in ["a", "smartos-platform", "cni.plugins", "0"] {
            assert!(good.parse::<ArtifactName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a/b", "..", "a..b", ".seedcache", "a_b", &"a".repeat(254)] {
            assert!(bad.parse::<ArtifactName>().is_err(), "{bad}");
        }
        for good in ["20260101T000000Z", "20260101T000000Z_u1", "v1.2.3+b", "0"] {
            assert!(good.parse::<VersionName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-a", "a/b", "a b", "ä", &"a".repeat(129)] {
            assert!(bad.parse::<VersionName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_name_by_far_makes_a_short_error() {
        let long = "ä\u{1}".repeat(100_000);
        for error in [long.parse::<VersionName>().map(drop), long.parse::<ArtifactName>().map(drop)] {
            let error = error.expect_err("too long").to_string();
            assert!(error.len() < 2_000 && error.contains('…'), "{}", error.len());
        }
    }

    #[test]
    fn words_that_stand_for_a_version_name_none() {
        for word in ["latest", "current"] {
            let error = word.parse::<VersionName>().expect_err(word);
            assert_eq!(error, NameError::Word { given: word.into() });
            assert!(error.to_string().contains("to follow the newest, leave the version out: no `pin`"), "{error}");
        }
        for good in ["latest-1", "Current", "currently"] {
            assert!(good.parse::<VersionName>().is_ok(), "{good}");
        }
        assert_eq!("current".parse(), Ok(VersionOrCurrent::Current));
        assert_eq!(VersionOrCurrent::Current.to_string(), "current");
        let named = "v1".parse::<VersionOrCurrent>().expect("a name");
        assert_eq!((named.to_string().as_str(), named.name().map(VersionName::as_str)), ("v1", Some("v1")));
        for bad in ["latest", "", "../x"] {
            assert!(bad.parse::<VersionOrCurrent>().is_err(), "{bad}");
        }
    }
}
