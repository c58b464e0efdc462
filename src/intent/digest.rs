//! Digests as sources name them (`sha256:…`), and the hashers that make them.

use std::fmt;
use std::str::FromStr;

use md5::Md5;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

/// A hash function that sources use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// Broken against attackers: finds accidents only.
    Md5,
    /// FIPS 180-4.
    Sha256,
    /// FIPS 180-4.
    Sha512,
}

impl Algorithm {
    /// Bytes in a digest.
    pub fn length(self) -> usize {
        match self {
            Algorithm::Md5 => 16,
            Algorithm::Sha256 => 32,
            Algorithm::Sha512 => 64,
        }
    }

    /// The algorithm whose digests have this many hex digits.
    pub fn of_hex_length(digits: usize) -> Option<Self> {
        [Algorithm::Md5, Algorithm::Sha256, Algorithm::Sha512].into_iter().find(|a| a.length() * 2 == digits)
    }

    /// No protection against an origin that means ill.
    pub fn is_weak(self) -> bool {
        self == Algorithm::Md5
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Algorithm::Md5 => "md5",
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        })
    }
}

/// A digest with its algorithm, written `sha256:<hex>`; bare hex is told by its length.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Digest {
    algorithm: Algorithm,
    bytes: Box<[u8]>,
}

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Neither bare hex of a known length nor `algorithm:hex`.
    #[error("{given:?} is no digest; give the hex of a sha256 (64 digits) or sha512 (128), or `sha256:` and the hex")]
    Malformed {
        /// What was given.
        given: Box<str>,
    },
}

impl Digest {
    /// A digest of raw bytes; `None` when their number does not fit the algorithm.
    pub fn new(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        (bytes.len() == algorithm.length()).then(|| Self { algorithm, bytes: bytes.into() })
    }

    /// The SHA-256 of `bytes`.
    pub fn sha256(bytes: &[u8]) -> Self {
        Self { algorithm: Algorithm::Sha256, bytes: Sha256::digest(bytes)[..].into() }
    }

    /// Which algorithm made it.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hex digits, lower case.
    pub fn hex(&self) -> String {
        hex::encode(&self.bytes)
    }

    /// The first `n` hex digits.
    pub fn short(&self, n: usize) -> String {
        let mut hex = self.hex();
        hex.truncate(n);
        hex
    }
}

impl FromStr for Digest {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        let malformed = || DigestError::Malformed { given: text.into() };
        let (named, digits) = match text.split_once(':') {
            Some((name, digits)) => {
                let algorithm = match name {
                    "md5" => Algorithm::Md5,
                    "sha256" => Algorithm::Sha256,
                    "sha512" => Algorithm::Sha512,
                    _ => return Err(malformed()),
                };
                (Some(algorithm), digits)
            }
            None => (None, text),
        };
        let algorithm = Algorithm::of_hex_length(digits.len()).ok_or_else(malformed)?;
        if named.is_some_and(|named| named != algorithm) {
            return Err(malformed());
        }
        let bytes = hex::decode(digits).map_err(|_| malformed())?;
        Ok(Self { algorithm, bytes: bytes.into() })
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A running hash of one of the algorithms.
#[derive(Clone)]
pub enum Hasher {
    /// MD5.
    Md5(Md5),
    /// SHA-256.
    Sha256(Sha256),
    /// SHA-512.
    Sha512(Box<Sha512>),
}

impl Hasher {
    /// An empty one.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Md5 => Hasher::Md5(Md5::new()),
            Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(Box::new(Sha512::new())),
        }
    }

    /// Takes in more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Md5(hasher) => hasher.update(bytes),
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all that was taken in.
    pub fn finish(self) -> Digest {
        match self {
            Hasher::Md5(hasher) => Digest { algorithm: Algorithm::Md5, bytes: hasher.finalize()[..].into() },
            Hasher::Sha256(hasher) => Digest { algorithm: Algorithm::Sha256, bytes: hasher.finalize()[..].into() },
            Hasher::Sha512(hasher) => Digest { algorithm: Algorithm::Sha512, bytes: hasher.finalize()[..].into() },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn digests_are_told_by_length_and_checked_against_their_name() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let digest: Digest = empty.parse().unwrap();
        assert_eq!(digest, Hasher::new(Algorithm::Sha256).finish());
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert_eq!(empty.to_uppercase().parse::<Digest>().unwrap(), digest);
        for bad in ["", "abc", &format!("sha512:{empty}"), &format!("crc:{empty}"), &"g".repeat(64)] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
