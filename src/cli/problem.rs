//! The daemon's refusals and failures: RFC 9457 problem details, with what to do next.

use std::fmt;

use http::StatusCode;
use serde::Deserialize;

/// A refusal or failure that the daemon told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// The status of the answer.
    pub(super) status: StatusCode,
    /// What kind of problem it is.
    title: String,
    /// What happened this time.
    detail: Option<String>,
    /// What to do, a line for each way.
    next: Option<String>,
}

/// As it stands in the body; every member may be missing.
#[derive(Deserialize)]
struct Body {
    title: Option<String>,
    detail: Option<String>,
    next: Option<Next>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Next {
    One(String),
    Many(Vec<String>),
}

impl Problem {
    /// Reads the body of an answer with an error status; `None` when it is no JSON object.
    pub(super) fn read(status: StatusCode, body: &[u8]) -> Option<Self> {
        let Body { title, detail, next } = serde_json::from_slice(body).ok()?;
        let next = next.map(|next| match next {
            Next::One(line) => line,
            Next::Many(lines) => lines.join("\n"),
        });
        let title = title.unwrap_or_else(|| status.to_string());
        Some(Self { status, title, detail, next: next.filter(|next| !next.is_empty()) })
    }

    /// What to do about it, as the daemon says.
    pub(super) fn next(&self) -> Option<&str> {
        self.next.as_deref()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The title says the kind of problem, which a detail says better.
        f.write_str(self.detail.as_ref().unwrap_or(&self.title))
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn title_detail_and_next_are_told() {
        let body =
            br#"{"type":"about:blank","title":"Not found","status":404,"detail":"there is no artifact a","next":"x"}"#;
        let problem = Problem::read(StatusCode::NOT_FOUND, body).unwrap();
        assert_eq!(problem.to_string(), "there is no artifact a");
        assert_eq!(problem.next(), Some("x"));
    }

    #[test]
    fn little_is_enough_and_what_is_no_problem_is_none() {
        let status = StatusCode::BAD_GATEWAY;
        assert_eq!(Problem::read(status, b"{}").unwrap().to_string(), "502 Bad Gateway");
        assert_eq!(Problem::read(status, br#"{"next":["a","b"]}"#).unwrap().next(), Some("a\nb"));
        for body in ["", "<html>", "[]", "3"] {
            assert_eq!(Problem::read(status, body.as_bytes()), None, "{body}");
        }
    }
}
