//! Sparse files in the four forms that GNU tar has had, with maps that lie.

use super::builder::Tar;
use super::{Case, refused, taken, tar};

const MAP: &str = "Malformed/Map";
const MIXED: &str = "Malformed/Mixed";
/// 60 GiB: below the limit on bytes, and nothing but holes.
const HUGE: &str = "64424509440";

pub(super) fn cases() -> Vec<Case> {
    [in_records(), in_content(), in_headers(), said_twice(), huge()].into_iter().flatten().collect()
}

/// Formats 0.0 and 0.1.
fn in_records() -> Vec<Case> {
    let stored = [7; 512];
    let with = |records: &[(&str, &str)]| tar().pax(records).file("holes", &stored).end();
    let listed = |name, size: &str, parts: &[(&str, &str)]| {
        let parts = parts
            .iter()
            .flat_map(|(offset, length)| [("GNU.sparse.offset", *offset), ("GNU.sparse.numbytes", *length)]);
        let records: Vec<_> = [("GNU.sparse.size", size)].into_iter().chain(parts).collect();
        refused(name, with(&records), MAP, "`holes`")
    };
    let mapped = |name, size: &str, map: &str| {
        refused(name, with(&[("GNU.sparse.size", size), ("GNU.sparse.map", map)]), MAP, "`holes`")
    };
    vec![
        listed("0.0, past the end", "600", &[("512", "512")]),
        listed("0.0, out of order", "4096", &[("512", "256"), ("0", "256")]),
        listed("0.0, overlapping", "4096", &[("0", "512"), ("256", "0")]),
        listed("0.0, more than is stored", "4096", &[("0", "1024")]),
        listed("0.0, less than is stored", "4096", &[("0", "256")]),
        listed("0.0, a part that ends within a block, then another", "4096", &[("0", "100"), ("512", "412")]),
        listed("0.0, beyond 64 bits", "18446744073709551615", &[("18446744073709551615", "512")]),
        mapped("0.1, past the end", "100", "0,512"),
        mapped("0.1, out of order", "4096", "512,256,0,256"),
        mapped("0.1, overlapping", "4096", "0,512,511,0"),
        refused(
            "0.0, an offset without a length",
            with(&[("GNU.sparse.size", "512"), ("GNU.sparse.offset", "0")]),
            MAP,
            "PaxHeaders/x",
        ),
        refused(
            "0.0, a length without an offset",
            with(&[("GNU.sparse.size", "512"), ("GNU.sparse.numbytes", "512")]),
            MAP,
            "PaxHeaders/x",
        ),
        refused(
            "0.0, two offsets",
            with(&[("GNU.sparse.offset", "0"), ("GNU.sparse.offset", "1")]),
            MAP,
            "PaxHeaders/x",
        ),
        refused(
            "0.0, another number of parts",
            with(&[
                ("GNU.sparse.size", "512"),
                ("GNU.sparse.numblocks", "2"),
                ("GNU.sparse.offset", "0"),
                ("GNU.sparse.numbytes", "512"),
            ]),
            MAP,
            "`holes`",
        ),
        refused(
            "0.1, an odd number of numbers",
            with(&[("GNU.sparse.size", "512"), ("GNU.sparse.map", "0,512,0")]),
            "Malformed/Value",
            "PaxHeaders/x",
        ),
        refused(
            "0.1, no numbers",
            with(&[("GNU.sparse.size", "512"), ("GNU.sparse.map", "")]),
            "Malformed/Value",
            "PaxHeaders/x",
        ),
        refused("0.1, no size", with(&[("GNU.sparse.map", "0,512")]), MAP, "`holes`"),
        refused(
            "0.0 and 0.1 at once",
            with(&[
                ("GNU.sparse.size", "512"),
                ("GNU.sparse.map", "0,512"),
                ("GNU.sparse.offset", "0"),
                ("GNU.sparse.numbytes", "512"),
            ]),
            MIXED,
            "`holes`",
        ),
        refused("a sparse form of star", with(&[("SCHILY.realsize", "9999")]), "Malformed/Sparse", "PaxHeaders/x"),
        refused("a sparse form of Solaris", with(&[("SUN.holesdata", " 0 512 ")]), "Malformed/Sparse", "PaxHeaders/x"),
        refused(
            "a sparse form to come",
            with(&[("GNU.sparse.major", "2"), ("GNU.sparse.minor", "0")]),
            "Malformed/Sparse",
            "`holes`",
        ),
        refused("a sparse form of half a version", with(&[("GNU.sparse.major", "1")]), "Malformed/Sparse", "`holes`"),
        refused(
            "a sparse directory",
            tar().pax(&[("GNU.sparse.size", "512")]).dir("d").end(),
            "Malformed/Content",
            "`d`",
        ),
        taken(
            "0.0",
            with(&[("GNU.sparse.size", "4096"), ("GNU.sparse.offset", "1024"), ("GNU.sparse.numbytes", "512")]),
            &["first", "holes"],
        ),
        taken("0.1", with(&[("GNU.sparse.size", "4096"), ("GNU.sparse.map", "1024,512,4096,0")]), &["first", "holes"]),
    ]
}

/// Format 1.0.
fn in_content() -> Vec<Case> {
    let with = |size: &str, map: &str| {
        let records = [
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.name", "holes"),
            ("GNU.sparse.realsize", size),
        ];
        let content = [Tar::default().content(map.as_bytes()).0, vec![7; 512]].concat();
        tar().pax(&records).file("GNUSparseFile.0/holes", &content).end()
    };
    let wrong = |name, size: &str, map: &str| refused(name, with(size, map), MAP, "`holes`");
    // The map of an older format beside that of the content: the same file to one reader, another to the next.
    let mixed = |name, older: &[(&str, &str)]| refused(name, one_hole(older), MIXED, "`holes`");
    vec![
        mixed("1.0 and 0.1 at once", &[("GNU.sparse.map", "0,1024")]),
        mixed("1.0 and 0.1 at once, of one mind", &[("GNU.sparse.map", "1024,512")]),
        mixed("1.0 and 0.0 at once", &[("GNU.sparse.offset", "0"), ("GNU.sparse.numbytes", "1024")]),
        mixed("1.0 and the number of parts of 0.0", &[("GNU.sparse.numblocks", "1")]),
        wrong("1.0, more than is stored", "4096", "1\n0\n1024\n"),
        wrong("1.0, less than is stored", "4096", "1\n0\n100\n"),
        wrong("1.0, out of order", "4096", "2\n512\n256\n0\n256\n"),
        wrong("1.0, overlapping", "4096", "2\n0\n512\n256\n0\n"),
        wrong("1.0, past the end", "100", "1\n0\n512\n"),
        wrong("1.0, beyond 64 bits", "4096", "1\n18446744073709551615\n512\n"),
        wrong("1.0, a number of 65 bits", "4096", "1\n18446744073709551616\n512\n"),
        wrong("1.0, a map that is no number", "4096", "1\nx\n512\n"),
        wrong("1.0, a map that is cut short", "4096", "1\n"),
        wrong("1.0, a map of empty lines", "4096", "\n\n"),
        wrong("1.0, a map that says to be longer than the file", "4096", "9\n0\n512\n"),
        refused("1.0, a map of 10 million parts", with("4096", "9999999\n"), "Malformed/TooLong", "`holes`"),
        taken("1.0", with("4096", "1\n1024\n512\n"), &["first", "holes"]),
    ]
}

/// The old GNU form.
fn in_headers() -> Vec<Case> {
    let stored = [7; 1024];
    let wrong = |name, size, parts: &[(u64, u64)]| {
        refused(name, tar().old_sparse("holes", size, parts, &stored).end(), MAP, "`holes`")
    };
    let with = |parts: &[(u64, u64)], changes: &[(usize, &[u8])]| {
        let mut bytes = tar().old_sparse("holes", 1 << 20, parts, &stored).0;
        for (at, change) in changes {
            bytes[1024 + at..1024 + at + change.len()].copy_from_slice(change);
        }
        let mut fixed = tar::Header::new_gnu();
        fixed.as_mut_bytes().copy_from_slice(&bytes[1024..1536]);
        fixed.set_cksum();
        bytes[1024..1536].copy_from_slice(fixed.as_bytes());
        [bytes, vec![0; 1024]].concat()
    };
    let block = |at: usize, byte: u8| with(&[(0, 1024)], &[(at, &[byte])]);
    let lies =
        |name, parts: &[(u64, u64)], changes: &[(usize, &[u8])]| refused(name, with(parts, changes), MAP, "`holes`");
    // Where the header says that blocks follow, its parts, and the same of the first of the blocks.
    let (extended, part, more, more_part) = (482, |at: usize| 386 + at * 24, 512 + 504, |at: usize| 512 + at * 24);
    let five = [(0, 0), (512, 0), (1024, 0), (1536, 0), (2048, 1024)];
    let unused: &[u8] = &[0; 24];
    let many: Vec<(u64, u64)> = (0..60).map(|at| (at * 4096, 0)).chain([(1 << 19, 1024)]).collect();
    vec![
        wrong("old, past the end", 1000, &[(0, 1024)]),
        wrong("old, out of order", 8192, &[(4096, 512), (0, 512)]),
        wrong("old, overlapping", 8192, &[(0, 1024), (512, 0)]),
        wrong("old, more than is stored", 8192, &[(0, 2048)]),
        wrong("old, less than is stored", 8192, &[(0, 512)]),
        refused("old, a map that goes on where none does", block(482, 1), MAP, "`holes`"),
        lies("old, a mark of more that is a digit", &five, &[(extended, b"1")]),
        lies("old, a mark of no more that is a digit", &[(0, 1024)], &[(extended, b"0")]),
        lies("old, another mark of more", &five, &[(extended, &[2])]),
        lies("old, a block's mark that is a digit", &five, &[(more, b"0")]),
        lies("old, blocks after a map that has ended", &five, &[(part(3), unused)]),
        lies("old, a block of nothing after a map that has ended", &five, &[(part(3), unused), (more_part(0), unused)]),
        lies("old, blocks after a block in which the map has ended", &five, &[(more, &[1])]),
        lies("old, a part without an offset", &five, &[(part(0), &[0; 12])]),
        lies("old, a part without a length", &five, &[(part(3) + 12, &[0; 12])]),
        lies("old, an offset after the map's end", &[(0, 1024)], &[(part(3), b"00000000000")]),
        refused("old, a POSIX header", block(262, 0), "Malformed/Sparse", "`holes`"),
        refused(
            "old and 0.0 at once",
            tar().pax(&[("GNU.sparse.size", "1024")]).old_sparse("holes", 8192, &[(0, 1024)], &stored).end(),
            MIXED,
            "`holes`",
        ),
        taken("old, with blocks of map", tar().old_sparse("holes", 1 << 20, &many, &stored).end(), &["first", "holes"]),
    ]
}

/// A file of format 1.0, `holes`, with more records than it takes.
fn one_hole(more: &[(&str, &str)]) -> Vec<u8> {
    let records = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "holes"),
        ("GNU.sparse.realsize", "4096"),
    ];
    let content = [Tar::default().content(b"1\n1024\n512\n").0, vec![7; 512]].concat();
    tar().pax(&[&records[..], more].concat()).file("GNUSparseFile.0/holes", &content).end()
}

/// Its size and its name stand in two records each; real archives have the second name, made up from the first.
fn said_twice() -> Vec<Case> {
    const TWICE: &str = "Malformed/Twice";
    let path = |path: &str| one_hole(&[("path", path)]);
    let named = |name, other: &str| refused(name, path(other), TWICE, "`holes`");
    let made_up = |name, other: &str| taken(name, path(other), &["first", "holes"]);
    vec![
        named("1.0, another path", "other"),
        named("1.0, a path that leads out", "../escaped"),
        named("1.0, a path that is only like a made-up one", "GNUSparseFile.x/holes"),
        made_up("1.0, the same path", "holes"),
        made_up("1.0, a made-up path", "./GNUSparseFile.4711/holes"),
        made_up("1.0, a made-up path of another directory", "before/it/was/moved/GNUSparseFile.4711/holes"),
        made_up("1.0, a made-up path that is cut", &("d/".repeat(45) + "GNUSparseF")),
        refused("1.0, two sizes", one_hole(&[("GNU.sparse.size", "8192")]), TWICE, "PaxHeaders/x"),
        taken("1.0, a size twice", one_hole(&[("GNU.sparse.size", "4096")]), &["first", "holes"]),
        refused(
            "0.1, two sizes",
            tar()
                .pax(&[
                    ("GNU.sparse.size", "4096"),
                    ("GNU.sparse.realsize", "512"),
                    ("GNU.sparse.name", "holes"),
                    ("GNU.sparse.map", "0,512"),
                ])
                .file("GNUSparseFile.0/holes", &[7; 512])
                .end(),
            TWICE,
            "PaxHeaders/x",
        ),
        refused(
            "0.1, another path",
            tar()
                .pax(&[
                    ("path", "other"),
                    ("GNU.sparse.size", "512"),
                    ("GNU.sparse.name", "holes"),
                    ("GNU.sparse.map", "0,512"),
                ])
                .file("x", &[7; 512])
                .end(),
            TWICE,
            "`holes`",
        ),
    ]
}

fn huge() -> Vec<Case> {
    let new = |size: &str| {
        let records = [
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.name", "holes"),
            ("GNU.sparse.realsize", size),
        ];
        tar().pax(&records).file("x", &Tar::default().content(b"0\n").0).end()
    };
    vec![
        refused("a hole of 60 GiB", new(HUGE), "Refused/Ratio", "`holes`"),
        refused("a hole of 16 EiB", new("18446744073709551615"), "Refused/Bytes", "`holes`"),
        refused(
            "a hole of 60 GiB, 0.1",
            tar().pax(&[("GNU.sparse.size", HUGE), ("GNU.sparse.map", &format!("{HUGE},0"))]).file("holes", b"").end(),
            "Refused/Ratio",
            "`holes`",
        ),
        // The most that twelve octal digits say is 8 GiB.
        refused(
            "a hole of 8 GiB, old",
            tar().old_sparse("holes", (8 << 30) - 1, &[((8 << 30) - 1, 0)], b"").end(),
            "Refused/Ratio",
            "`holes`",
        ),
        taken("a hole of 8 MiB", new("8388608"), &["first", "holes"]),
    ]
}
