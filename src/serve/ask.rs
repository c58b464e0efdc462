//! Bodies and queries that callers send, read within limits and refused with what is wrong in them.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::extract::rejection::QueryRejection;
use axum::http::header::{CONTENT_TYPE, ORIGIN};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::patience::Patience;
use super::problem::{Kind, Problem};
use crate::intent::{ArtifactName, Link, Swap, VersionName, VersionOrCurrent, error_chain};

const BODY_LIMIT: usize = 64 * 1024;
const BODY_TIME: Duration = Duration::from_secs(10);

/// The body of `POST …/seed`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct SeedBody {
    pub(super) target: String,
    #[serde(default)]
    pub(super) version: Option<VersionOrCurrent>,
    #[serde(default)]
    pub(super) link: Option<Link>,
    #[serde(default)]
    pub(super) swap: Option<Swap>,
    #[serde(default)]
    pub(super) force: bool,
    #[serde(default)]
    pub(super) wait: Option<Patience>,
}

/// The body of `POST …/verify`; none at all is all of its defaults.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct VerifyBody {
    pub(super) version: Option<VersionOrCurrent>,
    pub(super) repair: bool,
}

/// The query of `GET …/wait`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitQuery {
    #[serde(default)]
    pub(super) version: String,
    #[serde(default)]
    pub(super) timeout: String,
}

/// The body of `PUT …/pin`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PinBody {
    pub(super) version: VersionName,
}

/// The query of `POST …/refresh`, and of a pin's changes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RefreshQuery {
    pub(super) wait: Option<Patience>,
}

/// The body of what takes none: empty, or an object without fields.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NoBody {}

/// The query of `GET /v1/events`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// Only this one.
    pub(super) artifact: Option<ArtifactName>,
}

/// The version that a caller names; `current` and nothing at all are no name.
pub(super) fn named_version(given: &str) -> Result<Option<VersionName>, Problem> {
    match given {
        "" => Ok(None),
        asked => asked.parse::<VersionOrCurrent>().map(|asked| asked.name().cloned()).map_err(malformed),
    }
}

/// The wait that a caller names, else `default`.
pub(super) fn named_wait(given: &str, default: Duration) -> Result<Duration, Problem> {
    match given {
        "" => Ok(default),
        text => text.parse::<Patience>().map(|wait| wait.0).map_err(malformed),
    }
}

fn malformed(error: impl std::error::Error + 'static) -> Problem {
    Problem::new(Kind::Malformed, error_chain(&error), "mend what the detail names, then ask again")
}

/// Reads a JSON body, whatever media type it is said to have: `curl -d` and `wget --post-data` name that of forms.
pub(super) async fn json<T: DeserializeOwned>(request: Request) -> Result<T, Problem> {
    refuse_forms(&request)?;
    let bytes = bytes(request.into_body()).await?;
    serde_json::from_slice(&bytes).map_err(malformed)
}

/// Like [`json`], but an empty body stands for the default.
pub(super) async fn json_or_default<T: DeserializeOwned + Default>(request: Request) -> Result<T, Problem> {
    if http_body::Body::is_end_stream(request.body()) { Ok(T::default()) } else { json(request).await }
}

/// Browsers send an `Origin` with each change, and let a page send the media types of forms to anywhere unasked: from
/// them the one of JSON is demanded, which they send only where the page came from.
fn refuse_forms(request: &Request) -> Result<(), Problem> {
    if !request.headers().contains_key(ORIGIN) {
        return Ok(());
    }
    let value = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let detail = format!("the body has media type {essence:?}");
    Err(Problem::new(Kind::MediaType, detail, "send JSON with `Content-Type: application/json`"))
}

/// The bytes of a body. They are copied: each frame keeps all of the memory that it was read into.
async fn gather(mut body: Limited<Body>) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

async fn bytes(body: Body) -> Result<Vec<u8>, Problem> {
    let read = tokio::time::timeout(BODY_TIME, gather(Limited::new(body, BODY_LIMIT))).await;
    let read = read.map_err(|_| {
        let detail = format!("the body did not come within {} s", BODY_TIME.as_secs());
        Problem::new(Kind::TimedOut, detail, "send it at once")
    })?;
    read.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
        Some(_) => Problem::new(Kind::TooLarge, format!("the body has more than {BODY_LIMIT} bytes"), "send less"),
        None => Problem::new(Kind::Malformed, format!("the body cannot be read: {error}"), "send it again"),
    })
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(Kind::Malformed, error_chain(&rejection), "mend the query, then ask again")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::http::StatusCode;
    use axum::response::IntoResponse as _;

    fn request(media_type: &str, body: impl Into<Body>) -> Request {
        Request::builder().header(CONTENT_TYPE, media_type).body(body.into()).unwrap()
    }

    #[tokio::test]
    async fn a_seed_is_asked_for() {
        let body = r#"{"target":"/data","version":"v1","link":"hardlink","swap":"inPlace","force":true,"wait":"10m"}"#;
        let ask: SeedBody = json(request("application/json; charset=utf-8", body)).await.unwrap();
        assert_eq!((ask.target.as_str(), ask.link, ask.swap), ("/data", Some(Link::Hardlink), Some(Swap::InPlace)));
        assert_eq!(ask.wait.unwrap().0, Duration::from_secs(600));
        let least: SeedBody = json(request("application/json", r#"{"target":"x"}"#)).await.unwrap();
        assert!(least.version.is_none() && !least.force && least.wait.is_none());
        let current: SeedBody =
            json(request("application/json", r#"{"target":"x","version":"current"}"#)).await.unwrap();
        assert_eq!(current.version, Some(VersionOrCurrent::Current));
    }

    #[tokio::test]
    async fn a_pin_names_a_version() {
        for word in ["latest", "current"] {
            let body = format!(r#"{{"version":"{word}"}}"#);
            let problem = json::<PinBody>(request("application/json", body)).await.unwrap_err();
            let told = format!("{problem:?}");
            assert!(told.contains("to follow the newest, leave the version out: no `pin`"), "{told}");
            assert_eq!(problem.into_response().status(), StatusCode::BAD_REQUEST);
        }
    }

    #[tokio::test]
    async fn what_is_not_understood_is_refused() {
        let status = async |media_type, body: &str| {
            json::<SeedBody>(request(media_type, body.to_owned())).await.unwrap_err().into_response().status()
        };
        let json = "application/json";
        assert_eq!(status("text/plain", "target=x").await, StatusCode::BAD_REQUEST);
        assert_eq!(status(json, r#"{"target":"x","forse":true}"#).await, StatusCode::BAD_REQUEST);
        assert_eq!(status(json, "{}").await, StatusCode::BAD_REQUEST);
        assert_eq!(status(json, r#"{"target":"x","wait":"2h"}"#).await, StatusCode::BAD_REQUEST);
        let large = format!(r#"{{"target":"{}"}}"#, "x".repeat(BODY_LIMIT));
        assert_eq!(status(json, &large).await, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn only_browsers_must_name_the_media_type() {
        const FORM: &str = "application/x-www-form-urlencoded";
        let asked = async |media_type: Option<&str>, origin: Option<&str>| {
            let mut request = Request::builder();
            for (name, value) in [(CONTENT_TYPE, media_type), (ORIGIN, origin)] {
                request = value.into_iter().fold(request, |request, value| request.header(&name, value));
            }
            let request = request.body(Body::from(r#"{"target":"x"}"#)).unwrap();
            json::<SeedBody>(request).await.map(|ask| ask.target).map_err(|p| p.into_response().status())
        };
        let page = Some("http://127.0.0.1:7070");
        for media_type in [None, Some(FORM), Some("text/plain"), Some("application/json")] {
            assert_eq!(asked(media_type, None).await.as_deref(), Ok("x"), "{media_type:?}");
        }
        for origin in [page, Some("null")] {
            assert_eq!(asked(Some("application/json"), origin).await.as_deref(), Ok("x"));
            for media_type in [None, Some(FORM), Some("text/plain")] {
                let refused = asked(media_type, origin).await;
                assert_eq!(refused, Err(StatusCode::UNSUPPORTED_MEDIA_TYPE), "{media_type:?} from {origin:?}");
            }
        }
    }

    #[tokio::test]
    async fn an_empty_body_is_all_defaults() {
        let ask: VerifyBody = json_or_default(Request::new(Body::empty())).await.unwrap();
        assert!(ask.version.is_none() && !ask.repair);
        let ask: VerifyBody = json_or_default(request("application/json", r#"{"repair":true}"#)).await.unwrap();
        assert!(ask.repair);
    }

    #[test]
    fn empty_query_values_are_none() {
        assert_eq!(named_version("").unwrap(), None);
        assert_eq!(named_version("current").unwrap(), None);
        assert_eq!(named_version("v1").unwrap().unwrap().as_str(), "v1");
        assert!(named_version("../x").is_err() && named_version("latest").is_err());
        assert_eq!(named_wait("", Duration::from_secs(60)).unwrap(), Duration::from_secs(60));
        assert_eq!(named_wait("30s", Duration::ZERO).unwrap(), Duration::from_secs(30));
        assert!(named_wait("2h", Duration::ZERO).is_err());
    }
}
