//! What this room counts about requests, and the body wrapper that knows when one is over. Labels are route templates,
//! a few methods and status classes: bounded, whatever is asked.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Method, StatusCode};
use http_body::{Frame, SizeHint};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::seed::Seeded;

pub(super) type Labels = Vec<(&'static str, String)>;
/// So many labels, of which those that are known beforehand take no memory of their own.
type Few<const N: usize> = [(&'static str, Cow<'static, str>); N];

/// Upper bounds in seconds: from a file out of memory to a long poll.
const SECONDS: [f64; 9] = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 600.0];

/// The counters, and the registry that they and other rooms' are in.
#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) registry: Registry,
    requests: Family<Few<3>, Counter>,
    durations: Family<Few<1>, Histogram, fn() -> Histogram>,
    sent: Counter,
    in_flight: Gauge,
    seeds: Family<Labels, Counter>,
}

impl Metrics {
    /// Registers this room's metrics beside what `registry` has already.
    pub(super) fn new(mut registry: Registry) -> Arc<Self> {
        let requests = Family::<Few<3>, Counter>::default();
        let durations = Family::<_, _, fn() -> Histogram>::new_with_constructor(|| Histogram::new(SECONDS));
        let (sent, in_flight) = (Counter::<u64, AtomicU64>::default(), Gauge::default());
        let seeds = Family::<Labels, Counter>::default();
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("seedcache_build", "The running seedcache", build);
        let http = registry.sub_registry_with_prefix("seedcache_http");
        http.register("requests", "Requests answered, by route and status class", requests.clone());
        let help = "Time until a request's answer began";
        http.register_with_unit("request_duration", help, Unit::Seconds, durations.clone());
        http.register_with_unit("response_body", "Bytes of answers sent", Unit::Bytes, sent.clone());
        http.register("requests_in_flight", "Requests being answered, their bodies included", in_flight.clone());
        registry.register("seedcache_seeds_asked", "Targets seeded for a caller, by the mode used", seeds.clone());
        Arc::new(Self { registry, requests, durations, sent, in_flight, seeds })
    }

    /// A request has come; it is in flight until the guard is dropped.
    pub(super) fn begin(&self) -> Guard {
        self.in_flight.inc();
        Guard { in_flight: self.in_flight.clone(), sent: self.sent.clone() }
    }

    /// A request's answer has begun.
    pub(super) fn answered(
        &self,
        method: &Method,
        route: impl Into<Cow<'static, str>>,
        status: StatusCode,
        after: Duration,
    ) {
        let method = match *method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::DELETE => "DELETE",
            _ => "other",
        };
        let status = match status.as_u16() / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        let route = ("route", route.into());
        self.durations.get_or_create(std::array::from_ref(&route)).observe(after.as_secs_f64());
        self.requests.get_or_create(&[("method", method.into()), route, ("status", status.into())]).inc();
    }

    /// A caller's seed was done.
    pub(super) fn seeded(&self, seeded: &Seeded) {
        let changed = ("changed", seeded.changed.to_string());
        self.seeds.get_or_create(&vec![("mode", seeded.mode.to_string()), changed]).inc();
    }
}

/// Counts a request as in flight.
#[derive(Debug)]
pub(super) struct Guard {
    in_flight: Gauge,
    sent: Counter,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.in_flight.dec();
    }
}

/// A body that keeps its request counted until it is sent or given up.
#[derive(Debug)]
pub(super) struct InFlight {
    body: Body,
    guard: Guard,
}

impl InFlight {
    pub(super) fn new(body: Body, guard: Guard) -> Self {
        Self { body, guard }
    }
}

impl http_body::Body for InFlight {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.guard.sent.inc_by(data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http_body_util::BodyExt as _;
    use prometheus_client::encoding::text::encode;

    #[tokio::test]
    async fn requests_are_counted_until_their_bodies_are_sent() {
        let metrics = Metrics::new(Registry::default());
        let text = || {
            let mut text = String::new();
            encode(&mut text, &metrics.registry).unwrap();
            text
        };
        let body = InFlight::new(Body::from("four"), metrics.begin());
        metrics.answered(&Method::GET, "/x/{y}", StatusCode::NOT_FOUND, Duration::from_millis(2));
        metrics.answered(&Method::from_bytes(b"ODD").unwrap(), "none", StatusCode::NOT_FOUND, Duration::ZERO);
        let during = text();
        for line in [
            "seedcache_http_requests_in_flight 1",
            "seedcache_http_requests_total{method=\"GET\",route=\"/x/{y}\",status=\"4xx\"} 1",
            "seedcache_http_requests_total{method=\"other\",route=\"none\",status=\"4xx\"} 1",
            "seedcache_http_request_duration_seconds_bucket{le=\"0.005\",route=\"/x/{y}\"} 1",
            concat!("seedcache_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(during.contains(line), "{line} in\n{during}");
        }
        body.collect().await.unwrap();
        let after = text();
        assert!(after.contains("seedcache_http_requests_in_flight 0"), "{after}");
        assert!(after.contains("seedcache_http_response_body_bytes_total 4"), "{after}");
    }
}
