//! The archive's format, told by its content, and its decoders: they run on a thread of their own and hand on pieces
//! of decoded bytes.
//!
//! What must hold: all compressed bytes belong to the compressed data; what follows its end refuses the archive. gzip
//! alone may be padded with zeros, as its own tool allows.

use std::fmt;
use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;
use liblzma::stream::{CONCATENATED, Stream as XzStream};

use super::UnpackError;
use super::header::begins_tar;
use super::input::{Input, Meter};
use super::stream::{Feed, Piece};
use crate::intent::UnpackFormat;

/// The largest window of a zstd frame, as a power of two: what `zstd` itself takes without being asked.
const ZSTD_WINDOW_LOG: u32 = 27;
/// Memory for an xz decoder: what `xz -9` needs, and a little more.
const XZ_MEMORY: u64 = 68 << 20;

/// A compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// None.
    Plain,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// xz.
    Xz,
    /// bzip2.
    Bzip2,
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Codec::Plain => "uncompressed",
            Codec::Gzip => "gzip",
            Codec::Zstd => "zstd",
            Codec::Xz => "xz",
            Codec::Bzip2 => "bzip2",
        })
    }
}

/// Bytes after the end of compressed data.
#[derive(Debug, thiserror::Error)]
#[error("bytes that belong to no compressed data follow its end")]
struct TrailingBytes;

/// The compression that content starting with `head` has. A tar may start with any file name, so it is told first.
fn told_by(head: &[u8]) -> Codec {
    match head {
        _ if begins_tar(head) => Codec::Plain,
        [0x1f, 0x8b, 8, ..] => Codec::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Codec::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Codec::Xz,
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, ..]
        | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90, ..] => Codec::Bzip2,
        _ => Codec::Plain,
    }
}

/// How content starting with `head` is to be decoded under what the document says.
fn choose(format: UnpackFormat, head: &[u8]) -> Result<Codec, UnpackError> {
    let found = told_by(head);
    let declared = match format {
        UnpackFormat::None => return Ok(Codec::Plain),
        UnpackFormat::Auto => found,
        UnpackFormat::Tar => Codec::Plain,
        UnpackFormat::TarGz => Codec::Gzip,
        UnpackFormat::TarZst => Codec::Zstd,
        UnpackFormat::TarXz => Codec::Xz,
        UnpackFormat::TarBz2 => Codec::Bzip2,
    };
    if declared == found { Ok(found) } else { Err(UnpackError::Format { declared, found }) }
}

/// Decodes all of `archive` into `feed`: to be run on a thread of its own. How it ended is the last thing fed.
pub(super) fn decode(archive: impl Read, format: UnpackFormat, feed: &Feed) {
    let meter = Meter::default();
    let end = feed_all(archive, format, feed, &meter);
    feed.end(end);
}

fn feed_all(archive: impl Read, format: UnpackFormat, feed: &Feed, meter: &Meter) -> Result<(), UnpackError> {
    let mut input = Input::new(archive, meter);
    let read_failed = |e: io::Error| UnpackError::Read { source: meter.take_failure().unwrap_or(e) };
    let codec = choose(format, input.peek(512).map_err(read_failed)?)?;
    let failed = |e: io::Error| match meter.take_failure() {
        Some(source) => UnpackError::Read { source },
        None => UnpackError::Decode { codec, entry: None, source: e },
    };
    let mut decoder = decoder(codec, input).map_err(failed)?;
    let mut untold = format != UnpackFormat::None;
    loop {
        let mut bytes = feed.buffer();
        let (length, filled) = fill(&mut decoder, &mut bytes);
        if std::mem::take(&mut untold) && !begins_tar(&bytes[..length]) {
            return filled.map_err(failed).and(Err(UnpackError::NotTar { codec }));
        }
        // What came before an error is handed on too: it says which entry is damaged.
        if length > 0 && !feed.send(Piece { bytes, length, packed: meter.taken() }) {
            return Ok(());
        }
        filled.map_err(failed)?;
        if length == 0 {
            return Ok(());
        }
    }
}

fn decoder<'m, R: Read + 'm>(codec: Codec, input: Input<'m, R>) -> io::Result<Box<dyn Read + 'm>> {
    Ok(match codec {
        Codec::Plain => Box::new(input),
        Codec::Gzip => Box::new(Members { member: Some(GzDecoder::new(input)) }),
        Codec::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(input)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
        Codec::Xz => {
            let stream = XzStream::new_stream_decoder(XZ_MEMORY, CONCATENATED)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream))
        }
        Codec::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
    })
}

/// Fills `to`, and says with how many bytes: fewer only at the end or before an error.
fn fill(from: &mut impl Read, to: &mut [u8]) -> (usize, io::Result<()>) {
    let mut length = 0;
    while length < to.len() {
        match from.read(&mut to[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(error) => return (length, Err(error)),
        }
    }
    (length, Ok(()))
}

/// gzip members one after the other, then nothing or zeros.
struct Members<'m, R> {
    /// `None` after the last one.
    member: Option<GzDecoder<Input<'m, R>>>,
}

impl<R: Read> Read for Members<'_, R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let n = member.read(to)?;
            if n > 0 || to.is_empty() {
                return Ok(n);
            }
            let Some(mut input) = self.member.take().map(GzDecoder::into_inner) else { break };
            match input.peek(1)? {
                [] => {}
                [0] => only_zeros(&mut input)?,
                [0x1f] => self.member = Some(GzDecoder::new(input)),
                _ => return Err(io::Error::new(io::ErrorKind::InvalidData, TrailingBytes)),
            }
        }
        Ok(0)
    }
}

fn only_zeros(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let bytes = input.fill_buf()?;
        if bytes.is_empty() {
            return Ok(());
        }
        if bytes.iter().any(|&b| b != 0) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, TrailingBytes));
        }
        let n = bytes.len();
        input.consume(n);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_format_is_told_by_content_and_held_against_what_the_document_says() {
        let gzip = [0x1f, 0x8b, 8, 0];
        assert_eq!(choose(UnpackFormat::Auto, &gzip).unwrap(), Codec::Gzip);
        assert_eq!(choose(UnpackFormat::TarGz, &gzip).unwrap(), Codec::Gzip);
        assert_eq!(choose(UnpackFormat::None, &gzip).unwrap(), Codec::Plain);
        assert_eq!(choose(UnpackFormat::Auto, b"BZh91AY&SY").unwrap(), Codec::Bzip2);
        assert_eq!(choose(UnpackFormat::Auto, b"BZh is how this text begins").unwrap(), Codec::Plain);
        for format in [UnpackFormat::Tar, UnpackFormat::TarZst, UnpackFormat::TarXz, UnpackFormat::TarBz2] {
            let error = choose(format, &gzip).unwrap_err();
            assert!(matches!(error, UnpackError::Format { found: Codec::Gzip, .. }), "{error}");
        }
    }
}
