//! Redirects, credentials and authorities over real sockets.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::acquire::source::client::Roots;
use crate::acquire::source::origin::{Origin, Reply};
use crate::intent::{Bytes, Interval};

/// A TLS end for 127.0.0.1, and a PEM file of the authority behind it.
fn authority() -> (tokio_rustls::TlsAcceptor, tempfile::NamedTempFile) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, made.cert.pem()).unwrap();
    (Arc::new(config).into(), file)
}

fn trusting(file: &tempfile::NamedTempFile) -> FetchSettings {
    FetchSettings { ca_file: Some(file.path().into()), ..Default::default() }
}

async fn get(client: &HttpClient, url: &str) -> Result<Vec<u8>, HttpError> {
    match client.small(&url.parse().unwrap(), &Credentials::default(), 1000, &HeaderMap::new()).await? {
        Small::Whole { bytes, .. } => Ok(bytes),
        Small::Unchanged => panic!("that was not asked"),
    }
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_and_no_other() {
    let (acceptor, file) = authority();
    let origin = Origin::start_tls(acceptor, |_, _| Reply::new(200, b"over tls")).await;
    let client = HttpClient::new(&trusting(&file)).unwrap();
    assert_eq!(get(&client, &origin.url("/x")).await.unwrap(), b"over tls");
    let stranger = HttpClient::new(&FetchSettings::default()).unwrap();
    let error = get(&stranger, &origin.url("/x")).await.unwrap_err();
    assert!(matches!(error, HttpError::Network { .. }) && error.to_string().contains("`fetch.caFile`"), "{error}");
}

#[tokio::test]
async fn https_never_leads_to_http() {
    let plain = Origin::start(|_, _| Reply::new(200, b"plain")).await;
    let (acceptor, file) = authority();
    let target = plain.url("/x?sig=secret");
    let origin = Origin::start_tls(acceptor, move |_, _| Reply::new(301, b"").with("Location", &target)).await;
    let client = HttpClient::new(&trusting(&file)).unwrap();
    let error = get(&client, &origin.url("/x")).await.unwrap_err();
    assert!(matches!(error, HttpError::Redirect { .. }) && !error.to_string().contains("secret"), "{error}");
    assert!(plain.asked().is_empty());
}

#[tokio::test]
async fn without_any_authority_plain_http_still_works() {
    let origin = Origin::start(|_, _| Reply::new(200, b"plain")).await;
    let floor = Floor { bytes_per_second: 1, window: Duration::from_secs(30) };
    let clients = Arc::new(Clients::with(Vec::new(), Roots::None).unwrap());
    let client = HttpClient { clients, floor };
    assert_eq!(get(&client, &origin.url("/x")).await.unwrap(), b"plain");
}

#[test]
fn a_file_without_sound_certificates_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(matches!(HttpClient::new(&trusting(&file)), Err(ClientError::CaEmpty { .. })));
    std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    assert!(matches!(HttpClient::new(&trusting(&file)), Err(ClientError::CaMalformed { .. })));
    let missing = FetchSettings { ca_file: Some("/nonexistent/ca.pem".into()), ..Default::default() };
    assert!(matches!(HttpClient::new(&missing), Err(ClientError::CaRead(_))));
}

#[tokio::test]
async fn silence_and_trickles_have_an_end() {
    let settings = FetchSettings {
        stall_timeout: Interval(Duration::from_millis(100)),
        min_throughput: Bytes(1 << 30),
        ..Default::default()
    };
    let client = HttpClient::new(&settings).unwrap();
    use crate::acquire::source::origin::Ending;
    let origin = Origin::start(|_, asked| match asked.target.as_str() {
        "/trickle" => Reply::new(200, b"some bytes").cut(5, Ending::Stall),
        _ => Reply::mute(),
    })
    .await;
    assert!(matches!(get(&client, &origin.url("/trickle")).await, Err(HttpError::Stalled { .. })));
    assert!(matches!(get(&client, &origin.url("/mute")).await, Err(HttpError::Silent { .. })));
}

#[tokio::test]
async fn headers_belong_to_the_origin_that_the_version_has() {
    let source = serde_json::json!({ "url": "https://{version}.h/x/{version}.tgz", "headers": { "X-Token": "t" } });
    let source: HttpSource = serde_json::from_value(source).unwrap();
    let version = "v1".parse().unwrap();
    let credentials = Credentials::read(&source, Some(&version)).await.unwrap();
    let has = |url: &str| credentials.headers_for(&url.parse().unwrap()).contains_key("x-token");
    assert!(has("https://v1.h/any") && !has("https://v2.h/x/v1.tgz") && !has("http://v1.h/any"));
}

#[test]
fn any_line_may_say_that_the_bytes_are_encoded() {
    let told = |lines: &[&[u8]]| {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CONTENT_ENCODING, reqwest::header::HeaderValue::from_bytes(line).unwrap());
        }
        content_encoding(&headers).map(str::to_owned)
    };
    assert_eq!(told(&[]), None);
    assert_eq!(told(&[b"identity", b"", b"Identity"]), None);
    assert_eq!(told(&[b"identity", b"gzip"]).as_deref(), Some("gzip"));
    assert_eq!(told(&[b"\xff"]).as_deref(), Some("(no text)"));
}
