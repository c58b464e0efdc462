//! Sources asked over real sockets and files.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::acquire::source::origin::{Asked, Origin, Reply};
use crate::intent::FetchSettings;

fn artifact(spec: serde_json::Value) -> Artifact {
    Artifact {
        name: "a".parse().unwrap(),
        spec: serde_json::from_value(spec).unwrap(),
        generation: Digest::sha256(b""),
        file: "a.yaml".into(),
    }
}

async fn ask(artifact: &Artifact, wish: &VersionWish) -> Result<Resolution, ResolveError> {
    ask_knowing(&Known::default(), artifact, wish).await
}

async fn ask_knowing(known: &Known, artifact: &Artifact, wish: &VersionWish) -> Result<Resolution, ResolveError> {
    let http = HttpClient::new(&FetchSettings::default()).unwrap();
    let base = Duration::from_millis(1);
    resolve(&http, known, Rules { base, ..Rules::new(1) }, artifact, wish).await
}

fn exact(version: &str) -> VersionWish {
    VersionWish::Exact(version.parse().unwrap())
}

const STAMP: &str = "20260101T000000Z";
const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// An origin laid out as SmartOS's is.
async fn smartos() -> Origin {
    Origin::start(|_, asked| match asked.target.as_str() {
        "/latest" => Reply::new(200, format!("/Joyent_Dev/public/SmartOS/{STAMP}\n").as_bytes()),
        "/20260101T000000Z/sha256sums.txt" => {
            Reply::new(200, format!("{HASH} platform-release-1-{STAMP}.tgz\n{HASH} smartos.iso\n").as_bytes())
        }
        _ => Reply::new(404, b"<html>"),
    })
    .await
}

fn smartos_spec(origin: &Origin) -> serde_json::Value {
    json!({ "source": { "http": {
        "latest": { "url": origin.url("/latest"), "pattern": r"(?<version>\d{8}T\d{6}Z(_u\d+)?)$" },
        "checksums": { "url": origin.url("/{version}/sha256sums.txt"), "file": "platform-*.tgz" },
        "url": origin.url("/{version}/{file}"),
        "mirrors": ["https://mirror/{version}/{file}"],
    } } })
}

#[tokio::test]
async fn a_pointer_and_sums_give_version_digest_and_addresses() {
    let origin = smartos().await;
    let spec = smartos_spec(&origin);
    for wish in [VersionWish::Latest, exact(STAMP)] {
        let found = ask(&artifact(spec.clone()), &wish).await.unwrap();
        assert_eq!(found.version().unwrap().as_str(), STAMP);
        assert_eq!(found.demanded, [HASH.parse().unwrap()]);
        let name = format!("platform-release-1-{STAMP}.tgz");
        assert_eq!(found.locations[0], Location::Http(origin.url(&format!("/{STAMP}/{name}")).parse().unwrap()));
        assert_eq!(found.locations[1], Location::Http(format!("https://mirror/{STAMP}/{name}").parse().unwrap()));
        assert_eq!(found.file_name, name);
        if wish == VersionWish::Latest {
            assert_eq!(found.resolved_from.pointer, Some(origin.url("/latest")));
            assert_eq!(found.resolved_from.text, Some(format!("/Joyent_Dev/public/SmartOS/{STAMP}")));
        }
    }
    let missing = ask(&artifact(spec), &exact("20250101T000000Z")).await.unwrap_err();
    assert!(!missing.is_transient() && matches!(missing, ResolveError::Http(HttpError::Status { .. })), "{missing}");
}

#[tokio::test]
async fn digests_of_document_and_sums_must_agree() {
    let origin = smartos().await;
    let mut spec = smartos_spec(&origin);
    spec["sha256"] = json!("f".repeat(64));
    let error = ask(&artifact(spec.clone()), &VersionWish::Latest).await.unwrap_err();
    assert!(matches!(error, ResolveError::Contradiction { .. }), "{error}");
    spec["sha256"] = json!(HASH);
    spec["sha512"] = json!("f".repeat(128));
    let found = ask(&artifact(spec), &VersionWish::Latest).await.unwrap();
    assert_eq!(found.demanded.len(), 2);
}

#[tokio::test]
async fn a_sums_file_alone_names_the_version() {
    let origin = Origin::start(|_, _| Reply::new(200, format!("{HASH}  tool-1.2.3.tgz\n").as_bytes())).await;
    let mut spec = json!({ "source": { "http": {
        "checksums": { "url": origin.url("/SHA256SUMS"), "file": "tool-*.tgz" },
        "url": origin.url("/{file}"),
    } } });
    let by_digest = ask(&artifact(spec.clone()), &VersionWish::Latest).await.unwrap();
    assert_eq!(by_digest.version().unwrap().as_str(), "sha256-0123456789ab");
    spec["source"]["http"]["latest"] = json!({ "pattern": r"tool-(.*)\.tgz" });
    let by_name = ask(&artifact(spec.clone()), &VersionWish::Latest).await.unwrap();
    assert_eq!(by_name.version().unwrap().as_str(), "1.2.3");
    assert_eq!(ask(&artifact(spec.clone()), &exact("1.2.3")).await.unwrap(), by_name);
    // It has one version; no other may get another's bytes.
    let gone = ask(&artifact(spec), &exact("1.2.2")).await.unwrap_err();
    assert!(matches!(gone, ResolveError::Gone { .. }), "{gone}");
}

#[tokio::test]
async fn validators_name_the_version_and_a_refused_head_is_asked_as_get() {
    for refused in [None, Some(405), Some(403)] {
        let origin = Origin::start(move |_, asked| match refused {
            Some(status) if asked.method == "HEAD" => Reply::new(status, b""),
            _ => Reply::new(200, b"archive").with("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
        })
        .await;
        let spec = json!({ "source": { "http": { "url": origin.url("/a.tgz?sig=x") } } });
        let found = ask(&artifact(spec), &VersionWish::Latest).await.unwrap();
        assert_eq!(found.version().unwrap().as_str(), "19941106T084937Z");
        assert_eq!(found.file_name, "a.tgz");
        assert_eq!(found.resolved_from.last_modified.as_deref(), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
        let methods: Vec<_> = origin.asked().into_iter().map(|asked| asked.method).collect();
        assert_eq!(methods, if refused.is_some() { vec!["HEAD", "GET"] } else { vec!["HEAD"] });
    }
}

#[tokio::test]
async fn without_validators_the_content_or_its_digest_is_the_name() {
    let origin = Origin::start(|_, _| Reply::new(200, b"archive")).await;
    let mut spec = json!({ "source": { "http": { "url": origin.url("/") } } });
    let found = ask(&artifact(spec.clone()), &VersionWish::Latest).await.unwrap();
    assert_eq!((found.naming, found.file_name.as_str()), (Naming::Content, "data"));
    spec["sha256"] = json!(HASH);
    let found = ask(&artifact(spec.clone()), &VersionWish::Latest).await.unwrap();
    assert_eq!(found.version().unwrap().as_str(), "sha256-0123456789ab");
    spec["source"]["http"]["latest"] = json!({ "from": "topDirectory", "pattern": "x" });
    let found = ask(&artifact(spec), &VersionWish::Latest).await.unwrap();
    assert_eq!(found.naming, Naming::TopDirectory { pattern: Some("x".into()) });
}

#[tokio::test]
async fn an_exact_version_needs_no_question() {
    let mut spec = json!({ "source": { "http": { "url": "https://h/x-{version}.tgz" } }, "version": "1.0" });
    let found = ask(&artifact(spec.clone()), &exact("1.0")).await.unwrap();
    assert_eq!(found.locations, [Location::Http("https://h/x-1.0.tgz".parse().unwrap())]);
    spec["source"]["http"]["url"] = json!("https://h/x.tgz");
    let found = ask(&artifact(spec.clone()), &exact("1.0")).await.unwrap();
    assert_eq!(found.version().unwrap().as_str(), "1.0");
    assert!(matches!(ask(&artifact(spec), &exact("2.0")).await, Err(ResolveError::Gone { .. })));
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused() {
    let refused = async |http: serde_json::Value| {
        let spec = json!({ "source": { "http": http } });
        ask(&artifact(spec), &VersionWish::Latest).await.unwrap_err()
    };
    let unfilled = refused(json!({ "url": "http://h/{version}" })).await;
    assert!(matches!(unfilled, ResolveError::Fill(_)), "{unfilled}");
    let other = refused(json!({ "url": "ftp://user:secret@h/x" })).await;
    assert!(matches!(other, ResolveError::Address { .. }) && !other.to_string().contains("secret"), "{other}");
    let pointer = refused(json!({ "url": "http://h/x", "latest": { "from": "pointer" } })).await;
    assert!(matches!(pointer, ResolveError::Incomplete { .. }), "{pointer}");
}

#[tokio::test]
async fn small_objects_are_small_plain_and_asked_for_again() {
    let script = |n: usize, asked: &Asked| match (asked.target.as_str(), n) {
        ("/big", _) => Reply::new(200, &vec![b'1'; 70_000]),
        ("/encoded", _) => Reply::new(200, b"1").with("Content-Encoding", "br"),
        ("/busy", 0) => Reply::new(503, b"").with("Retry-After", 0),
        ("/busy", _) => Reply::new(200, b"1.0\n"),
        ("/late", _) => Reply::new(503, b"").with("Retry-After", 600),
        _ => Reply::new(500, b""),
    };
    let asked = async |pointer: &str| {
        let origin = Origin::start(script).await;
        let latest = json!({ "url": origin.url(pointer) });
        let spec = json!({ "source": { "http": { "url": "http://h/{version}", "latest": latest } } });
        (ask(&artifact(spec), &VersionWish::Latest).await, origin.asked().len())
    };
    assert!(matches!(asked("/big").await.0, Err(ResolveError::Http(HttpError::TooLarge { .. }))));
    assert!(matches!(asked("/encoded").await.0, Err(ResolveError::Http(HttpError::Encoded { .. }))));
    let (found, times) = asked("/busy").await;
    assert_eq!((found.unwrap().version().unwrap().as_str(), times), ("1.0", 2));
    let (late, times) = asked("/late").await;
    assert_eq!((late.unwrap_err().retry_after(), times), (Some(Duration::from_secs(600)), 1));
    let (broken, times) = asked("/other").await;
    assert!(broken.unwrap_err().is_transient());
    assert_eq!(times, ATTEMPTS as usize);
}

#[tokio::test]
async fn files_are_asked_the_same_way() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("latest"), "1.0\n").unwrap();
    std::fs::write(path("a b-1.0.tgz"), "archive").unwrap();
    std::fs::write(path("sums-1.0"), format!("{HASH}  a b-1.0.tgz\n")).unwrap();
    let spec = json!({ "source": { "file": {
        "path": path("{file}"),
        "latest": { "path": path("latest") },
        "checksums": { "path": path("sums-{version}"), "file": "*-{version}.tgz" },
    } } });
    let found = ask(&artifact(spec), &VersionWish::Latest).await.unwrap();
    assert_eq!(found.version().unwrap().as_str(), "1.0");
    assert_eq!(found.locations, [Location::File(path("a b-1.0.tgz").into())]);
    assert_eq!((found.file_name.as_str(), found.demanded.len()), ("a b-1.0.tgz", 1));
    let plain = artifact(json!({ "source": { "file": { "path": path("a b-1.0.tgz") } } }));
    let first = ask(&plain, &VersionWish::Latest).await.unwrap();
    assert_eq!(ask(&plain, &VersionWish::Latest).await.unwrap(), first);
    std::fs::write(path("a b-1.0.tgz"), "longer archive").unwrap();
    assert_ne!(ask(&plain, &VersionWish::Latest).await.unwrap().version(), first.version());
    let gone = artifact(json!({ "source": { "file": { "path": path("none") } } }));
    assert!(matches!(ask(&gone, &VersionWish::Latest).await, Err(ResolveError::File(_))));
}

#[tokio::test]
async fn what_did_not_change_is_not_sent_again() {
    let origin = Origin::start(|at, asked| match asked.target.as_str() {
        // The pointer moves at the third question of all four.
        "/latest" if at < 4 && asked.header("if-none-match") == Some("\"p\"") => Reply::new(304, b""),
        "/latest" if at < 4 => Reply::new(200, b"v1").with("ETag", "\"p\""),
        "/latest" => Reply::new(200, b"v2").with("ETag", "\"q\""),
        sums if asked.header("if-modified-since").is_some() => Reply::new(304, sums.as_bytes()),
        _ => Reply::new(200, format!("{HASH}  a.tgz\n").as_bytes())
            .with("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            .with("Date", "Thu, 01 Jan 2026 01:00:00 GMT"),
    })
    .await;
    let artifact = artifact(json!({ "source": { "http": {
        "latest": { "url": origin.url("/latest") },
        "checksums": { "url": origin.url("/{version}/sums") },
        "url": origin.url("/{version}/a.tgz"),
    } } }));
    let known = Known::default();
    let first = ask_knowing(&known, &artifact, &VersionWish::Latest).await.unwrap();
    assert_eq!(ask_knowing(&known, &artifact, &VersionWish::Latest).await.unwrap(), first);
    let asked = origin.asked();
    assert_eq!(asked[2].header("if-none-match"), Some("\"p\""));
    assert_eq!(asked[3].header("if-modified-since"), Some("Thu, 01 Jan 2026 00:00:00 GMT"));
    let moved = ask_knowing(&known, &artifact, &VersionWish::Latest).await.unwrap();
    assert_eq!(moved.version().unwrap().as_str(), "v2");
}

#[tokio::test]
async fn validators_are_asked_for_conditionally_too() {
    let origin = Origin::start(|at, asked| match (at, asked.header("if-none-match")) {
        (0, None) => Reply::new(200, b"").with("ETag", "\"a\""),
        (1, Some("\"a\"")) => Reply::new(304, b""),
        _ => Reply::new(304, b"").with("X", "nothing was known, so this makes no sense"),
    })
    .await;
    let artifact = artifact(json!({ "source": { "http": { "url": origin.url("/a.tgz") } } }));
    let known = Known::default();
    let first = ask_knowing(&known, &artifact, &VersionWish::Latest).await.unwrap();
    assert_eq!(ask_knowing(&known, &artifact, &VersionWish::Latest).await.unwrap(), first);
    let senseless = ask(&artifact, &VersionWish::Latest).await.unwrap_err();
    assert!(matches!(senseless, ResolveError::Http(HttpError::Status { .. })), "{senseless:?}");
}
