//! `PUT` and `DELETE …/pin`: an operator holds an artifact at one version on this node, and lets go of it again.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::HeaderMap;
use axum::{Extension, Json};

use super::address::Named;
use super::ask::{PinBody, RefreshQuery, json};
use super::caller::Peer;
use super::problem::Problem;
use super::routes::App;
use crate::reconcile::PinAnswer;

/// Pins it. A version that is not here is accepted and fetched; with `wait` the answer comes when it is current.
pub(super) async fn pin(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    Named(name): Named,
    headers: HeaderMap,
    query: Result<Query<RefreshQuery>, QueryRejection>,
    request: Request,
) -> Result<Json<PinAnswer>, Problem> {
    app.gate.may_change(peer, &headers).await?;
    let Query(query) = query?;
    let body: PinBody = json(request).await?;
    Ok(Json(app.reconciler.pin(&name, &body.version, query.wait.map(|wait| wait.0)).await?))
}

/// Takes the pin away.
pub(super) async fn unpin(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    Named(name): Named,
    headers: HeaderMap,
    query: Result<Query<RefreshQuery>, QueryRejection>,
) -> Result<Json<PinAnswer>, Problem> {
    app.gate.may_change(peer, &headers).await?;
    let Query(query) = query?;
    Ok(Json(app.reconciler.unpin(&name, query.wait.map(|wait| wait.0)).await?))
}
