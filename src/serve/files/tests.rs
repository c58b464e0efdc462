//! What is read of a version, asked as a client asks.
#![allow(clippy::unwrap_used)]
use axum::http::Method;

use super::super::fixture::{ARCHIVE, ARTIFACT, Fixture};
use super::download_name;
use crate::fs::RelPath;
use crate::intent::Digest;

fn big(fixture: &Fixture) -> Vec<u8> {
    fixture.content(&RelPath::parse("dir/big").unwrap())
}

#[tokio::test]
async fn a_file_comes_whole_with_its_validators() {
    let fixture = Fixture::new();
    let answer = fixture.get("/files/dir/big", &[]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.bytes(), big(&fixture));
    let digest = Digest::sha256(&big(&fixture));
    for (name, value) in [
        ("etag", format!("\"{digest}\"").as_str()),
        ("content-length", "700001"),
        ("content-type", "application/octet-stream"),
        ("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT"),
        ("accept-ranges", "bytes"),
        ("seedcache-version", "v1"),
        ("x-content-type-options", "nosniff"),
        ("cache-control", ""),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    assert_eq!(fixture.get("/files/hello.txt", &[]).await.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(fixture.get("/files/page.html", &[]).await.header("content-type"), "application/octet-stream");
    assert_eq!(fixture.get("/files/empty", &[]).await.bytes(), b"");
}

#[tokio::test]
async fn parts_of_a_file() {
    let fixture = Fixture::new();
    let bytes = big(&fixture);
    for (range, part, content_range) in [
        ("bytes=0-0", &bytes[..1], "bytes 0-0/700001"),
        ("bytes=131000-400000", &bytes[131_000..400_001], "bytes 131000-400000/700001"),
        ("bytes=700000-", &bytes[700_000..], "bytes 700000-700000/700001"),
        ("bytes=-5", &bytes[699_996..], "bytes 699996-700000/700001"),
    ] {
        let answer = fixture.get("/files/dir/big", &[("range", range)]).await;
        assert_eq!((answer.status, answer.header("content-range")), (206, content_range));
        assert_eq!(answer.bytes(), part);
        assert_eq!(answer.header("content-length"), part.len().to_string());
    }
    let past = fixture.get("/files/dir/big", &[("range", "bytes=700001-")]).await;
    assert_eq!((past.status, past.header("content-range")), (416, "bytes */700001"));
    assert_eq!(past.header("content-type"), "application/problem+json");
    let several = fixture.get("/files/dir/big", &[("range", "bytes=0-1,5-6")]).await;
    assert_eq!((several.status, several.bytes().len()), (200, bytes.len()));
    let stale = fixture.get("/files/dir/big", &[("range", "bytes=0-1"), ("if-range", "\"other\"")]).await;
    assert_eq!((stale.status, stale.bytes().len()), (200, bytes.len()));
}

#[tokio::test]
async fn conditions_and_head() {
    let fixture = Fixture::new();
    let whole = fixture.get("/files/hello.txt", &[]).await;
    let etag = whole.header("etag");
    let same = fixture.get("/files/hello.txt", &[("if-none-match", etag)]).await;
    assert_eq!((same.status, same.bytes(), same.header("etag")), (304, &b""[..], etag));
    assert_eq!(fixture.get("/files/hello.txt", &[("if-match", "\"x\"")]).await.status, 412);
    let date = whole.header("last-modified");
    assert_eq!(fixture.get("/files/hello.txt", &[("if-modified-since", date)]).await.status, 304);
    let uri = format!("/v1/artifacts/{ARTIFACT}/versions/current/files/hello.txt");
    let moving = fixture.ask(Method::GET, &uri, &[("if-modified-since", date)]).await;
    assert_eq!(moving.status, 200, "a date says nothing where the version moves");
    assert_eq!((moving.header("cache-control"), moving.header("seedcache-version")), ("no-cache", "v1"));
    assert_eq!(fixture.ask(Method::GET, &uri, &[("if-none-match", etag)]).await.status, 304);
    for (what, length) in [("files/hello.txt", 13), ("files/dir/big", 700_001), ("archive", ARCHIVE.len())] {
        let uri = format!("/v1/artifacts/{ARTIFACT}/versions/v1/{what}");
        let head = fixture.ask(Method::HEAD, &uri, &[]).await;
        assert_eq!((head.status, head.bytes()), (200, &b""[..]), "{what}");
        assert_eq!(head.header("content-length"), length.to_string(), "{what}");
    }
}

#[tokio::test]
async fn names_that_are_no_utf8_links_and_hard_links() {
    let fixture = Fixture::new();
    assert_eq!(fixture.get("/files/dir/%ff%fe", &[]).await.bytes(), b"no utf-8");
    assert_eq!(fixture.get("/files/link", &[]).await.bytes(), big(&fixture));
    assert_eq!(fixture.get("/files/dirlink/block", &[]).await.bytes(), [7; 1024]);
    let hard = fixture.get("/files/zhard", &[]).await;
    let digest = Digest::sha256(b"far down");
    assert_eq!((hard.bytes(), hard.header("etag")), (&b"far down"[..], format!("\"{digest}\"").as_str()));
}

#[tokio::test]
async fn directories_list_as_json() {
    let fixture = Fixture::new();
    let names = |answer: super::super::fixture::Answered| -> Vec<String> {
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
        answer.json()["entries"].as_array().unwrap().iter().map(|entry| entry["name"].to_string()).collect()
    };
    let in_dir = ["\"big\"", "\"block\"", "\"void\"", "{\"base64\":\"//4=\"}"];
    for uri in ["/files/dir", "/files/dir/", "/files/dirlink/"] {
        assert_eq!(names(fixture.get(uri, &[]).await), in_dir, "{uri}");
    }
    let top = names(fixture.get("/files/", &[]).await);
    assert_eq!(top, names(fixture.get("/files", &[]).await));
    assert!(top.contains(&"\"hello.txt\"".into()) && !top.contains(&"\"big\"".into()));
    let entry = fixture.get("/files/dir", &[]).await.json()["entries"][0].clone();
    assert_eq!((&entry["type"], &entry["size"]), (&"file".into(), &700_001.into()));
    assert_eq!(names(fixture.get("/files/dir/void/", &[]).await), Vec::<String>::new());
}

#[tokio::test]
async fn a_directory_has_the_validators_of_its_listing() {
    let fixture = Fixture::new();
    for what in ["/files/", "/files/dir", "/files/dir/void/"] {
        let whole = fixture.get(what, &[]).await;
        assert_eq!(whole.header("content-length"), whole.bytes().len().to_string(), "{what}");
        assert_eq!(whole.header("accept-ranges"), "none");
        let etag = whole.header("etag");
        let uri = format!("/v1/artifacts/{ARTIFACT}/versions/v1{what}");
        let head = fixture.ask(Method::HEAD, &uri, &[]).await;
        assert_eq!((head.status, head.bytes()), (200, &b""[..]), "{what}");
        for name in ["content-length", "content-type", "etag", "last-modified", "seedcache-version"] {
            assert_eq!(head.header(name), whole.header(name), "{name} of {what}");
        }
        let same = fixture.get(what, &[("if-none-match", etag)]).await;
        assert_eq!((same.status, same.bytes(), same.header("etag")), (304, &b""[..], etag), "{what}");
        assert_eq!(fixture.get(what, &[("if-match", "\"x\"")]).await.status, 412, "{what}");
        let part = fixture.get(what, &[("range", "bytes=0-1")]).await;
        assert_eq!((part.status, part.bytes()), (200, whole.bytes()), "{what}");
    }
}

#[tokio::test]
async fn what_is_not_there_or_leads_out() {
    let fixture = Fixture::new();
    for (what, status) in [
        ("/files/nothing", 404),
        ("/files/hello.txt/", 404),
        ("/files/hello.txt/x", 404),
        ("/files/../../manifest.json", 400),
        ("/files/%2e%2e/manifest.json", 400),
        ("/files//etc/passwd", 400),
        ("/files/a%2f..%2fb", 400),
        ("/nothing", 404),
    ] {
        let answer = fixture.get(what, &[]).await;
        assert_eq!((answer.status, answer.header("content-type")), (status, "application/problem+json"), "{what}");
        let problem = answer.json();
        assert_eq!(problem["status"], status);
        assert!(problem["type"].as_str().unwrap().starts_with("urn:"));
        for member in ["title", "detail", "next", "requestId"] {
            assert!(!problem[member].as_str().unwrap().is_empty(), "{member} of {what}");
        }
    }
    for uri in ["/v1/artifacts/none/versions/current", "/v1/artifacts/thing/versions/v2", "/v1/artifacts/A/versions/v1"]
    {
        assert_eq!(fixture.ask(Method::GET, uri, &[]).await.status, 404, "{uri}");
    }
    let wrong = fixture.ask(Method::DELETE, "/v1/artifacts/thing/versions/v1", &[]).await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, "GET,HEAD"));
    assert_eq!(wrong.json()["status"], 405);
}

#[tokio::test]
async fn a_changed_file_is_not_served_and_tells_no_host_path() {
    let fixture = Fixture::new();
    fixture.damage("hello.txt");
    let answer = fixture.get("/files/hello.txt", &[]).await;
    assert_eq!(answer.status, 500);
    let problem = answer.json();
    assert!(problem["next"].as_str().unwrap().contains("/wait?version=v1 of thing"), "{problem}");
    let root = fixture.store.root().path().display().to_string();
    assert!(!problem.to_string().contains(&root), "{problem}");
}

#[tokio::test]
async fn the_manifest_as_it_stands_on_disk() {
    let fixture = Fixture::new();
    let (version, _) = fixture.opened();
    let mut on_disk = Vec::new();
    std::io::Read::read_to_end(&mut version.manifest_file().unwrap(), &mut on_disk).unwrap();
    let answer = fixture.get("", &[]).await;
    assert_eq!(answer.bytes(), on_disk);
    let current = fixture.ask(Method::GET, "/v1/artifacts/thing/versions/current", &[]).await;
    assert_eq!((current.bytes(), current.header("etag")), (&on_disk[..], answer.header("etag")));
    let again = fixture.get("", &[("if-none-match", answer.header("etag"))]).await;
    assert_eq!(again.status, 304);
}

#[tokio::test]
async fn a_manifest_written_anew_has_another_etag() {
    let (fixture, anew) = (Fixture::new(), Fixture::with_archive(false));
    let trees = [&fixture, &anew].map(|fixture| fixture.opened().0.head().tree_digest.clone());
    assert_eq!(trees[0], trees[1], "the same tree");
    for what in ["", "/files/", "/files/dir"] {
        let etag = fixture.get(what, &[]).await.header("etag").to_owned();
        let other = anew.get(what, &[("if-none-match", &etag)]).await;
        assert_eq!(other.status, 200, "{what}");
        assert_ne!(other.header("etag"), etag, "{what}");
    }
    let etag = fixture.get("/tree.tar", &[]).await.header("etag").to_owned();
    assert_eq!(anew.get("/tree.tar", &[("if-none-match", &etag)]).await.status, 304);
}

#[tokio::test]
async fn the_tree_as_a_stream() {
    let fixture = Fixture::new();
    let answer = fixture.get("/tree.tar", &[("range", "bytes=0-1")]).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/x-tar"));
    assert_eq!(answer.header("content-length"), answer.bytes().len().to_string());
    assert_eq!(answer.header("accept-ranges"), "none");
    assert_eq!(answer.header("content-disposition"), "attachment; filename=\"thing-v1.tar\"");
    let mut archive = tar::Archive::new(answer.bytes());
    let entries = archive.entries().unwrap().map(|entry| entry.unwrap().path_bytes().into_owned());
    let expected = fixture.opened().1;
    assert_eq!(entries.count(), expected.entries.len());
    let etag = answer.header("etag");
    assert_ne!(etag, fixture.get("", &[]).await.header("etag"));
    assert_eq!(fixture.get("/tree.tar", &[("if-none-match", etag)]).await.status, 304);
    fixture.damage("hello.txt");
    assert!(fixture.get("/tree.tar", &[]).await.body.is_err(), "it does not end as if it were whole");
}

#[tokio::test]
async fn the_archive_when_kept() {
    let fixture = Fixture::new();
    let answer = fixture.get("/archive", &[("range", "bytes=4-")]).await;
    assert_eq!((answer.status, answer.bytes()), (206, &ARCHIVE[4..]));
    assert_eq!(answer.header("etag"), format!("\"{}\"", Digest::sha256(ARCHIVE)));
    assert_eq!(answer.header("content-disposition"), "attachment; filename=\"thing.tgz\"");
    let without = Fixture::with_archive(false).get("/archive", &[]).await;
    assert_eq!(without.status, 404);
    assert!(without.json()["next"].as_str().unwrap().contains("keepArchive"));
}

#[test]
fn download_names_are_harmless() {
    for (url, name) in [
        ("https://o.invalid/a/platform-1.tgz", "platform-1.tgz"),
        ("https://o.invalid/a/x%22\r\n.tgz?sig=1#f", "x22.tgz"),
        ("file:///srv/a.tar", "a.tar"),
        ("https://o.invalid/", "archive"),
        ("", "archive"),
    ] {
        assert_eq!(download_name(url), name, "{url}");
    }
}
