//! A node with all that can fail on its disk: an artifact that is followed, its targets by every swap, pins, leases, and
//! directories of pods, one of them on another file system; what each step asks of it, and what it must come to.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::look::{Done, Marks};
use crate::fixture::archive::{Archive, MTIME};
use crate::fixture::node::{Node, Over};
use crate::fixture::origin::Fault;
use crate::fixture::releases::Releases;
use crate::fixture::syscalls::{Supervisor, Watch};
use crate::fixture::system::run_as_root;
use crate::fixture::{noise, sha256};

/// Targets that the document declares.
const TARGETS: [&str; 3] = ["whole", "linked", "within"];

pub(super) struct World {
    releases: Releases,
    pub(super) node: Node,
    pub(super) watch: Watch,
    pods: PathBuf,
    document: String,
    /// The number of the newest version on the origin.
    newest: u32,
    /// How often the document's recipe was changed, and under which the newest version was made before the last time.
    recipes: u32,
    recipe_before: Value,
    /// What commands said to have seeded, by directory.
    pub(super) done: BTreeMap<PathBuf, Done>,
    /// The version that `hand` was said to hold.
    hand: Option<String>,
    pub(super) marks: Marks,
    _other: Mounted,
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
    Step { name: "another recipe", ask: World::change_recipe, done: World::made_anew, again: false },
    Step { name: "wrong bytes", ask: |world| world.update(false), done: World::at_newest, again: false },
    Step { name: "pin", ask: World::pin, done: World::at_older, again: true },
    Step { name: "unpin", ask: World::unpin, done: World::at_newest, again: true },
    Step { name: "lease", ask: World::lease, done: |world| world.leases() == 1, again: true },
    Step { name: "end lease", ask: World::end_lease, done: |world| world.leases() == 0, again: true },
    Step { name: "seed", ask: World::seed, done: World::seeded, again: true },
    Step { name: "fill", ask: World::fill, done: |world| world.is_done("pod"), again: true },
    Step { name: "client", ask: World::receive, done: |world| world.is_done("other/pod"), again: true },
    Step {
        name: "client by symlink",
        ask: |world| world.swap("symlink"),
        done: |world| world.is_swapped("symlink"),
        again: true,
    },
    Step {
        name: "client in place",
        ask: |world| world.swap("inPlace"),
        done: |world| world.is_swapped("inPlace"),
        again: true,
    },
    Step { name: "or-fetch", ask: World::or_fetch, done: |world| world.is_done("fetched"), again: true },
    Step { name: "repair", ask: World::repair, done: World::at_newest, again: true },
    Step { name: "remove", ask: World::remove, done: |world| world.held().len() == 1, again: true },
    Step { name: "restart", ask: World::restart, done: World::at_newest, again: true },
    Step { name: "resume", ask: World::resume, done: World::at_newest, again: true },
    Step { name: "first start", ask: World::first_start, done: World::at_newest, again: true },
];

pub(super) fn version(number: u32) -> String {
    format!("v{number}")
}

/// Of a version: files that are the same in all and others, one of each too large to be held in memory; an empty directory;
/// owners and modes of several kinds.
pub(super) fn archive(number: u32) -> Vec<u8> {
    Archive::new()
        .dir("app/", 0o755)
        .dir("app/bin/", 0o751)
        .dir("app/empty/", 0o700)
        .file("app/VERSION", 0o644, version(number).as_bytes())
        .file("app/bin/run", 0o755, format!("#!/bin/sh\necho {number}\n").as_bytes())
        .file("app/large", 0o644, &noise(number.into(), 1_100_000))
        .continued_by((1234, 5678), MTIME)
        .file("app/same", 0o640, b"the same in all")
        .file("app/same-large", 0o600, &noise(1 << 40, 1_100_000))
        .symlink("app/link", "VERSION")
        .hard_link("app/second", "app/same")
        .tgz()
}

/// Names of the versions that a state tells of.
pub(super) fn held(state: &Value) -> Vec<String> {
    let versions = state["versions"].as_array().cloned().unwrap_or_default();
    versions.iter().map(|v| v["version"].as_str().unwrap().to_owned()).collect()
}

/// A file system in memory, on a directory.
struct Mounted(PathBuf);

impl Mounted {
    fn at(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        run_as_root("mount", ["-t", "tmpfs", "-o", "size=64m", "tmpfs", path.to_str().unwrap()]);
        Self(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run_as_root("umount", ["-l", self.0.to_str().unwrap()]);
    }
}

impl World {
    /// In a directory of its own below `place`.
    pub(super) fn new(supervisor: &Supervisor, place: &Path) -> Self {
        let dir = tempfile::tempdir_in(place).unwrap();
        let (root, pods) = (dir.path().join("root"), dir.path().join("pods"));
        fs::create_dir(&pods).unwrap();
        let other = Mounted::at(pods.join("other"));
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
        let mut world = Self {
            releases,
            node,
            watch,
            pods,
            document,
            newest: 1,
            recipes: 0,
            recipe_before: Value::Null,
            done: BTreeMap::new(),
            hand: None,
            marks: Marks::OnTarget,
            _other: other,
            _dir: Some(dir),
        };
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
        for swap in ["symlink", "inPlace"] {
            if step.name.ends_with(if swap == "symlink" { "by symlink" } else { "in place" }) {
                let older = format!("app@{}", version(self.older()));
                let way = ["--wait", "5s", "--swap", swap];
                self.seed_by_command(&older, &format!("other/{swap}"), &way).unwrap();
            }
        }
        // Seeds that share the files that it damages, besides the declared ones.
        if step.name == "repair" {
            let wanted = version(self.newest);
            if fs::read_to_string(self.node.root().join("hand/VERSION")).ok().as_deref() != Some(&*wanted) {
                self.seed().unwrap();
            }
            if self.done.get(&self.pods.join("pod")).is_none_or(|done| done.version != wanted) {
                self.fill().unwrap();
            }
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

    /// One that takes the same entries: what it makes of the newest version takes that one's place.
    fn change_recipe(&mut self) -> Result<(), String> {
        self.recipe_before = self.recipe();
        self.recipes += 1;
        let unpack = format!("{{stripComponents: 1, exclude: [nothing-{}]}}", self.recipes);
        self.node.write_config("app.yaml", &self.document.replace("{stripComponents: 1}", &unpack));
        Ok(())
    }

    /// Under which the newest version on the node was made.
    fn recipe(&self) -> Value {
        let manifest = self.node.store().join("versions/app").join(version(self.newest)).join("manifest.json");
        let manifest = fs::read(manifest).ok().and_then(|json| serde_json::from_slice::<Value>(&json).ok());
        manifest.map_or(Value::Null, |manifest| manifest["recipe"].clone())
    }

    fn made_anew(&self) -> bool {
        let recipe = self.recipe();
        !recipe.is_null() && recipe != self.recipe_before && self.at_newest()
    }

    fn at(&self, number: u32) -> bool {
        let Some(state) = self.state() else { return false };
        let name = version(number);
        let seeds = state["seeds"].as_array().unwrap();
        let seeded = |target: &&str| {
            seeds.iter().any(|s| s["target"] == **target && s["version"] == *name && s["state"] == "Ready")
        };
        state["current"] == *name && state["lastError"].is_null() && TARGETS.iter().all(seeded)
    }

    fn at_newest(&self) -> bool {
        // The newest two, and those that `hand`, the pod and the lease hold.
        self.at(self.newest) && self.held().len() <= 5
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
        self.state().as_ref().map(held).unwrap_or_default()
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
        let other = version(if held == version(self.newest) { self.older() } else { self.newest });
        self.hand = None;
        self.body("POST", "/v1/artifacts/app/seed", Some(json!({"target": "hand", "version": other})))?;
        self.hand = Some(other);
        Ok(())
    }

    fn seeded(&self) -> bool {
        let seeds = self.state().and_then(|state| state["seeds"].as_array().cloned()).unwrap_or_default();
        let is_hand = |seed: &Value| seed["target"] == "hand" && seed["state"] == "Ready";
        let hand = seeds.into_iter().find(is_hand);
        self.hand.is_some() && hand.is_some_and(|seed| seed["version"].as_str() == self.hand.as_deref())
    }

    /// Has the command seed a new directory below those of the pods.
    fn seed_by_command(&mut self, wish: &str, target: &str, more: &[&str]) -> Result<(), String> {
        let _ = fs::remove_dir_all(self.pods.join(target));
        self.seed_again(wish, target, more)
    }

    fn seed_again(&mut self, wish: &str, target: &str, more: &[&str]) -> Result<(), String> {
        let target = self.pods.join(target);
        self.done.remove(&target);
        let words = [&["seed", wish, target.to_str().unwrap(), "-o", "json"], more].concat();
        let said = self.node.cli(&words);
        if said.code != 0 {
            return Err(said.stderr);
        }
        let text = |name: &str| said.json()[name].as_str().unwrap().to_owned();
        self.done.insert(target, Done { version: text("version"), mode: text("mode") });
        Ok(())
    }

    fn is_done(&self, target: &str) -> bool {
        self.done.contains_key(&self.pods.join(target))
    }

    /// A pod's directory, which no path of the daemon leads to.
    fn fill(&mut self) -> Result<(), String> {
        self.seed_by_command("app", "pod", &["--wait", "5s"])
    }

    /// One on another file system: the client writes it.
    fn receive(&mut self) -> Result<(), String> {
        self.seed_by_command("app", "other/pod", &["--wait", "5s"])
    }

    /// The same for one that holds an older version.
    fn swap(&mut self, swap: &str) -> Result<(), String> {
        self.seed_again("app", &format!("other/{swap}"), &["--wait", "5s", "--swap", swap])
    }

    fn is_swapped(&self, swap: &str) -> bool {
        let done = self.done.get(&self.pods.join("other").join(swap));
        done.is_some_and(|done| done.version == version(self.newest))
    }

    /// One where there is no daemon.
    fn or_fetch(&mut self) -> Result<(), String> {
        let name = version(self.newest);
        let url = self.releases.origin.url(&Releases::path(&name));
        let sum = sha256(&archive(self.newest));
        let fetch = ["--or-fetch", &url, "--sha256", &sum, "--strip-components", "1"];
        let nobody = ["--server", "unix:///nobody/listens", "--wait", "5s"];
        self.seed_by_command(&format!("app@{name}"), "fetched", &[&fetch[..], &nobody].concat())
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

    fn begin(&mut self) -> Result<(), String> {
        if self.node.try_start() { Ok(()) } else { Err("it did not start".to_owned()) }
    }

    fn restart(&mut self) -> Result<(), String> {
        if self.node.runs() {
            self.node.terminate();
        }
        self.begin()
    }

    /// With half of a download there.
    fn resume(&mut self) -> Result<(), String> {
        const HALF: u64 = 1_000_000;
        if self.node.runs() {
            self.newest += 1;
            let name = version(self.newest);
            let path = Releases::path(&name);
            self.releases.publish(&name, &archive(self.newest));
            self.releases.origin.once(&path, Fault::StallAfter(HALF));
            self.releases.point_to(&name);
            let asked = self.body("POST", "/v1/artifacts/app/refresh", None);
            let sent = || self.releases.origin.requests(&path).iter().any(|request| request.sent >= HALF);
            let half = asked.is_ok() && super::until(Duration::from_secs(5), sent);
            let part = self.node.store().join("staging/app/archive.part");
            let written = || fs::metadata(&part).is_ok_and(|meta| meta.len() > 0);
            if half {
                super::until(Duration::from_secs(5), written);
            }
            self.node.terminate();
            self.releases.origin.heal(&path);
        }
        self.begin()
    }

    /// With nothing in the store.
    fn first_start(&mut self) -> Result<(), String> {
        if self.node.runs() {
            self.node.terminate();
            fs::remove_dir_all(self.node.store()).unwrap();
        }
        self.begin()
    }

    /// Whether an error is shown to operators.
    pub(super) fn shows_an_error(&self) -> bool {
        let Some(state) = self.state() else { return true };
        let seeds = state["seeds"].as_array().cloned().unwrap_or_default();
        !state["lastError"].is_null() || seeds.iter().any(|seed| seed["state"] == "Failed")
    }
}
