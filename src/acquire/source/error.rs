//! What goes wrong with HTTP: which address, and what to do. No address is shown with its secrets.

use std::time::Duration;

use http::StatusCode;

use crate::fs;

/// Redirects that are followed.
pub(super) const REDIRECTS: usize = 10;

/// Why the HTTP client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// `fetch.caFile` cannot be read.
    #[error("`fetch.caFile` cannot be read")]
    CaRead(#[source] fs::Error),
    /// `fetch.caFile` holds no certificate.
    #[error("`fetch.caFile` {path} holds no certificate; give a PEM file with one or more")]
    CaEmpty {
        /// The file.
        path: std::path::PathBuf,
    },
    /// A certificate in it is broken.
    #[error("`fetch.caFile` {path} is no sound PEM file of certificates")]
    CaMalformed {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The TLS or proxy set-up fails.
    #[error("the HTTP client cannot be made; check `fetch.caFile` and the proxy variables of the environment")]
    Build(#[source] reqwest::Error),
}

/// Why a request got no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The file of a header's value cannot be read.
    #[error("the value of header {name} cannot be read; check `headers`")]
    HeaderFile {
        /// The header.
        name: Box<str>,
        /// Why.
        #[source]
        source: fs::Error,
    },
    /// A declared header is none.
    #[error("{name:?} with its value is no HTTP header; check `headers`")]
    Header {
        /// The header.
        name: Box<str>,
    },
    /// No connection, or it broke.
    #[error("{url} cannot be reached, or the connection broke{}", distrusted(source))]
    Network {
        /// The address.
        url: Box<str>,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// No answer in time.
    #[error("{url} did not answer within {} s", after.as_secs())]
    Silent {
        /// The address.
        url: Box<str>,
        /// How long it was waited for.
        after: Duration,
    },
    /// The body came too slowly.
    #[error("{url} sent less than {bytes_per_second} bytes/s for {} s; see `fetch.minThroughput`", window.as_secs())]
    Stalled {
        /// The address.
        url: Box<str>,
        /// The least throughput.
        bytes_per_second: u64,
        /// How long it was missed.
        window: Duration,
    },
    /// Not the status of success.
    #[error("{url} answered {status}{}", advice(*status))]
    Status {
        /// The address.
        url: Box<str>,
        /// The status.
        status: StatusCode,
        /// When the origin wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// Redirected too often.
    #[error("{url} redirects more than {REDIRECTS} times")]
    RedirectLoop {
        /// The address.
        url: Box<str>,
    },
    /// Redirected to where nobody goes.
    #[error("{url} redirects to {to}, which is refused: only http and https, and never from https to http")]
    Redirect {
        /// The address.
        url: Box<str>,
        /// Where to.
        to: Box<str>,
    },
    /// Redirected to an address longer than any that means something.
    #[error("{url} redirects to an address of {bytes} bytes; at most {limit} are followed")]
    RedirectLong {
        /// The address.
        url: Box<str>,
        /// How long that one is.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Redirected into a private network.
    #[error(
        "{url} redirects to {to} at {address}, which is no public address, and is refused; if that is meant, name the host \
         in `source.http.redirectsTo`"
    )]
    NotGlobal {
        /// The address.
        url: Box<str>,
        /// Where to.
        to: Box<str>,
        /// What its host is, or leads to.
        address: std::net::IpAddr,
    },
    /// The client for a redirect cannot be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A text object that is too big.
    #[error("{url} holds more than {limit} bytes, too many for what is asked there")]
    TooLarge {
        /// The address.
        url: Box<str>,
        /// Bytes allowed.
        limit: u64,
    },
    /// An encoding nobody asked for where it can't be told from the content.
    #[error(
        "{url} answers with Content-Encoding {encoding:?} though none was asked for; have the origin send it plain"
    )]
    Encoded {
        /// The address.
        url: Box<str>,
        /// The encoding.
        encoding: Box<str>,
    },
    /// Another state of the object than the one that the version was named by.
    #[error("{url} has changed since it was asked what it holds; it is asked again")]
    Changed {
        /// The address.
        url: Box<str>,
    },
    /// What it said about ranges does not fit.
    #[error("{url} sent another range than was asked for, or less than it announced")]
    Range {
        /// The address.
        url: Box<str>,
    },
}

/// What to do about a certificate of an authority that nobody told of.
fn distrusted(error: &(dyn std::error::Error + 'static)) -> &'static str {
    let unknown = std::iter::successors(Some(error), |error| error.source())
        .any(|cause| cause.to_string().contains("UnknownIssuer"));
    if unknown { "; give the authority of its certificate in `fetch.caFile`" } else { "" }
}

fn advice(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 | 403 => "; check `headers` or the URL's user info",
        404 | 410 => "; check the URL and the version",
        407 => "; check the proxy variables of the environment",
        _ => "",
    }
}

impl HttpError {
    /// That no address of the archive gives it.
    pub(in crate::acquire) fn of_none(addresses: usize) -> String {
        match addresses {
            1 => "the archive cannot be fetched".to_owned(),
            _ => format!("none of the {addresses} addresses of the archive gives it"),
        }
    }

    /// What addresses besides the one blamed said, as the end of a sentence.
    pub(in crate::acquire) fn list(others: &[HttpError]) -> String {
        let said: Vec<String> = others.iter().map(ToString::to_string).collect();
        if said.is_empty() { String::new() } else { format!(" (others: {})", said.join("; ")) }
    }

    /// The network or the origin may do better later.
    pub fn is_transient(&self) -> bool {
        match self {
            HttpError::Network { .. }
            | HttpError::Silent { .. }
            | HttpError::Stalled { .. }
            | HttpError::Client(_)
            | HttpError::Changed { .. }
            | HttpError::Range { .. } => true,
            HttpError::Status { status, .. } => status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429),
            HttpError::HeaderFile { .. }
            | HttpError::Header { .. }
            | HttpError::RedirectLoop { .. }
            | HttpError::Redirect { .. }
            | HttpError::RedirectLong { .. }
            | HttpError::NotGlobal { .. }
            | HttpError::TooLarge { .. }
            | HttpError::Encoded { .. } => false,
        }
    }

    /// The origin took too long.
    pub(in crate::acquire) fn is_slow(&self) -> bool {
        matches!(self, HttpError::Silent { .. } | HttpError::Stalled { .. })
    }

    /// When the origin wants to be asked again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            HttpError::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
