//! Headers that are damaged, and headers that contradict each other, so that two readers see two archives.

use tar::Header;

use super::builder::{Tar, set_link};
use super::{Case, refused, taken, tar};

pub(super) fn cases() -> Vec<Case> {
    [numbers(), checksums(), sizes(), mixed(), records(), globals()].into_iter().flatten().collect()
}

fn numbers() -> Vec<Case> {
    let number = |name, field: fn(&mut Header)| {
        refused(name, tar().entry(b'0', b"bad", b"", field).end(), "Malformed/Number", "`bad`")
    };
    vec![
        number("a size with a letter", |h| h.as_old_mut().size.copy_from_slice(b"0000000000x\0")),
        number("a size with an 8", |h| h.as_old_mut().size.copy_from_slice(b"00000000008\0")),
        number("a size with a sign", |h| h.as_old_mut().size.copy_from_slice(b"-0000000001\0")),
        number("a size with a plus", |h| h.as_old_mut().size.copy_from_slice(b"+0000000001\0")),
        number("a size with a tab", |h| h.as_old_mut().size.copy_from_slice(b"\t0000000001\0")),
        number("a size in hexadecimal", |h| h.as_old_mut().size.copy_from_slice(b"0x000000001\0")),
        number("a size with digits after its end", |h| h.as_old_mut().size.copy_from_slice(b"1\x0000000000\x002")),
        number("a size below zero", |h| h.as_old_mut().size.copy_from_slice(&[0xff; 12])),
        number("the least size of 64 bits", |h| {
            h.as_old_mut().size.copy_from_slice(b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0")
        }),
        number("a size of 65 bits", |h| h.as_old_mut().size.copy_from_slice(b"\x80\0\0\x01\0\0\0\0\0\0\0\0")),
        number("a size of 88 bits", |h| h.as_old_mut().size.copy_from_slice(b"\x80\x01\0\0\0\0\0\0\0\0\0\0")),
        number("a size of neither form", |h| h.as_old_mut().size.copy_from_slice(b"\x81\0\0\0\0\0\0\0\0\0\0\0")),
        number("the largest size, with no whole blocks", |h| {
            h.as_old_mut().size.copy_from_slice(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff");
            // Beyond 63 bits once more.
            h.as_old_mut().mtime.copy_from_slice(b"\x80\x01\0\0\0\0\0\0\0\0\0\0");
        }),
        number("a time in words", |h| h.as_old_mut().mtime.copy_from_slice(b"yesterday...")),
        number("a time beyond all years", |h| {
            h.as_old_mut().mtime.copy_from_slice(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff")
        }),
        number("a mode in letters", |h| h.as_old_mut().mode.copy_from_slice(b"rwxr-xr-")),
        number("a user that is none", |h| h.as_old_mut().uid.copy_from_slice(b"\x80\0\0\0\xff\xff\xff\xff")),
        number("a user of 33 bits", |h| h.as_old_mut().uid.copy_from_slice(b"\x80\0\0\x01\0\0\0\0")),
        number("a group below zero", |h| h.as_old_mut().gid.copy_from_slice(&[0xff; 8])),
        refused(
            "a file of 8 EiB",
            tar()
                .entry(b'0', b"bad", b"", |h| {
                    h.as_old_mut().size.copy_from_slice(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xfe\0")
                })
                .end(),
            "Refused/Bytes",
            "`bad`",
        ),
        taken(
            "blank numbers",
            tar().entry(b'0', b"blank", b"", |h| h.as_old_mut().size.fill(b' ')).end(),
            &["blank", "first"],
        ),
        taken(
            "numbers of base 256",
            tar()
                .entry(b'0', b"f", b"x", |h| h.as_old_mut().size.copy_from_slice(b"\x80\0\0\0\0\0\0\0\0\0\0\x01"))
                .end(),
            &["f", "first"],
        ),
        taken(
            "a time before the epoch",
            tar().entry(b'0', b"f", b"", |h| h.as_old_mut().mtime.copy_from_slice(&[0xff; 12])).end(),
            &["f", "first"],
        ),
    ]
}

fn checksums() -> Vec<Case> {
    let spoilt = |spoil: fn(&mut [u8])| {
        let mut bytes = tar().file("second \u{e9}", b"2").end();
        spoil(&mut bytes[1024..1536]);
        bytes
    };
    const KIND: &str = "Malformed/Checksum";
    vec![
        refused("a bit flipped", spoilt(|block| block[124] ^= 1), KIND, "second"),
        refused("a name changed", spoilt(|block| block[0] = b'S'), KIND, "Second"),
        refused("a blank checksum", spoilt(|block| block[148..156].fill(b' ')), KIND, "second"),
        refused(
            "a checksum that is no number",
            spoilt(|block| block[148..156].copy_from_slice(b"checksum")),
            KIND,
            "second",
        ),
        taken(
            "a checksum of signed bytes",
            spoilt(|block| {
                block[148..156].fill(b' ');
                let sum: i64 = block.iter().map(|&b| i64::from(b.cast_signed())).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }),
            &["first", "second \u{e9}"],
        ),
    ]
}

fn sizes() -> Vec<Case> {
    const SIZE: &str = "Malformed/Size";
    const CONTENT: &str = "Malformed/Content";
    // As of CVE-2025-62518: one reader goes by 0 bytes, the other by the extended header's, and they see different
    // entries in what follows.
    let inner = Tar::default().file("smuggled", b"").0;
    let length = inner.len().to_string();
    let with_content = |flag: u8| tar().entry(flag, b"bad", b"content", |header| set_link(header, b"x")).end();
    vec![
        refused(
            "a size in the extended header alone",
            tar().pax(&[("size", &length)]).header(b'0', b"nested", 0, |_| ()).raw(&inner).end(),
            SIZE,
            "`nested`",
        ),
        refused(
            "a size in the header alone",
            tar().pax(&[("size", "0")]).file("nested", &inner).end(),
            SIZE,
            "`nested`",
        ),
        refused(
            "a larger one in the extended header",
            tar().pax(&[("size", "2048")]).file("nested", &inner[..512]).raw(&inner).end(),
            SIZE,
            "`nested`",
        ),
        refused(
            "a size in both, one in base 256",
            tar()
                .pax(&[("size", "1")])
                .entry(b'0', b"nested", b"xy", |h| h.as_old_mut().size.copy_from_slice(b"\x80\0\0\0\0\0\0\0\0\0\0\x02"))
                .end(),
            SIZE,
            "`nested`",
        ),
        refused(
            "a size of an extended header for a directory",
            tar().pax(&[("size", &length)]).header(b'5', b"nested", 0, |_| ()).raw(&inner).end(),
            SIZE,
            "`nested`",
        ),
        refused(
            "a size beyond octal in the extended header",
            tar().pax(&[("size", "9000000000000000000")]).file("nested", b"").end(),
            "Refused/Bytes",
            "`nested`",
        ),
        refused(
            "a size that ends beyond 64 bits",
            tar().pax(&[("size", "18446744073709551615")]).file("nested", b"").end(),
            "Malformed/Number",
            "`nested`",
        ),
        refused("a symlink with content", with_content(b'2'), CONTENT, "`bad`"),
        refused("a directory with content", with_content(b'5'), CONTENT, "`bad`"),
        refused("a fifo with content", with_content(b'6'), CONTENT, "`bad`"),
        refused("a device with content", with_content(b'3'), CONTENT, "`bad`"),
        taken("a size in both", tar().pax(&[("size", "2")]).file("f", b"xy").end(), &["f", "first"]),
    ]
}

/// Extended headers of several kinds or several times.
fn mixed() -> Vec<Case> {
    const MIXED: &str = "Malformed/Mixed";
    const DANGLING: &str = "Malformed/Dangling";
    let a = || tar().pax(&[("path", "a")]);
    vec![
        refused("a path, then a long name", a().long(b'L', b"b").file("c", b"").end(), MIXED, "`a`"),
        refused(
            "a long name, then a path",
            tar().long(b'L', b"b").pax(&[("path", "a")]).file("c", b"").end(),
            MIXED,
            "`b`",
        ),
        refused(
            "a long link, then an extended header",
            tar().long(b'K', b"b").pax(&[("path", "a")]).symlink("c", "d").end(),
            MIXED,
            "PaxHeaders/x",
        ),
        refused("two long names", tar().long(b'L', b"a").long(b'L', b"b").file("c", b"").end(), MIXED, "`a`"),
        refused("two long links", tar().long(b'K', b"a").long(b'K', b"b").symlink("c", "d").end(), MIXED, "LongLink"),
        refused("two extended headers", a().pax(&[("path", "b")]).file("c", b"").end(), MIXED, "`a`"),
        refused("two extended headers that say the same", a().pax(&[("path", "a")]).file("c", b"").end(), MIXED, "`a`"),
        refused("a global header in between", a().global(&[("comment", "x")]).file("c", b"").end(), MIXED, "`a`"),
        refused(
            "an extended header with a name of its own",
            tar().long(b'L', b"n").entry(b'x', b"p", b"", |_| ()).file("c", b"").end(),
            MIXED,
            "`n`",
        ),
        refused("an extended header at the end", a().end(), DANGLING, "PaxHeaders/x"),
        refused("a long name at the end", tar().long(b'L', b"a").end(), DANGLING, "LongLink"),
        refused("a long link at the end", tar().long(b'K', b"a").end(), DANGLING, "LongLink"),
        taken(
            "a long name and a long link",
            tar().long(b'L', b"a").long(b'K', b"first").symlink("c", "d").end(),
            &["a", "first"],
        ),
        taken(
            "a long link and a long name",
            tar().long(b'K', b"first").long(b'L', b"a").symlink("c", "d").end(),
            &["a", "first"],
        ),
    ]
}

fn records() -> Vec<Case> {
    const RECORD: &str = "Malformed/Record";
    const VALUE: &str = "Malformed/Value";
    const X: &str = "PaxHeaders/x";
    let raw = |name, content: &[u8]| refused(name, tar().extended(content).file("c", b"").end(), RECORD, X);
    let value = |name, key: &str, value: &str| refused(name, tar().pax(&[(key, value)]).file("c", b"").end(), VALUE, X);
    let twice = |name, key: &str, one: &str, other: &str| {
        refused(name, tar().pax(&[(key, one), (key, other)]).file("c", b"").end(), "Malformed/Twice", X)
    };
    vec![
        raw("a record longer than said", b"9 path=abc\n"),
        raw("a record shorter than said", b"99 path=a\n"),
        raw("a record of no length", b"path=a\n"),
        raw("a record of length 0", b"0 path=a\n"),
        raw("a record shorter than its length's digits", b"1 path=a\n"),
        raw("a record with a sign", b"+10 path=a\n"),
        raw("a record with a space first", b" 10 path=a\n"),
        raw("a record of 65 bits", b"18446744073709551626 path=a\n"),
        raw("a record with no line break", b"9 path=a"),
        raw("a record with no key", b"5 =x\n"),
        raw("a record with no value", b"7 path\n"),
        raw("a record that ends in the next one", b"12 path=a\n10 path=b\n"),
        raw("zeros after the records", b"10 path=a\n\0\0"),
        refused(
            "records beyond a mebibyte",
            tar().extended(&vec![b'1'; (1 << 20) + 1]).file("c", b"").end(),
            "Malformed/TooLong",
            X,
        ),
        value("a size that is no number", "size", "1x"),
        value("a size below zero, extended", "size", "-1"),
        value("a size with a plus, extended", "size", "+1"),
        value("no size", "size", ""),
        value("a time that is no number", "mtime", "nan"),
        value("a time with an exponent", "mtime", "1e9"),
        value("a user that is none, extended", "uid", "4294967295"),
        value("a group below zero, extended", "gid", "-1"),
        value("an empty link path", "linkpath", ""),
        refused(
            "a time beyond all years, extended",
            tar().pax(&[("mtime", "9223372036854775807")]).file("c", b"").end(),
            "Malformed/Number",
            "`c`",
        ),
        twice("two paths", "path", "a", "b"),
        twice("two sizes", "size", "0", "1"),
        twice("two link paths", "linkpath", "a", "b"),
        twice("two times", "mtime", "1", "2"),
        taken("one path twice", tar().pax(&[("path", "a"), ("path", "a")]).file("c", b"").end(), &["a", "first"]),
        taken(
            "a path with an equals sign and a line break",
            tar().pax(&[("path", "a=b\nc")]).file("c", b"").end(),
            &["a=b\\nc", "first"],
        ),
        taken(
            "keys of others",
            tar().pax(&[("VENDOR.size", "99"), ("hdrcharset", "BINARY"), ("Path", "x")]).file("c", b"").end(),
            &["c", "first"],
        ),
        taken("an extended header that says nothing", tar().extended(b"").file("c", b"").end(), &["c", "first"]),
    ]
}

fn globals() -> Vec<Case> {
    let global = |name, key: &str, value: &str| {
        refused(name, tar().global(&[(key, value)]).file("c", b"").end(), "Malformed/Global", "pax_global_header")
    };
    vec![
        global("a path for all", "path", "../x"),
        global("a link path for all", "linkpath", "/etc/passwd"),
        global("a size for all", "size", "0"),
        global("a sparse file's size for all", "GNU.sparse.realsize", "9"),
        global("a sparse file's name for all", "GNU.sparse.name", "../x"),
        refused(
            "a global header that is broken",
            tar().entry(b'g', b"global", b"9 x=y\n", |_| ()).file("c", b"").end(),
            "Malformed/Record",
            "`global`",
        ),
        refused(
            "a user that is none, for all",
            tar().global(&[("uid", "4294967295")]).file("c", b"").end(),
            "Malformed/Value",
            "pax_global_header",
        ),
        taken("a comment for all", tar().global(&[("comment", "0123")]).file("c", b"").end(), &["c", "first"]),
        taken(
            "a time for all, twice",
            tar().global(&[("mtime", "1")]).global(&[("mtime", "2")]).file("c", b"").end(),
            &["c", "first"],
        ),
        taken("a global header at the end", tar().global(&[("comment", "x")]).end(), &["first"]),
    ]
}
