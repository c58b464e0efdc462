//! The routes: artifacts and their state, waiting, and the changes that callers may ask for.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRef, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Extension, Json, Router};
use schemars::JsonSchema;
use serde::Serialize;

use super::address::Named;
use super::ask::{
    NoBody, RefreshQuery, SeedBody, VerifyBody, WaitQuery, json, json_or_default, named_version, named_wait,
};
use super::caller::{Peer, Rights};
use super::descriptor::Descriptor;
use super::files::Shelf;
use super::gate::Gate;
use super::host::OwnNames;
use super::metrics::Metrics;
use super::observe::{Observer, observed};
use super::problem::{Kind, Problem};
use super::view::View;
use super::{events, files, fill, health, keep, openapi, page, pin, scrape};
use crate::intent::{ArtifactName, VersionOrCurrent};
use crate::reconcile::{ArtifactState, Reconciler, SeedAsk, VerifyResult, WaitError};
use crate::seed::{SeedProgress, Seeded};

/// How long `wait` waits when it is not told.
const DEFAULT_WAIT: Duration = Duration::from_secs(60);
/// The longest verification; a store that takes longer is checked version by version.
const VERIFY_TIME: Duration = Duration::from_secs(3600);

/// What the handlers work with.
#[derive(Debug, Clone)]
pub(super) struct App {
    pub(super) reconciler: Reconciler,
    pub(super) shelf: Shelf,
    pub(super) metrics: Arc<Metrics>,
    pub(super) gate: Gate,
}

impl FromRef<App> for Shelf {
    fn from_ref(app: &App) -> Self {
        app.shelf.clone()
    }
}

/// All of the API.
pub(super) fn router(app: App, names: OwnNames) -> Router {
    let observer = Observer { metrics: app.metrics.clone(), gate: app.gate.clone(), names };
    observed(endpoints().with_state(app), observer)
}

/// What can be asked for.
pub(super) fn endpoints() -> Router<App> {
    Router::new()
        .route("/", get(page::page))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(scrape::metrics))
        .route("/openapi.json", get(openapi::openapi))
        .route("/v1/events", get(events::events))
        .route("/v1/artifacts", get(list))
        .route("/v1/artifacts/{name}", get(one))
        .route("/v1/artifacts/{name}/wait", get(wait))
        .route("/v1/artifacts/{name}/seed", post(seed))
        .route("/v1/artifacts/{name}/pin", put(pin::pin).delete(pin::unpin))
        .route("/v1/artifacts/{name}/refresh", post(refresh))
        .route("/v1/artifacts/{name}/verify", post(verify))
        .merge(files::routes())
        .merge(keep::routes())
        .merge(fill::routes())
}

impl App {
    /// The state of an artifact that is declared or on the node.
    pub(super) fn state_of(&self, name: &ArtifactName) -> Result<ArtifactState, Problem> {
        self.reconciler.state(name).ok_or_else(|| WaitError::Unknown { name: name.clone() }.into())
    }
}

async fn list(State(app): State<App>, Extension(view): Extension<View>) -> Json<Vec<ArtifactState>> {
    Json(view.states(app.reconciler.states()))
}

async fn one(
    State(app): State<App>,
    Extension(view): Extension<View>,
    Named(name): Named,
) -> Result<Json<ArtifactState>, Problem> {
    Ok(Json(view.state(app.state_of(&name)?)))
}

async fn wait(
    State(app): State<App>,
    Extension(view): Extension<View>,
    Named(name): Named,
    query: Result<Query<WaitQuery>, QueryRejection>,
) -> Result<Json<ArtifactState>, Problem> {
    let Query(query) = query?;
    let version = named_version(&query.version)?;
    let timeout = named_wait(&query.timeout, DEFAULT_WAIT)?;
    let state = match version {
        Some(version) => app.reconciler.wait(&name, Some(&version), timeout).await?,
        None => app.reconciler.wait_for_use(&name, timeout).await?,
    };
    Ok(Json(view.state(state)))
}

async fn seed(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    Named(name): Named,
    headers: HeaderMap,
    passed: Option<Extension<Descriptor>>,
    request: Request,
) -> Result<Json<Seeded>, Problem> {
    let rights = app.gate.rights(peer, &headers).await?;
    let body: SeedBody = json(request).await?;
    // What the daemon does not reach by itself the caller replaces alone, by its own right.
    if body.force && rights != Rights::All && passed.is_none() {
        let detail = "force replaces what seedcache did not make; that is for the bearer token's holder and for root";
        let next = "ask without force, with the token, or over the Unix socket as root or the daemon's user";
        return Err(Problem::new(Kind::Forbidden, detail, next));
    }
    let version = body.version.and_then(|asked| asked.name().cloned());
    let asked = body.target.clone();
    let parent = passed.map(|Extension(passed)| passed.dir(body.target.as_ref())).transpose()?;
    let ask = SeedAsk {
        artifact: name,
        version,
        target: body.target,
        link: body.link,
        swap: body.swap,
        force: body.force,
        wait: body.wait.map_or(Duration::ZERO, |wait| wait.0),
        declared_only: rights != Rights::All,
        parent: parent.as_ref().map(|parent| parent.get().clone()),
    };
    let seeded = app.reconciler.seed(ask, Arc::new(SeedProgress::default())).await?;
    app.metrics.seeded(&seeded);
    // Where seed.root is, only operators are told.
    Ok(Json(if rights == Rights::All { seeded } else { Seeded { target: asked, ..seeded } }))
}

async fn refresh(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    Named(name): Named,
    headers: HeaderMap,
    query: Result<Query<RefreshQuery>, QueryRejection>,
    request: Request,
) -> Result<Response, Problem> {
    app.gate.may_change(peer, &headers).await?;
    let Query(query) = query?;
    // It has no fields, but what was meant for another address must not pass for it.
    let NoBody {} = json_or_default(request).await?;
    if let Some(wait) = query.wait {
        return Ok(Json(app.reconciler.refresh_and_wait(&name, wait.0).await?).into_response());
    }
    app.reconciler.refresh(&name)?;
    Ok((StatusCode::ACCEPTED, Json(app.state_of(&name)?)).into_response())
}

/// The answer to `POST …/verify`.
#[derive(Serialize, JsonSchema)]
pub(super) struct Verified {
    results: Vec<VerifyResult>,
}

async fn verify(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    Named(name): Named,
    headers: HeaderMap,
    request: Request,
) -> Result<Json<Verified>, Problem> {
    app.gate.may_change(peer, &headers).await?;
    let body: VerifyBody = json_or_default(request).await?;
    let version = match body.version {
        None => None,
        Some(VersionOrCurrent::Current) => app.state_of(&name)?.current,
        Some(VersionOrCurrent::Version(version)) => Some(version),
    };
    let verify = app.reconciler.verify(&name, version.as_ref(), body.repair);
    match tokio::time::timeout(VERIFY_TIME, verify).await {
        Ok(results) => Ok(Json(Verified { results: results? })),
        Err(_) => {
            let detail = format!("the verification took more than {} s", VERIFY_TIME.as_secs());
            Err(Problem::new(Kind::TimedOut, detail, "verify one version at a time"))
        }
    }
}
