//! Compressions, and what is broken or odd in them.

use std::io::Write as _;

use super::builder::Tar;
use super::{Case, refused, taken};

/// From a tar to an archive.
pub(crate) type Encode = fn(&[u8]) -> Vec<u8>;

/// Every compression, by the suffix of its files.
pub(crate) const ENCODERS: [(&str, Encode); 4] = [("gz", gzip), ("zst", zstd), ("xz", xz), ("bz2", bzip2)];

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// With a checksum, as the `zstd` tool writes it.
pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut out = zstd::Encoder::new(Vec::new(), 3).unwrap();
    out.include_checksum(true).unwrap();
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

pub(crate) fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut out = liblzma::write::XzEncoder::new(Vec::new(), 1);
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

pub(crate) fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut out = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// A zstd frame that asks for a window of 2 to the power of `log`: one raw block of `bytes`.
pub(crate) fn zstd_window(bytes: &[u8], log: u8) -> Vec<u8> {
    // Magic number, a descriptor that says nothing but that a window follows, and the window.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3];
    let last = 1u32;
    frame.extend_from_slice(&(last | (bytes.len() as u32) << 3).to_le_bytes()[..3]);
    frame.extend_from_slice(bytes);
    frame
}

fn sample() -> Vec<u8> {
    Tar::default().dir("d").file("d/file", b"content").symlink("d/link", "file").end()
}

/// What GNU tar would say nothing of: it ends where the first archive does.
fn other() -> Vec<u8> {
    Tar::default().file("hidden", b"content").end()
}

const SAMPLE: &[&str] = &["d", "d/file", "d/link"];

/// What is about the compression itself. Who finds it has seen no entry yet, or does not know where it stopped.
pub(crate) fn cases() -> Vec<Case> {
    let (a, b) = (sample()[..700].to_vec(), sample()[700..].to_vec());
    let joined = |encode: Encode| [encode(&a), encode(b""), encode(&b)].concat();
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() - 5].to_vec();
    let with = |bytes: Vec<u8>, more: &[u8]| [&bytes[..], more].concat();
    let head = |bytes: Vec<u8>| bytes[..20].to_vec();
    let mut flipped = gzip(&sample());
    let at = flipped.len() - 6;
    flipped[at] ^= 1;
    vec![
        taken("gzip in members", joined(gzip), SAMPLE),
        taken("zstd in frames", joined(zstd), SAMPLE),
        taken("xz in streams", joined(xz), SAMPLE),
        taken("bzip2 in streams", joined(bzip2), SAMPLE),
        taken("gzip padded with zeros", with(gzip(&sample()), &[0; 4096]), SAMPLE),
        taken("xz padded with zeros", with(xz(&sample()), &[0; 64]), SAMPLE),
        taken("zstd after a frame to be skipped", with(skippable(b"anything"), &zstd(&sample())), SAMPLE),
        taken("zstd with a window of 128 MiB", zstd_window(&sample(), 27), SAMPLE),
        taken("xz with a dictionary of 64 MiB", xz_asking(&sample(), 64 << 20), SAMPLE),
        refused("zstd with a window of 256 MiB", zstd_window(&sample(), 28), "Decode", "zstd"),
        refused("zstd with a window of 2 TiB", zstd_window(&sample(), 41), "Decode", "zstd"),
        refused("xz with a dictionary of 1.5 GiB", xz_asking(&sample(), 3 << 29), "Decode", "xz"),
        refused("a gzip member of another kind", with(gzip(&sample()), &zstd(b"")), "Decode", "d/link"),
        refused("gzip and garbage", with(gzip(&sample()), b"garbage"), "Decode", "d/link"),
        refused("zstd and garbage", with(zstd(&sample()), b"garbage"), "Decode", "d/link"),
        refused("xz and garbage", with(xz(&sample()), b"garbage"), "Decode", "d/link"),
        refused("bzip2 and garbage", with(bzip2(&sample()), b"garbage"), "Decode", "d/link"),
        refused("xz padded with five zeros", with(xz(&sample()), &[0; 5]), "Decode", "d/link"),
        refused("zstd and zeros", with(zstd(&sample()), &[0; 64]), "Decode", "d/link"),
        refused("bzip2 and zeros", with(bzip2(&sample()), &[0; 64]), "Decode", "d/link"),
        refused(
            "gzip, zeros and one byte",
            with(gzip(&sample()), &[&[0; 4096][..], b"x"].concat()),
            "Decode",
            "d/link",
        ),
        refused("gzip and half a member", with(gzip(&sample()), &head(gzip(&sample()))), "TrailingBytes", "d/link"),
        refused("zstd and half a frame", with(zstd(&sample()), &head(zstd(&sample()))), "Decode", "d/link"),
        refused("xz and half a stream", with(xz(&sample()), &head(xz(&sample()))), "Decode", "d/link"),
        refused("bzip2 and half a stream", with(bzip2(&sample()), &head(bzip2(&sample()))), "Decode", "d/link"),
        refused(
            "two archives in two members of gzip",
            with(gzip(&sample()), &gzip(&other())),
            "TrailingBytes",
            "d/link",
        ),
        refused(
            "two archives in two frames of zstd",
            with(zstd(&sample()), &zstd(&other())),
            "TrailingBytes",
            "d/link",
        ),
        refused("two archives in two streams of xz", with(xz(&sample()), &xz(&other())), "TrailingBytes", "d/link"),
        refused(
            "two archives in two streams of bzip2",
            with(bzip2(&sample()), &bzip2(&other())),
            "TrailingBytes",
            "d/link",
        ),
        refused("gzip cut short", cut(gzip(&sample())), "Decode", "gzip"),
        refused("zstd cut short", cut(zstd(&sample())), "Decode", "zstd"),
        refused("xz cut short", cut(xz(&sample())), "Decode", "xz"),
        refused("bzip2 cut short", cut(bzip2(&sample())), "Decode", "bzip2"),
        refused("gzip whose checksum is wrong", flipped, "Decode", "gzip"),
        refused("gzip within gzip", gzip(&gzip(&sample())), "NotTar", "gzip"),
        refused("gzip of nothing", gzip(b""), "NotTar", "gzip"),
        refused("zstd frames to be skipped and nothing else", skippable(&[0; 600]), "NotTar", "zstd"),
    ]
}

/// A zstd frame that readers pass over.
fn skippable(bytes: &[u8]) -> Vec<u8> {
    [&[0x50, 0x2a, 0x4d, 0x18][..], &(bytes.len() as u32).to_le_bytes(), bytes].concat()
}

/// An xz stream whose header is changed to ask for a dictionary of so many bytes: the encoder would need it, too.
pub(crate) fn xz_asking(bytes: &[u8], dictionary: u32) -> Vec<u8> {
    let mut stream = xz(bytes);
    // Block header: its size, its flags, the filter's id, the size of its properties, the dictionary, padding, CRC-32.
    let size = (usize::from(stream[12]) + 1) * 4;
    let header = &mut stream[12..12 + size];
    let at = header.windows(2).position(|two| two == [0x21, 1]).unwrap() + 2;
    // Two bits of mantissa and an exponent: 2 or 3 times a power of two.
    header[at] = (0..40u8).find(|&bits| u64::from(2 | (bits & 1)) << (bits / 2 + 11) >= u64::from(dictionary)).unwrap();
    let checksum = crc32(&header[..size - 4]).to_le_bytes();
    header[size - 4..].copy_from_slice(&checksum);
    stream
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}
