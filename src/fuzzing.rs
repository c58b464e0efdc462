//! What `fuzz/` feeds with bytes: each target hands them to one room, and panics where something does not hold that must.
//! Compiled for tests and with the feature `fuzzing` alone. The ordinary tests run the seeds of `fuzz/seeds` through the
//! same functions.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "it fails by panicking, and looks at the disk from outside"
)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::fs::Dir;
use crate::{acquire, intent, seed, serve, store};

/// Something that is fed.
pub type Target = fn(&[u8]);

/// All of them, by name: that of the file in `fuzz/targets`, and of the directory of its seeds.
pub const TARGETS: &[(&str, Target)] = &[
    ("archives", acquire::fuzzing::archives),
    ("content_ranges", acquire::fuzzing::content_ranges),
    ("documents", intent::fuzzing::documents),
    ("index_rows", store::fuzzing::index_rows),
    ("manifests", store::fuzzing::manifests),
    ("pax_headers", acquire::fuzzing::pax_headers),
    ("pointers", acquire::fuzzing::pointers),
    ("ranges", serve::fuzzing::ranges),
    ("records", seed::fuzzing::records),
    ("socket", serve::fuzzing::socket),
    ("sums", acquire::fuzzing::sums),
    ("templates", seed::fuzzing::templates),
];

/// Runs a target by its name.
///
/// # Panics
///
/// Where there is none of that name, and where the target finds something.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(target, _)| *target == name);
    let (_, target) = target.unwrap_or_else(|| panic!("no target is called {name}"));
    target(bytes);
}

/// An empty directory; removed when dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("seedcache-fuzz-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is in it may not be writable.
        let _ = Dir::open(&self.0).and_then(|dir| dir.clear());
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names(dir: &str, suffix: &str) -> BTreeSet<String> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(dir);
        let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        entries.map(name).map(|name| name.strip_suffix(suffix).unwrap_or(&name).to_owned()).collect()
    }

    #[test]
    fn every_target_has_its_file_and_its_seeds() {
        let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names("targets", ".rs"), targets);
        assert_eq!(names("seeds", ""), targets);
        let manifest = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/Cargo.toml")).unwrap();
        for target in &targets {
            assert!(
                manifest.contains(&format!("path = \"targets/{target}.rs\"")),
                "{target} is not in fuzz/Cargo.toml"
            );
        }
    }

    #[test]
    fn the_seeds_find_nothing() {
        for (name, target) in TARGETS {
            let seeds = names(&format!("seeds/{name}"), "");
            assert!(seeds.len() > 1, "{name} has no seeds");
            for seed in seeds {
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name).join(&seed);
                let bytes = std::fs::read(&path).unwrap();
                let fed = std::panic::catch_unwind(|| target(&bytes));
                assert!(fed.is_ok(), "{} finds something", path.display());
            }
        }
    }
}
