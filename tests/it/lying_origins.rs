//! Lying origins: each lie of the table once. The campaign tells each many times over, in many forms.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::json;

use crate::fixture::archive::app;
use crate::fixture::liars::{Liars, Way};
use crate::fixture::lies::{self, Lie};
use crate::fixture::node::Node;
use crate::fixture::origin::{Fault, Origin};
use crate::fixture::origin_script::{Piece, Script};
use crate::fixture::releases::Releases;
use crate::fixture::{PATIENCE, until};

/// Far above what the daemon takes with all of them at once, far below what it would if any could have it hold more.
const MOST_RSS_KIB: u64 = 160 << 10;

/// Told of an archive that has a mirror: another address helps, but for what is wrong everywhere.
const MIRRORED: [&str; 6] =
    ["a-bit-flipped", "no-end", "no-answer", "redirect-to-metadata", "tls-expired", "length-beyond-all-limits"];
/// Told by a mirror, besides those that are told by mirrors alone.
const BY_MIRRORS: [&str; 8] = [
    "a-bit-flipped",
    "length-too-large",
    "range-of-other-bytes",
    "etag-changes",
    "no-content",
    "redirect-to-and-fro",
    "tls-of-no-authority",
    "tls-record-spoiled",
];
/// Told of one that is read over several connections.
const SHARED: [&str; 4] = ["range-overlaps", "range-of-other-bytes", "etag-changes", "chunks-cut"];

/// Told of a single file without a digest.
const FILE: [&str; 6] =
    ["range-overlaps", "etag-weak", "etag-changes-after-a-range", "no-end", "chunks-cut", "gzip-done"];

#[test]
fn each_lie_once() {
    let is_told = |lie: &Lie, way: Way| match way {
        Way::Alone | Way::Undigested => true,
        Way::File => FILE.contains(&lie.name),
        Way::LyingMirror => lie.is_of_mirrors() || BY_MIRRORS.contains(&lie.name),
        Way::Mirrored | Way::UndigestedMirrored => MIRRORED.contains(&lie.name),
        Way::Shared | Way::UndigestedShared | Way::Weak => SHARED.contains(&lie.name),
    };
    let all = Way::ALL.into_iter().flat_map(|way| lies::all().into_iter().map(move |lie| (lie, way)));
    let all = all.filter(|(lie, way)| way.expects(lie).is_some() && is_told(lie, *way));
    let liars = Liars::start(all.collect(), "6s");
    assert!(liars.count() >= 190, "{} lies", liars.count());
    liars.each(|liar| {
        liars.run(liar, 1, &mut fastrand::Rng::with_seed(7));
    });
    assert!(liars.node.peak_rss_kib() < MOST_RSS_KIB, "{} KiB", liars.node.peak_rss_kib());
}

#[test]
fn an_etag_that_changes_costs_one_restart() {
    const CUT: u64 = 100_000;
    let releases = Releases::with("v1");
    // Nothing but the ETag tells.
    let node = Node::start_with(&releases.document_with("app", false, ""));
    node.wait_ready("app");
    releases.publish("v2", &app("other", 700_000));
    let (path, v2) = (Releases::path("v2"), app("v2", 600_000));
    releases.origin.once(&path, Fault::CutAfter(CUT));
    releases.origin.always(&path, Fault::StallAfter(u64::MAX));
    releases.point_to("v2");
    // The object is another one as soon as part of the first has come.
    node.cli(&["refresh", "app"]).ok();
    until("a part of v2", PATIENCE, || {
        releases.origin.requests(&path).first().filter(|get| get.sent == CUT).map(|_| ())
    });
    releases.publish("v2", &v2);
    node.cli(&["refresh", "app", "--wait"]).ok();
    assert_eq!(node.state("app")["current"], "v2");
    let gets: Vec<_> = releases.origin.requests(&path).iter().map(|get| (get.status, get.sent)).collect();
    assert_eq!(gets, [(200, CUT), (200, v2.len() as u64)]);
}

/// The artifact at `url`, without anything that tells its digest, and more lines of `http`.
fn at(url: &str, more: &str) -> String {
    format!(
        "apiVersion: seedcache.dev/v1alpha1
kind: Artifact
metadata: {{name: app}}
spec:
  version: v1
  source: {{http: {{url: '{url}'{more}}}}}
"
    )
}

/// An origin that leads to another, on another address of this machine.
fn leading(to: &str) -> (Origin, Origin) {
    let (origin, other) = (Origin::start(), Origin::start_at(Ipv4Addr::new(127, 0, 0, 2)));
    other.serve("/app.tgz", app("v1", 100_000));
    origin.serve("/app.tgz", app("v1", 100_000));
    let place = other.url("/app.tgz").replace("127.0.0.2", to);
    origin.always("/app.tgz", Fault::Redirect(place));
    (origin, other)
}

#[test]
fn a_private_address_is_led_to_only_where_the_document_names_it() {
    let (origin, other) = leading("127.0.0.2");
    let url = origin.url("/app.tgz");
    let node = Node::start_with(&at(&url, ""));
    let state = node.wait_state("app", "an error", PATIENCE, |state| !state["lastError"].is_null());
    let error = state["lastError"].as_str().unwrap();
    for said in [&*other.url("/app.tgz"), "127.0.0.2, which is no public address", "source.http.redirectsTo"] {
        assert!(error.contains(said), "{said:?} is not in {error:?}");
    }
    assert!(other.requests("/app.tgz").is_empty());
    // Whatever its port.
    node.write_config("artifacts.yaml", &at(&url, ", redirectsTo: [127.0.0.2]"));
    node.wait_ready("app");
    assert!(!other.requests("/app.tgz").is_empty());
    let named = Node::start_with(&at(&url, ", mirrors: ['http://127.0.0.2:9/x']"));
    named.wait_ready("app");
}

#[test]
fn a_name_that_leads_to_a_private_address_is_not_followed_there() {
    let (origin, other) = leading("localhost");
    let node = Node::start_with(&at(&origin.url("/app.tgz"), ""));
    let state = node.wait_state("app", "an error", PATIENCE, |state| !state["lastError"].is_null());
    let error = state["lastError"].as_str().unwrap();
    assert!(error.contains("localhost") && error.contains("which is no public address"), "{error}");
    assert!(other.requests("/app.tgz").is_empty());
}

#[test]
fn names_behind_a_proxy_are_the_proxys_business() {
    let (origin, proxy) = (Origin::start(), Origin::start_at(Ipv4Addr::new(127, 0, 0, 3)));
    origin.serve("/app.tgz", &b""[..]);
    proxy.serve("http://cdn.example/app.tgz", app("v1", 100_000));
    let start = || {
        let document = at(&origin.url("/app.tgz"), "");
        Node::builder()
            .env("http_proxy", &proxy.url(""))
            .env("no_proxy", "127.0.0.1")
            .document("app.yaml", &document)
            .start()
    };
    origin.always("/app.tgz", Fault::Redirect("http://cdn.example/app.tgz".into()));
    start().wait_ready("app");
    assert_eq!(proxy.requests("http://cdn.example/app.tgz").len(), 1);
    // An address is one, whoever would connect to it.
    origin.always("/app.tgz", Fault::Redirect("http://169.254.169.254/latest".into()));
    let node = start();
    let state = node.wait_state("app", "an error", PATIENCE, |state| !state["lastError"].is_null());
    assert!(state["lastError"].as_str().unwrap().contains("169.254.169.254, which is no public"), "{state}");
    assert!(proxy.requests("http://169.254.169.254/latest").is_empty());
}

#[test]
fn a_pointer_that_goes_back_or_flaps_is_followed() {
    let releases = Releases::with("v1");
    let node = Node::start_with(&releases.document());
    node.wait_ready("app");
    releases.publish("v2", &app("v2", 100_000));
    for named in ["v2", "v1", "v2", "v1", "v2"] {
        releases.point_to(named);
        node.cli(&["refresh", "app", "--wait"]).ok();
        let state = node.wait_state("app", named, PATIENCE, |state| state["current"] == named);
        assert_eq!((&state["latest"], &state["lastError"]), (&json!(named), &json!(null)), "{state}");
    }
    // What came once is not fetched again, and a pin is not led anywhere.
    assert_eq!(releases.origin.requests(&Releases::path("v1")).len(), 1);
    assert_eq!(releases.origin.requests(&Releases::path("v2")).len(), 1);
    node.cli(&["pin", "app", "v2"]).ok();
    releases.point_to("v1");
    node.cli(&["refresh", "app", "--wait"]).ok();
    assert_eq!(node.state("app")["current"], "v2");
}

#[test]
fn what_changed_since_the_version_was_named_by_it_does_not_get_that_name() {
    let origin = Origin::start();
    origin.serve("/app.tgz", app("v1", 100_000));
    // The HEAD is of what was there before, the GET of what is there now.
    let before = "HTTP/1.1 200 OK\r\nETag: \"before\"\r\nContent-Length: 9\r\nConnection: close\r\n\r\n";
    origin.once("/app.tgz", Fault::Script(Script::new(|_| vec![Piece::Bytes(before.into())])));
    let node = Node::start_with(&at(&origin.url("/app.tgz"), "").replace("  version: v1\n", ""));
    let state = node.wait_state("app", "an error", PATIENCE, |state| !state["lastError"].is_null());
    assert!(state["lastError"].as_str().unwrap().contains("/app.tgz has changed since"), "{state}");
    assert_eq!(state["versions"], json!([]));
    // Asked again, it is what it is called.
    node.wait_ready("app");
    let asked = origin.requests("/app.tgz");
    assert_eq!(asked.iter().map(|asked| &*asked.method).collect::<Vec<_>>(), ["HEAD", "GET", "HEAD", "GET"]);
    assert_eq!(node.state("app")["versions"].as_array().unwrap().len(), 1);
}

#[test]
fn slow_origins_keep_no_other_download_waiting() {
    let slow = Releases::with("v1");
    let good = Releases::with("v1");
    slow.origin.always(&Releases::path("v1"), Fault::Trickle { bytes: 1, pause: Duration::from_secs(1) });
    let slow_ones = ["slow-a", "slow-b", "slow-c"].map(|name| slow.document_with(name, true, ""));
    // They have both turns, and nothing would end them before this test is over.
    let node =
        Node::builder().settings("fetch: {stallTimeout: 1h}").document("slow.yaml", &slow_ones.join("---\n")).start();
    until("slow downloads", PATIENCE, || (slow.origin.requests(&Releases::path("v1")).len() == 3).then_some(()));
    node.write_config("good.yaml", &good.document_with("good", true, ""));
    until("the document", PATIENCE, || (node.get("/v1/artifacts/good").status == 200).then_some(()));
    node.wait_ready("good");
    for name in ["slow-a", "slow-b", "slow-c"] {
        let state = node.state(name);
        assert_eq!((&state["state"], &state["lastError"]), (&json!("Warming"), &json!(null)), "{state}");
    }
}
