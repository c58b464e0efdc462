//! The same content once: files of a staged tree that a version of the same artifact already has become hard links to
//! that version's files, or reflinks of them, before the tree is published ([`super::give`]).
//!
//! Most are that since they were unpacked: what is left to look at here are files too large to be held in memory, and
//! those that were staged in another way. A file that cannot be shared keeps its own copy.

use std::collections::{HashMap, HashSet};

use super::donors::{content, last};
use super::give::{Content, Wanted};
use super::{Donors, Entry, EntryType, Staging, Store, store_mode};
use crate::fs::{self, Dir, Meta, RelPath, Rename, fail_point};
use crate::intent::{ArtifactName, VersionName};

/// What was shared with versions that the node had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Shared {
    /// Files that have no second copy.
    pub(super) files: u64,
    /// Their bytes.
    pub(super) bytes: u64,
}

impl Store {
    /// Shares what `tree`, staged as `version` of `artifact`, has in common with the versions on the node.
    pub(super) fn share_content(
        &self,
        staging: &Staging,
        (artifact, version): (&ArtifactName, &VersionName),
        tree: &Dir,
        entries: &[Entry],
    ) -> fs::Result<Shared> {
        let made;
        let donors = match staging.donors() {
            Some(donors) => donors,
            None => {
                made = self.donors(artifact, Some(version));
                &made
            }
        };
        let mut sharing = Sharing::new(tree, entries, donors);
        sharing.share()?;
        sharing.follow_hard_links()?;
        let (files, bytes) = donors.given();
        let more: u64 = sharing.shared.iter().map(|&at| entries[at].size).sum();
        Ok(Shared { files: files + sharing.shared.len() as u64, bytes: bytes + more })
    }
}

/// A staged tree whose files are being shared.
struct Sharing<'a> {
    tree: &'a Dir,
    entries: &'a [Entry],
    donors: &'a Donors,
    /// How many further names each file has in this tree.
    names: HashMap<&'a [u8], u64>,
    /// Which entries are shared by now.
    shared: HashSet<usize>,
}

impl<'a> Sharing<'a> {
    fn new(tree: &'a Dir, entries: &'a [Entry], donors: &'a Donors) -> Self {
        let mut names = HashMap::new();
        for entry in entries.iter().filter(|entry| entry.kind == EntryType::Hardlink) {
            *names.entry(entry.target.as_deref().unwrap_or_default()).or_default() += 1;
        }
        Self { tree, entries, donors, names, shared: HashSet::new() }
    }

    fn share(&mut self) -> fs::Result<()> {
        let (entries, donors) = (self.entries, self.donors);
        let is_left = |sha256: &[u8; 32]| donors.of(sha256).is_some() && !donors.is_judged(sha256);
        let mut found: Vec<usize> =
            (0..entries.len()).filter(|at| content(&entries[*at]).is_some_and(is_left)).collect();
        // Directory by directory: each is made writable and given its times back once.
        found.sort_by(|a, b| above(&entries[*a]).cmp(&above(&entries[*b])));
        for group in found.chunk_by(|a, b| above(&entries[*a]) == above(&entries[*b])) {
            let Some(first) = group.first() else { continue };
            self.change_directory(entries[*first].path.parent().as_ref(), |sharing, dir| {
                for at in group {
                    if sharing.share_file(dir, &entries[*at])? {
                        sharing.shared.insert(*at);
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Lets `change` replace names in a staged directory, which has its own mode and times again afterwards.
    fn change_directory(
        &mut self,
        path: Option<&RelPath>,
        change: impl FnOnce(&mut Self, &Dir) -> fs::Result<()>,
    ) -> fs::Result<()> {
        let Some(path) = path else {
            // The top is listed in no manifest and is writable.
            let top = self.tree;
            return change(self, top);
        };
        let entry = self.entries.binary_search_by(|entry| entry.path.cmp(path)).map(|at| &self.entries[at]);
        let entry = entry.unwrap_or_else(|_| unreachable!("the parents of every entry are entries: {path}"));
        let dir = self.tree.open_dir(path)?;
        let meta = meta(entry);
        dir.apply_meta(&Meta { mode: meta.mode | 0o700, ..meta })?;
        change(self, &dir)?;
        dir.apply_meta(&meta)
    }

    /// Puts a donor's content in the place of the staged file; false where that keeps its own copy.
    fn share_file(&self, dir: &Dir, entry: &Entry) -> fs::Result<bool> {
        let Some(sha256) = content(entry) else { return Ok(false) };
        let name = last(&entry.path);
        let beside = dir.temporary_name(&name)?;
        let names = self.names.get(entry.path.as_bytes()).copied().unwrap_or(0);
        let wanted = Wanted { path: &entry.path, sha256, meta: meta(entry), names };
        let Some(made) = self.donors.make(dir, &beside, &wanted, Content::Staged(dir, &name))? else {
            return Ok(false);
        };
        fail_point("store.share.before-rename");
        dir.rename(&beside, dir, &name, Rename::Replace)?;
        fail_point("store.share.after-rename");
        if made.linked.is_some()
            && let Some(after) = dir.stat(&name)?
        {
            self.donors.version(made.file).follow(&made.before, &after, sha256);
        }
        Ok(true)
    }

    /// Gives the further names of shared files to what they are now.
    fn follow_hard_links(&mut self) -> fs::Result<()> {
        let entries = self.entries;
        for entry in entries.iter().filter(|entry| entry.kind == EntryType::Hardlink) {
            let target = entry.target.as_deref().and_then(|target| RelPath::parse(target).ok());
            let first = target.as_ref().and_then(|target| entries.binary_search_by(|e| e.path.cmp(target)).ok());
            let Some(first) = first.filter(|first| self.shared.contains(first)) else { continue };
            self.change_directory(entry.path.parent().as_ref(), |sharing, dir| {
                let name = last(&entry.path);
                let beside = dir.temporary_name(&name)?;
                let (first, sha256) = (&entries[first].path, entries[first].sha256.unwrap_or_default());
                sharing.donors.follow_link(sharing.tree, first, &sha256, || {
                    fs::hard_link(sharing.tree, first, dir, &beside)
                        .map_err(|e| fs::Error::new("link", &dir.path_of(&name), e))?;
                    dir.rename(&beside, dir, &name, Rename::Replace)
                })
            })?;
        }
        Ok(())
    }
}

/// The directory that holds an entry, as bytes.
fn above(entry: &Entry) -> Option<&[u8]> {
    entry.path.split_last().0
}

/// An entry's metadata as it is in the store.
fn meta(entry: &Entry) -> Meta {
    Meta { mode: store_mode(entry.mode), owner: Some((entry.uid, entry.gid)), mtime: entry.mtime_parts() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::path::{Path, PathBuf};

    use jiff::Timestamp;

    use super::*;
    use crate::fs::apply_meta;
    use crate::intent::Digest;
    use crate::store::{NewVersion, Report, ResolvedFrom};

    const TIME: (i64, u32) = (1_767_225_600, 7);

    /// A file's path, content and mode; with no mode it is a hard link to the path that stands as its content.
    type Thing<'a> = (&'a str, &'a str, Option<u32>);

    struct House {
        _dir: tempfile::TempDir,
        root: PathBuf,
        store: Store,
    }

    impl House {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("store");
            Self { store: Store::open(&root).unwrap(), _dir: dir, root }
        }

        /// Publishes `d/` with files in it, as the unpacker would stage them.
        fn publish(&self, version: &str, things: &[Thing<'_>]) {
            let staging = self.store.staging(&"os".parse().unwrap()).unwrap();
            let tree = staging.fresh_tree().unwrap();
            tree.make_dir(&"d".parse().unwrap(), 0o755).unwrap();
            let own = tree.stat_self().unwrap();
            let mtime = Timestamp::new(TIME.0, TIME.1 as i32).unwrap();
            let entry = |path: &str, kind, mode| Entry {
                path: path.parse().unwrap(),
                kind,
                mode,
                uid: own.uid,
                gid: own.gid,
                mtime,
                size: 0,
                sha256: None,
                target: None,
            };
            let mut entries = vec![entry("d", EntryType::Dir, 0o755)];
            for &(path, content, mode) in things {
                let Some(mode) = mode else {
                    tree.hard_link(&content.parse().unwrap(), &path.parse().unwrap()).unwrap();
                    let first = entries.iter().find(|entry| entry.path.as_bytes() == content.as_bytes()).unwrap();
                    let target = Some(content.as_bytes().to_vec());
                    let path = path.parse().unwrap();
                    entries.push(Entry { path, kind: EntryType::Hardlink, target, ..first.clone() });
                    continue;
                };
                let file = tree.create_file(&path.parse().unwrap(), 0o600).unwrap();
                std::io::Write::write_all(&mut &file, content.as_bytes()).unwrap();
                let sha256 = hex::decode(Digest::sha256(content.as_bytes()).hex()).unwrap().try_into().ok();
                let size = content.len() as u64;
                let made = Entry { size, sha256, ..entry(path, EntryType::File, mode) };
                apply_meta(&file, Path::new(path), &meta(&made)).unwrap();
                entries.push(made);
            }
            tree.open_dir(&"d".parse().unwrap()).unwrap().apply_meta(&meta(&entries[0])).unwrap();
            let new = NewVersion {
                artifact: "os".parse().unwrap(),
                version: version.parse().unwrap(),
                source_url: "file:///x".into(),
                digest: Digest::sha256(version.as_bytes()),
                size: 1,
                verified_by: vec![],
                resolved_from: ResolvedFrom::default(),
                recipe: Digest::sha256(b"recipe"),
                keep_archive: false,
                entries,
            };
            self.store.publish(&staging, new, Timestamp::now()).unwrap();
        }

        fn path(&self, version: &str, path: &str) -> PathBuf {
            self.root.join("versions/os").join(version).join("tree").join(path)
        }

        fn inode(&self, version: &str, path: &str) -> u64 {
            std::fs::metadata(self.path(version, path)).unwrap().ino()
        }

        fn knows(&self, version: &str, path: &str) -> bool {
            let opened = self.store.open_version(&"os".parse().unwrap(), &version.parse().unwrap()).unwrap();
            let manifest = self.store.manifest(&opened).unwrap();
            let entry = manifest.entries.iter().find(|entry| entry.path.as_bytes() == path.as_bytes()).unwrap();
            opened.knows(&opened.tree().stat(&entry.path).unwrap().unwrap(), &entry.sha256.unwrap())
        }

        fn verify(&self, version: &str) -> Report {
            let opened = self.store.open_version(&"os".parse().unwrap(), &version.parse().unwrap()).unwrap();
            self.store.verify(&opened, |_| {}).unwrap()
        }

        fn reflinks(&self) -> bool {
            let dir = self.store.root();
            let (from, to) = ("reflink-from".parse().unwrap(), "reflink-to".parse().unwrap());
            let from = dir.create_file(&from, 0o600).unwrap();
            fs::reflink(&from, &dir.create_file(&to, 0o600).unwrap()).is_ok()
        }
    }

    const FILE: Option<u32> = Some(0o644);

    #[test]
    fn equal_files_have_no_second_copy_and_all_versions_are_sound() {
        let house = House::new();
        house.publish("1", &[("d/a", "same", FILE), ("d/b", "old", FILE), ("d/c", "moved", FILE)]);
        house.publish("2", &[("d/a", "same", FILE), ("d/b", "new", FILE), ("d/e", "moved", FILE)]);
        if !house.reflinks() {
            assert_eq!(house.inode("1", "d/a"), house.inode("2", "d/a"));
            assert_eq!(house.inode("1", "d/c"), house.inode("2", "d/e"));
        }
        assert_ne!(house.inode("1", "d/b"), house.inode("2", "d/b"));
        // Compared just now, what is shared need not be read before it is seeded.
        for (version, path) in [("1", "d/a"), ("1", "d/c"), ("2", "d/a"), ("2", "d/b"), ("2", "d/e")] {
            assert!(house.knows(version, path), "{version} {path}");
        }
        for version in ["1", "2"] {
            assert_eq!(house.verify(version).damage, []);
        }
        house.store.remove_version(&"os".parse().unwrap(), &"1".parse().unwrap(), || true).unwrap();
        assert_eq!(house.verify("2").damage, []);
        assert_eq!(std::fs::read(house.path("2", "d/e")).unwrap(), b"moved");
    }

    #[test]
    fn a_changed_file_in_the_store_does_not_spread() {
        let house = House::new();
        house.publish("1", &[("d/a", "same", FILE)]);
        let path = house.path("1", "d/a");
        let times = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::write(&path, "evil").unwrap();
        let written = std::fs::File::open(&path).unwrap();
        written.set_permissions(std::fs::Permissions::from_mode(0o444)).unwrap();
        written.set_modified(times).unwrap();
        house.publish("2", &[("d/a", "same", FILE)]);
        assert_eq!(std::fs::read(house.path("2", "d/a")).unwrap(), b"same");
        assert_ne!(house.inode("1", "d/a"), house.inode("2", "d/a"));
        assert_eq!(house.verify("2").damage, []);
        assert_eq!(house.verify("1").damaged, 1);
        assert_eq!(std::fs::read_dir(house.path("2", "d")).unwrap().count(), 1, "nothing is left beside");
    }

    #[test]
    fn other_metadata_means_another_inode() {
        let house = House::new();
        house.publish("1", &[("d/a", "same", FILE)]);
        house.publish("2", &[("d/a", "same", Some(0o755))]);
        assert_ne!(house.inode("1", "d/a"), house.inode("2", "d/a"));
        assert_eq!(house.verify("2").damage, []);
    }

    #[test]
    fn hard_links_of_the_archive_follow_the_file_they_name() {
        let house = House::new();
        let things = [("d/a", "same", FILE), ("d/z", "d/a", None)];
        house.publish("1", &things);
        house.publish("2", &things);
        assert_eq!(house.inode("2", "d/a"), house.inode("2", "d/z"));
        if !house.reflinks() {
            assert_eq!(house.inode("1", "d/a"), house.inode("2", "d/z"));
        }
        assert_eq!(house.verify("2").damage, []);
    }

    #[test]
    fn disk_use_counts_what_is_shared_once() {
        let house = House::new();
        let content = "x".repeat(1 << 20);
        house.publish("1", &[("d/a", &content, FILE)]);
        let one = house.store.disk_use().unwrap();
        assert!(one >= 1 << 20);
        house.publish("2", &[("d/a", &content, FILE)]);
        if !house.reflinks() {
            let more = house.store.disk_use().unwrap() - one;
            assert!(more < 1 << 19, "{more} bytes more");
        }
    }
}
