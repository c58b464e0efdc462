//! The HTTP client: one request with its redirects, answered by head and body.
//!
//! What must hold: declared headers and a URL's user info go to the origin they were declared for and to no other,
//! redirects included; what a redirect leads to is judged before anything is sent there; every wait has an end; no error
//! shows a secret.

use std::sync::Arc;

use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use reqwest::{Response, Url};
use tokio::time::{Instant, timeout, timeout_at};

use super::client::{Clients, Reach};
use super::error::{ClientError, HttpError};
use super::guard::NotGlobal;
use super::pace::{Floor, Pace};
use super::redirect::{self, Named, Way};
use super::{redacted, without_user};
use crate::acquire::transfer::{Head, Validators};
use crate::fs;
use crate::intent::{FetchSettings, HeaderValue as Declared, HttpSource, VersionName};

/// Bytes of a file with a header's value.
const HEADER_LIMIT: u64 = 64 * 1024;
const LONGEST_ENCODING: usize = 64;

/// What goes to one origin only, and the hosts that its document names. Made anew for each fetch, since the files behind it
/// change.
#[derive(Debug, Default)]
pub(in crate::acquire) struct Credentials {
    /// Only its origin counts.
    origin: Option<Url>,
    headers: HeaderMap,
    named: Named,
}

impl Credentials {
    /// Reads the declared headers; they belong to the origin of `source.http.url`, wherever else the bytes come from, which may
    /// be another one for each version.
    pub(in crate::acquire) async fn read(
        source: &HttpSource,
        version: Option<&VersionName>,
    ) -> Result<Self, HttpError> {
        let mut headers = HeaderMap::new();
        for (name, declared) in &source.headers {
            let bytes = match declared {
                Declared::Text(text) => text.clone().into_bytes(),
                Declared::File { from_file } => {
                    let path = from_file.clone();
                    let mut read = tokio::task::spawn_blocking(move || fs::read_limited(&path, HEADER_LIMIT));
                    let mut bytes = super::file::joined(&mut read)
                        .await
                        .map_err(|source| HttpError::HeaderFile { name: name.as_str().into(), source })?;
                    bytes.truncate(bytes.trim_ascii_end().len());
                    bytes
                }
            };
            let unfit = || HttpError::Header { name: name.as_str().into() };
            let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unfit())?;
            let mut value = HeaderValue::from_bytes(&bytes).map_err(|_| unfit())?;
            value.set_sensitive(true);
            headers.insert(key, value);
        }
        // Only its origin counts.
        let version = version.map_or("0", VersionName::as_str);
        let url = Url::parse(&source.url.replace("{version}", version).replace("{file}", "0")).ok();
        Ok(Self { origin: url.as_ref().map(without_user), headers, named: Named::by(source) })
    }

    fn headers_for(&self, url: &Url) -> HeaderMap {
        match &self.origin {
            Some(origin) if origin.origin() == url.origin() => self.headers.clone(),
            _ => HeaderMap::new(),
        }
    }
}

/// The client, one for the node. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::acquire) struct HttpClient {
    clients: Arc<Clients>,
    /// The least throughput of a body; its window is also how long a head is waited for.
    floor: Floor,
}

/// A small object.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::acquire) enum Small {
    /// As it was: the condition of the request does not hold.
    Unchanged,
    /// All of it.
    Whole {
        /// The body.
        bytes: Vec<u8>,
        /// What the origin says its state is.
        validators: Validators,
    },
}

impl HttpClient {
    /// Makes the client as the settings say.
    pub(in crate::acquire) fn new(settings: &FetchSettings) -> Result<Self, ClientError> {
        let clients = Arc::new(Clients::new(settings)?);
        let floor = Floor { bytes_per_second: settings.min_throughput.0, window: settings.stall_timeout.0 };
        Ok(Self { clients, floor })
    }

    /// The least throughput of a body.
    pub(in crate::acquire) fn floor(&self) -> Floor {
        self.floor
    }

    /// Sends a request and follows its redirects by hand, so that credentials are weighed at each hop.
    pub(in crate::acquire) async fn send(
        &self,
        method: Method,
        url: &Url,
        credentials: &Credentials,
        extra: &HeaderMap,
    ) -> Result<Response, HttpError> {
        self.send_to(method, url, without_user(url), credentials, extra).await
    }

    /// The same, where it is known already that `url` leads to `at`.
    pub(in crate::acquire) async fn send_to(
        &self,
        method: Method,
        url: &Url,
        mut at: Url,
        credentials: &Credentials,
        extra: &HeaderMap,
    ) -> Result<Response, HttpError> {
        let mut led_by = url.clone();
        for _ in 0..=super::error::REDIRECTS {
            let not_global =
                |address| HttpError::NotGlobal { url: redacted(&led_by).into(), to: redacted(&at).into(), address };
            let reach = match redirect::way(&at, url, &credentials.named) {
                Way::Any => Reach::Any,
                Way::Global if self.clients.are_proxied(&at) => Reach::Any,
                Way::Global => Reach::Global,
                Way::Refused(address) => return Err(not_global(address)),
            };
            let client = self.clients.get(reach).await?;
            let mut headers = credentials.headers_for(&at);
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            headers.extend(extra.clone());
            let basic =
                (at.origin() == url.origin() && !headers.contains_key(AUTHORIZATION)).then(|| user_info(url)).flatten();
            let mut request = client.request(method.clone(), at.clone()).headers(headers);
            if let Some((user, password)) = basic {
                request = request.basic_auth(user, password);
            }
            let silent = |_| HttpError::Silent { url: redacted(&at).into(), after: self.floor.window };
            let answer = timeout(self.floor.window, request.send()).await.map_err(silent)?;
            let response = answer.map_err(|error| match NotGlobal::behind(&error) {
                Some(refused) => not_global(refused.address),
                None => network(&at, error),
            })?;
            match redirect::next(response.status().as_u16(), response.headers(), &at)? {
                None => return Ok(response),
                Some(next) => (led_by, at) = (at, next),
            }
        }
        Err(HttpError::RedirectLoop { url: redacted(url).into() })
    }

    /// A whole small object, or word that it did not change; `unless` is the condition, empty where there is none.
    pub(in crate::acquire) async fn small(
        &self,
        url: &Url,
        credentials: &Credentials,
        limit: u64,
        unless: &HeaderMap,
    ) -> Result<Small, HttpError> {
        let mut response = self.send(Method::GET, url, credentials, unless).await?;
        if response.status() == StatusCode::NOT_MODIFIED && !unless.is_empty() {
            return Ok(Small::Unchanged);
        }
        if response.status() != StatusCode::OK {
            return Err(status_error(url, &response));
        }
        if let Some(encoding) = content_encoding(response.headers()) {
            return Err(HttpError::Encoded { url: redacted(url).into(), encoding: encoding.into() });
        }
        let validators = head_of(&response).validators;
        let mut bytes = Vec::new();
        let mut pace = Pace::new(self.floor, Instant::now());
        while let Some(chunk) = self.chunk(&mut response, &mut pace, url).await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > limit {
                return Err(HttpError::TooLarge { url: redacted(url).into(), limit });
            }
        }
        Ok(Small::Whole { bytes, validators })
    }

    /// The next piece of a body, unless it comes too slowly.
    pub(in crate::acquire) async fn chunk(
        &self,
        response: &mut Response,
        pace: &mut Pace,
        url: &Url,
    ) -> Result<Option<bytes::Bytes>, HttpError> {
        loop {
            let (bytes, answer) = match timeout_at(pace.deadline(), response.chunk()).await {
                Err(_) => (0, None),
                Ok(Ok(Some(chunk))) => (chunk.len() as u64, Some(Some(chunk))),
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(error)) => return Err(network(url, error)),
            };
            if !pace.keeps(bytes, Instant::now()) {
                let Floor { bytes_per_second, window } = self.floor;
                return Err(HttpError::Stalled { url: redacted(url).into(), bytes_per_second, window });
            }
            if let Some(chunk) = answer {
                return Ok(chunk);
            }
        }
    }
}

fn user_info(url: &Url) -> Option<(String, Option<String>)> {
    let decoded = |text| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let present = !url.username().is_empty() || url.password().is_some();
    present.then(|| (decoded(url.username()), url.password().map(decoded)))
}

fn network(url: &Url, source: reqwest::Error) -> HttpError {
    HttpError::Network { url: redacted(url).into(), source: source.without_url() }
}

/// The error that a response's status is.
pub(in crate::acquire) fn status_error(url: &Url, response: &Response) -> HttpError {
    let retry_after = head_of(response).retry_after;
    HttpError::Status { url: redacted(url).into(), status: response.status(), retry_after }
}

/// The encoding that a response says its bytes have, if any; cut, since it is told.
pub(in crate::acquire) fn content_encoding(headers: &HeaderMap) -> Option<&str> {
    headers.get_all(CONTENT_ENCODING).iter().find_map(|line| {
        let encoding = line.to_str().unwrap_or("(no text)").trim();
        let encoding = encoding.get(..LONGEST_ENCODING).unwrap_or(encoding);
        (!encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity")).then_some(encoding)
    })
}

/// What counts of a response's head, as plain data.
pub(in crate::acquire) fn head_of(response: &Response) -> Head {
    Head::new(response.status().as_u16(), response.headers(), std::time::SystemTime::now())
}

#[cfg(test)]
mod tests;
