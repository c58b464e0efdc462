//! Archives that mean ill, that are broken, or that only look so: what each is, and what is to become of it. Unpacked by
//! the unpacker's own tests, and by the real daemon in `tests/campaign archives`.

pub(crate) mod bombs;
pub(crate) mod builder;
pub(crate) mod compress;
mod entries;
mod headers;
mod links;
pub(crate) mod paths;
mod sparse;

use builder::Tar;

/// What is at absolute paths of these archives: nothing but them ever makes it.
pub(crate) const OUTSIDE: &str = "/tmp/seedcache-escaped";

/// One archive, uncompressed but where it is about a compression.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) archive: Vec<u8>,
    pub(crate) expect: Expect,
}

/// What is to become of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Expect {
    /// The whole archive is refused.
    Refused {
        /// The error and its causes by their names, as `Refused/Path/Absolute`.
        kind: &'static str,
        /// What the error must name: the entry, or so much of its name as is shown; none where no entry was seen.
        entry: &'static str,
    },
    /// It becomes this tree.
    Taken(&'static [&'static str]),
}

fn refused(name: &'static str, archive: Vec<u8>, kind: &'static str, entry: &'static str) -> Case {
    Case { name, archive, expect: Expect::Refused { kind, entry } }
}

fn taken(name: &'static str, archive: Vec<u8>, paths: &'static [&'static str]) -> Case {
    Case { name, archive, expect: Expect::Taken(paths) }
}

/// An archive's beginning: one sound file, so that a refusal always leaves something half made.
fn tar() -> Tar {
    Tar::default().file("first", b"1")
}

/// All uncompressed archives.
pub(crate) fn cases() -> Vec<Case> {
    [paths::cases(), links::cases(), entries::cases(), headers::cases(), sparse::cases()]
        .into_iter()
        .flatten()
        .collect()
}
