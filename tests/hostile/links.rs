//! Links that lead out, alone or together, and entries that go through them.

use super::builder::{Tar, set_link};
use super::{Case, refused, taken, tar};

const ESCAPES: &str = "Refused/SymlinkEscapes";
const BELOW: &str = "Refused/BelowSymlink";
const DUPLICATE: &str = "Refused/Duplicate";
const NO_FILE: &str = "Refused/HardLinkTarget";

pub(super) fn cases() -> Vec<Case> {
    [symlinks(), chains(), through(), replaced(), hard_links()].into_iter().flatten().collect()
}

fn symlinks() -> Vec<Case> {
    let link = |target: &str| tar().symlink("out", target).end();
    let deep = |target: &str| tar().symlink("d/e/out", target).end();
    vec![
        refused("a symlink to the root", link("/"), ESCAPES, "`out`"),
        refused("a symlink to a file of the system", link("/etc/passwd"), ESCAPES, "`out`"),
        refused("a symlink to two slashes", link("//etc"), ESCAPES, "`out`"),
        refused("a symlink to the parent", link(".."), ESCAPES, "`out`"),
        refused("a symlink to the parent with a slash", link("../"), ESCAPES, "`out`"),
        refused("a symlink to what is beside the tree", link("../escaped"), ESCAPES, "`out`"),
        refused("a symlink out by way of a name", link("a/../../b"), ESCAPES, "`out`"),
        refused("a symlink out behind a dot", link("./../x"), ESCAPES, "`out`"),
        refused("a symlink out and in again", link("../tree/first"), ESCAPES, "`out`"),
        refused("a deep symlink out", deep("../../../x"), ESCAPES, "`d/e/out`"),
        refused("a deep symlink far out", deep(&"../".repeat(30)), ESCAPES, "`d/e/out`"),
        refused(
            "a symlink out by an extended header",
            tar().pax(&[("linkpath", "../x")]).symlink("out", "first").end(),
            ESCAPES,
            "`out`",
        ),
        refused(
            "a symlink out by a long link",
            tar().long(b'K', b"/x").symlink("out", "first").end(),
            ESCAPES,
            "`out`",
        ),
        refused("a symlink to nothing", link(""), "Refused/SymlinkTarget", "`out`"),
        refused(
            "a symlink longer than the system takes",
            tar().long(b'K', "t/".repeat(2048).as_bytes()).symlink("out", "t").end(),
            "Refused/SymlinkTarget",
            "`out`",
        ),
        refused(
            "a symlink with a NUL",
            tar().pax(&[("linkpath", "a\0b")]).symlink("out", "t").end(),
            "Malformed/Nul",
            "PaxHeaders/x",
        ),
        taken("a symlink to the top", deep("../.."), &["d", "d/e", "d/e/out", "first"]),
        taken("a symlink to where it lies", link("."), &["first", "out"]),
        taken("a symlink to itself", link("out"), &["first", "out"]),
        taken("two symlinks to each other", tar().symlink("a", "b").symlink("b", "a").end(), &["a", "b", "first"]),
        taken("a symlink in itself", link("out/.."), &["first", "out"]),
        taken("a symlink to what is not there", link("nowhere/../else"), &["first", "out"]),
        taken(
            "symlinks whose targets are no UTF-8",
            tar()
                .entry(b'2', b"out", b"", |header| set_link(header, b"\xff\xfe/x"))
                .long(b'K', &[&b"\x80"[..], &[0xfd; 150]].concat())
                .symlink("long", "x")
                .end(),
            &["first", "long", "out"],
        ),
        taken("a symlink with backslashes", link("..\\..\\etc"), &["first", "out"]),
    ]
}

/// Symlinks of which each leads inside, taken as it is written.
fn chains() -> Vec<Case> {
    let up = || tar().dir("a").dir("a/b").symlink("a/b/up", "../..");
    let mut doubling = tar().symlink("l0", "./.");
    for n in 1..40 {
        doubling = doubling.symlink(&format!("l{n}"), &format!("l{0}/l{0}", n - 1));
    }
    let many = |links: usize| {
        let mut chain = tar().dir("d").symlink("d/l0", "..");
        for n in 1..links {
            chain = chain.symlink(&format!("d/l{n}"), &format!("l{}", n - 1));
        }
        chain.symlink("out", &format!("d/l{}/../x", links - 1)).end()
    };
    vec![
        refused("two symlinks", up().symlink("out", "a/b/up/../etc").end(), ESCAPES, "`out`"),
        refused(
            "two symlinks, the first last",
            tar().symlink("out", "a/b/up/..").symlink("a/b/up", "../..").end(),
            ESCAPES,
            "`out`",
        ),
        refused("three symlinks", up().symlink("c", "a/b/up").symlink("out", "c/..").end(), ESCAPES, "`out`"),
        refused(
            "a symlink to its own directory",
            tar().symlink("d", ".").symlink("e/out", "../d/..").end(),
            ESCAPES,
            "`e/out`",
        ),
        refused("a chain of 39", many(39), ESCAPES, "`out`"),
        // Linux follows 40, some programs as many as there are.
        refused("a chain of 200", many(200), ESCAPES, "`out`"),
        refused(
            "one symlink 300 times",
            tar().symlink("l", ".").long(b'K', ("l/".repeat(300) + "../x").as_bytes()).symlink("out", "t").end(),
            ESCAPES,
            "`out`",
        ),
        refused("a short way along a path too long to resolve", too_long_to_resolve(), ESCAPES, "`out`"),
        refused("a maze of 2 to the 40th ways", doubling.end(), "Refused/Maze", "`l"),
        taken(
            "a chain that stays inside",
            up().symlink("in", "a/b/up/first").end(),
            &["a", "a/b", "a/b/up", "first", "in"],
        ),
        taken(
            "a chain into a loop",
            tar().symlink("loop", "loop/..").symlink("in", "loop/first").end(),
            &["first", "in", "loop"],
        ),
    ]
}

/// A symlink that leads down to where no path fits any more, and up and out from there: who gives up to resolve it half-way
/// sees nothing wrong.
fn too_long_to_resolve() -> Vec<u8> {
    const LEVELS: usize = 16;
    let (name, mut at, mut tar) = ("d".repeat(247), String::new(), tar());
    for _ in 0..LEVELS {
        // A GNU long name is the next header's.
        tar = tar.long(b'L', format!("{at}{name}/").as_bytes()).dir("d");
        tar = tar.long(b'L', format!("{at}s").as_bytes()).long(b'K', name.as_bytes()).symlink("s", "d");
        at = format!("{at}{name}/");
    }
    let target = format!("{}{}/{}x", "s/".repeat(LEVELS), "l".repeat(254), "../".repeat(LEVELS + 2));
    tar.long(b'K', target.as_bytes()).symlink("out", "d").end()
}

/// Entries below symlinks.
fn through() -> Vec<Case> {
    let d = || tar().dir("d").symlink("link", "d");
    vec![
        refused("a file through a symlink", d().file("link/x", b"x").end(), BELOW, "link/x"),
        refused("a directory through a symlink", d().dir("link/x/y").end(), BELOW, "link/x/y"),
        refused("a symlink through a symlink", d().symlink("link/x", "y").end(), BELOW, "link/x"),
        refused("a hard link through a symlink", d().hard_link("link/x", "first").end(), BELOW, "link/x"),
        refused(
            "a file through a symlink to nothing",
            tar().symlink("link", "x").file("link/x", b"").end(),
            BELOW,
            "link/x",
        ),
        refused(
            "a file through two symlinks",
            d().symlink("other", "link").file("other/x", b"").end(),
            BELOW,
            "other/x",
        ),
        refused(
            "a file through the top's other name",
            tar().symlink("link", ".").file("link/x", b"").end(),
            BELOW,
            "link/x",
        ),
        refused("a file below a file", tar().file("first/x", b"").end(), "Refused/BelowFile", "first/x"),
        refused(
            "a file below a hard link",
            tar().hard_link("second", "first").file("second/x", b"").end(),
            "Refused/BelowFile",
            "second/x",
        ),
        refused(
            "a symlink out, then a file through it",
            tar().symlink("out", "/tmp/seedcache-escaped").file("out/x", b"").end(),
            ESCAPES,
            "`out`",
        ),
    ]
}

/// One name twice.
fn replaced() -> Vec<Case> {
    vec![
        refused("a file twice", tar().file("first", b"2").end(), DUPLICATE, "`first`"),
        refused("the same file twice", tar().file("first", b"1").end(), DUPLICATE, "`first`"),
        refused("a file by two spellings", tar().file("./first", b"2").end(), DUPLICATE, "./first"),
        refused("a file, then a directory", tar().dir("first").end(), DUPLICATE, "`first`"),
        refused("a file, then a symlink", tar().symlink("first", "x").end(), DUPLICATE, "`first`"),
        refused("a file, then a hard link", tar().file("x", b"").hard_link("x", "first").end(), DUPLICATE, "`x`"),
        refused("a directory, then a file", tar().dir("d").file("d", b"").end(), DUPLICATE, "`d`"),
        refused(
            "a directory that no entry lists, then a file",
            tar().file("d/x", b"").file("d", b"").end(),
            DUPLICATE,
            "`d`",
        ),
        refused("a directory, then a symlink", tar().dir("d").symlink("d", "first").end(), DUPLICATE, "`d`"),
        refused(
            "a directory, a symlink and a directory again",
            tar().dir("d").file("d/x", b"").symlink("d", "e").dir("d").file("d/y", b"").end(),
            DUPLICATE,
            "`d`",
        ),
        refused(
            "a symlink, then a directory",
            tar().symlink("l", "d").dir("l").file("l/x", b"").end(),
            DUPLICATE,
            "`l`",
        ),
        refused("a symlink, then a file", tar().symlink("l", "first").file("l", b"2").end(), DUPLICATE, "`l`"),
        refused("a symlink twice", tar().symlink("l", "first").symlink("l", "first").end(), DUPLICATE, "`l`"),
        refused(
            "a symlink, then one to elsewhere",
            tar().symlink("l", "first").symlink("l", "d").end(),
            DUPLICATE,
            "`l`",
        ),
        refused(
            "a symlink, then one that leads out",
            tar().symlink("l", "first").symlink("l", "/etc").end(),
            ESCAPES,
            "`l`",
        ),
        refused("a symlink, then a hard link", tar().symlink("l", "x").hard_link("l", "first").end(), DUPLICATE, "`l`"),
        refused("a hard link twice", tar().hard_link("h", "first").hard_link("h", "first").end(), DUPLICATE, "`h`"),
        refused(
            "a hard link's file, then a symlink",
            tar().hard_link("h", "first").symlink("first", "h").end(),
            DUPLICATE,
            "`first`",
        ),
        taken("a directory twice", tar().dir("d").file("d/x", b"").dir("./d/").end(), &["d", "d/x", "first"]),
    ]
}

fn hard_links() -> Vec<Case> {
    let link = |target: &str| tar().hard_link("h", target).end();
    let content = |header: &mut tar::Header| set_link(header, b"first");
    vec![
        refused("a hard link to an absolute path", link("/etc/passwd"), "Refused/HardLinkPath/Absolute", "`h`"),
        refused("a hard link out", link("../first"), "Refused/HardLinkPath/Parent", "`h`"),
        refused("a hard link out and in", link("a/../first"), "Refused/HardLinkPath/Parent", "`h`"),
        refused("a hard link to no name", link(""), "Refused/HardLinkPath/Empty", "`h`"),
        refused("a hard link to the top", link("./"), "Refused/HardLinkPath/Empty", "`h`"),
        refused(
            "a hard link out by an extended header",
            tar().pax(&[("linkpath", "/etc/passwd")]).hard_link("h", "first").end(),
            "Refused/HardLinkPath/Absolute",
            "`h`",
        ),
        refused(
            "a hard link out by a long link",
            tar().long(b'K', b"../x").hard_link("h", "first").end(),
            "Refused/HardLinkPath/Parent",
            "`h`",
        ),
        refused(
            "a hard link to a symlink, which from there leads out",
            tar().symlink("d/l", "../first").hard_link("h", "d/l").end(),
            ESCAPES,
            "`h`",
        ),
        refused(
            "a hard link to a symlink, which from there leads out by another",
            tar().symlink("d/e", "..").symlink("a/b/l", "e/../first").hard_link("d/h", "a/b/l").end(),
            ESCAPES,
            "`d/h`",
        ),
        refused("a hard link to a directory", tar().dir("d").hard_link("h", "d").end(), NO_FILE, "`h`"),
        refused("a hard link to what comes later", tar().hard_link("h", "x").file("x", b"").end(), NO_FILE, "`h`"),
        refused("a hard link to itself", link("h"), NO_FILE, "`h`"),
        refused(
            "a hard link to what is behind a symlink",
            tar().file("d/x", b"").symlink("l", "d").hard_link("h", "l/x").end(),
            NO_FILE,
            "`h`",
        ),
        refused("a hard link through a file", link("first/x"), NO_FILE, "`h`"),
        refused(
            "a hard link with content",
            tar().entry(b'1', b"h", b"data", content).end(),
            "Malformed/Content",
            "`h`",
        ),
        refused(
            "a hard link with a set-user-id bit",
            tar()
                .entry(b'1', b"h", b"", |header| {
                    set_link(header, b"first");
                    header.set_mode(0o4755);
                })
                .end(),
            "Refused/SetId",
            "`h`",
        ),
        taken(
            "a hard link to a symlink",
            tar().symlink("l", "first").hard_link("d/h", "l").hard_link("h", "d/h").end(),
            &["d", "d/h", "first", "h", "l"],
        ),
        taken(
            "a hard link to a hard link",
            tar().hard_link("a", "first").hard_link("b", "./a").end(),
            &["a", "b", "first"],
        ),
        taken("a link name that a file does not use", Tar::default().long(b'K', b"../x").file("f", b"").end(), &["f"]),
    ]
}
