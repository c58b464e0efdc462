//! Archives that mean ill, that are broken, or that only look so: what each is, and what is to become of it. Unpacked by
//! the unpacker's own tests, and by the real daemon in `tests/campaign archives`.
//!
//! What unpackers were once led astray by, and where its kind is:
//!
//! | where | what |
//! |---|---|
//! | `paths` | Zip Slip; Python CVE-2007-4559; GNU tar CVE-2001-1267, CVE-2016-6321; node-tar CVE-2021-32804 (slashes first), CVE-2021-37701 and -37712 (backslashes, case, normal forms) |
//! | `links` | node-tar CVE-2021-32803 (a directory, then a symlink), CVE-2026-26960 (hard links outwards); tar-rs CVE-2018-20990 (a hard link, then a file), CVE-2021-38511 (directories through symlinks); Python CVE-2025-4138, -4330 and -4517 (links judged by paths too long to resolve); Archive_Tar CVE-2020-36193 |
//! | `entries` | GNU tar CVE-2006-6097 (entries that are lists of names) |
//! | `headers` | tokio-tar CVE-2025-62518 (a size in both headers); what Go's and libarchive's test data have of numbers, records and long names that contradict |
//! | `sparse` | maps as in Go's and libarchive's test data; sizes and names given twice |
//! | `compress` | header fields without end, and members with nothing in them, as in CVE-2022-30631 (Go's gzip, one call deeper for each) |

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
        /// What the error must name: the entry, or so much of its name as is shown. `None` where it can name none: the
        /// archive is broken before its first entry, or has none.
        entry: Option<&'static str>,
    },
    /// It becomes this tree.
    Taken(&'static [&'static str]),
}

fn refused(name: &'static str, archive: Vec<u8>, kind: &'static str, entry: &'static str) -> Case {
    Case { name, archive, expect: Expect::Refused { kind, entry: Some(entry) } }
}

/// Refused, with no entry that could be named.
fn nameless(name: &'static str, archive: Vec<u8>, kind: &'static str) -> Case {
    Case { name, archive, expect: Expect::Refused { kind, entry: None } }
}

fn taken(name: &'static str, archive: Vec<u8>, paths: &'static [&'static str]) -> Case {
    Case { name, archive, expect: Expect::Taken(paths) }
}

/// Whether an error names what it is to name: this entry, or none at all.
pub(crate) fn names(error: &str, entry: Option<&str>) -> bool {
    entry.map_or(!error.contains("entry `"), |entry| error.contains(entry))
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
