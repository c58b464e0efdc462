//! Archives that are small and become large: in bytes, in entries, in memory or in work.

use std::io::Write;

use super::builder::Tar;
use super::compress::{ENCODERS, Encode, xz_asking};

/// One bomb.
pub(crate) struct Bomb {
    pub(crate) name: &'static str,
    pub(crate) archive: Vec<u8>,
    /// What a document says under `unpack.limits`, where it is not the defaults.
    pub(crate) limits: &'static str,
    /// Of the error.
    pub(crate) says: &'static str,
    /// The entry that is named.
    pub(crate) entry: &'static str,
    /// The most bytes that its files may have before it is refused.
    pub(crate) allowed: u64,
}

const RATIO: &str = "unpack.limits.ratio";
const BYTES: &str = "unpack.limits.bytes";
const ENTRIES: &str = "unpack.limits.entries";
/// Below this no ratio counts.
const RATIO_FREE: u64 = 16 << 20;
const ZEROS: u64 = 24 << 20;
/// In each compression: one file over the limit on bytes, several, and entries over theirs.
const LIMITED: [[&str; 3]; 4] = [
    ["one file over the limit, gzip", "files over the limit, gzip", "entries, gzip"],
    ["one file over the limit, zstd", "files over the limit, zstd", "entries, zstd"],
    ["one file over the limit, xz", "files over the limit, xz", "entries, xz"],
    ["one file over the limit, bzip2", "files over the limit, bzip2", "entries, bzip2"],
];

/// All of them.
pub(crate) fn bombs() -> Vec<Bomb> {
    let ratio = |name, archive| Bomb { name, archive, limits: "", says: RATIO, entry: "`zeros`", allowed: RATIO_FREE };
    let holes = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "holes"),
        ("GNU.sparse.realsize", "64424509440"),
    ];
    let hole = Tar::default().pax(&holes).file("x", &Tar::default().content(b"0\n").0).end();
    // Compressed, or the origin's Content-Length alone would refuse them.
    let files = |encode: Encode, count: usize, size: usize| {
        let content = vec![b'x'; size];
        encode(&(0..count).fold(Tar::default(), |tar, at| tar.file(&format!("f{at}"), &content)).end())
    };
    let mut doubling = Tar::default().symlink("l0", "./.");
    for n in 1..1000 {
        doubling = doubling.symlink(&format!("l{n}"), &format!("l{0}/l{0}", n - 1));
    }
    let many = |name, archive, entry| Bomb { name, archive, limits: "entries: 5000", says: ENTRIES, entry, allowed: 0 };
    let large =
        |name, archive, entry| Bomb { name, archive, limits: "bytes: 8MiB", says: BYTES, entry, allowed: 8 << 20 };
    let plain = collected(flood(5_001, |at| format!("{at:x}")));
    let limited = ENCODERS.into_iter().zip(LIMITED).flat_map(|((_, encode), [file, several, entries])| {
        [
            large(file, files(encode, 1, 9 << 20), "`f0`"),
            large(several, files(encode, 9, 1 << 20), "`f8`"),
            many(entries, encode(&plain), "`1388`"),
        ]
    });
    let others = vec![
        ratio("gzip", gzip_of(zeros)),
        ratio("zstd", zstd_of(20, zeros)),
        ratio("zstd with a window of 128 MiB", zstd_of(27, zeros)),
        ratio("bzip2", bzip2_of(zeros)),
        ratio("xz with a dictionary of 64 MiB", xz_asking(&collected(zeros), 64 << 20)),
        Bomb { name: "a hole of 60 GiB", archive: hole, limits: "", says: RATIO, entry: "`holes`", allowed: 0 },
        Bomb {
            name: "extended headers of a mebibyte",
            archive: gzip_of(headers(24)),
            limits: "",
            says: RATIO,
            entry: "PaxHeaders",
            allowed: 0,
        },
        many(
            "directories that no entry lists",
            gzip_of(flood(300, |at| format!("{at:x}/{}f", "d/".repeat(40)))),
            "/d/d/d",
        ),
        many(
            "names of 4,000 bytes",
            gzip_of(flood(200, |at| format!("{at:x}{}", format!("/{}", "n".repeat(249)).repeat(15)))),
            "/nnnn",
        ),
        many("targets of 4,000 bytes", gzip_of(targets(600)), "`l"),
        Bomb {
            name: "symlinks through each other",
            archive: doubling.end(),
            limits: "",
            says: "lead through each other",
            entry: "`l",
            allowed: 0,
        },
    ];
    others.into_iter().chain(limited).collect()
}

/// Archives that are sound, and ask for as much memory as is given to any: the last entry refuses them.
pub(crate) fn windows() -> Vec<Bomb> {
    let filled =
        |name, archive| Bomb { name, archive, limits: "", says: "it is a fifo", entry: "`pipe`", allowed: u64::MAX };
    vec![
        filled("zstd with a window of 128 MiB, filled", zstd_of(27, mixed)),
        filled("xz with a dictionary of 64 MiB, filled", xz_asking(&collected(mixed), 64 << 20)),
    ]
}

/// As many entries as are taken by default, and one more.
pub(crate) fn entries() -> Vec<Bomb> {
    let archive = gzip_of(flood(1_000_001, |at| format!("{at:x}")));
    let bomb = |name| Bomb { name, archive: archive.clone(), limits: "", says: ENTRIES, entry: "`f4240`", allowed: 0 };
    vec![bomb("a million entries"), bomb("another million entries")]
}

fn zeros(out: &mut dyn Write) {
    write(out, &Tar::default().header(b'0', b"zeros", ZEROS, |_| ()).0);
    let zeros = vec![0; 1 << 20];
    (0..ZEROS >> 20).for_each(|_| write(out, &zeros));
    write(out, &[0; 1024]);
}

/// A little of it does not compress, so that the ratio is what real archives have.
fn mixed(out: &mut dyn Write) {
    const SIZE: u64 = 160 << 20;
    write(out, &Tar::default().header(b'0', b"mixed", SIZE, |_| ()).0);
    let mut rng = fastrand::Rng::with_seed(8);
    let mut piece = vec![0; 1 << 20];
    for _ in 0..SIZE >> 20 {
        rng.fill(&mut piece[..12_000]);
        write(out, &piece);
    }
    write(out, &Tar::default().entry(b'6', b"pipe", b"", |_| ()).end());
}

/// Empty files.
fn flood(count: usize, name: impl Fn(usize) -> String) -> impl Fn(&mut dyn Write) {
    move |out| {
        for at in 0..count {
            let name = name(at);
            let plain = name.len() <= 100 && !name.contains('/');
            let tar = if plain {
                Tar::default().file(&name, b"")
            } else {
                Tar::default().pax(&[("path", &name)]).file("x", b"")
            };
            write(out, &tar.0);
        }
        write(out, &[0; 1024]);
    }
}

fn targets(count: usize) -> impl Fn(&mut dyn Write) {
    move |out| {
        let target = "t/".repeat(2000);
        for at in 0..count {
            write(out, &Tar::default().long(b'K', target.as_bytes()).symlink(&format!("l{at}"), "t").0);
        }
        write(out, &[0; 1024]);
    }
}

fn headers(count: usize) -> impl Fn(&mut dyn Write) {
    move |out| {
        let comment = "c".repeat((1 << 20) - 100);
        for at in 0..count {
            write(out, &Tar::default().pax(&[("comment", &comment)]).file(&format!("f{at}"), b"").0);
        }
        write(out, &[0; 1024]);
    }
}

fn write(out: &mut dyn Write, bytes: &[u8]) {
    out.write_all(bytes).unwrap();
}

fn collected(content: impl Fn(&mut dyn Write)) -> Vec<u8> {
    let mut bytes = Vec::new();
    content(&mut bytes);
    bytes
}

fn gzip_of(content: impl Fn(&mut dyn Write)) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    content(&mut out);
    out.finish().unwrap()
}

fn bzip2_of(content: impl Fn(&mut dyn Write)) -> Vec<u8> {
    let mut out = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    content(&mut out);
    out.finish().unwrap()
}

/// Asks for a window of 2 to the power of `window`.
fn zstd_of(window: u32, content: impl Fn(&mut dyn Write)) -> Vec<u8> {
    let mut out = zstd::Encoder::new(Vec::new(), 1).unwrap();
    out.window_log(window).unwrap();
    content(&mut out);
    out.finish().unwrap()
}
