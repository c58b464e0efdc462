//! A tar header block's fields, read strictly: what two readers could read differently is malformed.
//!
//! The layout is the `tar` crate's; its number fields are not used, since they take what does not fit or has garbage
//! after it.

use tar::Header;

/// Bytes of a block.
pub(super) const BLOCK: usize = 512;
/// The checksum field.
const CHECKSUM: std::ops::Range<usize> = 148..156;
/// The magic of POSIX headers, and the part of a long name that they have room for.
const MAGIC: std::ops::Range<usize> = 257..263;
const PREFIX: std::ops::Range<usize> = 345..500;

/// What is wrong with a header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The block's checksum does not fit.
    #[error("its checksum does not match: the archive is damaged, or what came before was of another size than said")]
    Checksum,
    /// A field that should be a number.
    #[error("its {field} is no number, or one out of range")]
    Number {
        /// Which.
        field: &'static str,
    },
    /// A type that is not known, so that nobody can say what follows the header.
    #[error("its type {:?} is not known", char::from(*flag))]
    Type {
        /// The type flag.
        flag: u8,
    },
    /// A NUL within a name.
    #[error("there is a NUL byte within its name or link target")]
    Nul,
    /// An extended header or a sparse map beyond all reason.
    #[error("its extended header is longer than any real one")]
    TooLong,
    /// An extended record that cannot be read.
    #[error("its extended header has a record that is not of the form `LENGTH KEY=VALUE`")]
    Record,
    /// An extended record's value.
    #[error("its extended header has a bad value for `{key}`")]
    Value {
        /// The key.
        key: Box<str>,
    },
    /// Two values for one key.
    #[error("its extended header has two values for `{key}`")]
    Twice {
        /// The key.
        key: Box<str>,
    },
    /// A record that is meant for one entry, given for all.
    #[error("the archive's global header sets `{key}`, which only an entry of its own can have")]
    Global {
        /// The key.
        key: Box<str>,
    },
    /// The extended header says another size than the header.
    #[error("its header says {header} bytes, its extended header {extended}")]
    Size {
        /// In the header block.
        header: u64,
        /// In the extended header.
        extended: u64,
    },
    /// Extended headers of two kinds, or one of them twice.
    #[error("it has extended headers that contradict each other")]
    Mixed,
    /// An extended header at the end of the archive.
    #[error("an extended header is followed by no entry")]
    Dangling,
    /// Content where none can be.
    #[error("it says to have content, which an entry of its type has not")]
    Content,
    /// A name that ends in a slash and is no directory's.
    #[error("its name ends in a slash, but it is no directory")]
    Slash,
    /// A sparse file whose map is not sound.
    #[error("it is a sparse file, and its map does not fit its sizes")]
    Map,
    /// A sparse format that is not GNU tar's.
    #[error("it is a sparse file of a form that is not known")]
    Sparse,
}

/// An empty block to read into.
pub(super) fn empty() -> Header {
    Header::new_old()
}

/// Whether content that starts with `head` is a tar: its first block is a sound header, or the end of an empty archive.
pub(super) fn begins_tar(head: &[u8]) -> bool {
    match head.first_chunk::<BLOCK>() {
        Some(block) => is_zero(block) || checksum_holds(block),
        None => false,
    }
}

/// Whether a block is the mark of an archive's end.
pub(super) fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|&b| b == 0)
}

/// Whether the block's checksum fits: the sum of its bytes, or, as some old tools have it, of its signed bytes.
pub(super) fn checksum_holds(block: &[u8; BLOCK]) -> bool {
    let Ok(stored) = number("checksum", &block[CHECKSUM]) else { return false };
    let counted = |i: usize, b: u8| if CHECKSUM.contains(&i) { b' ' } else { b };
    let bytes = || block.iter().enumerate().map(|(i, &b)| counted(i, b));
    stored == bytes().map(i64::from).sum::<i64>() || stored == bytes().map(|b| i64::from(b.cast_signed())).sum::<i64>()
}

/// A number field: octal digits ended by spaces or NULs, or base 256 in two's complement. A blank one is 0.
pub(super) fn number(field: &'static str, bytes: &[u8]) -> Result<i64, Malformed> {
    let malformed = Malformed::Number { field };
    match bytes.first() {
        Some(0x80 | 0xff) => base_256(bytes).ok_or(malformed),
        _ => octal(bytes).ok_or(malformed),
    }
}

fn base_256(bytes: &[u8]) -> Option<i64> {
    let (&sign, digits) = bytes.split_first()?;
    let start: i64 = if sign == 0xff { -1 } else { 0 };
    digits.iter().try_fold(start, |value, &digit| value.checked_mul(256)?.checked_add(i64::from(digit)))
}

fn octal(bytes: &[u8]) -> Option<i64> {
    let is_blank = |b: &u8| matches!(b, b' ' | 0);
    let start = bytes.iter().position(|b| *b != b' ').unwrap_or(bytes.len());
    let digits = &bytes[start..];
    let length = digits.iter().position(is_blank).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(length);
    if !rest.iter().all(is_blank) {
        return None;
    }
    digits.iter().try_fold(0i64, |value, &digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

/// A number that cannot be below zero.
pub(super) fn unsigned(field: &'static str, bytes: &[u8]) -> Result<u64, Malformed> {
    number(field, bytes)?.try_into().map_err(|_| Malformed::Number { field })
}

/// An owner. The system takes the largest one as "leave as it is", so nobody has it.
pub(super) fn owner(field: &'static str, bytes: &[u8]) -> Result<u32, Malformed> {
    match u32::try_from(number(field, bytes)?) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(Malformed::Number { field }),
    }
}

/// The bytes of a text field before its first NUL.
pub(super) fn text(bytes: &[u8]) -> &[u8] {
    bytes.split(|&b| b == 0).next().unwrap_or_default()
}

/// The name as the block has it: a POSIX header's prefix, if it has one, before it.
pub(super) fn name(header: &Header) -> Vec<u8> {
    let name = text(&header.as_old().name);
    let block = header.as_bytes();
    match text(&block[PREFIX]) {
        // Without POSIX magic these bytes are something else. Its version is not looked at: GNU tar does not either.
        prefix if !prefix.is_empty() && block[MAGIC] == *b"ustar\0" => [prefix, b"/", name].concat(),
        _ => name.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_octal_or_base_256_and_nothing_else() {
        for (bytes, value) in [
            (&b"0000644\0"[..], 0o644),
            (b"   644 \0", 0o644),
            (b"77777777", 0o77_777_777),
            (b"\0\0\0\0\0\0\0\0", 0),
            (b"        ", 0),
            (b"\x80\0\0\0\0\0\x01\0", 256),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", -2),
        ] {
            assert_eq!(number("size", bytes), Ok(value), "{bytes:?}");
        }
        for bad in [&b"0000648\0"[..], b"-000644\0", b"644\x00123", b"0x1f\0\0\0\0", b"\x81\0\0\0\0\0\0\0", b"\tabc"] {
            assert!(number("size", bad).is_err(), "{bad:?}");
        }
        assert!(number("size", b"\x80\x01\0\0\0\0\0\0\0\0\0\0").is_err(), "more than 63 bits");
        assert!(unsigned("size", b"\xff\xff\xff\xff\xff\xff\xff\xfe").is_err());
        assert!(owner("uid", b"\x80\0\0\0\xff\xff\xff\xff").is_err());
        assert_eq!(owner("uid", b"\x80\0\0\0\xff\xff\xff\xfe"), Ok(u32::MAX - 1));
    }

    proptest! {
        #[test]
        fn what_the_tar_crate_writes_is_read(size: u64, mtime: u64, mode in 0u32..0o10000, uid in 0..u32::MAX) {
            let mut header = Header::new_gnu();
            header.set_size(size >> 1);
            header.set_mtime(mtime >> 1);
            header.set_mode(mode);
            header.set_uid(uid.into());
            header.set_cksum();
            prop_assert!(checksum_holds(header.as_bytes()));
            prop_assert_eq!(unsigned("size", &header.as_old().size), Ok(size >> 1));
            prop_assert_eq!(unsigned("mtime", &header.as_old().mtime), Ok(mtime >> 1));
            prop_assert_eq!(unsigned("mode", &header.as_old().mode), Ok(mode.into()));
            prop_assert_eq!(owner("uid", &header.as_old().uid), Ok(uid));
        }

        #[test]
        fn any_flipped_bit_breaks_the_checksum(bit in 0usize..148 * 8) {
            let mut header = Header::new_ustar();
            header.set_path("some/name").unwrap();
            header.set_size(77);
            header.set_cksum();
            let mut block = *header.as_bytes();
            block[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!checksum_holds(&block));
        }
    }
}
