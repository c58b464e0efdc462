//! A few files of a version whose states tell whether names of its files came or went by another's hand: a pod that
//! removes its hard-linked seed changes the states of them all, and so does whoever writes to one of the large ones.
//!
//! What must hold: a look costs a few `statx`, and holds nothing back from being collected.

use std::sync::Arc;

use super::sound::Soundness;
use super::{EntryType, Store, StoreError, Version};
use crate::fs::{self, Dir, RelPath, Stamp};

/// Files looked at for one version: its largest, whose reading a seed would wait for the longest.
const MOST: usize = 16;

/// The files of one version that are looked at.
#[derive(Debug)]
pub struct Telltales {
    tree: Dir,
    files: Vec<(RelPath, [u8; 32])>,
    soundness: Arc<Soundness>,
}

impl Telltales {
    /// The states of those that are in none that is known to be good; `None` for one that is not there.
    pub fn unknown(&self) -> fs::Result<Vec<Option<Stamp>>> {
        let mut unknown = Vec::new();
        for (path, sha256) in &self.files {
            match self.tree.stat(path)? {
                Some(stat) if self.soundness.knows(&stat, sha256) => {}
                found => unknown.push(found.map(|stat| stat.stamp)),
            }
        }
        Ok(unknown)
    }
}

impl Store {
    /// The files of a version to look at.
    pub fn telltales(&self, version: &Version) -> Result<Telltales, StoreError> {
        let manifest = self.manifest(version)?;
        let mut files: Vec<_> = manifest.entries.iter().filter(|entry| entry.kind == EntryType::File).collect();
        files.sort_by_key(|entry| std::cmp::Reverse(entry.size));
        files.truncate(MOST);
        let files = files.into_iter().filter_map(|entry| Some((entry.path.clone(), entry.sha256?))).collect();
        Ok(Telltales { tree: version.tree().clone(), files, soundness: version.soundness.clone() })
    }
}
