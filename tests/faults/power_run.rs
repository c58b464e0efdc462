//! One run of a power loss: the real daemon on a disk with a volatile cache, at work until the power goes; then what the
//! disk still holds, what the daemon makes of it without its origin, and what comes of both once the origin is there.
//!
//! What must hold: what the API said before the loss (versions, pins, leases) is held against the disk before a daemon has touched it, and against
//! what the origin's archives unpack to by tar(1).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixture::archive::{Archive, MTIME};
use crate::fixture::node::{Node, Over};
use crate::fixture::origin::{Fault, Origin};
use crate::fixture::releases::Releases;
use crate::fixture::system::run;
use crate::fixture::{PATIENCE, noise, scratch, until};
use crate::volatile_disk::{Loss, Order, Seen, VolatileDisk};

const ARTIFACT: &str = "/v1/artifacts/app";
pub(crate) const VERSIONS: usize = 6;
/// Files of a large version: more than the store syncs one by one.
pub(crate) const MANY: usize = 300;

/// What was found to be wrong, and what the run was like.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// In which order the disk makes metadata durable.
    pub(crate) order: Order,
    /// Acknowledged, and gone after the loss.
    pub(crate) lost: Vec<String>,
    /// Seen, and not whole.
    pub(crate) partial: Vec<String>,
    /// What the power took, each time it went.
    pub(crate) losses: Vec<Loss>,
    /// Versions, pins and leases that were acknowledged.
    pub(crate) acknowledged: usize,
    /// Times that everything was made durable at once.
    pub(crate) syncfs: u64,
    /// Targets that no longer said whose they are, and were only replaced when told so.
    pub(crate) unmarked: usize,
}

/// The versions that origins serve, each with the tree that tar(1) makes of it.
pub(crate) struct Shelf {
    small: Vec<Release>,
    large: Vec<Release>,
}

struct Release {
    archive: Vec<u8>,
    tree: Seen,
    /// As the store holds it: nobody writes to it.
    stored: Seen,
}

impl Shelf {
    pub(crate) fn new() -> Self {
        let made = |kind: &str, files| (0..VERSIONS).map(|n| Release::of(archive(kind, n, files))).collect();
        Self { small: made("small", 6), large: made("large", MANY) }
    }

    fn releases(&self, kind: &str) -> &[Release] {
        if kind == "large" { &self.large } else { &self.small }
    }
}

impl Release {
    fn of(archive: Vec<u8>) -> Self {
        let dir = scratch();
        let (tgz, tree) = (dir.path().join("archive"), dir.path().join("tree"));
        fs::write(&tgz, &archive).unwrap();
        fs::create_dir(&tree).unwrap();
        let how = ["--strip-components=1", "--delay-directory-restore", "-xpzf"];
        run("tar", [&["-C", tree.to_str().unwrap()], &how[..], &[tgz.to_str().unwrap()]].concat());
        let tree = Seen::of(&tree);
        Self { archive, stored: tree.without_write_bits(), tree }
    }
}

fn version(n: usize) -> String {
    format!("v{}", n + 1)
}

/// A version with what versions share, what is its own, and one of each kind of entry.
pub(crate) fn archive(kind: &str, n: usize, files: usize) -> Vec<u8> {
    let version = version(n);
    let mut archive = Archive::new()
        .dir("app/", 0o755)
        .file("app/VERSION", 0o644, format!("{kind} {version}\n").as_bytes())
        .dir("app/empty/", 0o700)
        .dir("app/deep/", 0o755)
        .dir("app/deep/er/", 0o751)
        .file("app/deep/er/noise", 0o640, &noise(n as u64 + 1, 150_000 + n * 7_001))
        .file("app/deep/same", 0o644, &noise(99, 20_000))
        .hard_link("app/deep/hard", "app/deep/same")
        .continued_by((1234, 5678), MTIME)
        .file("app/deep/theirs", 0o640, b"of another user")
        .symlink("app/deep/soft", "er/noise")
        .symlink("app/latest", "VERSION");
    for file in 0..files {
        // Every third of them differs from version to version.
        let content = noise(if file % 3 == 0 { (n * 1000 + file) as u64 } else { file as u64 }, 200 + file * 13);
        archive = archive.file(&format!("app/deep/f{file}"), 0o444 + (file as u32 % 2) * 0o111, &content);
    }
    archive.tgz()
}

/// A target, and how it is asked for.
#[derive(Debug, Clone)]
struct Target {
    name: String,
    swap: &'static str,
    link: &'static str,
}

impl Target {
    fn body(&self, force: bool) -> Value {
        json!({"target": self.name, "swap": self.swap, "link": self.link, "force": force})
    }
}

/// A node on its disk, and what it has acknowledged.
struct World<'a> {
    rng: fastrand::Rng,
    shelf: &'a Shelf,
    order: Order,
    kind: &'static str,
    /// Whether old versions may go by themselves.
    collecting: bool,
    // Before the disk, which cannot be unmounted under it.
    node: Node,
    disk: VolatileDisk,
    boot: TempDir,
    releases: Releases,
    published: usize,
    declared: Vec<Target>,
    /// Seeded by hand, or tried to be.
    by_hand: BTreeMap<String, Target>,
    versions: BTreeSet<String>,
    /// Asked to be removed: may be there or not.
    condemned: BTreeSet<String>,
    /// The pin may be any of these: more than one while a change of it is not acknowledged.
    pins: Vec<Option<String>>,
    /// The version that one holder has leased, the same.
    leases: Vec<Option<String>>,
    /// The current version may be any of these.
    currents: BTreeSet<String>,
    outcome: Outcome,
}

/// One run, the same for the same seed as far as threads and clocks are.
pub(crate) fn power_loss(shelf: &Shelf, seed: u64) -> Outcome {
    let mut world = World::start(shelf, seed);
    for _ in 0..world.rng.usize(0..6) {
        world.step();
    }
    let changes = world.rng.u64(0..if world.kind == "large" { 3000 } else { 500 });
    world.disk.cut_after(changes);
    for _ in 0..8 {
        if world.disk.is_cut() {
            break;
        }
        world.step();
    }
    world.lose_power();
    for _ in 0..world.rng.usize(0..3) {
        // It goes again while the daemon is busy with what the first time left.
        let changes = world.rng.u64(0..120);
        world.disk.cut_after(changes);
        let disk = &world.disk;
        if world.node.start_unless(|| disk.is_cut()) {
            until("the power to go or the daemon to rest", PATIENCE, || {
                let state = world.poll();
                (world.disk.is_cut() || state.is_some_and(|state| world.is_rest(&state))).then_some(())
            });
        }
        world.lose_power();
    }
    world.comes_back();
    world.outcome
}

impl<'a> World<'a> {
    fn start(shelf: &'a Shelf, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let order = if rng.bool() { Order::Journal } else { Order::Strict };
        let kind = if rng.u8(0..4) == 0 { "large" } else { "small" };
        let releases = Releases { origin: Origin::start() };
        let target = |name: &str, swap, link| Target { name: name.into(), swap, link };
        let mut declared = vec![
            target("sites/whole", "exchange", "auto"),
            target("sites/links", "symlink", "auto"),
            target("sites/place", "inPlace", "copy"),
        ];
        declared.retain(|_| rng.bool());
        let seeds = declared
            .iter()
            .map(|Target { name, swap, link }| format!("  - {{target: {name}, swap: {swap}, link: {link}}}\n"));
        let seeds: String = seeds.collect();
        let collecting = rng.u8(0..3) == 0;
        let more = [
            if seeds.is_empty() { String::new() } else { format!("  seeds:\n{seeds}") },
            if collecting { "  retain: {versions: 1, for: 0s}\n".to_owned() } else { String::new() },
            if rng.bool() { "  keepArchive: true\n".to_owned() } else { String::new() },
        ];
        let sums = rng.u8(0..3) > 0;
        publish(&releases, shelf, kind, 0);
        let disk = VolatileDisk::new(order);
        let boot = tempfile::tempdir().unwrap();
        let boot_id = boot.path().join("boot_id");
        fs::write(&boot_id, new_boot(&mut rng)).unwrap();
        // The kernel itself goes on over the loss; the daemon must not be told so.
        let enter = format!("mount --bind '{}' /proc/sys/kernel/random/boot_id && exec \"$@\"", boot_id.display());
        let node = Node::builder()
            .document("app.yaml", &releases.document_with("app", sums, &more.concat()))
            .root(disk.path())
            .through(&["unshare", "-m", "sh", "-c", &enter, "sh"])
            .start();
        Self {
            rng,
            shelf,
            order,
            kind,
            collecting,
            disk,
            boot,
            node,
            releases,
            published: 1,
            declared,
            by_hand: BTreeMap::new(),
            versions: BTreeSet::new(),
            condemned: BTreeSet::new(),
            pins: vec![None],
            leases: vec![None],
            currents: BTreeSet::from([version(0)]),
            outcome: Outcome { order, ..Outcome::default() },
        }
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
        let (headers, body) = ([("Content-Type", "application/json")], body.map(Value::to_string));
        let headers = if body.is_some() { &headers[..] } else { &[] };
        let body = body.as_ref().map(String::as_bytes);
        let answer = self.node.try_request(Over::Socket, method, path, headers, body).ok()?;
        let json = if answer.body.is_empty() { Value::Null } else { answer.json() };
        Some((answer.status, json))
    }

    /// Asks for the state, and takes what it says for acknowledged.
    fn poll(&mut self) -> Option<Value> {
        let (status, state) = self.ask("GET", ARTIFACT, None)?;
        if status != 200 {
            return None;
        }
        for version in listed(&state) {
            if self.versions.insert(version) {
                self.outcome.acknowledged += 1;
            }
        }
        Some(state)
    }

    fn is_rest(&self, state: &Value) -> bool {
        let wanted = state["pin"].as_str().map_or(version(self.published - 1), str::to_owned);
        state["state"] == "Ready" && state["current"] == wanted && state["progress"].is_null()
    }

    /// One thing that is done with a node. It ends when that is done, or the power gone.
    fn step(&mut self) {
        match self.rng.u8(0..12) {
            0..=2 => self.release(),
            3 => {
                let pin = version(self.rng.usize(0..self.published));
                self.pin(Some(pin));
            }
            4 => self.pin(None),
            5..=7 => self.seed(),
            8 => {
                let version = version(self.rng.usize(0..self.published));
                self.condemned.insert(version.clone());
                self.ask("DELETE", &format!("{ARTIFACT}/versions/{version}"), None);
            }
            9 => drop(self.ask("POST", "/v1/gc", Some(&json!({})))),
            10 => {
                let leased = version(self.rng.usize(0..self.published));
                self.lease(Some(leased));
            }
            _ => self.lease(None),
        }
        self.poll();
    }

    fn release(&mut self) {
        if self.published < VERSIONS {
            publish(&self.releases, self.shelf, self.kind, self.published);
            self.currents.insert(version(self.published));
            self.published += 1;
        }
        self.ask("POST", &format!("{ARTIFACT}/refresh"), Some(&json!({})));
        // Now and then the next thing is asked for meanwhile.
        if self.rng.bool() {
            self.wait_for_rest();
        }
    }

    fn wait_for_rest(&mut self) {
        let current = until("the daemon to rest", PATIENCE, || {
            let state = self.poll();
            if self.disk.is_cut() {
                return Some(None);
            }
            state.filter(|state| self.is_rest(state)).map(|state| state["current"].as_str().map(str::to_owned))
        });
        // Nothing else is on its way.
        if let Some(current) = current {
            self.currents = BTreeSet::from([current]);
        }
    }

    fn pin(&mut self, pin: Option<String>) {
        self.pins.push(pin.clone());
        self.currents.extend(pin.clone());
        let path = format!("{ARTIFACT}/pin");
        let answer = match &pin {
            Some(version) => self.ask("PUT", &path, Some(&json!({"version": version}))),
            None => self.ask("DELETE", &path, None),
        };
        if let Some((200, _)) = answer {
            self.pins = vec![pin];
            self.outcome.acknowledged += 1;
        }
    }

    fn lease(&mut self, lease: Option<String>) {
        self.leases.push(lease.clone());
        let path = format!("{ARTIFACT}/leases/job");
        let answer = match &lease {
            Some(version) => self.ask("PUT", &path, Some(&json!({"version": version, "ttl": "24h"}))),
            None => self.ask("DELETE", &path, None),
        };
        if let Some((200 | 204, _)) = answer {
            self.leases = vec![lease];
            self.outcome.acknowledged += 1;
        }
    }

    fn seed(&mut self) {
        let swap = *self.rng.choice(&["exchange", "symlink", "inPlace"]).unwrap();
        let link = *self.rng.choice(&["auto", "hardlink", "copy"]).unwrap();
        let target = Target { name: format!("pods/{}", self.rng.u8(0..3)), swap, link };
        self.by_hand.insert(target.name.clone(), target.clone());
        self.ask("POST", &format!("{ARTIFACT}/seed"), Some(&target.body(false)));
    }

    /// The power goes, if it has not yet, and comes back; then the disk is looked at.
    fn lose_power(&mut self) {
        self.disk.cut();
        // What is said from here on is said without a disk.
        for _ in 0..self.rng.u8(0..4) {
            self.poll();
        }
        self.node.power_off();
        self.outcome.syncfs += self.disk.changes().1;
        let loss = self.disk.lose_power(&mut self.rng);
        self.outcome.losses.push(loss);
        fs::write(self.boot.path().join("boot_id"), new_boot(&mut self.rng)).unwrap();
        self.look_at_the_disk();
    }

    fn release_of(&self, version: &str) -> Option<&Release> {
        let n: usize = version.strip_prefix('v')?.parse().ok()?;
        self.shelf.releases(self.kind).get(n.checked_sub(1)?)
    }

    /// What of a version in the store is not as its archive has it.
    fn wrong_in_store(&self, version: &str) -> Vec<String> {
        let found = self.disk.look(&format!(".seedcache/versions/app/{version}/tree"));
        match (self.release_of(version), found) {
            (Some(release), Some(found)) => release.stored.differences(&found, 0o7777),
            (None, _) => vec!["no such version was ever released".to_owned()],
            (_, None) => vec!["not there".to_owned()],
        }
    }

    /// The same of a target.
    fn wrong_at(&self, target: &str, version: &str) -> Vec<String> {
        match (self.release_of(version), self.disk.look(target)) {
            (Some(release), Some(found)) => {
                // Files that are hard links have no write bits.
                let lines = release.tree.differences(&found, 0o7555);
                // Its own list, and a tree from before, which stays for who is on the way through it.
                lines.into_iter().filter(|line| !line.starts_with(".seedcache-") && !line.starts_with("..")).collect()
            }
            (None, _) => vec!["no such version was ever released".to_owned()],
            (_, None) => vec!["not there".to_owned()],
        }
    }

    fn look_at_the_disk(&mut self) {
        if self.collecting {
            let whole = self.currents.iter().any(|version| self.wrong_in_store(version).is_empty());
            if !self.versions.is_empty() && !whole && self.condemned.is_disjoint(&self.currents) {
                self.outcome.lost.push(format!("none of {:?} is on the disk", self.currents));
            }
            // It holds its version, whatever else goes.
            if let [Some(leased)] = &self.leases[..]
                && !self.condemned.contains(leased)
            {
                let wrong = self.wrong_in_store(leased);
                if !wrong.is_empty() {
                    self.outcome.lost.push(format!("{leased}, which is leased: {wrong:?}"));
                }
            }
        } else {
            for version in self.versions.difference(&self.condemned) {
                let wrong = self.wrong_in_store(version);
                if !wrong.is_empty() {
                    self.outcome.lost.push(format!("{version}: {wrong:?}"));
                }
            }
        }
        // Whoever reads the node before the daemon does sees what `current/` leads to.
        if let Some(to) = self.disk.read_link(".seedcache/current/app") {
            let version = to.components().nth_back(1).unwrap().as_os_str().to_str().unwrap().to_owned();
            let wrong = self.wrong_in_store(&version);
            if !wrong.is_empty() {
                self.outcome.partial.push(format!("current/app leads to {}: {wrong:?}", to.display()));
            }
        }
        if self.order == Order::Journal {
            self.look_at_whole_targets();
        }
    }

    /// With a journal, a hard-linked tree that was exchanged, or what `..data` leads to, is there whole, or the one before
    /// is. Those that are asked for in one way only are looked at.
    fn look_at_whole_targets(&mut self) {
        for target in self.declared.iter().filter(|target| target.link != "copy") {
            let tree = match target.swap {
                "symlink" => self.data_of(target),
                _ => Some(target.name.clone()),
            };
            let Some(tree) = tree.filter(|tree| target.swap == "symlink" || self.disk.look(tree).is_some()) else {
                continue;
            };
            let Some(seen) = self.disk.look(&tree) else {
                self.outcome.partial.push(format!("{target:?}: its ..data leads nowhere"));
                continue;
            };
            let said = seen.text("VERSION").unwrap_or_default();
            let version = said.trim().rsplit(' ').next().unwrap().to_owned();
            let wrong = self.wrong_at(&tree, &version);
            if !wrong.is_empty() {
                self.outcome.partial.push(format!("{target:?} holds {version:?}: {wrong:?}"));
            }
        }
    }

    /// What `..data` of a target leads to.
    fn data_of(&self, target: &Target) -> Option<String> {
        let data = self.disk.read_link(&format!("{}/..data", target.name))?;
        Some(format!("{}/{}", target.name, data.display()))
    }

    fn targets(&self) -> Vec<Target> {
        self.declared.iter().chain(self.by_hand.values()).cloned().collect()
    }

    /// The daemon starts on what is left: first without its origin, then with it.
    fn comes_back(&mut self) {
        let paths: Vec<String> = (0..self.published)
            .flat_map(|n| [Releases::path(&version(n)), format!("/{}/SHA256SUMS", version(n))])
            .chain(["/latest".to_owned()])
            .collect();
        paths.iter().for_each(|path| self.releases.origin.always(path, Fault::Status(503, None)));
        self.node.start();
        let state = self.node.state("app");
        let pin = state["pin"].as_str().map(str::to_owned);
        if !self.pins.contains(&pin) {
            self.outcome.lost.push(format!("the pin is {pin:?}, acknowledged was one of {:?}", self.pins));
        }
        self.pins = vec![pin];
        let lease = state["leases"][0]["version"].as_str().map(str::to_owned);
        if !self.leases.contains(&lease) {
            self.outcome.lost.push(format!("the lease is {lease:?}, acknowledged was one of {:?}", self.leases));
        }
        self.leases = vec![lease];
        let listed = listed(&state);
        if !self.collecting {
            let demanded = self.versions.difference(&self.condemned);
            let missing: Vec<&String> = demanded.filter(|version| !listed.contains(*version)).collect();
            if !missing.is_empty() {
                self.outcome.lost.push(format!("not listed: {missing:?}"));
            }
        }
        // What may go at any moment is not looked at.
        for version in listed.iter().filter(|version| !self.collecting || state["current"] == ***version) {
            let wrong = self.wrong_in_store(version);
            if !wrong.is_empty() {
                self.outcome.partial.push(format!("listed {version}: {wrong:?}"));
            }
        }
        let current = state["current"].as_str().filter(|_| self.collecting).map(|version| format!("app@{version}"));
        if !listed.is_empty() && (!self.collecting || current.is_some()) {
            let verified = self.node.cli(&["verify", current.as_deref().unwrap_or("app")]);
            if verified.code != 0 {
                self.outcome.partial.push(format!("verify: {}", verified.all()));
            }
        }
        self.reseed();
        paths.iter().for_each(|path| self.releases.origin.heal(path));
        self.ask("POST", &format!("{ARTIFACT}/refresh"), Some(&json!({})));
        self.wait_for_rest();
        self.reseed();
        let current = self.node.state("app")["current"].as_str().unwrap().to_owned();
        let wrong = self.wrong_in_store(&current);
        if !wrong.is_empty() {
            self.outcome.partial.push(format!("at last {current}: {wrong:?}"));
        }
    }

    /// Every target is asked for again, and holds the current version then.
    fn reseed(&mut self) {
        for target in self.targets() {
            let Some(current) = self.node.state("app")["current"].as_str().map(str::to_owned) else { return };
            let path = format!("{ARTIFACT}/seed");
            let mut answer = self.ask("POST", &path, Some(&target.body(false)));
            // A mark is not synced. Where metadata keep their order it is there before the target is.
            if answer.as_ref().is_some_and(|(status, _)| *status == 409) && self.order == Order::Strict {
                self.outcome.unmarked += 1;
                answer = self.ask("POST", &path, Some(&target.body(true)));
            }
            let Some((200, seeded)) = &answer else {
                self.outcome.partial.push(format!("{target:?} is not seeded again: {answer:?}"));
                continue;
            };
            // Somebody, the daemon itself, may have gone on to another meanwhile.
            let version = seeded["version"].as_str().unwrap_or(&current).to_owned();
            let wrong = match target.swap {
                "symlink" => match self.data_of(&target) {
                    Some(data) => self.wrong_at(&data, &version),
                    None => vec!["no ..data".to_owned()],
                },
                _ => self.wrong_at(&target.name, &version),
            };
            if !wrong.is_empty() {
                self.outcome.partial.push(format!("{target:?} with {version} after its seed: {wrong:?}"));
            }
        }
    }
}

fn publish(releases: &Releases, shelf: &Shelf, kind: &str, n: usize) {
    releases.publish(&version(n), &shelf.releases(kind)[n].archive);
    releases.point_to(&version(n));
}

fn listed(state: &Value) -> BTreeSet<String> {
    let rows = state["versions"].as_array().into_iter().flatten();
    rows.map(|row| row["version"].as_str().unwrap().to_owned()).collect()
}

fn new_boot(rng: &mut fastrand::Rng) -> String {
    let hex = |len: usize, rng: &mut fastrand::Rng| -> String { (0..len).map(|_| rng.digit(16)).collect() };
    format!("{}-{}-4{}-8{}-{}\n", hex(8, rng), hex(4, rng), hex(3, rng), hex(3, rng), hex(12, rng))
}
