//! What callers ask for: seeds and verifications.

use std::sync::Arc;
use std::time::Duration;

use super::run::Reconciler;
use super::turns::BRIEFLY;
use super::{VerifyResult, WaitError};
use crate::fs::{Dir, RelPath};
use crate::intent::{ArtifactName, Link, SeedTarget, Swap, VersionName, error_chain};
use crate::seed::{PATIENCE, Request, SeedError, SeedProgress, Seeded, TargetError};
use crate::store::{ManifestHead, Report, StoreError};

/// A seed asked for by a caller.
#[derive(Debug, Clone)]
pub struct SeedAsk {
    /// Which artifact.
    pub artifact: ArtifactName,
    /// Which version; `None`: the current one.
    pub version: Option<VersionName>,
    /// Target as given: absolute below `seed.root`, or relative to it.
    pub target: String,
    /// How files get there; `None`: as the document declares for that target, else `auto`.
    pub link: Option<Link>,
    /// How it is swapped; `None`: as declared, else as is best at the target.
    pub swap: Option<Swap>,
    /// Replace a target that seedcache did not make.
    pub force: bool,
    /// How long to wait for a version that is not there yet; zero: not at all.
    pub wait: Duration,
    /// Only targets that a document declares for this artifact are allowed.
    pub declared_only: bool,
    /// The directory that holds the target, as the caller opened it: the target may lie where only the caller gets to.
    pub parent: Option<Dir>,
}

/// Who wants a seed, as far as it matters.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) held: Option<Held>,
    pub(super) progress: Arc<SeedProgress>,
    /// How long it waits for another seed of the same target.
    pub(super) patience: Duration,
}

impl Caller {
    /// The node itself.
    pub(super) fn none() -> Self {
        Self { held: None, progress: Arc::default(), patience: PATIENCE }
    }
}

/// The directory that a caller holds open and says is the one above the target.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) parent: Dir,
    /// The target as given.
    pub(super) given: String,
}

/// Why a seed was not done.
#[derive(Debug, thiserror::Error)]
pub enum SeedAskError {
    /// The version did not come.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// The target is not one to seed.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// No document declares the target.
    #[error(
        "no document declares {target} as a seed of {artifact}, and this caller may seed declared targets only; declare \
         it under spec.seeds, or ask over the Unix socket as root or as the daemon's user"
    )]
    NotDeclared {
        /// The artifact.
        artifact: ArtifactName,
        /// The target as given.
        target: String,
    },
    /// A document says how files get there.
    #[error(
        "a document declares {target} as a seed of {artifact} with link {declared}, and this caller may not have it seeded \
         with link {asked}; leave the link out, or ask over the Unix socket as root or as the daemon's user"
    )]
    OtherLink {
        /// The artifact.
        artifact: ArtifactName,
        /// The target as given.
        target: String,
        /// As declared.
        declared: Link,
        /// As asked for.
        asked: Link,
    },
    /// A document says how a new version takes the old one's place.
    #[error(
        "a document declares {target} as a seed of {artifact} with swap {declared}, and this caller may not have it seeded \
         with swap {asked}; leave the swap out, or ask over the Unix socket as root or as the daemon's user"
    )]
    OtherSwap {
        /// The artifact.
        artifact: ArtifactName,
        /// The target as given.
        target: String,
        /// As declared.
        declared: Swap,
        /// As asked for.
        asked: Swap,
    },
    /// The daemon does not get there by itself, or not for this caller, who can go on alone.
    #[error(
        "{target} is not a place below seed.root that the daemon may seed for this caller; have the directory itself \
         filled"
    )]
    NotBelowRoot {
        /// The target as given.
        target: String,
        /// The version to go on with.
        head: Arc<ManifestHead>,
    },
    /// The version cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Seeding failed.
    #[error(transparent)]
    Seed(#[from] SeedError),
    /// A defect.
    #[error("the seeding task ended unexpectedly; this is a defect of seedcache, please report it")]
    Task(#[from] tokio::task::JoinError),
}

impl SeedAskError {
    /// The same may go well later without anybody's help.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            SeedAskError::Wait(_) | SeedAskError::Store(_) => true,
            SeedAskError::Seed(error) => error.may_pass(),
            _ => false,
        }
    }
}

/// Why a verification was not done.
#[derive(Debug, thiserror::Error)]
pub enum VerifyAskError {
    /// Nothing of that name is on the node.
    #[error("there is no artifact {name} on this node; `seedcache status` lists those there are")]
    Unknown {
        /// What was asked for.
        name: ArtifactName,
    },
    /// The version cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A defect.
    #[error("the verifying task ended unexpectedly; this is a defect of seedcache, please report it")]
    Task(#[from] tokio::task::JoinError),
}

/// How a target is seeded: as asked for, else as declared. Who may seed declared targets only may not have it otherwise than
/// the document says: that may say `copy` since it does not trust that very caller.
fn manner(ask: &SeedAsk, declared: Option<&SeedTarget>) -> Result<(Link, Option<Swap>), SeedAskError> {
    let Some(declared) = declared else { return Ok((ask.link.unwrap_or_default(), ask.swap)) };
    if !ask.declared_only {
        return Ok((ask.link.unwrap_or(declared.link), ask.swap.or(declared.swap)));
    }
    // `auto` leaves it to whoever says more.
    let says_more = |link: &Link| *link != Link::Auto;
    let link = match (Some(declared.link).filter(says_more), ask.link.filter(says_more)) {
        (Some(declared), Some(asked)) if asked != declared => {
            let (artifact, target) = (ask.artifact.clone(), ask.target.clone());
            return Err(SeedAskError::OtherLink { artifact, target, declared, asked });
        }
        (declared, asked) => declared.or(asked).unwrap_or_default(),
    };
    let swap = match (declared.swap, ask.swap) {
        (Some(declared), Some(asked)) if asked != declared => {
            let (artifact, target) = (ask.artifact.clone(), ask.target.clone());
            return Err(SeedAskError::OtherSwap { artifact, target, declared, asked });
        }
        (declared, asked) => declared.or(asked),
    };
    Ok((link, swap))
}

impl Reconciler {
    /// Seeds a target, waiting for the version where it is not there yet.
    pub async fn seed(&self, mut ask: SeedAsk, progress: Arc<SeedProgress>) -> Result<Seeded, SeedAskError> {
        let (target, held) = match ask.parent.take() {
            None => (self.shared.seeder.target(&ask.target)?, None),
            Some(parent) => match self.place_in(parent, &ask).await? {
                Some(found) => found,
                None => return Err(self.not_below_root(&ask).await?),
            },
        };
        let declared = self.declared(&ask.artifact).into_iter().find(|seed| seed.target == target);
        // Force would let a caller replace what the document's own seed would refuse to.
        if ask.declared_only && (declared.is_none() || ask.force) {
            return Err(SeedAskError::NotDeclared { artifact: ask.artifact, target: ask.target });
        }
        let (link, swap) = manner(&ask, declared.as_ref())?;
        let request = Request { link, swap, force: ask.force, rendered: None, only_rendered: false, target };
        let deadline = tokio::time::Instant::now() + ask.wait;
        let name = ask.artifact.clone();
        let seed = |version: VersionName| {
            // Who waits for the version waits as long for whoever seeds the same target.
            let patience = deadline.saturating_duration_since(tokio::time::Instant::now()).clamp(BRIEFLY, PATIENCE);
            let caller = Caller { held: held.clone(), progress: progress.clone(), patience };
            self.shared.seed_one(name.clone(), version, request.clone(), caller)
        };
        let mut seeded = seed(self.version_for(&ask).await?).await;
        if let Err(SeedAskError::Seed(SeedError::StoreDamaged { version, .. })) = &seeded
            && !ask.wait.is_zero()
        {
            match self.wait_for_repair(&name, version, ask.wait).await {
                Ok(_) => {
                    ask.wait = deadline.saturating_duration_since(tokio::time::Instant::now());
                    seeded = seed(self.version_for(&ask).await?).await;
                }
                Err(error @ (WaitError::TimedOut { .. } | WaitError::NotSeeded { .. } | WaitError::ShuttingDown)) => {
                    return Err(error.into());
                }
                // Nobody can have it again: the damage is what there is to tell.
                Err(WaitError::Failed { .. } | WaitError::Unknown { .. }) => {}
            }
        }
        seeded
    }

    fn declared(&self, artifact: &ArtifactName) -> Vec<SeedTarget> {
        let world = self.shared.world();
        world.catalog.artifacts.get(artifact).map(|artifact| artifact.seeds.clone()).unwrap_or_default()
    }

    /// The target that is `parent` and the last component of what was given, where the daemon gets to it by itself and
    /// the caller may have it seeded. Where only one can be, and the caller has all rights, `parent` comes back with it, to
    /// be held against the target's when that is seeded: one thread less to wait for.
    async fn place_in(&self, parent: Dir, ask: &SeedAsk) -> Result<Option<(RelPath, Option<Held>)>, SeedAskError> {
        let mut places = Vec::new();
        if !ask.declared_only {
            places.extend(self.shared.seeder.target(&ask.target).ok());
        }
        if !ask.declared_only || !ask.force {
            let name = std::path::Path::new(&ask.target).file_name().map(|name| name.as_encoded_bytes().to_vec());
            let declared = self.declared(&ask.artifact).into_iter().map(|seed| seed.target);
            places.extend(declared.filter(|target| Some(target.file_name()) == name.as_deref()));
        }
        places.dedup();
        match places.len() {
            0 => Ok(None),
            // Who may seed anything below the root is trusted with a turn for a directory that may hang.
            1 if !ask.declared_only => {
                Ok(places.pop().map(|only| (only, Some(Held { parent, given: ask.target.clone() }))))
            }
            _ => {
                let seeder = self.shared.seeder.clone();
                let find = move || places.into_iter().find(|target| seeder.is_parent_of(&parent, target));
                let found = self.shared.tasks.spawn_blocking(find).await?;
                Ok(found.map(|target| (target, None)))
            }
        }
    }

    /// What the caller needs to go on alone, once the version is here.
    async fn not_below_root(&self, ask: &SeedAsk) -> Result<SeedAskError, SeedAskError> {
        let version = self.version_for(ask).await?;
        let gone = || StoreError::NoVersion { artifact: ask.artifact.clone(), version: version.clone() };
        let head = self.shared.store.head(&ask.artifact, &version).ok_or_else(gone)?;
        Ok(SeedAskError::NotBelowRoot { target: ask.target.clone(), head })
    }

    /// The version to seed: waited for while it may still come.
    async fn version_for(&self, ask: &SeedAsk) -> Result<VersionName, SeedAskError> {
        let (name, version) = (&ask.artifact, ask.version.as_ref());
        if let Some(version) = version
            && self.shared.store.head(name, version).is_none()
            && self.is_settled(name, version)
        {
            return Err(StoreError::NoVersion { artifact: name.clone(), version: version.clone() }.into());
        }
        let state = self.wait(name, version, ask.wait).await?;
        let found = version.cloned().or(state.current.clone());
        // A wait that ended well saw it; gone since, it counts as not there yet.
        found.ok_or_else(|| WaitError::TimedOut { state: Box::new(state) }.into())
    }

    /// The source was asked and answered, and all that it named is here: no other version is about to come.
    fn is_settled(&self, name: &ArtifactName, version: &VersionName) -> bool {
        let world = self.shared.world();
        let repairable = world.tracked.contains_key(name) && world.repairs.holds(name, version);
        !repairable
            && world.tracked.get(name).is_none_or(|tracked| {
                let facts = &tracked.facts;
                !facts.busy
                    && !facts.asked
                    && facts.pending.is_none()
                    && facts.failures == 0
                    && facts.next_ask.is_some()
            })
    }

    /// Reads a version (all of the artifact's when `None`) and compares it with its manifest; with `repair` a damaged
    /// one is put into quarantine and what should be there is fetched again.
    pub async fn verify(
        &self,
        name: &ArtifactName,
        version: Option<&VersionName>,
        repair: bool,
    ) -> Result<Vec<VerifyResult>, VerifyAskError> {
        let holding = self.shared.store.holding(name);
        if holding.versions.is_empty() && self.state(name).is_none() {
            return Err(VerifyAskError::Unknown { name: name.clone() });
        }
        let versions = match version {
            Some(version) => vec![version.clone()],
            None => holding.newest_first().into_iter().map(|head| head.version.clone()).collect(),
        };
        let mut results = Vec::with_capacity(versions.len());
        for one in versions {
            match self.verify_one(name.clone(), one, repair).await {
                // Collected meanwhile; nobody asked for that very one.
                Err(VerifyAskError::Store(StoreError::NoVersion { .. })) if version.is_none() => {}
                result => results.push(result?),
            }
        }
        Ok(results)
    }

    async fn verify_one(
        &self,
        artifact: ArtifactName,
        version: VersionName,
        repair: bool,
    ) -> Result<VerifyResult, VerifyAskError> {
        let shared = self.shared.clone();
        let result = tokio::task::spawn_blocking(move || {
            let store = &shared.store;
            let opened = store.open_version(&artifact, &version)?;
            let report = match store.verify(&opened, |_| {}) {
                Err(error @ StoreError::Manifest { .. }) if repair => Report::unreadable(error_chain(&error)),
                report => report?,
            };
            let damaged = report.damaged > 0;
            if damaged {
                tracing::error!(%artifact, %version, damaged = report.damaged,
                    first = report.damage.first().map(|d| format!("{}: {}", d.path, d.what)), "version is damaged");
            }
            if damaged && repair {
                let first = report.damage.first().map(|d| format!(", the first {}: {}", d.path, d.what));
                let what =
                    format!("{} entries are not as the manifest says{}", report.damaged, first.unwrap_or_default());
                shared.take_out(&opened, "verify", &what)?;
            }
            Ok::<_, StoreError>(VerifyResult { artifact, version, report, repairing: damaged && repair })
        })
        .await??;
        self.shared.changed();
        Ok(result)
    }
}
