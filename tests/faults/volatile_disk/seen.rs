//! A tree as it is looked at from outside: on a disk of the tests, past the kernel, or in a directory. A test that asks its
//! own disk by way of the kernel would wait for itself for ever when it is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::VolatileDisk;
use super::model::{Body, Disk, Ino, ROOT};
use super::server::lock;

#[derive(Debug, Clone, PartialEq)]
enum What {
    Dir,
    File(Arc<Vec<u8>>),
    Symlink(Vec<u8>),
}

#[derive(Debug, Clone)]
struct Entry {
    what: What,
    mode: u32,
    owner: (u32, u32),
    /// Since the epoch.
    mtime: Duration,
    ino: u64,
}

/// All that is below a directory, by path.
#[derive(Debug, Clone)]
pub(crate) struct Seen(BTreeMap<PathBuf, Entry>);

impl Seen {
    /// Below a directory of the machine, which nobody changes.
    pub(crate) fn of(root: &Path) -> Self {
        Self::try_of(root).unwrap_or_else(|error| panic!("{}: {error}", root.display()))
    }

    /// The same of one that somebody may change.
    pub(crate) fn try_of(root: &Path) -> io::Result<Self> {
        let (mut entries, mut open) = (BTreeMap::new(), vec![PathBuf::new()]);
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(root.join(&dir))? {
                let path = dir.join(entry?.file_name());
                let at = root.join(&path);
                let meta = fs::symlink_metadata(&at)?;
                let what = if meta.is_dir() {
                    open.push(path.clone());
                    What::Dir
                } else if meta.is_symlink() {
                    What::Symlink(fs::read_link(at)?.as_os_str().as_bytes().to_owned())
                } else {
                    What::File(Arc::new(fs::read(at)?))
                };
                let mtime = Duration::new(meta.mtime() as u64, meta.mtime_nsec() as u32);
                let owner = (meta.uid(), meta.gid());
                entries.insert(path, Entry { what, mode: meta.mode() & 0o7777, owner, mtime, ino: meta.ino() });
            }
        }
        Ok(Self(entries))
    }

    /// The same without write bits, as the store holds it.
    pub(crate) fn without_write_bits(&self) -> Self {
        let mut seen = self.clone();
        seen.0.values_mut().for_each(|entry| entry.mode &= !0o222);
        seen
    }

    /// A file's content.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        match &self.0.get(Path::new(path))?.what {
            What::File(content) => Some(String::from_utf8_lossy(content).into_owned()),
            _ => None,
        }
    }

    /// What of these differs in `found`, a line each; of modes of files those bits count that are in `mask`.
    pub(crate) fn differences(&self, found: &Self, mask: u32) -> Vec<String> {
        let mut lines = Vec::new();
        for path in found.0.keys().filter(|path| !self.0.contains_key(*path)) {
            lines.push(format!("{}: not expected", path.display()));
        }
        for (path, entry) in &self.0 {
            let Some(other) = found.0.get(path) else {
                lines.push(format!("{}: missing", path.display()));
                continue;
            };
            let said = entry.differs(other, mask);
            lines.extend(said.map(|said| format!("{}: {said}", path.display())));
        }
        let (shared, expected) = (found.shared(self), self.shared(self));
        if shared != expected {
            lines.push(format!("names of one file: {shared:?}, expected {expected:?}"));
        }
        lines
    }

    /// Which of the names are of one file, of those that are expected.
    fn shared(&self, expected: &Self) -> BTreeSet<BTreeSet<&Path>> {
        let mut names: BTreeMap<u64, BTreeSet<&Path>> = BTreeMap::new();
        let is_expected = |path: &Path| expected.0.contains_key(path);
        let files = self.0.iter().filter(|(path, entry)| matches!(entry.what, What::File(_)) && is_expected(path));
        for (path, entry) in files {
            names.entry(entry.ino).or_default().insert(path);
        }
        names.into_values().filter(|names| names.len() > 1).collect()
    }
}

impl Entry {
    fn differs(&self, found: &Self, mask: u32) -> Option<String> {
        match (&self.what, &found.what) {
            (What::File(expected), What::File(content)) if expected != content => {
                return Some(format!("other content, {} bytes, expected {}", content.len(), expected.len()));
            }
            (What::Symlink(expected), What::Symlink(target)) if expected != target => {
                return Some(format!("leads to {:?}", OsStr::from_bytes(target)));
            }
            (What::Dir, What::Dir) | (What::File(_), What::File(_)) | (What::Symlink(_), What::Symlink(_)) => {}
            _ => return Some("of another type".to_owned()),
        }
        let mask = if matches!(self.what, What::File(_)) { mask } else { 0o7777 };
        if !matches!(self.what, What::Symlink(_)) && (self.mode ^ found.mode) & mask != 0 {
            return Some(format!("mode {:o}, expected {:o}", found.mode, self.mode));
        }
        if self.owner != found.owner {
            return Some(format!("owner {:?}, expected {:?}", found.owner, self.owner));
        }
        (self.mtime != found.mtime).then(|| format!("mtime {:?}, expected {:?}", found.mtime, self.mtime))
    }
}

impl VolatileDisk {
    /// What a symlink says.
    pub(crate) fn read_link(&self, path: &str) -> Option<PathBuf> {
        let disk = lock(&self.disk);
        match &disk.node(find(&disk, path)?).ok()?.body {
            Body::Symlink(target) => Some(OsStr::from_bytes(target).into()),
            _ => None,
        }
    }

    /// What is below a directory; symlinks are not followed.
    pub(crate) fn look(&self, path: &str) -> Option<Seen> {
        let disk = lock(&self.disk);
        let mut seen = BTreeMap::new();
        let root = find(&disk, path)?;
        disk.names(root).ok()?;
        gather(&disk, root, Path::new(""), &mut seen);
        Some(Seen(seen))
    }
}

fn find(disk: &Disk, path: &str) -> Option<Ino> {
    path.split('/').try_fold(ROOT, |dir, name| disk.lookup(dir, OsStr::new(name)).ok())
}

fn gather(disk: &Disk, dir: Ino, at: &Path, seen: &mut BTreeMap<PathBuf, Entry>) {
    for (name, ino) in disk.names(dir).expect("it is a directory") {
        let (path, node) = (at.join(name), disk.node(*ino).expect("a name leads to something"));
        let what = match &node.body {
            Body::Dir(_) => What::Dir,
            Body::File(content) => What::File(content.clone()),
            Body::Symlink(target) => What::Symlink(target.clone()),
        };
        let attr = &node.attr;
        let mtime = attr.mtime.duration_since(UNIX_EPOCH).unwrap_or_default();
        let entry = Entry { what, mode: attr.mode, owner: (attr.uid, attr.gid), mtime, ino: *ino };
        seen.insert(path.clone(), entry);
        if matches!(node.body, Body::Dir(_)) {
            gather(disk, *ino, &path, seen);
        }
    }
}
