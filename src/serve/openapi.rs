//! `GET /openapi.json`: what this API is, for programs.
//!
//! The document is written by hand but for its schemas, which are those of the types that the handlers read and write. It
//! is a file of the sources, so that it costs the binary its own bytes and no code; the tests hold it against the types and
//! against the router.

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;

const DOCUMENT: &str = include_str!("openapi.json");

pub(super) async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-cache")], DOCUMENT)
}

#[cfg(test)]
mod tests;
