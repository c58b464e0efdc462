//! The HTTP client: one request with its redirects, answered by head and body.
//!
//! What must hold: declared headers and a URL's user info go to the origin they were declared for and to no other,
//! redirects included; `https` never leads to `http`; every wait has an end; no error shows a secret.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use reqwest::{Certificate, Client, ClientBuilder, Response, Url};
use tokio::time::{Instant, timeout, timeout_at};

use super::error::{ClientError, HttpError};
use super::pace::{Floor, Pace};
use super::{redacted, without_user};
use crate::acquire::transfer::{Head, Validators};
use crate::fs;
use crate::intent::{FetchSettings, HeaderValue as Declared, HttpSource};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a file with certificates or with a header's value.
const CA_LIMIT: u64 = 4 << 20;
const HEADER_LIMIT: u64 = 64 * 1024;

/// What goes to one origin only. Made anew for each fetch, since the files behind it change.
#[derive(Debug, Default)]
pub(in crate::acquire) struct Credentials {
    /// Only its origin counts.
    origin: Option<Url>,
    headers: HeaderMap,
}

impl Credentials {
    /// Reads the declared headers; they belong to the origin of the archive's own address, `url`.
    pub(in crate::acquire) async fn read(source: &HttpSource, url: &Url) -> Result<Self, HttpError> {
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
        Ok(Self { origin: Some(without_user(url)), headers })
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
    client: Client,
    /// See [`HttpClient::apart`]; made when it is first needed.
    apart: Arc<OnceLock<Client>>,
    extra: Arc<[Certificate]>,
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

/// Which authorities are trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Roots {
    System,
    None,
}

impl HttpClient {
    /// Makes the client as the settings say.
    pub(in crate::acquire) fn new(settings: &FetchSettings) -> Result<Self, ClientError> {
        let extra = extra_roots(settings)?;
        let client = builder(&extra, Roots::System).build().or_else(|error| {
            // An image without any authorities still fetches over plain http, or under `caFile` alone.
            let client = builder(&extra, Roots::None).build().map_err(ClientError::Build)?;
            tracing::warn!(error = %error, "no system certificate authorities: https trusts fetch.caFile only");
            Ok(client)
        })?;
        let floor = Floor { bytes_per_second: settings.min_throughput.0, window: settings.stall_timeout.0 };
        Ok(Self { client, apart: Arc::default(), extra: extra.into(), floor })
    }

    /// A client each of whose requests has a connection of its own: HTTP/2 would put them all on one.
    pub(in crate::acquire) async fn apart(&self) -> Self {
        let this = self.clone();
        let mut made = tokio::task::spawn_blocking(move || {
            let apart = |roots| builder(&this.extra, roots).http1_only().build();
            // What could be made once can be again, save for want of files: then connections are shared.
            let made = || apart(Roots::System).or_else(|_| apart(Roots::None)).unwrap_or_else(|_| this.client.clone());
            Self { client: this.apart.get_or_init(made).clone(), ..this.clone() }
        });
        super::file::joined(&mut made).await
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
        for _ in 0..=super::error::REDIRECTS {
            let mut headers = credentials.headers_for(&at);
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            headers.extend(extra.clone());
            let basic =
                (at.origin() == url.origin() && !headers.contains_key(AUTHORIZATION)).then(|| user_info(url)).flatten();
            let mut request = self.client.request(method.clone(), at.clone()).headers(headers);
            if let Some((user, password)) = basic {
                request = request.basic_auth(user, password);
            }
            let silent = |_| HttpError::Silent { url: redacted(&at).into(), after: self.floor.window };
            let answer = timeout(self.floor.window, request.send()).await.map_err(silent)?;
            let response = answer.map_err(|e| network(&at, e))?;
            match redirect(&response, &at)? {
                None => return Ok(response),
                Some(next) => at = next,
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

fn extra_roots(settings: &FetchSettings) -> Result<Vec<Certificate>, ClientError> {
    let Some(path) = &settings.ca_file else { return Ok(Vec::new()) };
    let pem = fs::read_limited(path, CA_LIMIT).map_err(ClientError::CaRead)?;
    let malformed = |source| ClientError::CaMalformed { path: path.clone(), source };
    let certificates = Certificate::from_pem_bundle(&pem).map_err(malformed)?;
    if certificates.is_empty() {
        return Err(ClientError::CaEmpty { path: path.clone() });
    }
    // One that does not parse fails here, with the file named, and not as "the client cannot be made".
    builder(&certificates, Roots::None).build().map_err(malformed)?;
    Ok(certificates)
}

fn builder(extra: &[Certificate], roots: Roots) -> ClientBuilder {
    // The client panics without a provider. An error says that one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .user_agent(concat!("seedcache/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false);
    match roots {
        Roots::System => builder.tls_certs_merge(extra.iter().cloned()),
        Roots::None => builder.tls_certs_only(extra.iter().cloned()),
    }
}

fn user_info(url: &Url) -> Option<(String, Option<String>)> {
    let decoded = |text| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let present = !url.username().is_empty() || url.password().is_some();
    present.then(|| (decoded(url.username()), url.password().map(decoded)))
}

/// Where a response leads, when it leads anywhere.
fn redirect(response: &Response, at: &Url) -> Result<Option<Url>, HttpError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let Some(location) = response.headers().get(LOCATION) else { return Ok(None) };
    let refused = |to: String| HttpError::Redirect { url: redacted(at).into(), to: to.into() };
    let text = String::from_utf8_lossy(location.as_bytes());
    let next = at.join(&text).map_err(|_| refused(super::redacted_text(&text)))?;
    let downgrade = at.scheme() == "https" && next.scheme() != "https";
    if downgrade || !matches!(next.scheme(), "http" | "https") {
        return Err(refused(redacted(&next)));
    }
    // User info that an origin puts there is not ours to send.
    Ok(Some(without_user(&next)))
}

fn network(url: &Url, source: reqwest::Error) -> HttpError {
    HttpError::Network { url: redacted(url).into(), source: source.without_url() }
}

/// The error that a response's status is.
pub(in crate::acquire) fn status_error(url: &Url, response: &Response) -> HttpError {
    let retry_after = head_of(response).retry_after;
    HttpError::Status { url: redacted(url).into(), status: response.status(), retry_after }
}

/// The encoding that a response says its bytes have, if any.
pub(in crate::acquire) fn content_encoding(headers: &HeaderMap) -> Option<&str> {
    let encoding = headers.get(CONTENT_ENCODING)?.to_str().ok()?.trim();
    (!encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity")).then_some(encoding)
}

/// What counts of a response's head, as plain data.
pub(in crate::acquire) fn head_of(response: &Response) -> Head {
    Head::new(response.status().as_u16(), response.headers(), std::time::SystemTime::now())
}

#[cfg(test)]
mod tests;
