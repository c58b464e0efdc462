//! The status page: one document with all it needs in it. Its policy lets the browser run exactly this script and ask
//! exactly this daemon.

use std::sync::LazyLock;

use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use axum::response::IntoResponse;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use sha2::{Digest as _, Sha256};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

static PAGE: LazyLock<String> =
    LazyLock::new(|| include_str!("page.html").replace("/*STYLE*/", STYLE).replace("/*SCRIPT*/", SCRIPT));

static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| BASE64_STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
});

pub(super) async fn page() -> impl IntoResponse {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY.as_str()),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, PAGE.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_holds_what_its_policy_names_and_nothing_from_elsewhere() {
        for (open, text, close) in [("<style>", STYLE, "</style>"), ("<script>", SCRIPT, "</script>")] {
            assert!(PAGE.contains(&format!("{open}{text}{close}")));
            assert_eq!(PAGE.matches(open).count(), 1);
            assert!(POLICY.contains(&BASE64_STANDARD.encode(Sha256::digest(text))));
        }
        assert!(!PAGE.contains("http:") && !PAGE.contains("https:") && !PAGE.contains("innerHTML"));
        assert!(!POLICY.contains("unsafe"));
    }
}
