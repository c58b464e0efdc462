//! Where a redirect may lead: decided from addresses alone. Pure.
//!
//! What must hold: `https` never leads to `http`, nothing to another scheme; a host that the document does not name is
//! reached at addresses of the internet only, in whatever form an address is written.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::LOCATION;
use reqwest::Url;

use super::error::HttpError;
use super::global::is_global;
use super::{redacted, redacted_text, without_user};
use crate::intent::HttpSource;

/// Bytes of a redirect's target. Signed addresses of object stores have some 2,000.
const LONGEST: usize = 8 * 1024;

/// The hosts that a document names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Named(Vec<String>);

impl Named {
    /// Of all addresses of a source, and those that it lets redirects lead to.
    pub(super) fn by(source: &HttpSource) -> Self {
        let latest = source.latest.as_ref().and_then(|latest| latest.url.as_ref());
        let sums = source.checksums.as_ref().map(|sums| &sums.url);
        let addresses = [&source.url].into_iter().chain(latest).chain(sums).chain(&source.mirrors);
        let filled = addresses.map(|address| address.replace("{version}", "0").replace("{file}", "0"));
        let bare = source.redirects_to.iter().map(|host| format!("http://{host}/"));
        Self(filled.chain(bare).filter_map(|address| host(&Url::parse(&address).ok()?)).collect())
    }

    fn has(&self, at: &Url) -> bool {
        host(at).is_some_and(|host| self.0.contains(&host))
    }
}

/// A host as it is compared: parsed, so that an address has one form.
fn host(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(host.strip_suffix('.').unwrap_or(host).to_owned())
}

/// Which addresses a request may be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Whatever its host's are: the document names it.
    Any,
    /// Those of the internet, where its host's name leads to one.
    Global,
    /// Not to this one, which its host is.
    Refused(IpAddr),
}

/// Which addresses a request to `at` may be sent to, where `asked` was asked for.
pub(super) fn way(at: &Url, asked: &Url, named: &Named) -> Way {
    if host(at) == host(asked) || named.has(at) {
        return Way::Any;
    }
    match literal(at) {
        Some(address) if !is_global(address) => Way::Refused(address),
        _ => Way::Global,
    }
}

/// The address that an URL's host is, if it is no name.
fn literal(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Where a response leads, when it leads anywhere.
pub(super) fn next(status: u16, headers: &HeaderMap, at: &Url) -> Result<Option<Url>, HttpError> {
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let Some(location) = headers.get(LOCATION) else { return Ok(None) };
    if location.len() > LONGEST {
        return Err(HttpError::RedirectLong { url: redacted(at).into(), bytes: location.len(), limit: LONGEST });
    }
    let refused = |to: String| HttpError::Redirect { url: redacted(at).into(), to: to.into() };
    let text = String::from_utf8_lossy(location.as_bytes());
    let next = at.join(&text).map_err(|_| refused(redacted_text(&text)))?;
    let downgrade = at.scheme() == "https" && next.scheme() != "https";
    if downgrade || !matches!(next.scheme(), "http" | "https") {
        return Err(refused(redacted(&next)));
    }
    // User info that an origin puts there is not ours to send.
    Ok(Some(without_user(&next)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::{Ipv4Addr, Ipv6Addr};

    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn source() -> HttpSource {
        serde_json::from_value(serde_json::json!({
            "url": "https://origin.example:8443/{version}/{file}",
            "latest": { "url": "http://10.1.1.1/latest" },
            "checksums": { "url": "https://sums.example/{version}/sums", "file": "a-*.tgz" },
            "mirrors": ["http://mirror.internal/{version}/{file}", "http://[fd00::1]/{file}"],
            "redirectsTo": ["s3.internal", "192.168.7.7", "[fd00::2]"],
        }))
        .unwrap()
    }

    fn to(at: &str) -> Way {
        way(&at.parse().unwrap(), &"http://172.16.0.1:81/repair".parse().unwrap(), &Named::by(&source()))
    }

    #[test]
    fn named_hosts_are_reached_wherever_they_are() {
        for named in [
            "http://origin.example/other",
            "https://ORIGIN.example.:1/x",
            "http://10.1.1.1:8080/x",
            "https://sums.example/",
            "http://mirror.internal:9000/",
            "https://[fd00::1]/",
            "https://[fd00:0::0001]:444/",
            "https://s3.internal/b?k=v",
            "http://192.168.7.7/",
            "http://0xc0.0xa8.7.7/",
            "http://[fd00::2]/",
            "http://172.16.0.1/",
        ] {
            assert_eq!(to(named), Way::Any, "{named}");
        }
    }

    #[test]
    fn other_hosts_are_reached_on_the_internet_only() {
        for name in
            ["https://cdn.example/x", "http://localhost/", "http://metadata.google.internal/", "http://8.8.8.8/"]
        {
            assert_eq!(to(name), Way::Global, "{name}");
        }
        for (address, is) in [
            ("http://127.0.0.1/", "127.0.0.1"),
            ("http://127.1/", "127.0.0.1"),
            ("http://2130706433/", "127.0.0.1"),
            ("http://0x7f000001/", "127.0.0.1"),
            ("http://0177.0.0.1/", "127.0.0.1"),
            ("http://127.0.0.1./", "127.0.0.1"),
            ("http://0/", "0.0.0.0"),
            ("http://10.1.1.2/", "10.1.1.2"),
            ("http://169.254.169.254/latest/meta-data", "169.254.169.254"),
            ("http://0xA9FEA9FE/", "169.254.169.254"),
            ("http://１６９.254.169.254/", "169.254.169.254"),
            ("http://100.100.100.200/", "100.100.100.200"),
            ("http://224.0.0.1/", "224.0.0.1"),
            ("http://[::1]/", "::1"),
            ("http://[::]/", "::"),
            ("http://[fd00:ec2::254]/", "fd00:ec2::254"),
            ("http://[fe80::1]/", "fe80::1"),
            ("http://[::ffff:10.1.1.1]/", "::ffff:10.1.1.1"),
            ("http://[64:ff9b::a9fe:a9fe]/", "64:ff9b::a9fe:a9fe"),
            ("http://[2002:7f00:1::]/", "2002:7f00:1::"),
        ] {
            assert_eq!(to(address), Way::Refused(is.parse().unwrap()), "{address}");
        }
    }

    fn led(at: &str, location: &[u8]) -> Result<Option<Url>, HttpError> {
        let headers = HeaderMap::from_iter([(LOCATION, HeaderValue::from_bytes(location).unwrap())]);
        next(302, &headers, &at.parse().unwrap())
    }

    #[test]
    fn a_redirect_leads_to_http_or_https() {
        let to = |at, location: &str| led(at, location.as_bytes()).unwrap().unwrap().to_string();
        assert_eq!(to("http://h/a/b", "c?d"), "http://h/a/c?d");
        assert_eq!(to("http://h/a", "https://user:secret@o/x"), "https://o/x");
        assert_eq!(to("https://h/a", "//o/x"), "https://o/x");
        for (at, location) in [
            ("https://h/", "http://h/"),
            ("http://h/", "file:///etc/shadow"),
            ("http://h/", "ftp://h/x"),
            ("http://h/", "gopher://h/x"),
            ("http://h/", "data:text/plain,x"),
            ("http://h/", "unix:/run/x.sock"),
            ("http://h/", "http://"),
            ("http://h/", "http://300.1.1.1/"),
        ] {
            let error = led(at, location.as_bytes()).unwrap_err();
            assert!(matches!(error, HttpError::Redirect { .. }), "{location}: {error}");
        }
        let long = led("http://h/", &[b'a'; LONGEST + 1]).unwrap_err();
        assert!(matches!(long, HttpError::RedirectLong { .. }) && long.to_string().len() < 200, "{long}");
        let none = HeaderMap::new();
        assert_eq!(next(302, &none, &"http://h/".parse().unwrap()).unwrap(), None);
        assert_eq!(next(304, &none, &"http://h/".parse().unwrap()).unwrap(), None);
    }

    proptest! {
        #[test]
        fn whatever_a_redirect_says_no_local_address_is_led_to(bits: u32, wide: u128, form in 0..6, path in "[ -~]{0,20}") {
            let (four, six) = (Ipv4Addr::from_bits(bits), Ipv6Addr::from_bits(wide));
            let (host, is): (String, IpAddr) = match form {
                0 => (four.to_string(), four.into()),
                1 => (bits.to_string(), four.into()),
                2 => (format!("{bits:#x}"), four.into()),
                3 => (format!("0{bits:o}"), four.into()),
                4 => (format!("[{}]", four.to_ipv6_mapped()), four.into()),
                _ => (format!("[{six}]"), six.into()),
            };
            let location = format!("//{host}/{path}");
            if let Some(url) = led("http://origin.example/", location.as_bytes()).ok().flatten() {
                let way = way(&url, &"http://origin.example/".parse().unwrap(), &Named::default());
                prop_assert_eq!(way == Way::Global, is_global(is), "{} {:?}", location, way);
            }
        }

        #[test]
        fn any_location_is_refused_or_led_to(at in "https?://[a-z]{1,9}/", location in proptest::collection::vec(32u8..=255, 0..200)) {
            prop_assume!(HeaderValue::from_bytes(&location).is_ok());
            if let Some(url) = led(&at, &location).ok().flatten() {
                prop_assert!(url.scheme() == "https" || at.starts_with("http:") && url.scheme() == "http");
                prop_assert!(url.username().is_empty() && url.password().is_none());
            }
        }
    }
}
