//! Extended headers (POSIX pax): `LENGTH KEY=VALUE\n` records that override a header's fields. Pure.

use super::header::Malformed;
use super::sparse::Extent;

/// What an extended header says, as far as it decides what is unpacked. Other keys (names of owners, access times,
/// extended attributes, comments) are passed over.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) linkpath: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) sparse: PaxSparse,
}

/// The records of GNU tar's sparse formats 0.0, 0.1 and 1.0.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct PaxSparse {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    /// The file's size: `realsize` in 1.0, `size` before.
    pub(super) size: Option<u64>,
    pub(super) blocks: Option<u64>,
    /// 0.1: the whole map.
    pub(super) map: Option<Vec<Extent>>,
    /// 0.0: offsets and lengths, one record each, alternating.
    pub(super) extents: Vec<Extent>,
    offset: Option<u64>,
}

impl PaxSparse {
    /// Whether the entry is sparse at all.
    pub(super) fn is_some(&self) -> bool {
        *self != Self::default()
    }

    /// Whether any part of a map stands in the header, as formats 0.0 and 0.1 have it.
    pub(super) fn has_map(&self) -> bool {
        self.map.is_some() || self.blocks.is_some() || !self.extents.is_empty()
    }
}

impl Pax {
    /// Reads an extended header's content.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, Malformed> {
        let mut pax = Pax::default();
        let mut foreign_sparse = false;
        while !bytes.is_empty() {
            let ((key, value), rest) = record(bytes)?;
            foreign_sparse |= matches!(key, b"SCHILY.realsize" | b"SUN.holesdata");
            pax.set(key, value)?;
            bytes = rest;
        }
        if pax.sparse.offset.is_some() {
            return Err(Malformed::Map);
        }
        if foreign_sparse && !pax.sparse.is_some() {
            return Err(Malformed::Sparse);
        }
        Ok(pax)
    }

    /// Reads a global extended header's content: defaults for all later entries. What belongs to one entry cannot be
    /// one.
    pub(super) fn parse_global(bytes: &[u8]) -> Result<Self, Malformed> {
        let pax = Self::parse(bytes)?;
        let forbidden = [
            (pax.path.is_some(), "path"),
            (pax.linkpath.is_some(), "linkpath"),
            (pax.size.is_some(), "size"),
            (pax.sparse.is_some(), "GNU.sparse"),
        ];
        match forbidden.into_iter().find(|(set, _)| *set) {
            Some((_, key)) => Err(Malformed::Global { key: key.into() }),
            None => Ok(pax),
        }
    }

    /// Whether a sparse file has two names, of which readers take the one or the other. What GNU tar makes up for those
    /// that know no sparse files is none (`DIR/GNUSparseFile.PID/NAME`; some of it cut off after 100 bytes).
    pub(super) fn has_two_names(&self) -> bool {
        const CUT: usize = 100;
        let (Some(path), Some(name)) = (&self.path, &self.sparse.name) else { return false };
        let made_up = |component: &[u8]| component.strip_prefix(b"GNUSparseFile.").and_then(decimal).is_some();
        path != name && path.len() != CUT && !path.split(|&b| b == b'/').any(made_up)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Malformed> {
        let bad = || Malformed::Value { key: String::from_utf8_lossy(key).into() };
        let number = || decimal(value).ok_or_else(bad);
        let sparse = &mut self.sparse;
        match key {
            b"path" => once(key, &mut self.path, name(key, value)?),
            b"linkpath" => once(key, &mut self.linkpath, name(key, value)?),
            b"size" => once(key, &mut self.size, number()?),
            b"mtime" => once(key, &mut self.mtime, time(value).ok_or_else(bad)?),
            b"uid" => once(key, &mut self.uid, owner(value).ok_or_else(bad)?),
            b"gid" => once(key, &mut self.gid, owner(value).ok_or_else(bad)?),
            b"GNU.sparse.major" => once(key, &mut sparse.major, number()?),
            b"GNU.sparse.minor" => once(key, &mut sparse.minor, number()?),
            b"GNU.sparse.name" => once(key, &mut sparse.name, name(key, value)?),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => once(key, &mut sparse.size, number()?),
            b"GNU.sparse.numblocks" => once(key, &mut sparse.blocks, number()?),
            b"GNU.sparse.map" => once(key, &mut sparse.map, map(value).ok_or_else(bad)?),
            b"GNU.sparse.offset" => match sparse.offset.replace(number()?) {
                None => Ok(()),
                Some(_) => Err(Malformed::Map),
            },
            b"GNU.sparse.numbytes" => {
                let offset = sparse.offset.take().ok_or(Malformed::Map)?;
                sparse.extents.push(Extent { offset, length: number()? });
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// A record's key and value.
type Record<'a> = (&'a [u8], &'a [u8]);

/// The first record, and what follows it.
fn record(bytes: &[u8]) -> Result<(Record<'_>, &[u8]), Malformed> {
    let split = || {
        let space = bytes.iter().position(|&b| b == b' ')?;
        let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
        let (record, rest) = bytes.split_at_checked(length)?;
        let text = record.get(space + 1..)?.strip_suffix(b"\n")?;
        let equals = text.iter().position(|&b| b == b'=')?;
        (equals > 0).then(|| ((&text[..equals], &text[equals + 1..]), rest))
    };
    split().ok_or(Malformed::Record)
}

fn once<T: PartialEq>(key: &[u8], field: &mut Option<T>, value: T) -> Result<(), Malformed> {
    match field.as_ref().is_some_and(|earlier| *earlier != value) {
        true => Err(Malformed::Twice { key: String::from_utf8_lossy(key).into() }),
        false => {
            *field = Some(value);
            Ok(())
        }
    }
}

fn name(key: &[u8], value: &[u8]) -> Result<Vec<u8>, Malformed> {
    match value {
        [] => Err(Malformed::Value { key: String::from_utf8_lossy(key).into() }),
        _ if value.contains(&0) => Err(Malformed::Nul),
        _ => Ok(value.to_vec()),
    }
}

/// Digits and nothing else.
pub(super) fn decimal(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() {
        return None;
    }
    bytes.iter().try_fold(0u64, |value, &digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

fn owner(value: &[u8]) -> Option<u32> {
    u32::try_from(decimal(value)?).ok().filter(|&id| id != u32::MAX)
}

/// Seconds since the epoch with a decimal fraction, rounded down to whole nanoseconds.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let (negative, value) = match value {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, value),
    };
    let (whole, fraction) = match value.iter().position(|&b| b == b'.') {
        Some(at) => (&value[..at], &value[at + 1..]),
        None => (value, &b""[..]),
    };
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let (kept, lost) = fraction.split_at(fraction.len().min(9));
    let digits = kept.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanos = digits.fold(0u32, |nanos, digit| nanos * 10 + u32::from(digit - b'0'));
    if !negative {
        return Some((seconds, nanos));
    }
    let nanos = nanos + u32::from(lost.iter().any(|&b| b != b'0'));
    Some(if nanos == 0 { (-seconds, 0) } else { (-seconds - 1, 1_000_000_000 - nanos) })
}

/// `offset,length,offset,length…`
fn map(value: &[u8]) -> Option<Vec<Extent>> {
    let mut numbers = value.split(|&b| b == b',').map(decimal);
    let mut extents = Vec::new();
    while let Some(offset) = numbers.next() {
        extents.push(Extent { offset: offset?, length: numbers.next()?? });
    }
    Some(extents)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_have_fractions_and_may_be_before_the_epoch() {
        for (text, time_of) in [
            ("0", Some((0, 0))),
            ("1700000000.5", Some((1_700_000_000, 500_000_000))),
            ("1.0000000019", Some((1, 1))),
            ("-1", Some((-1, 0))),
            ("-1.5", Some((-2, 500_000_000))),
            ("-0.0000000001", Some((-1, 999_999_999))),
            ("7.", Some((7, 0))),
            ("", None),
            ("-", None),
            (".5", None),
            ("1e3", None),
            ("1.-5", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(time(text.as_bytes()), time_of, "{text:?}");
        }
    }

    #[test]
    fn records_are_exact() {
        let pax = Pax::parse(b"12 path=a/b\n11 size=77\n15 unknown=\xff\0 \n").unwrap();
        assert_eq!((pax.path, pax.size), (Some(b"a/b".to_vec()), Some(77)));
        for bad in [
            &b"11 path=a/b\n"[..],
            b"13 path=a/b\n",
            b"12 path=a/b\0",
            b"path=a/b\n",
            b" 12 path=a/b\n",
            b"+12 path=a/b\n",
            b"5 =x\n",
            b"6 abc\n",
            b"0 ",
            b"18446744073709551616 a=b\n",
            b"12 path=a/b\n\0\0",
        ] {
            assert_eq!(Pax::parse(bad), Err(Malformed::Record), "{:?}", String::from_utf8_lossy(bad));
        }
        for bad in [&b"12 path=a\0b\n"[..], b"8 path=\n", b"9 size=1x\n"[..].as_ref(), b"10 size=-1\n"] {
            assert!(Pax::parse(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
        assert!(matches!(Pax::parse(b"10 path=a\n10 path=b\n"), Err(Malformed::Twice { .. })));
        assert!(Pax::parse(b"10 path=a\n10 path=a\n").is_ok());
        assert!(Pax::parse_global(b"13 comment=x\n").is_ok());
        assert!(matches!(Pax::parse_global(b"10 path=a\n"), Err(Malformed::Global { .. })));
        assert_eq!(Pax::parse(b"22 SCHILY.realsize=10\n"), Err(Malformed::Sparse));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Pax::parse(&bytes);
        }

        #[test]
        fn a_path_of_any_bytes_is_read(path in proptest::collection::vec(1u8.., 1..300)) {
            // LENGTH counts its own digits.
            let rest = path.len() + b" path=\n".len();
            let length = (1..).map(|digits| rest + digits).find(|n| n.to_string().len() + rest == *n).unwrap();
            let record = [length.to_string().as_bytes(), b" path=", &path, b"\n"].concat();
            prop_assert_eq!(Pax::parse(&record).unwrap().path, Some(path));
        }
    }
}
