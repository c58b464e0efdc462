//! The one place that turns errors into RFC 9457 problem documents: what happened, and what to do next.
//!
//! A handler returns a [`Problem`]; the outermost layer, which knows the caller, writes it. What went wrong in the daemon
//! goes to the log with the request's id, and to callers who are no operators only the id; of what else is told to them,
//! the host's paths are left out.

use std::borrow::Cow;
use std::error::Error;

use axum::http::header::{ALLOW, CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::caller::Denied;
use super::view::View;
use crate::fs;
use crate::intent::error_chain;
use crate::reconcile::{ArtifactState, PinError, RefreshError, SeedAskError, VerifyAskError, WaitError};
use crate::seed::SeedError;
use crate::store::StoreError;

/// What kind of problem it is: decides type, status and title.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Malformed,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    TimedOut,
    Conflict,
    Busy,
    PreconditionFailed,
    TooLarge,
    MediaType,
    Range,
    Misdirected,
    Internal,
    Unavailable,
    NotReady,
    ShuttingDown,
    NoSpace,
    NotBelowRoot,
    Receive,
}

impl Kind {
    fn words(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Kind::Malformed => ("malformed", StatusCode::BAD_REQUEST, "The request is not understood"),
            Kind::Unauthorized => ("unauthorized", StatusCode::UNAUTHORIZED, "A token is needed"),
            Kind::Forbidden => ("forbidden", StatusCode::FORBIDDEN, "This is not allowed to you"),
            Kind::NotFound => ("not-found", StatusCode::NOT_FOUND, "There is no such thing here"),
            Kind::MethodNotAllowed => {
                ("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "The method does not fit the address")
            }
            Kind::NotAcceptable => ("not-acceptable", StatusCode::NOT_ACCEPTABLE, "There is no such form of it"),
            Kind::TimedOut => ("timed-out", StatusCode::REQUEST_TIMEOUT, "Time is up"),
            Kind::Conflict => ("conflict", StatusCode::CONFLICT, "What is there stands in the way"),
            Kind::Busy => ("busy", StatusCode::CONFLICT, "Another is at it"),
            Kind::PreconditionFailed => {
                ("precondition-failed", StatusCode::PRECONDITION_FAILED, "The condition does not hold")
            }
            Kind::TooLarge => ("too-large", StatusCode::PAYLOAD_TOO_LARGE, "The request is too large"),
            Kind::MediaType => ("media-type", StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body is not JSON"),
            Kind::Range => ("range", StatusCode::RANGE_NOT_SATISFIABLE, "The range lies past the end"),
            Kind::Misdirected => {
                ("misdirected", StatusCode::MISDIRECTED_REQUEST, "The request is meant for somebody else")
            }
            Kind::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR, "The daemon failed"),
            Kind::Unavailable => ("unavailable", StatusCode::BAD_GATEWAY, "The artifact cannot be had"),
            Kind::NotReady => ("not-ready", StatusCode::SERVICE_UNAVAILABLE, "Not ready yet"),
            Kind::ShuttingDown => ("shutting-down", StatusCode::SERVICE_UNAVAILABLE, "The daemon is stopping"),
            Kind::NoSpace => ("no-space", StatusCode::INSUFFICIENT_STORAGE, "The disk is full"),
            Kind::NotBelowRoot => ("not-below-root", StatusCode::CONFLICT, "The directory is the client's to reach"),
            Kind::Receive => ("receive", StatusCode::CONFLICT, "The tree is the client's to write"),
        }
    }
}

/// A problem as it is written (RFC 9457).
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Problem")]
pub(super) struct Document {
    /// Tells kinds apart: `urn:seedcache:problem:KIND`.
    r#type: String,
    /// The kind in words.
    title: &'static str,
    /// That of the answer.
    status: u16,
    /// What went wrong this time.
    detail: String,
    /// What to do next.
    next: Cow<'static, str>,
    /// By which the daemon's log knows the request.
    request_id: String,
    /// Where the artifact stands that was waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<Box<ArtifactState>>,
    /// What the kind has besides.
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// An error as callers get it.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    kind: Kind,
    detail: String,
    next: Cow<'static, str>,
    /// Where the artifact stands.
    state: Option<Box<ArtifactState>>,
    extra: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The detail is for the log and for the daemon's owner.
    internal: bool,
}

impl Problem {
    pub(super) fn new(kind: Kind, detail: impl ToString, next: impl Into<Cow<'static, str>>) -> Self {
        let (state, extra, headers) = Default::default();
        Self { kind, detail: detail.to_string(), next: next.into(), state, extra, headers, internal: false }
    }

    /// An error that the caller has no part in.
    pub(super) fn internal(error: &(dyn Error + 'static)) -> Self {
        let next = "see the daemon's log; trying again may help";
        Self { internal: true, ..Self::new(Kind::Internal, error_chain(error), next) }
    }

    /// A file operation that failed: on a full disk, or on a file that somebody holds, said so; else internal.
    fn file_operation(error: &(dyn Error + 'static), file: &fs::Error) -> Self {
        let internal = Self::internal(error);
        let (kind, next) = if file.is_no_space() {
            (Kind::NoSpace, "free room on the node, or remove versions that are not needed")
        } else if file.is_busy() {
            (Kind::Busy, "ask again in a while, or end what holds a lease on files of a hard-linked seed")
        } else {
            return internal;
        };
        Self { kind, next: next.into(), ..internal }
    }

    /// An extension member.
    pub(super) fn with(mut self, name: &'static str, value: impl Serialize) -> Self {
        let value = serde_json::to_value(value)
            .unwrap_or_else(|e| unreachable!("plain fields with text keys always serialise: {e}"));
        self.extra.insert(name.into(), value);
        self
    }

    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(super) fn unsatisfiable(length: u64) -> Self {
        let value = HeaderValue::try_from(format!("bytes */{length}"))
            .unwrap_or_else(|e| unreachable!("digits are a header value: {e}"));
        let detail = format!("there are {length} bytes, the range starts past them");
        Self::new(Kind::Range, detail, "ask for a range inside, or without one").header(CONTENT_RANGE, value)
    }

    pub(super) fn no_route() -> Self {
        Self::new(Kind::NotFound, "no endpoint has this address", "GET /v1/artifacts lists what can be read")
    }

    pub(super) fn no_method() -> Self {
        Self::new(Kind::MethodNotAllowed, "this address does not take that method", "see the Allow header")
    }

    /// Whether the log should hear of it as an error.
    pub(super) fn is_internal(&self) -> bool {
        self.internal
    }

    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// The answer, for a caller who is shown so much.
    pub(super) fn render(self, request_id: &str, view: View) -> Response {
        let (slug, status, title) = self.kind.words();
        let detail = match self.internal && view != View::Operator {
            true => format!("{title}: the daemon's log says more under request {request_id}"),
            false => view.text(&self.detail).into_owned(),
        };
        let document = Document {
            r#type: format!("urn:seedcache:problem:{slug}"),
            title,
            status: status.as_u16(),
            detail,
            next: self.next,
            request_id: request_id.into(),
            state: self.state.map(|state| Box::new(view.state(*state))),
            extra: self.extra,
        };
        let json = serde_json::to_string(&document)
            .unwrap_or_else(|e| unreachable!("plain fields with text keys always serialise: {e}"));
        let mut response = (status, json).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.extend(self.headers);
        response
    }
}

/// Carries the problem to the outermost layer, which writes it.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.kind.words().1.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Writes the problem that a handler left in its answer, headers that routing set (`Allow`) kept.
pub(super) fn write(mut response: Response, request_id: &str, view: View) -> Response {
    let Some(problem) = response.extensions_mut().remove::<Problem>() else { return response };
    let allow = response.headers_mut().remove(ALLOW);
    let mut written = problem.render(request_id, view);
    if let Some(allow) = allow {
        written.headers_mut().insert(ALLOW, allow);
    }
    written
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}

/// The file operation at the root of an error, if one is.
fn file_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a fs::Error> {
    causes(error).find_map(|cause| cause.downcast_ref::<fs::Error>())
}

impl From<fs::Error> for Problem {
    fn from(error: fs::Error) -> Self {
        Self::file_operation(&error, &error)
    }
}

impl From<tokio::task::JoinError> for Problem {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::internal(&error)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Fs(error) => error.into(),
            StoreError::NoVersion { ref artifact, .. } => {
                let next = format!("`seedcache versions {artifact}` lists those there are");
                Self::new(Kind::NotFound, &error, next)
            }
            StoreError::Manifest { ref artifact, ref version, .. } => {
                let next = format!("run `seedcache verify {artifact}@{version} --repair`");
                Self { next: next.into(), ..Self::internal(&error) }
            }
        }
    }
}

fn with_state(kind: Kind, error: &WaitError, state: &ArtifactState, next: String) -> Problem {
    Problem { state: Some(Box::new(state.clone())), ..Problem::new(kind, error, next) }
}

impl From<WaitError> for Problem {
    fn from(error: WaitError) -> Self {
        match &error {
            WaitError::Unknown { .. } => {
                Self::new(Kind::NotFound, &error, "declare it in a document, or ask for another")
            }
            WaitError::TimedOut { state } | WaitError::NotSeeded { state } => {
                let next = format!("it may still come: ask again, or see `seedcache status {}`", state.name);
                with_state(Kind::TimedOut, &error, state, next)
            }
            WaitError::Failed { state } => {
                let next = match state.next_try {
                    Some(at) => format!("mend what the detail says; the next try is at {at:.0}"),
                    None => format!("mend what the detail says, then run `seedcache refresh {}`", state.name),
                };
                with_state(Kind::Unavailable, &error, state, next)
            }
            WaitError::ShuttingDown => Self::new(Kind::ShuttingDown, &error, "ask again in a moment")
                .header(RETRY_AFTER, HeaderValue::from_static("2")),
        }
    }
}

impl From<RefreshError> for Problem {
    fn from(error: RefreshError) -> Self {
        Self::new(Kind::NotFound, error_chain(&error), "`seedcache status` lists the artifacts there are")
    }
}

impl From<PinError> for Problem {
    fn from(error: PinError) -> Self {
        match error {
            PinError::Unknown { .. } => Self::new(Kind::NotFound, &error, "declare it in a document, or pin another"),
            PinError::Undeclared { ref name, .. } => {
                let next = format!("pin one that `seedcache versions {name}` lists, or declare {name} in a document");
                Self::new(Kind::Conflict, &error, next)
            }
            PinError::Store(error) => error.into(),
            PinError::Wait(error) => error.into(),
            PinError::Task(_) => Self::internal(&error),
        }
    }
}

impl From<VerifyAskError> for Problem {
    fn from(error: VerifyAskError) -> Self {
        match error {
            VerifyAskError::Store(error) => error.into(),
            VerifyAskError::Task(_) => Self::internal(&error),
            other => Self::new(Kind::NotFound, error_chain(&other), "`seedcache status` lists the artifacts there are"),
        }
    }
}

impl From<SeedError> for Problem {
    fn from(error: SeedError) -> Self {
        match error {
            // Transparent: it stands in the error's place, not among its causes.
            SeedError::Fs(file) => file.into(),
            SeedError::Busy { .. } | SeedError::Locked { .. } | SeedError::Unsettled { .. } => {
                Self::new(Kind::Busy, error_chain(&error), "ask again in a while")
            }
            SeedError::StoreDamaged { .. } => Self::new(Kind::NotReady, error_chain(&error), "ask again in a while"),
            #[allow(unreachable_patterns, reason = "what else seeding may say is that room's to add")]
            error => match file_error(&error) {
                Some(file) => Self::file_operation(&error, file),
                None => Self::new(Kind::Conflict, error_chain(&error), "change what the detail names, then ask again"),
            },
        }
    }
}

impl From<SeedAskError> for Problem {
    fn from(error: SeedAskError) -> Self {
        match error {
            SeedAskError::Wait(error) => error.into(),
            SeedAskError::Store(error) => error.into(),
            SeedAskError::Seed(error) => error.into(),
            SeedAskError::Target(error) => Self::new(
                Kind::Malformed,
                error_chain(&error),
                "give an absolute path below seed.root, as the daemon sees it; over HTTP one relative to seed.root will do",
            ),
            SeedAskError::Task(_) => Self::internal(&error),
            SeedAskError::NotBelowRoot { ref head, .. } => {
                let next = "pass the directory to POST …/versions/{version}/fill, as `seedcache seed` does";
                Self::new(Kind::NotBelowRoot, &error, next)
                    .with("version", &head.version)
                    .with("digest", &head.archive.digest)
                    .with("treeDigest", &head.tree_digest)
            }
            SeedAskError::NotDeclared { .. } => {
                Self::new(Kind::Forbidden, error, "declare the target under spec.seeds, or ask over the Unix socket")
            }
            SeedAskError::OtherLink { .. } | SeedAskError::OtherSwap { .. } => {
                Self::new(Kind::Forbidden, error, "ask without link and swap: it is seeded as the document says")
            }
        }
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        let challenge = HeaderValue::from_static("Bearer realm=\"seedcache\"");
        let next = match denied {
            Denied::NoToken => {
                "send `Authorization: Bearer` with the content of listen.tokenFile, or use the Unix socket"
            }
            Denied::WrongToken => "send the present content of listen.tokenFile, which is read anew for each request",
            Denied::NotConfigured => "set listen.tokenFile in seedcache.yaml, or use the Unix socket",
            Denied::Uid { .. } => "ask as root or as the user that the daemon runs as",
            Denied::Outside { .. } => {
                "ask from the daemon's container (kubectl exec), or over TCP with the bearer token"
            }
        };
        match denied {
            Denied::NoToken | Denied::WrongToken => {
                Self::new(Kind::Unauthorized, denied, next).header(WWW_AUTHENTICATE, challenge)
            }
            Denied::NotConfigured | Denied::Uid { .. } | Denied::Outside { .. } => {
                Self::new(Kind::Forbidden, denied, next)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::fixture::state;
    use super::*;
    use crate::intent::Swap;
    use crate::reconcile::State;
    use http_body_util::BodyExt as _;

    async fn written(problem: Problem, view: View) -> (u16, Value) {
        let response = write(problem.into_response(), "77", view);
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    fn file_problem(kind: std::io::ErrorKind) -> fs::Error {
        fs::Error::new("open", std::path::Path::new("/secret/place"), std::io::Error::from(kind))
    }

    fn leased() -> fs::Error {
        fs::Error::new("open", std::path::Path::new("/secret/place"), rustix::io::Errno::AGAIN)
    }

    #[tokio::test]
    async fn each_error_has_its_status_and_a_next_step() {
        let name: crate::intent::ArtifactName = "thing".parse().unwrap();
        let failed = ArtifactState { last_error: Some("no route".into()), ..state("thing", State::Failed) };
        let failed = || Box::new(failed.clone());
        let table: [(Problem, u16, &str); 18] = [
            (WaitError::Unknown { name: name.clone() }.into(), 404, "not-found"),
            (WaitError::TimedOut { state: failed() }.into(), 408, "timed-out"),
            (WaitError::Failed { state: failed() }.into(), 502, "unavailable"),
            (WaitError::ShuttingDown.into(), 503, "shutting-down"),
            (RefreshError::Unknown { name: name.clone() }.into(), 404, "not-found"),
            (PinError::Unknown { name: name.clone() }.into(), 404, "not-found"),
            (PinError::Undeclared { name: name.clone(), version: "v1".parse().unwrap() }.into(), 409, "conflict"),
            (PinError::Wait(WaitError::Failed { state: failed() }).into(), 502, "unavailable"),
            (VerifyAskError::Unknown { name: name.clone() }.into(), 404, "not-found"),
            (SeedAskError::NotDeclared { artifact: name.clone(), target: "x".into() }.into(), 403, "forbidden"),
            (
                SeedAskError::OtherSwap {
                    artifact: name.clone(),
                    target: "x".into(),
                    declared: Swap::Exchange,
                    asked: Swap::InPlace,
                }
                .into(),
                403,
                "forbidden",
            ),
            (SeedAskError::Wait(WaitError::TimedOut { state: failed() }).into(), 408, "timed-out"),
            (SeedError::Busy { target: "x".parse().unwrap(), seconds: 30 }.into(), 409, "busy"),
            (SeedError::Fs(file_problem(std::io::ErrorKind::StorageFull)).into(), 507, "no-space"),
            (file_problem(std::io::ErrorKind::PermissionDenied).into(), 500, "internal"),
            (leased().into(), 409, "busy"),
            (StoreError::NoVersion { artifact: name, version: "v1".parse().unwrap() }.into(), 404, "not-found"),
            (Denied::NotConfigured.into(), 403, "forbidden"),
        ];
        for (problem, status, slug) in table {
            let (found, document) = written(problem, View::Reader).await;
            assert_eq!(found, status, "{document}");
            assert_eq!(document["type"], format!("urn:seedcache:problem:{slug}"));
            assert!(!document["next"].as_str().unwrap().is_empty() && !document["title"].as_str().unwrap().is_empty());
        }
        let (_, timed_out) = written(WaitError::TimedOut { state: failed() }.into(), View::Reader).await;
        assert_eq!(timed_out["state"]["name"], "thing");
        assert!(timed_out["detail"].as_str().unwrap().starts_with("thing is not ready yet"), "{timed_out}");
        let at_one = ArtifactState { current: Some("v1".parse().unwrap()), ..state("thing", State::Ready) };
        let (_, other) = written(WaitError::TimedOut { state: Box::new(at_one) }.into(), View::Reader).await;
        assert_eq!(other["detail"], "thing is at v1; what was waited for has not come");
        let (_, unavailable) = written(WaitError::Failed { state: failed() }.into(), View::Reader).await;
        assert!(unavailable["detail"].as_str().unwrap().contains("no route"), "{unavailable}");
    }

    #[tokio::test]
    async fn host_paths_are_for_the_daemons_owner() {
        for error in [std::io::ErrorKind::PermissionDenied, std::io::ErrorKind::StorageFull] {
            let (_, hidden) = written(SeedError::Fs(file_problem(error)).into(), View::Reader).await;
            assert!(!hidden.to_string().contains("secret"), "{hidden}");
            assert!(hidden["detail"].as_str().unwrap().contains("77"), "{hidden}");
            let (_, shown) = written(SeedError::Fs(file_problem(error)).into(), View::Operator).await;
            assert!(shown["detail"].as_str().unwrap().contains("/secret/place: "), "{shown}");
        }
    }

    #[test]
    fn a_missing_token_is_challenged() {
        let response = Problem::from(Denied::NoToken).render("1", View::Reader);
        assert!(response.headers()[WWW_AUTHENTICATE].to_str().unwrap().starts_with("Bearer"));
    }
}
