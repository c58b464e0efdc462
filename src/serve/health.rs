//! Alive and ready, as orchestrators ask.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::problem::{Kind, Problem};
use super::routes::App;
use crate::intent::ArtifactName;
use crate::reconcile::{ArtifactState, State as Stand};

/// Whether what documents declare is here, or known not to come by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Readiness {
    ready: bool,
    /// Neither here nor tried to the end yet.
    missing: Vec<ArtifactName>,
    /// Without a version after a try that failed; they do not hold readiness up.
    failed: Vec<Failed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Failed {
    name: ArtifactName,
    error: Option<String>,
}

impl Readiness {
    fn of<'a>(states: impl IntoIterator<Item = &'a ArtifactState>) -> Self {
        let (mut missing, mut failed) = (Vec::new(), Vec::new());
        for state in states {
            let declared = state.observed_generation.is_some();
            if !declared || state.current.is_some() {
                continue;
            }
            let name = state.name.clone();
            // A retry is under way or waited for: the first try has failed all the same.
            if state.state == Stand::Failed || state.failures > 0 {
                failed.push(Failed { name, error: state.last_error.clone() });
            } else {
                missing.push(name);
            }
        }
        Self { ready: missing.is_empty(), missing, failed }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadyQuery {
    artifact: Option<ArtifactName>,
}

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(
    State(app): State<App>,
    query: Result<Query<ReadyQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query?;
    let states = match query.artifact {
        None => app.reconciler.states(),
        Some(name) => vec![app.state_of(&name)?],
    };
    respond(Readiness::of(&states))
}

fn respond(readiness: Readiness) -> Result<Response, Problem> {
    if readiness.ready {
        return Ok(Json(readiness).into_response());
    }
    let names: Vec<&str> = readiness.missing.iter().map(ArtifactName::as_str).collect();
    let detail = format!("not here yet: {}", names.join(", "));
    Err(Problem::new(Kind::NotReady, detail, "wait; GET /v1/artifacts says how far they are")
        .with("ready", false)
        .with("missing", &readiness.missing)
        .with("failed", &readiness.failed))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::fixture::state;
    use super::*;
    use axum::http::StatusCode;

    #[test]
    fn ready_when_here_or_failed_once() {
        let here = ArtifactState { current: Some("v1".parse().unwrap()), ..state("here", Stand::Ready) };
        let pending = state("pending", Stand::Pending);
        let warming = state("warming", Stand::Warming);
        let failed = ArtifactState { last_error: Some("no route".into()), ..state("failed", Stand::Failed) };
        let retried = ArtifactState { failures: 1, ..state("retried", Stand::Warming) };
        let undeclared = ArtifactState { observed_generation: None, ..state("gone", Stand::Pending) };
        let names = |readiness: &Readiness| -> (Vec<String>, Vec<String>) {
            let missing = readiness.missing.iter().map(ToString::to_string).collect();
            (missing, readiness.failed.iter().map(|failed| failed.name.to_string()).collect())
        };
        let all = Readiness::of([&here, &pending, &warming, &failed, &retried, &undeclared]);
        assert!(!all.ready);
        assert_eq!(names(&all), (vec!["pending".into(), "warming".into()], vec!["failed".into(), "retried".into()]));
        assert_eq!(respond(all).unwrap_err().into_response().status(), StatusCode::SERVICE_UNAVAILABLE);
        let some = Readiness::of([&here, &failed, &undeclared]);
        assert!(some.ready);
        assert_eq!(respond(some).unwrap().status(), StatusCode::OK);
        assert!(Readiness::of([]).ready, "nothing declared is nothing to wait for");
    }
}
