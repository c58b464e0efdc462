//! The shortest way to a file: where the file is in memory and nothing about it need be waited for, its request is answered
//! without a router and its layers, which take longer than all the rest.
//!
//! What must hold: the answer is the one that the router's handler gives, counted and logged in the same way. Whatever is not
//! plainly a success is left to the router, and so are symlinks: nothing here takes the longer for what an archive says.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::http::{Method, Request};
use axum::response::Response;

use super::address::Addressed;
use super::caller::Peer;
use super::files::{FILES, Shelf};
use super::host::OwnNames;
use super::metrics::Metrics;
use super::observe::{self, RequestId};
use super::sendfile::Outbox;

/// What it answers from.
#[derive(Debug, Clone)]
pub(super) struct Quick {
    pub(super) shelf: Shelf,
    pub(super) metrics: Arc<Metrics>,
    pub(super) names: OwnNames,
}

impl Quick {
    /// The answer; `None`: ask the router.
    pub(super) fn answer<B>(&self, request: &Request<B>, peer: Peer, outbox: &Outbox) -> Option<Response> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return None;
        }
        let addressed = Addressed::of_file(request.uri().path())?;
        self.names.check(Some(peer), request.uri(), request.headers()).ok()?;
        let (start, in_flight) = (Instant::now(), self.metrics.begin());
        let ask = (request.method(), request.headers());
        let outbox = Some(Extension(outbox.clone()));
        // A panic comes again in the router, which answers for it.
        let answer = catch_unwind(AssertUnwindSafe(|| self.shelf.reply_at_once(&addressed, ask, outbox)));
        let response = observe::finish(answer.ok()??, in_flight);
        self.metrics.answered(request.method(), FILES, response.status(), start.elapsed());
        let id = RequestId::new();
        observe::log(request.method(), request.uri().path(), response.status(), Some(peer), id, start);
        Some(response)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use axum::body::Body;
    use axum::http::HeaderMap;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::serve::fixture::{ARTIFACT, Answered, Fixture, VERSION};

    const FILE: &str = "hello.txt";

    /// Method, path and header fields.
    type Asked<'a> = (&'a str, String, &'a [(&'a str, &'a str)]);

    fn at(version: &str) -> String {
        format!("/v1/artifacts/{ARTIFACT}/versions/{version}/files/{FILE}")
    }

    struct Both {
        fixture: Fixture,
        quick: Quick,
    }

    impl Both {
        fn new() -> Self {
            let fixture = Fixture::new();
            let quick = Quick {
                shelf: fixture.shelf(),
                metrics: Metrics::new(Registry::default()),
                names: OwnNames::default(),
            };
            Self { fixture, quick }
        }

        async fn quickly(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Option<Answered> {
            let mut request = Request::builder().method(method).uri(path);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.body(Body::empty()).unwrap();
            let peer = Peer::Tcp("127.0.0.1:9".parse().unwrap());
            let response = self.quick.answer(&request, peer, &Outbox::default())?;
            Some(Answered::of(response).await)
        }
    }

    #[tokio::test]
    async fn it_answers_as_the_route_does() {
        let both = Both::new();
        assert!(both.quickly("GET", &at(VERSION), &[]).await.is_none(), "its manifest was not read yet");
        let _read = both.fixture.opened();
        let etag = both.fixture.ask(Method::GET, &at(VERSION), &[]).await.header("etag").to_owned();
        let cases: [Asked<'_>; 7] = [
            ("GET", at(VERSION), &[]),
            ("GET", at("current"), &[]),
            ("HEAD", at(VERSION), &[]),
            ("GET", at(VERSION), &[("range", "bytes=1-2")]),
            ("GET", at(VERSION), &[("range", "bytes=1-2"), ("if-range", "\"other\"")]),
            ("GET", at(VERSION), &[("if-none-match", &etag)]),
            ("GET", format!("{}?x=y", at(VERSION)), &[]),
        ];
        let told = |mut answered: Answered| {
            // The router says of a 304, which has no body, that it has 0 bytes; the listener takes that off.
            if answered.status == 304 {
                answered.headers.remove("content-length");
            }
            let sorted = |headers: HeaderMap| {
                let mut all: Vec<_> =
                    headers.into_iter().map(|(name, value)| (name.unwrap().to_string(), value)).collect();
                all.sort();
                all
            };
            (answered.status, sorted(answered.headers), answered.body.unwrap())
        };
        for (method, path, headers) in cases {
            let quickly = both.quickly(method, &path, headers).await;
            let quickly = quickly.unwrap_or_else(|| panic!("{method} {path} {headers:?}: not at once"));
            let routed = both.fixture.ask(method.parse().unwrap(), &path, headers).await;
            assert_eq!(told(quickly), told(routed), "{method} {path} {headers:?}");
        }
    }

    #[tokio::test]
    async fn the_rest_is_for_the_router() {
        let both = Both::new();
        let _read = both.fixture.opened();
        let dir = format!("/v1/artifacts/{ARTIFACT}/versions/{VERSION}/files/dir");
        let cases: [Asked<'_>; 11] = [
            ("POST", at(VERSION), &[]),
            ("GET", format!("{}/", at(VERSION)), &[]),
            ("GET", at("none"), &[]),
            ("GET", at(VERSION).replace("hello", "none"), &[]),
            ("GET", at(VERSION).replace("files", "file"), &[]),
            ("GET", dir, &[]),
            // What a symlink has to be followed for.
            ("GET", at(VERSION).replace(FILE, "link"), &[]),
            ("GET", at(VERSION).replace(FILE, "dirlink/block"), &[]),
            ("GET", format!("/v1/artifacts/{ARTIFACT}/versions/{VERSION}/files/"), &[]),
            ("GET", at(VERSION), &[("range", "bytes=900000-")]),
            ("GET", at(VERSION), &[("if-match", "\"other\"")]),
        ];
        for (method, path, headers) in cases {
            assert!(both.quickly(method, &path, headers).await.is_none(), "{method} {path} {headers:?}");
        }
        for file in ["dir/block", "zhard"] {
            let path = at(VERSION).replace(FILE, file);
            assert!(both.quickly("GET", &path, &[]).await.is_some(), "{file} is there by this very name");
        }
        both.fixture.damage(FILE);
        assert!(both.quickly("GET", &at(VERSION), &[]).await.is_none(), "a changed file is looked into first");
    }
}
