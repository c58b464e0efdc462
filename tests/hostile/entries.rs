//! Entries of kinds and modes that no tree has, and archives that end too early, too late or not at all.

use super::builder::Tar;
use super::{Case, nameless, refused, taken, tar};

pub(super) fn cases() -> Vec<Case> {
    [kinds(), modes(), ends()].into_iter().flatten().collect()
}

fn kinds() -> Vec<Case> {
    const SPECIAL: &str = "Refused/Special";
    const TYPE: &str = "Malformed/Type";
    let of = |flag: u8| tar().entry(flag, b"dev/odd", b"", |_| ()).end();
    let kind = |name, flag, kind| refused(name, of(flag), kind, "dev/odd");
    vec![
        kind("a character device", b'3', SPECIAL),
        kind("a block device", b'4', SPECIAL),
        kind("a fifo", b'6', SPECIAL),
        kind("a socket, as some write it", b's', TYPE),
        kind("a directory of an incremental dump", b'D', TYPE),
        kind("the rest of a file from another volume", b'M', TYPE),
        kind("a name list of an old GNU tar", b'N', TYPE),
        kind("an extended header of Solaris", b'X', TYPE),
        kind("an access control list of Solaris", b'A', TYPE),
        kind("an inode of star", b'I', TYPE),
        kind("a type of nobody", 0xff, TYPE),
        kind("a type that is a space", b' ', TYPE),
        refused(
            "a device with numbers",
            tar()
                .entry(b'3', b"dev/odd", b"", |header| {
                    header.set_device_major(1).unwrap();
                    header.set_device_minor(3).unwrap();
                })
                .end(),
            SPECIAL,
            "dev/odd",
        ),
        refused(
            "a volume's label that an extended header names",
            tar().pax(&[("path", "x")]).entry(b'V', b"v", b"", |_| ()).end(),
            TYPE,
            "`x`",
        ),
        taken("a file of contiguous blocks", tar().entry(b'7', b"c", b"x", |_| ()).end(), &["c", "first"]),
        taken("a file of the oldest kind", tar().entry(0, b"c", b"x", |_| ()).end(), &["c", "first"]),
        taken("a directory of the oldest kind", tar().entry(0, b"c/", b"", |_| ()).end(), &["c", "first"]),
        taken("a volume's label", Tar::default().entry(b'V', b"label", b"", |_| ()).file("f", b"").end(), &["f"]),
    ]
}

fn modes() -> Vec<Case> {
    let of = |flag: u8, mode: u32| tar().entry(flag, b"su", b"", |header| header.set_mode(mode)).end();
    let closed = |mode| {
        let within = |tar: Tar, name: &[u8]| tar.entry(b'5', name, b"", |header| header.set_mode(mode));
        let tar = within(within(tar(), b"su/"), b"su/d/");
        tar.file("su/d/f", b"2").file("su/f", b"3").end()
    };
    let kind = "Refused/SetId";
    vec![
        refused("a set-user-id file", of(b'0', 0o4755), kind, "`su`"),
        refused("a set-group-id file", of(b'0', 0o2755), kind, "`su`"),
        refused("a set-user-id file that nobody may run", of(b'0', 0o4644), kind, "`su`"),
        refused("a set-group-id directory", of(b'5', 0o2775), kind, "`su`"),
        taken("a sticky directory", of(b'5', 0o1777), &["first", "su"]),
        taken("a directory that nobody may enter, with entries", closed(0), &["first", "su", "su/d", "su/d/f", "su/f"]),
        taken(
            "a directory that nobody may write, with entries",
            closed(0o555),
            &["first", "su", "su/d", "su/d/f", "su/f"],
        ),
        taken("a mode with the bits of a file's kind", of(b'0', 0o100_644), &["first", "su"]),
        taken(
            "a file capability",
            tar().pax(&[("SCHILY.xattr.security.capability", "\u{1}\0")]).file("su", b"").end(),
            &["first", "su"],
        ),
    ]
}

fn ends() -> Vec<Case> {
    let file = || tar().file("last", b"x");
    let more = |more: &[u8]| file().raw(&[0; 1024]).raw(more).0;
    const TRAILING: &str = "TrailingBytes";
    vec![
        refused("garbage after the end", more(b"garbage"), TRAILING, "`last`"),
        refused("one byte far after the end", more(&[&vec![0; 1 << 20][..], b"x"].concat()), TRAILING, "`last`"),
        refused("an archive after an archive", more(&tar().file("hidden", b"").end()), TRAILING, "`last`"),
        refused(
            "an entry after one block of zeros",
            file().raw(&[0; 512]).file("hidden", b"").end(),
            TRAILING,
            "`last`",
        ),
        refused("garbage where a header belongs", file().raw(&[b'g'; 512]).end(), "Malformed/Checksum", "gggg"),
        refused("no end", file().0, "Truncated", "`last`"),
        refused("half a block of an end", file().raw(&[0; 256]).0, "Truncated", "`last`"),
        refused(
            "an end within a file",
            tar().header(b'0', b"last", 4096, |_| ()).raw(&[1; 100]).0,
            "Truncated",
            "`last`",
        ),
        refused(
            "an end within what fills a block",
            tar().header(b'0', b"last", 100, |_| ()).raw(&[1; 100]).0,
            "Truncated",
            "`last`",
        ),
        refused(
            "an end within an extended header",
            tar().pax(&[("path", "x")]).0[..1024 + 600].to_vec(),
            "Truncated",
            "PaxHeaders/x",
        ),
        refused(
            "a file larger than the archive",
            tar().header(b'0', b"last", 1 << 33, |_| ()).raw(&[0; 2048]).0,
            "Truncated",
            "`last`",
        ),
        nameless("nothing", Tar::default().end(), "Empty"),
        taken("one block of an end", file().raw(&[0; 512]).0, &["first", "last"]),
        taken("an end that is no whole block", file().raw(&[0; 700]).0, &["first", "last"]),
        taken("a mebibyte of end", file().raw(&vec![0; 1 << 20]).0, &["first", "last"]),
    ]
}
