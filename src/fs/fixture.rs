//! What tests put in the way of the file system's rules: rights taken from root, and what even root may not change.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// Does it on a thread for which modes count, also where it is root's.
pub(crate) fn without_override<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let bound = || {
        let sets = capabilities(None).unwrap();
        let effective = sets.effective - (CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
        set_capabilities(None, CapabilitySets { effective, ..sets }).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(bound).join().unwrap())
}

/// A directory that nobody can change, move or remove until this is dropped.
pub(crate) struct Immutable(PathBuf);

impl Immutable {
    pub(crate) fn new(path: &Path) -> Self {
        chattr("+i", path);
        Self(path.to_owned())
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        chattr("-i", &self.0);
    }
}

fn chattr(what: &str, path: &Path) {
    assert!(Command::new("chattr").arg(what).arg(path).status().unwrap().success(), "{what} {}", path.display());
}
