//! Compressions, and what is broken or odd in them.

use std::io::Write as _;

use super::builder::Tar;
use super::{Case, nameless, refused, taken};

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
fn zstd_window(bytes: &[u8], log: u8) -> Vec<u8> {
    // A descriptor that says nothing but that a window follows, and the window.
    zstd_frame(&[0, (log - 10) << 3], bytes)
}

/// One that asks for a dictionary; 0 stands for none.
fn zstd_dictionary(bytes: &[u8], id: u8) -> Vec<u8> {
    zstd_frame(&[1, (17 - 10) << 3, id], bytes)
}

fn zstd_frame(header: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut frame = [&[0x28, 0xb5, 0x2f, 0xfd][..], header].concat();
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

/// A file that no compression makes smaller, and that takes many of their blocks; then another one.
fn noise() -> Vec<u8> {
    let mut noise = vec![0; 512 << 10];
    fastrand::Rng::with_seed(7).fill(&mut noise);
    Tar::default().dir("d").file("d/noise", &noise).file("d/last", b"").end()
}

const SAMPLE: &[&str] = &["d", "d/file", "d/link"];
/// Members, frames or streams with nothing in them.
const MANY: usize = 100_000;
/// Of bzip2: its decoder takes up to 3.6 MB anew for each.
const MANY_OF_BZIP2: usize = 20_000;
/// Where a field's end is still not in sight.
const ENDLESS: usize = 4 << 20;
/// Flags of a gzip header.
const CHECKSUM: u8 = 2;
const EXTRA: u8 = 4;
const NAME: u8 = 8;
const COMMENT: u8 = 16;

/// What is about the compression itself. What is damaged before the first entry can name none.
pub(crate) fn cases() -> Vec<Case> {
    [whole_or_not(), damaged(), gzip_headers(), empty()].into_iter().flatten().collect()
}

fn whole_or_not() -> Vec<Case> {
    let (a, b) = halves();
    let joined = |encode: Encode| [encode(&a), encode(b""), encode(&b)].concat();
    let with = |bytes: Vec<u8>, more: &[u8]| [&bytes[..], more].concat();
    let head = |bytes: Vec<u8>| bytes[..20].to_vec();
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
        nameless("zstd with a window of 256 MiB", zstd_window(&sample(), 28), "Decode"),
        nameless("zstd that asks for a dictionary", zstd_dictionary(&sample(), 7), "Decode"),
        taken("zstd that says to ask for no dictionary", zstd_dictionary(&sample(), 0), SAMPLE),
        nameless("zstd with a window of 2 TiB", zstd_window(&sample(), 41), "Decode"),
        nameless("xz with a dictionary of 1.5 GiB", xz_asking(&sample(), 3 << 29), "Decode"),
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
        nameless("gzip within gzip", gzip(&gzip(&sample())), "NotTar"),
        nameless("gzip of nothing", gzip(b""), "NotTar"),
        nameless("zstd frames to be skipped and nothing else", skippable(&[0; 600]), "NotTar"),
    ]
}

/// Cut or changed: the entry that is named is the last one that was decoded.
fn damaged() -> Vec<Case> {
    let short = |bytes: Vec<u8>, by: usize| bytes[..bytes.len() - by].to_vec();
    let half = |encode: Encode| short(encode(&noise()), encode(&noise()).len() / 2);
    let flipped = |mut bytes: Vec<u8>, from_end: usize| {
        let at = bytes.len() - from_end;
        bytes[at] ^= 1;
        bytes
    };
    let xz_check = |stream: &[u8]| {
        // The last byte before the index, which the footer has the size of.
        let words = &stream[stream.len() - 8..stream.len() - 4];
        12 + (u32::from_le_bytes(words.try_into().unwrap()) as usize + 1) * 4 + 1
    };
    let middle = |bytes: &[u8]| bytes.len() / 2;
    let last = |name, archive| refused(name, archive, "Decode", "`d/link`");
    let within = |name, archive| refused(name, archive, "Decode", "`d/noise`");
    vec![
        last("gzip cut short", short(gzip(&sample()), 5)),
        last("xz cut short", short(xz(&sample()), 5)),
        last("bzip2 cut short", short(bzip2(&sample()), 5)),
        last("zstd cut short within its checksum", short(zstd(&sample()), 2)),
        // Its one block is not whole, so that nothing comes of it.
        nameless("zstd cut short", short(zstd(&sample()), 5), "Decode"),
        within("gzip cut within a file", half(gzip)),
        within("zstd cut within a file", half(zstd)),
        within("xz cut within a file", half(xz)),
        within("bzip2 cut within a file", half(bzip2)),
        within("bzip2 changed within a file", flipped(bzip2(&noise()), middle(&bzip2(&noise())))),
        last("gzip whose checksum is wrong", flipped(gzip(&sample()), 6)),
        last("xz whose checksum is wrong", flipped(xz(&sample()), xz_check(&xz(&sample())))),
    ]
}

/// Fields whose length the format bounds, and fields that it does not.
fn gzip_headers() -> Vec<Case> {
    let head = |flags: u8, fields: &[u8]| [&[0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 3][..], fields].concat();
    // What follows the header.
    let body = gzip(&sample())[10..].to_vec();
    let longest = |byte: u8| vec![byte; 65_535];
    let fields = [vec![0xff, 0xff], longest(0), longest(b'n'), vec![0], longest(b'c'), vec![0]].concat();
    let long = head(EXTRA | NAME | COMMENT | CHECKSUM, &fields);
    let sum = crc32(&long).to_le_bytes()[..2].to_vec();
    let wrong = vec![sum[0] ^ 1, sum[1]];
    let endless = |flag: u8| head(flag, &vec![b'n'; ENDLESS]);
    vec![
        taken("gzip with a header of 192 KiB", [long.clone(), sum, body.clone()].concat(), SAMPLE),
        nameless("gzip whose header's checksum is wrong", [long, wrong, body].concat(), "Decode"),
        nameless("gzip that ends within its header", head(EXTRA, &[0xff, 0xff, 0]), "Decode"),
        nameless("gzip whose name does not end", endless(NAME), "Decode"),
        nameless("gzip whose comment does not end", endless(COMMENT), "Decode"),
        refused(
            "gzip and a member whose name does not end",
            [gzip(&sample()), endless(NAME)].concat(),
            "Decode",
            "`d/link`",
        ),
    ]
}

/// What costs a little work and brings nothing, very often: harmless, as long as it costs neither memory nor stack.
fn empty() -> Vec<Case> {
    let (a, b) = halves();
    let within = |encode: Encode, nothing: Vec<u8>| [encode(&a), nothing, encode(&b)].concat();
    vec![
        taken("gzip with many empty members", within(gzip, gzip(b"").repeat(MANY)), SAMPLE),
        taken("zstd with many empty frames", within(zstd, zstd(b"").repeat(MANY)), SAMPLE),
        taken("zstd with many empty frames to be skipped", within(zstd, skippable(b"").repeat(MANY)), SAMPLE),
        taken("xz with many empty streams", within(xz, xz(b"").repeat(MANY)), SAMPLE),
        taken("bzip2 with many empty streams", within(bzip2, bzip2(b"").repeat(MANY_OF_BZIP2)), SAMPLE),
        nameless("many empty members of gzip and nothing else", gzip(b"").repeat(MANY), "NotTar"),
    ]
}

/// The sample in two, within an entry's header.
fn halves() -> (Vec<u8>, Vec<u8>) {
    let sample = sample();
    (sample[..700].to_vec(), sample[700..].to_vec())
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
