//! The daemon's refusals and failures: RFC 9457 problem details, with what to do next.

use std::fmt;

use http::StatusCode;
use serde::Deserialize;

use crate::intent::{Digest, VersionName};

/// A refusal or failure that the daemon told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// The status of the answer.
    pub(super) status: StatusCode,
    /// What kind of problem it is, for machines.
    kind: Option<String>,
    /// The same for people.
    title: String,
    /// What happened this time.
    detail: Option<String>,
    /// What to do, a line for each way.
    next: Option<String>,
    /// What a `not-below-root` tells besides.
    elsewhere: Option<Elsewhere>,
}

/// The version to put into a directory that the daemon does not reach by itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Elsewhere {
    /// Its name, `current` resolved.
    pub(super) version: VersionName,
    /// Digest of its archive.
    pub(super) digest: Digest,
    /// Digest of its tree.
    pub(super) tree_digest: Digest,
}

/// As it stands in the body; every member may be missing.
#[derive(Deserialize)]
struct Body {
    #[serde(rename = "type")]
    kind: Option<String>,
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
        let Body { kind, title, detail, next } = serde_json::from_slice(body).ok()?;
        let kind = kind.and_then(|kind| Some(kind.strip_prefix("urn:seedcache:problem:")?.to_owned()));
        let next = next.map(|next| match next {
            Next::One(line) => line,
            Next::Many(lines) => lines.join("\n"),
        });
        let title = title.unwrap_or_else(|| status.to_string());
        let elsewhere = serde_json::from_slice(body).ok().filter(|_| kind.as_deref() == Some("not-below-root"));
        Some(Self { status, kind, title, detail, next: next.filter(|next| !next.is_empty()), elsewhere })
    }

    /// The version to go on with, where the daemon left the rest to the client.
    pub(super) fn elsewhere(&self) -> Option<&Elsewhere> {
        self.elsewhere.as_ref()
    }

    /// Another is at it, and done with it sometime.
    pub(super) fn is_busy(&self) -> bool {
        self.kind.as_deref() == Some("busy")
    }

    /// Why the client is to receive the tree and write it by itself.
    pub(super) fn receive(&self) -> Option<&str> {
        self.detail.as_deref().filter(|_| self.kind.as_deref() == Some("receive"))
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
    fn what_is_left_to_the_client_is_told_by_kind() {
        let told = |kind: &str| {
            let digest = format!("sha256:{}", "a".repeat(64));
            let body = format!(
                r#"{{"type":"urn:seedcache:problem:{kind}","detail":"why","version":"v1","digest":"{digest}",
                    "treeDigest":"{digest}"}}"#
            );
            Problem::read(StatusCode::CONFLICT, body.as_bytes()).unwrap()
        };
        assert_eq!(told("not-below-root").elsewhere().map(|elsewhere| elsewhere.version.as_str()), Some("v1"));
        assert_eq!((told("receive").elsewhere(), told("receive").receive()), (None, Some("why")));
        assert_eq!((told("conflict").elsewhere(), told("conflict").receive()), (None, None));
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
