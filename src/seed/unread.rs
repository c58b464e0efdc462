//! Large files of the store in states that are not known to be good, read on several threads before a seed goes through
//! the tree: that gives each thread whole directories, and large files often lie in one.
//!
//! What is found here is only remembered: whoever hands a file out holds it against its manifest all the same.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::tree::Layout;
use crate::store::{Entry, EntryType, Version};

/// Smaller files are read sooner than a thread is made.
const LARGE: u64 = 4 << 20;
/// Threads that read: hashing takes a processor each, and pods want some, too.
const THREADS: usize = 2;

/// Reads them, where there are several.
pub(super) fn read_large(version: &Version, layout: &Layout) {
    let unread = large_unknown(version, layout);
    if unread.len() < 2 {
        return;
    }
    let next = AtomicUsize::new(0);
    let read = || {
        while let Some((entry, sha256)) = unread.get(next.fetch_add(1, Relaxed)) {
            // Damage and failures are met again by who comes to the file on the way through the tree.
            if let Ok(file) = version.tree().open_file(&entry.path) {
                let _ = version.judge(&file, sha256, entry.path.as_path());
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..THREADS {
            // Where no more threads can be had, those that there are do it.
            if std::thread::Builder::new().spawn_scoped(scope, read).is_err() {
                break;
            }
        }
        read();
    });
}

fn large_unknown<'a>(version: &Version, layout: &Layout<'a>) -> Vec<(&'a Entry, [u8; 32])> {
    let leaves = layout.directories.iter().flat_map(|directory| &directory.leaves);
    let large = leaves.filter(|entry| entry.kind == EntryType::File && entry.size >= LARGE);
    let known = |entry: &Entry, sha256: &[u8; 32]| match version.tree().stat(&entry.path) {
        Ok(Some(stat)) => version.knows(&stat, sha256),
        // Found missing soon enough.
        _ => true,
    };
    large.filter_map(|entry| Some((*entry, entry.sha256?))).filter(|(entry, sha256)| !known(entry, sha256)).collect()
}
