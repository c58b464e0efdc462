//! Conditional requests as a pure decision (RFC 9110, section 13), over strong entity tags.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, HeaderValue, Method, header};

use super::range::{Wanted, wanted};
use crate::intent::Digest;

/// What tells one state of a representation from every other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Validators {
    /// The strong entity tag, quotes included.
    pub(super) etag: String,
    /// Last change in seconds since the epoch; `None` where a date says nothing of the bytes.
    pub(super) modified: Option<u64>,
}

/// What to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// 200 with all of it.
    Whole,
    /// 206 with these bytes.
    Part(Range<u64>),
    /// 304.
    NotModified,
    /// 412.
    PreconditionFailed,
    /// 416.
    Unsatisfiable,
}

/// The entity tag of content with this digest.
pub(super) fn etag_of(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Decides what a request for a representation of `length` bytes gets, in the order that RFC 9110 13.2.2 lays down.
pub(super) fn answer(method: &Method, headers: &HeaderMap, validators: &Validators, length: u64) -> Answer {
    let etag = validators.etag.as_bytes();
    let since = |name| date(headers, name).zip(validators.modified);
    if headers.contains_key(header::IF_MATCH) {
        if !any_tag(headers, header::IF_MATCH, |tag| tag.opaque == etag && !tag.weak) {
            return Answer::PreconditionFailed;
        }
    } else if since(header::IF_UNMODIFIED_SINCE).is_some_and(|(date, modified)| modified > date) {
        return Answer::PreconditionFailed;
    }
    if headers.contains_key(header::IF_NONE_MATCH) {
        if any_tag(headers, header::IF_NONE_MATCH, |tag| tag.opaque == etag) {
            return Answer::NotModified;
        }
    } else if since(header::IF_MODIFIED_SINCE).is_some_and(|(date, modified)| modified <= date) {
        return Answer::NotModified;
    }
    if method != Method::GET || !if_range_holds(headers, etag) {
        return Answer::Whole;
    }
    let mut ranges = headers.get_all(header::RANGE).iter();
    match (ranges.next(), ranges.next()) {
        (Some(range), None) => match wanted(range.as_bytes(), length) {
            Wanted::Whole => Answer::Whole,
            Wanted::Part(range) => Answer::Part(range),
            Wanted::Unsatisfiable => Answer::Unsatisfiable,
        },
        _ => Answer::Whole,
    }
}

/// A date is never strong enough here: archives made reproducible give all their versions the same times.
fn if_range_holds(headers: &HeaderMap, etag: &[u8]) -> bool {
    headers.get(header::IF_RANGE).is_none_or(|value| value.as_bytes().trim_ascii() == etag)
}

struct Tag<'a> {
    weak: bool,
    /// With its quotes.
    opaque: &'a [u8],
}

fn any_tag(headers: &HeaderMap, name: header::HeaderName, matches: impl Fn(&Tag<'_>) -> bool) -> bool {
    headers
        .get_all(name)
        .iter()
        .any(|value| value.as_bytes().trim_ascii() == b"*" || Tags(value.as_bytes()).any(|tag| matches(&tag)))
}

/// The entity tags of a list; it ends where the list is malformed.
struct Tags<'a>(&'a [u8]);

impl<'a> Iterator for Tags<'a> {
    type Item = Tag<'a>;

    fn next(&mut self) -> Option<Tag<'a>> {
        let start = self.0.iter().position(|b| !matches!(b, b' ' | b'\t' | b','))?;
        let rest = &self.0[start..];
        let (weak, rest) = rest.strip_prefix(b"W/").map_or((false, rest), |rest| (true, rest));
        let inner = rest.strip_prefix(b"\"")?;
        let end = inner.iter().position(|&b| b == b'"')? + 2;
        self.0 = &rest[end..];
        Some(Tag { weak, opaque: &rest[..end] })
    }
}

fn date(headers: &HeaderMap, name: header::HeaderName) -> Option<u64> {
    let time = httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()?;
    time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// Seconds since the epoch as HTTP writes dates; `None` for what it cannot write (before 1970, after 9999).
pub(super) fn http_date(seconds: u64) -> Option<HeaderValue> {
    const YEAR_10000: u64 = 253_402_300_800;
    let time = (seconds < YEAR_10000).then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))?;
    HeaderValue::from_str(&httpdate::fmt_http_date(time)).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DAY: &str = "Thu, 01 Jan 2026 00:00:00 GMT";
    const BEFORE: &str = "Wed, 31 Dec 2025 23:59:59 GMT";

    fn ask(method: Method, headers: &[(&'static str, &'static str)]) -> Answer {
        let validators = Validators { etag: "\"sha256:aa\"".into(), modified: Some(1_767_225_600) };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        answer(&method, &map, &validators, 100)
    }

    #[test]
    fn conditions_in_their_order() {
        const HIT: &str = "\"sha256:aa\"";
        type Row = (&'static [(&'static str, &'static str)], Answer);
        let table: [Row; 22] = [
            (&[], Answer::Whole),
            (&[("if-match", HIT)], Answer::Whole),
            (&[("if-match", "*")], Answer::Whole),
            (&[("if-match", "\"x\"")], Answer::PreconditionFailed),
            (&[("if-match", "W/\"sha256:aa\"")], Answer::PreconditionFailed),
            (&[("if-match", "malformed")], Answer::PreconditionFailed),
            (&[("if-none-match", HIT)], Answer::NotModified),
            (&[("if-none-match", "\"x, y\", W/\"sha256:aa\"")], Answer::NotModified),
            (&[("if-none-match", "\"x\""), ("if-none-match", HIT)], Answer::NotModified),
            (&[("if-none-match", "*")], Answer::NotModified),
            (&[("if-none-match", "\"x\"")], Answer::Whole),
            (&[("if-modified-since", DAY)], Answer::NotModified),
            (&[("if-modified-since", BEFORE)], Answer::Whole),
            (&[("if-modified-since", DAY), ("if-none-match", "\"x\"")], Answer::Whole),
            (&[("if-unmodified-since", DAY)], Answer::Whole),
            (&[("if-unmodified-since", BEFORE)], Answer::PreconditionFailed),
            (&[("if-unmodified-since", BEFORE), ("if-match", HIT)], Answer::Whole),
            (&[("range", "bytes=10-19")], Answer::Part(10..20)),
            (&[("range", "bytes=10-19"), ("if-range", HIT)], Answer::Part(10..20)),
            (&[("range", "bytes=10-19"), ("if-range", "W/\"sha256:aa\"")], Answer::Whole),
            (&[("range", "bytes=10-19"), ("if-range", DAY)], Answer::Whole),
            (&[("range", "bytes=100-")], Answer::Unsatisfiable),
        ];
        for (headers, expected) in table {
            assert_eq!(ask(Method::GET, headers), expected, "{headers:?}");
        }
        assert_eq!(ask(Method::HEAD, &[("range", "bytes=10-19")]), Answer::Whole, "ranges are for GET alone");
        assert_eq!(ask(Method::HEAD, &[("if-none-match", HIT)]), Answer::NotModified);
    }

    #[test]
    fn dates_that_http_cannot_write_are_left_out() {
        assert_eq!(http_date(1_767_225_600).unwrap(), DAY);
        assert!(http_date(253_402_300_799).is_some());
        assert!(http_date(253_402_300_800).is_none());
    }
}
