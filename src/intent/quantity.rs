//! Quantities as operators write them: `4GiB`, `48h`, `5%`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A number of bytes, written `4GiB`, `500MB` or as a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[schemars(with = "TextOrNumber")]
pub struct Bytes(pub u64);

/// A length of time, written `48h`, `1h 30m` or `30s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[schemars(with = "String")]
pub struct Interval(pub Duration);

/// Room to leave free: a share of the file system (`5%`) or a number of bytes (`10GiB`).
#[derive(Debug, Clone, Copy, PartialEq, JsonSchema)]
#[schemars(with = "TextOrNumber")]
pub enum MinFree {
    /// Percent of the file system, 0 to 100.
    Percent(f64),
    /// Bytes.
    Bytes(u64),
}

/// Why a text is no such quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a size.
    #[error("{given:?} is no size; write it like `4GiB`, `500MB` or `1048576`")]
    Bytes {
        /// What was given.
        given: Box<str>,
    },
    /// Not a duration.
    #[error("{given:?} is no duration; write it like `30s`, `1h` or `48h`")]
    Interval {
        /// What was given.
        given: Box<str>,
    },
    /// Not a share or a size.
    #[error("{given:?} is neither a percentage nor a size; write it like `5%` or `10GiB`")]
    MinFree {
        /// What was given.
        given: Box<str>,
    },
}

impl FromStr for Bytes {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let parsed = text.trim().parse::<ByteSize>();
        parsed.map(|size| Bytes(size.as_u64())).map_err(|_| QuantityError::Bytes { given: text.into() })
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", ByteSize::b(self.0).display().iec())
    }
}

impl FromStr for Interval {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let refused = || QuantityError::Interval { given: text.into() };
        let signed = text.trim().parse::<jiff::SignedDuration>().map_err(|_| refused())?;
        Duration::try_from(signed).map(Interval).map_err(|_| refused())
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::SignedDuration::try_from(self.0) {
            Ok(signed) => write!(f, "{signed:#}"),
            Err(_) => write!(f, "{}s", self.0.as_secs()),
        }
    }
}

impl FromStr for MinFree {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let refused = || QuantityError::MinFree { given: text.into() };
        let Some(number) = text.trim().strip_suffix('%') else {
            return text.parse::<Bytes>().map(|b| MinFree::Bytes(b.0)).map_err(|_| refused());
        };
        let percent: f64 = number.trim().parse().map_err(|_| refused())?;
        if (0.0..=100.0).contains(&percent) { Ok(MinFree::Percent(percent)) } else { Err(refused()) }
    }
}

impl fmt::Display for MinFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MinFree::Percent(percent) => write!(f, "{percent}%"),
            MinFree::Bytes(bytes) => Bytes(*bytes).fmt(f),
        }
    }
}

/// YAML gives `1024` as a number and `4GiB` as a text; both are meant.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a text or a whole number")]
enum TextOrNumber {
    Number(u64),
    Text(String),
}

macro_rules! by_text {
    ($name:ident, $written:ident) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = match $written::deserialize(deserializer)? {
                    TextOrNumber::Number(number) => number.to_string(),
                    TextOrNumber::Text(text) => text,
                };
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

by_text!(Bytes, TextOrNumber);
by_text!(Interval, TextOrNumber);
by_text!(MinFree, TextOrNumber);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn quantities_are_read_as_people_write_them() {
        assert_eq!("4GiB".parse(), Ok(Bytes(4 << 30)));
        assert_eq!("500MB".parse(), Ok(Bytes(500_000_000)));
        assert_eq!("1024".parse(), Ok(Bytes(1024)));
        assert_eq!("10KiB".parse(), Ok(Bytes(10_240)));
        assert_eq!("48h".parse(), Ok(Interval(Duration::from_secs(48 * 3600))));
        assert_eq!("1h 30m".parse(), Ok(Interval(Duration::from_secs(5400))));
        assert_eq!("5%".parse(), Ok(MinFree::Percent(5.0)));
        assert_eq!("10GiB".parse(), Ok(MinFree::Bytes(10 << 30)));
        for bad in ["", "soon", "-1h", "1 parsec"] {
            assert!(bad.parse::<Interval>().is_err(), "{bad}");
        }
        for bad in ["", "-5%", "101%", "lots"] {
            assert!(bad.parse::<MinFree>().is_err(), "{bad}");
        }
    }
}
