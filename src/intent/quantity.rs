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

/// As it is written down: people round, documents and their digests do not.
trait Exact {
    fn exact(&self) -> String;
}

impl Exact for Bytes {
    fn exact(&self) -> String {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let whole = |(shift, _): &(u32, &str)| self.0 != 0 && self.0.trailing_zeros() >= *shift;
        match units.into_iter().find(whole) {
            Some((shift, unit)) => format!("{}{unit}", self.0 >> shift),
            None => self.0.to_string(),
        }
    }
}

impl Exact for Interval {
    fn exact(&self) -> String {
        self.to_string()
    }
}

impl Exact for MinFree {
    fn exact(&self) -> String {
        match self {
            MinFree::Percent(_) => self.to_string(),
            MinFree::Bytes(bytes) => Bytes(*bytes).exact(),
        }
    }
}

macro_rules! by_text {
    ($name:ident, $written:ident) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.exact())
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

    #[test]
    fn what_is_written_down_is_read_back_the_same() {
        for (bytes, written) in [
            (0, "0"),
            (1, "1"),
            (1_234_567, "1234567"),
            (10 << 10, "10KiB"),
            (64 << 30, "64GiB"),
            ((1 << 30) + 1, "1073741825"),
            (u64::MAX, "18446744073709551615"),
        ] {
            assert_eq!(serde_json::to_value(Bytes(bytes)).unwrap(), written);
            assert_eq!(written.parse(), Ok(Bytes(bytes)));
            let free = serde_json::to_value(MinFree::Bytes(bytes)).unwrap();
            assert_eq!(free.as_str().unwrap().parse(), Ok(MinFree::Bytes(bytes)));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_quantity_survives_being_written_down(
            bytes in proptest::prelude::any::<u64>(), seconds in 0u64..=i64::MAX as u64, nanos in 0u32..1_000_000_000,
            percent in 0.0f64..=100.0,
        ) {
            let bytes = Bytes(bytes);
            proptest::prop_assert_eq!(serde_json::from_value::<Bytes>(serde_json::to_value(bytes).unwrap()).unwrap(), bytes);
            let interval = Interval(Duration::new(seconds, nanos));
            proptest::prop_assert_eq!(serde_json::from_value::<Interval>(serde_json::to_value(interval).unwrap()).unwrap(), interval);
            let free = MinFree::Percent(percent);
            proptest::prop_assert_eq!(serde_json::from_value::<MinFree>(serde_json::to_value(free).unwrap()).unwrap(), free);
        }
    }
}
