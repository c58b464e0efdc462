//! The outermost layer: numbers each request, counts and logs it, writes its problem if it ended in one, and keeps a
//! panic from taking the connection down without a word.

use std::fmt::{self, Display, Formatter};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::X_CONTENT_TYPE_OPTIONS;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;

use super::caller::Peer;
use super::gate::Gate;
use super::host::{ForeignHost, OwnNames};
use super::metrics::{Guard, InFlight, Metrics};
use super::problem::{self, Kind, Problem};

/// What the layer works with.
#[derive(Debug, Clone)]
pub(super) struct Observer {
    pub(super) metrics: Arc<Metrics>,
    pub(super) gate: Gate,
    pub(super) names: OwnNames,
}

/// A handler that panicked.
#[derive(Debug, thiserror::Error)]
#[error("the handler panicked; this is a bug in seedcache, please report it")]
struct Panicked;

/// Puts the layer, and answers for addresses and methods that do not exist, around the routes.
pub(super) fn observed(routes: Router, observer: Observer) -> Router {
    routes
        .fallback(async || Problem::no_route())
        .method_not_allowed_fallback(async || Problem::no_method())
        .layer(from_fn_with_state(observer, observe))
}

async fn observe(State(observer): State<Observer>, mut request: Request, next: Next) -> Response {
    let start = Instant::now();
    let id = RequestId::new();
    let peer = request.extensions().get::<Peer>().copied();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let in_flight = observer.metrics.begin();
    let view = observer.gate.view(peer, request.headers()).await;
    request.extensions_mut().insert(view);
    let response = match observer.names.check(peer, request.uri(), request.headers()) {
        Ok(()) => AssertUnwindSafe(next.run(request)).catch_unwind().await,
        Err(foreign) => Ok(Problem::from(foreign).into_response()),
    };
    let response = response.unwrap_or_else(|_| Problem::internal(&Panicked).into_response());
    if let Some(problem) = response.extensions().get::<Problem>()
        && problem.is_internal()
    {
        tracing::error!(request = %id, %method, path, error = problem.detail(), "request failed");
    }
    let response = finish(problem::write(response, &id.to_string(), view), in_flight);
    observer.metrics.answered(&method, route, response.status(), start.elapsed());
    log(&method, &path, response.status(), peer, id, start);
    response
}

/// What a request is called in the log and in its problem.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestId(u64);

impl RequestId {
    pub(super) fn new() -> Self {
        Self(fastrand::u64(..))
    }
}

impl Display for RequestId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What every answer has: the header that keeps browsers from guessing, and its place among those in flight.
pub(super) fn finish(mut response: Response, in_flight: Guard) -> Response {
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response.map(|body| Body::new(InFlight::new(body, in_flight)))
}

impl From<ForeignHost> for Problem {
    fn from(error: ForeignHost) -> Self {
        let next = "call it by its IP address, as localhost, by the name of its node or its Service, or by one word; or set \
                    listen.http to the name";
        Self::new(Kind::Misdirected, error, next)
    }
}

/// The query stays out: it is where secrets end up.
pub(super) fn log(
    method: &Method,
    path: &str,
    status: StatusCode,
    peer: Option<Peer>,
    request: RequestId,
    start: Instant,
) {
    let (status, milliseconds) = (status.as_u16(), start.elapsed().as_millis());
    let peer = peer.map(tracing::field::display);
    if *method == Method::GET || *method == Method::HEAD {
        tracing::debug!(%method, path, status, peer, %request, milliseconds, "request");
    } else {
        tracing::info!(%method, path, status, peer, %request, milliseconds, "request");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::routing::get;
    use http_body_util::BodyExt as _;
    use prometheus_client::registry::Registry;
    use tower::ServiceExt as _;

    async fn boom() -> Response {
        panic!("in a handler")
    }

    async fn ask(peer: Peer, uri: &str) -> (u16, serde_json::Value) {
        let gate = Gate { token_file: None, own_uid: 5 };
        let observer = Observer { metrics: Metrics::new(Registry::default()), gate, names: OwnNames::default() };
        let failing = async || Problem::internal(&std::io::Error::other("cannot read /secret/place"));
        let routes = Router::new().route("/boom", get(boom)).route("/failing", get(failing));
        let router = observed(routes, observer).layer(axum::Extension(peer));
        let response = router.oneshot(Request::get(uri).body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap())
    }

    #[tokio::test]
    async fn failures_tell_the_owner_all_and_others_the_requests_id() {
        let (tcp, owner) = (Peer::Tcp("127.0.0.1:9".parse().unwrap()), Peer::Unix { uid: 5, gid: 5, outside: false });
        let (status, hidden) = ask(tcp, "/failing").await;
        assert_eq!(status, 500);
        assert!(hidden["detail"].as_str().unwrap().contains(hidden["requestId"].as_str().unwrap()), "{hidden}");
        assert!(!hidden.to_string().contains("secret"), "{hidden}");
        let (_, hidden) = ask(Peer::Unix { uid: 6, gid: 6, outside: false }, "/failing").await;
        assert!(!hidden.to_string().contains("secret"), "{hidden}");
        let (_, shown) = ask(owner, "/failing").await;
        assert_eq!(shown["detail"], "cannot read /secret/place");
        assert_eq!(ask(tcp, "/boom").await.0, 500);
        assert_eq!(ask(tcp, "/nowhere").await.0, 404);
    }
}
