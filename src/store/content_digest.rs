//! A file's SHA-256 in the manifest: 64 hex digits. There are as many of them in a large manifest as of all the rest, so
//! they are read where they stand, by table.

use serde::{Deserialize, Deserializer, Serializer, de};

pub(super) fn serialize<S: Serializer>(digest: &Option<[u8; 32]>, serializer: S) -> Result<S::Ok, S::Error> {
    match digest {
        Some(bytes) => serializer.serialize_some(&hex::encode(bytes)),
        None => serializer.serialize_none(),
    }
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<[u8; 32]>, D::Error> {
    Ok(Option::<Hex>::deserialize(deserializer)?.map(|Hex(digest)| digest))
}

struct Hex([u8; 32]);

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Digits)
    }
}

/// Looks at the digits where they stand.
struct Digits;

impl de::Visitor<'_> for Digits {
    type Value = Hex;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("64 hex digits")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Hex, E> {
        decode(text.as_bytes()).map(Hex).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

/// By table: there are as many digits in a large manifest as in all the rest of it.
fn decode(text: &[u8]) -> Option<[u8; 32]> {
    let (pairs, rest) = text.as_chunks::<2>();
    let pairs: &[[u8; 2]; 32] = pairs.try_into().ok().filter(|_| rest.is_empty())?;
    let mut bad = 0;
    let bytes = pairs.map(|[high, low]| {
        let (high, low) = (NIBBLES[usize::from(high)], NIBBLES[usize::from(low)]);
        bad |= high | low;
        high << 4 | low & 0xf
    });
    (bad & 0xf0 == 0).then_some(bytes)
}

/// The value of each hex digit; of every other byte one that is none.
const NIBBLES: [u8; 256] = {
    let mut table = [0xff; 256];
    let (lower, upper) = (b"0123456789abcdef", b"0123456789ABCDEF");
    let mut value = 0;
    while value < 16 {
        table[lower[value] as usize] = value as u8;
        table[upper[value] as usize] = value as u8;
        value += 1;
    }
    table
};
