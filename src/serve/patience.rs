//! How long a caller is ready to wait, as they say it: `30s`, `10m`, or a number of seconds.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

use crate::intent::Interval;

/// The longest wait: over it the request is refused, not shortened.
const LONGEST: Duration = Duration::from_secs(3600);

/// A wait of at most an hour: `30s`, `10m`, or a number of seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(with = "Written")]
pub(super) struct Patience(pub(super) Duration);

/// Why a text is no such wait.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PatienceError {
    #[error("{given:?} is no time to wait; write it like `30s` or `10m`, or as a number of seconds")]
    Malformed { given: Box<str> },
    #[error("{given} is longer than 1h, the longest wait; ask again when it is over")]
    TooLong { given: Box<str> },
}

impl std::str::FromStr for Patience {
    type Err = PatienceError;

    fn from_str(text: &str) -> Result<Self, PatienceError> {
        let plain = text.trim();
        let wait = if !plain.is_empty() && plain.bytes().all(|b| b.is_ascii_digit()) {
            plain.parse().map(Duration::from_secs).unwrap_or(Duration::MAX)
        } else {
            plain.parse::<Interval>().map_err(|_| PatienceError::Malformed { given: text.into() })?.0
        };
        if wait <= LONGEST { Ok(Self(wait)) } else { Err(PatienceError::TooLong { given: text.into() }) }
    }
}

/// As machines and people write it.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a time like `10m`, or a number of seconds")]
enum Written {
    Seconds(#[schemars(range(max = 3600))] u64),
    Text(
        #[schemars(regex(
            pattern = "^([0-9]{1,3}s?|[12][0-9]{3}s?|3[0-5][0-9]{2}s?|3600s?|[1-5]?[0-9]m( ?[1-5]?[0-9]s)?|60m|1h)$"
        ))]
        String,
    ),
}

impl<'de> Deserialize<'de> for Patience {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Written::deserialize(deserializer)? {
            Written::Seconds(seconds) => seconds.to_string(),
            Written::Text(text) => text,
        };
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn waits_as_people_and_machines_write_them() {
        for (json, seconds) in
            [("\"30s\"", 30), ("\"10m\"", 600), ("\"1h\"", 3600), ("90", 90), ("\"90\"", 90), ("0", 0)]
        {
            assert_eq!(serde_json::from_str::<Patience>(json).unwrap().0, Duration::from_secs(seconds), "{json}");
        }
        for json in ["\"2h\"", "3601", "99999999999999999999", "-1", "\"-1s\"", "\"soon\"", "\"\"", "1.5", "null"] {
            assert!(serde_json::from_str::<Patience>(json).is_err(), "{json}");
        }
    }
}
