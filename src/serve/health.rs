//! Alive and ready, as orchestrators ask.

use std::collections::BTreeSet;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::Serialize;

use super::problem::{Kind, Problem};
use super::routes::App;
use super::view::View;
use crate::intent::ArtifactName;
use crate::reconcile::{ArtifactState, State as Stand};

/// Whether what documents declare is here, or known not to come by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Readiness {
    ready: bool,
    /// Neither here nor tried to the end yet.
    missing: Vec<ArtifactName>,
    /// Without a version after a try that failed; they do not hold readiness up.
    failed: Vec<Failed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
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

/// Why an artifact that was asked for by name cannot be used yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct NotReady {
    name: ArtifactName,
    why: String,
}

impl NotReady {
    fn of(state: &ArtifactState) -> Option<Self> {
        Some(Self { name: state.name.clone(), why: state.not_ready()? })
    }
}

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(
    State(app): State<App>,
    Extension(view): Extension<View>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query?;
    let names = named(&query)?;
    if names.is_empty() {
        return respond(Readiness::of(&view.states(app.reconciler.states())));
    }
    // Of each state only what the answer tells: a state may be large.
    let not_ready = names.iter().filter_map(|name| match app.state_of(name) {
        Ok(state) => NotReady::of(&view.state(state)).map(Ok),
        Err(unknown) => Some(Err(unknown)),
    });
    respond_for(&not_ready.collect::<Result<Vec<_>, _>>()?)
}

/// The artifacts asked for, `artifact=a&artifact=b` or `artifact=a,b`: each once, however often it is named.
fn named(query: &[(String, String)]) -> Result<BTreeSet<ArtifactName>, Problem> {
    let mut names = BTreeSet::new();
    for (field, value) in query {
        if field != "artifact" {
            let detail = format!("there is no query parameter {field:?} here");
            return Err(Problem::new(Kind::Malformed, detail, "ask with `artifact=NAME`, or without any"));
        }
        for name in value.split(',') {
            let name = name.parse::<ArtifactName>().map_err(|error| {
                Problem::new(Kind::Malformed, error, "name artifacts as `seedcache status` lists them")
            })?;
            names.insert(name);
        }
    }
    Ok(names)
}

/// Unlike the readiness of the whole node, that of an artifact asked for by name means that it can be used: it has a
/// version, and its declared targets hold it.
fn respond_for(not_ready: &[NotReady]) -> Result<Response, Problem> {
    let Some(first) = not_ready.first() else {
        return respond(Readiness { ready: true, missing: Vec::new(), failed: Vec::new() });
    };
    let next = "wait; GET /v1/artifacts/NAME/wait answers once it is ready";
    Err(Problem::new(Kind::NotReady, &first.why, next).with("ready", false).with("notReady", not_ready))
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
    use crate::reconcile::SeedState;
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

    #[test]
    fn an_artifact_asked_for_is_ready_when_its_declared_targets_hold_it() {
        let seed = |declared: bool, stand: Stand| SeedState {
            target: "a/b".into(),
            declared,
            by_handle: false,
            version: None,
            mode: None,
            reason: Some("no room".into()),
            state: stand,
            progress: None,
        };
        let with = |seeds: Vec<SeedState>| ArtifactState {
            current: Some("v1".parse().unwrap()),
            seeds,
            ..state("here", Stand::Ready)
        };
        let status = |states: &[ArtifactState]| {
            let not_ready: Vec<NotReady> = states.iter().filter_map(NotReady::of).collect();
            match respond_for(&not_ready) {
                Ok(response) => (response.status(), String::new()),
                Err(problem) => (problem.clone().into_response().status(), problem.detail().to_owned()),
            }
        };
        let ready = with(vec![seed(true, Stand::Ready), seed(false, Stand::Warming)]);
        assert_eq!(status(std::slice::from_ref(&ready)).0, StatusCode::OK);
        let failed = with(vec![seed(true, Stand::Ready), seed(true, Stand::Failed)]);
        let told = "here is at v1, which a/b does not hold yet: no room".to_owned();
        assert_eq!(status(&[ready.clone(), failed]), (StatusCode::SERVICE_UNAVAILABLE, told));
        let none = ArtifactState { last_error: Some("no route".into()), ..state("none", Stand::Failed) };
        let told = "none is not ready yet: no route".to_owned();
        assert_eq!(status(&[none, ready]), (StatusCode::SERVICE_UNAVAILABLE, told));
    }

    #[test]
    fn names_come_one_by_one_or_with_commas() {
        let query = |pairs: &[(&str, &str)]| -> Result<Vec<String>, StatusCode> {
            let pairs: Vec<_> = pairs.iter().map(|(field, value)| ((*field).to_owned(), (*value).to_owned())).collect();
            let names = named(&pairs).map_err(|problem| problem.into_response().status())?;
            Ok(names.iter().map(ToString::to_string).collect())
        };
        assert_eq!(query(&[("artifact", "a,b"), ("artifact", "c")]).unwrap(), ["a", "b", "c"]);
        let again = [("artifact", "b,a,b,a"), ("artifact", "a"), ("artifact", "b")];
        assert_eq!(query(&again).unwrap(), ["a", "b"], "a name repeated asks for nothing more");
        assert_eq!(query(&[]).unwrap(), [""; 0]);
        for wrong in [[("artefact", "a")], [("artifact", "a,")], [("artifact", "../a")]] {
            assert_eq!(query(&wrong), Err(StatusCode::BAD_REQUEST), "{wrong:?}");
        }
    }
}
