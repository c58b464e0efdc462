//! Donors: the versions on the node that a tree being made may have files in common with, and where each content is.
//!
//! What must hold: manifests only say where to look. Nothing here holds a donor back from being removed, since a download
//! may wait for the room that it takes; a file that is gone is not found, and that is all.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::layout::lock;
use super::{Entry, EntryType, Manifest, Store, Version, store_mode};
use crate::fs::{self, Dir, Kind, Meta, RelPath, Stat};
use crate::intent::{ArtifactName, VersionName};

/// So many versions of the artifact are looked through; content that left and came back later is stored anew.
const LOOKED_AT: usize = 3;
/// Files known at most, 80 bytes each and their paths: 10 MiB for a tree of 83,000 entries.
const MOST: usize = 1_000_000;
/// Files of one content looked at, so that a tree of nothing but equal files takes no square of its number.
const EQUAL: usize = 64;

/// What versions on the node have to share.
#[derive(Debug)]
pub struct Donors {
    /// Without a hold on them.
    versions: Vec<Version>,
    /// Sorted by content.
    files: Vec<DonorFile>,
    /// The paths of all of them.
    paths: Vec<u8>,
    pub(super) hand: Mutex<Hand>,
}

/// A file of a donor, as its manifest says.
#[derive(Debug)]
pub(super) struct DonorFile {
    pub(super) sha256: [u8; 32],
    size: u64,
    mtime: (i64, u32),
    mode: u32,
    owner: (u32, u32),
    path_at: u32,
    path_length: u16,
    version: u8,
    /// A file of this content was given or refused while the tree was unpacked: publishing need not look again.
    judged: AtomicBool,
}

/// What is at hand while files are given.
#[derive(Debug)]
pub(super) struct Hand {
    /// The donor's directory last used: what stands together there mostly stands together in the new tree.
    last: Option<(u8, Option<RelPath>, Dir)>,
    /// Until the file system refuses one.
    pub(super) reflinks: bool,
    /// Files given while unpacking, and their bytes.
    pub(super) given: (u64, u64),
    /// Which of them are links: the donor's file, and the path in the new tree where that is another one.
    pub(super) links: Vec<(u32, Option<Box<RelPath>>)>,
}

/// A donor's file as it was found.
pub(super) struct Found {
    pub(super) dir: Dir,
    pub(super) name: RelPath,
    pub(super) stat: Stat,
    /// Its bytes are known by that.
    pub(super) known: bool,
}

impl Store {
    /// The donors for the next version of an artifact: the one that is being replaced, if its name is known, current,
    /// then the newest. Their manifests are read one at a time, since one may be large.
    pub fn donors(&self, artifact: &ArtifactName, version: Option<&VersionName>) -> Donors {
        let holding = self.holding(artifact);
        let mut heads = holding.newest_first();
        // A stable sort: the rest stays newest first.
        heads.sort_by_key(|head| (Some(&head.version) != version, Some(&head.version) != holding.current.as_ref()));
        let hand = Hand { last: None, reflinks: true, given: (0, 0), links: Vec::new() };
        let mut donors = Donors { versions: vec![], files: vec![], paths: vec![], hand: Mutex::new(hand) };
        for head in heads.into_iter().take(LOOKED_AT) {
            let opened = self.open_version(&head.artifact, &head.version);
            match opened.and_then(|donor| self.manifest(&donor).map(|manifest| (donor, manifest))) {
                Ok((donor, manifest)) => donors.add(donor.not_held(), &manifest),
                Err(error) => {
                    tracing::warn!(artifact = %head.artifact, version = %head.version, %error, "no content shared with it");
                }
            }
        }
        donors
    }
}

impl Donors {
    fn add(&mut self, version: Version, manifest: &Manifest) {
        let index = self.versions.len() as u8;
        // What the first has is all new, what the others have mostly not: no room is taken that is not filled.
        let (mut files, is_first) = (Vec::new(), self.files.is_empty());
        if is_first {
            let wanted = || manifest.entries.iter().filter(|entry| content(entry).is_some());
            files.reserve_exact(wanted().count().min(MOST));
            self.paths.reserve_exact(wanted().map(|entry| entry.path.as_bytes().len()).sum());
        }
        for entry in &manifest.entries {
            let Some(sha256) = content(entry) else { continue };
            let Ok(path_at) = u32::try_from(self.paths.len()) else { break };
            if self.files.len() + files.len() == MOST {
                break;
            }
            let path = entry.path.as_bytes();
            let Ok(path_length) = u16::try_from(path.len()) else { continue };
            let file = DonorFile {
                sha256: *sha256,
                size: entry.size,
                mtime: entry.mtime_parts(),
                mode: store_mode(entry.mode),
                owner: (entry.uid, entry.gid),
                path_at,
                path_length,
                version: index,
                judged: AtomicBool::new(false),
            };
            // Mostly that is the same inode already.
            if !equal(&self.files, sha256).iter().take(EQUAL).any(|other| other.agrees(&file.meta())) {
                self.paths.extend_from_slice(path);
                files.push(file);
            }
        }
        if is_first {
            self.files = files;
        } else {
            self.files.reserve_exact(files.len());
            self.files.append(&mut files);
        }
        self.files.sort_unstable_by(|a, b| (&a.sha256, a.path_at).cmp(&(&b.sha256, b.path_at)));
        self.versions.push(version);
    }

    /// The files of this content: those that could be one inode with the wanted one and those that could not, each that
    /// of the same path first.
    pub(super) fn candidates<'a>(
        &'a self,
        sha256: &[u8; 32],
        meta: &Meta,
        path: &RelPath,
    ) -> (Vec<&'a DonorFile>, Vec<&'a DonorFile>) {
        let mut found: Vec<&DonorFile> = equal(&self.files, sha256).iter().take(EQUAL).collect();
        found.sort_by_key(|file| self.path_bytes(file) != path.as_bytes());
        found.into_iter().partition(|file| file.agrees(meta))
    }

    /// One of this content, if there is any.
    pub(super) fn of(&self, sha256: &[u8; 32]) -> Option<&DonorFile> {
        equal(&self.files, sha256).first()
    }

    /// Whether files of this content were given, or refused, while the tree was unpacked.
    pub(super) fn is_judged(&self, sha256: &[u8; 32]) -> bool {
        self.of(sha256).is_some_and(|file| file.judged.load(Relaxed))
    }

    pub(super) fn set_judged(&self, sha256: &[u8; 32]) {
        if let Some(file) = self.of(sha256) {
            file.judged.store(true, Relaxed);
        }
    }

    /// The number of a file of [`Donors::candidates`], and the file of a number.
    pub(super) fn number(&self, file: &DonorFile) -> u32 {
        let at = self.files.partition_point(|f| (&f.sha256, f.path_at) < (&file.sha256, file.path_at));
        at as u32
    }

    pub(super) fn file(&self, number: u32) -> &DonorFile {
        &self.files[number as usize]
    }

    pub(super) fn version(&self, file: &DonorFile) -> &Version {
        &self.versions[usize::from(file.version)]
    }

    fn path_bytes(&self, file: &DonorFile) -> &[u8] {
        let at = file.path_at as usize;
        &self.paths[at..at + usize::from(file.path_length)]
    }

    pub(super) fn path(&self, file: &DonorFile) -> RelPath {
        RelPath::parse(self.path_bytes(file)).unwrap_or_else(|e| unreachable!("it was the path of an entry: {e}"))
    }

    /// The file where it is as its manifest says; else that is told to whoever mends.
    pub(super) fn find(&self, hand: &mut Hand, file: &DonorFile) -> fs::Result<Option<Found>> {
        let (version, path) = (self.version(file), self.path(file));
        let parent = path.parent();
        let dir = match hand.last.take() {
            Some((of, above, dir)) if of == file.version && above == parent => dir,
            _ => {
                parent.as_ref().map_or_else(|| Ok(version.tree().clone()), |parent| version.tree().open_dir(parent))?
            }
        };
        hand.last = Some((file.version, parent, dir.clone()));
        let name = last(&path);
        let expected = (Kind::File, file.size, file.mode, file.owner, file.mtime);
        let as_told = |stat: &Stat| (stat.kind, stat.size, stat.mode, (stat.uid, stat.gid), stat.mtime) == expected;
        let Some(stat) = dir.stat(&name)?.filter(as_told) else {
            self.tell_damage(file);
            return Ok(None);
        };
        let known = version.knows(&stat, &file.sha256);
        Ok(Some(Found { dir, name, stat, known }))
    }

    /// Whoever mends takes it from here.
    pub(super) fn tell_damage(&self, file: &DonorFile) {
        let (version, path) = (self.version(file), self.path(file));
        tracing::warn!(artifact = %version.head().artifact, version = %version.head().version, %path,
            "a stored file is not as its manifest says: its content is not shared");
        version.report(format!("{path} was changed after it was published"));
    }

    /// Files given while unpacking, and their bytes.
    pub(super) fn given(&self) -> (u64, u64) {
        lock(&self.hand).given
    }
}

impl DonorFile {
    fn meta(&self) -> Meta {
        Meta { mode: self.mode, owner: Some(self.owner), mtime: self.mtime }
    }

    fn agrees(&self, meta: &Meta) -> bool {
        self.meta() == *meta
    }
}

/// The files of one content.
fn equal<'a>(files: &'a [DonorFile], sha256: &[u8; 32]) -> &'a [DonorFile] {
    let start = files.partition_point(|file| file.sha256 < *sha256);
    let equal = files[start..].partition_point(|file| file.sha256 == *sha256);
    &files[start..start + equal]
}

/// The digest of a file that has content to share.
pub(super) fn content(entry: &Entry) -> Option<&[u8; 32]> {
    entry.sha256.as_ref().filter(|_| entry.kind == EntryType::File && entry.size > 0)
}

pub(super) fn last(path: &RelPath) -> RelPath {
    RelPath::parse(path.file_name()).unwrap_or_else(|e| unreachable!("it is a component of a path: {e}"))
}
