//! Answers with a representation: whole, in part, or only its validators, as the request's conditions want it.

use std::ops::Range;

use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, LAST_MODIFIED,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};

use super::conditional::{Answer, Validators, answer, http_date};
use super::problem::{Kind, Problem};
use crate::intent::VersionName;

/// Says which version an answer comes from, `current` resolved.
pub(super) const VERSION_HEADER: HeaderName = HeaderName::from_static("seedcache-version");

/// Header fields of an answer at most, those of the outermost layer and of the library included.
const FIELDS: usize = 12;

/// What can be had at an address.
#[derive(Debug)]
pub(super) struct Representation {
    pub(super) etag: String,
    /// Seconds since the epoch.
    pub(super) modified: Option<u64>,
    pub(super) length: u64,
    pub(super) media_type: &'static str,
    pub(super) version: VersionName,
    /// The address does not name the version: the same address gives other bytes later.
    pub(super) moving: bool,
    /// Parts of it can be asked for.
    pub(super) ranges: bool,
}

/// Whether a request gets what there is, or is told of it; not where the caller has it already, or a condition fails. How
/// long it is makes no difference to that.
pub(super) fn is_wanted(ask: (&Method, &HeaderMap), what: &Representation) -> bool {
    !matches!(decide(ask, what), Answer::NotModified | Answer::PreconditionFailed)
}

fn decide((method, headers): (&Method, &HeaderMap), what: &Representation) -> Answer {
    // At an address that moves on, two versions may carry the same date: there only the tag tells them apart.
    let modified = what.modified.filter(|_| !what.moving);
    let validators = Validators { etag: what.etag.clone(), modified };
    answer(method, headers, &validators, what.length)
}

/// Answers a GET or HEAD; `body` gives the bytes of a range.
pub(super) fn reply(
    ask: (&Method, &HeaderMap),
    what: &Representation,
    body: impl FnOnce(Range<u64>) -> Body,
) -> Result<Response, Problem> {
    let (status, range) = match decide(ask, what) {
        Answer::NotModified => return Ok((StatusCode::NOT_MODIFIED, describe(what)).into_response()),
        Answer::PreconditionFailed => {
            let detail = format!("the entity tag is {}", what.etag);
            let problem = Problem::new(Kind::PreconditionFailed, detail, "ask again without the old tag or date");
            return Err(problem);
        }
        Answer::Part(range) if what.ranges => (StatusCode::PARTIAL_CONTENT, range),
        Answer::Unsatisfiable if what.ranges => return Err(Problem::unsatisfiable(what.length)),
        _ => (StatusCode::OK, 0..what.length),
    };
    let mut fields = describe(what);
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(what.media_type));
    fields.insert(CONTENT_LENGTH, (range.end - range.start).into());
    fields.insert(ACCEPT_RANGES, HeaderValue::from_static(if what.ranges { "bytes" } else { "none" }));
    if status == StatusCode::PARTIAL_CONTENT {
        let value = format!("bytes {}-{}/{}", range.start, range.end - 1, what.length);
        fields.insert(CONTENT_RANGE, text(&value));
    }
    let mut response = Response::new(if ask.0 == Method::HEAD { Body::empty() } else { body(range) });
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    Ok(response)
}

/// The header fields that a 304 has too.
fn describe(what: &Representation) -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(FIELDS);
    fields.insert(ETAG, text(&what.etag));
    fields.insert(VERSION_HEADER, text(what.version.as_str()));
    if let Some(date) = what.modified.and_then(http_date) {
        fields.insert(LAST_MODIFIED, date);
    }
    if what.moving {
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    }
    fields
}

fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or_else(|e| unreachable!("names, digits and hex are a header value: {e}"))
}
