//! 20,000 connections that say nothing or little, thousands that have much held for them, and what is no HTTP.

use std::time::Duration;

use crate::fixture::flood::{Flood, Hog};
use crate::report::{Asked, Part, Row};

/// Of which the daemon takes 4,096 of a kind at once.
const CONNECTIONS: usize = 20_000;
/// Those that have much held.
const HOGS: usize = 8_000;
/// How long a good client may wait for an answer: idle connections are given up after 10 s, and then come the next.
const SECONDS: u64 = 15;

pub(crate) const PART: Part = Part { name: "flood", about: "idle connections by the thousand, floods, no HTTP", run };

fn run(asked: Asked) -> Vec<Row> {
    let count = asked.runs.map_or(CONNECTIONS, |runs| usize::try_from(runs).unwrap_or(CONNECTIONS));
    let flood = Flood::new();
    let wrong = flood.malformed();
    wrong.iter().for_each(|line| eprintln!("no HTTP: {line}"));
    flood.pipelined(20_000);
    let mut rows = vec![Row {
        fault: "no HTTP, smuggling, endless heads and bodies".to_owned(),
        figure: format!("{} taken for requests; peak RSS {} MiB", wrong.len(), flood.peak_rss_kib() / 1024),
        reach: "0",
        reached: wrong.is_empty(),
    }];
    for (tcp, unix) in [(count, 0), (0, count), (count / 2, count / 2)] {
        let crowd = flood.crowd(tcp, unix, Duration::from_secs(25));
        flood.is_at_rest();
        let [over_tcp, over_unix] = crowd.slowest.map(|slowest| slowest.as_secs_f64());
        rows.push(Row {
            fault: format!("{} connections that say little ({tcp} TCP, {unix} Unix asked for)", crowd.connections),
            figure: format!(
                "slowest of {} answers to others {over_tcp:.1} s over TCP, {over_unix:.1} s over Unix; peak RSS {} MiB; all \
                 let go",
                crowd.answers,
                flood.peak_rss_kib() / 1024
            ),
            reach: "all connected; answers within 15 s, peak RSS 512 MiB or less",
            reached: crowd.connections == tcp + unix
                && crowd.slowest.iter().all(|slowest| slowest.as_secs() < SECONDS)
                && flood.peak_rss_kib() <= 512 << 10,
        });
    }
    rows.extend(Hog::ALL.map(hogs));
    rows
}

/// Each kind by itself, since the peak of memory is that of all before.
fn hogs(hog: Hog) -> Row {
    let flood = Flood::in_memory();
    let crowd = flood.hogs(hog, HOGS, Duration::from_secs(70));
    flood.is_at_rest();
    let slowest = crowd.slowest.into_iter().max().unwrap_or_default();
    Row {
        fault: format!("{} connections, half of them Unix, that {}", crowd.connections, hog.does()),
        figure: format!(
            "slowest of {} answers to others {:.1} s; peak RSS {} MiB; all let go",
            crowd.answers,
            slowest.as_secs_f64(),
            flood.peak_rss_kib() / 1024
        ),
        reach: "all connected; answers within 15 s, peak RSS 512 MiB or less",
        reached: crowd.connections == HOGS && slowest.as_secs() < SECONDS && flood.peak_rss_kib() <= 512 << 10,
    }
}
