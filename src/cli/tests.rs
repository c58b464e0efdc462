//! What the commands' tests share, and the commands against a scripted daemon on a Unix socket.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use clap::Parser as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::client::Client;
use super::connection::ClientError;
use super::exit::{Exit, Failure};
use super::output::Output;
use super::{Cli, Command, answer};
use crate::acquire::Phase;
use crate::fs::LinkMode;
use crate::intent::Digest;
use crate::reconcile::{ArtifactState, ProgressState, SeedState, State, VerifyResult, VersionState};
use crate::seed::Seeded;
use crate::store::{Damage, Report};

const OLD: &str = "20260101T000000Z";
const NEW: &str = "20260201T000000Z";

/// The SmartOS platform, ready and seeded once.
pub(super) fn artifact(progress: Option<ProgressState>) -> ArtifactState {
    ArtifactState {
        name: "smartos-platform".parse().unwrap(),
        state: State::Ready,
        current: Some(OLD.parse().unwrap()),
        latest: Some(OLD.parse().unwrap()),
        pin: None,
        pinned_by: None,
        versions: vec![VersionState {
            version: OLD.parse().unwrap(),
            digest: Digest::sha256(b"\0"),
            bytes: 358_400_000,
            files: 7,
            published_at: "2026-01-01T00:10:00.123Z".parse().unwrap(),
            state: State::Ready,
            weak: false,
            kept: "current".to_owned(),
        }],
        progress,
        last_error: None,
        last_error_at: None,
        next_try: None,
        failures: 0,
        refreshed_at: None,
        observed_generation: Some(Digest::sha256(b"document")),
        seeds: vec![SeedState {
            progress: None,
            target: "/data/smartos".to_owned(),
            declared: true,
            by_handle: false,
            version: Some(OLD.parse().unwrap()),
            mode: Some(LinkMode::Hardlink),
            reason: Some("no reflink: the file system has none".to_owned()),
            state: State::Ready,
        }],
        leases: vec![],
    }
}

/// Getting the next version.
pub(super) fn progress(phase: Phase, bytes: u64, total_bytes: Option<u64>) -> ProgressState {
    let version = Some(NEW.parse().unwrap());
    ProgressState { phase, version, bytes, total_bytes, unpacked_bytes: 358_400_000, entries: 14 }
}

/// The platform, seeded.
pub(super) fn seeded() -> Seeded {
    Seeded {
        artifact: "smartos-platform".parse().unwrap(),
        version: OLD.parse().unwrap(),
        digest: Digest::sha256(b"\0"),
        target: "/data/smartos".to_owned(),
        mode: LinkMode::Hardlink,
        reason: None,
        files: 7,
        bytes: 358_400_000,
        changed: true,
        written: 14,
        elapsed_ms: 4,
    }
}

/// The platform, read again; of `damaged` entries one is named.
pub(super) fn verified(damaged: u64) -> VerifyResult {
    let named = Damage { path: "platform/i86pc/kernel/amd64/unix".parse().unwrap(), what: "it is missing".to_owned() };
    let damage = if damaged > 0 { vec![named] } else { Vec::new() };
    VerifyResult {
        artifact: "smartos-platform".parse().unwrap(),
        version: OLD.parse().unwrap(),
        report: Report { entries: 14, bytes: 358_400_000, damaged, damage },
        repairing: false,
    }
}

/// How the scripted daemon takes one connection.
enum Turn {
    /// Answers with a status and a body.
    Say(u16, String),
    /// Reads the question and hangs up.
    HangUp,
}

fn say(status: u16, body: &impl serde::Serialize) -> Turn {
    Turn::Say(status, serde_json::to_string(body).unwrap())
}

fn problem(status: u16, detail: &str) -> Turn {
    say(status, &serde_json::json!({"title": "A problem", "status": status, "detail": detail, "next": "do this"}))
}

/// Takes one question for each turn, and gives back what was asked: the request line and the body. With `polled` a GET
/// only looks how far it is, and takes no turn.
async fn daemon(socket: &Path, turns: Vec<Turn>, polled: bool) -> Vec<(String, String)> {
    let listener = UnixListener::bind(socket).unwrap();
    let mut turns = turns.into_iter().peekable();
    let mut asked = Vec::new();
    while turns.peek().is_some() {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (line, body) = question(&mut stream).await;
        let look = polled && line.starts_with("GET");
        let turn = if look { say(200, &artifact(None)) } else { turns.next().unwrap() };
        if !look {
            asked.push((line, body));
        }
        if let Turn::Say(status, body) = turn {
            let length = body.len();
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            stream.write_all((head + &body).as_bytes()).await.unwrap();
        }
    }
    asked
}

async fn question(stream: &mut UnixStream) -> (String, String) {
    let mut text = String::new();
    loop {
        let mut buffer = [0; 4096];
        let n = stream.read(&mut buffer).await.unwrap();
        assert!(n > 0, "the question ended early: {text}");
        text += std::str::from_utf8(&buffer[..n]).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            return (head.lines().next().unwrap().to_owned(), body.to_owned());
        }
    }
}

/// What a command printed and ended with, and what the daemon was asked.
struct Ran {
    result: Result<Exit, Failure>,
    printed: String,
    asked: Vec<(String, String)>,
}

impl Ran {
    fn code(&self) -> u8 {
        match &self.result {
            Ok(exit) => *exit as u8,
            Err(failure) => failure.exit() as u8,
        }
    }

    fn failure(&self) -> &Failure {
        self.result.as_ref().unwrap_err()
    }
}

/// Runs one command line against a daemon that takes these turns.
fn run(line: &[&str], turns: Vec<Turn>) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("seedcache.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = format!("unix://{}", socket.display());
        // The client makes the directory that holds a target.
        let target = dir.path().join("smartos").display().to_string();
        let line = line.iter().map(|&word| if word == "/data/smartos" { &*target } else { word });
        let polled = line.clone().next() == Some("seed");
        let command = ["seedcache", "--server", &server].into_iter().chain(line);
        let cli = Cli::try_parse_from(command).unwrap();
        let Command::Ask(asked) = cli.command else { panic!("this asks nobody") };
        let client = Client::new(cli.server, None);
        let mut printed = Vec::new();
        let mut out = Output::new(&mut printed, None);
        let served = async { if turns.is_empty() { Vec::new() } else { daemon(&socket, turns, polled).await } };
        // The daemon is first, so that it listens when it is asked.
        let leavings = crate::cli::seed::Leavings::default();
        let (asked, result) = tokio::join!(served, answer(&client, asked, &leavings, &mut out));
        let as_named = |text: String| text.replace(&target, "/data/smartos");
        let asked = asked.into_iter().map(|(line, body)| (line, as_named(body))).collect();
        Ran { result, printed: as_named(String::from_utf8(printed).unwrap()), asked }
    })
}

#[test]
fn the_command_line_is_sound() {
    use clap::CommandFactory as _;
    Cli::command().debug_assert();
    for (line, code) in [
        (vec!["seedcache", "seed"], 2),
        (vec!["seedcache", "--server", "https://node", "status"], 2),
        (vec!["seedcache", "seed", "a", "b", "--wait", "soon"], 2),
        (vec!["seedcache", "seed", "A", "b"], 2),
        (vec!["seedcache", "verify", "--wait", "5m"], 2),
        (vec!["seedcache", "--version"], 0),
        (vec!["seedcache", "help"], 0),
    ] {
        assert_eq!(Cli::try_parse_from(&line).unwrap_err().exit_code(), code, "{line:?}");
    }
    for line in [
        vec!["seedcache", "refresh", "a", "--wait"],
        vec!["seedcache", "refresh", "a", "--wait", "5m"],
        vec!["seedcache", "verify"],
        vec!["seedcache", "seed", "a@1", "b", "--swap", "inPlace", "--link", "hardlink", "-o", "json"],
        vec!["seedcache", "status", "-o", "json", "--server", "http://127.0.0.1:7070"],
        vec!["seedcache", "serve", "--config", "config/quickstart"],
        vec!["seedcache", "completions", "bash"],
    ] {
        assert!(Cli::try_parse_from(&line).is_ok(), "{line:?}");
    }
}

#[test]
fn seed_asks_once_and_says_what_was_done() {
    let ran = run(
        &["seed", "smartos-platform@20260101T000000Z", "/data/smartos", "--link", "copy", "--wait", "5s"],
        vec![say(200, &seeded())],
    );
    assert_eq!(ran.code(), 0);
    assert_eq!(ran.printed, "smartos-platform@20260101T000000Z -> /data/smartos: hard link, 7 files, 358 MB, 4 ms\n");
    let (line, body) = &ran.asked[0];
    assert_eq!(line, "POST /v1/artifacts/smartos-platform/seed HTTP/1.1");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!((&body["target"], &body["version"]), (&"/data/smartos".into(), &OLD.into()));
    assert_eq!((&body["link"], &body["force"], body.get("swap")), (&"copy".into(), &false.into(), None));
    assert!(body["wait"].as_str().unwrap().parse::<crate::intent::Interval>().is_ok(), "{body}");
}

#[test]
fn what_the_daemon_refuses_has_its_code_and_its_next_step() {
    for (status, code) in [(404, 3), (408, 4), (409, 1), (500, 1), (502, 1)] {
        let ran =
            run(&["seed", "smartos-platform", "/data/smartos", "--wait", "0s"], vec![problem(status, "this happened")]);
        assert_eq!(ran.code(), code, "{status}");
        assert_eq!(ran.failure().to_string(), "this happened");
        assert_eq!(ran.failure().next().as_deref(), Some("do this"));
        assert_eq!(ran.printed, "");
    }
}

#[test]
fn nobody_there_is_said_at_once() {
    let ran = run(&["seed", "smartos-platform", "/data/smartos"], Vec::new());
    assert_eq!(ran.code(), 5);
    assert!(ran.failure().to_string().starts_with("cannot reach the daemon at unix:///"), "{}", ran.failure());
    assert!(ran.failure().next().unwrap().contains("seedcache serve --config DIR"));
}

#[test]
fn what_answers_otherwise_is_no_seedcache() {
    let ran = run(&["status"], vec![Turn::Say(404, "<html>".to_owned())]);
    assert!(matches!(ran.failure(), Failure::Client(ClientError::Foreign { .. })), "{:?}", ran.failure());
    assert_eq!(ran.code(), 1);
    let ran = run(&["status"], vec![Turn::Say(200, "{\"artifacts\": 3}".to_owned())]);
    assert!(matches!(ran.failure(), Failure::Client(ClientError::Unreadable { .. })), "{:?}", ran.failure());
    let ran = run(&["status"], vec![Turn::HangUp]);
    assert_eq!(ran.code(), 5);
}

#[test]
fn a_wait_survives_a_restart_of_the_daemon() {
    let stopping = problem(503, "the daemon is shutting down");
    let ran = run(&["seed", "smartos-platform", "/data/smartos"], vec![Turn::HangUp, stopping, say(200, &seeded())]);
    assert_eq!(ran.code(), 0, "{:?}", ran.result);
    assert_eq!(ran.asked.len(), 3);
    assert_eq!(ran.printed.lines().count(), 1);
}

#[test]
fn without_time_left_a_broken_connection_is_an_unreachable_daemon() {
    let ran = run(&["seed", "smartos-platform", "/data/smartos", "--wait", "0s"], vec![Turn::HangUp]);
    assert!(matches!(ran.failure(), Failure::Client(ClientError::Lost { .. })), "{:?}", ran.failure());
    assert_eq!(ran.code(), 5);
}

#[test]
fn status_shows_a_table_the_details_or_the_daemons_own_json() {
    let all = serde_json::json!([artifact(None)]);
    let ran = run(&["status"], vec![say(200, &all)]);
    assert!(ran.printed.starts_with("NAME") && ran.printed.contains("smartos-platform  Ready"), "{}", ran.printed);
    let ran = run(&["status", "-o", "json"], vec![say(200, &all)]);
    assert_eq!(ran.printed, format!("{all}\n"));
    let ran = run(&["status", "smartos-platform"], vec![say(200, &artifact(None))]);
    assert!(ran.printed.starts_with("smartos-platform: Ready\n"), "{}", ran.printed);
    assert_eq!(ran.asked[0].0, "GET /v1/artifacts/smartos-platform HTTP/1.1");
}

#[test]
fn versions_are_listed() {
    let ran = run(&["versions", "smartos-platform"], vec![say(200, &artifact(None))]);
    assert_eq!(ran.printed.lines().count(), 2);
    let ran = run(&["versions", "smartos-platform", "-o", "json"], vec![say(200, &artifact(None))]);
    let json: serde_json::Value = serde_json::from_str(&ran.printed).unwrap();
    assert_eq!((&json["current"], &json["versions"][0]["version"]), (&OLD.into(), &OLD.into()));
}

#[test]
fn refresh_says_what_changed_and_fails_when_the_try_did() {
    let ran = run(&["refresh", "smartos-platform"], vec![say(202, &artifact(None))]);
    assert_eq!((ran.code(), ran.asked[0].0.as_str()), (0, "POST /v1/artifacts/smartos-platform/refresh HTTP/1.1"));

    let mut new = artifact(None);
    new.current = Some(NEW.parse().unwrap());
    let ran = run(&["refresh", "smartos-platform", "--wait"], vec![say(200, &artifact(None)), say(200, &new)]);
    assert_eq!(ran.printed, "smartos-platform: 20260101T000000Z -> 20260201T000000Z\n");
    assert!(ran.asked[1].0.starts_with("POST /v1/artifacts/smartos-platform/refresh?wait="), "{:?}", ran.asked);

    let mut failed = artifact(None);
    failed.last_error = Some("wrong digest".to_owned());
    let ran = run(&["refresh", "smartos-platform", "--wait", "5s"], vec![say(200, &artifact(None)), say(200, &failed)]);
    assert_eq!(ran.code(), 1);
    assert_eq!(ran.failure().to_string(), "smartos-platform could not be refreshed: wrong digest");
    assert!(ran.failure().next().unwrap().starts_with("20260101T000000Z is still served"));

    let ran =
        run(&["refresh", "smartos-platform", "--wait", "1ms"], vec![say(200, &artifact(None)), problem(408, "late")]);
    assert_eq!(ran.code(), 4);
}

#[test]
fn verify_fails_on_damage_and_not_when_it_was_repaired() {
    let results = |result: &VerifyResult| say(200, &serde_json::json!({"results": [result]}));
    let ran = run(&["verify", "smartos-platform@20260101T000000Z"], vec![results(&verified(0))]);
    assert_eq!(ran.code(), 0);
    assert_eq!(ran.asked[0].1, r#"{"version":"20260101T000000Z","repair":false}"#);

    let all = say(200, &serde_json::json!([artifact(None)]));
    let ran = run(&["verify"], vec![all, results(&verified(1))]);
    assert_eq!(ran.code(), 1);

    let mut repairing = verified(1);
    repairing.repairing = true;
    let ran = run(&["verify", "smartos-platform", "--repair"], vec![results(&repairing), say(200, &artifact(None))]);
    assert_eq!(ran.code(), 0);
    assert!(ran.printed.ends_with("smartos-platform@20260101T000000Z: repaired\n"), "{}", ran.printed);
    let waited = &ran.asked[1].0;
    assert!(
        waited.starts_with("GET /v1/artifacts/smartos-platform/wait?version=20260101T000000Z&timeout="),
        "{waited}"
    );

    let ran = run(
        &["verify", "smartos-platform", "--repair", "-o", "json"],
        vec![results(&repairing), problem(502, "the source is gone")],
    );
    assert_eq!(ran.code(), 1);
    assert!(ran.printed.starts_with(r#"{"results":[{"artifact":"smartos-platform""#), "{}", ran.printed);
}
