//! Fills directories that peers hold open: gathers what is known of one, has it decided, and does it.
//!
//! What must hold: nothing is written but in the very directory that was passed. A tree is made out of the peer's sight
//! and moved in entry by entry, so that the peer, who may do anything in its directory meanwhile, meets only what is
//! finished; what is mended is made out of sight, too.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use rustix::io::Errno;

use super::build::{Pair, TOP_MODE, build};
use super::entry::{Maker, Owners};
use super::fill::{Facts, Holds, Peer, Reached, Receive, Refusal, Step, are_owners_mapped, barred, decide};
use super::filled::{Filled, short};
use super::hidden::Hidden;
use super::mark::{Mark, Marks as _, OnTargets};
use super::mend::mend;
use super::owned::{Head, Names, peers_limit};
use super::staged::Scratch;
use super::tree::Layout;
use super::{Rung, SeedError, SeedProgress, Seeded, Seeder};
use crate::fs::{self, Dir, FileHandle, HandleError, Kind, LinkMode, Meta, Rename, Stamp, fail_point};
use crate::intent::Link;
use crate::store::{Entry, EntryType, Manifest, Version};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct FillRequest {
    /// What is to be filled, as the peer passed it: a directory, if it told the truth.
    pub dir: Dir,
    /// How files get there.
    pub link: Link,
    /// Where the peer has it: for display only.
    pub target: String,
    /// Who asks.
    pub peer: Peer,
}

/// What came of it.
#[derive(Debug)]
pub enum Filling {
    /// The directory holds the version; with what is on record of it.
    Seeded(Box<Seeded>, Option<Box<Filled>>),
    /// It is as it was; the client is to write the tree there by itself.
    Receive(Receive),
}

/// Why a directory was not filled.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// It is not one to fill.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Filling failed.
    #[error(transparent)]
    Seed(#[from] SeedError),
}

impl From<fs::Error> for FillError {
    fn from(error: fs::Error) -> Self {
        FillError::Seed(error.into())
    }
}

/// A directory as it was found.
pub(super) struct Found {
    /// Reached the best way there is.
    pub(super) dir: Dir,
    handle: Option<FileHandle>,
    pub(super) mark: Option<Mark>,
    pub(super) facts: Facts,
}

/// What was made, or found to be well.
pub(super) struct Done {
    pub(super) mark: Mark,
    written: u64,
    changed: bool,
}

/// One fill under way.
pub(super) struct Work<'a> {
    version: &'a Version,
    manifest: Arc<Manifest>,
    link: Link,
    owners: Owners,
    progress: &'a SeedProgress,
}

impl Seeder {
    /// Which directory it is that is to be filled, or what there is to say without touching it: what lies on another file
    /// system may never answer. Root's is looked at for all that, since a reflink may work.
    /// With it, whether it lies on the store's own file system.
    pub fn place_of(&self, request: &FillRequest) -> Result<Result<(Stamp, bool), Filling>, FillError> {
        let stat = request.dir.stat_unsynced()?;
        let near = stat.stamp.dev == self.store.root().stat_self()?.stamp.dev;
        if near || stat.kind != Kind::Dir || is_own(request.peer.uid) {
            return Ok(Ok((stat.stamp, near)));
        }
        let why = if request.link == Link::Copy { Receive::Asked } else { Receive::OtherFileSystem };
        instead(request.link, why).map(Err)
    }

    /// Has a peer's directory hold the version. One at a time for one directory. Blocks.
    pub fn fill(
        &self,
        version: &Version,
        request: &FillRequest,
        progress: &SeedProgress,
    ) -> Result<Filling, FillError> {
        let started = Instant::now();
        let work = self.work_on(version, request.link, request.peer, progress)?;
        let found = self.find(&work, request)?;
        let done = match decide(&found.facts) {
            Step::Fill => self.fill_by_handle(&work, &found.dir, None),
            Step::FillByReflink(why) => self.fill_by_handle(&work, &found.dir, Some(why)),
            Step::FillInPlace(why) => {
                let scratch = Scratch::within(&found.dir);
                self.fill_through(&work, &found.dir, &scratch, Some(why)).and_then(|done| scratch.cleared(done))
            }
            Step::Mend => self.mend_by_handle(&work, &found.dir, found.mark),
            Step::MendInPlace => self.mend_in_place(&work, &found.dir, found.mark),
            Step::Receive(why) => Ok(Err(why)),
            Step::Refuse(refusal) => return Err(refusal.into()),
        };
        let done = match done.map_err(|error| error.at(request.target.clone().into()))? {
            Ok(done) => done,
            Err(why) => return instead(request.link, why),
        };
        let kept = |handle| self.records.keep_filled(handle, &request.target, request.peer.uid, &done.mark);
        let record = found.handle.and_then(kept).map(Box::new);
        Ok(Filling::Seeded(Box::new(told(&work, &request.target, &done, started)), record))
    }

    pub(super) fn work_on<'a>(
        &self,
        version: &'a Version,
        link: Link,
        peer: Peer,
        progress: &'a SeedProgress,
    ) -> Result<Work<'a>, SeedError> {
        let manifest = self.store.manifest(version)?;
        progress.total_entries.store(manifest.entries.len() as u64, Relaxed);
        let owners = if is_other(peer) { Owners::Peer { uid: peer.uid, gid: peer.gid } } else { Owners::usual() };
        Ok(Work { version, manifest, link, owners, progress })
    }

    pub(super) fn find(&self, work: &Work<'_>, request: &FillRequest) -> Result<Found, FillError> {
        let peer = request.peer.uid;
        let stat = request.dir.stat_self()?;
        let mut facts = Facts {
            kind: stat.kind,
            read_only: false,
            owner: stat.uid,
            peer,
            trusted: is_own(peer),
            holds: Holds::Nothing,
            reached: Reached::ByHandle,
            in_store: false,
            gives: !is_other(request.peer) || fs::may_give_away(),
            full: false,
            barred: is_other(request.peer).then(|| barred(work.files(), request.peer)).flatten(),
            asked: request.link,
        };
        let found = |dir: &Dir, facts| Found { dir: dir.clone(), handle: None, mark: None, facts };
        if stat.kind != Kind::Dir {
            return Ok(found(&request.dir, facts));
        }
        facts.read_only = request.dir.is_read_only()?;
        let top = work.version.tree();
        let (dir, handle) = match request.dir.reopened_through(self.store.root()) {
            // Nor would the daemon, through the peer's own mount, give files the owners that they shall have.
            Ok((dir, _)) if are_owners_mapped(&stat, &dir.stat_self()?) => {
                (facts.reached, facts.trusted) = (Reached::AsPassed(Receive::Mapped), false);
                (request.dir.clone(), None)
            }
            Ok((dir, handle)) => (dir, Some(handle)),
            Err(error) => {
                facts.reached = Reached::AsPassed(match error {
                    HandleError::NoCapability => Receive::NoCapability,
                    HandleError::NotSupported => Receive::NoHandles,
                    HandleError::OtherFileSystem | HandleError::Stale => Receive::OtherFileSystem,
                    HandleError::Fs(error) => return Err(error.into()),
                });
                (request.dir.clone(), None)
            }
        };
        let looked = || -> fs::Result<(Option<Mark>, bool, bool)> {
            let dir = dir.reopen()?;
            let root = self.store.root();
            let in_store = dir.lies_in(root)? || root.lies_in(&dir)? || top.lies_in(&dir)?;
            // One that is being swapped in place holds no version, whatever its mark says.
            let whole = Head::of(&dir)?.is_none_or(|head| head.whole);
            let mark = match &handle {
                Some(handle) => self.records.mark_of_filled(handle, &dir)?,
                None => Mark::on(&dir)?,
            };
            let mark = mark.filter(|_| whole);
            // A peer may have written it.
            let mark = mark.map(|mark| Mark { reason: mark.reason.as_deref().map(short), ..mark });
            Ok((mark, dir.is_empty()?, in_store))
        };
        let (mark, empty, in_store) = match looked() {
            Ok(looked) => looked,
            // The daemon is not root, and the directory is somebody's own.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied && handle.is_none() => {
                return Ok(found(&dir, Facts { trusted: false, ..facts }));
            }
            Err(error) => return Err(error.into()),
        };
        facts.in_store = in_store;
        facts.full = handle.as_ref().is_some_and(|handle| !self.records.has_room_for(self.store.root(), handle, peer));
        facts.holds = match &mark {
            Some(mark) if mark.holds((&**work.version.head()).into()) => Holds::TheTree(mark.mode),
            _ if empty => Holds::Nothing,
            _ => Holds::Other,
        };
        Ok(Found { dir, handle, mark, facts })
    }

    /// Makes the tree out of sight and moves it in; by nothing but reflink where that alone may be done.
    fn fill_by_handle(
        &self,
        work: &Work<'_>,
        dir: &Dir,
        else_receive: Option<Receive>,
    ) -> Result<Result<Done, Receive>, SeedError> {
        let hidden = Hidden::new(&self.store)?;
        self.fill_through(work, dir, &hidden.scratch(), else_receive)
    }

    /// Makes the tree in a directory of its own and moves it in. What fails leaves that directory to nobody, and what the
    /// peer has put into its own meanwhile stays.
    pub(super) fn fill_through(
        &self,
        work: &Work<'_>,
        dir: &Dir,
        scratch: &Scratch,
        else_receive: Option<Receive>,
    ) -> Result<Result<Done, Receive>, SeedError> {
        let made = scratch.stage()?;
        let maker = work.maker(Rung::first(else_receive.map_or(work.link, |_| Link::Reflink)));
        let pair = Pair { from: work.version.tree().clone(), to: made.dir().clone() };
        let filled = match (build(&maker, &work.layout()?, &pair), else_receive) {
            (Err(SeedError::LinkRefused { .. }), Some(why)) => Ok(Err(why)),
            (built, _) => built.and_then(|()| move_in(made.dir(), dir)),
        };
        made.discard();
        match filled? {
            Ok(()) => self.finish(work, &maker, dir).map(Ok),
            Err(why) => Ok(Err(why)),
        }
    }

    fn finish(&self, work: &Work<'_>, maker: &Maker<'_>, dir: &Dir) -> Result<Done, SeedError> {
        dir.apply_meta(&Meta { mode: TOP_MODE, owner: None, mtime: dir.stat_self()?.mtime })?;
        let mark = Mark::new((&**work.version.head()).into(), maker.mode(), maker.reason(), dir)?;
        fail_point("seed.fill.before-mark");
        OnTargets.put(dir, &mark)?;
        fail_point("seed.fill.after-mark");
        Ok(Done { mark, written: maker.written(), changed: true })
    }

    pub(super) fn mend_by_handle(
        &self,
        work: &Work<'_>,
        dir: &Dir,
        mark: Option<Mark>,
    ) -> Result<Result<Done, Receive>, SeedError> {
        let hidden = Hidden::new(&self.store)?;
        self.mend_with(work, dir, mark, &hidden.scratch())
    }

    fn mend_in_place(
        &self,
        work: &Work<'_>,
        dir: &Dir,
        mark: Option<Mark>,
    ) -> Result<Result<Done, Receive>, SeedError> {
        let scratch = Scratch::within(dir);
        scratch.clear(&|_| false)?;
        self.mend_with(work, dir, mark, &scratch)
    }

    fn mend_with(
        &self,
        work: &Work<'_>,
        dir: &Dir,
        mark: Option<Mark>,
        scratch: &Scratch,
    ) -> Result<Result<Done, Receive>, SeedError> {
        let Some(mut mark) = mark else {
            return Err(SeedError::NotOurs { target: dir.path().into(), what: "a directory" });
        };
        let maker = work.maker(Rung::resumed(work.link, mark.mode));
        let other_boot = self.records.boot().is_none() || mark.boot.as_deref() != self.records.boot();
        let read = other_boot && mark.mode != LinkMode::Hardlink;
        let top = Pair { from: work.version.tree().clone(), to: dir.clone() };
        // What others keep in a directory that is swapped in place stays theirs. A peer wrote the list: nothing of it is
        // kept but what mending asks for, the version's own directories.
        let layout = work.layout()?;
        let known = layout.paths();
        let limit = peers_limit(&work.manifest.entries);
        let owned = Names::within(dir, limit, |path, kind| kind == Kind::Dir && known.contains(path))?;
        match mend(&maker, &layout, &top, scratch, owned.as_ref(), read) {
            Err(SeedError::Fs(error)) if is_apart(&error) => return Ok(Err(Receive::Apart)),
            mended => mended?,
        }
        if read {
            mark.boot = self.records.boot().map(Into::into);
            OnTargets.put(dir, &mark)?;
        }
        Ok(Ok(Done { mark, written: maker.written(), changed: maker.written() > 0 }))
    }
}

/// Whether a user is the daemon's own.
fn is_own(uid: u32) -> bool {
    uid == rustix::process::geteuid().as_raw()
}

/// Whether what is made for a peer has to be given to it.
fn is_other(peer: Peer) -> bool {
    peer.uid != 0 && !is_own(peer.uid)
}

/// Renames all that `made` holds into `dir`, where none of these names may be.
fn move_in(made: &Dir, dir: &Dir) -> Result<Result<(), Receive>, SeedError> {
    for entry in made.entries()? {
        fail_point("seed.fill.before-move");
        let moved = made.rename(&entry.name, dir, &entry.name, Rename::NoReplace);
        fail_point("seed.fill.after-move");
        match moved {
            Ok(()) => {}
            Err(error) if is_apart(&error) => return Ok(Err(Receive::Apart)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Ok(()))
}

/// Project quotas let nothing be renamed from one project to another.
fn is_apart(error: &fs::Error) -> bool {
    error.errno() == Some(Errno::XDEV.raw_os_error())
}

impl<'a> Work<'a> {
    fn files(&self) -> impl Iterator<Item = &Entry> {
        self.manifest.entries.iter().filter(|entry| entry.kind == EntryType::File)
    }

    fn layout(&self) -> Result<Layout<'_>, SeedError> {
        Layout::of(&self.manifest.entries).map_err(|orphan| SeedError::StoreDamaged {
            artifact: self.version.head().artifact.clone(),
            version: self.version.head().version.clone(),
            path: orphan.clone(),
            what: "the manifest does not know the directory that it lies in",
        })
    }

    fn maker(&self, rung: Rung) -> Maker<'a> {
        Maker::for_owners(self.owners, self.version, rung, self.progress)
    }
}

/// The client's turn, unless it demanded what does not work.
fn instead(asked: Link, why: Receive) -> Result<Filling, FillError> {
    match asked {
        Link::Reflink => Err(Refusal::NoLink { mode: LinkMode::Reflink, why }.into()),
        Link::Hardlink => Err(Refusal::NoLink { mode: LinkMode::Hardlink, why }.into()),
        Link::Auto | Link::Copy => Ok(Filling::Receive(why)),
    }
}

fn told(work: &Work<'_>, target: &str, done: &Done, started: Instant) -> Seeded {
    let head = work.version.head();
    Seeded {
        artifact: head.artifact.clone(),
        version: head.version.clone(),
        digest: head.archive.digest.clone(),
        target: target.to_owned(),
        mode: done.mark.mode,
        reason: done.mark.reason.clone(),
        files: head.files,
        bytes: head.bytes,
        changed: done.changed,
        written: done.written,
        elapsed_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}
