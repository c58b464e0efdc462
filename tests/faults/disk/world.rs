//! A node with all that can fail on its disk: an artifact that is followed, its targets by every swap, pins, leases, and a
//! pod's directory; what each step asks of it, and what it must come to.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::fixture::archive::Archive;
use crate::fixture::node::{Node, Over};
use crate::fixture::releases::Releases;
use crate::fixture::syscalls::{Supervisor, Watch};
use crate::fixture::{noise, sha256};

/// What a tree holds: its files' bytes, by path.
type Content = BTreeMap<&'static str, Vec<u8>>;

/// Targets that the document declares.
const TARGETS: [&str; 3] = ["whole", "linked", "within"];

pub(super) struct World {
    releases: Releases,
    pub(super) node: Node,
    pub(super) watch: Watch,
    pods: PathBuf,
    /// The number of the newest version on the origin.
    newest: u32,
    _dir: Option<tempfile::TempDir>,
}

/// One thing that is asked of a node.
pub(super) struct Step {
    pub(super) name: &'static str,
    /// Asks; what is said where it is refused. `Ok`: it was acknowledged.
    pub(super) ask: fn(&mut World) -> Result<(), String>,
    /// Whether all is as it must be in the end.
    pub(super) done: fn(&World) -> bool,
    /// Whoever asked asks again when told that it failed.
    pub(super) again: bool,
}

/// All steps, in an order in which each finds what it needs.
pub(super) const STEPS: &[Step] = &[
    Step { name: "update", ask: |world| world.update(true), done: World::at_newest, again: false },
    Step { name: "wrong bytes", ask: |world| world.update(false), done: World::at_newest, again: false },
    Step { name: "pin", ask: World::pin, done: World::at_older, again: true },
    Step { name: "unpin", ask: World::unpin, done: World::at_newest, again: true },
    Step { name: "lease", ask: World::lease, done: |world| world.leases() == 1, again: true },
    Step { name: "end lease", ask: World::end_lease, done: |world| world.leases() == 0, again: true },
    Step { name: "seed", ask: World::seed, done: World::seeded, again: true },
    Step { name: "fill", ask: World::fill, done: World::filled, again: true },
    Step { name: "repair", ask: World::repair, done: World::at_newest, again: true },
    Step { name: "remove", ask: World::remove, done: |world| world.held().len() == 1, again: true },
    Step { name: "restart", ask: World::restart, done: World::at_newest, again: true },
];

fn version(number: u32) -> String {
    format!("v{number}")
}

/// The files of a version, some the same in all; one of each is too large to be held in memory.
fn content(number: u32) -> Content {
    [
        ("VERSION", version(number).into_bytes()),
        ("bin/run", format!("#!/bin/sh\necho {number}\n").into_bytes()),
        ("large", noise(number.into(), 1_100_000)),
        ("same", b"the same in all".to_vec()),
        ("same-large", noise(1 << 40, 1_100_000)),
    ]
    .into()
}

fn archive(number: u32) -> Vec<u8> {
    let content = content(number);
    let mut archive = Archive::new().dir("app/", 0o755).dir("app/bin/", 0o755);
    for (path, bytes) in &content {
        archive = archive.file(&format!("app/{path}"), 0o644, bytes);
    }
    archive.symlink("app/link", "VERSION").hard_link("app/second", "app/same").tgz()
}

impl World {
    /// In a directory of its own below `place`.
    pub(super) fn new(supervisor: &Supervisor, place: &Path) -> Self {
        let dir = tempfile::tempdir_in(place).unwrap();
        let (root, pods) = (dir.path().join("root"), dir.path().join("pods"));
        fs::create_dir(&pods).unwrap();
        let watch = supervisor.watch(&dir.path().canonicalize().unwrap());
        let releases = Releases::with("v1");
        releases.publish("v1", &archive(1));
        let document = releases.document_with(
            "app",
            true,
            "  keepArchive: true
  retain: {versions: 2, for: 0s}
  seeds:
    - {target: whole, swap: exchange, render: [{path: about, template: '{{ version }}'}]}
    - {target: linked, swap: symlink}
    - {target: within, swap: inPlace, link: copy}
",
        );
        let node = Node::builder().root(&root).document("app.yaml", &document).start();
        let mut world = Self { releases, node, watch, pods, newest: 1, _dir: Some(dir) };
        world.settle();
        world.update(true).unwrap();
        world.settle();
        world
    }

    fn settle(&self) {
        crate::fixture::until("the newest version", crate::fixture::PATIENCE, || self.at_newest().then_some(()));
    }

    /// Has what every step needs: two versions on the node, and the newest of them current.
    pub(super) fn prepare(&mut self, step: &Step) {
        if step.name != "unpin" && self.state().is_some_and(|state| !state["pin"].is_null()) {
            self.unpin().unwrap();
            self.settle();
        }
        if step.name == "end lease" {
            self.lease().unwrap();
        }
        if step.name == "unpin" {
            self.pin().unwrap();
        }
        if self.held().len() < 2 {
            self.update(true).unwrap();
            self.settle();
        }
    }

    fn body(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, String> {
        let headers = [("Content-Type", "application/json")];
        let text = body.map(|body| body.to_string());
        let answer = self.node.try_request(
            Over::Socket,
            method,
            path,
            if text.is_some() { &headers } else { &[] },
            text.as_deref().map(str::as_bytes),
        );
        let answer = answer.map_err(|e| e.to_string())?;
        if (200..300).contains(&answer.status) {
            return Ok(serde_json::from_slice(&answer.body).unwrap_or_default());
        }
        Err(answer.text())
    }

    /// The artifact's state, where the daemon answers.
    pub(super) fn state(&self) -> Option<Value> {
        self.body("GET", "/v1/artifacts/app", None).ok()
    }

    fn update(&mut self, right: bool) -> Result<(), String> {
        self.newest += 1;
        let (name, archive) = (version(self.newest), archive(self.newest));
        let sum = if right { sha256(&archive) } else { sha256(b"other bytes") };
        self.releases.publish_with_sum(&name, &archive, &sum);
        self.releases.point_to(&name);
        if !right {
            let _ = self.body("POST", "/v1/artifacts/app/refresh?wait=20s", None);
            self.releases.publish(&name, &archive);
        }
        self.body("POST", "/v1/artifacts/app/refresh", None).map(drop)
    }

    fn at(&self, number: u32) -> bool {
        let Some(state) = self.state() else { return false };
        let name = version(number);
        let seeds = state["seeds"].as_array().unwrap();
        let seeded = |target: &&str| {
            seeds.iter().any(|s| s["target"] == **target && s["version"] == *name && s["state"] == "Ready")
        };
        state["current"] == *name && state["lastError"].is_null() && TARGETS.iter().all(|target| seeded(target))
    }

    fn at_newest(&self) -> bool {
        // The newest two, and those that `hand` and the pod hold.
        self.at(self.newest) && self.held().len() <= 4
    }

    fn older(&self) -> u32 {
        let numbers = self.held().into_iter().filter_map(|name| name.strip_prefix('v')?.parse().ok());
        numbers.filter(|number| *number < self.newest).max().unwrap_or(self.newest)
    }

    fn at_older(&self) -> bool {
        self.at(self.older()) && self.state().is_some_and(|state| state["pin"] == *version(self.older()))
    }

    /// Names of the versions on the node.
    pub(super) fn held(&self) -> Vec<String> {
        let versions = self.state().and_then(|state| state["versions"].as_array().cloned()).unwrap_or_default();
        versions.iter().map(|v| v["version"].as_str().unwrap().to_owned()).collect()
    }

    fn pin(&mut self) -> Result<(), String> {
        let older = version(self.older());
        self.body("PUT", "/v1/artifacts/app/pin", Some(json!({"version": older}))).map(drop)
    }

    fn unpin(&mut self) -> Result<(), String> {
        self.body("DELETE", "/v1/artifacts/app/pin", None).map(drop)
    }

    fn lease(&mut self) -> Result<(), String> {
        let body = json!({"version": version(self.newest), "ttl": "1h"});
        self.body("PUT", "/v1/artifacts/app/leases/job", Some(body)).map(drop)
    }

    fn end_lease(&mut self) -> Result<(), String> {
        match self.body("DELETE", "/v1/artifacts/app/leases/job", None) {
            Err(_) if self.leases() == 0 => Ok(()),
            other => other.map(drop),
        }
    }

    fn leases(&self) -> usize {
        self.state().and_then(|state| Some(state["leases"].as_array()?.len())).unwrap_or(usize::MAX)
    }

    /// Of another version than the target holds.
    fn seed(&mut self) -> Result<(), String> {
        let held = fs::read_to_string(self.node.root().join("hand/VERSION")).unwrap_or_default();
        let other = if held == version(self.newest) { self.older() } else { self.newest };
        self.body("POST", "/v1/artifacts/app/seed", Some(json!({"target": "hand", "version": version(other)})))
            .map(drop)
    }

    fn seeded(&self) -> bool {
        self.node.root().join("hand/VERSION").exists()
    }

    /// A pod's directory, which no path of the daemon leads to.
    fn fill(&mut self) -> Result<(), String> {
        let target = self.pods.join("pod");
        let _ = fs::remove_dir_all(&target);
        let done = self.node.cli(&["seed", "app", target.to_str().unwrap(), "--wait", "5s"]);
        if done.code == 0 { Ok(()) } else { Err(done.stderr) }
    }

    fn filled(&self) -> bool {
        self.pods.join("pod/VERSION").exists()
    }

    /// Damages a file in the store, then has it found.
    fn repair(&mut self) -> Result<(), String> {
        let path = self.node.tree("app", &version(self.newest)).join("bin/run");
        if path.exists() {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            fs::write(&path, "damaged").unwrap();
        }
        let body = json!({"version": version(self.newest), "repair": true});
        self.body("POST", "/v1/artifacts/app/verify", Some(body)).map(drop)
    }

    fn remove(&mut self) -> Result<(), String> {
        let older = self.older();
        if older == self.newest {
            return Ok(());
        }
        self.body("DELETE", &format!("/v1/artifacts/app/versions/{}?force=true", version(older)), None).map(drop)
    }

    fn restart(&mut self) -> Result<(), String> {
        if self.node.runs() {
            self.node.terminate();
        }
        if self.node.try_start() { Ok(()) } else { Err("it did not start".to_owned()) }
    }

    /// Whether an error is shown to operators.
    pub(super) fn shows_an_error(&self) -> bool {
        let Some(state) = self.state() else { return true };
        let seeds = state["seeds"].as_array().cloned().unwrap_or_default();
        !state["lastError"].is_null() || seeds.iter().any(|seed| seed["state"] == "Failed")
    }

    /// What is wrong with what is visible: versions and targets must have the bytes that the origin has, whole. What is just
    /// being removed or seeded is looked at again.
    pub(super) fn wrong(&self) -> Vec<String> {
        for _ in 0..10 {
            if self.look().is_empty() {
                return Vec::new();
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        self.look()
    }

    fn look(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let Some(state) = self.state() else { return wrong };
        for name in self.held() {
            compare(&name, &self.node.tree("app", &name), &mut wrong);
        }
        if let Some(current) = state["current"].as_str() {
            let answer = self.node.get("/v1/artifacts/app/versions/current/files/VERSION");
            // Another may be current by now.
            let body = answer.text();
            if answer.status != 200 || (body != current && !self.held().contains(&body)) {
                wrong.push(format!("served as {current}: {} {body}", answer.status));
            }
        }
        let seeds = state["seeds"].as_array().cloned().unwrap_or_default();
        for seed in seeds.iter().filter(|seed| seed["state"] == "Ready" && seed["byHandle"] == false) {
            if let (Some(name), Some(target)) = (seed["version"].as_str(), seed["target"].as_str()) {
                compare(name, &self.node.root().join(target), &mut wrong);
            }
        }
        wrong
    }
}

fn compare(name: &str, tree: &Path, wrong: &mut Vec<String>) {
    let number = name.strip_prefix('v').and_then(|number| number.parse().ok()).unwrap();
    let mut content = content(number);
    content.insert("second", content["same"].clone());
    content.insert("link", content["VERSION"].clone());
    for (path, bytes) in content {
        match fs::read(tree.join(path)) {
            Ok(found) if found == bytes => {}
            Ok(found) => wrong.push(format!("{}/{path}: {} other bytes", tree.display(), found.len())),
            Err(error) => wrong.push(format!("{}/{path}: {error}", tree.display())),
        }
    }
}
