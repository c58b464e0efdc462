//! One download over four connections: the bytes are those of one, whatever the origin does.

use super::*;

/// Bytes of one range: see [`Bench`] and the plan.
const RANGE: usize = 256 << 10;

/// Fetches `body` from an origin that answers so; gives what was asked.
async fn fetched(
    bench: &Bench,
    body: &[u8],
    demanded: bool,
    script: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static,
) -> Vec<Asked> {
    let origin = Origin::start(script).await;
    let demanded = if demanded { vec![Digest::sha256(body)] } else { vec![] };
    let acquired = bench.acquire(&shared(&[origin.url("/x")]), demanded).await.unwrap();
    assert_eq!((acquired.digest, acquired.size), (Digest::sha256(body), body.len() as u64));
    assert!(bench.read("version/tree/data").unwrap() == body);
    assert!(bench.read("archive.part").unwrap() == body);
    let snapshot = bench.progress.snapshot();
    assert_eq!((snapshot.bytes, snapshot.total_bytes), (body.len() as u64, Some(body.len() as u64)));
    assert_eq!(bench.fetcher.ahead.left(), 9 << 18, "room ahead is given back");
    origin.asked()
}

fn ranged(asked: &[Asked]) -> Vec<&Asked> {
    asked.iter().filter(|asked| asked.last().is_some()).collect()
}

#[tokio::test]
async fn ranges_are_asked_for_at_once_and_joined_in_order() {
    let (bench, body) = (Bench::new(), body());
    let asked = fetched(&bench, &body, false, served(&body)).await;
    assert_eq!(asked[0].from(), None);
    assert!(ranged(&asked).len() > 4, "{}", asked.len());
    let mut spans = std::collections::BTreeSet::new();
    for asked in ranged(&asked) {
        assert!(spans.insert(asked.from()), "{asked:?} twice");
        assert!(asked.last().unwrap() - asked.from().unwrap() < RANGE);
        assert_eq!((asked.header("if-range"), asked.header("x-token")), (Some("\"a\""), Some("t")));
        assert_eq!(asked.header("accept-encoding"), Some("identity"));
    }
}

#[tokio::test]
async fn without_a_strong_validator_or_ranges_there_is_one_connection() {
    for weak in [true, false] {
        let (bench, body) = (Bench::new(), body());
        let bytes = body.clone();
        let asked = fetched(&bench, &body, true, move |_, asked| match weak {
            true => Reply::honest(asked, &bytes, "W/\"a\""),
            false => Reply::new(200, &bytes).with("ETag", "\"a\""),
        })
        .await;
        assert_eq!(asked.len(), 1);
    }
}

#[tokio::test]
async fn connections_that_are_cut_cost_the_rest_of_their_range() {
    let (bench, body) = (Bench::new(), body());
    let bytes = body.clone();
    let asked = fetched(&bench, &body, false, move |n, asked| {
        let reply = Reply::honest(asked, &bytes, "\"a\"");
        if n % 3 == 2 { reply.cut(100_000, Ending::Close) } else { reply }
    })
    .await;
    let mended = ranged(&asked).into_iter().filter(|asked| asked.from().unwrap() % RANGE == 100_000).count();
    assert!(mended > 0);
    assert!(asked.iter().skip(1).all(|asked| asked.last().is_some()), "nothing was asked for from its start");
}

#[tokio::test]
async fn a_connection_that_stalls_has_its_range_asked_for_again() {
    let settings = FetchSettings { stall_timeout: Interval(Duration::from_secs(1)), ..Default::default() };
    let (bench, body) = (Bench::with(settings), body());
    let bytes = body.clone();
    let asked = fetched(&bench, &body, false, move |n, asked| {
        let reply = Reply::honest(asked, &bytes, "\"a\"");
        if n == 5 { reply.cut(1000, Ending::Stall) } else { reply }
    })
    .await;
    let stalled = asked[5].from().unwrap();
    assert!(ranged(&asked).iter().any(|asked| asked.from() == Some(stalled + 1000)), "{asked:?}");
}

#[tokio::test]
async fn an_origin_that_refuses_more_connections_is_read_by_fewer() {
    // From the start, all but the first.
    let (bench, body) = (Bench::new(), body());
    let bytes = body.clone();
    let asked = fetched(&bench, &body, false, move |n, asked| match n {
        0 => Reply::honest(asked, &bytes, "\"a\""),
        _ => Reply::new(429, b"").with("Retry-After", 3600),
    })
    .await;
    assert_eq!(asked.len(), 4);
    // Later, most of them, and now and then all.
    for every in [4, 7] {
        let bench = Bench::new();
        let bytes = body.clone();
        fetched(&bench, &body, false, move |n, asked| match n % every {
            1 => Reply::new(503, b""),
            _ => Reply::honest(asked, &bytes, "\"a\""),
        })
        .await;
    }
}

#[tokio::test]
async fn an_origin_that_gives_the_whole_instead_of_a_range_is_read_as_ever() {
    let (bench, body) = (Bench::new(), body());
    let bytes = body.clone();
    let whole = move |_: usize, _: &Asked| Reply::new(200, &bytes).with("ETag", "\"a\"").with("Accept-Ranges", "bytes");
    assert!(fetched(&bench, &body, false, whole).await.len() <= 4);
}

#[tokio::test]
async fn ranges_that_lie_are_not_asked_for_again() {
    for late in [0, 6] {
        let (bench, body) = (Bench::new(), body());
        let bytes = body.clone();
        let asked = fetched(&bench, &body, false, move |n, asked| match (asked.from(), asked.last()) {
            (Some(from), Some(last)) if n > late => {
                let range = format!("bytes {}-{}/{}", from + 1, last + 1, bytes.len());
                Reply::new(206, &bytes[from..=last]).with("Content-Range", range).with("ETag", "\"a\"")
            }
            _ => Reply::honest(asked, &bytes, "\"a\""),
        })
        .await;
        assert!(asked.len() <= late + 1 + 4 + 1, "{asked:?}");
    }
}

#[tokio::test]
async fn an_object_that_changes_is_read_anew_once() {
    for if_range_kept in [true, false] {
        let (bench, old) = (Bench::new(), body());
        let new: Vec<u8> = old.iter().map(|b| !b).collect();
        let (before, after) = (old.clone(), new.clone());
        let asked = fetched(&bench, &new, false, move |n, asked| match n {
            0..6 => Reply::honest(asked, &before, "\"a\""),
            _ if if_range_kept => Reply::honest(asked, &after, "\"b\""),
            _ => {
                let mut heedless = asked.clone();
                heedless.headers.remove("if-range");
                Reply::honest(&heedless, &after, "\"b\"")
            }
        })
        .await;
        let old_whole = asked.iter().filter(|asked| asked.header("if-range").is_none()).count();
        assert!(old_whole <= 2, "{asked:?}");
    }
}

#[tokio::test]
async fn bytes_that_were_joined_wrongly_are_fetched_once_more_as_one() {
    let (bench, body) = (Bench::new(), body());
    let bytes = body.clone();
    let asked = fetched(&bench, &body, true, move |n, asked| {
        let mut bytes = bytes.clone();
        if (3..12).contains(&n) {
            bytes[asked.from().unwrap()] ^= 1;
        }
        Reply::honest(asked, &bytes, "\"a\"")
    })
    .await;
    let last = asked.last().unwrap();
    assert_eq!((last.from(), last.last()), (None, None));
}

#[tokio::test]
async fn redirects_are_followed_by_the_first_connection_only() {
    let (bench, body) = (Bench::new(), body());
    let target = Origin::start(served(&body)).await;
    let to = target.url("/signed?sig=1");
    let asked = fetched(&bench, &body, false, move |_, _| Reply::new(302, b"").with("Location", &to)).await;
    assert_eq!(asked.len(), 1);
    assert!(ranged(&target.asked()).len() > 3);
    for asked in target.asked() {
        assert_eq!((asked.target.as_str(), asked.header("x-token")), ("/signed?sig=1", None));
    }
}

#[tokio::test]
async fn a_cancelled_download_keeps_what_is_in_order() {
    let (bench, body) = (Bench::new(), body());
    let bytes = body.clone();
    let origin = Origin::start(move |n, asked| {
        let reply = Reply::honest(asked, &bytes, "\"a\"");
        // The range after the next ones is never there, and those beyond it are.
        if asked.from() == Some(8 * RANGE) && n < 20 { reply.cut(10, Ending::Stall) } else { reply }
    })
    .await;
    let artifact = shared(&[origin.url("/x")]);
    let stop = async {
        while bench.progress.snapshot().bytes < 7 * RANGE as u64 {
            tokio::task::yield_now().await;
        }
        bench.cancel.cancel();
    };
    let (stopped, ()) = tokio::join!(bench.acquire(&artifact, vec![]), stop);
    assert!(matches!(stopped, Err(AcquireError::Cancelled)));
    bench.leaves(&["archive.part", "download.json"]);
    let kept = bench.read("archive.part").unwrap();
    assert!(kept.len() >= 7 * RANGE && kept[..] == body[..kept.len()], "{}", kept.len());
    assert_eq!(bench.fetcher.ahead.left(), 9 << 18);

    let before = origin.asked().len();
    let restarted = Bench { staging: bench.staging.clone(), ..Bench::new() };
    let acquired = restarted.acquire(&artifact, vec![]).await.unwrap();
    assert_eq!(acquired.digest, Digest::sha256(&body));
    assert!(bench.read("archive.part").unwrap() == body);
    let asked = origin.asked().split_off(before);
    assert_eq!((asked[0].from(), asked[0].last()), (Some(kept.len()), None));
    assert!(ranged(&asked).len() > 3);
    assert!(asked.iter().all(|asked| asked.from() >= Some(kept.len())));
}
