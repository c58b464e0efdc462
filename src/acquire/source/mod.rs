//! Where bytes come from, and how an address is shown: never with user info, a query's values or a fragment.

mod client;
mod error;
pub(super) mod file;
mod global;
mod guard;
pub(super) mod http;
#[cfg(test)]
pub(super) mod origin;
pub(super) mod pace;
mod redirect;

pub use error::{ClientError, HttpError};
use reqwest::Url;

/// The address without what may be secret: user info, the query's values, the fragment.
pub(super) fn redacted(url: &Url) -> String {
    let mut shown = without_user(url);
    shown.set_fragment(None);
    shown.set_query(None);
    match url.query() {
        None | Some("") => shown.into(),
        Some(query) => {
            let keys: Vec<String> = query
                .split('&')
                .map(|pair| pair.split_once('=').map_or("***".into(), |(key, _)| format!("{key}=***")))
                .collect();
            format!("{shown}?{}", keys.join("&"))
        }
    }
}

/// The same for a text that may be no URL.
pub(super) fn redacted_text(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    match text.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{path}")
        }
        None => text.into(),
    }
}

/// The address without user info.
pub(super) fn without_user(url: &Url) -> Url {
    let mut plain = url.clone();
    // Fails only for addresses that can't have any.
    let _ = plain.set_username("");
    let _ = plain.set_password(None);
    plain
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nothing_secret_is_shown() {
        let url = "https://user:secret@h:8443/a/b?X-Sig=secret&flag&e=#secret".parse().unwrap();
        assert_eq!(redacted(&url), "https://h:8443/a/b?X-Sig=***&***&e=***");
        assert_eq!(redacted(&"http://h".parse().unwrap()), "http://h/");
        assert_eq!(redacted_text("https://user:sec@ret@h/{version}?sig=secret"), "https://h/{version}");
        assert_eq!(redacted_text("srv/a.tgz"), "srv/a.tgz");
    }
}
