//! The mark that says that a directory is a seed, and of what. It stands on the directory itself (`user.seedcache`)
//! where the file system has extended attributes, and names the directory it was put on, so that a copy of a seed,
//! attributes and all, is not taken for one. Where there are none, clients keep it in a file in the directory, and the
//! daemon in its records.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::place::component;
use crate::fs::{self, Dir, LinkMode, RelPath};
use crate::intent::{ArtifactName, Digest, VersionName};
use crate::store::ManifestHead;

/// The extended attribute.
pub(super) const ATTRIBUTE: &str = "user.seedcache";

/// The file that has the mark where there are no attributes.
pub(super) const FILE: &[u8] = b".seedcache-mark";
/// Bytes of that file.
const FILE_LIMIT: u64 = 256 << 10;

/// Where marks are kept.
pub(crate) trait Marks {
    /// What `dir` was seeded with; `None` when seedcache did not make it.
    fn of(&self, dir: &Dir) -> fs::Result<Option<Mark>>;
    /// Marks a directory that is about to stand at the target, or stands there.
    fn put(&self, dir: &Dir, mark: &Mark) -> fs::Result<()>;
}

/// Marks on the directories themselves and nowhere else, as clients keep them: in a file where there are no attributes.
#[derive(Debug)]
pub(crate) struct OnTargets;

impl Marks for OnTargets {
    fn of(&self, dir: &Dir) -> fs::Result<Option<Mark>> {
        Mark::on(dir)
    }

    fn put(&self, dir: &Dir, mark: &Mark) -> fs::Result<()> {
        if mark.put(dir)? {
            return Ok(());
        }
        dir.write_atomic(&component(FILE), &mark.json(), 0o644)?;
        Mark::take_off(dir)
    }
}

/// Which tree of which version: what a target is to hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Wanted<'a> {
    pub(crate) artifact: &'a ArtifactName,
    pub(crate) version: &'a VersionName,
    pub(crate) tree_digest: &'a Digest,
}

impl<'a> From<&'a ManifestHead> for Wanted<'a> {
    fn from(head: &'a ManifestHead) -> Self {
        Self { artifact: &head.artifact, version: &head.version, tree_digest: &head.tree_digest }
    }
}

/// What a directory was seeded with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Mark {
    pub(crate) artifact: ArtifactName,
    pub(crate) version: VersionName,
    pub(crate) tree_digest: Digest,
    pub(crate) mode: LinkMode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    pub(crate) at: Timestamp,
    /// The boot under which its content was written or last read; content is not synced, so a later boot may find less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) boot: Option<String>,
    /// What a client fetched and unpacked by itself; absent where a daemon vouches for the tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fetched: Option<Fetched>,
    /// Files rendered beside the tree. What they say is not told here: it may be secret. Documents may declare so few of
    /// them that the mark fits into an attribute.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) rendered: Vec<RelPath>,
    pub(crate) id: Identity,
}

/// The archive that a client made a tree of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Fetched {
    /// Its SHA-256.
    pub(crate) archive: Digest,
    /// The recipe under which it was unpacked.
    pub(crate) recipe: Digest,
}

/// Which directory it is. Device numbers are no part of it: they change over a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Inode number.
    pub(super) ino: u64,
    /// When it was made, nanoseconds since the epoch, where the file system says so.
    pub(super) born: Option<i64>,
    /// Its ctime, nanoseconds since the epoch.
    pub(super) changed: i128,
}

impl Identity {
    pub(super) fn of(dir: &Dir) -> fs::Result<Self> {
        let stamp = dir.stat_self()?.stamp;
        Ok(Self { ino: stamp.ino, born: dir.born()?, changed: stamp.ctime })
    }

    /// For a mark on the directory itself: whether this is it.
    pub(super) fn is_of(&self, dir: &Dir) -> fs::Result<bool> {
        let found = Self::of(dir)?;
        Ok(self.is_that_of(&found, self.ino != found.ino && dir.may_be_numbered_anew()?))
    }

    /// Two directories may be made in one tick of the clock, so that the number counts as well, but for where it may be
    /// another one the next time.
    fn is_that_of(&self, found: &Identity, numbered_anew: bool) -> bool {
        match (self.born, found.born) {
            (Some(marked), Some(born)) => marked == born && (numbered_anew || self.ino == found.ino),
            _ => self.ino == found.ino,
        }
    }

    /// For a mark kept elsewhere, which a new directory of the same name must not inherit.
    pub(super) fn is_still(&self, found: &Identity) -> bool {
        self.ino == found.ino
            && match (self.born, found.born) {
                (Some(marked), Some(born)) => marked == born,
                _ => self.changed == found.changed,
            }
    }
}

impl Mark {
    /// For a tree of `wanted` in `dir`, made under this boot.
    pub(crate) fn new(wanted: Wanted, mode: LinkMode, reason: Option<String>, dir: &Dir) -> fs::Result<Self> {
        Ok(Self {
            artifact: wanted.artifact.clone(),
            version: wanted.version.clone(),
            tree_digest: wanted.tree_digest.clone(),
            mode,
            reason,
            at: Timestamp::now(),
            boot: fs::boot_id(),
            fetched: None,
            rendered: Vec::new(),
            id: Identity::of(dir)?,
        })
    }

    /// The mark that `dir` bears; `None` when it bears none, or that of another directory.
    pub(crate) fn on(dir: &Dir) -> fs::Result<Option<Self>> {
        match dir.xattr(ATTRIBUTE)? {
            Some(bytes) => Self::read(&bytes, dir),
            None => Self::in_file(dir),
        }
    }

    /// The mark in a file of `dir`, under the same condition. One that somebody has a lease on is none: pods may have such files
    /// in all the directories that were filled for them.
    fn in_file(dir: &Dir) -> fs::Result<Option<Self>> {
        match dir.read_unless_held(&component(FILE), FILE_LIMIT) {
            Ok(bytes) => bytes.map_or(Ok(None), |bytes| Self::read(&bytes, dir)),
            Err(e) => {
                if !e.is_not_found() {
                    tracing::debug!(error = %e, "what stands where a mark would is none");
                }
                Ok(None)
            }
        }
    }

    fn read(bytes: &[u8], dir: &Dir) -> fs::Result<Option<Self>> {
        let Ok(mark) = serde_json::from_slice::<Self>(bytes) else { return Ok(None) };
        Ok(mark.id.is_of(dir)?.then_some(mark))
    }

    fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_else(|e| unreachable!("plain fields with text keys serialise: {e}"))
    }

    /// Puts the mark on `dir`; `false` where the file system has no extended attributes, or no room for it.
    pub(crate) fn put(&self, dir: &Dir) -> fs::Result<bool> {
        dir.set_xattr(ATTRIBUTE, &self.json())
    }

    /// Takes off what mark `dir` bears, once one is kept elsewhere, for which there was no room: what it bears is believed first.
    pub(super) fn take_off(dir: &Dir) -> fs::Result<()> {
        dir.remove_xattr(ATTRIBUTE)
    }

    /// Whether its content was written or read since the machine started.
    pub(crate) fn is_of_this_boot(&self) -> bool {
        self.boot.is_some() && self.boot == fs::boot_id()
    }

    /// Its content was read just now, and is good.
    pub(crate) fn was_read(&mut self) {
        self.boot = fs::boot_id();
    }

    /// Whether it says that the directory holds a version's own files.
    pub(super) fn links(&self, artifact: &ArtifactName, version: &VersionName) -> bool {
        self.mode == LinkMode::Hardlink && self.artifact == *artifact && self.version == *version
    }

    /// Whether it says that the directory holds this very tree.
    pub(crate) fn holds(&self, wanted: Wanted) -> bool {
        wanted == Wanted { artifact: &self.artifact, version: &self.version, tree_digest: &self.tree_digest }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_copy_is_not_the_marked_directory() {
        let marked = Identity { ino: 7, born: Some(100), changed: 200 };
        for numbered_anew in [false, true] {
            let is_that_of = |marked: Identity, found: &Identity| marked.is_that_of(found, numbered_anew);
            assert!(is_that_of(marked, &Identity { ino: 7, born: Some(100), changed: 300 }));
            assert!(!is_that_of(marked, &Identity { ino: 7, born: Some(101), changed: 200 }));
            // Made in the same tick, or the same one under an overlay's new number.
            let other = Identity { ino: 9, born: Some(100), changed: 300 };
            assert_eq!(is_that_of(marked, &other), numbered_anew);
            let unknown = Identity { born: None, ..marked };
            assert!(is_that_of(unknown, &Identity { ino: 7, born: None, changed: 300 }));
            assert!(!is_that_of(unknown, &Identity { ino: 8, born: None, changed: 200 }));
        }
    }

    /// Of `version`, with a reason of so many bytes.
    fn mark(version: &str, reason: usize, dir: &Dir) -> Mark {
        let (artifact, version) = ("thing".parse().unwrap(), version.parse().unwrap());
        let tree_digest = Digest::sha256(b"");
        let wanted = Wanted { artifact: &artifact, version: &version, tree_digest: &tree_digest };
        Mark::new(wanted, LinkMode::Hardlink, Some("x".repeat(reason)), dir).unwrap()
    }

    #[test]
    fn a_mark_that_no_attribute_has_room_for_takes_the_place_of_one_that_fitted() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open(root.path()).unwrap();
        for (version, reason) in [("v1", 1), ("v2", 70_000), ("v3", 1)] {
            let mark = mark(version, reason, &dir);
            OnTargets.put(&dir, &mark).unwrap();
            assert_eq!(dir.xattr(ATTRIBUTE).unwrap().is_some(), reason == 1);
            assert_eq!(OnTargets.of(&dir).unwrap(), Some(mark));
        }
    }

    /// A process with a lease on a file, which it gives up as soon as it is asked to, says so, and ends.
    const GIVES_UP: &str = "import fcntl, os, signal, sys\n\
                            signal.alarm(60)\n\
                            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])\n\
                            fd = os.open(sys.argv[1], os.O_RDONLY)\n\
                            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n\
                            print('held', flush=True)\n\
                            signal.sigwait([signal.SIGIO])\n\
                            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)\n\
                            print('given up', flush=True)";

    /// Who waits for a moment gets it.
    #[test]
    fn a_mark_in_a_file_with_a_lease_on_it_is_none_and_not_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open(root.path()).unwrap();
        let mark = mark("v1", 70_000, &dir);
        OnTargets.put(&dir, &mark).unwrap();
        let mut python = Command::new("python3");
        python.args(["-c", GIVES_UP]).arg(dir.path_of(&component(FILE))).stdout(Stdio::piped());
        let mut holder = python.spawn().unwrap();
        let mut says = BufReader::new(holder.stdout.take().unwrap()).lines();
        assert_eq!(says.next().unwrap().unwrap(), "held");
        assert_eq!(OnTargets.of(&dir).unwrap(), None);
        assert_eq!(says.next().unwrap().unwrap(), "given up");
        assert_eq!(OnTargets.of(&dir).unwrap(), Some(mark));
        assert!(holder.wait().unwrap().success());
    }

    #[test]
    fn a_new_directory_of_the_same_name_inherits_nothing() {
        let marked = Identity { ino: 7, born: Some(100), changed: 200 };
        assert!(marked.is_still(&Identity { ino: 7, born: Some(100), changed: 300 }));
        assert!(!marked.is_still(&Identity { ino: 8, born: Some(100), changed: 200 }));
        let unknown = Identity { born: None, ..marked };
        assert!(unknown.is_still(&Identity { ino: 7, born: None, changed: 200 }));
        assert!(!unknown.is_still(&Identity { ino: 7, born: None, changed: 300 }));
    }
}
