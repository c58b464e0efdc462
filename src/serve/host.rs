//! Whether a request over TCP was meant for this daemon. A page of another site can have its own name lead to the daemon's
//! address (DNS rebinding); the browser then takes the daemon for that site, and the page may read what it answers.
//!
//! Only what may come from a browser is held against the daemon's names, so that no client of a pod is refused whatever it
//! calls the node. Over plain HTTP a browser sends neither `Origin` with what a page reads nor `Sec-Fetch-*`, but always
//! an `Accept-Language`, which a page can change and not take away. No page can have an IP address, a name of one word or
//! one of a cluster for its own name.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use axum::http::header::{ACCEPT_LANGUAGE, COOKIE, HOST, ORIGIN, REFERER, UPGRADE_INSECURE_REQUESTS, USER_AGENT};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri};

use super::caller::Peer;

/// Under these no name can be registered by anyone.
const RESERVED: [&str; 4] = [".localhost", ".svc", ".cluster.local", ".internal"];

/// Names that the daemon goes by besides those that nobody else can have.
#[derive(Debug, Clone, Default)]
pub(super) struct OwnNames(Arc<[String]>);

/// A browser's request for somebody else.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a browser asks for the host {host:?}, which is no name of this daemon")]
pub(super) struct ForeignHost {
    pub(super) host: String,
}

impl OwnNames {
    /// `listen`: the address as configured; `node`: the node's name.
    pub(super) fn new(listen: Option<&str>, node: &str) -> Self {
        let listen = listen.map(|address| address.rsplit_once(':').map_or(address, |(host, _)| host));
        Self(listen.into_iter().chain([node]).map(normal).collect())
    }

    /// Refuses what a page of another site may have sent. Over the socket it has sent nothing.
    pub(super) fn check(&self, peer: Option<Peer>, uri: &Uri, headers: &HeaderMap) -> Result<(), ForeignHost> {
        if matches!(peer, Some(Peer::Unix { .. })) || !may_be_browsers(headers) {
            return Ok(());
        }
        // An address that is whole stands for the header (RFC 9112, 3.2.2).
        let named = match uri.authority() {
            Some(authority) => vec![authority.as_str().to_owned()],
            None => {
                let hosts = headers.get_all(HOST).iter();
                hosts.map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned()).collect()
            }
        };
        match named.into_iter().find(|host| !self.has(host)) {
            None => Ok(()),
            Some(host) => Err(ForeignHost { host }),
        }
    }

    fn has(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        let name = normal(authority.host());
        let is_ip = name.parse::<IpAddr>().is_ok()
            || name.strip_prefix('[').and_then(|v6| v6.strip_suffix(']')?.parse::<Ipv6Addr>().ok()).is_some();
        is_ip || !name.contains('.') || RESERVED.iter().any(|end| name.ends_with(end)) || self.0.contains(&name)
    }
}

fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn may_be_browsers(headers: &HeaderMap) -> bool {
    let marks = [ORIGIN, REFERER, COOKIE, ACCEPT_LANGUAGE, UPGRADE_INSECURE_REQUESTS];
    let agent = headers.get(USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(b"Mozilla/"));
    agent || headers.keys().any(|name| marks.contains(name) || name.as_str().starts_with("sec-"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use axum::http::Request;

    use super::*;

    fn passes_from(peer: Peer, uri: &str, headers: &[(&str, &str)]) -> bool {
        let names = OwnNames::new(Some("seeds.example.com:7070"), "Node-1.example.org");
        let request = headers.iter().fold(Request::get(uri), |request, (name, value)| request.header(*name, *value));
        let (parts, ()) = request.body(()).unwrap().into_parts();
        names.check(Some(peer), &parts.uri, &parts.headers).is_ok()
    }

    fn passes(uri: &str, headers: &[(&str, &str)]) -> bool {
        passes_from(Peer::Tcp("127.0.0.1:9".parse().unwrap()), uri, headers)
    }

    #[test]
    fn browsers_are_answered_under_names_that_no_page_can_have() {
        for (host, ours) in [
            ("127.0.0.1:7070", true),
            ("10.1.2.3", true),
            ("[::1]:7070", true),
            ("localhost:7070", true),
            ("LocalHost.", true),
            ("status.localhost", true),
            ("seedcache:7070", true),
            ("node-7", true),
            ("seedcache.seedcache.svc:7070", true),
            ("seedcache.seedcache.svc.cluster.local", true),
            ("ip-10-0-0-1.ec2.internal", true),
            ("seeds.example.com", true),
            ("node-1.example.org:7070", true),
            ("evil.example:7070", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example", false),
            ("seedcache.svc.evil.example", false),
            ("svc.example", false),
            ("1.2.3", false),
            ("", false),
            ("a b", false),
        ] {
            assert_eq!(passes("/", &[("host", host), ("accept-language", "*")]), ours, "{host:?}");
        }
    }

    #[test]
    fn only_browsers_are_held_to_it() {
        let evil = ("host", "evil.example");
        for mark in [
            ("origin", "http://evil.example"),
            ("referer", "http://evil.example/"),
            ("accept-language", ""),
            ("cookie", "a=b"),
            ("sec-fetch-mode", "cors"),
            ("sec-ch-ua", "x"),
            ("upgrade-insecure-requests", "1"),
            ("user-agent", "Mozilla/5.0 (X11)"),
        ] {
            assert!(!passes("/", &[evil, mark]), "{mark:?}");
            assert!(!passes("/", &[("host", "localhost"), evil, mark]), "{mark:?}: one of two");
            assert!(!passes("http://evil.example/", &[("host", "localhost"), mark]), "{mark:?}: whole address");
            assert!(passes("http://localhost/", &[evil, mark]), "{mark:?}: whole address");
            assert!(passes("/", &[mark]), "{mark:?}: no host");
            assert!(
                passes_from(Peer::Unix { uid: 7, gid: 7, outside: true }, "/", &[evil, mark]),
                "{mark:?}: the socket"
            );
        }
        for client in ["curl/8.5.0", "Wget/1.21", "Go-http-client/1.1", "python-requests/2.32", "seedcache/0.1.0"] {
            assert!(passes("/", &[evil, ("user-agent", client), ("accept", "*/*")]), "{client}");
        }
    }
}
