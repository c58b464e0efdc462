//! A month of an operator's life in a minute: versions appear, pins come and go, documents break and are mended, and the
//! daemon is killed at random. After each step status, `current/`, disk and index agree, and the budget holds throughout.
//!
//! The same seed gives the same month: `SEEDCACHE_TEST_SEED=… cargo test --test it month::`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fixture::archive::app;
use crate::fixture::config_map::mount;
use crate::fixture::node::{Node, Over};
use crate::fixture::origin::Fault;
use crate::fixture::releases::Releases;
use crate::fixture::until;
use crate::fixture::watchman::Watchman;

/// Twelve versions would not fit; what retention, pins and leases keep does, with one more on its way.
const BUDGET: u64 = 10 << 20;
/// Bytes of a version, packed and unpacked; they do not compress.
const SIZE: usize = 1_000_000;
/// How long a step may take to settle: long for shared machines.
const PATIENCE: Duration = Duration::from_secs(40);
const SETTINGS: &str = "store: {maxBytes: 10MiB, minFree: 0%}";
const RETAINED: usize = 3;

/// What stands in the configuration directory for the artifact.
#[derive(Clone, Copy, PartialEq)]
enum Document {
    Good,
    Broken,
    Removed,
}

/// What becomes of each version, and why.
type Fates = BTreeMap<String, (String, String)>;

struct Month {
    node: Node,
    releases: Releases,
    rng: fastrand::Rng,
    seed: u64,
    began: Instant,
    watchman: Watchman,
    /// What was done so far, for whoever has to find out why it failed.
    diary: Vec<String>,
    document: Document,
    document_pin: Option<&'static str>,
    node_pin: Option<&'static str>,
    /// Versions that the origin has whole.
    published: BTreeSet<&'static str>,
    latest: &'static str,
    leased: Option<&'static str>,
    current: &'static str,
}

impl Drop for Month {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the month, SEEDCACHE_TEST_SEED={} ---\n{}", self.seed, self.diary.join("\n"));
        }
    }
}

impl Month {
    fn begin(first: &'static str) -> Self {
        let seed = std::env::var("SEEDCACHE_TEST_SEED").ok().map_or_else(|| fastrand::u64(..), |s| s.parse().unwrap());
        let releases = Releases::with(first);
        let document = document(&releases, None);
        let node = Node::builder().config_map().settings(SETTINGS).document("app.yaml", &document).start();
        let watchman = Watchman::of(node.store());
        let mut month = Self {
            node,
            releases,
            rng: fastrand::Rng::with_seed(seed),
            seed,
            began: Instant::now(),
            watchman,
            diary: Vec::new(),
            document: Document::Good,
            document_pin: None,
            node_pin: None,
            published: BTreeSet::from([first]),
            latest: first,
            leased: None,
            current: first,
        };
        month.check();
        month
    }

    /// Does one thing, with SIGKILL before, amid, after or not at all, and checks that all agree.
    fn step(&mut self, what: &str, act: impl FnOnce(&mut Self)) {
        let kill = self.rng.u8(0..4);
        let when = ["killed amid it", "killed when it was done", "not killed", "killed before"][usize::from(kill)];
        self.diary.push(format!("{:6.2} s  {what}; {when}", self.began.elapsed().as_secs_f32()));
        if kill == 3 {
            self.kill();
        }
        act(self);
        self.expect_current();
        if kill == 0 {
            // The more questions, the further it has come.
            for _ in 0..self.rng.u32(0..10) * self.rng.u32(0..30) {
                self.node.get("/v1/artifacts");
            }
            self.kill();
        }
        self.settle();
        if kill == 1 {
            self.kill();
        }
        self.check();
    }

    fn kill(&mut self) {
        self.node.kill9();
        self.node.start();
    }

    /// What must be current now, when all is done.
    fn expect_current(&mut self) {
        if self.document != Document::Good {
            return;
        }
        match self.document_pin.or(self.node_pin) {
            None => self.current = self.latest,
            Some(pin) if self.published.contains(pin) => self.current = pin,
            Some(_) => {}
        }
    }

    fn state(&self) -> Value {
        self.node.state("app")
    }

    fn mount(&mut self, document: Document) {
        self.document = document;
        let good = self::document(&self.releases, self.document_pin);
        let broken = match self.rng.u8(0..3) {
            0 => format!("{good}  pinn: v1\n"),
            1 => good.replace("refresh: 1s", "refresh: seldom"),
            _ => good.replace("apiVersion: seedcache.dev/v1alpha1", "apiVersion: seedcache.dev/v9"),
        };
        let mut files = vec![("seedcache.yaml", SETTINGS)];
        match document {
            Document::Good => files.push(("app.yaml", &good)),
            Document::Broken => files.push(("app.yaml", &broken)),
            Document::Removed => {}
        }
        mount(self.node.config(), &files);
    }

    fn release(&mut self, version: &'static str) {
        self.step(&format!("{version} is released"), |month| {
            month.publish(version);
            month.latest = version;
            month.releases.point_to(version);
            month.refresh();
        });
    }

    fn publish(&mut self, version: &'static str) {
        self.releases.publish(version, &app(version, SIZE));
        let slowly = Fault::Trickle { bytes: 64 * 1024, pause: Duration::from_millis(5) };
        self.releases.origin.always(&Releases::path(version), slowly);
        self.published.insert(version);
    }

    /// The source is asked by itself within a second; this spares us the wait, and what stands in back-off a longer one.
    fn refresh(&self) {
        self.node.cli(&["refresh", "app"]).ok();
    }

    fn pin_in_document(&mut self, pin: Option<&'static str>) {
        self.step(&format!("the document's pin becomes {pin:?}"), |month| {
            month.document_pin = pin;
            month.mount(Document::Good);
        });
    }

    fn pin_on_node(&mut self, pin: Option<&'static str>) {
        self.step(&format!("the node's pin becomes {pin:?}"), |month| {
            month.node_pin = pin;
            match pin {
                Some(version) if month.published.contains(version) => {
                    drop(month.node.cli(&["pin", "app", version]).ok())
                }
                // Whether the command waits for what cannot come is its own affair.
                Some(version) => drop(month.node.cli(&["pin", "app", version])),
                None => drop(month.node.cli(&["unpin", "app"]).ok()),
            }
        });
    }

    fn lease(&mut self, version: Option<&'static str>) {
        const PATH: &str = "/v1/artifacts/app/leases/job-7";
        self.step(&format!("the lease becomes {version:?}"), |month| {
            month.leased = version;
            let answer = match version {
                Some(version) => month.ask("PUT", PATH, &json!({"version": version, "ttl": "1h"})),
                None => month.ask("DELETE", PATH, &json!({})),
            };
            assert!((200..300).contains(&answer.0), "{answer:?}");
        });
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let headers = [("Content-Type", "application/json")];
        let body = body.to_string();
        let body = (method != "DELETE").then_some(body.as_bytes());
        let answer = self.node.try_request(Over::Socket, method, path, &headers, body).unwrap();
        (answer.status, if answer.body.is_empty() { Value::Null } else { answer.json() })
    }

    /// Asks of the origin for a version's archive.
    fn fetched(&self, version: &str) -> usize {
        self.releases.origin.requests(&Releases::path(version)).len()
    }

    /// Waits until what is wanted is so.
    fn settle(&self) {
        let what = format!("{} to be current, seeded and at rest", self.current);
        until(&what, PATIENCE, || {
            let state = self.state();
            let error = state["lastError"].as_str().unwrap_or_default();
            let pin = self.document_pin.or(self.node_pin);
            let told = match self.document {
                Document::Good => match pin {
                    Some(pin) if !self.published.contains(pin) => error.contains(pin),
                    _ => error.is_empty(),
                },
                Document::Broken => error.contains("app.yaml"),
                Document::Removed => state["observedGeneration"].is_null(),
            };
            let seeded = fs::read_to_string(self.node.root().join("boot/app/VERSION")).ok();
            let settled = state["current"] == self.current && seeded.as_deref() == Some(self.current);
            let pinned = self.document != Document::Good || state["pin"].as_str() == pin;
            (told && settled && pinned && state["progress"].is_null()).then_some(())
        });
    }

    /// Status, `current/`, disk and index agree, before and after collection and over restarts.
    fn check(&mut self) {
        self.settle();
        self.agree();
        let before = self.collect();
        self.kill();
        self.says_the_same(&before, "after a kill");
        self.node.terminate();
        fs::remove_dir_all(self.node.store().join("index")).unwrap();
        self.node.start();
        self.says_the_same(&before, "without the index");
        self.settle();
        self.agree();
        let most = self.watchman.most();
        assert!(most <= BUDGET, "{most} bytes were on disk, {BUDGET} are allowed");
    }

    /// What status lists is what is on disk, and every file in it is of its version.
    fn agree(&self) {
        let dirs = || -> BTreeSet<String> {
            let entries = fs::read_dir(self.node.store().join("versions/app")).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        // What is being removed goes from both, not at one moment.
        let listed = until("status to list what is on disk", PATIENCE, || {
            let state = self.state();
            let rows = state["versions"].as_array().unwrap().iter();
            let listed: BTreeSet<String> = rows.map(|row| row["version"].as_str().unwrap().to_owned()).collect();
            (listed == dirs()).then_some(listed)
        });
        for version in &listed {
            let tree = self.node.tree("app", version);
            let Ok(said) = fs::read_to_string(tree.join("VERSION")) else {
                assert!(!dirs().contains(version), "{version} is there and has no VERSION");
                continue;
            };
            assert_eq!(said, *version);
        }
        let link = self.node.store().join("current/app");
        assert_eq!(real(&link), real(&self.node.tree("app", self.current)), "current/app");
        let path = "/v1/artifacts/app/versions/current/files/VERSION";
        assert_eq!(self.node.get(path).text(), self.current, "over HTTP");
    }

    /// Collects, and gives what is kept then, by name. What the dry run said is what happened.
    fn collect(&self) -> BTreeMap<String, Value> {
        let foretold = self.fates("/v1/gc?dryRun=true");
        let told = self.fates("/v1/gc");
        let rows = ready_rows(&self.state());
        let kept = |fates: &Fates| -> BTreeSet<String> {
            let kept = fates.iter().filter(|(_, (fate, _))| fate == "kept");
            kept.map(|(version, _)| version.clone()).collect()
        };
        assert_eq!(rows.keys().cloned().collect::<BTreeSet<_>>(), kept(&told), "{told:?}");
        for (version, (fate, why)) in &foretold {
            assert!(!why.is_empty(), "{foretold:?}");
            // A reader may have come or gone between the two.
            if !why.contains("read") {
                assert_eq!(rows.contains_key(version), fate == "kept", "{version}: {foretold:?}, then {told:?}");
            }
        }
        // Besides the newest: what is current, pinned and leased. A refused document says nothing of what to keep.
        if self.document != Document::Broken {
            assert!(rows.len() <= RETAINED + 3, "{told:?}");
        }
        for version in [Some(self.current), self.leased].into_iter().flatten() {
            assert!(rows.contains_key(version), "{version} must be kept: {told:?}");
        }
        rows
    }

    fn fates(&self, path: &str) -> Fates {
        let (status, told) = self.ask("POST", path, &json!({}));
        assert_eq!(status, 200, "{told}");
        let of_app = told["fates"].as_array().unwrap().iter().filter(|fate| fate["artifact"] == "app");
        let text = |fate: &Value, field: &str| fate[field].as_str().unwrap().to_owned();
        of_app.map(|fate| (text(fate, "version"), (text(fate, "fate"), text(fate, "why")))).collect()
    }

    fn says_the_same(&self, before: &BTreeMap<String, Value>, when: &str) {
        let state = self.state();
        assert_eq!(state["current"], self.current, "{when}");
        assert_eq!(ready_rows(&state), *before, "{when}");
    }
}

fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What lasts of the rows of a state's versions, but of those that are on their way out.
fn ready_rows(state: &Value) -> BTreeMap<String, Value> {
    let rows = state["versions"].as_array().unwrap().iter().filter(|row| row["state"] == "Ready");
    let lasting = |row: &Value| ["digest", "bytes", "files", "publishedAt", "weak"].map(|field| row[field].clone());
    rows.map(|row| (row["version"].as_str().unwrap().to_owned(), json!(lasting(row)))).collect()
}

fn document(releases: &Releases, pin: Option<&str>) -> String {
    let pin = pin.map(|pin| format!("  pin: {pin}\n")).unwrap_or_default();
    let more =
        format!("  refresh: 1s\n  retain: {{versions: {RETAINED}, for: 0s}}\n  seeds: [{{target: boot/app}}]\n{pin}");
    releases.document_with("app", true, &more)
}

#[test]
fn a_month_of_an_operators_life() {
    let mut month = Month::begin("v01");
    month.release("v02");

    // Back to what is here costs no download; what comes meanwhile does not matter.
    let fetched = month.fetched("v01");
    month.pin_in_document(Some("v01"));
    assert_eq!(month.fetched("v01"), fetched);
    month.release("v03");
    assert_eq!(month.current, "v01");
    month.pin_in_document(None);
    assert_eq!(month.current, "v03");

    // The node's own pin: to what is here, to what is nowhere, and off.
    month.pin_on_node(Some("v02"));
    month.pin_on_node(Some("v77"));
    assert_eq!(month.current, "v02");
    month.release("v04");
    month.pin_on_node(None);
    assert_eq!(month.current, "v04");

    // Documents break and are mended.
    month.step("the document is broken", |month| month.mount(Document::Broken));
    month.step("it is broken in another way", |month| month.mount(Document::Broken));
    month.step("it is mended", |month| month.mount(Document::Good));
    month.release("v05");

    // A version that was passed over is pinned: it is fetched first.
    month.step("v06 is published, v07 is latest", |month| {
        month.publish("v06");
        month.publish("v07");
        month.latest = "v07";
        month.releases.point_to("v07");
        month.refresh();
    });
    assert_eq!(month.fetched("v06"), 0);
    month.pin_in_document(Some("v06"));
    assert!(month.fetched("v06") > 0);
    // The document's pin wins.
    month.pin_on_node(Some("v07"));
    assert_eq!(month.current, "v06");
    month.pin_in_document(Some("v78"));
    assert_eq!(month.current, "v06");
    month.pin_in_document(None);
    assert_eq!(month.current, "v07");
    month.pin_on_node(None);

    // A job works on v07 while four newer ones come.
    month.lease(Some("v07"));
    month.release("v08");
    month.step("the document is removed", |month| month.mount(Document::Removed));
    month.step("it comes back", |month| month.mount(Document::Good));
    for version in ["v09", "v10", "v11"] {
        month.release(version);
    }
    assert!(month.node.tree("app", "v07").exists(), "it is leased");
    month.lease(None);
    assert!(!ready_rows(&month.state()).contains_key("v07"), "nobody holds it any more");

    month.release("v12");
    let most = month.watchman.most();
    eprintln!("the month took {:?}; at most {most} of {BUDGET} bytes were on disk", month.began.elapsed());
}
