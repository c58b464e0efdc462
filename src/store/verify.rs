//! A published version held against its manifest: every entry, every byte.
//!
//! What must hold: a good version is not called damaged for a want of descriptors or memory, nor for one error of the disk that
//! does not come again.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::ops::ControlFlow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Entry, EntryType, Manifest, Store, StoreError, Version};
use crate::fs::{self, Dir, Kind, RelPath, Stat};
use crate::intent::error_chain;

/// So many damaged entries are named; the rest are counted.
const NAMED: usize = 100;

/// What a check of one version found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Entries checked.
    pub entries: u64,
    /// Bytes read.
    pub bytes: u64,
    /// How many entries are damaged.
    pub damaged: u64,
    /// The first hundred of them.
    pub damage: Vec<Damage>,
}

impl Report {
    /// The report on a version whose manifest itself is damaged: it cannot be compared with anything.
    pub fn unreadable(what: String) -> Self {
        let damage = vec![Damage { path: super::layout::own("manifest.json"), what }];
        Self { damaged: 1, damage, ..Self::default() }
    }
}

/// One entry that is not as its manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Damage {
    /// The entry.
    pub path: RelPath,
    /// What is wrong with it, in words.
    pub what: String,
}

/// The permission bits that an entry has in the store: those of the archive without the right to write.
pub fn store_mode(mode: u32) -> u32 {
    mode & 0o7555
}

impl Store {
    /// Reads all of a version and compares it with its manifest. `progress` is told of each piece read.
    pub fn verify(&self, version: &Version, mut progress: impl FnMut(u64)) -> Result<Report, StoreError> {
        let report = self.verify_while(version, |bytes| {
            progress(bytes);
            ControlFlow::Continue(())
        })?;
        Ok(report.unwrap_or_else(|| unreachable!("nothing asked it to stop")))
    }

    /// The same, for as long as `step`, which is told of each piece read, lets it go on; `None` when it did not.
    pub fn verify_while(
        &self,
        version: &Version,
        step: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Option<Report>, StoreError> {
        self.check(version, Reading::All, step)
    }

    /// The same, but reads only files in states that are not known to be good, and no archive.
    pub fn recheck_while(
        &self,
        version: &Version,
        step: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Option<Report>, StoreError> {
        self.check(version, Reading::Unknown, step)
    }

    fn check(
        &self,
        version: &Version,
        reading: Reading,
        mut step: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Option<Report>, StoreError> {
        let manifest = self.checked_manifest(version)?;
        let mut check = Check { report: Report::default(), reading, inodes: HashMap::new(), stopped: false };
        let mut expected: BTreeMap<&RelPath, &Entry> = BTreeMap::new();
        let mut busy = None;
        for entry in &manifest.entries {
            expected.insert(&entry.path, entry);
            check.report.entries += 1;
            let found = match check.entry(version, entry, &mut step) {
                // Who keeps one file from being read hides no other.
                Err(StoreError::Fs(error)) if error.is_busy() => {
                    busy.get_or_insert(error);
                    None
                }
                found => found?,
            };
            // An entry without bytes is a step, too: a tree may be all directories.
            if check.stopped || step(0).is_break() {
                return Ok(None);
            }
            if let Some(what) = found {
                check.damage(&entry.path, what);
            }
        }
        check.strangers(version.tree(), None, &expected)?;
        if reading == Reading::All {
            check.archive(version, &manifest, &mut step)?;
        }
        match busy {
            Some(error) if !check.stopped && check.report.damaged == 0 => Err(error.into()),
            _ => Ok((!check.stopped).then_some(check.report)),
        }
    }
}

/// What of a version is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    All,
    /// Files that may be other than they were when they were read last.
    Unknown,
}

struct Check<'a> {
    report: Report,
    reading: Reading,
    /// Inode of each regular file, for its hard links.
    inodes: HashMap<&'a [u8], u64>,
    /// It was told to end before all was read.
    stopped: bool,
}

impl<'a> Check<'a> {
    fn damage(&mut self, path: &RelPath, what: String) {
        self.report.damaged += 1;
        if self.report.damage.len() < NAMED {
            self.report.damage.push(Damage { path: path.clone(), what });
        }
    }

    fn entry(
        &mut self,
        version: &Version,
        entry: &'a Entry,
        step: &mut impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Option<String>, StoreError> {
        let tree = version.tree();
        let stat = match looked(|| Ok(tree.stat(&entry.path)?))? {
            Ok(Some(stat)) => stat,
            Ok(None) => return Ok(Some("it is missing".into())),
            Err(e) => return Ok(Some(error_chain(&e))),
        };
        if let Some(what) = compare(entry, &stat) {
            return Ok(Some(what));
        }
        match entry.kind {
            EntryType::Dir => Ok(None),
            EntryType::Symlink => Ok(match looked(|| Ok(tree.read_link(&entry.path)?))? {
                Ok(target) if Some(&target) == entry.target.as_ref() => None,
                Ok(_) => Some("the link points elsewhere".into()),
                Err(e) => Some(error_chain(&e)),
            }),
            EntryType::Hardlink => {
                let named = entry.target.as_deref().and_then(|target| self.inodes.get(target));
                Ok((named != Some(&stat.stamp.ino)).then(|| "it is no longer a name of the file it links to".into()))
            }
            EntryType::File => {
                self.inodes.insert(entry.path.as_bytes(), stat.stamp.ino);
                if self.reading == Reading::Unknown && entry.sha256.is_some_and(|sha256| version.knows(&stat, &sha256))
                {
                    return Ok(None);
                }
                let read = looked(|| {
                    let file = tree.open_file(&entry.path)?;
                    let found = self.read(&file, &entry.path, step)?;
                    Ok((file, found))
                });
                match read? {
                    Ok((file, found)) if found.is_none() || found == entry.sha256 => {
                        if let Some(sha256) = found
                            && Dir::stat_file(&file, entry.path.as_path())?.stamp == stat.stamp
                        {
                            version.soundness.learn(&stat, &sha256);
                        }
                        Ok(None)
                    }
                    Ok(_) => Ok(Some("its content has another digest".into())),
                    Err(e) => Ok(Some(error_chain(&e))),
                }
            }
        }
    }

    /// The digest of a file's content, counted; `None` when it was told to stop.
    fn read(
        &mut self,
        file: &File,
        name: &RelPath,
        step: &mut impl FnMut(u64) -> ControlFlow<()>,
    ) -> fs::Result<Option<[u8; 32]>> {
        let found = content_digest(file, &mut |n| {
            self.report.bytes += n;
            step(n)
        })
        .map_err(|e| fs::Error::new("read", name.as_path(), e))?;
        self.stopped = found.is_none();
        Ok(found)
    }

    /// What lies in the tree that the manifest does not know.
    fn strangers(
        &mut self,
        dir: &Dir,
        at: Option<&RelPath>,
        expected: &BTreeMap<&RelPath, &Entry>,
    ) -> Result<(), StoreError> {
        let entries = match (looked(|| Ok(dir.entries()?))?, at) {
            (Ok(entries), _) => entries,
            (Err(e), None) => return Err(e),
            (Err(e), Some(at)) => {
                self.damage(at, error_chain(&e));
                return Ok(());
            }
        };
        for found in entries {
            let path = match at {
                None => found.name.clone(),
                Some(at) => match at.join(&found.name) {
                    Ok(path) => path,
                    Err(_) => continue,
                },
            };
            match expected.get(&path) {
                None => self.damage(&path, "the manifest does not know it".into()),
                Some(entry) if entry.kind == EntryType::Dir && found.kind == Kind::Dir => {
                    match looked(|| Ok(dir.open_dir(&found.name)?))? {
                        Ok(below) => self.strangers(&below, Some(&path), expected)?,
                        Err(e) => self.damage(&path, error_chain(&e)),
                    }
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn archive(
        &mut self,
        version: &Version,
        manifest: &Manifest,
        step: &mut impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let path = super::layout::own("archive");
        let read = looked(|| match version.archive()? {
            None => Ok(None),
            Some(file) => Ok(self.read(&file, &path, step)?),
        });
        match read? {
            // None is kept, or it was told to stop.
            Ok(None) => {}
            Ok(Some(found)) if hex::encode(found) == manifest.head.archive.digest.hex() => {}
            Ok(_) => self.damage(&path, "the kept archive has another digest".into()),
            Err(e) => self.damage(&path, error_chain(&e)),
        }
        Ok(())
    }
}

/// What a `look` at something finds, or the error that is its damage. An error of the disk is damage if it comes a second time;
/// one that is none, as for a want of descriptors, is passed on: it says nothing of the bytes.
fn looked<T>(mut look: impl FnMut() -> Result<T, StoreError>) -> Result<Result<T, StoreError>, StoreError> {
    let is = |e: &StoreError, what: fn(&fs::Error) -> bool| matches!(e, StoreError::Fs(e) if what(e));
    let mut found = look();
    if found.as_ref().is_err_and(|e| !is(e, fs::Error::is_passing) && !is(e, fs::Error::leads_nowhere)) {
        found = look();
    }
    match found {
        Err(e) if is(&e, fs::Error::is_passing) => Err(e),
        found => Ok(found),
    }
}

/// What of an entry's metadata differs from the manifest, in words.
fn compare(entry: &Entry, stat: &Stat) -> Option<String> {
    let kind = match entry.kind {
        EntryType::Dir => Kind::Dir,
        EntryType::File | EntryType::Hardlink => Kind::File,
        EntryType::Symlink => Kind::Symlink,
    };
    if stat.kind != kind {
        return Some("it has another type".into());
    }
    if kind == Kind::File && stat.size != entry.size {
        return Some(format!("it has {} bytes, not {}", stat.size, entry.size));
    }
    if kind != Kind::Symlink && stat.mode != store_mode(entry.mode) {
        return Some(format!("it has mode {:04o}, not {:04o}", stat.mode, store_mode(entry.mode)));
    }
    if (stat.uid, stat.gid) != (entry.uid, entry.gid) {
        return Some(format!("it belongs to {}:{}, not {}:{}", stat.uid, stat.gid, entry.uid, entry.gid));
    }
    if stat.mtime_timestamp() != Some(entry.mtime) {
        return Some("its modification time changed".into());
    }
    None
}

/// The digest of an open file from its start, read without filling the page cache with it; `None` when `step`, told of
/// each piece, says to stop.
pub(super) fn content_digest(
    file: &File,
    step: &mut impl FnMut(u64) -> ControlFlow<()>,
) -> std::io::Result<Option<[u8; 32]>> {
    fs::write_back(file)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; 256 * 1024];
    let mut at = 0u64;
    loop {
        let n = fs::read_past_cache(file, &mut buffer, at)?;
        if n == 0 {
            return Ok(Some(hasher.finalize().into()));
        }
        hasher.update(&buffer[..n]);
        at += n as u64;
        if step(n as u64).is_break() {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rustix::io::Errno;

    use super::*;

    /// Whether these errors, one after the other, are damage, and how many looks were taken; `None` where there is no word.
    fn judged(errors: &[Errno]) -> (Option<bool>, usize) {
        let mut looks = 0;
        let outcome = looked(|| {
            looks += 1;
            let error = errors.get(looks - 1).copied();
            error.map_or(Ok(()), |errno| Err(fs::Error::new("read", std::path::Path::new("x"), errno).into()))
        });
        (outcome.ok().map(|found| found.is_err()), looks)
    }

    #[test]
    fn a_want_of_the_machine_or_one_error_of_the_disk_is_no_damage() {
        use Errno as E;
        assert_eq!(judged(&[]), (Some(false), 1));
        for passing in [E::MFILE, E::NFILE, E::NOMEM, E::STALE, E::INTR, E::AGAIN] {
            assert_eq!(judged(&[passing]), (None, 1), "{passing}");
            assert_eq!(judged(&[E::IO, passing]), (None, 2), "{passing}");
        }
        for gone in [E::NOENT, E::NOTDIR, E::LOOP] {
            assert_eq!(judged(&[gone]), (Some(true), 1), "{gone}");
        }
        for bad in [E::IO, E::UCLEAN] {
            assert_eq!(judged(&[bad]), (Some(false), 2), "{bad}");
            assert_eq!(judged(&[bad, bad]), (Some(true), 2), "{bad}");
        }
    }
}
