//! Compressions: told by content, in several members, cut, padded and followed by garbage.

use super::builder::Tar;
use super::compress::{Encode, gzip};
use super::*;

const ENCODERS: [(UnpackFormat, Encode); 4] = [
    (UnpackFormat::TarGz, gzip),
    (UnpackFormat::TarZst, compress::zstd),
    (UnpackFormat::TarXz, compress::xz),
    (UnpackFormat::TarBz2, compress::bzip2),
];

fn recipe(format: UnpackFormat) -> Unpack {
    Unpack { format, ..Unpack::default() }
}

fn sample() -> Vec<u8> {
    let content: Vec<u8> = (0..3000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    Tar::default().dir("d").file("d/file", &content).symlink("d/link", "file").end()
}

#[test]
fn every_compression_unpacks_alike_in_one_member_or_several_whole_or_byte_by_byte() {
    let plain = Sandbox::new().unpack(&sample()[..], &Unpack::default()).unwrap();
    assert_eq!(paths(&plain), ["d", "d/file", "d/link"]);
    for (format, encode) in ENCODERS {
        let one = encode(&sample());
        let (a, b) = sample().split_at(1234).map_halves(encode);
        let several = [a, encode(b""), b].concat();
        for bytes in [one, several] {
            for format in [UnpackFormat::Auto, format] {
                let whole = Sandbox::new().unpack(&bytes[..], &recipe(format)).unwrap();
                let trickled = Sandbox::new().unpack(Trickle(&bytes), &recipe(format)).unwrap();
                assert_eq!(whole.entries, plain.entries, "{format:?}");
                assert_eq!(trickled.entries, plain.entries, "{format:?}");
            }
        }
    }
}

trait Halves<'a> {
    fn map_halves<T>(self, f: impl Fn(&'a [u8]) -> T) -> (T, T);
}

impl<'a> Halves<'a> for (&'a [u8], &'a [u8]) {
    fn map_halves<T>(self, f: impl Fn(&'a [u8]) -> T) -> (T, T) {
        (f(self.0), f(self.1))
    }
}

#[test]
fn every_cut_and_anything_that_follows_is_refused() {
    for (format, encode) in ENCODERS {
        let whole = encode(&sample());
        let cuts = (0..whole.len()).step_by(301).chain(whole.len().saturating_sub(24)..whole.len());
        for cut in cuts {
            let error = Sandbox::new().unpack(&whole[..cut], &recipe(UnpackFormat::Auto)).unwrap_err();
            assert!(error.is_bad_content(), "{format:?} cut at {cut}: {error:?}");
        }
        let small = encode(&Tar::default().file("f", b"x").end());
        for cut in 0..small.len() {
            let error = Sandbox::new().unpack(&small[..cut], &recipe(UnpackFormat::Auto)).unwrap_err();
            assert!(error.is_bad_content(), "{format:?} of {} bytes cut at {cut}: {error:?}", small.len());
        }
        for garbage in [&b"x"[..], b"garbage that is long enough for any header", &[0, 0, 1]] {
            let bytes = [&whole[..], garbage].concat();
            let error = Sandbox::new().unpack(&bytes[..], &recipe(UnpackFormat::Auto)).unwrap_err();
            assert!(matches!(error, UnpackError::Decode { .. }), "{format:?} and {garbage:?}: {error:?}");
        }
        for at in (20..whole.len() - 1).step_by(601) {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            let error = Sandbox::new().unpack(&flipped[..], &recipe(UnpackFormat::Auto)).unwrap_err();
            assert!(error.is_bad_content(), "{format:?} flipped at {at}: {error:?}");
        }
    }
}

#[test]
fn gzip_may_be_padded_with_zeros_and_an_archive_with_many() {
    let padded = [gzip(&sample()), vec![0; 300_000]].concat();
    assert!(Sandbox::new().unpack(&padded[..], &Unpack::default()).is_ok());
    let padded = gzip(&[sample(), vec![0; 300_000]].concat());
    assert!(Sandbox::new().unpack(&padded[..], &Unpack::default()).is_ok());
}

#[test]
fn garbage_within_the_compression_is_found_too() {
    let bytes = gzip(&[sample(), vec![0; 300_000], vec![9]].concat());
    let error = Sandbox::new().unpack(&bytes[..], &Unpack::default()).unwrap_err();
    assert!(matches!(error, UnpackError::TrailingBytes { .. }), "{error}");
}

#[test]
fn what_is_no_tar_is_refused_with_what_to_set() {
    let text = b"plain text, longer than a block of tar: ".repeat(20);
    let contents = [vec![], text.clone(), gzip(&text), gzip(b""), zstd::encode_all(&text[..], 1).unwrap()];
    for bytes in contents {
        let error = Sandbox::new().unpack(&bytes[..], &Unpack::default()).unwrap_err();
        assert!(matches!(error, UnpackError::NotTar { .. }), "{error:?}");
        assert!(error.to_string().contains("unpack.format: none"), "{error}");
    }
    let error = Sandbox::new().unpack(&text[..], &recipe(UnpackFormat::Tar)).unwrap_err();
    assert!(matches!(error, UnpackError::NotTar { .. }), "{error:?}");
    let error = Sandbox::new().unpack(&sample()[..], &recipe(UnpackFormat::TarGz)).unwrap_err();
    assert_eq!(error.to_string().matches("uncompressed").count(), 1, "{error}");
    assert!(matches!(error, UnpackError::Format { declared: Codec::Gzip, found: Codec::Plain }), "{error:?}");
}

/// Fails after its bytes, as a cancelled transfer does.
struct Failing<'a>(&'a [u8]);

#[derive(Debug, thiserror::Error)]
#[error("cancelled")]
struct Cancelled;

impl Read for Failing<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match self.0.read(to)? {
            0 => Err(io::Error::new(io::ErrorKind::ConnectionAborted, Cancelled)),
            n => Ok(n),
        }
    }
}

#[test]
fn a_failing_stream_is_told_from_bad_content() {
    let plain: (UnpackFormat, Encode) = (UnpackFormat::Tar, |bytes| bytes.to_vec());
    for (format, encode) in ENCODERS.into_iter().chain([plain]) {
        let whole = encode(&sample());
        for cut in [0, 5, 20, 700, whole.len() - 3, whole.len()] {
            for format in [UnpackFormat::Auto, format, UnpackFormat::None] {
                let error = Sandbox::new().unpack(Failing(&whole[..cut]), &recipe(format)).unwrap_err();
                let UnpackError::Read { source } = &error else { panic!("{format:?} cut at {cut}: {error:?}") };
                assert!(source.get_ref().unwrap().is::<Cancelled>(), "{source:?}");
                assert!(!error.is_bad_content());
            }
        }
    }
}

#[test]
fn a_full_disk_is_told() {
    let full = crate::fs::Error::new("write", Path::new("x"), io::Error::from(io::ErrorKind::StorageFull));
    assert!(UnpackError::from(full).is_no_space());
    let other = crate::fs::Error::new("write", Path::new("x"), io::Error::from(io::ErrorKind::PermissionDenied));
    assert!(!UnpackError::from(other).is_no_space());
}
