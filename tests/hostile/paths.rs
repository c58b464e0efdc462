//! Names that lead out, that cannot be, and that only look as if they did.

use super::builder::Tar;
use super::{Case, refused, taken, tar};

const ABSOLUTE: &str = "Refused/Path/Absolute";
const PARENT: &str = "Refused/Path/Parent";

pub(super) fn cases() -> Vec<Case> {
    [leading_out(), by_other_headers(), odd(), long(), kept_apart()].into_iter().flatten().collect()
}

fn leading_out() -> Vec<Case> {
    let file = |name: &str| tar().file(name, b"out").end();
    vec![
        refused("an absolute path", file("/tmp/seedcache-escaped/x"), ABSOLUTE, "/tmp/seedcache-escaped/x"),
        refused("an absolute directory", tar().dir("/tmp/seedcache-escaped").end(), ABSOLUTE, "/tmp/seedcache-escaped"),
        refused(
            "an absolute symlink",
            tar().symlink("/tmp/seedcache-escaped", "first").end(),
            ABSOLUTE,
            "/tmp/seedcache-escaped",
        ),
        refused("two slashes first", file("//tmp/seedcache-escaped"), ABSOLUTE, "//tmp/seedcache-escaped"),
        refused("a slash, a dot and a parent", file("/./../tmp/x"), ABSOLUTE, "/./../tmp/x"),
        refused("nothing but a slash", tar().dir("/").end(), ABSOLUTE, "`/`"),
        refused("a parent first", file("../escaped"), PARENT, "../escaped"),
        refused("many parents", file(&("../".repeat(24) + "tmp/escaped")), PARENT, "../../../"),
        refused("a parent behind a dot", file("./../escaped"), PARENT, "./../escaped"),
        refused("a parent behind slashes and dots", file(".//./..//escaped"), PARENT, ".//./..//escaped"),
        refused("two parents behind a name", file("a/../../escaped"), PARENT, "a/../../escaped"),
        refused("a parent that stays inside", file("a/../b"), PARENT, "a/../b"),
        refused("a parent last", tar().dir("a/..").end(), PARENT, "a/.."),
        refused("a parent and a slash last", tar().dir("a/../").end(), PARENT, "a/../"),
        refused("only a parent", tar().dir("..").end(), PARENT, "`..`"),
        refused("a symlink in the parent", tar().symlink("../escaped", "x").end(), PARENT, "../escaped"),
        refused("a hard link in the parent", tar().hard_link("../escaped", "first").end(), PARENT, "../escaped"),
        refused("a parent, the oldest directory", tar().entry(0, b"../d/", b"", |_| ()).end(), PARENT, "../d/"),
        refused("a control character on the way out", file("../\x1b[31m"), PARENT, "../\\u{1b}[31m"),
    ]
}

/// The same by names that stand elsewhere than in the name field.
fn by_other_headers() -> Vec<Case> {
    let prefixed = |prefix: &'static [u8], magic: bool| {
        move |header: &mut tar::Header| {
            let block = header.as_mut_bytes();
            block[257..265].copy_from_slice(if magic { b"ustar\x0000" } else { b"ustar  \0" });
            block[345..345 + prefix.len()].copy_from_slice(prefix);
        }
    };
    let with = |prefix, magic| tar().entry(b'0', b"p", b"", prefixed(prefix, magic)).end();
    let sparse = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "0")];
    let sparse = [&sparse[..], &[("GNU.sparse.name", "../sparse")]].concat();
    let map = Tar::default().content(b"0\n").0;
    vec![
        refused("a parent in an extended header", tar().pax(&[("path", "../y")]).file("y", b"").end(), PARENT, "../y"),
        refused("an absolute path in one", tar().pax(&[("path", "/y")]).file("y", b"").end(), ABSOLUTE, "/y"),
        refused("a parent in a long name", tar().long(b'L', b"../z").file("z", b"").end(), PARENT, "../z"),
        refused("a parent in a prefix", with(b"..", true), PARENT, "../p"),
        refused("an absolute prefix", with(b"/tmp", true), ABSOLUTE, "/tmp/p"),
        refused("a sparse file's own name", tar().pax(&sparse).file("x", &map).end(), PARENT, "../sparse"),
        taken("what is no prefix in a GNU header", with(b"..", false), &["first", "p"]),
    ]
}

fn odd() -> Vec<Case> {
    const NUL: &str = "Malformed/Nul";
    const SLASH: &str = "Malformed/Slash";
    vec![
        refused(
            "a NUL in an extended header",
            tar().pax(&[("path", "a\0b")]).file("n", b"").end(),
            NUL,
            "PaxHeaders/x",
        ),
        refused("a NUL in a long name", tar().long(b'L', b"a\0b").file("n", b"").end(), NUL, "LongLink"),
        taken("bytes after a NUL in a header", tar().file("n\0/../../x", b"").end(), &["first", "n"]),
        refused("no name", tar().file("", b"").end(), "Refused/NoName", "``"),
        refused("no name for a directory", tar().dir("").end(), "Refused/NoName", "``"),
        refused("an empty long name", tar().long(b'L', b"").file("x", b"").end(), "Refused/NoName", "``"),
        refused("an empty path", tar().pax(&[("path", "")]).file("x", b"").end(), "Malformed/Value", "PaxHeaders/x"),
        refused("the top as a file", tar().file(".", b"").end(), "Refused/Top", "`.`"),
        refused("the top as a symlink", tar().symlink(".", "x").end(), "Refused/Top", "`.`"),
        refused("the top as a hard link", tar().hard_link("././.", "first").end(), "Refused/Top", "`././.`"),
        taken("the top as a directory", tar().dir("./").dir(".//.").end(), &["first"]),
        refused("a file that ends in a slash", tar().file("d/", b"").end(), SLASH, "`d/`"),
        refused("a symlink that ends in a slash", tar().symlink("d/", "x").end(), SLASH, "`d/`"),
        refused("a hard link that ends in a slash", tar().hard_link("d/", "first").end(), SLASH, "`d/`"),
        taken("empty components", tar().file("a//b///c", b"").end(), &["a", "a/b", "a/b/c", "first"]),
        taken("dots between", tar().file("./a/././b", b"").end(), &["a", "a/b", "first"]),
        taken("many slashes last", tar().dir("a///").end(), &["a", "first"]),
        taken("backslashes", tar().file("..\\..\\x", b"").file("C:\\y", b"").end(), &["..\\..\\x", "C:\\y", "first"]),
        taken(
            "names of dots",
            tar().file("...", b"").file("..x/ .. ", b"").end(),
            &["...", "..x", "..x/ .. ", "first"],
        ),
        taken("dots of other scripts", tar().file("．．/x", b"").end(), &["first", "．．", "．．/x"]),
        taken("names with line breaks", tar().file("a\nb\tc", b"").end(), &["a\\nb\\tc", "first"]),
        taken(
            "names that are no UTF-8",
            tar().entry(b'0', b"\xff/\xfe\xfd", b"", |_| ()).end(),
            &["first", "\\xff", "\\xff/\\xfe\\xfd"],
        ),
    ]
}

fn long() -> Vec<Case> {
    const NAME: &str = "Refused/Path/NameTooLong";
    const PATH: &str = "Refused/Path/PathTooLong";
    let named = |name: &str| tar().pax(&[("path", name)]).file("x", b"").end();
    let of = |length: usize| {
        let mut path = ("n".repeat(200) + "/").repeat(length / 201 + 1);
        path.truncate(length);
        // No slash last.
        path.replace_range(length - 1.., "n");
        path
    };
    vec![
        taken("a name of 255 bytes", named(&"n".repeat(255)), &["first", N255]),
        refused("a name of 256 bytes", named(&"n".repeat(256)), NAME, "nnnnnnnn"),
        refused("a name of 256 bytes in the middle", named(&format!("a/{}/b", "n".repeat(256))), NAME, "a/nnnnnn"),
        refused("a path of 4,096 bytes", named(&of(4096)), PATH, "nnnnnnnn"),
        refused("a path of 65,536 bytes", named(&of(65536)), PATH, "nnnnnnnn"),
        refused(
            "a long name of 4,096 bytes",
            tar().long(b'L', of(4096).as_bytes()).file("x", b"").end(),
            PATH,
            "nnnnnnnn",
        ),
        refused(
            "a long name beyond a mebibyte",
            tar().long(b'L', &vec![b'n'; 1 << 20]).file("x", b"").end(),
            "Malformed/TooLong",
            "LongLink",
        ),
        refused("65 directories deep", named(&("d/".repeat(64) + "f")), "Refused/Depth", "d/d/d"),
        refused("2,000 directories deep", named(&("d/".repeat(2000) + "f")), "Refused/Depth", "d/d/d"),
    ]
}

const N255: &str = concat!(
    "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn",
    "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn",
    "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn",
);

/// What some file systems take for one name, and others keep apart.
struct Pair {
    name: &'static str,
    archive: Vec<u8>,
    /// Where they are kept apart.
    paths: &'static [&'static str],
    /// How the archive is refused where they are one, and the entry that is named then.
    refusal: (&'static str, &'static str),
}

fn pairs() -> Vec<Pair> {
    let of = |name, archive: Tar, paths, refusal| Pair { name, archive: archive.end(), paths, refusal };
    let pair = |name, archive, paths, second| of(name, archive, paths, ("Refused/SameName", second));
    let led_out = |name, archive, paths, link| of(name, archive, paths, ("Refused/SymlinkByOtherName", link));
    vec![
        pair("names that differ in case", tar().file("A", b"1").file("a", b"2"), &["A", "a", "first"], "`a`"),
        pair(
            "directories that differ in case",
            tar().file("D/x", b"1").file("d/x", b"2"),
            &["D", "D/x", "d", "d/x", "first"],
            "`d/x`",
        ),
        pair(
            "directories that differ in case, listed",
            tar().dir("D").file("D/x", b"1").dir("d"),
            &["D", "D/x", "d", "first"],
            "`d`",
        ),
        pair(
            "a symlink whose name differs in case from a directory",
            tar().symlink("D", "d").file("d/x", b""),
            &["D", "d", "d/x", "first"],
            "`d/x`",
        ),
        pair(
            "a symlink whose name differs in case from a file",
            tar().file("F", b"").symlink("f", "first"),
            &["F", "f", "first"],
            "`f`",
        ),
        pair(
            "a hard link whose name differs in case from a file",
            tar().file("F", b"").hard_link("f", "first"),
            &["F", "f", "first"],
            "`f`",
        ),
        pair(
            "composed and decomposed",
            tar().file("\u{e9}", b"1").file("e\u{301}", b"2"),
            &["e\u{301}", "first", "\u{e9}"],
            "`e\u{301}`",
        ),
        pair("a ligature", tar().file("\u{fb01}", b"1").file("fi", b"2"), &["fi", "first", "\u{fb01}"], "`fi`"),
        led_out(
            "a symlink by another name of one that leads up",
            tar().symlink("a/l", "..").symlink("out", "A/L/.."),
            &["a", "a/l", "first", "out"],
            "`out`",
        ),
        led_out(
            "symlinks by another name of one that leads up",
            tar().symlink("e\u{301}/l", "..").symlink("by", "\u{e9}/l").symlink("c/out", "../by/.."),
            &["by", "c", "c/out", "e\u{301}", "e\u{301}/l", "first"],
            "`c/out`",
        ),
    ]
}

/// Those that Linux nodes have keep them apart, and so does the tree.
fn kept_apart() -> Vec<Case> {
    pairs().into_iter().map(|pair| taken(pair.name, pair.archive, pair.paths)).collect()
}

/// The same archives for a store on a file system that takes them for one.
pub(crate) fn folded() -> Vec<Case> {
    let folded = |pair: Pair| refused(pair.name, pair.archive, pair.refusal.0, pair.refusal.1);
    pairs().into_iter().map(folded).collect()
}
