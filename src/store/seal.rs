//! Stored files are sealed by fs-verity where the file system has it: then not even root writes to one through a hard
//! link, and the kernel checks each page it reads.
//!
//! What must hold: nothing depends on it. Bytes are verified before they are handed out with it or without it, so a
//! file that cannot be sealed is stored all the same. Files that are shared by hard link are sealed already or are
//! sealed now; those cloned from a sealed file are not.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{Entry, EntryType, Store};
use crate::fs::{Dir, Verity};
use crate::intent::error_chain;

/// Whether this store's file system was found to have no fs-verity.
#[derive(Debug, Default)]
pub(super) struct Sealing {
    off: AtomicBool,
}

impl Store {
    /// Seals the files of a staged tree, which are closed and as they are to be.
    pub(super) fn seal_files(&self, tree: &Dir, entries: &[Entry]) {
        for entry in entries.iter().filter(|entry| entry.kind == EntryType::File) {
            if self.sealing.off.load(Ordering::Relaxed) {
                return;
            }
            let why = match tree.enable_verity(&entry.path) {
                Ok(Verity::On) => continue,
                Ok(Verity::Unsupported) => "the file system or the kernel has none".to_owned(),
                // Only root may, since the files are read-only by now; no room for the hashes; and what may come.
                Err(error) => error_chain(&error),
            };
            if !self.sealing.off.swap(true, Ordering::Relaxed) {
                tracing::debug!(store = %self.root.path().display(), why, "stored files are without fs-verity");
            }
        }
    }
}
