//! What a running node is asked, as calls with typed answers.

use std::os::fd::AsFd;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method};
use hyper::body::Incoming;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::connection::{self, ClientError, Question};
use super::events::Events;
use super::problem::Elsewhere;
use super::server::Server;
use super::wait;
use crate::intent::{ArtifactName, Interval, Link, Swap, VersionName, VersionOrCurrent};
use crate::reconcile::{ArtifactState, Collected, PinAnswer, VerifyResult};
use crate::seed::Seeded;

/// How long a plain question may take, and how much longer than its wait one that waits.
const ANSWER: Duration = Duration::from_secs(30);
/// How long putting the files in place may take, once the version is there.
const SEEDING: Duration = Duration::from_secs(3600);
/// How long reading an artifact's versions may take.
const VERIFYING: Duration = Duration::from_secs(6 * 3600);
/// How long removing versions may take.
const COLLECTING: Duration = Duration::from_secs(3600);
/// Left as they are in a path segment and in a query.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Asks one daemon.
#[derive(Debug)]
pub(super) struct Client {
    server: Server,
    token: Option<HeaderValue>,
}

/// What `POST …/seed` is told.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SeedQuestion<'a> {
    /// From the root of the file system.
    pub(super) target: &'a str,
    /// `None`: the current one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<&'a VersionName>,
    /// `None`: as declared, else `auto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) link: Option<Link>,
    /// `None`: as declared, else `exchange`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) swap: Option<Swap>,
    /// Replace what seedcache did not make.
    pub(super) force: bool,
    /// How long to wait for the version.
    pub(super) wait: Interval,
}

/// What came of asking for a seed at a directory that was opened here.
#[derive(Debug)]
pub(super) enum SeedAnswer {
    /// The daemon did all of it.
    Seeded(Seeded),
    /// It does not reach that place by itself: this version is to be filled in from here.
    NotBelowRoot(Elsewhere),
}

/// What came of asking to have a directory filled.
#[derive(Debug)]
pub(super) enum FillAnswer {
    /// It holds the version.
    Seeded(Seeded),
    /// It is as it was, and the client is to receive the tree and write it there.
    Receive {
        /// Why the daemon could not link.
        reason: String,
    },
}

#[derive(Serialize)]
struct FillQuestion<'a> {
    link: Link,
    target: &'a str,
}

#[derive(Serialize)]
struct PinQuestion<'a> {
    version: &'a VersionName,
}

#[derive(Serialize)]
struct VerifyQuestion<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a VersionOrCurrent>,
    repair: bool,
}

#[derive(Deserialize)]
struct Results {
    results: Vec<VerifyResult>,
}

impl Client {
    /// A client of the daemon at `server`; connects only when something is asked.
    pub(super) fn new(server: Server, token: Option<HeaderValue>) -> Self {
        Self { server, token }
    }

    /// Every artifact.
    pub(super) async fn artifacts(&self) -> Result<Vec<ArtifactState>, ClientError> {
        let question = get("/v1/artifacts".to_owned());
        self.ask(&question).await
    }

    /// One of them.
    pub(super) async fn artifact(&self, name: &ArtifactName) -> Result<ArtifactState, ClientError> {
        self.ask(&get(path(name, ""))).await
    }

    /// Every state of every artifact, or of one, from now on.
    pub(super) async fn events(&self, name: Option<&ArtifactName>) -> Result<Events, ClientError> {
        let query = name.map_or_else(String::new, |name| query(&[("artifact", name.as_str())]));
        let question = get(format!("/v1/events{query}"));
        let body = connection::open(&self.server, self.token.as_ref(), &question, "text/event-stream").await?;
        Ok(Events::new(self.server.clone(), question.path, body))
    }

    /// Every artifact, or one, as the daemon wrote it; JSON, that much is checked.
    pub(super) async fn raw(
        &self,
        name: Option<&ArtifactName>,
    ) -> Result<Box<serde_json::value::RawValue>, ClientError> {
        self.ask(&get(name.map_or_else(|| "/v1/artifacts".to_owned(), |name| path(name, "")))).await
    }

    /// Seeds a target, waiting for the version up to `wait`.
    pub(super) async fn seed(
        &self,
        name: &ArtifactName,
        question: SeedQuestion<'_>,
        wait: Duration,
    ) -> Result<Seeded, ClientError> {
        wait::until(wait, async |left| {
            let question = SeedQuestion { wait: whole_ms(left), ..question.clone() };
            self.ask(&post(path(name, "/seed"), json(&question), left + SEEDING)).await
        })
        .await
    }

    /// Seeds a target whose parent is open here, waiting for the version up to `wait`, but for a
    /// daemon that went away only up to `absence`. Over the Unix socket only.
    pub(super) async fn seed_at(
        &self,
        name: &ArtifactName,
        question: SeedQuestion<'_>,
        wait: Duration,
        absence: Option<Duration>,
        parent: impl AsFd,
    ) -> Result<SeedAnswer, ClientError> {
        let parent = parent.as_fd();
        let seeded = wait::until_gone(wait, absence, async |left| {
            let question = SeedQuestion { wait: whole_ms(left), ..question.clone() };
            self.ask_with(&post(path(name, "/seed"), json(&question), left + SEEDING), parent).await
        });
        match seeded.await {
            Ok(seeded) => Ok(SeedAnswer::Seeded(seeded)),
            Err(ClientError::Problem(problem)) => match problem.elsewhere() {
                Some(elsewhere) => Ok(SeedAnswer::NotBelowRoot(elsewhere.clone())),
                None => Err(ClientError::Problem(problem)),
            },
            Err(error) => Err(error),
        }
    }

    /// Has the directory `dir`, which is open here, filled with a version: one that is empty, or that bears the mark of
    /// this very version and is checked and mended. `target` is for display. Over the Unix socket only.
    pub(super) async fn fill(
        &self,
        name: &ArtifactName,
        version: &VersionName,
        link: Link,
        target: &str,
        dir: impl AsFd,
    ) -> Result<FillAnswer, ClientError> {
        let version = utf8_percent_encode(version.as_str(), UNRESERVED);
        let path = path(name, &format!("/versions/{version}/fill"));
        match self.ask_with(&post(path, json(&FillQuestion { link, target }), SEEDING), dir.as_fd()).await {
            Ok(seeded) => Ok(FillAnswer::Seeded(seeded)),
            Err(ClientError::Problem(problem)) => match problem.receive() {
                Some(reason) => Ok(FillAnswer::Receive { reason: reason.to_owned() }),
                None => Err(ClientError::Problem(problem)),
            },
            Err(error) => Err(error),
        }
    }

    /// Whether the daemon answers at all, within `limit`.
    pub(super) async fn health(&self, limit: Duration) -> Result<(), ClientError> {
        let silent = |_| ClientError::Silent { server: self.server.clone(), limit };
        let question = Question { limit, ..get("/healthz".to_owned()) };
        tokio::time::timeout(limit, self.send(&question)).await.map_err(silent)?.map(drop)
    }

    /// Comes back once the daemon answers; where nobody listens yet, it is tried again for up to `limit`.
    pub(super) async fn arrival(&self, limit: Duration) -> Result<(), ClientError> {
        wait::arrival(limit, async |left| self.health(left).await).await
    }

    /// A version's manifest as it stands in the store, to be read as it comes.
    pub(super) async fn manifest(&self, name: &ArtifactName, version: &VersionName) -> Result<Incoming, ClientError> {
        self.open(name, version, "").await
    }

    /// A version's tree as a tar stream.
    pub(super) async fn tree(&self, name: &ArtifactName, version: &VersionName) -> Result<Incoming, ClientError> {
        self.open(name, version, "/tree.tar").await
    }

    async fn open(&self, name: &ArtifactName, version: &VersionName, what: &str) -> Result<Incoming, ClientError> {
        let version = utf8_percent_encode(version.as_str(), UNRESERVED);
        let question = get(path(name, &format!("/versions/{version}{what}")));
        connection::open(&self.server, self.token.as_ref(), &question, "*/*").await
    }

    /// Where the daemon is.
    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    /// Has the source asked now, without waiting for what comes of it.
    pub(super) async fn refresh(&self, name: &ArtifactName) -> Result<ArtifactState, ClientError> {
        self.ask(&post(path(name, "/refresh"), Bytes::new(), ANSWER)).await
    }

    /// Has the source asked now, and waits up to `wait` until what it names is here or the try failed.
    pub(super) async fn refresh_and_wait(
        &self,
        name: &ArtifactName,
        wait: Duration,
    ) -> Result<ArtifactState, ClientError> {
        wait::until(wait, async |left| {
            let path = path(name, "/refresh") + &query(&[("wait", &whole_ms(left).to_string())]);
            self.ask(&post(path, Bytes::new(), left + ANSWER)).await
        })
        .await
    }

    /// Pins an artifact at a version, or with `None` takes the pin away; waits up to `wait` until what that makes
    /// current is, or not at all.
    pub(super) async fn pin(
        &self,
        name: &ArtifactName,
        version: Option<&VersionName>,
        wait: Option<Duration>,
    ) -> Result<PinAnswer, ClientError> {
        let question = |query: String, limit| match version {
            Some(version) => {
                let body = json(&PinQuestion { version });
                Question { method: Method::PUT, path: path(name, "/pin") + &query, body, limit }
            }
            None => Question { method: Method::DELETE, path: path(name, "/pin") + &query, body: Bytes::new(), limit },
        };
        let Some(wait) = wait else { return self.ask(&question(String::new(), ANSWER)).await };
        wait::until(wait, async |left| {
            self.ask(&question(query(&[("wait", &whole_ms(left).to_string())]), left + ANSWER)).await
        })
        .await
    }

    /// Waits up to `wait` until a version is there.
    pub(super) async fn wait(
        &self,
        name: &ArtifactName,
        version: &VersionName,
        wait: Duration,
    ) -> Result<ArtifactState, ClientError> {
        wait::until(wait, async |left| {
            let timeout = whole_ms(left).to_string();
            let path = path(name, "/wait") + &query(&[("version", version.as_str()), ("timeout", &timeout)]);
            self.ask(&Question { limit: left + ANSWER, ..get(path) }).await
        })
        .await
    }

    /// Has one version read again, or all of the artifact's.
    pub(super) async fn verify(
        &self,
        name: &ArtifactName,
        version: Option<&VersionOrCurrent>,
        repair: bool,
    ) -> Result<Vec<VerifyResult>, ClientError> {
        let question = post(path(name, "/verify"), json(&VerifyQuestion { version, repair }), VERIFYING);
        self.ask(&question).await.map(|answer: Results| answer.results)
    }

    /// Has versions removed that nothing keeps, or only told which.
    pub(super) async fn collect(&self, dry_run: bool) -> Result<Collected, ClientError> {
        let path = "/v1/gc".to_owned() + &query(&[("dryRun", if dry_run { "true" } else { "false" })]);
        self.ask(&post(path, Bytes::new(), COLLECTING)).await
    }

    async fn send(&self, question: &Question) -> Result<Bytes, ClientError> {
        connection::ask(&self.server, self.token.as_ref(), question).await
    }

    async fn ask<T: DeserializeOwned>(&self, question: &Question) -> Result<T, ClientError> {
        self.read(question, &self.send(question).await?)
    }

    async fn ask_with<T: DeserializeOwned>(
        &self,
        question: &Question,
        descriptor: impl AsFd,
    ) -> Result<T, ClientError> {
        let unreachable = |source| ClientError::Unreachable { server: self.server.clone(), source };
        let descriptor = descriptor.as_fd().try_clone_to_owned().map_err(unreachable)?;
        let answer = connection::ask_with(&self.server, self.token.as_ref(), question, Some(descriptor)).await?;
        self.read(question, &answer)
    }

    fn read<T: DeserializeOwned>(&self, question: &Question, answer: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(answer).map_err(|source| ClientError::Unreadable {
            server: self.server.clone(),
            path: question.path.clone(),
            source,
        })
    }
}

fn get(path: String) -> Question {
    Question { method: Method::GET, path, body: Bytes::new(), limit: ANSWER }
}

fn post(path: String, body: Bytes, limit: Duration) -> Question {
    Question { method: Method::POST, path, body, limit }
}

fn path(name: &ArtifactName, rest: &str) -> String {
    format!("/v1/artifacts/{}{rest}", utf8_percent_encode(name.as_str(), UNRESERVED))
}

/// A query string, its values encoded: a `+` in a version is no space.
fn query(pairs: &[(&str, &str)]) -> String {
    let pairs = pairs.iter().map(|(key, value)| format!("{key}={}", utf8_percent_encode(value, UNRESERVED)));
    format!("?{}", pairs.collect::<Vec<_>>().join("&"))
}

fn json(question: &impl Serialize) -> Bytes {
    serde_json::to_vec(question).unwrap_or_else(|e| unreachable!("names, flags and texts are JSON: {e}")).into()
}

/// To the millisecond, rounded up: `10m` stays `10m`.
fn whole_ms(left: Duration) -> Interval {
    Interval(Duration::from_millis(u64::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)))
}
