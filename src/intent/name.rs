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

/// The name of a version: letters, digits, `.`, `_`, `+`, `-`; it starts with a letter or digit; at most 128 long.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("maxLength" = 128, "pattern" = "^[A-Za-z0-9][A-Za-z0-9._+-]*$"))]
pub struct VersionName(String);

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not an artifact's name.
    #[error(
        "{given:?} is no artifact name: use lower-case letters, digits, `-` and `.`, a letter or digit first and last, \
         at most 253 of them"
    )]
    Artifact {
        /// What was given.
        given: Box<str>,
    },
    /// Not a version's name.
    #[error(
        "{given:?} is no version name: use letters, digits, `.`, `_`, `+` and `-`, a letter or digit first, at most \
         128 of them"
    )]
    Version {
        /// What was given.
        given: Box<str>,
    },
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
    ($name:ident, $check:ident, $variant:ident) => {
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
                if $check(&text) { Ok(Self(text)) } else { Err(NameError::$variant { given: text.into() }) }
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

name!(ArtifactName, is_artifact_name, Artifact);
name!(VersionName, is_version_name, Version);

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
}
