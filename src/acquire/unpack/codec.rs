//! The archive's format, told by its content, and its decoders: they run on a thread of their own and hand on pieces
//! of decoded bytes.
//!
//! What must hold: all compressed bytes belong to the compressed data; what follows its end refuses the archive. gzip
//! alone may be padded with zeros, as its own tool allows. A decoder that takes more than a little memory has a turn for it
//! ([`large`](super::large)).

use std::fmt;
use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;
use liblzma::stream::{Action, CONCATENATED, Error as XzError, Status, Stream as XzStream};
use zstd::stream::raw::{DParameter, InBuffer, Operation, OutBuffer, WriteBuf};
use zstd::zstd_safe::{DCtx, ResetDirective, get_error_name};

use super::UnpackError;
use super::header::begins_tar;
use super::input::{Input, Meter};
use super::large::{Large, Window};
use super::stream::{Feed, Piece};
use crate::intent::UnpackFormat;

/// Memory that any decoder may have: what `xz -6` and `zstd -19` need, and a little more.
const SMALL: u64 = 10 << 20;
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

/// Decodes all of `archive` into `feed`: to be run on a thread of its own. How it ended is the last thing fed. With a large
/// window it waits for a turn of `large`, if there are any.
pub(super) fn decode(archive: impl Read, format: UnpackFormat, large: Option<&Large>, feed: &Feed) {
    let meter = Meter::default();
    let end = feed_all(archive, format, Window::new(large, &meter), feed, &meter);
    feed.end(end);
}

fn feed_all<'m>(
    archive: impl Read + 'm,
    format: UnpackFormat,
    window: Window<'m>,
    feed: &Feed,
    meter: &'m Meter,
) -> Result<(), UnpackError> {
    let mut input = Input::new(archive, meter);
    let read_failed = |e: io::Error| UnpackError::Read { source: meter.take_failure().unwrap_or(e) };
    let codec = choose(format, input.peek(512).map_err(read_failed)?)?;
    let failed = |e: io::Error| match meter.take_failure() {
        Some(source) => UnpackError::Read { source },
        None => UnpackError::Decode { codec, entry: None, source: e },
    };
    let mut decoder = decoder(codec, input, window).map_err(failed)?;
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

fn decoder<'m, R: Read + 'm>(codec: Codec, input: Input<'m, R>, window: Window<'m>) -> io::Result<Box<dyn Read + 'm>> {
    Ok(match codec {
        Codec::Plain => Box::new(input),
        Codec::Gzip => Box::new(Members { member: Some(GzDecoder::new(input)) }),
        Codec::Zstd => {
            let mut context = DCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
            context.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG)).map_err(zstd_error)?;
            Box::new(zstd::stream::zio::Reader::new(input, Zstd { context, window }))
        }
        Codec::Xz => {
            let stream = XzStream::new_stream_decoder(SMALL, CONCATENATED)?;
            Box::new(Xz { input, stream, window, failed: None })
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

/// zstd frames. What a frame asks for is set aside as its header is read, and takes memory only as it is filled.
struct Zstd<'m> {
    context: DCtx<'static>,
    window: Window<'m>,
}

impl Operation for Zstd<'_> {
    fn run<C: WriteBuf + ?Sized>(
        &mut self,
        input: &mut InBuffer<'_>,
        output: &mut OutBuffer<'_, C>,
    ) -> io::Result<usize> {
        let hint = self.context.decompress_stream(output, input).map_err(zstd_error)?;
        if self.context.sizeof() as u64 > SMALL {
            self.window.enlarge()?;
        }
        Ok(hint)
    }

    fn reinit(&mut self) -> io::Result<()> {
        self.context.reset(ResetDirective::SessionOnly).map(drop).map_err(zstd_error)
    }

    fn finish<C: WriteBuf + ?Sized>(&mut self, _: &mut OutBuffer<'_, C>, finished_frame: bool) -> io::Result<usize> {
        if finished_frame { Ok(0) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

fn zstd_error(code: usize) -> io::Error {
    io::Error::other(get_error_name(code))
}

/// xz streams.
struct Xz<'m, R> {
    input: Input<'m, R>,
    stream: XzStream,
    window: Window<'m>,
    /// Found with the bytes handed on last, which say what is damaged.
    failed: Option<XzError>,
}

impl<R: Read> Read for Xz<'_, R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if let Some(error) = self.failed.take() {
            return Err(error.into());
        }
        while !to.is_empty() {
            let input = self.input.fill_buf()?;
            let ended = input.is_empty();
            let before = (self.stream.total_in(), self.stream.total_out());
            let status = self.stream.process(input, to, if ended { Action::Finish } else { Action::Run });
            // Both are at most the length of a buffer.
            let taken = (self.stream.total_in() - before.0) as usize;
            let made = (self.stream.total_out() - before.1) as usize;
            self.input.consume(taken);
            let goes_on = match status {
                // It goes on where it was once it may have more.
                Err(XzError::MemLimit) if !self.window.is_large() => {
                    self.window.enlarge()?;
                    self.stream.set_memlimit(XZ_MEMORY)?;
                    true
                }
                Ok(Status::StreamEnd) => return Ok(made),
                Err(error) if made > 0 => {
                    self.failed = Some(error);
                    return Ok(made);
                }
                status => {
                    status?;
                    taken > 0
                }
            };
            match (made, goes_on) {
                (0, true) => {}
                (0, false) if ended => return Err(io::ErrorKind::UnexpectedEof.into()),
                (0, false) => return Err(io::ErrorKind::InvalidData.into()),
                _ => return Ok(made),
            }
        }
        Ok(0)
    }
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
    use std::io::Write as _;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use tokio::sync::Semaphore;

    use super::super::stream::{Halt, channel_within};
    use super::*;
    use crate::acquire::Progress;
    use crate::intent::Limits;

    const SIZE: usize = 1 << 20;

    fn zstd(bytes: &[u8], window_log: u32) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn xz(bytes: &[u8], preset: u32) -> Vec<u8> {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), preset);
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Archives that decoders with small windows read, and some that only those with large ones do: from their first byte
    /// on, or from their middle.
    fn small_and_large() -> ([Vec<u8>; 2], [Vec<u8>; 4]) {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(SIZE as u64);
        let mut noise = fastrand::Rng::with_seed(1);
        let content: Vec<u8> = std::iter::repeat_with(|| noise.u8(..)).take(SIZE).collect();
        tar.append_data(&mut header, "x", &content[..]).unwrap();
        let tar = tar.into_inner().unwrap();
        let (first, rest) = tar.split_at(SIZE / 2);
        let joined = [[zstd(first, 20), zstd(rest, 27)].concat(), [xz(first, 6), xz(rest, 9)].concat()];
        let [zstd_late, xz_late] = joined;
        ([zstd(&tar, 23), xz(&tar, 6)], [zstd(&tar, 27), xz(&tar, 9), zstd_late, xz_late])
    }

    fn large(turns: usize) -> Large {
        Large {
            turns: Arc::new(Semaphore::new(turns)),
            abort: Arc::new(AtomicBool::new(false)),
            over: Arc::new(AtomicBool::new(false)),
            progress: Arc::default(),
        }
    }

    /// How many bytes are decoded.
    fn decoded(archive: &[u8], large: &Large) -> Result<usize, Halt> {
        let (feed, stream) = channel_within(Limits::default());
        std::thread::scope(|scope| {
            scope.spawn(move || decode(archive, UnpackFormat::Auto, Some(large), &feed));
            let (mut stream, mut length) = (stream, 0);
            loop {
                match stream.peek(u64::MAX)?.len() {
                    0 => return Ok(length),
                    n => {
                        stream.take(n);
                        length += n;
                    }
                }
            }
        })
    }

    #[test]
    fn a_large_window_takes_a_turn_and_a_small_one_none() {
        let (small, wide) = small_and_large();
        let (none, one) = (large(0), large(1));
        for archive in &small {
            assert!(decoded(archive, &none).unwrap() > SIZE);
        }
        for archive in &wide {
            assert!(decoded(archive, &one).unwrap() > SIZE);
            assert_eq!(one.turns.available_permits(), 1);
        }
        for end in [&none.abort, &none.over] {
            end.store(true, Relaxed);
            for archive in &wide {
                let error = decoded(archive, &none).unwrap_err();
                assert!(matches!(error, Halt::Failed(UnpackError::Read { .. })), "{error:?}");
            }
            end.store(false, Relaxed);
        }
    }

    #[test]
    fn who_waits_for_a_turn_says_so_and_goes_on() {
        let (_, wide) = small_and_large();
        for archive in &wide {
            let large = large(0);
            let waits = |progress: &Progress| progress.flow().1;
            std::thread::scope(|scope| {
                let decoding = scope.spawn(|| decoded(archive, &large));
                while !waits(&large.progress) {
                    assert!(!decoding.is_finished());
                    std::thread::yield_now();
                }
                large.turns.add_permits(1);
                assert!(decoding.join().unwrap().unwrap() > SIZE);
            });
            assert!(!waits(&large.progress));
        }
    }

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
