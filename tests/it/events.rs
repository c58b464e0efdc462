//! `/v1/events` and what stands on it: every state first, then each change, over a connection that stays open.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fixture::archive::app;
use crate::fixture::cli::PROGRAM;
use crate::fixture::node::Node;
use crate::fixture::origin::Fault;
use crate::fixture::releases::Releases;
use crate::fixture::{PATIENCE, until};

/// An open stream of events.
struct Stream {
    reader: BufReader<TcpStream>,
    head: String,
    last_id: u64,
}

#[derive(Debug)]
struct Event {
    name: String,
    data: Value,
}

impl Stream {
    fn open(node: &Node, query: &str) -> Self {
        let port = node.url().rsplit(':').next().unwrap().parse().unwrap();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // HTTP/1.0, so that the body comes as it is.
        write!(stream, "GET /v1/events{query} HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n").unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.0 200"), "{head}");
        Self { reader, head: head.to_ascii_lowercase(), last_id: 0 }
    }

    /// The next event; none when the stream ends. Comments and hints are passed over.
    fn next(&mut self) -> Option<Event> {
        let (mut name, mut data) = (String::new(), None);
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).unwrap() == 0 {
                assert!(name.is_empty() && data.is_none(), "cut in the middle of an event");
                return None;
            }
            match line.trim_end_matches('\n').split_once(": ") {
                Some(("id", id)) => {
                    let id = id.parse().unwrap();
                    assert_eq!(id, self.last_id + 1);
                    self.last_id = id;
                }
                Some(("event", event)) => name = event.to_owned(),
                Some(("data", json)) => data = Some(serde_json::from_str(json).unwrap()),
                None if !name.is_empty() => return Some(Event { name, data: data.unwrap() }),
                _ => {}
            }
        }
    }

    /// Reads up to an event of an artifact that is as `wanted` says.
    #[track_caller]
    fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let event = self.next().expect("the stream goes on");
            if event.name == "artifact" && wanted(&event.data) {
                return event.data;
            }
        }
    }
}

#[test]
fn a_watcher_is_told_of_everything_that_changes() {
    let releases = Releases::with("v1");
    let node = Node::start_with(&releases.document());
    node.wait_ready("app");
    let mut stream = Stream::open(&node, "");
    assert!(stream.head.contains("content-type: text/event-stream"), "{}", stream.head);
    assert!(stream.head.contains("cache-control: no-store"), "{}", stream.head);
    let first = stream.next().unwrap();
    assert_eq!(
        (first.name.as_str(), &first.data["name"], &first.data["current"]),
        ("artifact", &json!("app"), &json!("v1"))
    );
    let synced = stream.next().unwrap();
    assert_eq!((synced.name.as_str(), synced.data), ("synced", json!({"artifacts": 1})));

    // A refresh, a new version, a pin, another document and its end.
    releases.publish("v2", &app("v2", 500_000));
    releases.point_to("v2");
    node.cli(&["refresh", "app"]).ok();
    stream.until(|state| state["current"] == "v2");
    node.cli(&["pin", "app", "v1"]).ok();
    stream.until(|state| state["current"] == "v1" && state["pinnedBy"] == "node");
    let other = releases.document_with("other", true, "");
    node.write_config("other.yaml", &other);
    stream.until(|state| state["name"] == "other" && state["state"] == "Ready");
    node.write_config("third.yaml", &releases.document_with("third", true, "  pin: nowhere\n"));
    stream.until(|state| state["name"] == "third" && state["lastError"].is_string());
    node.write_config("third.yaml", "");
    let removed = std::iter::from_fn(|| stream.next()).find(|event| event.name == "removed").unwrap();
    assert_eq!(removed.data, json!({"name": "third"}));
}

#[test]
fn progress_comes_at_its_pace_and_the_end_at_once() {
    let releases = Releases::with("v1");
    let path = Releases::path("v1");
    releases.publish("v1", &app("v1", 400_000));
    releases.origin.always(&path, Fault::Trickle { bytes: 4_000, pause: Duration::from_millis(20) });
    let node = Node::start_with(&releases.document());
    let begun = Instant::now();
    let mut stream = Stream::open(&node, "?artifact=app");
    let mut figures = Vec::new();
    stream.until(|state| state["progress"]["phase"] == "downloading");
    loop {
        let event = stream.next().unwrap();
        if event.data["state"] == "Ready" {
            break;
        }
        if event.data["progress"]["phase"] == "downloading" {
            figures.push(event.data["progress"]["bytes"].as_u64().unwrap());
        }
    }
    assert!(figures.is_sorted() && figures.first() < figures.last(), "{figures:?}");
    // Two a second, and one more for the first.
    let most = 1 + 2 * (begun.elapsed().as_secs() as usize + 1);
    assert!(figures.len() <= most, "{} events in {:?}", figures.len(), begun.elapsed());
}

#[test]
fn the_stream_ends_with_the_daemon_and_not_before() {
    let releases = Releases::with("v1");
    let mut node = Node::start_with(&releases.document());
    node.wait_ready("app");
    let mut streams: Vec<Stream> = (0..20).map(|_| Stream::open(&node, "")).collect();
    for stream in &mut streams {
        stream.until(|state| state["state"] == "Ready");
    }
    let begun = Instant::now();
    assert!(node.terminate().success());
    for stream in &mut streams {
        while stream.next().is_some() {}
    }
    // The limit for requests in flight is 30 s: streams do not use it up.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn other_forms_are_refused_and_a_head_has_no_body() {
    let releases = Releases::with("v1");
    let node = Node::start_with(&releases.document());
    let refused = node.request("GET", "/v1/events", &[("Accept", "application/json")]);
    assert_eq!(refused.status, 406);
    refused.problem();
    let head = node.request("HEAD", "/v1/events", &[]);
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    assert_eq!(node.get("/v1/events?artifact=nosuch").status, 404);
    assert_eq!(node.get("/v1/events?what=x").status, 400);
    assert_eq!(node.request("POST", "/v1/events", &[]).status, 405);
}

#[test]
fn a_watcher_that_reads_nothing_holds_nobody_up() {
    let releases = Releases::with("v1");
    let node = Node::start_with(&releases.document());
    node.wait_ready("app");
    releases.publish("v2", &app("v2", 100_000));
    let deaf: Vec<Stream> = (0..50).map(|_| Stream::open(&node, "")).collect();
    let before = node.peak_rss_kib();
    for round in 0..30 {
        node.cli(&["pin", "app", if round % 2 == 0 { "v2" } else { "v1" }, "--wait"]).ok();
    }
    let grown = node.peak_rss_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "50 watchers that do not read cost {grown} KiB");
    // One of them begins to read, and finds out how it stands in the end.
    let mut late = deaf.into_iter().next().unwrap();
    let state = node.state("app");
    late.until(|told| told["current"] == state["current"] && told["pin"] == state["pin"]);
}

/// A command that goes on, ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn status_watch_prints_changes_and_survives_a_restart() {
    let releases = Releases::with("v1");
    let mut node = Node::start_with(&releases.document());
    node.wait_ready("app");
    let server = format!("unix://{}", node.socket().display());
    let mut watch = Running(
        Command::new(PROGRAM)
            .args(["status", "--watch", "--server", &server])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(watch.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "app: Ready at v1");
    releases.publish("v2", &app("v2", 500_000));
    releases.point_to("v2");
    node.cli(&["refresh", "app", "--wait"]).ok();
    assert!(lines.any(|line| line == "app: Ready at v2"));
    node.restart();
    node.cli(&["pin", "app", "v1"]).ok();
    // Printed by the same command, which came back by itself.
    assert!(lines.any(|line| line == "app: Ready at v1"));
    let gone = node.cli(&["status", "nosuch", "--watch"]);
    assert_eq!(gone.code, 3, "{gone:?}");
    until("the watch to go on", Duration::from_secs(1), || watch.0.try_wait().unwrap().is_none().then_some(()));
    drop(lines);
    node.terminate();
}
