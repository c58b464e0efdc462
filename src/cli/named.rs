//! What people name on the command line: `ARTIFACT` or `ARTIFACT@VERSION`.

use std::fmt;
use std::str::FromStr;

use crate::intent::{ArtifactName, NameError, VersionOrCurrent};

/// An artifact, and one version of it where that is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// Which artifact.
    pub(super) artifact: ArtifactName,
    /// Which version; `None`: the current one, or all, as the command has it.
    pub(super) version: Option<VersionOrCurrent>,
}

impl FromStr for Named {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (artifact, version) = match text.split_once('@') {
            Some((artifact, version)) => (artifact, Some(version.parse()?)),
            None => (text, None),
        };
        Ok(Self { artifact: artifact.parse()?, version })
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.artifact.fmt(f)?;
        self.version.iter().try_for_each(|version| write!(f, "@{version}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_artifact_with_and_without_a_version() {
        let bare: Named = "smartos-platform".parse().unwrap();
        assert_eq!((bare.artifact.as_str(), bare.version), ("smartos-platform", None));
        let full: Named = "smartos-platform@20260101T000000Z_u1".parse().unwrap();
        assert_eq!(full.version, Some("20260101T000000Z_u1".parse().unwrap()));
        let current: Named = "smartos-platform@current".parse().unwrap();
        assert_eq!(current.version, Some(VersionOrCurrent::Current));
        for bad in ["", "@", "@1", "a@", "a@b@c", "A@1", "a@../x", "a @1", "a@latest"] {
            assert!(bad.parse::<Named>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_the_same(text in ".{0,20}|[a-z]{1,5}(@[A-Za-z0-9._+-]{1,8})?") {
            if let Ok(named) = text.parse::<Named>() {
                prop_assert_eq!(named.to_string(), text);
            }
        }
    }
}
