//! Bad upstreams: whatever an origin does, the last good version stays current and served, and the error says what
//! happened to which thing. Where the origin gets well again, so does the artifact.

use std::time::Duration;

use serde_json::Value;

use crate::fixture::archive::{Archive, app};
use crate::fixture::cli::Output;
use crate::fixture::node::{Builder, Node, version_row};
use crate::fixture::origin::{Fault, Origin, Request};
use crate::fixture::releases::Releases;
use crate::fixture::system::free_port;
use crate::fixture::{PATIENCE, noise, sha256, until};

/// Impatient, so that a stall is soon taken for one.
const IMPATIENT: &str = "fetch: {stallTimeout: 2s}";

/// A node that has v1, and an origin whose `latest` is v2.
struct Case {
    releases: Releases,
    node: Node,
    v2: Vec<u8>,
}

impl Case {
    fn new() -> Self {
        Self::with(|releases| Node::builder().settings(IMPATIENT).document("app.yaml", &releases.document()))
    }

    fn with(node: impl FnOnce(&Releases) -> Builder) -> Self {
        let releases = Releases::with("v1");
        let node = node(&releases).start();
        node.wait_ready("app");
        let v2 = app("v2", 600_000);
        releases.publish("v2", &v2);
        releases.point_to("v2");
        Self { releases, node, v2 }
    }

    fn path(&self) -> String {
        Releases::path("v2")
    }

    fn once(&self, fault: Fault) {
        self.releases.origin.once(&self.path(), fault);
    }

    fn always(&self, fault: Fault) {
        self.releases.origin.always(&self.path(), fault);
    }

    fn refresh(&self) -> Output {
        self.node.cli(&["refresh", "app", "--wait"])
    }

    /// The refresh fails, v1 stays, and the error is shown, which names each of `said`.
    #[track_caller]
    fn fails(&self, said: &[&str]) {
        let refused = self.refresh().exits(1);
        let state = self.node.state("app");
        let error = state["lastError"].as_str().unwrap_or_else(|| panic!("no error is shown: {state}"));
        for said in said {
            assert!(error.contains(said), "{said:?} is not in {error:?}");
            assert!(refused.stderr.contains(said), "{said:?} is not in {:?}", refused.stderr);
        }
        self.still_v1(&state);
    }

    #[track_caller]
    fn still_v1(&self, state: &Value) {
        assert_eq!(state["current"], "v1", "{state}");
        let served = self.node.get("/v1/artifacts/app/versions/current/files/VERSION");
        assert_eq!((served.status, served.text().as_str()), (200, "v1"));
        assert_eq!(self.node.seed("app", "pod", &[]).ok().json()["version"], "v1");
        assert_eq!(self.node.get("/readyz").status, 200);
        assert!(!self.node.tree("app", "v2").exists());
    }

    /// v2 is there, with exactly these bytes.
    #[track_caller]
    fn becomes_v2_of(&self, archive: &[u8]) {
        let state = self.node.state("app");
        assert_eq!(state["current"], "v2", "{state}");
        assert_eq!(version_row(&state, "v2")["digest"], format!("sha256:{}", sha256(archive)));
        assert_eq!(self.node.get("/v1/artifacts/app/versions/current/files/VERSION").text(), "v2");
        self.node.cli(&["verify", "app"]).ok();
    }

    /// The origin is well again, and so is the artifact.
    #[track_caller]
    fn heals(&self) {
        self.releases.origin.heal(&self.path());
        self.refresh().ok();
        self.becomes_v2_of(&self.v2);
        let state = self.node.state("app");
        assert!(state["lastError"].is_null(), "{state}");
    }

    fn gets(&self) -> Vec<Request> {
        self.releases.origin.requests(&self.path()).into_iter().filter(|request| request.method == "GET").collect()
    }
}

#[test]
fn a_wrong_digest() {
    let case = Case::new();
    let wrong = sha256(b"something else");
    case.releases.publish_with_sum("v2", &case.v2, &wrong);
    case.fails(&[&wrong, &sha256(&case.v2)]);
    assert_eq!(case.node.state("app")["latest"], "v2", "what the source names is shown, though it cannot be had");
    let quarantine = case.node.store().join("quarantine");
    assert!(!crate::fixture::tree::walk(&quarantine).is_empty(), "nothing is in quarantine");
    case.releases.publish("v2", &case.v2);
    case.heals();
}

#[test]
fn a_flipped_byte() {
    let case = Case::new();
    case.always(Fault::FlipByte(200_000));
    case.fails(&[&sha256(&case.v2)]);
    case.heals();
}

#[test]
fn an_archive_that_is_cut_short_at_the_origin() {
    let case = Case::new();
    case.releases.publish_with_sum("v2", &case.v2[..300_000], &sha256(&case.v2));
    case.fails(&["v2"]);
    case.releases.publish("v2", &case.v2);
    case.heals();
}

#[test]
fn no_archive_at_all() {
    let case = Case::new();
    case.releases.publish("v2", b"<html>Sign in to go on</html>");
    case.fails(&["v2"]);
}

#[test]
fn an_archive_with_a_link_that_leads_out() {
    let case = Case::new();
    let escaping = Archive::new().file("app/VERSION", 0o644, b"v2").symlink("app/out", "../../../etc").tgz();
    case.releases.publish("v2", &escaping);
    case.fails(&["out"]);
    assert!(!case.node.store().join("staging/app/version").exists(), "what was refused is still in staging");
}

#[test]
fn a_tree_without_what_is_required() {
    let case = Case::with(|releases| {
        let requiring = "{stripComponents: 1, require: [VERSION]}";
        let document = releases.document().replace("{stripComponents: 1}", requiring);
        Node::builder().document("app.yaml", &document)
    });
    case.releases.publish("v2", &Archive::new().file("app/other", 0o644, b"v2").tgz());
    case.fails(&["VERSION"]);
}

#[test]
fn a_connection_that_breaks_is_resumed() {
    let case = Case::new();
    case.once(Fault::CutAfter(100_000));
    case.once(Fault::CutAfter(100_000));
    case.refresh().ok();
    case.becomes_v2_of(&case.v2);
    let gets = case.gets();
    assert_eq!(gets.iter().map(Request::start).collect::<Vec<_>>(), [0, 100_000, 200_000]);
    assert!(gets[1].header("if-range").is_some_and(|etag| etag.starts_with('"')), "{gets:?}");
}

#[test]
fn a_server_that_ignores_range() {
    let case = Case::new();
    case.once(Fault::CutAfter(100_000));
    case.always(Fault::IgnoreRange);
    case.refresh().ok();
    case.becomes_v2_of(&case.v2);
    let gets = case.gets();
    assert_eq!(gets.iter().map(|get| (get.start(), get.status)).collect::<Vec<_>>(), [(0, 200), (100_000, 200)]);
}

#[test]
fn a_content_range_that_lies() {
    let case = Case::new();
    case.once(Fault::CutAfter(100_000));
    case.once(Fault::ShiftContentRange);
    case.refresh().ok();
    case.becomes_v2_of(&case.v2);
    assert!(case.gets().len() >= 3, "the answer that lied was taken");
}

#[test]
fn an_etag_that_is_new_each_time() {
    let case = Case::new();
    case.always(Fault::NewETagEachTime);
    case.once(Fault::CutAfter(100_000));
    case.refresh().ok();
    case.becomes_v2_of(&case.v2);
}

/// Bytes that change while they are fetched. Nothing but the ETag tells: no digest is demanded.
fn bytes_that_change_midway(then: Fault) {
    let case = Case::with(|releases| {
        let document = releases.document_with("app", false, "");
        Node::builder().settings(IMPATIENT).document("app.yaml", &document)
    });
    // This answer never goes on, since a fault stands to the end.
    case.always(Fault::StallAfter(100_000));
    case.node.cli(&["refresh", "app"]).ok();
    until("a part of v2", PATIENCE, || case.gets().last().filter(|get| get.sent == 100_000).map(|_| ()));
    let other = Archive::new().file("app/VERSION", 0o644, b"v2").file("app/noise", 0o644, &noise(99, 700_000)).tgz();
    case.releases.publish("v2", &other);
    case.always(then);
    case.node.wait_state("app", "v2 is current", PATIENCE, |state| state["current"] == "v2");
    case.becomes_v2_of(&other);
}

#[test]
fn an_etag_that_changes_midway() {
    bytes_that_change_midway(Fault::CutAfter(u64::MAX));
}

#[test]
fn an_etag_that_changes_midway_and_a_server_that_ignores_if_range() {
    bytes_that_change_midway(Fault::IgnoreIfRange);
}

#[test]
fn a_stalled_connection() {
    let case = Case::new();
    case.always(Fault::StallAfter(1_000));
    case.fails(&[&case.path()]);
    case.heals();
    let last = case.gets().pop().unwrap();
    assert!(last.start() >= 1_000, "what had come was fetched again");
}

#[test]
fn a_connection_that_trickles() {
    let case = Case::new();
    // A hundredth of the least throughput.
    case.always(Fault::Trickle { bytes: 10, pause: Duration::from_millis(100) });
    case.fails(&[&case.path()]);
    case.heals();
}

#[test]
fn an_origin_that_says_no() {
    let case = Case::new();
    for status in [404, 403, 500] {
        case.always(Fault::Status(status, None));
        case.fails(&[&status.to_string(), &case.path()]);
    }
    case.heals();
}

#[test]
fn a_pointer_that_is_gone() {
    let case = Case::new();
    case.releases.origin.always("/latest", Fault::Status(404, None));
    case.fails(&["404", "/latest"]);
    case.releases.origin.heal("/latest");
    case.heals();
}

#[test]
fn a_pointer_that_points_nowhere() {
    let case = Case::new();
    case.releases.origin.serve("/latest", &b"<html>no version here, only this</html>\n"[..]);
    case.fails(&["/latest"]);
}

#[test]
fn a_server_that_asks_to_come_back() {
    let case = Case::new();
    case.once(Fault::Status(503, Some(1)));
    case.once(Fault::Status(429, Some(1)));
    case.refresh().ok();
    case.becomes_v2_of(&case.v2);
    assert_eq!(case.gets().iter().map(|get| get.status).collect::<Vec<_>>(), [503, 429, 200]);
}

#[test]
fn a_body_without_end() {
    let case = Case::with(|releases| {
        let limited = "{format: none, limits: {bytes: 1MiB}}";
        let document = releases.document_with("app", false, "").replace("{stripComponents: 1}", limited);
        Node::builder().document("app.yaml", &document)
    });
    case.always(Fault::Endless);
    case.refresh().exits(1);
    let state = case.node.state("app");
    assert_eq!(state["current"], "v1", "{state}");
    assert!(state["lastError"].as_str().is_some_and(|error| error.contains("unpack.limits.bytes")), "{state}");
}

/// The document with its archive at a dead address.
fn dead(releases: &Releases, mirrors: &str) -> String {
    let here = releases.origin.url("/{version}/app.tgz");
    let nowhere = format!("http://127.0.0.1:{}/{{version}}/app.tgz", free_port());
    releases.document().replace(&format!("url: '{here}'"), &format!("url: '{nowhere}'\n      mirrors: [{mirrors}]"))
}

#[test]
fn a_dead_origin_with_a_mirror() {
    let mirror = Origin::start();
    let (v1, damaged) = (app("v1", 500_000), app("v1", 400_000));
    mirror.serve("/bad/v1.tgz", damaged);
    mirror.serve("/good/v1.tgz", v1.clone());
    let mirrors = [mirror.url("/bad/{version}.tgz"), mirror.url("/good/{version}.tgz")];
    let releases = Releases::with("v1");
    let document = dead(&releases, &mirrors.map(|url| format!("'{url}'")).join(", "));
    let node = Node::start_with(&document);
    let state = node.wait_ready("app");
    assert_eq!(version_row(&state, "v1")["digest"], format!("sha256:{}", sha256(&v1)));
    assert!(!mirror.requests("/bad/v1.tgz").is_empty(), "mirrors are tried in order");
}

#[test]
fn a_dead_origin_and_a_dead_mirror() {
    let case = Case::new();
    let dead_too = format!("http://127.0.0.1:{}", free_port());
    case.node.write_config("app.yaml", &dead(&case.releases, &format!("'{dead_too}/app.tgz'")));
    case.node.wait_state("app", "an error", PATIENCE, |state| !state["lastError"].is_null());
    case.fails(&[&dead_too]);
}

#[test]
fn credentials_stay_with_their_origin() {
    let elsewhere = Origin::start();
    elsewhere.serve("/moved.tgz", app("v1", 500_000));
    let releases = Releases::with("v1");
    releases.origin.always(&Releases::path("v1"), Fault::Redirect(elsewhere.url("/moved.tgz")));
    let url = format!("      url: '{}'", releases.origin.url("/{version}/app.tgz"));
    let headers = "      headers: {Authorization: 'Bearer s3cr3t', X-Token: s3cr3t}\n";
    let node = Node::start_with(&releases.document().replace(&url, &format!("{headers}{url}")));
    node.wait_ready("app");
    let here = releases.origin.requests(&Releases::path("v1"));
    assert_eq!(here[0].header("authorization"), Some("Bearer s3cr3t"));
    assert_eq!(here[0].header("x-token"), Some("s3cr3t"));
    for request in elsewhere.requests("/moved.tgz") {
        assert_eq!((request.header("authorization"), request.header("x-token")), (None, None));
    }
    assert!(!node.log_text().contains("s3cr3t"), "a secret is in the log");
}

#[test]
fn an_authority_of_ones_own() {
    let releases = Releases::on(Origin::start_tls(), "v1");
    let untrusting = Node::start_with(&releases.document());
    let state = untrusting.wait_state("app", "an error", PATIENCE, |state| !state["lastError"].is_null());
    assert!(state["lastError"].as_str().is_some_and(|error| error.contains("certificate")), "{state}");
    drop(untrusting);
    let dir = crate::fixture::scratch();
    let pem = dir.path().join("ca.pem");
    std::fs::write(&pem, releases.origin.ca_pem()).unwrap();
    let settings = format!("fetch: {{caFile: '{}'}}", pem.display());
    let node = Node::builder().settings(&settings).document("app.yaml", &releases.document()).start();
    node.wait_ready("app");
}

#[test]
fn a_proxy_of_the_environment_is_asked() {
    let proxy = Origin::start();
    // A proxy is asked for whole addresses.
    let url = "http://origin.example/app.tgz";
    proxy.serve(url, app("v1", 500_000));
    let document = format!(
        "apiVersion: seedcache.dev/v1alpha1
kind: Artifact
metadata: {{name: app}}
spec: {{version: v1, source: {{http: {{url: '{url}'}}}}}}
"
    );
    let node = Node::builder().env("http_proxy", &proxy.url("")).document("app.yaml", &document).start();
    node.wait_ready("app");
    assert!(!proxy.requests(url).is_empty());
}
