//! The same content once: files of a staged tree that a version of the same artifact already has become hard links to
//! that version's files where all metadata agree, reflinks of them where the file system has those, before the tree is
//! published.
//!
//! Hard links come first: a reflink costs an inode, on XFS 512 bytes, so that each further version of a tree of 83,000
//! small files took 49 MiB instead of 11.
//!
//! What must hold: manifests only say where to look. What takes a staged file's place is in a state known to be good
//! ([`super::sound`]) or was compared with it byte by byte, so a file that somebody changed in the store never spreads.
//! A file that cannot be shared keeps its own copy.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use super::sound::content_stayed;
use super::{Entry, EntryType, Manifest, Store, Version, store_mode};
use crate::fs::{self, Dir, Kind, Meta, RelPath, Rename, Stat, apply_meta};
use crate::intent::{ArtifactName, VersionName};

/// So many versions of the artifact are looked through; content that left and came back later is stored anew.
const LOOKED_AT: usize = 3;
/// An inode with so many names gets no more of them here: ext4 allows 65,000, and seeds want theirs.
const MOST_NAMES: u64 = 32_000;
/// Bytes compared at once.
const PIECE: usize = 128 * 1024;

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
        artifact: &ArtifactName,
        version: &VersionName,
        tree: &Dir,
        entries: &[Entry],
    ) -> fs::Result<Shared> {
        let mut sharing = Sharing::new(tree, entries);
        for (donor, manifest) in self.donors(artifact, version) {
            sharing.share_with(&donor, &manifest)?;
        }
        sharing.follow_hard_links()?;
        let bytes = sharing.shared.iter().map(|&at| entries[at].size).sum();
        Ok(Shared { files: sharing.shared.len() as u64, bytes })
    }

    /// The versions to look through: the one being replaced, current, then the newest. Opened one at a time, since a
    /// manifest may be large.
    fn donors(
        &self,
        artifact: &ArtifactName,
        version: &VersionName,
    ) -> impl Iterator<Item = (Version, Arc<Manifest>)> + use<'_> {
        let holding = self.holding(artifact);
        let mut heads = holding.newest_first();
        // A stable sort: the rest stays newest first.
        heads.sort_by_key(|head| (head.version != *version, Some(&head.version) != holding.current.as_ref()));
        let heads: Vec<_> = heads.into_iter().take(LOOKED_AT).cloned().collect();
        heads.into_iter().filter_map(|head| {
            let opened = self.open_version(&head.artifact, &head.version);
            let read = opened.and_then(|donor| self.manifest(&donor).map(|manifest| (donor, manifest)));
            read.inspect_err(|error| {
                tracing::warn!(artifact = %head.artifact, version = %head.version, %error, "no content shared with it");
            })
            .ok()
        })
    }
}

/// A staged tree whose files are being shared.
struct Sharing<'a> {
    tree: &'a Dir,
    entries: &'a [Entry],
    /// How many further names each file has in this tree.
    names: HashMap<&'a [u8], u64>,
    /// Which entries are shared by now.
    shared: HashSet<usize>,
    /// Until the file system refuses one.
    reflinks: bool,
}

/// A file of the donor that has the content of a staged one.
struct Donated<'a> {
    donor: &'a Version,
    /// The directory it is in.
    dir: &'a Dir,
    name: RelPath,
    entry: &'a Entry,
    /// As it stands there.
    stat: Stat,
    /// Its bytes are known by that.
    known: bool,
}

impl<'a> Sharing<'a> {
    fn new(tree: &'a Dir, entries: &'a [Entry]) -> Self {
        let mut names = HashMap::new();
        for entry in entries.iter().filter(|entry| entry.kind == EntryType::Hardlink) {
            *names.entry(entry.target.as_deref().unwrap_or_default()).or_default() += 1;
        }
        Self { tree, entries, names, shared: HashSet::new(), reflinks: true }
    }

    fn share_with(&mut self, donor: &Version, manifest: &Manifest) -> fs::Result<()> {
        let mut found = self.found_in(&manifest.entries);
        // Directory by directory: each is made writable and given its times back once.
        found.sort_by(|(a, _), (b, _)| above(&self.entries[*a]).cmp(&above(&self.entries[*b])));
        let entries = self.entries;
        for group in found.chunk_by(|(a, _), (b, _)| above(&entries[*a]) == above(&entries[*b])) {
            let Some((first, _)) = group.first() else { continue };
            self.change_directory(entries[*first].path.parent().as_ref(), |sharing, dir| {
                let mut there = There { donor, last: None };
                for (at, other) in group {
                    if sharing.share_file(&mut there, other, dir, &entries[*at])? {
                        sharing.shared.insert(*at);
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The files to share, each with the donor's entry of the same content: that of the same path, else any.
    fn found_in<'d>(&self, donor: &'d [Entry]) -> Vec<(usize, &'d Entry)> {
        let of_donor = donor.iter().filter_map(|entry| Some((content(entry)?, entry)));
        let by_content: HashMap<&[u8; 32], &Entry> = of_donor.collect();
        let find = |entry: &Entry| {
            let wanted = content(entry)?;
            let there = donor.binary_search_by(|other| other.path.cmp(&entry.path)).ok().map(|at| &donor[at]);
            there.filter(|other| content(other) == Some(wanted)).or_else(|| by_content.get(wanted).copied())
        };
        let unshared = self.entries.iter().enumerate().filter(|(at, _)| !self.shared.contains(at));
        unshared.filter_map(|(at, entry)| Some((at, find(entry)?))).collect()
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

    /// Puts the donor's content in the place of the staged file; false where that keeps its own copy.
    fn share_file(&mut self, there: &mut There<'_>, other: &Entry, dir: &Dir, entry: &Entry) -> fs::Result<bool> {
        let name = last(&entry.path);
        let beside = dir.temporary_name(&name)?;
        let donated = match there.donated(other) {
            Ok(Some(donated)) => donated,
            Ok(None) => return Ok(false),
            Err(error) => {
                tracing::debug!(error = crate::intent::error_chain(&error), "content not shared");
                return Ok(false);
            }
        };
        match self.make_beside(&donated, dir, &beside, entry) {
            Ok(true) => {
                dir.rename(&beside, dir, &name, Rename::Replace)?;
                if let (Some(after), Some(sha256)) = (dir.stat(&name)?, &entry.sha256) {
                    donated.donor.follow(&donated.stat, &after, sha256);
                }
                return Ok(true);
            }
            Ok(false) => {}
            // Nothing depends on it: the file has its own copy already.
            Err(error) => tracing::debug!(error = crate::intent::error_chain(&error), "content not shared"),
        }
        dir.remove_tree(&beside)?;
        Ok(false)
    }

    /// Makes `beside` of the donor's file. True when it is the staged file in content and metadata; else something may
    /// be left there.
    fn make_beside(&mut self, from: &Donated<'_>, dir: &Dir, beside: &RelPath, entry: &Entry) -> fs::Result<bool> {
        let further = self.names.get(entry.path.as_bytes()).copied().unwrap_or(0);
        if agree(entry, from.entry) && from.stat.links + 1 + further <= MOST_NAMES {
            match fs::hard_link(from.dir, &from.name, dir, beside) {
                Ok(()) => return from.is_linked(dir, beside, entry),
                Err(error) => tracing::debug!(%error, path = %entry.path, "no hard link to the content"),
            }
        }
        if !self.reflinks {
            return Ok(false);
        }
        let source = from.dir.open_file(&from.name)?;
        let to = dir.create_file(beside, 0o600)?;
        if let Err(error) = fs::reflink(&source, &to) {
            tracing::debug!(%error, "this file system shares no content by reflink");
            self.reflinks = false;
            return Ok(false);
        }
        apply_meta(&to, entry.path.as_path(), &meta(entry))?;
        // What was cloned is what stood there from before until after it.
        let stayed = Dir::stat_file(&source, entry.path.as_path())?.stamp == from.stat.stamp;
        Ok(stayed && (from.known || from.is_same(dir, beside, entry)?))
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
                fs::hard_link(sharing.tree, &entries[first].path, dir, &beside)
                    .map_err(|e| fs::Error::new("link", &dir.path_of(&name), e))?;
                dir.rename(&beside, dir, &name, Rename::Replace)
            })?;
        }
        Ok(())
    }
}

/// The digest of a file that has content to share.
fn content(entry: &Entry) -> Option<&[u8; 32]> {
    entry.sha256.as_ref().filter(|_| entry.kind == EntryType::File && entry.size > 0)
}

/// Whether two entries of the same content can be one inode.
fn agree(a: &Entry, b: &Entry) -> bool {
    let shown = |entry: &Entry| (entry.size, store_mode(entry.mode), entry.uid, entry.gid, entry.mtime);
    shown(a) == shown(b)
}

/// The donor's directories, the last one held open: what stands together there mostly stands together here.
struct There<'a> {
    donor: &'a Version,
    last: Option<(Option<RelPath>, Dir)>,
}

impl There<'_> {
    /// The donor's file, where it is as its manifest says.
    fn donated<'d>(&'d mut self, entry: &'d Entry) -> fs::Result<Option<Donated<'d>>> {
        let Self { donor, last } = self;
        let parent = entry.path.parent();
        let (_, dir) = match last.take() {
            Some((path, dir)) if path == parent => last.insert((path, dir)),
            _ => {
                let tree = donor.tree();
                let dir = parent.as_ref().map_or_else(|| Ok(tree.clone()), |parent| tree.open_dir(parent))?;
                last.insert((parent, dir))
            }
        };
        let (donor, name) = (*donor, self::last(&entry.path));
        let found = dir.stat(&name)?;
        let expected = (Kind::File, entry.size, store_mode(entry.mode), entry.uid, entry.gid, entry.mtime_parts());
        let as_told = |stat: &Stat| (stat.kind, stat.size, stat.mode, stat.uid, stat.gid, stat.mtime) == expected;
        let Some(stat) = found.filter(as_told) else {
            tell_damage(donor, entry);
            return Ok(None);
        };
        let known = entry.sha256.as_ref().is_some_and(|sha256| donor.knows(&stat, sha256));
        Ok(Some(Donated { donor, dir, name, entry, stat, known }))
    }
}

impl Donated<'_> {
    /// Whether `beside` is a name of this very file, whose bytes are those of the staged one.
    fn is_linked(&self, dir: &Dir, beside: &RelPath, entry: &Entry) -> fs::Result<bool> {
        // Looked at under its new name: that is the inode which would stand in the tree, whatever the donor's path is.
        let Some(linked) = dir.stat(beside)? else { return Ok(false) };
        if !content_stayed(&self.stat, &linked) {
            return Ok(false);
        }
        if self.known {
            return Ok(true);
        }
        // Who has another name of it may write to it meanwhile.
        Ok(self.is_same(dir, beside, entry)? && dir.stat(beside)?.is_some_and(|after| after.stamp == linked.stamp))
    }

    /// Whether `beside`, made of it, has the bytes of the staged file.
    fn is_same(&self, dir: &Dir, beside: &RelPath, entry: &Entry) -> fs::Result<bool> {
        let (made, staged) = (dir.open_file(beside)?, dir.open_file(&last(&entry.path))?);
        let same = same_bytes(&made, &staged, entry.size);
        let same = same.map_err(|e| fs::Error::new("read", &dir.path_of(beside), e))?;
        if !same {
            tell_damage(self.donor, self.entry);
        }
        Ok(same)
    }
}

/// Whoever mends takes it from here.
fn tell_damage(donor: &Version, entry: &Entry) {
    tracing::warn!(artifact = %donor.head().artifact, version = %donor.head().version, path = %entry.path,
        "a stored file is not as its manifest says: its content is not shared");
    donor.report(format!("{} was changed after it was published", entry.path));
}

fn same_bytes(a: &File, b: &File, size: u64) -> io::Result<bool> {
    let piece = usize::try_from(size).map_or(PIECE, |size| size.clamp(1, PIECE));
    let mut pieces = [vec![0; piece], vec![0; piece]];
    loop {
        let [left, right] = &mut pieces;
        let (n, m) = (read_full(a, left)?, read_full(b, right)?);
        if left[..n] != right[..m] {
            return Ok(false);
        }
        if n == 0 {
            return Ok(true);
        }
    }
}

fn read_full(mut file: &File, piece: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < piece.len() {
        match file.read(&mut piece[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// The directory that holds an entry, as bytes.
fn above(entry: &Entry) -> Option<&[u8]> {
    entry.path.split_last().0
}

fn last(path: &RelPath) -> RelPath {
    RelPath::parse(path.file_name()).unwrap_or_else(|e| unreachable!("it is a component of a path: {e}"))
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
        house.store.remove_version(&"os".parse().unwrap(), &"1".parse().unwrap()).unwrap();
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
