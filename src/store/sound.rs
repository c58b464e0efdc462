//! Which states of which files are known to have the bytes that their manifests say, and what was found to have others.
//!
//! A published file never changes, but whoever has a hard link to it and is root may write to it and set its time back.
//! Its ctime tells: that nobody sets. So each file's state (inode, size, mtime, ctime) is remembered when its bytes
//! were last known, and a file in any other state is read before it is handed out. The daemon's own links change the
//! ctime too, and are followed ([`Version::follow`]). What a pod does that unlinks its seed is seen by a few files
//! ([`super::Telltales`]); the files are read in the background then, or by the next who hands them out.
//!
//! Only a fingerprint of each state is kept, with the digest that goes with it: a stale one fits nothing, so nothing
//! needs to be forgotten in time. Left open: a write in the very instants between the daemon's look at a file and its
//! own link, with the time set back as quickly; the scrub finds that.

use std::collections::{HashMap, HashSet, hash_map};
use std::fs::File;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;

use super::layout::{lock, own};
use super::{Entry, EntryType, Store, Version};
use crate::fs::{self, Dir, RelPath, Stat, fail_point};

/// States remembered at most, 16 bytes each; over it all are forgotten and learnt again.
const MOST: usize = 1_000_000;
/// How often a file is read while its state changes. Who may write to a directory that has a name of it renames that.
const READINGS: usize = 8;
/// How long one who wants a file judged waits for others who read it for that; after that it is read beside them.
const PATIENCE: Duration = Duration::from_secs(60);
/// Reports that may wait; of one version there is one.
const REPORTS: usize = 1024;
const MAGIC: &[u8] = b"seedcache sound 2\n";

/// What is known of the files of all versions.
#[derive(Debug, Default)]
pub(super) struct Soundness {
    prints: Mutex<Prints>,
    /// The files that are being read to be judged.
    judging: Mutex<HashMap<Case, Arc<Verdict>>>,
    reports: Mutex<Vec<DamageReport>>,
    reported: Notify,
}

/// What is known of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// It is the one that the manifest says.
    Sound,
    /// It is another one.
    Damaged,
    /// Its state changed with each reading, and what was read first may have been written over: no word on it.
    Unsettled,
}

/// A file, and the digest that it is to have.
type Case = (u64, u64, [u8; 32]);

/// What one who reads a file finds, for all who wait for it.
#[derive(Debug, Default)]
struct Verdict {
    /// Once it is over; the inner one is missing where the reading failed.
    over: Mutex<Option<Option<Judged>>>,
    given: Condvar,
}

/// One who reads a file; it is over, whatever became of it, when this is dropped.
struct Reading<'a> {
    all: &'a Soundness,
    case: Case,
    judged: Option<Judged>,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if let Some(verdict) = lock(&self.all.judging).remove(&self.case) {
            *lock(&verdict.over) = Some(self.judged);
            verdict.given.notify_all();
        }
    }
}

impl Verdict {
    /// `None` where the reading failed, or takes too long.
    fn wait(&self, limit: Duration) -> Option<Judged> {
        let over = self.given.wait_timeout_while(lock(&self.over), limit, |over| over.is_none());
        over.unwrap_or_else(PoisonError::into_inner).0.flatten()
    }
}

/// Damage that somebody came across.
#[derive(Debug)]
pub struct DamageReport {
    /// The version as it was opened.
    pub version: Version,
    /// What is wrong with it.
    pub what: String,
}

/// One block of SHA-256 holds it: a seed of a large tree asks for several of each of its files.
fn fingerprint(stat: &Stat, sha256: &[u8; 32]) -> u128 {
    let stamp = &stat.stamp;
    // Nanoseconds of two times 584 years apart look the same; the digest is cut to what the block has room for.
    let numbers = [stamp.dev, stamp.ino, stamp.size, stamp.mtime as u64, stamp.ctime as u64];
    let mut state = [0u8; 55];
    let (fixed, digest) = state.split_at_mut(40);
    for (place, number) in fixed.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    digest.copy_from_slice(&sha256[..15]);
    let hashed: [u8; 32] = Sha256::digest(state).into();
    let (half, _) = hashed.split_at(16);
    u128::from_le_bytes(half.try_into().unwrap_or_else(|_| unreachable!("16 of 32 bytes are 16 bytes")))
}

/// Fingerprints, which are evenly spread as they are.
type Prints = HashSet<u128, BuildHasherDefault<Spread>>;

/// The low half of a fingerprint as its hash.
#[derive(Debug, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, &byte| hash.rotate_left(8) ^ u64::from(byte));
    }

    fn write_u128(&mut self, print: u128) {
        self.0 = print as u64;
    }
}

impl Soundness {
    /// The right to read a file, or what another will find who has it.
    fn begin(&self, case: Case) -> Result<Reading<'_>, Arc<Verdict>> {
        match lock(&self.judging).entry(case) {
            hash_map::Entry::Occupied(others) => Err(others.get().clone()),
            hash_map::Entry::Vacant(free) => {
                free.insert(Arc::default());
                Ok(Reading { all: self, case, judged: None })
            }
        }
    }

    pub(super) fn learn(&self, stat: &Stat, sha256: &[u8; 32]) {
        let print = fingerprint(stat, sha256);
        let mut prints = lock(&self.prints);
        if prints.len() >= MOST {
            prints.clear();
        }
        prints.insert(print);
    }

    pub(super) fn knows(&self, stat: &Stat, sha256: &[u8; 32]) -> bool {
        let print = fingerprint(stat, sha256);
        lock(&self.prints).contains(&print)
    }

    /// Learns the files of a tree that was just written, before anyone else can reach them. Those that have names in
    /// other versions, too, can be reached: they are known from when they were compared, or not at all.
    pub(super) fn learn_tree(&self, tree: &Dir, entries: &[Entry]) -> fs::Result<()> {
        let mut names: HashMap<&[u8], u64> = HashMap::new();
        for entry in entries.iter().filter(|entry| entry.kind == EntryType::Hardlink) {
            *names.entry(entry.target.as_deref().unwrap_or_default()).or_insert(1) += 1;
        }
        let mut last: Option<(Option<RelPath>, Dir)> = None;
        for entry in entries.iter().filter(|entry| entry.kind == EntryType::File) {
            let Some(sha256) = &entry.sha256 else { continue };
            let parent = entry.path.parent();
            let dir = match last.take() {
                Some((at, dir)) if at == parent => dir,
                _ => parent.as_ref().map_or_else(|| Ok(tree.clone()), |parent| tree.open_dir(parent))?,
            };
            let name = RelPath::parse(entry.path.file_name())
                .unwrap_or_else(|e| unreachable!("a component of a checked path: {e}"));
            let here = names.get(entry.path.as_bytes()).copied().unwrap_or(1);
            if let Some(stat) = dir.stat(&name)?.filter(|stat| stat.links <= here) {
                self.learn(&stat, sha256);
            }
            last = Some((parent, dir));
        }
        Ok(())
    }

    /// What an earlier run knew.
    pub(super) fn load(root: &Dir) -> Self {
        let read = root.read(&own("sound"), (MAGIC.len() + 32 + 16 * MOST) as u64);
        let prints = read.ok().and_then(|bytes| parse(&bytes)).unwrap_or_default();
        Self { prints: Mutex::new(prints), ..Self::default() }
    }

    fn written(&self) -> Vec<u8> {
        let prints = lock(&self.prints);
        let body: Vec<u8> = prints.iter().flat_map(|print| print.to_le_bytes()).collect();
        [MAGIC, &Sha256::digest(&body), &body].concat()
    }
}

/// `None` where it is damaged: then every file is read once more.
fn parse(bytes: &[u8]) -> Option<Prints> {
    let (digest, body) = bytes.strip_prefix(MAGIC)?.split_at_checked(32)?;
    if *Sha256::digest(body) != *digest {
        return None;
    }
    let (prints, rest) = body.as_chunks::<16>();
    rest.is_empty().then(|| prints.iter().map(|print| u128::from_le_bytes(*print)).collect())
}

impl Version {
    /// Whether a file of the tree is known to have this content, by its state alone.
    pub fn knows(&self, stat: &Stat, sha256: &[u8; 32]) -> bool {
        self.soundness.knows(stat, sha256)
    }

    /// Whether an open file of the tree has this content: by its state where that is known, else it is read, and known
    /// from then on where what was written to it reaches the file system. Bytes that change meanwhile count as other ones.
    /// However many want to know that at once, one reads.
    pub fn judge(&self, file: &File, sha256: &[u8; 32], name: &std::path::Path) -> fs::Result<Judged> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let stat = Dir::stat_file(file, name)?;
            if self.knows(&stat, sha256) {
                return Ok(Judged::Sound);
            }
            let case = (stat.stamp.dev, stat.stamp.ino, *sha256);
            let left = deadline.saturating_duration_since(Instant::now());
            match self.soundness.begin(case) {
                Ok(mut reading) => {
                    let judged = self.read_to_judge(file, sha256, name);
                    reading.judged = judged.as_ref().ok().copied();
                    return judged;
                }
                Err(_) if left.is_zero() => return self.read_to_judge(file, sha256, name),
                Err(others) => match others.wait(left) {
                    Some(judged @ (Judged::Damaged | Judged::Unsettled)) => return Ok(judged),
                    // What was found sound may have been written to since: its state tells.
                    Some(Judged::Sound) | None => {}
                },
            }
        }
    }

    fn read_to_judge(&self, file: &File, sha256: &[u8; 32], name: &std::path::Path) -> fs::Result<Judged> {
        for _ in 0..READINGS {
            let before = Dir::stat_file(file, name)?;
            if self.knows(&before, sha256) {
                return Ok(Judged::Sound);
            }
            // Where that fails it is read all the same, but the next who hands it out reads it again.
            let may_learn = fs::write_back(file).is_ok();
            let found = read_again(file).map_err(|e| fs::Error::new("read", name, e))?;
            let after = Dir::stat_file(file, name)?;
            if found != *sha256 || !content_stayed(&before, &after) {
                return Ok(Judged::Damaged);
            }
            if before.stamp == after.stamp {
                if may_learn {
                    self.soundness.learn(&after, sha256);
                }
                return Ok(Judged::Sound);
            }
        }
        Ok(Judged::Unsettled)
    }

    /// Takes note that the daemon itself changed the number of a file's names: known before, it is known after.
    pub fn follow(&self, before: &Stat, after: &Stat, sha256: &[u8; 32]) {
        if content_stayed(before, after) {
            let (before, after) = (fingerprint(before, sha256), fingerprint(after, sha256));
            let mut prints = lock(&self.soundness.prints);
            // Mostly as many as before.
            if !prints.remove(&before) && prints.len() >= MOST {
                prints.clear();
            }
            prints.insert(after);
        }
    }

    /// Tells that this version is damaged; whoever keeps house takes it out of service and mends it.
    pub fn report(&self, what: String) {
        let mut reports = lock(&self.soundness.reports);
        let same = |report: &DamageReport| Arc::ptr_eq(report.version.head(), self.head());
        if reports.len() < REPORTS && !reports.iter().any(same) {
            reports.push(DamageReport { version: self.clone(), what });
        }
        drop(reports);
        self.soundness.reported.notify_one();
    }
}

/// All but the number of names and the ctime is as it was.
pub(super) fn content_stayed(a: &Stat, b: &Stat) -> bool {
    let of = |stat: &Stat| (stat.stamp.dev, stat.stamp.ino, stat.size, stat.mtime);
    of(a) == of(b)
}

/// The digest of all of a file, whose place for reading stays where it is. Through the cache: it is read again soon.
fn read_again(file: &File) -> io::Result<[u8; 32]> {
    use std::os::unix::fs::FileExt as _;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; 256 * 1024];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => return Ok(hasher.finalize().into()),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                at += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

impl Store {
    /// Waits for reports of damage and takes them.
    pub async fn damage_reports(&self) -> Vec<DamageReport> {
        loop {
            let reports = std::mem::take(&mut *lock(&self.soundness.reports));
            if !reports.is_empty() {
                return reports;
            }
            self.soundness.reported.notified().await;
        }
    }

    /// Writes down which files are known to be good, so that the next start need not read them.
    pub fn remember_sound(&self) -> fs::Result<()> {
        fail_point("store.sound.before-write");
        self.root.write_atomic(&own("sound"), &self.soundness.written(), 0o600)?;
        fail_point("store.sound.after-write");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_reads_and_the_others_hear_of_it() {
        let (soundness, case) = (Soundness::default(), (1, 2, [3; 32]));
        let mut reading = soundness.begin(case).ok().unwrap();
        assert!(soundness.begin((1, 2, [4; 32])).is_ok(), "another digest is another question");
        let others = soundness.begin(case).err().unwrap();
        assert_eq!(others.wait(Duration::from_millis(1)), None, "it is not over");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| others.wait(PATIENCE));
            reading.judged = Some(Judged::Unsettled);
            drop(reading);
            assert_eq!(waits.join().unwrap(), Some(Judged::Unsettled));
        });
        // It failed, or panicked.
        let failing = soundness.begin(case).ok().unwrap();
        let others = soundness.begin(case).err().unwrap();
        drop(failing);
        assert_eq!(others.wait(PATIENCE), None);
        assert!(soundness.begin(case).is_ok());
    }
}
