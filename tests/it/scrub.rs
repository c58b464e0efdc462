//! Damage in the store is found before the next seed, or by the scrub, and repaired; the next reader gets good bytes
//! only.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::fixture::archive::app;
use crate::fixture::node::Node;
use crate::fixture::releases::Releases;
use crate::fixture::system::run;
use crate::fixture::{PATIENCE, sha256, until};

/// A day apart, so that nothing is scrubbed by itself.
const ONLY_WHEN_ASKED: &str = "scrub: {every: 24h}\n";
const AT_ONCE: &str = "scrub: {every: 1s, bytesPerSecond: 1GiB}\n";

struct Case {
    releases: Releases,
    node: Node,
}

/// What a target holds, but for the sizes of directories.
fn contents(root: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => dirs.push(entry.path()),
                _ => found.push((
                    entry.path().strip_prefix(root).unwrap().to_owned(),
                    sha256(&fs::read(entry.path()).unwrap()),
                )),
            }
        }
    }
    found.sort();
    assert!(!found.is_empty());
    found
}

/// The largest file below `root`.
fn largest(root: &Path) -> PathBuf {
    let files = contents(root).into_iter().map(|(path, _)| root.join(path));
    files.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

/// Flips a byte as a root pod would that does not want to be seen: mode, size and time stay as they were.
fn flip(path: &Path) {
    let before = fs::metadata(path).unwrap();
    let modified: SystemTime = before.modified().unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, before.len() / 2).unwrap();
    file.write_all_at(&[byte[0] ^ 1], before.len() / 2).unwrap();
    file.set_modified(modified).unwrap();
    drop(file);
    fs::set_permissions(path, before.permissions()).unwrap();
    let after = fs::metadata(path).unwrap();
    assert_eq!((after.len(), after.mode(), after.mtime_nsec()), (before.len(), before.mode(), before.mtime_nsec()));
}

impl Case {
    fn new(settings: &str, more: &str) -> Self {
        let releases = Releases::with("v1");
        let document = releases.document_with("app", true, more);
        let node = Node::builder().settings(settings).document("app.yaml", &document).start();
        node.wait_ready("app");
        Self { releases, node }
    }

    fn seed(&self, target: &str) -> Value {
        self.node.seed("app@v1", target, &["--link", "hardlink"]).ok().json()
    }

    fn at(&self, target: &str) -> PathBuf {
        self.node.root().join(target)
    }

    /// How often the archive of a version was asked for.
    fn fetched(&self, version: &str) -> usize {
        self.releases.origin.requests(&Releases::path(version)).len()
    }

    fn metric(&self, name: &str) -> f64 {
        let text = self.node.get("/metrics").text();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
    }

    /// Waits until so many damaged versions are here again.
    fn repaired(&self, count: usize) {
        until("the repair", PATIENCE, || {
            (self.metric("seedcache_store_repaired_versions_total") >= count as f64).then_some(())
        });
        assert_eq!(self.metric("seedcache_store_damaged_versions_total"), count as f64);
    }

    /// Moves `latest` on, so that v1 is a version that is only kept.
    fn go_on_to_v2(&self) {
        self.releases.publish("v2", &app("v2", 400_000));
        self.releases.point_to("v2");
        self.node.cli(&["refresh", "app", "--wait"]).ok();
    }
}

#[test]
fn a_byte_flipped_through_a_seed_is_found_before_the_next_one() {
    let case = Case::new(ONLY_WHEN_ASKED, "");
    case.seed("one");
    let good = contents(&case.at("one"));
    case.seed("another");
    let fetched = case.fetched("v1");
    flip(&largest(&case.at("one")));
    assert_ne!(contents(&case.at("another")), good, "they share their inodes");
    case.seed("two");
    assert_eq!(contents(&case.at("two")), good);
    assert_eq!(case.fetched("v1"), fetched + 1);
    case.repaired(1);
    for target in ["one", "another"] {
        assert_eq!(contents(&case.at(target)), good, "{target}");
    }
    let (store, seeded) = (largest(&case.node.tree("app", "v1")), largest(&case.at("one")));
    assert_eq!(fs::metadata(store).unwrap().ino(), fs::metadata(seeded).unwrap().ino());
    assert_eq!(case.seed("one")["changed"], false);
}

#[test]
fn a_reader_over_http_gets_no_damaged_bytes_after_a_restart_either() {
    let mut case = Case::new(ONLY_WHEN_ASKED, "");
    case.seed("one");
    case.node.restart();
    case.node.wait_ready("app");
    flip(&largest(&case.at("one")));
    let file = largest(&case.at("one")).strip_prefix(case.at("one")).unwrap().display().to_string();
    let answer = case.node.get(&format!("/v1/artifacts/app/versions/v1/files/{file}"));
    assert_eq!(answer.status, 500, "what was known before the restart is known after it");
    case.repaired(1);
    let answer = case.node.get(&format!("/v1/artifacts/app/versions/v1/files/{file}"));
    assert_eq!(answer.status, 200);
    assert_eq!(sha256(&answer.body), sha256(&fs::read(largest(&case.at("one"))).unwrap()));
}

#[test]
fn a_seed_after_one_was_removed_by_its_pod_finds_the_files_read_already() {
    let case = Case::new("scrub: {every: 24h}\nlog: {level: 'seedcache=debug,info'}\n", "");
    case.seed("one");
    let size = fs::metadata(largest(&case.at("one"))).unwrap().len();
    fs::remove_dir_all(case.at("one")).unwrap();
    let done = || case.node.log_text().contains("were read: they are good");
    until("the files to be read again", PATIENCE, || done().then_some(()));
    assert!(case.metric("seedcache_store_scrubbed_bytes_total") >= size as f64);
    let read = || -> u64 {
        let counts = fs::read_to_string(format!("/proc/{}/io", case.node.pid())).unwrap();
        counts.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
    };
    let before = read();
    case.seed("two");
    assert!(read() - before < size, "it read {} bytes", read() - before);
    assert_eq!(case.metric("seedcache_store_damaged_versions_total"), 0.0);
}

#[test]
fn the_scrub_finds_it_by_itself_and_mends_the_seeds() {
    let case = Case::new(AT_ONCE, "  seeds: [{target: declared, link: hardlink}]\n");
    case.node.wait_state("app", "seeded", PATIENCE, |state| state["seeds"][0]["state"] == "Ready");
    case.seed("by-hand");
    let good = contents(&case.at("by-hand"));
    until("a first scrub", PATIENCE, || (case.metric("seedcache_store_scrubbed_versions_total") >= 1.0).then_some(()));
    flip(&largest(&case.at("declared")));
    case.repaired(1);
    for target in ["by-hand", "declared"] {
        assert_eq!(contents(&case.at(target)), good, "{target}");
    }
    assert!(case.metric("seedcache_store_scrubbed_bytes_total") > 0.0);
    let reason = case.node.store().join("quarantine/app/v1/reason.json");
    let reason: Value = serde_json::from_slice(&fs::read(reason).unwrap()).unwrap();
    assert_eq!(reason["check"], "scrub", "{reason}");
}

#[test]
fn a_kept_archive_repairs_without_the_origin() {
    let case = Case::new(ONLY_WHEN_ASKED, "  keepArchive: true\n");
    case.seed("one");
    let good = contents(&case.at("one"));
    let fetched = case.fetched("v1");
    case.releases.origin.always(&Releases::path("v1"), crate::fixture::origin::Fault::Status(503, None));
    flip(&largest(&case.at("one")));
    case.seed("two");
    assert_eq!(contents(&case.at("two")), good);
    case.repaired(1);
    assert_eq!(contents(&case.at("one")), good);
    assert_eq!(case.fetched("v1"), fetched);
    let manifest = case.node.get_json("/v1/artifacts/app/versions/v1");
    let source = manifest["sourceUrl"].as_str().unwrap_or_else(|| panic!("{manifest}"));
    assert!(source.starts_with("http"), "{source}");
}

#[test]
fn a_version_that_is_only_kept_is_repaired_too() {
    let case = Case::new(ONLY_WHEN_ASKED, "");
    case.seed("one");
    case.go_on_to_v2();
    let good = contents(&case.at("one"));
    let before = case.node.state("app");
    flip(&largest(&case.at("one")));
    case.node.cli(&["verify", "app@v1"]).exits(1);
    case.node.cli(&["verify", "app@v1", "--repair"]).ok();
    case.repaired(1);
    assert_eq!(contents(&case.at("one")), good);
    let after = case.node.state("app");
    assert_eq!(after["current"], "v2");
    // As old as it was: the newest is still the other one.
    let order = |state: &Value| {
        let rows = state["versions"].as_array().unwrap().iter();
        rows.map(|row| (row["version"].clone(), row["publishedAt"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(order(&after), order(&before));
    case.node.cli(&["verify", "app"]).ok();
}

#[test]
fn a_repair_that_was_cut_short_goes_on_after_a_restart() {
    let mut case = Case::new(ONLY_WHEN_ASKED, "");
    case.seed("one");
    let good = contents(&case.at("one"));
    case.go_on_to_v2();
    case.releases.origin.always(&Releases::path("v1"), crate::fixture::origin::Fault::Status(503, None));
    flip(&largest(&case.at("one")));
    case.node.seed("app@v1", "two", &["--wait", "1s"]).exits(4);
    let state = case.node.wait_state("app", "why", PATIENCE, |state| state["lastError"].is_string());
    assert!(state["lastError"].as_str().unwrap().contains("v1"), "{state}");
    assert_eq!((&state["current"], &state["state"]), (&"v2".into(), &"Ready".into()), "{state}");
    case.node.kill9();
    case.releases.origin.heal(&Releases::path("v1"));
    case.node.start();
    case.node.wait_state("app", "v1 again", Duration::from_secs(120), |state| {
        state["versions"].as_array().unwrap().iter().any(|row| row["version"] == "v1")
    });
    until("the seed to be mended", PATIENCE, || (contents(&case.at("one")) == good).then_some(()));
}

#[test]
fn the_scrub_waits_for_a_disk_that_nobody_else_wants() {
    let case = Case::new(ONLY_WHEN_ASKED, "");
    let tasks = format!("/proc/{}/task", case.node.pid());
    let named = |wanted: &str| {
        let tasks = fs::read_dir(&tasks).unwrap().map(|task| task.unwrap().path());
        let is = |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == wanted);
        tasks.filter(is).map(|task| task.file_name().unwrap().to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let class = |thread: &str| run("ionice", ["-p", thread]).trim().to_owned();
    until("the scrub's thread to step back", PATIENCE, || match &named("scrub")[..] {
        [thread] => (class(thread) == "idle").then_some(()),
        _ => None,
    });
    let others = named("tokio-rt-worker");
    assert!(!others.is_empty() && others.iter().all(|thread| class(thread) != "idle"), "only that thread");
}
