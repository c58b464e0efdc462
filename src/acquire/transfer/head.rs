//! What counts of a response's head, as plain data.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::{self, HeaderName};

/// A Last-Modified younger than this may stand for two contents of the same second (RFC 9110, 8.8.2.2).
const SETTLED: Duration = Duration::from_secs(60);
/// What an origin that wants to be left alone for longer gets: nobody is asked not to come back for years.
const LONGEST_AFTER: Duration = Duration::from_secs(3600);
/// Bytes of an ETag or Last-Modified: they are remembered, recorded and sent back.
const LONGEST_VALIDATOR: usize = 1024;

/// The head of a response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::acquire) struct Head {
    /// Status code.
    pub status: u16,
    /// Content-Length.
    pub length: Option<u64>,
    /// Content-Range.
    pub range: Option<ContentRange>,
    /// ETag and Last-Modified.
    pub validators: Validators,
    /// It says that it gives ranges of bytes (Accept-Ranges).
    pub gives_ranges: bool,
    /// Retry-After, as a time from now.
    pub retry_after: Option<Duration>,
}

/// What an origin says its object's state is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::acquire) struct Validators {
    /// As written.
    pub etag: Option<String>,
    /// As written.
    pub last_modified: Option<String>,
    /// What If-Range may carry: a strong ETag, or a Last-Modified that has settled.
    pub strong: Option<String>,
}

/// A Content-Range in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::acquire) struct ContentRange {
    /// First and last byte; `None` for `*` (as 416 says it).
    pub span: Option<(u64, u64)>,
    /// Bytes in all; `None` for `*`.
    pub total: Option<u64>,
}

impl Head {
    /// Reads what counts; what is malformed counts as absent.
    pub(in crate::acquire) fn new(status: u16, headers: &HeaderMap, now: SystemTime) -> Self {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
        let date = text(header::DATE).and_then(|date| httpdate::parse_http_date(date).ok());
        Self {
            status,
            length: text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok()),
            range: text(header::CONTENT_RANGE).and_then(ContentRange::parse),
            validators: Validators::new(text(header::ETAG), text(header::LAST_MODIFIED), date),
            gives_ranges: text(header::ACCEPT_RANGES).is_some_and(|unit| unit.eq_ignore_ascii_case("bytes")),
            // By the clock that the date was written by: it and this node's may be years apart.
            retry_after: text(header::RETRY_AFTER).and_then(|after| retry_after(after, date.unwrap_or(now))),
        }
    }
}

impl Validators {
    /// Judges what an origin says about its object, answered at its `date`.
    pub(in crate::acquire) fn new(etag: Option<&str>, last_modified: Option<&str>, date: Option<SystemTime>) -> Self {
        let [etag, last_modified] =
            [etag, last_modified].map(|said| said.filter(|said| said.len() <= LONGEST_VALIDATOR));
        let etag = etag.filter(|etag| !etag.is_empty());
        let strong_etag = etag.filter(|etag| etag.len() >= 2 && etag.starts_with('"') && etag.ends_with('"'));
        let settled = last_modified.filter(|text| {
            let modified = httpdate::parse_http_date(text).ok();
            let age = modified.zip(date).and_then(|(modified, date)| date.duration_since(modified).ok());
            age.is_some_and(|age| age >= SETTLED)
        });
        // With a weak ETag the origin itself says that equal times need not mean equal bytes.
        let strong = if etag.is_some() { strong_etag } else { settled };
        Self {
            etag: etag.map(Into::into),
            last_modified: last_modified.map(Into::into),
            strong: strong.map(Into::into),
        }
    }

    /// Whether the two can't be of the same content.
    pub(in crate::acquire) fn contradict(&self, other: &Validators) -> bool {
        let differ = |a: &Option<String>, b: &Option<String>| a.is_some() && b.is_some() && a != b;
        differ(&self.etag, &other.etag) || differ(&self.last_modified, &other.last_modified)
    }

    /// Whether a part with these validators says of itself that it is of the same content: it must carry the ETag of the
    /// whole (RFC 9110, 15.3.7), where that had a strong one. Last-Modified it need not carry.
    pub(in crate::acquire) fn are_repeated(&self, part: &Validators) -> bool {
        self.etag.is_none() || self.strong.is_none() || self.etag == part.etag
    }
}

impl ContentRange {
    fn parse(text: &str) -> Option<Self> {
        let (span, total) = text.strip_prefix("bytes ")?.trim().split_once('/')?;
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
        let span = match span {
            "*" => None,
            span => {
                let (first, last) = span.split_once('-')?;
                Some((number(first)?, number(last)?))
            }
        };
        let total = if total == "*" { None } else { Some(number(total)?) };
        Some(Self { span, total })
    }
}

/// Retry-After: seconds, or a date; [`LONGEST_AFTER`] for anything later.
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let after = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than a number has: later than anything.
        text.parse().map_or(Duration::MAX, Duration::from_secs)
    } else {
        let at = httpdate::parse_http_date(text).ok()?;
        at.duration_since(now).unwrap_or(Duration::ZERO)
    };
    Some(after.min(LONGEST_AFTER))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn head(lines: &[(&'static str, &str)]) -> Head {
        let headers = lines.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        Head::new(206, &headers.collect(), httpdate::parse_http_date("Sun, 06 Nov 1994 09:00:00 GMT").unwrap())
    }

    #[test]
    fn a_head_is_read() {
        let read = head(&[
            ("content-length", "10"),
            ("content-range", "bytes 5-14/15"),
            ("etag", "\"a\""),
            ("retry-after", "120"),
            ("accept-ranges", "Bytes"),
        ]);
        assert!(read.gives_ranges);
        assert_eq!((read.length, read.retry_after), (Some(10), Some(Duration::from_secs(120))));
        assert_eq!(read.range, Some(ContentRange { span: Some((5, 14)), total: Some(15) }));
        assert_eq!(read.validators.strong.as_deref(), Some("\"a\""));
        let dated = head(&[("retry-after", "Sun, 06 Nov 1994 09:01:00 GMT"), ("content-range", "bytes */15")]);
        assert_eq!(dated.retry_after, Some(Duration::from_secs(60)));
        assert_eq!(dated.range, Some(ContentRange { span: None, total: Some(15) }));
        // What counts is how far apart the origin's own two times are, and there is an end to it.
        let ahead = [("date", "Sat, 06 Nov 2094 09:00:00 GMT"), ("retry-after", "Sat, 06 Nov 2094 09:01:00 GMT")];
        assert_eq!(head(&ahead).retry_after, Some(Duration::from_secs(60)));
        for long in ["18446744073709551615", "Sat, 06 Nov 2094 09:00:00 GMT"] {
            assert_eq!(head(&[("retry-after", long)]).retry_after, Some(LONGEST_AFTER), "{long}");
        }
        assert!(!dated.gives_ranges && !head(&[("accept-ranges", "none")]).gives_ranges);
        for bad in ["5-14/15", "bytes 5-14", "bytes -14/15", "bytes 5-+14/15", "bytes 5-14/x", "items 5-14/15"] {
            assert_eq!(head(&[("content-range", bad)]).range, None, "{bad}");
        }
    }

    #[test]
    fn a_validator_is_strong_only_when_it_tells_every_change() {
        let at = "Sun, 06 Nov 1994 09:00:00 GMT";
        let minute = "Sun, 06 Nov 1994 08:59:00 GMT";
        let second = "Sun, 06 Nov 1994 08:59:01 GMT";
        let strong = |lines: &[(&'static str, &str)]| head(lines).validators.strong;
        assert_eq!(strong(&[("last-modified", minute), ("date", at)]).as_deref(), Some(minute));
        assert_eq!(strong(&[("last-modified", second), ("date", at)]), None);
        assert_eq!(strong(&[("last-modified", minute)]), None);
        assert_eq!(strong(&[("last-modified", minute), ("date", at), ("etag", "W/\"a\"")]), None);
        assert_eq!(strong(&[("etag", "a")]), None);
    }

    #[test]
    fn an_absurd_retry_after_is_an_hour_at_most() {
        let after = |text: &str| head(&[("retry-after", text)]).retry_after.map(|after| after.as_secs());
        for (text, seconds) in [
            ("0", Some(0)),
            ("3600", Some(3600)),
            ("3601", Some(3600)),
            ("18446744073709551615", Some(3600)),
            ("99999999999999999999999999", Some(3600)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(3600)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("-1", None),
            ("1e9", None),
            ("+5", None),
            ("", None),
            ("soon", None),
        ] {
            assert_eq!(after(text), seconds, "{text}");
        }
    }

    #[test]
    fn validators_that_nobody_could_keep_are_none() {
        let long = format!("\"{}\"", "x".repeat(LONGEST_VALIDATOR));
        assert_eq!(head(&[("etag", &long), ("last-modified", &long)]).validators, Validators::default());
        let most = format!("\"{}\"", "x".repeat(LONGEST_VALIDATOR - 2));
        assert_eq!(head(&[("etag", &most)]).validators.strong.as_deref(), Some(&*most));
    }

    proptest! {
        #[test]
        fn noise_is_no_range(text in "(bytes )?[0-9*/ +-]{0,30}") {
            if let Some(range) = ContentRange::parse(&text) {
                prop_assert!(text.starts_with("bytes "));
                prop_assert!(range.span.is_some() || text.contains('*'));
            }
        }
    }
}
