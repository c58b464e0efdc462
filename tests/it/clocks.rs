//! The wall clock jumps by years, either way, under the real daemon (libfaketime; the monotonic clock stays as it is):
//! nothing goes early, no lease ends, sources are asked neither more nor less often than before, and downloads go on.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::fixture::archive::app;
use crate::fixture::node::{Node, Over, version_row};
use crate::fixture::origin::{Fault, Request};
use crate::fixture::releases::Releases;
use crate::fixture::system::tool;
use crate::fixture::{PATIENCE, until};

/// A daemon whose wall clock is set by a file.
struct Clocked {
    node: Node,
    offset: PathBuf,
    _dir: tempfile::TempDir,
}

fn library() -> PathBuf {
    // Beside the tool, in a directory that has the machine's name in it.
    let lib = tool("faketime").ancestors().nth(2).unwrap().join("lib");
    let mut found = std::fs::read_dir(lib).unwrap().filter_map(|entry| {
        let library = entry.unwrap().path().join("faketime/libfaketimeMT.so.1");
        library.exists().then_some(library)
    });
    found.next().expect("libfaketimeMT comes with faketime")
}

impl Clocked {
    fn start(settings: &str, documents: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let offset = dir.path().join("offset");
        std::fs::write(&offset, "+0d").unwrap();
        let node = Node::builder()
            .settings(settings)
            .document("app.yaml", documents)
            .env("LD_PRELOAD", library().to_str().unwrap())
            .env("FAKETIME_TIMESTAMP_FILE", offset.to_str().unwrap())
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1")
            .start();
        Self { node, offset, _dir: dir }
    }

    /// Sets the wall clock so far from the machine's, and sees the daemon take it up.
    fn jump(&self, days: i64) {
        self.set(days);
        let lease = json!({"version": "current", "ttl": "1m"});
        let told = self.put("leases/clock", &lease)["expiresAt"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        let off = told.duration_since(jiff::Timestamp::now()).as_hours() - days * 24;
        assert!(off.abs() < 2, "the clock did not jump: {told}");
    }

    fn set(&self, days: i64) {
        let new = self.offset.with_extension("new");
        std::fs::write(&new, format!("{days:+}d")).unwrap();
        std::fs::rename(new, &self.offset).unwrap();
    }

    /// The clock jumps while no daemon runs.
    fn jump_and_restart(&mut self, days: i64) {
        self.node.terminate();
        self.come_up(days);
    }

    /// The same over a reboot, as far as what was noted can tell.
    fn jump_and_reboot(&mut self, days: i64) {
        self.node.terminate();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let noted = ["clock.json", "leases.json"].map(|note| self.node.store().join(note));
        // There is no note of leases where nobody had one.
        for note in noted.into_iter().filter(|note| note.exists()) {
            let text = std::fs::read_to_string(&note).unwrap();
            assert!(text.contains(boot.trim()), "{text}");
            std::fs::write(note, text.replace(boot.trim(), "another")).unwrap();
        }
        self.come_up(days);
    }

    fn come_up(&mut self, days: i64) {
        self.set(days);
        self.node.start();
        self.node.wait_ready("app");
    }

    fn put(&self, path: &str, body: &Value) -> Value {
        let headers = [("Content-Type", "application/json")];
        let (path, body) = (format!("/v1/artifacts/app/{path}"), body.to_string());
        let answer = self.node.try_request(Over::Socket, "PUT", &path, &headers, Some(body.as_bytes())).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    fn held(&self) -> Vec<String> {
        let state = self.node.state("app");
        state["versions"].as_array().unwrap().iter().map(|v| v["version"].as_str().unwrap().to_owned()).collect()
    }

    /// Why a version is kept.
    fn why(&self, version: &str) -> String {
        self.node.cli(&["gc"]).ok();
        // The scrub, whose turn has come by that clock, may be at it.
        until(&format!("{version} to be read no more"), PATIENCE, || {
            let kept = version_row(&self.node.state("app"), version)["kept"].as_str().unwrap().to_owned();
            (kept != "being read").then_some(kept)
        })
    }
}

/// Takes versions one after the other.
fn take(clocked: &Clocked, releases: &Releases, versions: &[&str]) {
    for version in versions {
        releases.publish(version, &app(version, 20_000));
        releases.point_to(version);
        clocked.node.cli(&["refresh", "app", "--wait"]).ok();
        assert_eq!(clocked.node.state("app")["current"], *version);
    }
}

/// Has bytes come that are not what their sums say; where those are from then on. The source leads to v3 again.
fn quarantine(clocked: &Clocked, releases: &Releases) -> PathBuf {
    releases.publish_with_sum("bad", &app("bad", 20_000), &"0".repeat(64));
    releases.point_to("bad");
    clocked.node.cli(&["refresh", "app", "--wait"]).exits(1);
    let quarantined = clocked.node.store().join("quarantine/app/.download/archive");
    assert!(quarantined.exists());
    releases.point_to("v3");
    clocked.node.cli(&["refresh", "app", "--wait"]).ok();
    quarantined
}

const YEARS: i64 = 3650;

#[test]
fn a_clock_that_jumps_takes_nothing_away_and_floods_nobody() {
    let releases = Releases::with("v1");
    let retain = "  retain: {versions: 1, for: 10m}\n  refresh: 1h\n";
    let mut clocked = Clocked::start("scrub: {every: 24h}", &releases.document_with("app", true, retain));
    clocked.node.wait_ready("app");
    take(&clocked, &releases, &["v2", "v3"]);
    let quarantined = quarantine(&clocked, &releases);
    clocked.put("leases/job", &json!({"version": "v1", "ttl": "10m"}));
    let asked = || releases.origin.requests("/latest").len();
    let before = asked();
    for days in [YEARS, -YEARS, 2 * YEARS, 0] {
        clocked.jump(days);
        clocked.node.cli(&["gc"]).ok();
        assert_eq!(clocked.held(), ["v3", "v2", "v1"], "{days} days");
        assert!(quarantined.exists(), "{days} days");
        let state = clocked.node.state("app");
        let holders: Vec<&str> =
            state["leases"].as_array().unwrap().iter().map(|lease| lease["holder"].as_str().unwrap()).collect();
        assert_eq!(holders, ["clock", "job"], "{days} days");
        assert_eq!((asked(), &state["lastError"]), (before, &Value::Null), "{days} days");
    }
    // Leases live over a restart by a clock that was years ahead.
    clocked.jump(YEARS);
    clocked.node.restart();
    clocked.node.wait_ready("app");
    assert_eq!(clocked.node.state("app")["leases"].as_array().unwrap().len(), 2);
    clocked.node.cli(&["gc"]).ok();
    assert_eq!(clocked.held().len(), 3, "just started, nothing goes for its age");
    assert!(quarantined.exists());
    // It is still asked when it is to be.
    clocked.jump(-YEARS);
    take(&clocked, &releases, &["v4"]);
}

#[test]
fn a_restart_by_a_clock_that_was_years_ahead_makes_nothing_old() {
    let releases = Releases::with("v1");
    let retain = "  retain: {versions: 1, for: 1h}\n";
    let mut clocked = Clocked::start("", &releases.document_with("app", true, retain));
    clocked.node.wait_ready("app");
    take(&clocked, &releases, &["v2"]);
    assert_eq!(clocked.why("v1"), "younger than 1h");
    let jumped = "the clock has made no jump for less than 1h";
    clocked.jump_and_restart(YEARS);
    assert_eq!(clocked.why("v1"), jumped);
    clocked.jump_and_restart(0);
    assert_eq!(clocked.why("v1"), "younger than 1h");
    clocked.jump_and_reboot(YEARS);
    assert_eq!(clocked.why("v1"), jumped);
}

#[test]
fn a_start_by_a_clock_from_before_everything_takes_nothing_away() {
    let releases = Releases::with("v1");
    let retain = "  retain: {versions: 1, for: 1h}\n";
    let mut clocked = Clocked::start("", &releases.document_with("app", true, retain));
    clocked.node.wait_ready("app");
    take(&clocked, &releases, &["v2", "v3"]);
    let quarantined = quarantine(&clocked, &releases);
    clocked.put("leases/job", &json!({"version": "v2", "ttl": "1h"}));
    let stays = |clocked: &Clocked, days: i64| {
        assert_eq!(clocked.why("v1"), "younger than 1h", "{days} days");
        assert_eq!(clocked.held(), ["v3", "v2", "v1"], "{days} days");
        assert!(quarantined.exists(), "{days} days");
        let state = clocked.node.state("app");
        assert_eq!((&state["current"], &state["leases"][0]["holder"]), (&json!("v3"), &json!("job")), "{days} days");
        // Not for the years that the clock went back, either.
        let ends: jiff::Timestamp = state["leases"][0]["expiresAt"].as_str().unwrap().parse().unwrap();
        let wall = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(days * 24);
        let left = ends.duration_since(wall).as_secs();
        assert!((1..=3600).contains(&left), "{days} days: the lease has {left} s left");
    };
    clocked.jump_and_restart(-YEARS);
    stays(&clocked, -YEARS);
    clocked.jump_and_reboot(-2 * YEARS);
    stays(&clocked, -2 * YEARS);
    take(&clocked, &releases, &["v4"]);
    assert_eq!(clocked.held().len(), 4, "what comes by that clock takes nothing's place");
}

/// A node that has v1, and the origin of its v2, which says nothing more after so many bytes.
fn silent_after(bytes: u64, settings: &str) -> (Clocked, Releases) {
    let releases = Releases::with("v1");
    let clocked = Clocked::start(settings, &releases.document());
    clocked.node.wait_ready("app");
    releases.publish("v2", &app("v2", 500_000));
    releases.origin.always(&Releases::path("v2"), Fault::StallAfter(bytes));
    releases.point_to("v2");
    clocked.node.cli(&["refresh", "app"]).ok();
    until("a part of v2", PATIENCE, || gets(&releases).last().filter(|get| get.sent == bytes).map(|_| ()));
    (clocked, releases)
}

fn gets(releases: &Releases) -> Vec<Request> {
    let requests = releases.origin.requests(&Releases::path("v2")).into_iter();
    requests.filter(|request| request.method == "GET").collect()
}

#[test]
fn a_download_under_way_is_not_given_up_for_a_jump() {
    // An hour of silence is allowed: none passes here but by the wall clock.
    let (clocked, releases) = silent_after(100_000, "fetch: {stallTimeout: 1h}");
    for days in [YEARS, -YEARS, 0] {
        clocked.jump(days);
        let state = clocked.node.state("app");
        assert_eq!((&state["progress"]["version"], &state["lastError"]), (&json!("v2"), &Value::Null), "{days} days");
    }
    releases.origin.heal(&Releases::path("v2"));
    clocked.node.wait_state("app", "v2 is current", PATIENCE, |state| state["current"] == "v2");
    assert_eq!(gets(&releases).len(), 1, "it went on where it was");
}

#[test]
fn a_download_that_is_silent_is_given_up_whatever_the_clock_says() {
    let (clocked, releases) = silent_after(1_000, "fetch: {stallTimeout: 2s}");
    for days in [-YEARS, YEARS] {
        clocked.jump(days);
        let before = gets(&releases).len();
        until("the next try", PATIENCE, || (gets(&releases).len() > before).then_some(()));
    }
    releases.origin.heal(&Releases::path("v2"));
    clocked.node.cli(&["refresh", "app", "--wait"]).ok();
    assert_eq!(clocked.node.state("app")["current"], "v2");
}

#[test]
fn tries_that_fail_go_on_at_their_pace() {
    let releases = Releases::with("v1");
    let clocked = Clocked::start("", &releases.document());
    clocked.node.wait_ready("app");
    let first = releases.origin.requests("/latest").len();
    releases.origin.always("/latest", Fault::Status(503, None));
    clocked.node.cli(&["refresh", "app"]).ok();
    let failures = |n: u64| {
        let what = format!("{n} tries to have failed");
        clocked.node.wait_state("app", &what, PATIENCE, |state| state["failures"].as_u64() >= Some(n))
    };
    failures(1);
    for (at, days) in [YEARS, -YEARS].into_iter().enumerate() {
        clocked.jump(days);
        let state = failures(at as u64 + 2);
        let next: jiff::Timestamp = state["nextTry"].as_str().unwrap().parse().unwrap();
        let wall = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(days * 24);
        let ahead = next.duration_since(wall).as_secs();
        assert!((-60..120).contains(&ahead), "next try in {ahead} s by the clock that there is");
    }
    let tries = releases.origin.requests("/latest").len() - first;
    assert!((3..40).contains(&tries), "{tries} requests for three tries that failed");
    releases.origin.heal("/latest");
    clocked.node.cli(&["refresh", "app", "--wait"]).ok();
    assert_eq!(clocked.node.state("app")["failures"], 0);
}

#[test]
fn what_was_published_in_the_future_breaks_nothing() {
    let releases = Releases::with("v1");
    let more = "  retain: {versions: 1, for: 0s}\n  seeds:\n    - {target: pod, link: copy}\n";
    let clocked = Clocked::start("scrub: {every: 24h}", &releases.document_with("app", true, more));
    clocked.node.wait_ready("app");
    clocked.jump(YEARS);
    take(&clocked, &releases, &["v2"]);
    clocked.jump(0);
    take(&clocked, &releases, &["v3", "v4"]);
    let state = clocked.node.wait_state("app", "the seed", PATIENCE, |state| state["seeds"][0]["version"] == "v4");
    assert!(version_row(&state, "v2")["publishedAt"].as_str().unwrap() > "2030", "{state}");
    // It takes no other's place, and is not old for what the clock says. The scrub, whose turn had come by that, may be at one
    // of the others yet.
    until("v4 and v2 alone to be held", PATIENCE, || {
        clocked.node.cli(&["gc"]).ok();
        (clocked.held() == ["v4", "v2"]).then_some(())
    });
    clocked.node.cli(&["pin", "app", "v2"]).ok();
    assert_eq!(clocked.node.state("app")["current"], "v2");
    clocked.node.cli(&["unpin", "app", "--wait"]).ok();
    assert_eq!(clocked.node.state("app")["current"], "v4");
    assert_eq!(clocked.node.seed("app@v2", "other", &[]).ok().json()["version"], "v2");
    let answer = clocked.node.get("/v1/artifacts/app/versions/v2/files/VERSION");
    assert_eq!((answer.status, answer.text().as_str()), (200, "v2"));
}
