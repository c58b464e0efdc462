//! A seed in a directory that this process sees, and the daemon perhaps not.
//!
//! The daemon is given the parent of the target, held open. Below `seed.root` it does the rest. Elsewhere it names the
//! version, and the client goes on: it has a directory of its own filled through its descriptor, or writes the tree
//! itself as it comes, and puts it in its place. So nothing is reached that this process could not reach.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::Wish;
use super::activity::{Activity, Doing};
use super::stream::{self, blocking};
use crate::cli::client::{Client, FillAnswer, SeedAnswer};
use crate::cli::connection::ClientError;
use crate::cli::exit::Failure;
use crate::cli::problem::Elsewhere;
use crate::cli::wait;
use crate::fs::{Dir, LinkMode};
use crate::intent::{ArtifactName, Digest, Link};
use crate::seed::{
    Asked, Mark, Marks as _, OnTargets, Place, ReceiveError, Seed, SeedError, SeedProgress, Seeded, Staged, Step,
    Switch, Wanted, decide, first_difference, is_own, owners_lost, receive, same_inode,
};
use crate::store::{Manifest, ManifestError};

/// How often a version may go before it is here.
const TRIES: usize = 5;
/// How long what was swapped out stays for those who are on the way through it.
const LINGER: Duration = Duration::from_millis(100);

/// Why a version did not get from the daemon to the target; what stood there stands there still.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum HandOverError {
    /// The target cannot be seeded.
    #[error(transparent)]
    Seed(#[from] SeedError),
    /// The manifest did not come.
    #[error("the manifest of {artifact} did not come whole; seed again")]
    Manifest {
        /// The artifact.
        artifact: ArtifactName,
        /// What is wrong with it.
        #[source]
        source: ManifestError,
    },
    /// It is another's.
    #[error("{artifact} was published anew meanwhile; seed again")]
    Changed {
        /// The artifact.
        artifact: ArtifactName,
    },
    /// The tree did not come.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    /// A way of linking was demanded, and the daemon cannot go it.
    #[error("a {} was demanded but cannot be had here: {reason}; ask for `auto`, which falls back and says why", mode.words())]
    Refused {
        /// The way.
        mode: LinkMode,
        /// Why not.
        reason: String,
    },
    /// Collected under our hands again and again.
    #[error("the current version of {artifact} went {TRIES} times before it was seeded; pin one, or raise `retain`")]
    Collected {
        /// The artifact.
        artifact: ArtifactName,
    },
}

impl HandOverError {
    /// Others who work at the target took all the time there was.
    pub(in crate::cli) fn is_for_others(&self) -> bool {
        matches!(self, HandOverError::Seed(SeedError::Locked { .. }))
    }
}

impl From<crate::fs::Error> for HandOverError {
    fn from(error: crate::fs::Error) -> Self {
        HandOverError::Seed(error.into())
    }
}

/// Has the target seeded, by the daemon as far as it can.
pub(super) async fn hand_over(client: &Client, wish: &Wish<'_>, activity: &Activity) -> Result<Seeded, Failure> {
    // On this thread: nothing else runs yet, and another one takes longer to start than all that is done here.
    let place = match Place::at(wish.given) {
        Ok(place) => Arc::new(place),
        Err(error) => return by_path(client, wish, error).await,
    };
    // A daemon that goes away in the middle of it is waited for as before it.
    let seeded = wait::until_gone(wish.wait, wish.absence, async |left| {
        match by_turns(client, wish, left, activity, &place).await {
            Err(Failure::Client(error)) => Err(error),
            answer => Ok(answer),
        }
    });
    seeded.await?
}

/// Has it seeded, again while versions go under our hands.
async fn by_turns(
    client: &Client,
    wish: &Wish<'_>,
    left: Duration,
    activity: &Activity,
    place: &Arc<Place>,
) -> Result<Seeded, Failure> {
    for _ in 0..TRIES {
        activity.turn_to(Doing::Asking);
        let answer = client.seed_at(wish.name, wish.question(), left, wish.absence, place.parent()).await?;
        let elsewhere = match answer {
            SeedAnswer::Seeded(seeded) => return Ok(seeded),
            SeedAnswer::NotBelowRoot(elsewhere) => elsewhere,
        };
        let until = Instant::now() + left.max(wait::LEAST_FOR_OTHERS);
        let hands = Hands { client, wish, activity, place: place.clone(), elsewhere, until };
        if let Some(seeded) = hands.put().await? {
            return Ok(seeded);
        }
    }
    Err(HandOverError::Collected { artifact: wish.name.clone() }.into())
}

/// Where this process cannot reach the target: the daemon may, when it lies below `seed.root`.
async fn by_path(client: &Client, wish: &Wish<'_>, unreached: SeedError) -> Result<Seeded, Failure> {
    match client.seed(wish.name, wish.question(), wish.wait).await {
        Err(ClientError::Problem(problem))
            if matches!(problem.status, StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN | StatusCode::CONFLICT) =>
        {
            Err(HandOverError::from(unreached).into())
        }
        answer => Ok(answer?),
    }
}

/// Has a finished tree take the target's place, mark and all. Gives its top there, and what came of the one before's removal.
pub(super) async fn settle(
    place: Arc<Place>,
    switch: Switch,
    staged: Staged,
) -> Result<(Dir, Result<(), SeedError>), HandOverError> {
    let settled = blocking(move || {
        let settled = place.settle(switch, staged, &OnTargets)?;
        Ok::<_, SeedError>((settled.dir().clone(), settled.retire(LINGER)))
    });
    Ok(settled.await?)
}

/// Mends what a swap keeps around a tree that is well. How many of it were not right.
pub(super) async fn mend_around(place: Arc<Place>, seed: Seed) -> Result<u64, HandOverError> {
    Ok(blocking(move || place.mend_around(&seed)).await?)
}

/// With what was wrong around the tree.
fn and_around(seeded: Seeded, around: u64) -> Seeded {
    Seeded { changed: seeded.changed || around > 0, written: seeded.written + around, ..seeded }
}

/// Why not by a better way of linking, and why not by another way of swapping.
pub(super) fn told_together(linked: Option<String>, swapped: Option<&str>) -> Option<String> {
    let reasons: Vec<String> = linked.into_iter().chain(swapped.map(Into::into)).collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// One version on its way to one target.
struct Hands<'a> {
    client: &'a Client,
    wish: &'a Wish<'a>,
    activity: &'a Activity,
    place: Arc<Place>,
    elsewhere: Elsewhere,
    /// How long others at the same target are waited for.
    until: Instant,
}

impl Hands<'_> {
    /// Puts the version where it belongs; `None` when it was collected before.
    async fn put(&self) -> Result<Option<Seeded>, Failure> {
        let started = Instant::now();
        let place = self.place.clone();
        let patience = self.until.saturating_duration_since(Instant::now());
        self.activity.turn_to(Doing::Waiting);
        let locked = blocking(move || {
            let lock = place.lock(patience)?;
            place.clear_leftovers(|_| false)?;
            Ok::<_, HandOverError>(lock)
        });
        // Whoever held it may have seeded the same: what stands there is looked at only now.
        let lock = locked.await?;
        self.activity.turn_to(Doing::Asking);
        let done = match self.step(&self.elsewhere.tree_digest)? {
            Step::Refuse(what) => return Err(self.refused(what)),
            Step::Mend(seed) => self.mend(*seed).await,
            Step::Swap(switch) => self.swap(switch, None).await,
        };
        drop(lock);
        match done {
            Ok(seeded) => {
                let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                Ok(Some(Seeded { target: self.wish.absolute.to_owned(), elapsed_ms, ..seeded }))
            }
            Err(Failure::Client(ClientError::Problem(problem))) if problem.status == StatusCode::NOT_FOUND => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn refused(&self, what: &'static str) -> Failure {
        HandOverError::from(SeedError::NotOurs { target: self.place.path(), what }).into()
    }

    fn link(&self) -> Link {
        self.wish.link.unwrap_or_default()
    }

    fn wanted<'w>(&'w self, tree_digest: &'w Digest) -> Wanted<'w> {
        Wanted { artifact: self.wish.name, version: &self.elsewhere.version, tree_digest }
    }

    /// What to do about what stands at the target, which is to hold a tree of this digest.
    fn step(&self, tree_digest: &Digest) -> Result<Step, HandOverError> {
        let asked = Asked {
            wanted: self.wanted(tree_digest),
            link: self.link(),
            swap: self.wish.swap,
            force: self.wish.force,
            // Whether hard links still are some is seen when their files are held against the store's.
            device: None,
            mount_point: self.place.is_mount_point()?,
        };
        let standing = self.place.look(&OnTargets)?;
        Ok(decide(standing, &asked))
    }

    /// Has what is there checked, and what differs mended.
    async fn mend(&self, seed: Seed) -> Result<Seeded, Failure> {
        // In a volume of another's the daemon fills nothing for us but directories that we make there.
        let own = seed.is_own().map_err(HandOverError::from)?;
        let asked = if own { self.ask_to_fill(&seed.dir).await? } else { Err(None) };
        let reason = match asked {
            Ok(seeded) => {
                let around = mend_around(self.place.clone(), seed).await?;
                return Ok(and_around(seeded, around));
            }
            Err(reason) => reason,
        };
        self.activity.turn_to(Doing::Checking);
        let manifest = self.manifest().await?;
        let (dir, mut mark, listed) = (seed.dir.clone(), seed.mark.clone(), manifest.clone());
        let checked = blocking(move || {
            // What was written by a copy is not synced, and what is linked may have been written to elsewhere.
            let read = !mark.is_of_this_boot() || mark.mode == LinkMode::Hardlink;
            let difference = first_difference(&dir, &listed.entries, mark.mode, read)?;
            if difference.is_none() && !mark.is_of_this_boot() {
                mark.was_read();
                OnTargets.put(&dir, &mark)?;
            }
            Ok::<_, HandOverError>((difference, mark))
        });
        let (difference, mark) = checked.await?;
        if difference.is_none() {
            let around = mend_around(self.place.clone(), seed).await?;
            return Ok(self.told(&manifest, mark.mode, mark.reason, around));
        }
        // The digest of no entries at all: no tree has it, so that what is there is replaced.
        match self.step(&Digest::sha256(b""))? {
            Step::Refuse(what) => Err(self.refused(what)),
            Step::Swap(switch) => self.swap(switch, own.then_some((manifest, reason))).await,
            Step::Mend(_) => unreachable!("no tree has the digest of none"),
        }
    }

    /// Makes the tree beside the target and has it take its place; `received` is what the stream is to bring, where it
    /// is known that the daemon does not fill.
    async fn swap(&self, switch: Switch, received: Option<(Arc<Manifest>, Option<String>)>) -> Result<Seeded, Failure> {
        let staged = self.place.stage(&switch).map_err(HandOverError::from)?;
        self.wish.leavings.note(&staged);
        let made_in = staged.dir().clone();
        let made = match received {
            Some((manifest, reason)) => self.receive(manifest, staged.dir(), reason).await,
            None => self.make(staged.dir()).await,
        };
        let seeded = match made {
            Ok(seeded) => seeded,
            Err(error) => {
                blocking(move || staged.discard()).await;
                self.wish.leavings.forget();
                return Err(error);
            }
        };
        let reason = told_together(seeded.reason, switch.reason());
        if switch.reason().is_some() {
            let mark = OnTargets.of(staged.dir()).map_err(HandOverError::from)?;
            let whole = mark.map(|mark| Mark { reason: reason.clone(), ..mark });
            whole.map_or(Ok(()), |mark| OnTargets.put(staged.dir(), &mark)).map_err(HandOverError::from)?;
        }
        let (stands, retired) = settle(self.place.clone(), switch, staged).await?;
        self.wish.leavings.forget();
        self.tell_where(&made_in, &stands).await?;
        Ok(retired.map(|()| Seeded { reason, ..seeded }).map_err(HandOverError::from)?)
    }

    /// The daemon knows what it filled by the directory that it filled. Where the tree was moved out of that into the
    /// target it is told of the target, which bears the mark now and is found well.
    async fn tell_where(&self, filled: &Dir, stands: &Dir) -> Result<(), Failure> {
        let nothing_to_tell = || {
            let stays = same_inode(&stands.stat_self()?, &filled.stat_self()?);
            let copied =
                || Ok::<_, HandOverError>(OnTargets.of(stands)?.is_none_or(|mark| mark.mode == LinkMode::Copy));
            Ok::<_, HandOverError>(stays || copied()? || !is_own(stands)?)
        };
        if nothing_to_tell()? {
            return Ok(());
        }
        match self.ask_to_fill(stands).await {
            // The tree stands; a daemon that went away hears of it from the next seed.
            Err(Failure::Client(error)) if error.is_absence() => Ok(()),
            answer => answer.map(drop),
        }
    }

    async fn make(&self, dir: &Dir) -> Result<Seeded, Failure> {
        match self.ask_to_fill(dir).await? {
            Ok(seeded) => Ok(seeded),
            Err(reason) => {
                let manifest = self.manifest().await?;
                self.receive(manifest, dir, reason).await
            }
        }
    }

    /// Has the daemon fill or mend a directory. The inner error is why it does not: nothing where that was not wanted.
    async fn ask_to_fill(&self, dir: &Dir) -> Result<Result<Seeded, Option<String>>, Failure> {
        // Copies are for pods that write: their files are to be the pod's own.
        if self.link() == Link::Copy {
            return Ok(Err(None));
        }
        let Wish { name, absolute, .. } = *self.wish;
        let ask = async || self.client.fill(name, &self.elsewhere.version, self.link(), absolute, dir).await;
        let left = self.until.saturating_duration_since(Instant::now());
        let answer = wait::while_busy(left, || self.activity.turn_to(Doing::Waiting), ask).await?;
        self.activity.turn_to(Doing::Asking);
        match answer {
            FillAnswer::Seeded(seeded) => Ok(Ok(seeded)),
            FillAnswer::Receive { reason } => match self.link() {
                Link::Auto | Link::Copy => Ok(Err(Some(reason))),
                Link::Reflink => Err(HandOverError::Refused { mode: LinkMode::Reflink, reason }.into()),
                Link::Hardlink => Err(HandOverError::Refused { mode: LinkMode::Hardlink, reason }.into()),
            },
        }
    }

    async fn manifest(&self) -> Result<Arc<Manifest>, Failure> {
        let body = self.client.manifest(self.wish.name, &self.elsewhere.version).await?;
        let reader = |bytes| Manifest::read(std::io::BufReader::with_capacity(128 * 1024, bytes));
        let read = stream::read(body, self.client.server(), reader).await?;
        let artifact = || self.wish.name.clone();
        let manifest = read.map_err(|source| HandOverError::Manifest { artifact: artifact(), source })?;
        if manifest.head.tree_digest != self.elsewhere.tree_digest {
            return Err(HandOverError::Changed { artifact: artifact() }.into());
        }
        Ok(Arc::new(manifest))
    }

    /// Writes the tree into an empty directory as it comes, and marks it.
    async fn receive(&self, manifest: Arc<Manifest>, dir: &Dir, reason: Option<String>) -> Result<Seeded, Failure> {
        let reason = told_together(reason, owners_lost(&manifest.entries));
        let progress = Arc::new(SeedProgress::default());
        self.activity.turn_to(Doing::Receiving(progress.clone()));
        let body = self.client.tree(self.wish.name, &self.elsewhere.version).await?;
        let (tree, listed, why) = (dir.clone(), manifest.clone(), reason.clone());
        let received = stream::read(body, self.client.server(), move |bytes| {
            let written = receive(bytes, &listed, &tree, &progress)?;
            let mark = Mark::new(Wanted::from(&listed.head), LinkMode::Copy, why, &tree)?;
            OnTargets.put(&tree, &mark)?;
            Ok::<_, HandOverError>(written)
        });
        let written = received.await??;
        Ok(self.told(&manifest, LinkMode::Copy, reason, written))
    }

    fn told(&self, manifest: &Manifest, mode: LinkMode, reason: Option<String>, written: u64) -> Seeded {
        let head = &manifest.head;
        Seeded {
            artifact: head.artifact.clone(),
            version: head.version.clone(),
            digest: head.archive.digest.clone(),
            target: self.wish.absolute.to_owned(),
            mode,
            reason,
            files: head.files,
            bytes: head.bytes,
            changed: written > 0,
            written,
            elapsed_ms: 0,
        }
    }
}
