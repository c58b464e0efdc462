//! The pipeline against an origin that cuts, lies and stalls.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use super::*;

mod ranges;

use crate::acquire::source::HttpError;
use crate::acquire::source::origin::{Asked, Ending, Origin, Reply};
use crate::acquire::unpack::UnpackError;
use crate::fs::{Dir, RelPath};
use crate::intent::{Bytes, FileSource, Interval, Unpack};

/// Keeps the bytes as one file. `BAD` at the start is refused at once, `FULL` finds the disk full.
fn keep_as_file(
    mut archive: super::super::pipeline::Intake,
    _: &Unpack,
    _: &str,
    tree: &Dir,
    _: Option<&crate::store::Donors>,
    _: &Progress,
    _: &std::sync::atomic::AtomicBool,
) -> Result<Unpacked, UnpackError> {
    let mut file = tree.create_file(&RelPath::parse("data").unwrap(), 0o644)?;
    let mut start = [0; 4];
    archive.read_exact(&mut start).map_err(|source| UnpackError::Read { source })?;
    match &start {
        b"BAD!" => return Err(UnpackError::Truncated { place: "at once".into() }),
        b"FULL" => {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(crate::fs::Error::new("write", Path::new("data"), full).into());
        }
        _ => {}
    }
    file.write_all(&start).unwrap();
    let bytes = std::io::copy(&mut archive, &mut file).map_err(|source| UnpackError::Read { source })?;
    Ok(Unpacked { entries: vec![], top_directory: Some("platform-20260101T000000Z".into()), bytes: bytes + 4 })
}

struct Bench {
    fetcher: Fetcher,
    staging: Staging,
    dir: tempfile::TempDir,
    progress: Arc<Progress>,
    cancel: CancellationToken,
}

impl Bench {
    fn new() -> Self {
        Self::with(FetchSettings::default())
    }

    fn with(settings: FetchSettings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = Duration::from_millis(1);
        let fetcher = Fetcher {
            known: Arc::default(),
            http: HttpClient::new(&settings).unwrap(),
            rules: Rules { base, cap: base, window: 6 << 18, ..Rules::new(u64::MAX) },
            ahead: Ahead::new(9 << 18),
            large: Arc::new(Semaphore::new(1)),
            sink: keep_as_file,
        };
        let staging = Staging::new(Dir::open(dir.path()).unwrap());
        Self { fetcher, staging, dir, progress: Arc::default(), cancel: CancellationToken::new() }
    }

    async fn acquire(&self, artifact: &Artifact, demanded: Vec<Digest>) -> Result<Acquired, AcquireError> {
        let resolution = resolution(artifact, demanded);
        self.fetcher.acquire(artifact, &resolution, &self.staging, &self.progress, &self.cancel).await
    }

    fn read(&self, path: &str) -> Option<Vec<u8>> {
        std::fs::read(self.dir.path().join(path)).ok()
    }

    /// Nothing is left in staging but these.
    fn leaves(&self, names: &[&str]) {
        let mut left: Vec<_> = std::fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, names);
    }
}

fn artifact(source: Source) -> Artifact {
    let spec = serde_json::json!({ "source": source, "version": "1", "unpack": { "limits": { "bytes": "16MiB" } } });
    Artifact {
        name: "a".parse().unwrap(),
        spec: serde_json::from_value(spec).unwrap(),
        generation: Digest::sha256(b""),
        file: "a.yaml".into(),
    }
}

fn http(urls: &[String]) -> Artifact {
    let source = serde_json::json!({ "url": urls[0], "mirrors": &urls[1..], "headers": { "X-Token": "t" } });
    artifact(Source::Http(serde_json::from_value(source).unwrap()))
}

/// Read by four connections at once.
fn shared(urls: &[String]) -> Artifact {
    let source = serde_json::json!({ "url": urls[0], "headers": { "X-Token": "t" }, "connections": 4 });
    artifact(Source::Http(serde_json::from_value(source).unwrap()))
}

fn resolution(artifact: &Artifact, demanded: Vec<Digest>) -> Resolution {
    let locations = match &artifact.source {
        Source::Http(source) => {
            let urls = std::iter::once(&source.url).chain(&source.mirrors);
            urls.map(|url| Location::Http(url.parse().unwrap())).collect()
        }
        Source::File(source) => vec![Location::File(source.path.clone().into())],
    };
    Resolution {
        naming: Naming::Known("1".parse().unwrap()),
        locations,
        demanded,
        resolved_from: ResolvedFrom::default(),
        file_name: "x".into(),
    }
}

/// More than all queues hold, so that every bound is met.
fn body() -> Vec<u8> {
    (0..6u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn served(body: &[u8]) -> impl Fn(usize, &Asked) -> Reply + use<> {
    let body = body.to_vec();
    move |_, asked| Reply::honest(asked, &body, "\"a\"")
}

#[tokio::test]
async fn bytes_are_written_hashed_and_unpacked_in_one_pass() {
    let (bench, body) = (Bench::new(), body());
    let origin = Origin::start(served(&body)).await;
    let demanded = vec![Digest::sha256(&body)];
    let acquired = bench.acquire(&http(&[origin.url("/x?sig=secret")]), demanded.clone()).await.unwrap();
    assert_eq!(acquired.digest, demanded[0]);
    assert_eq!((acquired.size, acquired.verified_by), (body.len() as u64, demanded));
    assert_eq!(acquired.source_url, origin.url("/x?sig=***"));
    assert_eq!(acquired.resolved_from.etag.as_deref(), Some("\"a\""));
    assert!(bench.read("version/tree/data").unwrap() == body);
    assert!(bench.read("archive.part").unwrap() == body);
    let snapshot = bench.progress.snapshot();
    assert_eq!((snapshot.bytes, snapshot.total_bytes), (body.len() as u64, Some(body.len() as u64)));
    let asked = origin.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("accept-encoding"), Some("identity"));
    assert!(asked[0].header("user-agent").unwrap().starts_with("seedcache/"));
}

#[tokio::test]
async fn a_cut_body_is_gone_on_with() {
    let (bench, body) = (Bench::new(), body());
    let half = body.len() / 2;
    let bytes = body.clone();
    let origin = Origin::start(move |n, asked| match n {
        0 => Reply::honest(asked, &bytes, "\"a\"").cut(half, Ending::Close),
        1 => Reply::new(503, b""),
        _ => Reply::honest(asked, &bytes, "\"a\""),
    })
    .await;
    let acquired = bench.acquire(&http(&[origin.url("/x")]), vec![]).await.unwrap();
    assert_eq!(acquired.digest, Digest::sha256(&body));
    assert!(bench.read("version/tree/data").unwrap() == body);
    let asked = origin.asked();
    assert_eq!(asked.len(), 3);
    let from = asked[2].from().unwrap();
    assert!(from > 0 && from <= half, "{from}");
    assert_eq!(asked[2].header("if-range"), Some("\"a\""));
}

#[tokio::test]
async fn a_stalled_body_is_given_up_and_gone_on_with() {
    let settings = FetchSettings { stall_timeout: Interval(Duration::from_millis(200)), ..Default::default() };
    let (bench, body) = (Bench::with(settings), body());
    let bytes = body.clone();
    let origin = Origin::start(move |n, asked| {
        let reply = Reply::honest(asked, &bytes, "\"a\"");
        match n {
            0 => reply.cut(3_000_000, Ending::Stall),
            1 => reply.cut(100_000, Ending::Stall),
            _ => reply,
        }
    })
    .await;
    let artifact = http(&[origin.url("/x")]);
    // What gave much is asked again, what gave little is given up: others are waiting.
    let error = bench.acquire(&artifact, vec![]).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    let acquired = bench.acquire(&artifact, vec![]).await.unwrap();
    assert_eq!(acquired.digest, Digest::sha256(&body));
    let starts: Vec<_> = origin.asked().iter().map(Asked::from).collect();
    assert_eq!(starts, [None, Some(3_000_000), Some(3_100_000)]);
}

#[tokio::test]
async fn a_mirror_takes_over_from_a_slow_address() {
    let settings = FetchSettings { stall_timeout: Interval(Duration::from_millis(200)), ..Default::default() };
    let (bench, body) = (Bench::with(settings), body());
    let slow = body.clone();
    let slow = Origin::start(move |_, asked| Reply::honest(asked, &slow, "\"a\"").cut(100_000, Ending::Stall)).await;
    let mirror = Origin::start(served(&body)).await;
    let urls = [slow.url("/x"), mirror.url("/x")];
    let acquired = bench.acquire(&http(&urls), vec![Digest::sha256(&body)]).await.unwrap();
    assert_eq!(acquired.digest, Digest::sha256(&body));
    assert_eq!((slow.asked().len(), mirror.asked()[0].from()), (1, Some(100_000)));
}

#[tokio::test]
async fn what_changed_or_ignores_ranges_is_read_anew() {
    let other = |body: &[u8]| body.iter().map(|b| !b).collect::<Vec<u8>>();
    for if_range_kept in [true, false] {
        let (bench, body) = (Bench::new(), body());
        let (old, new) = (body.clone(), other(&body));
        let origin = Origin::start(move |n, asked| match n {
            0 => Reply::honest(asked, &old, "\"a\"").cut(3_000_000, Ending::Close),
            // Either it says so, or it sends the rest of the new object under its new ETag.
            1 if !if_range_kept => {
                let from = asked.from().unwrap();
                let range = format!("bytes {from}-{}/{}", new.len() - 1, new.len());
                Reply::new(206, &new[from..]).with("Content-Range", range).with("ETag", "\"b\"")
            }
            _ => Reply::honest(asked, &new, "\"b\""),
        })
        .await;
        let acquired = bench.acquire(&http(&[origin.url("/x")]), vec![]).await.unwrap();
        assert_eq!(acquired.digest, Digest::sha256(&other(&body)));
        assert!(bench.read("version/tree/data").unwrap() == other(&body));
        assert!(bench.read("archive.part").unwrap() == other(&body));
        assert_eq!(acquired.resolved_from.etag.as_deref(), Some("\"b\""));
    }
}

#[tokio::test]
async fn a_range_that_starts_elsewhere_is_not_spliced() {
    let (bench, body) = (Bench::new(), body());
    let bytes = body.clone();
    let origin = Origin::start(move |n, asked| match n {
        0 => Reply::honest(asked, &bytes, "\"a\"").cut(3_000_000, Ending::Close),
        1 => {
            let from = asked.from().unwrap() + 1;
            let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            Reply::new(206, &bytes[from..]).with("Content-Range", range).with("ETag", "\"a\"")
        }
        _ => Reply::honest(asked, &bytes, "\"a\""),
    })
    .await;
    let acquired = bench.acquire(&http(&[origin.url("/x")]), vec![]).await.unwrap();
    assert_eq!(acquired.digest, Digest::sha256(&body));
    assert_eq!(origin.asked()[2].from(), None);
}

#[tokio::test]
async fn wrong_bytes_are_told_as_such_and_left_for_quarantine() {
    // Those that don't unpack either, too: the whole body is read to know.
    for start in ["good", "BAD!"] {
        let (bench, mut body) = (Bench::new(), body());
        body[..4].copy_from_slice(start.as_bytes());
        let origin = Origin::start(served(&body)).await;
        let expected = Digest::sha256(b"something else");
        let error = bench.acquire(&http(&[origin.url("/x")]), vec![expected.clone()]).await.unwrap_err();
        assert!(error.is_bad_content() && !error.is_transient() && !error.is_no_space(), "{error}");
        let AcquireError::Digest { expected: told, found, .. } = error else { panic!("{error}") };
        assert_eq!((told, found), (expected, Digest::sha256(&body)));
        bench.leaves(&["archive.part", "download.json"]);
        assert!(bench.read("archive.part").unwrap() == body);
        assert_eq!(origin.asked().len(), 1);
    }
}

#[tokio::test]
async fn the_right_bytes_of_a_refused_archive_are_told_as_that() {
    let (bench, mut body) = (Bench::new(), body());
    body[..4].copy_from_slice(b"BAD!");
    let origin = Origin::start(served(&body)).await;
    let artifact = http(&[origin.url("/x")]);
    for demanded in [vec![Digest::sha256(&body)], vec![]] {
        let error = bench.acquire(&artifact, demanded).await.unwrap_err();
        assert!(matches!(error, AcquireError::Unpack { .. }) && error.is_bad_content(), "{error}");
        assert!(bench.read("version/tree/data").is_none());
        bench.staging.discard_download().unwrap();
    }
}

#[tokio::test]
async fn a_full_disk_empties_staging() {
    let (bench, mut body) = (Bench::new(), body());
    body[..4].copy_from_slice(b"FULL");
    let origin = Origin::start(served(&body)).await;
    let error = bench.acquire(&http(&[origin.url("/x")]), vec![Digest::sha256(&body)]).await.unwrap_err();
    assert!(error.is_no_space() && !error.is_bad_content() && !error.is_transient(), "{error}");
    assert!(error.to_string().contains(bench.dir.path().to_str().unwrap()), "{error}");
    bench.leaves(&[]);
}

#[tokio::test]
async fn mirrors_are_asked_in_order_and_get_no_credentials() {
    let (bench, body) = (Bench::new(), body());
    let first = Origin::start(|_, _| Reply::new(404, b"")).await;
    let wrong = Origin::start(|_, _| Reply::new(200, b"good but other bytes")).await;
    let good = Origin::start(served(&body)).await;
    let artifact = http(&[first.url("/x"), wrong.url("/x"), good.url("/x")]);
    let acquired = bench.acquire(&artifact, vec![Digest::sha256(&body)]).await.unwrap();
    assert_eq!(acquired.source_url, good.url("/x"));
    assert!(bench.read("archive.part").unwrap() == body);
    assert_eq!(first.asked()[0].header("x-token"), Some("t"));
    assert_eq!((first.asked().len(), wrong.asked().len(), good.asked().len()), (1, 1, 1));
    assert_eq!((wrong.asked()[0].header("x-token"), good.asked()[0].header("x-token")), (None, None));
}

#[tokio::test]
async fn a_mirror_that_is_asked_alone_gets_no_credentials() {
    let body = body();
    let mirror = Origin::start(served(&body)).await;
    for declare in [http, shared] {
        let bench = Bench::new();
        let artifact = declare(&["http://nowhere.invalid/x".to_owned()]);
        // As a version is had again from where it came.
        let location = Location::Http(mirror.url("/x").parse().unwrap());
        let resolution = Resolution { locations: vec![location], ..resolution(&artifact, vec![Digest::sha256(&body)]) };
        let acquired = bench.fetcher.acquire(&artifact, &resolution, &bench.staging, &bench.progress, &bench.cancel);
        acquired.await.unwrap();
    }
    assert!(mirror.asked().len() > 2, "over several connections, too");
    assert!(mirror.asked().iter().all(|asked| asked.header("x-token").is_none()));
}

#[tokio::test]
async fn a_file_that_was_replaced_since_it_gave_its_name_is_not_taken_for_it() {
    let bench = Bench::new();
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&path, "first").unwrap();
    let source = FileSource { path: path.path().to_str().unwrap().into(), latest: None, checksums: None };
    let mut artifact = artifact(Source::File(source));
    artifact.spec.version = VersionWish::Latest;
    let latest = || bench.fetcher.resolve(&artifact, &VersionWish::Latest, &bench.cancel);
    let acquire = async |resolution: &Resolution| {
        bench.fetcher.acquire(&artifact, resolution, &bench.staging, &bench.progress, &bench.cancel).await
    };
    let before = latest().await.unwrap();
    assert_eq!(acquire(&before).await.unwrap().version, *before.version().unwrap());
    std::fs::write(&path, "the second").unwrap();
    let error = acquire(&before).await.unwrap_err();
    assert!(matches!(error, AcquireError::Changed { .. }) && error.is_transient(), "{error}");
    // Where a digest tells the bytes, it does so.
    let demanded = Resolution { demanded: vec![Digest::sha256(b"the second")], ..before };
    acquire(&demanded).await.unwrap();
    let after = latest().await.unwrap();
    assert_ne!(after.version(), demanded.version());
    acquire(&after).await.unwrap();
}

#[tokio::test]
async fn redirects_drop_credentials_between_origins() {
    let (bench, body) = (Bench::new(), body());
    let other = Origin::start(served(&body)).await;
    let target = other.url("/signed?sig=1");
    let origin = Origin::start(move |_, asked| match asked.target.as_str() {
        "/a" => Reply::new(302, b"").with("Location", "/b"),
        _ => Reply::new(307, b"").with("Location", &target),
    })
    .await;
    let with_user = origin.url("/a").replace("http://", "http://user:pa%20ss@");
    bench.acquire(&http(&[with_user]), vec![]).await.unwrap();
    for asked in origin.asked() {
        assert_eq!(asked.header("x-token"), Some("t"));
        assert_eq!(asked.header("authorization"), Some("Basic dXNlcjpwYSBzcw=="));
    }
    assert_eq!(origin.asked().len(), 2);
    assert_eq!((other.asked()[0].header("x-token"), other.asked()[0].header("authorization")), (None, None));
}

#[tokio::test]
async fn redirects_have_an_end_and_stay_with_http() {
    let bench = Bench::new();
    for (to, asked) in [("/again", 11), ("file:///etc/passwd", 1), ("ftp://h/x", 1)] {
        let origin = Origin::start(move |_, _| Reply::new(302, b"").with("Location", to)).await;
        let error = bench.acquire(&http(&[origin.url("/x")]), vec![]).await.unwrap_err();
        assert!(!error.is_transient(), "{error}");
        assert_eq!(origin.asked().len(), asked, "{to}");
        bench.leaves(&[]);
    }
}

#[tokio::test]
async fn an_origin_that_asks_for_patience_is_left_alone() {
    let bench = Bench::new();
    let origin = Origin::start(|_, _| Reply::new(429, b"").with("Retry-After", 3600)).await;
    let error = bench.acquire(&http(&[origin.url("/x")]), vec![]).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3600)));
    assert!(error.is_transient());
    assert_eq!(origin.asked().len(), 1);
}

#[tokio::test]
async fn a_dead_origin_is_given_up_after_some_tries() {
    let bench = Bench::new();
    let origin = Origin::start(|_, _| Reply::new(500, b"")).await;
    let error = bench.acquire(&http(&[origin.url("/x")]), vec![]).await.unwrap_err();
    assert!(error.is_transient() && !error.is_bad_content(), "{error}");
    assert_eq!(origin.asked().len(), 5);
}

#[tokio::test]
async fn a_limit_fails_and_never_truncates() {
    let bench = Bench::new();
    let body = vec![7; (16 << 20) + 1];
    for chunked in [false, true] {
        let bytes = body.clone();
        let reply = move |_: usize, _: &Asked| if chunked { Reply::bare(200, &bytes) } else { Reply::new(200, &bytes) };
        let origin = Origin::start(reply).await;
        let error = bench.acquire(&http(&[origin.url("/x")]), vec![]).await.unwrap_err();
        assert!(matches!(error, AcquireError::TooLarge { limit: 0x100_0000, .. }), "{error}");
        bench.leaves(&[]);
    }
}

#[tokio::test]
async fn a_cancelled_download_goes_on_after_a_restart() {
    for demanded in [true, false] {
        let body = body();
        let demanded = if demanded { vec![Digest::sha256(&body)] } else { vec![] };
        let bench = Bench::new();
        let bytes = body.clone();
        let origin = Origin::start(move |n, asked| {
            let reply = Reply::honest(asked, &bytes, "\"a\"");
            if n == 0 { reply.cut(4_000_000, Ending::Stall) } else { reply }
        })
        .await;
        let artifact = http(&[origin.url("/x")]);
        let stop = async {
            while bench.progress.snapshot().bytes < 3_000_000 {
                tokio::task::yield_now().await;
            }
            bench.cancel.cancel();
        };
        let (stopped, ()) = tokio::join!(bench.acquire(&artifact, demanded.clone()), stop);
        assert!(matches!(stopped, Err(AcquireError::Cancelled)));
        bench.leaves(&["archive.part", "download.json"]);
        let kept = bench.read("archive.part").unwrap().len();
        assert!((3_000_000..=4_000_000).contains(&kept), "{kept}");

        let restarted = Bench { staging: bench.staging.clone(), ..Bench::new() };
        let acquired = restarted.acquire(&artifact, demanded).await.unwrap();
        assert_eq!(acquired.digest, Digest::sha256(&body));
        assert!(bench.read("version/tree/data").unwrap() == body);
        assert!(bench.read("archive.part").unwrap() == body);
        assert_eq!(origin.asked()[1].from(), Some(kept));
    }
}

#[tokio::test]
async fn a_part_that_was_damaged_is_found_out_and_fetched_anew() {
    let (bench, body) = (Bench::new(), body());
    let origin = Origin::start(served(&body)).await;
    let artifact = http(&[origin.url("/x")]);
    let demanded = vec![Digest::sha256(&body)];
    bench.acquire(&artifact, demanded.clone()).await.unwrap();
    // Whole and sound: nothing is asked.
    bench.acquire(&artifact, demanded.clone()).await.unwrap();
    assert_eq!(origin.asked().len(), 1);
    std::fs::write(bench.dir.path().join("archive.part"), &body[1..2_000_000]).unwrap();
    let acquired = bench.acquire(&artifact, demanded.clone()).await.unwrap();
    assert_eq!(acquired.digest, demanded[0]);
    let asked: Vec<_> = origin.asked().iter().skip(1).map(Asked::from).collect();
    assert_eq!(asked, [Some(1_999_999), None]);
    // Of another version nothing is used.
    let mut other = resolution(&artifact, demanded);
    other.naming = Naming::Known("2".parse().unwrap());
    let (staging, progress) = (&bench.staging, &bench.progress);
    bench.fetcher.acquire(&artifact, &other, staging, progress, &bench.cancel).await.unwrap();
    assert_eq!(origin.asked().last().unwrap().from(), None);
}

#[tokio::test]
async fn encodings_are_never_undone_and_refused_where_nothing_tells() {
    let bench = Bench::new();
    let origin = Origin::start(|_, _| Reply::new(200, b"stored bytes").with("Content-Encoding", "gzip")).await;
    let mut artifact = http(&[origin.url("/x")]);
    bench.acquire(&artifact, vec![]).await.unwrap();
    assert_eq!(bench.read("version/tree/data").unwrap(), b"stored bytes");
    bench.staging.discard_download().unwrap();
    artifact.spec.unpack.format = crate::intent::UnpackFormat::None;
    let error = bench.acquire(&artifact, vec![]).await.unwrap_err();
    assert!(matches!(error, AcquireError::Unavailable { source: HttpError::Encoded { .. }, .. }), "{error}");
}

#[tokio::test]
async fn header_values_are_read_anew_for_each_request() {
    let (bench, body) = (Bench::new(), body());
    let token = bench.dir.path().join("token");
    std::fs::write(&token, "first\n").unwrap();
    let renewed = token.clone();
    let origin = Origin::start(move |n, asked| {
        std::fs::write(&renewed, "second\r\n").unwrap();
        if n == 0 { Reply::new(500, b"") } else { Reply::honest(asked, &body, "\"a\"") }
    })
    .await;
    let source = serde_json::json!({ "url": origin.url("/x"), "headers": { "X-Token": { "fromFile": token } } });
    let artifact = artifact(Source::Http(serde_json::from_value(source).unwrap()));
    bench.acquire(&artifact, vec![]).await.unwrap();
    let tokens: Vec<_> = origin.asked().iter().map(|asked| asked.header("x-token").map(str::to_owned)).collect();
    assert_eq!(tokens, [Some("first".into()), Some("second".into())]);
    std::fs::remove_file(&token).unwrap();
    let error = bench.acquire(&artifact, vec![Digest::sha256(b"")]).await.unwrap_err();
    assert!(matches!(error, AcquireError::Unavailable { source: HttpError::HeaderFile { .. }, .. }), "{error}");
}

#[tokio::test]
async fn a_file_is_read_once_and_copied_only_to_be_kept() {
    let (bench, body) = (Bench::new(), body());
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&path, &body).unwrap();
    let source = FileSource { path: path.path().to_str().unwrap().into(), latest: None, checksums: None };
    let mut artifact = artifact(Source::File(source));
    let acquired = bench.acquire(&artifact, vec![Digest::sha256(&body)]).await.unwrap();
    assert_eq!(acquired.source_url, format!("file://{}", path.path().display()));
    assert!(bench.read("version/tree/data").unwrap() == body);
    bench.leaves(&["version"]);
    artifact.spec.keep_archive = true;
    bench.acquire(&artifact, vec![]).await.unwrap();
    assert!(bench.read("archive.part").unwrap() == body);
    let wrong = bench.acquire(&artifact, vec![Digest::sha256(b"")]).await.unwrap_err();
    assert!(matches!(wrong, AcquireError::Digest { .. }));
    bench.leaves(&["archive.part"]);
    artifact.spec.unpack.limits.bytes = Bytes(100);
    assert!(matches!(bench.acquire(&artifact, vec![]).await, Err(AcquireError::TooLarge { .. })));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(bench.acquire(&artifact, vec![]).await, Err(AcquireError::Open(_))));
    bench.leaves(&[]);
}

#[tokio::test]
async fn versions_are_named_by_what_was_unpacked() {
    let (bench, body) = (Bench::new(), body());
    let origin = Origin::start(served(&body)).await;
    let artifact = http(&[origin.url("/x")]);
    let named = async |naming| {
        let resolution = Resolution { naming, ..resolution(&artifact, vec![]) };
        bench.fetcher.acquire(&artifact, &resolution, &bench.staging, &bench.progress, &bench.cancel).await
    };
    let by_content = named(Naming::Content).await.unwrap().version;
    assert_eq!(by_content.as_str(), format!("sha256-{}", Digest::sha256(&body).short(12)));
    let pattern = Some(r"\d+T\d+Z".to_owned());
    let by_top = named(Naming::TopDirectory { pattern }).await.unwrap().version;
    assert_eq!(by_top.as_str(), "20260101T000000Z");
    let unfit = named(Naming::TopDirectory { pattern: Some("none".into()) }).await;
    assert!(matches!(unfit, Err(AcquireError::Naming { .. })));
}

#[tokio::test]
async fn what_names_itself_is_recorded_with_the_validators_of_its_bytes() {
    let (bench, body) = (Bench::new(), body());
    let origin = Origin::start(served(&body)).await;
    let gone = Origin::start(|_, _| Reply::new(404, b"")).await;
    let acquire = async |urls: &[String], etag: &str| {
        let artifact = http(urls);
        let asked = ResolvedFrom { etag: Some(etag.into()), ..ResolvedFrom::default() };
        let naming = Naming::TopDirectory { pattern: None };
        let resolution = Resolution { naming, resolved_from: asked, ..resolution(&artifact, vec![]) };
        let (staging, progress) = (&bench.staging, &bench.progress);
        let acquired = bench.fetcher.acquire(&artifact, &resolution, staging, progress, &bench.cancel).await.unwrap();
        acquired.resolved_from.etag
    };
    // What is asked says `b`, and gives the bytes of `a` still.
    assert_eq!(acquire(&[origin.url("/x")], "\"b\"").await.as_deref(), Some("\"a\""));
    // All of it is here: judged without asking, unless the source says that it has something else.
    assert_eq!(acquire(&[origin.url("/x")], "\"a\"").await.as_deref(), Some("\"a\""));
    assert_eq!(origin.asked().len(), 1);
    assert_eq!(acquire(&[origin.url("/x")], "\"b\"").await.as_deref(), Some("\"a\""));
    assert_eq!(origin.asked().len(), 2);
    assert_eq!(acquire(&[gone.url("/x"), origin.url("/x")], "\"a\"").await, None);
}

/// A gzipped tar with one file of `size` bytes below one directory.
fn tarball(size: usize) -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    let content: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(size).collect();
    let mut header = tar::Header::new_gnu();
    header.set_size(size as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "platform-20260101T000000Z/unix", &content[..]).unwrap();
    tar.into_inner().unwrap().finish().unwrap()
}

#[tokio::test]
async fn an_archive_is_unpacked_while_it_downloads_over_cuts() {
    let bench = Bench { fetcher: Fetcher::new(&FetchSettings::default()).unwrap(), ..Bench::new() };
    let body = tarball(5 << 20);
    let bytes = body.clone();
    let origin = Origin::start(move |n, asked| {
        let reply = Reply::honest(asked, &bytes, "\"a\"");
        if n == 0 { reply.cut(2_000_000, Ending::Close) } else { reply }
    })
    .await;
    let mut artifact = http(&[origin.url("/x.tgz")]);
    artifact.spec.unpack.strip_components = 1;
    let naming = Naming::TopDirectory { pattern: Some(r"\d+T\d+Z".into()) };
    let resolution = Resolution { naming, ..resolution(&artifact, vec![]) };
    let (staging, progress) = (&bench.staging, &bench.progress);
    let acquired = bench.fetcher.acquire(&artifact, &resolution, staging, progress, &bench.cancel).await.unwrap();
    assert_eq!(acquired.version.as_str(), "20260101T000000Z");
    assert_eq!(acquired.digest, Digest::sha256(&body));
    let [entry] = &acquired.entries[..] else { panic!("{:?}", acquired.entries) };
    assert_eq!((entry.path.to_str(), entry.size), (Some("unix"), 5 << 20));
    let content = bench.read("version/tree/unix").unwrap();
    assert_eq!(entry.sha256.map(hex::encode), Some(Digest::sha256(&content).hex()));
    assert_eq!(bench.progress.snapshot().entries, 1);
    assert_eq!(origin.asked().len(), 2);
}

#[tokio::test]
async fn a_body_that_ends_early_without_saying_so_is_refused() {
    let bench = Bench { fetcher: Fetcher::new(&FetchSettings::default()).unwrap(), ..Bench::new() };
    let body = tarball(1 << 20);
    let half = body[..body.len() / 2].to_vec();
    let origin = Origin::start(move |_, _| Reply::bare(200, &half)).await;
    let error = bench.acquire(&http(&[origin.url("/x.tgz")]), vec![]).await.unwrap_err();
    assert!(matches!(error, AcquireError::Unpack { .. }) && error.is_bad_content(), "{error}");
    let error = bench.acquire(&http(&[origin.url("/x.tgz")]), vec![Digest::sha256(&body)]).await.unwrap_err();
    assert!(matches!(error, AcquireError::Digest { .. }), "{error}");
    bench.leaves(&["archive.part", "download.json"]);
}

impl Fetcher {
    /// One that takes no bytes, by a panic: as a defect in unpacking would be.
    pub(crate) fn that_panics() -> Self {
        Self { sink: |_, _, _, _, _, _, _| panic!("as told to"), ..Self::new(&FetchSettings::default()).unwrap() }
    }
}
