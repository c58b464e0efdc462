//! Seeds one target: what is there is checked, what is wrong is mended, what is old is swapped whole.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::build::{Pair, build};
use super::busy::Busy;
use super::entry::Maker;
use super::mark::{Mark, Marks as _};
use super::mend::mend;
use super::owned::Names;
use super::place::{Place, same_inode};
use super::record::{MOST, Records};
use super::retired::{GRACE, Retired};
use super::staged::{Scratch, Settled, SwappedOut};
use super::standing::{Asked, Seed, Standing, Step, Switch, decide};
use super::target::Grounds;
use super::timed_look::{TimedLook, TimedLooks};
use super::tree::Layout;
use super::{Record, Rendered, Rung, SeedError, TargetError, rendered};
use crate::fs::{Dir, Kind, LinkMode, RelPath, Rename, fail_point};
use crate::intent::{ArtifactName, Digest, Link, Swap, VersionName};
use crate::store::{Entry, ManifestHead, Store, Version};

/// How long one who asks waits for another who works on the same target.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// How long the daemon waits for a client that works inside the same target, through a mount of its own. After that it
/// goes on: what both stage is theirs alone, and a swap that is torn by another is ended by the next seed.
const PATIENCE_INSIDE: Duration = Duration::from_secs(10);

/// How long targets are looked at: far longer than any disk takes for it.
pub(crate) const LOOK: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Directory below `seed.root`.
    pub target: RelPath,
    /// How files get there.
    pub link: Link,
    /// How a new version takes the old one's place; `None`: as it did before, else as is best there.
    pub swap: Option<Swap>,
    /// Replace a target that seedcache did not make.
    pub force: bool,
    /// Files rendered beside the tree; `None` leaves those that stand there.
    pub rendered: Option<Vec<Rendered>>,
    /// Only rendered files have changed: the entries of a tree that stands are not looked at.
    pub only_rendered: bool,
}

/// What was done; the answer that people and machines get.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Seeded {
    /// Which artifact.
    pub artifact: ArtifactName,
    /// Which version.
    pub version: VersionName,
    /// SHA-256 of its archive.
    pub digest: Digest,
    /// The target, from the root of the daemon's file system; over HTTP for operators alone, for others as they asked for it.
    pub target: String,
    /// How the files got there.
    pub mode: LinkMode,
    /// Why not by a better way; absent when it is the best, or the one asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Regular files in the tree.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Anything was written; false when all was there as it should be.
    pub changed: bool,
    /// Entries written.
    pub written: u64,
    /// How long it took.
    pub elapsed_ms: u64,
}

impl Seeded {
    /// Counts what the seed did that came just before it.
    pub(crate) fn follow(&mut self, first: &Self) {
        self.changed |= first.changed;
        self.written += first.written;
        self.elapsed_ms += first.elapsed_ms;
    }
}

/// How far a seed is.
#[derive(Debug, Default)]
pub struct SeedProgress {
    /// Entries done.
    pub entries: AtomicU64,
    /// Entries in all.
    pub total_entries: AtomicU64,
    /// Bytes done.
    pub bytes: AtomicU64,
}

/// Seeds targets below `seed.root`; one for the node.
#[derive(Debug)]
pub struct Seeder {
    root: Dir,
    grounds: Grounds,
    pub(super) store: Arc<Store>,
    pub(super) records: Records,
    busy: Busy,
    pub(super) retired: Retired,
    looking: Arc<TimedLook>,
    /// Looks at directories that hold targets.
    parents: TimedLooks<Option<RelPath>>,
}

/// One seed under way.
struct Work<'a> {
    version: &'a Version,
    head: &'a ManifestHead,
    request: &'a Request,
    entries: &'a [Entry],
    layout: Layout<'a>,
    place: Place,
    progress: &'a SeedProgress,
}

/// What came of it.
struct Outcome {
    mode: LinkMode,
    reason: Option<String>,
    written: u64,
    changed: bool,
}

impl Seeder {
    /// Opens `root`, made where it is missing, and the records in the store.
    pub fn open(root: &Path, store: Arc<Store>) -> Result<Self, SeedError> {
        let dir = Dir::create_all(root)?;
        let store_path = store.root().path();
        let Some(grounds) = Grounds::new(root, store_path)? else {
            return Err(SeedError::RootInStore { root: root.into(), store: store_path.into() });
        };
        let records = Records::open(store.root())?;
        let (busy, retired) = (Busy::default(), Retired::new(store.clone()));
        let (looking, parents) = (Arc::default(), TimedLooks::default());
        Ok(Self { root: dir, grounds, store, records, busy, retired, looking, parents })
    }

    /// A target given by people: absolute and below `seed.root`, or relative to it.
    pub fn target(&self, given: &str) -> Result<RelPath, TargetError> {
        self.grounds.target(given)
    }

    /// Whether `parent`, which somebody else opened, is the directory that the daemon finds a target in. Either may lie on what
    /// never answers: no server is asked about theirs, and its own is waited for as long as targets are looked at.
    pub fn is_parent_of(&self, parent: &Dir, target: &RelPath) -> bool {
        self.is_parent_within(parent, target, LOOK)
    }

    pub(super) fn is_parent_within(&self, parent: &Dir, target: &RelPath, limit: Duration) -> bool {
        let Ok(theirs) = parent.stat_unsynced() else { return false };
        let (root, above) = (self.root.clone(), target.parent());
        let look = move || match above {
            Some(above) => root.open_dir(&above)?.stat_unsynced(),
            None => root.stat_unsynced(),
        };
        // A directory that cannot be found, or not in time, is not that one.
        let own = self.parents.at(target.parent()).within(limit, look);
        matches!(own, Some(Ok(own)) if same_inode(&own, &theirs))
    }

    /// Removes the trees that were swapped out of their targets longer than [`GRACE`] ago.
    pub fn remove_retired(&self) {
        self.retired.remove(GRACE);
    }

    /// Writes down what was seeded since that was done last.
    pub fn note_seeds(&self) {
        self.records.write_down();
    }

    /// What one target holds, where it is known and stands.
    pub fn record(&self, target: &RelPath) -> Option<Record> {
        self.records.one(&self.root, target)
    }

    /// What has been seeded where, as far as is known. Looks at every target; while one does not answer, all stand that are known.
    pub fn records(self: &Arc<Self>) -> Vec<Record> {
        let seeder = self.clone();
        let look = move || seeder.records.all(&seeder.root, &seeder.busy);
        self.looking.within(LOOK, look).unwrap_or_else(|| self.records.known())
    }

    /// Whether any target or filled directory is known to hold a version's own files.
    pub fn is_linked(&self, artifact: &ArtifactName, version: &VersionName) -> bool {
        self.records.are_linked(artifact, version)
    }

    /// Makes the target hold the version. Two who ask for one target at once wait for each other. Blocks.
    pub fn seed(&self, version: &Version, request: &Request, progress: &SeedProgress) -> Result<Seeded, SeedError> {
        let started = Instant::now();
        let target = &request.target;
        self.grounds.check(target)?;
        let Some(_turn) = self.busy.enter(target, PATIENCE) else {
            return Err(SeedError::Busy { target: target.clone(), seconds: PATIENCE.as_secs() });
        };
        if let Some(other) = self.records.overlapping(&self.root, target) {
            return Err(SeedError::Nested { target: target.clone(), other });
        }
        if self.records.is_full(&self.root, target, &self.busy) {
            return Err(SeedError::TooMany { most: MOST });
        }
        let path = self.grounds.path_of(target);
        let head = version.head();
        let outcome = self.work(version, request, progress).map_err(|error| error.at(path.clone()))?;
        let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(Seeded {
            artifact: head.artifact.clone(),
            version: head.version.clone(),
            digest: head.archive.digest.clone(),
            target: path.display().to_string(),
            mode: outcome.mode,
            reason: outcome.reason,
            files: head.files,
            bytes: head.bytes,
            changed: outcome.changed,
            written: outcome.written,
            elapsed_ms,
        })
    }

    fn work(&self, version: &Version, request: &Request, progress: &SeedProgress) -> Result<Outcome, SeedError> {
        let head = version.head();
        let manifest = self.store.manifest(version)?;
        progress.total_entries.store(manifest.entries.len() as u64, Relaxed);
        let layout = Layout::of(&manifest.entries).map_err(|orphan| SeedError::StoreDamaged {
            artifact: head.artifact.clone(),
            version: head.version.clone(),
            path: orphan.clone(),
            what: "the manifest does not know the directory that it lies in",
        })?;
        rendered::check(request.rendered.as_deref().unwrap_or_default(), &manifest.entries)?;
        let place = Place::reach(&self.root, self.store.root(), &self.grounds, &request.target)?;
        let _lock = place.lock_inside(request.swap, PATIENCE_INSIDE)?;
        place.clear_leftovers(|name| self.retired.holds(name))?;
        let standing = in_names(place.look(&self.records.at(&request.target))?, request);
        let asked = Asked {
            wanted: (&**head).into(),
            link: request.link,
            swap: request.swap,
            force: request.force,
            device: Some(version.tree().stat_self()?.stamp.dev),
            mount_point: place.is_mount_point()?,
        };
        let entries = &manifest.entries;
        let work = Work { version, head, request, entries, layout, place, progress };
        match decide(standing, &asked) {
            Step::Mend(seed) => self.mend(&work, *seed),
            Step::Swap(switch) => self.build(&work, switch),
            Step::Refuse(what) => Err(SeedError::NotOurs { target: work.place.path(), what }),
        }
    }

    fn mend(&self, work: &Work, seed: Seed) -> Result<Outcome, SeedError> {
        let scratch = work.place.scratch(&seed);
        let mut mark = seed.mark.clone();
        let maker = Maker::new(work.version, Rung::resumed(work.request.link, mark.mode), work.progress);
        let other_boot = self.records.boot().is_none() || mark.boot.as_deref() != self.records.boot();
        let read = other_boot && mark.mode != LinkMode::Hardlink;
        let top = Pair { from: work.version.tree().clone(), to: seed.dir.clone() };
        if !work.request.only_rendered {
            let own = work.layout.paths();
            let owned = seed.owned(|path, kind| kind == Kind::Dir && own.contains(path))?;
            mend(&maker, &work.layout, &top, &scratch, owned.as_ref(), read)?;
            if read {
                mark.boot = self.records.boot().map(Into::into);
                self.records.announce(&work.request.target, &top.to, &mark)?;
            }
        }
        let rendered = self.mend_rendered(work, &top.to, &scratch, &mut mark)?;
        let written = maker.written() + rendered + work.place.mend_around(&seed)?;
        let outcome = Outcome { mode: mark.mode, reason: mark.reason.clone(), written, changed: written > 0 };
        self.records.keep(&work.request.target, &top.to, mark);
        Ok(outcome)
    }

    /// Makes the rendered files of a tree that stands as they should be. The mark names every file that may be there,
    /// whenever this ends.
    fn mend_rendered(&self, work: &Work, top: &Dir, scratch: &Scratch, mark: &mut Mark) -> Result<u64, SeedError> {
        let Some(files) = &work.request.rendered else { return Ok(0) };
        let before = mark.rendered.clone();
        let wanted: Vec<RelPath> = files.iter().map(|file| file.path.clone()).collect();
        let mut note = |rendered: Vec<RelPath>| {
            if mark.rendered == rendered {
                return Ok(());
            }
            mark.rendered = rendered;
            self.records.announce(&work.request.target, top, mark)
        };
        let gone = before.iter().filter(|path| !wanted.contains(path));
        note(wanted.iter().chain(gone).cloned().collect())?;
        Names::add(top, &wanted)?;
        let written = rendered::mend(top, scratch, files, &before, work.entries)?;
        note(wanted)?;
        Ok(written)
    }

    /// Puts a tree just swapped out aside: into the store where that is on the same file system, else it stays beside
    /// its target.
    fn retire(&self, old: SwappedOut) {
        let SwappedOut { held_in, name, by_name } = old;
        if by_name {
            return self.retired.add(held_in, name);
        }
        let (aside, hidden) = self.store.out_of_sight();
        fail_point("seed.retire.before-rename");
        let moved = held_in.rename(&name, &aside, &hidden, Rename::NoReplace);
        fail_point("seed.retire.after-rename");
        match moved {
            Ok(()) => self.retired.add_in_store(aside, hidden),
            // Another file system or mount, or no right to move it: it only stays in sight.
            Err(_) => self.retired.add(held_in, name),
        }
    }

    /// Builds the tree out of sight, and has it take its place.
    fn build(&self, work: &Work, switch: Switch) -> Result<Outcome, SeedError> {
        let staged = work.place.stage(&switch)?;
        let built = self.build_in(work, switch.reason(), staged.dir());
        let (mark, written) = match built {
            Ok(built) => built,
            Err(error) => {
                staged.discard();
                return Err(error);
            }
        };
        let marks = self.records.at(&work.request.target);
        let Settled { dir, old } = work.place.settle(switch, staged, &marks)?;
        old.into_iter().for_each(|old| self.retire(old));
        // A swap in place has marked another directory than the one that was built.
        let mark = marks.of(&dir)?.unwrap_or(mark);
        let outcome = Outcome { mode: mark.mode, reason: mark.reason.clone(), written, changed: true };
        self.records.keep(&work.request.target, &dir, mark);
        Ok(outcome)
    }

    fn build_in(&self, work: &Work, why: Option<&str>, dir: &Dir) -> Result<(Mark, u64), SeedError> {
        let maker = Maker::new(work.version, Rung::first(work.request.link), work.progress);
        let top = Pair { from: work.version.tree().clone(), to: dir.clone() };
        build(&maker, &work.layout, &top)?;
        let files = work.request.rendered.as_deref().unwrap_or_default();
        let written = maker.written() + rendered::build(dir, files)?;
        let reasons: Vec<String> = [maker.reason(), why.map(Into::into)].into_iter().flatten().collect();
        let reason = (!reasons.is_empty()).then(|| reasons.join("; "));
        let mut mark = Mark::new(work.head.into(), maker.mode(), reason, dir)?;
        mark.rendered = files.iter().map(|file| file.path.clone()).collect();
        self.records.announce(&work.request.target, dir, &mark)?;
        Ok((mark, written))
    }
}

/// In a target that others put names into as well, a file of ours goes with a swap, which writes down what is ours.
fn in_names(standing: Standing, request: &Request) -> Standing {
    match (standing, &request.rendered) {
        (Standing::Ours(seed), Some(files))
            if seed.form.swap == Swap::InPlace
                && !seed.mark.rendered.iter().all(|path| files.iter().any(|file| file.path == *path)) =>
        {
            Standing::Torn(seed.form)
        }
        (standing, _) => standing,
    }
}
