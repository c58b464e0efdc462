//! What of what can be seen of a node is not as it must be: versions, targets and pods' directories are held, entry by entry
//! with all their metadata, against what tar(1) makes of the origin's archives.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::world::{World, archive, held, version};
use crate::fixture::scratch;
use crate::fixture::system::run;
use crate::volatile_disk::Seen;

/// A version's tree.
struct Tree {
    unpacked: Seen,
    /// As the store holds it: nobody writes to it.
    stored: Seen,
}

/// What a version must be; the last ones asked for are kept.
fn tree(number: u32) -> Arc<Tree> {
    const KEPT: usize = 64;
    static TREES: LazyLock<Mutex<BTreeMap<u32, Arc<Tree>>>> = LazyLock::new(Mutex::default);
    let mut trees = TREES.lock().unwrap_or_else(PoisonError::into_inner);
    if trees.len() > KEPT {
        trees.pop_first();
    }
    let made = || {
        let dir = scratch();
        let (tgz, into) = (dir.path().join("archive"), dir.path().join("tree"));
        fs::write(&tgz, archive(number)).unwrap();
        fs::create_dir(&into).unwrap();
        let how = ["--strip-components=1", "--delay-directory-restore", "--same-owner", "-xpzf"];
        run("tar", [&["-C", into.to_str().unwrap()], &how[..], &[tgz.to_str().unwrap()]].concat());
        let unpacked = Seen::of(&into);
        Arc::new(Tree { stored: unpacked.without_write_bits(), unpacked })
    };
    trees.entry(number).or_insert_with(made).clone()
}

fn of_version(name: &str) -> Arc<Tree> {
    tree(name.strip_prefix('v').and_then(|number| number.parse().ok()).unwrap())
}

/// A target that was said to be done.
#[derive(Debug, Clone)]
pub(super) struct Done {
    pub(super) version: String,
    /// How its files were handed on.
    pub(super) mode: String,
}

impl World {
    /// What is wrong with what is visible. What is just being removed or seeded is looked at again, for a while, and what
    /// was another afterwards for as long as it takes.
    pub(super) fn wrong(&self, patience: Duration) -> Vec<String> {
        const LOOKS: usize = 3;
        let (began, mut looks) = (Instant::now(), 0);
        loop {
            looks += 1;
            let before = self.state();
            let wrong = self.look(before.as_ref());
            let late = began.elapsed();
            let stands = before.as_ref().map(visible) == self.state().as_ref().map(visible);
            if wrong.is_empty() || late > super::PATIENCE || (stands && looks >= LOOKS && late >= patience) {
                return wrong;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn look(&self, state: Option<&Value>) -> Vec<String> {
        let mut wrong = Vec::new();
        // What a command said to be done is, whether the daemon answers or not.
        for (target, done) in &self.done {
            compare_target(target, done, self.marks, &mut wrong);
        }
        let Some(state) = state else { return wrong };
        for name in held(state) {
            let place = self.node.tree("app", &name);
            compare(&of_version(&name).stored, &place, 0o7777, &mut wrong);
        }
        let link = fs::read_link(self.node.store().join("current/app")).ok();
        let says = state["current"].as_str().map(|current| format!("../versions/app/{current}/tree").into());
        if link != says {
            wrong.push(format!("current is {}, and its link leads to {link:?}", state["current"]));
        }
        if let Some(current) = state["current"].as_str() {
            let answer = self.node.get("/v1/artifacts/app/versions/current/files/VERSION");
            // Another may be current by now.
            let body = answer.text();
            if answer.status != 200 || (body != current && !held(state).contains(&body)) {
                wrong.push(format!("served as {current}: {} {body}", answer.status));
            }
        }
        let seeds = state["seeds"].as_array().cloned().unwrap_or_default();
        // What a pod has is looked at above: its row says neither where it is nor whether it is still there.
        for seed in seeds.iter().filter(|seed| seed["state"] == "Ready" && seed["byHandle"] == false) {
            let text = |name: &str| seed[name].as_str().unwrap_or_default().to_owned();
            let done = Done { version: text("version"), mode: text("mode") };
            compare_target(&self.node.root().join(text("target")), &done, self.marks, &mut wrong);
        }
        wrong
    }
}

/// What of a state is visible on the disk.
fn visible(state: &Value) -> (Value, Vec<String>, Value) {
    (state["current"].clone(), held(state), state["seeds"].clone())
}

/// Where targets have their marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marks {
    /// In an attribute.
    OnTarget,
    /// The same; where there was no room for an attribute, in a file of the pod's or in the daemon's records.
    Elsewhere,
}

/// A target has its version's tree and the mark that says so.
fn compare_target(target: &Path, done: &Done, marks: Marks, wrong: &mut Vec<String>) {
    let data = target.join("..data");
    let linked = data.is_symlink();
    // A hard-linked file is the store's, without write bits.
    let mask = if done.mode == "hardlink" { 0o7555 } else { 0o7777 };
    let tree = if linked { &data } else { target };
    compare(&of_version(&done.version).unpacked, tree, mask, wrong);
    if linked && fs::read(target.join("VERSION")).ok().as_deref() != Some(done.version.as_bytes()) {
        wrong.push(format!("{}: VERSION leads elsewhere", target.display()));
    }
    if target.ends_with("whole") && fs::read(target.join("about")).ok().as_deref() != Some(done.version.as_bytes()) {
        wrong.push(format!("{}: about says another version", target.display()));
    }
    let mut mark = vec![0; 4096];
    let mark = rustix::fs::getxattr(tree, "user.seedcache", &mut mark[..]).map(|len| mark[..len].to_vec());
    let mut said = mark.as_ref().ok().and_then(|mark| serde_json::from_slice::<Value>(mark).ok());
    if said.is_none() && marks == Marks::Elsewhere {
        wrong.retain(|line| !line.ends_with(": .seedcache-mark: not expected"));
        let file = fs::read(tree.join(".seedcache-mark")).ok();
        said = file.as_ref().and_then(|file| serde_json::from_slice(file).ok());
        // The record is what says that the daemon's own is ready.
        let is_recorded = file.is_none() && !target.components().any(|part| part.as_os_str() == "pods");
        said = said.or_else(|| is_recorded.then(|| serde_json::json!({"version": done.version, "artifact": "app"})));
    }
    if said.as_ref().is_none_or(|said| said["version"] != *done.version || said["artifact"] != "app") {
        wrong.push(format!("{}: its mark is {said:?}, not {}", target.display(), done.version));
    }
}

fn compare(expected: &Seen, place: &Path, mask: u32, wrong: &mut Vec<String>) {
    match Seen::try_of(place) {
        Ok(found) => {
            // Lists, marks in files, what was rendered, and older trees behind `..data`.
            let ours = |line: &String| {
                line.starts_with(".seedcache-owned:") || line.starts_with("about:") || line.starts_with("..")
            };
            let lines = expected.differences(&found, mask).into_iter().filter(|line| !ours(line));
            wrong.extend(lines.map(|line| format!("{}: {line}", place.display())));
        }
        Err(error) => wrong.push(format!("{}: {error}", place.display())),
    }
}
