//! What is kept and for how long: collection, removal of a version, leases.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{delete, post, put};
use axum::{Extension, Json, Router};
use schemars::JsonSchema;
use serde::Deserialize;

use super::address::{Addressed, Named};
use super::ask::{NoBody, json, json_or_default, named_version};
use super::caller::Peer;
use super::problem::{Kind, Problem};
use super::routes::App;
use crate::intent::{Interval, error_chain};
use crate::reconcile::{CollectError, Collected, FateState, LeaseAskError, RemoveError};
use crate::store::{HolderName, LeaseError, TimedLease};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/gc", post(collect))
        .route("/v1/artifacts/{name}/versions/{version}", delete(remove))
        .route("/v1/artifacts/{name}/leases/{holder}", put(lease).delete(drop_lease))
}

/// The query of `POST /v1/gc`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CollectQuery {
    #[serde(default)]
    dry_run: bool,
}

/// A dry run changes nothing and tells no more than the states do: it is open, as they are.
async fn collect(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    query: Result<Query<CollectQuery>, QueryRejection>,
    request: Request,
) -> Result<Json<Collected>, Problem> {
    let Query(query) = query?;
    if !query.dry_run {
        app.gate.may_change(peer, &headers).await?;
    }
    let NoBody {} = json_or_default(request).await?;
    Ok(Json(app.reconciler.collect(query.dry_run).await?))
}

/// The query of `DELETE …/versions/{version}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveQuery {
    #[serde(default)]
    force: bool,
}

async fn remove(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    addressed: Addressed,
    headers: HeaderMap,
    query: Result<Query<RemoveQuery>, QueryRejection>,
) -> Result<Json<FateState>, Problem> {
    app.gate.may_change(peer, &headers).await?;
    let Query(query) = query?;
    let version = match addressed.version {
        Some(version) => version,
        None => app.state_of(&addressed.artifact)?.current.ok_or_else(|| no_current(&addressed.artifact))?,
    };
    Ok(Json(app.reconciler.remove_version(&addressed.artifact, &version, query.force).await?))
}

fn no_current(artifact: &crate::intent::ArtifactName) -> Problem {
    LeaseAskError::NoCurrent { artifact: artifact.clone() }.into()
}

/// The body of `PUT …/leases/{holder}`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LeaseBody {
    version: String,
    ttl: Interval,
}

async fn lease(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    Named(name): Named,
    path: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
    request: Request,
) -> Result<Json<TimedLease>, Problem> {
    app.gate.may_change(peer, &headers).await?;
    let body: LeaseBody = json(request).await?;
    let holder = holder(path)?;
    let version = named_version(&body.version)?;
    Ok(Json(app.reconciler.lease(&name, version, &holder, body.ttl.0).await?))
}

async fn drop_lease(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    Named(name): Named,
    path: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    app.gate.may_change(peer, &headers).await?;
    app.reconciler.drop_lease(&name, &holder(path)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn holder(path: Result<Path<(String, String)>, PathRejection>) -> Result<HolderName, Problem> {
    let Path((_, holder)) = path.map_err(|rejection| {
        Problem::new(Kind::Malformed, error_chain(&rejection), "name the holder in plain ASCII")
    })?;
    Ok(holder.parse().map_err(LeaseAskError::from)?)
}

impl From<CollectError> for Problem {
    fn from(error: CollectError) -> Self {
        match error {
            CollectError::Store(error) => error.into(),
            CollectError::Busy => Self::new(Kind::Busy, error, "ask again in a while"),
            CollectError::Task(error) => error.into(),
        }
    }
}

impl From<RemoveError> for Problem {
    fn from(error: RemoveError) -> Self {
        match error {
            RemoveError::Store(error) => error.into(),
            RemoveError::Task(error) => error.into(),
            RemoveError::Claimed { .. } => {
                let next = "end what the detail names, or ask with ?force=true; readers keep its bytes either way";
                Self::new(Kind::Conflict, error, next)
            }
        }
    }
}

impl From<LeaseAskError> for Problem {
    fn from(error: LeaseAskError) -> Self {
        match error {
            LeaseAskError::Store(error) | LeaseAskError::Lease(LeaseError::Store(error)) => error.into(),
            LeaseAskError::Task(error) => error.into(),
            LeaseAskError::NoCurrent { .. } | LeaseAskError::NoLease { .. } => {
                Self::new(Kind::NotFound, error, "GET /v1/artifacts lists versions and leases")
            }
            LeaseAskError::Lease(LeaseError::TooMany) => {
                Self::new(Kind::Conflict, error, "drop leases that are not needed, then ask again")
            }
            LeaseAskError::Lease(LeaseError::Holder { .. } | LeaseError::Time) => {
                Self::new(Kind::Malformed, error, "mend what the detail names, then ask again")
            }
        }
    }
}
