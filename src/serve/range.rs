//! The `Range` header as a pure decision (RFC 9110, section 14).

use std::ops::Range;

/// What of a representation a request wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it: no range, several, one in another unit, or one that is malformed (which is to be ignored).
    Whole,
    /// These bytes; never empty, never past the end.
    Part(Range<u64>),
    /// A sound range that starts past the end.
    Unsatisfiable,
}

/// Reads a `Range` header for a representation of `length` bytes.
pub(super) fn wanted(header: &[u8], length: u64) -> Wanted {
    single_spec(header).and_then(|spec| part(spec, length)).unwrap_or(Wanted::Whole)
}

/// The one range of a `bytes` set; several are answered with the whole, so that one body is enough.
fn single_spec(header: &[u8]) -> Option<&[u8]> {
    let (unit, set) = split_once(header, b'=')?;
    if !unit.trim_ascii().eq_ignore_ascii_case(b"bytes") {
        return None;
    }
    let mut specs = set.split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|spec| !spec.is_empty());
    let first = specs.next()?;
    specs.next().is_none().then_some(first)
}

fn part(spec: &[u8], length: u64) -> Option<Wanted> {
    let (first, last) = split_once(spec, b'-')?;
    if first.is_empty() {
        let suffix = number(last)?.min(length);
        return Some(if suffix == 0 { Wanted::Unsatisfiable } else { Wanted::Part(length - suffix..length) });
    }
    let first = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    if last < first {
        return None;
    }
    Some(if first >= length { Wanted::Unsatisfiable } else { Wanted::Part(first..last.min(length - 1) + 1) })
}

fn split_once(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let position = bytes.iter().position(|&b| b == at)?;
    Some((&bytes[..position], &bytes[position + 1..]))
}

/// Digits only; a number too large for 64 bits is past every end, so the largest stands for it.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0u64, |n, digit| n.saturating_mul(10).saturating_add(u64::from(digit - b'0'))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_as_clients_write_them() {
        let table: [(&str, u64, Wanted); 19] = [
            ("bytes=0-0", 10, Wanted::Part(0..1)),
            ("bytes=2-5", 10, Wanted::Part(2..6)),
            ("bytes=5-", 10, Wanted::Part(5..10)),
            ("bytes=5-99", 10, Wanted::Part(5..10)),
            ("bytes=-3", 10, Wanted::Part(7..10)),
            ("bytes=-99", 10, Wanted::Part(0..10)),
            ("Bytes= 2-5 ", 10, Wanted::Part(2..6)),
            ("bytes=2-5,", 10, Wanted::Part(2..6)),
            ("bytes=10-", 10, Wanted::Unsatisfiable),
            ("bytes=99999999999999999999999-", 10, Wanted::Unsatisfiable),
            ("bytes=-0", 10, Wanted::Unsatisfiable),
            ("bytes=0-", 0, Wanted::Unsatisfiable),
            ("bytes=-5", 0, Wanted::Unsatisfiable),
            ("bytes=0-1,4-5", 10, Wanted::Whole),
            ("bytes=5-2", 10, Wanted::Whole),
            ("bytes=+1-2", 10, Wanted::Whole),
            ("bytes=-", 10, Wanted::Whole),
            ("lines=1-2", 10, Wanted::Whole),
            ("", 10, Wanted::Whole),
        ];
        for (header, length, expected) in table {
            assert_eq!(wanted(header.as_bytes(), length), expected, "{header} of {length}");
        }
    }

    proptest! {
        #[test]
        fn no_header_leads_outside(header in "(bytes=)?[0-9, -]{0,24}|\\PC{0,24}", length in any::<u64>()) {
            if let Wanted::Part(range) = wanted(header.as_bytes(), length) {
                prop_assert!(range.start < range.end && range.end <= length);
            }
        }

        #[test]
        fn a_sound_range_gives_its_bytes(first in 0u64..200, more in 0u64..200, length in 0u64..200) {
            let header = format!("bytes={first}-{}", first + more);
            let expected: Vec<u64> = (0..length).filter(|at| (first..=first + more).contains(at)).collect();
            match wanted(header.as_bytes(), length) {
                Wanted::Part(range) => prop_assert_eq!(range.collect::<Vec<_>>(), expected),
                other => prop_assert!(other == Wanted::Unsatisfiable && expected.is_empty()),
            }
        }
    }
}
