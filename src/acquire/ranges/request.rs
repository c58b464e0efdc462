//! One request for a range of an object.

use http::header::{IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method};
use reqwest::{Response, Url};

use super::plan::Ask;
use crate::acquire::source::http::{Credentials, HttpClient, content_encoding};
use crate::acquire::source::{HttpError, redacted};
use crate::intent::{HttpSource, VersionName};

/// Who is asked.
pub(in crate::acquire) struct Origin<'a> {
    pub http: HttpClient,
    pub source: &'a HttpSource,
    /// The version that is fetched, where it is known.
    pub version: Option<&'a VersionName>,
    /// The address that the body was asked for at.
    pub url: Url,
}

/// What all requests for ranges of one object have in common.
pub(super) struct Request<'a> {
    pub origin: Origin<'a>,
    /// Where redirects led the first one.
    pub at: Url,
    pub if_range: Option<String>,
    pub encoding: Option<String>,
}

impl Request<'_> {
    /// Asks for a range, with If-Range.
    pub(super) async fn send(&self, ask: Ask) -> Result<Response, HttpError> {
        let Origin { http, source, version, url } = &self.origin;
        // Read for each request, as ever.
        let credentials = Credentials::read(source, *version).await?;
        let text = format!("bytes={}-{}", ask.from, ask.to - 1);
        let range = HeaderValue::from_str(&text).unwrap_or_else(|e| unreachable!("digits: {e}"));
        tracing::debug!(url = redacted(url), range = text, "requesting");
        let mut headers = HeaderMap::from_iter([(RANGE, range)]);
        // It came in a header, so it fits into one.
        if let Some(validator) = self.if_range.as_deref().and_then(|text| HeaderValue::from_str(text).ok()) {
            headers.insert(IF_RANGE, validator);
        }
        let response = http.send_to(Method::GET, url, self.at.clone(), &credentials, &headers).await?;
        match content_encoding(response.headers()) {
            Some(encoding) if self.encoding.as_deref() != Some(encoding) && response.status().is_success() => {
                Err(HttpError::Encoded { url: redacted(url).into(), encoding: encoding.into() })
            }
            _ => Ok(response),
        }
    }
}
