//! A seed with no daemon about: the archive is fetched, verified and unpacked here, by the code that the daemon has.
//!
//! What must hold: nothing takes the target's place but the tree of an archive with the digest that was demanded; the
//! download lies beside the target and goes with the command.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::Wish;
use super::activity::{Activity, Doing};
use super::hand_over::{HandOverError, mend_around, settle, told_together};
use super::stream::blocking;
use crate::acquire::{
    AcquireError, Acquired, ClientError, Fetcher, Location, Naming, Progress, Resolution, version_by_digest,
};
use crate::cli::exit::Failure;
use crate::cli::wait;
use crate::fs::{Dir, LinkMode, Meta, RelPath};
use crate::intent::{
    Artifact, Connections, Digest, FetchSettings, HttpSource, Interval, Link, Retain, Source, Spec, Unpack,
    VersionName, VersionWish, recipe_digest,
};
use crate::seed::{
    Asked, Fetched, Mark, Marks as _, OnTargets, Place, Seed, SeedError, Seeded, Standing, Step, Switch, Wanted,
    decide, entries_of, restore_modes,
};
use crate::store::{Entry, EntryType, ResolvedFrom, Staging, tree_digest};

/// How long a daemon is waited for when nobody says.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(5);
/// The first pause between two tries; each next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What to do when no daemon answers.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "With no daemon")]
pub(super) struct OrFetch {
    /// Where to fetch the archive from when no daemon answers
    #[arg(long, value_name = "URL", requires = "sha256", value_parser = address)]
    or_fetch: Option<reqwest::Url>,
    /// The archive's SHA-256
    #[arg(long, value_name = "HEX", requires = "or_fetch", value_parser = sha256)]
    sha256: Option<Digest>,
    /// How long to wait for a daemon that is not there yet [default: not at all; 5s for one that says nothing]
    #[arg(long, value_name = "DURATION", value_parser = wait::limit)]
    pub(super) daemon_timeout: Option<Duration>,
    /// As unpack.stripComponents of the document
    #[arg(long, value_name = "N", requires = "or_fetch", default_value_t = 0)]
    strip_components: u32,
    /// As unpack.prefix of the document
    #[arg(long, value_name = "PATH", requires = "or_fetch")]
    prefix: Option<RelPath>,
    /// As unpack.include of the document; may be given again
    #[arg(long, value_name = "GLOB", requires = "or_fetch")]
    include: Vec<String>,
    /// As unpack.exclude of the document; may be given again
    #[arg(long, value_name = "GLOB", requires = "or_fetch")]
    exclude: Vec<String>,
    /// As unpack.require of the document; may be given again
    #[arg(long, value_name = "PATH", requires = "or_fetch")]
    require: Vec<RelPath>,
}

/// Why a text is no archive's address.
#[derive(Debug, thiserror::Error)]
enum AddressError {
    #[error("that is no URL; write it like https://HOST/PATH")]
    Malformed,
    #[error("only http and https addresses can be fetched")]
    Scheme,
}

fn address(text: &str) -> Result<reqwest::Url, AddressError> {
    let url: reqwest::Url = text.parse().map_err(|_| AddressError::Malformed)?;
    if matches!(url.scheme(), "http" | "https") { Ok(url) } else { Err(AddressError::Scheme) }
}

/// Why a text is no SHA-256.
#[derive(Debug, thiserror::Error)]
#[error("that is no SHA-256: give its 64 hex digits")]
struct Sha256Error;

fn sha256(text: &str) -> Result<Digest, Sha256Error> {
    let digest: Digest = text.parse().map_err(|_| Sha256Error)?;
    if digest.algorithm() == crate::intent::Algorithm::Sha256 { Ok(digest) } else { Err(Sha256Error) }
}

/// Why the archive did not become the target; what stood there stands there still.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum FetchError {
    /// No client for HTTP.
    #[error(transparent)]
    Http(#[from] ClientError),
    /// The bytes were not had, or not taken.
    #[error("no daemon answers ({why}), and the archive was not fetched here either")]
    Acquire {
        /// Why no daemon.
        why: String,
        /// Why not here.
        #[source]
        source: AcquireError,
    },
}

/// An archive to fetch, and what to make of it.
#[derive(Debug)]
pub(super) struct Plan {
    url: reqwest::Url,
    sha256: Digest,
    unpack: Unpack,
    /// How long the daemon may take to answer.
    pub(super) daemon_timeout: Duration,
}

impl OrFetch {
    /// What is to be fetched; `None` where nothing shall.
    pub(super) fn plan(&self) -> Option<Plan> {
        let (url, sha256) = (self.or_fetch.clone()?, self.sha256.clone()?);
        let unpack = Unpack {
            strip_components: self.strip_components,
            prefix: self.prefix.clone(),
            include: self.include.clone(),
            exclude: self.exclude.clone(),
            require: self.require.clone(),
            ..Unpack::default()
        };
        Some(Plan { url, sha256, unpack, daemon_timeout: self.daemon_timeout.unwrap_or(DAEMON_TIMEOUT) })
    }
}

/// Seeds the target with the archive; `why` says why no daemon does.
pub(super) async fn fetch(plan: &Plan, wish: &Wish<'_>, why: String, activity: &Activity) -> Result<Seeded, Failure> {
    let started = Instant::now();
    let given = wish.given.to_path_buf();
    let patience = wish.wait.max(wait::LEAST_FOR_OTHERS);
    activity.turn_to(Doing::Waiting);
    let reached = blocking(move || {
        let place = Place::at(&given)?;
        let lock = place.lock(patience)?;
        place.clear_leftovers(|_| false)?;
        let mount_point = place.is_mount_point()?;
        Ok::<_, HandOverError>((place.look(&OnTargets)?, mount_point, place, lock))
    });
    let (standing, mount_point, place, lock) = reached.await?;
    let fetch = Fetch { plan, wish, why, place: Arc::new(place), activity, mount_point };
    let seeded = fetch.seed(standing).await;
    drop(lock);
    let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Seeded { elapsed_ms, ..seeded? })
}

struct Fetch<'a> {
    plan: &'a Plan,
    wish: &'a Wish<'a>,
    why: String,
    place: Arc<Place>,
    activity: &'a Activity,
    mount_point: bool,
}

impl Fetch<'_> {
    async fn seed(&self, standing: Standing) -> Result<Seeded, Failure> {
        let said = match &standing {
            Standing::Ours(seed) if self.is_of_it(&seed.mark) => Some(seed.mark.tree_digest.clone()),
            _ => None,
        };
        match self.step(standing, said)? {
            Step::Swap(switch) => self.swap(switch).await,
            Step::Refuse(what) => Err(self.refused(what)),
            Step::Mend(seed) => match self.check(*seed).await? {
                Some(seeded) => Ok(seeded),
                None => {
                    let standing = self.place.look(&OnTargets).map_err(HandOverError::from)?;
                    match self.step(standing, None)? {
                        Step::Swap(switch) => self.swap(switch).await,
                        Step::Refuse(what) => Err(self.refused(what)),
                        Step::Mend(_) => unreachable!("no tree has the digest of none"),
                    }
                }
            },
        }
    }

    fn refused(&self, what: &'static str) -> Failure {
        HandOverError::from(SeedError::NotOurs { target: self.place.path(), what }).into()
    }

    /// As the store names a version of which nothing but the digest is known.
    fn version(&self) -> VersionName {
        self.wish.version.cloned().unwrap_or_else(|| version_by_digest(&self.plan.sha256))
    }

    fn fetched(&self) -> Fetched {
        Fetched { archive: self.plan.sha256.clone(), recipe: recipe_digest(&self.plan.unpack) }
    }

    /// Whether a seed says that it was made of this very archive, under this recipe.
    fn is_of_it(&self, mark: &Mark) -> bool {
        mark.artifact == *self.wish.name
            && self.wish.version.is_none_or(|version| mark.version == *version)
            && mark.fetched.as_ref() == Some(&self.fetched())
    }

    /// Reads what is there; `None` when it is not whole.
    async fn check(&self, seed: Seed) -> Result<Option<Seeded>, Failure> {
        self.activity.turn_to(Doing::Checking);
        let look = move || {
            let owned = seed.owned(|_, _| true)?;
            let found = entries_of(&seed.dir, owned.as_ref())?;
            Ok::<_, HandOverError>((seed, found))
        };
        let (seed, found) = blocking(look).await?;
        let Some(entries) = found.filter(|entries| tree_digest(entries) == seed.mark.tree_digest) else {
            return Ok(None);
        };
        let mark = seed.mark.clone();
        let around = mend_around(self.place.clone(), seed).await?;
        Ok(Some(self.told(&mark, &entries, around)))
    }

    /// What to do about what stands at the target, which says that it holds a tree of the digest `said`.
    fn step(&self, standing: Standing, said: Option<Digest>) -> Result<Step, Failure> {
        let version = match &standing {
            Standing::Ours(seed) if said.is_some() => seed.mark.version.clone(),
            _ => self.version(),
        };
        // The digest of no entries at all: no tree has it, so that what is there is replaced.
        let tree_digest = said.unwrap_or_else(|| Digest::sha256(b""));
        let asked = Asked {
            wanted: Wanted { artifact: self.wish.name, version: &version, tree_digest: &tree_digest },
            link: Link::Copy,
            swap: self.wish.swap,
            force: self.wish.force,
            device: None,
            mount_point: self.mount_point,
        };
        Ok(decide(standing, &asked))
    }

    /// Fetches, and has the tree take the place of what stands there.
    async fn swap(&self, switch: Switch) -> Result<Seeded, Failure> {
        let download = self.place.stage(&switch).map_err(HandOverError::from)?;
        let tree = match self.place.stage(&switch) {
            Ok(tree) => tree,
            Err(error) => {
                download.discard();
                return Err(HandOverError::from(error).into());
            }
        };
        [&download, &tree].into_iter().for_each(|staged| self.wish.leavings.note(staged));
        let staging = Staging::into_tree(download.dir().clone(), tree.dir().clone());
        let made = self.make(staging, tree.dir().clone(), switch.reason()).await;
        blocking(move || download.discard()).await;
        let (acquired, mark) = match made {
            Ok(made) => made,
            Err(error) => {
                blocking(move || tree.discard()).await;
                self.wish.leavings.forget();
                return Err(error);
            }
        };
        let (_, retired) = settle(self.place.clone(), switch, tree).await?;
        self.wish.leavings.forget();
        retired.map_err(HandOverError::from)?;
        Ok(self.told(&mark, &acquired.entries, acquired.entries.len() as u64))
    }

    /// Fetches into an empty directory, and marks it.
    async fn make(&self, staging: Staging, tree: Dir, swapped: Option<&str>) -> Result<(Acquired, Mark), Failure> {
        let acquired = self.acquire(&staging).await?;
        let reason = told_together(Some(format!("no daemon: {}", self.why)), swapped);
        let (name, fetched) = (self.wish.name.clone(), self.fetched());
        let finished = blocking(move || {
            restore_modes(&tree, &acquired.entries)?;
            tree.apply_meta(&Meta { mode: 0o755, owner: None, mtime: tree.stat_self()?.mtime })?;
            let digest = tree_digest(&acquired.entries);
            let wanted = Wanted { artifact: &name, version: &acquired.version, tree_digest: &digest };
            let mark = Mark { fetched: Some(fetched), ..Mark::new(wanted, LinkMode::Copy, reason, &tree)? };
            OnTargets.put(&tree, &mark)?;
            Ok::<_, HandOverError>((acquired, mark))
        });
        Ok(finished.await?)
    }

    /// Fetches, verifies and unpacks; again until `--wait` is over where that may help.
    async fn acquire(&self, staging: &Staging) -> Result<Acquired, Failure> {
        let fetcher = Fetcher::new(&FetchSettings::default()).map_err(FetchError::from)?;
        let (artifact, resolution) = (self.artifact(), self.resolution());
        let progress = Arc::new(Progress::default());
        self.activity.turn_to(Doing::Fetching(progress.clone()));
        let deadline = Instant::now() + self.wish.wait;
        let mut pause = FIRST_PAUSE;
        loop {
            let error =
                match fetcher.acquire(&artifact, &resolution, staging, &progress, &CancellationToken::new()).await {
                    Ok(acquired) => return Ok(acquired),
                    Err(error) => error,
                };
            let wait = error.retry_after().unwrap_or(pause);
            if !error.is_transient() || Instant::now() + wait > deadline {
                return Err(FetchError::Acquire { why: self.why.clone(), source: error }.into());
            }
            tokio::time::sleep(wait).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    fn artifact(&self) -> Artifact {
        let source = HttpSource {
            url: self.plan.url.to_string(),
            latest: None,
            checksums: None,
            mirrors: Vec::new(),
            headers: std::collections::BTreeMap::new(),
            connections: Connections::default(),
            redirects_to: Vec::new(),
        };
        let spec = Spec {
            source: Source::Http(source),
            version: VersionWish::Latest,
            sha256: Some(self.plan.sha256.clone()),
            sha512: None,
            pin: None,
            refresh: Interval(self.wish.wait),
            unpack: self.plan.unpack.clone(),
            keep_archive: false,
            retain: Retain::default(),
            seeds: Vec::new(),
        };
        Artifact { name: self.wish.name.clone(), spec, generation: self.plan.sha256.clone(), file: PathBuf::new() }
    }

    fn resolution(&self) -> Resolution {
        Resolution {
            naming: Naming::Known(self.version()),
            locations: vec![Location::Http(self.plan.url.clone())],
            demanded: vec![self.plan.sha256.clone()],
            resolved_from: ResolvedFrom::default(),
            file_name: "data".to_owned(),
        }
    }

    fn told(&self, mark: &Mark, entries: &[Entry], written: u64) -> Seeded {
        let files = || entries.iter().filter(|entry| entry.kind == EntryType::File);
        Seeded {
            artifact: mark.artifact.clone(),
            version: mark.version.clone(),
            digest: self.plan.sha256.clone(),
            target: self.wish.absolute.to_owned(),
            mode: mark.mode,
            reason: mark.reason.clone(),
            files: files().count() as u64,
            bytes: files().map(|entry| entry.size).sum(),
            changed: written > 0,
            written,
            elapsed_ms: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_and_digests_are_told_from_other_texts() {
        assert!(address("https://origin.invalid/a.tgz?x=1").is_ok() && address("http://h:1/").is_ok());
        assert!(matches!(address("a.tgz"), Err(AddressError::Malformed)));
        assert!(matches!(address("file:///a.tgz"), Err(AddressError::Scheme)));
        let hex = "ab".repeat(32);
        assert_eq!(sha256(&hex).unwrap().hex(), hex);
        assert_eq!(sha256(&format!("sha256:{hex}")).unwrap().hex(), hex);
        for bad in ["", "ab", &"ab".repeat(64), &"xy".repeat(32)] {
            assert!(sha256(bad).is_err(), "{bad}");
        }
    }
}
