//! The room that the store may take: what it takes now, what is promised to downloads, and what is still to be had.
//!
//! Promises are counted together and made before bytes are written, so that what fits alone but not with the others is
//! refused in time. Bytes are counted as files show them; room that a running download has set aside for its files, which
//! the disk has less by then, counts as what it has taken, too.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;

use super::layout::{lock, own};
use super::sizes::entries;
use super::{Age, Store};
use crate::fs::{self, Dir, Kind, RelPath, fail_point};
use crate::intent::{ArtifactName, MinFree, VersionName};

/// How long what is in quarantine is kept for somebody to look at.
const QUARANTINE_TIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// The limits, as the settings give them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Bytes that the store may take; `None`: as many as the file system has.
    pub max_bytes: Option<u64>,
    /// Room that stays free on its file system.
    pub min_free: MinFree,
}

/// What there is, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that the store may take.
    pub max_bytes: Option<u64>,
    /// Bytes that it takes, promised ones included.
    pub used: u64,
    /// Bytes that have to stay free on the file system.
    pub min_free: u64,
    /// Bytes free on it, less those that are promised and not taken yet.
    pub free: u64,
}

impl Room {
    /// Bytes that have to go for `ask` more to fit.
    pub fn short(&self, ask: u64) -> u64 {
        let over = self.max_bytes.map_or(0, |most| self.used.saturating_add(ask).saturating_sub(most));
        let under = self.min_free.saturating_add(ask).saturating_sub(self.free);
        over.max(under)
    }

    /// Bytes that had better go: nothing while all fits, else down to 5 % below the limit that is in the way, so that
    /// not each download has to make room again.
    pub fn to_free(&self, ask: u64) -> u64 {
        if self.short(ask) == 0 {
            return 0;
        }
        let lower = Room {
            max_bytes: self.max_bytes.map(|most| most - most / 20),
            min_free: self.min_free.saturating_add(self.min_free / 20),
            ..*self
        };
        lower.short(ask)
    }
}

/// What a running download has taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// Bytes written.
    pub written: u64,
    /// Bytes of room set aside for what it writes next.
    pub aside: u64,
}

/// What a download was promised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Promise {
    bytes: u64,
    taken: Taken,
}

impl Promise {
    /// Bytes that the disk is yet to lose by it.
    fn open(&self) -> u64 {
        self.bytes.saturating_sub(self.taken.written.saturating_add(self.taken.aside))
    }
}

/// What running downloads were promised.
#[derive(Debug, Default)]
pub struct Promises(Mutex<BTreeMap<ArtifactName, Promise>>);

impl Promises {
    /// Sets what an artifact's download is promised.
    pub fn set(&self, artifact: &ArtifactName, bytes: u64) {
        lock(&self.0).entry(artifact.clone()).or_default().bytes = bytes;
    }

    /// Notes what it has taken by now.
    pub fn note(&self, artifact: &ArtifactName, taken: Taken) {
        lock(&self.0).entry(artifact.clone()).or_default().taken = taken;
    }

    fn aside(&self, artifact: &ArtifactName) -> u64 {
        lock(&self.0).get(artifact).map_or(0, |promise| promise.taken.aside)
    }

    fn forget(&self, artifact: &ArtifactName) {
        lock(&self.0).remove(artifact);
    }

    /// Bytes promised in all to downloads of other artifacts, and how many of those are not taken yet.
    fn others(&self, except: Option<&ArtifactName>) -> (u64, u64) {
        let promises = lock(&self.0);
        let others = promises.iter().filter(|(artifact, _)| Some(*artifact) != except).map(|(_, promise)| *promise);
        others
            .fold((0, 0), |(bytes, open), p| (u64::saturating_add(bytes, p.bytes), u64::saturating_add(open, p.open())))
    }

    fn runs(&self, artifact: &RelPath) -> bool {
        lock(&self.0).keys().any(|name| name.as_str().as_bytes() == artifact.as_bytes())
    }
}

impl Store {
    /// A download is over. What it leaves in its staging directory counts by itself again, as it is now.
    pub fn end_promise(&self, promises: &Promises, artifact: &ArtifactName) {
        self.sizes.forget();
        promises.forget(artifact);
    }

    /// What there is for a download of `asking` (for nobody in particular where `None`): its own promise and what it has
    /// staged count as not taken. Walks staging and quarantine.
    pub fn room(&self, limits: Limits, promises: &Promises, asking: Option<&ArtifactName>) -> fs::Result<Room> {
        self.room_beside(limits, promises, asking, None)
    }

    /// As [`Store::room`] for a running download that has `staged` so many bytes by its own account: what it has staged
    /// may be a large tree, which it changes meanwhile, and is not walked. What others have there, and what is in
    /// quarantine, is taken as it was when it was walked last, unless that is long ago for how long it took: this is asked
    /// many times a second.
    pub fn room_while(
        &self,
        limits: Limits,
        promises: &Promises,
        asking: &ArtifactName,
        staged: u64,
    ) -> fs::Result<Room> {
        self.room_beside(limits, promises, Some(asking), Some(staged))
    }

    fn room_beside(
        &self,
        limits: Limits,
        promises: &Promises,
        asking: Option<&ArtifactName>,
        told: Option<u64>,
    ) -> fs::Result<Room> {
        let size = |name: &RelPath, walk: &dyn Fn() -> u64| match told {
            Some(_) => self.sizes.lately(name, walk),
            None => walk(),
        };
        let space = self.space()?;
        let heads = self.inventory();
        let heads = heads.values().flat_map(|holding| holding.versions.values());
        let kept = heads.map(|head| head.bytes + if head.archive.kept { head.archive.size } else { 0 });
        let mut used: u64 = kept.sum();
        let mut staged = 0;
        for entry in self.sizes.entries(&self.staging) {
            if asking.is_some_and(|name| name.as_str().as_bytes() == entry.name.as_bytes()) {
                staged = told.unwrap_or_else(|| self.sizes.size_of(&self.staging, &entry));
            } else if !promises.runs(&entry.name) {
                // What running downloads have staged is part of their promises.
                used = used.saturating_add(size(&entry.name, &|| self.sizes.size_of(&self.staging, &entry)));
            }
        }
        // No artifact is called so.
        used = used.saturating_add(size(&own(".quarantine"), &|| self.quarantined()));
        staged = staged.saturating_add(asking.map_or(0, |asking| promises.aside(asking)));
        let (promised, open) = promises.others(asking);
        let min_free = match limits.min_free {
            MinFree::Bytes(bytes) => bytes,
            MinFree::Percent(percent) => (space.total as f64 * percent / 100.0) as u64,
        };
        Ok(Room {
            max_bytes: limits.max_bytes,
            used: used.saturating_add(promised),
            min_free,
            free: space.free.saturating_add(staged).saturating_sub(open),
        })
    }

    /// Artifacts of which something is staged, or was.
    pub fn staged(&self) -> fs::Result<Vec<ArtifactName>> {
        let name = |entry: fs::DirEntry| entry.name.to_str()?.parse().ok();
        Ok(entries(&self.staging)?.into_iter().filter_map(name).collect())
    }

    /// What an artifact has staged takes so many bytes.
    pub fn staged_bytes(&self, artifact: &ArtifactName) -> u64 {
        self.sizes.size_of(&self.staging, &fs::DirEntry { name: artifact.as_component(), kind: Kind::Dir })
    }

    /// Removes what is staged of an artifact, of which nothing may be running.
    pub fn discard_staged(&self, artifact: &ArtifactName) -> fs::Result<()> {
        fail_point("store.staged.before-removal");
        self.staging.remove_tree(&artifact.as_component())?;
        fail_point("store.staged.after-removal");
        Ok(())
    }

    /// Bytes in quarantine.
    pub fn quarantined(&self) -> u64 {
        let entries = self.sizes.entries(&self.quarantine);
        entries.iter().fold(0, |sum, entry| sum.saturating_add(self.sizes.size_of(&self.quarantine, entry)))
    }

    /// Bytes of what is in quarantine under a version's name.
    pub fn quarantined_version(&self, artifact: &ArtifactName, version: &VersionName) -> u64 {
        match self.quarantine.open_dir(&artifact.as_component()) {
            Ok(dir) => self.sizes.size_of(&dir, &fs::DirEntry { name: version.as_component(), kind: Kind::Dir }),
            Err(error) => {
                self.sizes.passed_over(&error);
                0
            }
        }
    }

    /// Bytes in quarantine that may go: all but versions that are still to be had again.
    pub fn quarantined_spare(&self) -> u64 {
        let mut sum = 0u64;
        self.each_spare(|parent, _, entry| sum = sum.saturating_add(self.sizes.size_of(parent, entry)));
        sum
    }

    /// Removes what has been in quarantine for a week, or all of it when room is `needed`, but for versions that are
    /// still to be had again. Returns the bytes freed. What cannot be moved away is told of when all else is.
    pub fn clear_quarantine(&self, age: Age, needed: bool) -> fs::Result<u64> {
        let (mut freed, mut failed) = (0u64, None);
        self.each_spare(|parent, of, entry| {
            if !self.is_due(parent, entry, age, needed) {
                return;
            }
            let bytes = self.sizes.size_of(parent, entry);
            // Nothing is put into quarantine meanwhile: what is there by now may be another, and one to be had again.
            let _alone = lock(&self.switching);
            if of.is_some() && !(self.is_spare(parent, entry) && self.is_due(parent, entry, age, needed)) {
                return;
            }
            fail_point("store.quarantine.before-removal");
            // In one step: what is half removed has no reason beside it.
            let readers = || self.quarantine_readers.take(of?, &entry.name);
            match self.drain(parent, &entry.name, readers) {
                Ok(()) => freed = freed.saturating_add(bytes),
                Err(error) => failed = failed.take().or(Some(error)),
            }
            fail_point("store.quarantine.after-removal");
        });
        self.tidy();
        failed.map_or(Ok(freed), Err)
    }

    /// Whether an entry in quarantine is there, and is to go for its age, or since room is `needed`.
    fn is_due(&self, parent: &Dir, entry: &fs::DirEntry, age: Age, needed: bool) -> bool {
        let put = match parent.stat(&entry.name) {
            Ok(None) => return false,
            Ok(Some(stat)) => Timestamp::new(stat.mtime.0, stat.mtime.1.cast_signed()).unwrap_or(age.now),
            // Nobody knows since when it is there.
            Err(error) => {
                self.sizes.passed_over(&error);
                age.now
            }
        };
        needed || age.young(put, QUARANTINE_TIME).is_none()
    }

    /// Gives the directory that each lies in, and whose it is where it is an artifact's. What cannot be looked into is spare,
    /// too, unless that may pass: nobody can take anything up from there.
    fn each_spare(&self, mut each: impl FnMut(&Dir, Option<&RelPath>, &fs::DirEntry)) {
        for top in self.sizes.entries(&self.quarantine) {
            if top.name.as_bytes().starts_with(b".") || top.kind != Kind::Dir {
                each(&self.quarantine, None, &top);
                continue;
            }
            let listed = self.quarantine.open_dir(&top.name).and_then(|dir| Ok((entries(&dir)?, dir)));
            match listed {
                Ok((found, dir)) => {
                    let spare = found.iter().filter(|entry| self.is_spare(&dir, entry));
                    spare.for_each(|entry| each(&dir, Some(&top.name), entry));
                }
                Err(error) => {
                    if self.is_lost(&error) {
                        each(&self.quarantine, None, &top);
                    }
                }
            }
        }
    }

    /// Whether an entry of an artifact's quarantine is no version that is still to be had again.
    fn is_spare(&self, dir: &Dir, entry: &fs::DirEntry) -> bool {
        let repair = || dir.open_dir(&entry.name)?.stat(&own("repair.json"));
        entry.kind != Kind::Dir || repair().map_or_else(|error| self.is_lost(&error), |repair| repair.is_none())
    }

    fn is_lost(&self, error: &fs::Error) -> bool {
        self.sizes.passed_over(error);
        !error.is_passing()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;

    fn room(max_bytes: Option<u64>, used: u64, min_free: u64, free: u64) -> Room {
        Room { max_bytes, used, min_free, free }
    }

    #[test]
    fn the_tighter_limit_counts() {
        assert_eq!(room(None, 900, 0, 100).short(100), 0);
        assert_eq!(room(None, 900, 50, 100).short(100), 50);
        assert_eq!(room(Some(1000), 900, 0, 500).short(100), 0);
        assert_eq!(room(Some(1000), 900, 0, 500).short(300), 200);
        assert_eq!(room(Some(1000), 900, 400, 500).short(300), 200);
        assert_eq!(room(Some(1000), 900, 450, 500).short(300), 250);
        assert_eq!(room(Some(1000), u64::MAX, 0, 500).short(1), u64::MAX - 1000);
    }

    #[test]
    fn once_over_the_limit_more_is_freed_than_needed() {
        assert_eq!(room(Some(1000), 900, 0, 500).to_free(100), 0);
        assert_eq!(room(Some(1000), 900, 0, 500).to_free(101), 51);
        assert_eq!(room(None, 0, 100, 150).to_free(50), 0);
        assert_eq!(room(None, 0, 100, 150).to_free(51), 6);
    }

    #[test]
    fn promises_are_counted_together() {
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let promises = Promises::default();
        let promise = |artifact, bytes, written| {
            promises.note(artifact, Taken { written, aside: 0 });
            promises.set(artifact, bytes);
        };
        promise(&a, 100, 30);
        promise(&b, 50, 80);
        assert_eq!(promises.others(None), (150, 70));
        promises.note(&a, Taken { written: 30, aside: 50 });
        assert_eq!((promises.others(None), promises.aside(&a)), ((150, 20), 50), "what is set aside is free no more");
        assert_eq!(promises.others(Some(&a)), (50, 0));
        promises.forget(&b);
        assert_eq!(promises.others(Some(&a)), (0, 0));
    }

    #[test]
    fn staging_and_quarantine_count_but_for_what_was_promised() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let write = |path: &str, len: usize| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, vec![0; len]).unwrap();
        };
        write("staging/a/archive.part", 100);
        write("staging/b/version/tree/deep/file", 30);
        write("quarantine/a/.download/archive", 7);
        let limits = Limits { max_bytes: Some(1000), min_free: MinFree::Percent(50.0) };
        let promises = Promises::default();
        let used = |asking| store.room(limits, &promises, asking).unwrap().used;
        let a = "a".parse().unwrap();
        assert_eq!((used(None), used(Some(&a))), (137, 37));
        let room = |staged| store.room_while(limits, &promises, &a, staged).unwrap();
        let (none, much) = (room(0), room(1 << 50));
        assert_eq!((none.used, much.used), (37, 37));
        assert!(much.free > 1 << 50 && none.free < 1 << 50, "its own word counts, not what lies there");
        promises.set(&a, 500);
        promises.note(&a, Taken { written: 100, aside: 1 << 50 });
        assert!(room(0).free > 1 << 50, "its own");
        assert_eq!((used(None), used(Some(&a))), (537, 37));
        assert!(store.room(limits, &promises, Some(&a)).unwrap().free > 1 << 50, "what lies there does not show it");
        let room = store.room(limits, &promises, None).unwrap();
        assert_eq!(room.min_free, store.space().unwrap().total / 2);

        let (up, even) = (QUARANTINE_TIME, QUARANTINE_TIME);
        let age = Age { now: Timestamp::now(), up, even };
        let cleared = |age, needed| store.clear_quarantine(age, needed).unwrap();
        assert_eq!(cleared(age, false), 0);
        assert_eq!(cleared(Age { now: Timestamp::UNIX_EPOCH, ..age }, false), 0, "the clock was set back");
        let later = Age { now: Timestamp::now() + jiff::SignedDuration::from_hours(24 * 8), ..age };
        assert_eq!(cleared(Age { even: even - Duration::from_secs(1), ..later }, false), 0, "the clock jumped");
        assert_eq!(cleared(Age { up: Duration::from_secs(599), ..later }, false), 0, "it may be set right yet");
        assert_eq!(cleared(later, false), 7);
        write("quarantine/a/.download/archive", 9);
        assert_eq!(cleared(age, true), 9);
        assert_eq!(used(Some(&a)), 30);
    }

    #[test]
    fn what_a_download_leaves_is_counted_as_it_is_by_then() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (limits, promises) = (Limits { max_bytes: None, min_free: MinFree::Bytes(0) }, Promises::default());
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let idle = RelPath::parse("b").unwrap();
        // Walked a while ago, and good for a while to come.
        let walk = || {
            std::thread::sleep(Duration::from_millis(500));
            5
        };
        assert_eq!(store.sizes.lately(&idle, walk), 5);
        promises.set(&b, 100);
        std::fs::create_dir(dir.path().join("staging/b")).unwrap();
        std::fs::write(dir.path().join("staging/b/archive.part"), [0; 70]).unwrap();
        store.end_promise(&promises, &b);
        assert_eq!(store.room_while(limits, &promises, &a, 0).unwrap().used, 70);
    }

    #[test]
    fn what_cannot_be_looked_at_counts_as_empty_and_goes_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let write = |path: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, [0; 10]).unwrap();
        };
        let bad = ["quarantine/a/1/version/tree", "quarantine/a/2", "quarantine/b", "staging/a/tree", "staging/b"];
        bad.iter().for_each(|bad| write(&format!("{bad}/file")));
        write("quarantine/a/3/file");
        write("quarantine/a/1/reason.json");
        // To be written to, so that it can be moved, but not to be read.
        let mode = |mode| {
            use std::os::unix::fs::PermissionsExt as _;
            let set =
                |bad| std::fs::set_permissions(dir.path().join(bad), std::fs::Permissions::from_mode(mode)).unwrap();
            bad.iter().for_each(set);
        };
        mode(0o200);
        let limits = Limits { max_bytes: None, min_free: MinFree::Bytes(0) };
        let (promises, a) = (Promises::default(), "a".parse().unwrap());
        let age = store.age(Duration::ZERO);
        let found = fs::without_override(|| {
            let used = |asking| store.room(limits, &promises, asking).unwrap().used;
            let used = [used(None), store.room_while(limits, &promises, &a, 0).unwrap().used];
            (used, store.quarantined_spare(), store.staged_bytes(&a), store.clear_quarantine(age, true).unwrap())
        });
        assert_eq!(found, ([20, 20], 20, 0, 20));
        let left: Vec<_> = std::fs::read_dir(dir.path().join("quarantine")).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(std::fs::read_dir(dir.path().join("quarantine/a")).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_moved_from_quarantine_holds_up_nothing_else_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let at = |name: &str| dir.path().join("quarantine").join(name).join(".download");
        for name in ["a", "b", "c"] {
            std::fs::create_dir_all(at(name)).unwrap();
            std::fs::write(at(name).join("archive"), name).unwrap();
        }
        let fixed = fs::Immutable::new(&at("b"));
        store.clear_quarantine(store.age(Duration::ZERO), true).unwrap_err();
        assert_eq!(["a", "b", "c"].map(|name| at(name).exists()), [false, true, false]);
        drop(fixed);
        assert_eq!(store.clear_quarantine(store.age(Duration::ZERO), true).unwrap(), 1);
    }
}
