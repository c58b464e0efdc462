//! Archives built by hand and by other people's tools, unpacked.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]

#[allow(dead_code, reason = "some are the campaign's")]
#[path = "../../../../tests/hostile/mod.rs"]
mod cases;
mod compressed;
mod hostile;
mod limits;
mod recipe;
mod shared;
mod tools;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::*;
use cases::{builder, compress};

/// A directory with a tree to unpack into, and nothing else in it.
struct Sandbox {
    outer: tempfile::TempDir,
}

impl Sandbox {
    fn new() -> Self {
        let outer = tempfile::tempdir().unwrap();
        std::fs::create_dir(outer.path().join("tree")).unwrap();
        Self { outer }
    }

    fn tree(&self) -> PathBuf {
        self.outer.path().join("tree")
    }

    fn unpack(&self, archive: impl Read + Send, recipe: &Unpack) -> Result<Unpacked, UnpackError> {
        self.unpack_until(archive, recipe, &Progress::default(), false)
    }

    fn unpack_until(
        &self,
        archive: impl Read + Send,
        recipe: &Unpack,
        progress: &Progress,
        abort: bool,
    ) -> Result<Unpacked, UnpackError> {
        unpack(archive, recipe, "single.bin", &Dir::open(&self.tree()).unwrap(), None, progress, &abort.into())
    }

    fn assert_nothing_outside(&self) {
        let names: Vec<_> = std::fs::read_dir(self.outer.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["tree"]);
    }
}

/// What was unpacked cannot be written, so a plain removal fails for any user but root.
impl Drop for Sandbox {
    fn drop(&mut self) {
        Dir::open(self.outer.path()).unwrap().clear().unwrap();
    }
}

/// Gives one byte at a time.
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let n = to.len().min(1);
        self.0.read(&mut to[..n])
    }
}

fn paths(unpacked: &Unpacked) -> Vec<String> {
    unpacked.entries.iter().map(|entry| entry.path.to_string()).collect()
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}
