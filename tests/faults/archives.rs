//! Archives that mean ill, from a real origin to the real daemon: every case in every compression, whole and byte by byte.
//! What is looked at is the disk around the store, what the store keeps, and what the artifact's state tells.

use std::path::{Component, Path, PathBuf};

use base64::Engine as _;
use serde_json::Value;

use crate::fixture::archive::app;
use crate::fixture::node::{Node, Over};
use crate::fixture::origin::{Fault, Origin};
use crate::fixture::{BIG_PATIENCE, PATIENCE, until};
use crate::hostile::{Case, Expect, OUTSIDE, cases, compress, names, paths};
use crate::report::{Asked, Part, Row};
use crate::volatile_disk::VolatileDisk;

pub(crate) const PART: Part =
    Part { name: "archives", about: "hostile archives, in every compression, whole and byte by byte", run };

/// Documents at a time.
const BATCH: usize = 400;
/// Longer archives come in pieces of more than a byte.
const TRICKLED: usize = 32 * 1024;
/// Names that only these archives give to anything, where they get out.
const NAMES: [&str; 8] = ["escaped", "smuggled", "hidden", "sparse", "x", "y", "z", "p"];

/// What is served, and how.
struct Trial {
    case: Case,
    form: &'static str,
    trickled: bool,
}

impl Trial {
    fn shown(&self) -> String {
        format!("{} ({}{})", self.case.name, self.form, if self.trickled { ", byte by byte" } else { "" })
    }
}

#[derive(Default)]
struct Found {
    /// Refused with the entry named.
    named: Tally,
    /// Refused where none could be.
    nameless: Tally,
    taken: Tally,
    outside: u64,
    links: u64,
}

/// How many came out as they must.
#[derive(Default)]
struct Tally {
    right: u64,
    all: u64,
}

impl Tally {
    fn add(&mut self, right: bool) {
        self.all += 1;
        self.right += u64::from(right);
    }

    fn is_whole(&self) -> bool {
        self.right == self.all
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.right, self.all)
    }
}

fn run(asked: Asked) -> Vec<Row> {
    let origin = Origin::start();
    // Something good, which must stay.
    origin.serve("/app.tgz", app("v1", 10_000));
    let good = document("app", &origin.url("/app.tgz"), "v1");
    let settings = "fetch: {concurrency: 8}";
    let node = Node::builder().settings(settings).document("app.yaml", &good).start();
    node.wait_ready("app");
    let mut found = Found::default();
    for _ in 0..asked.runs.unwrap_or(1) {
        let trials = trials();
        for (at, batch) in trials.chunks(BATCH).enumerate() {
            eprintln!("{} of {}", at * BATCH, trials.len());
            try_all(&node, &origin, batch, at, &mut found);
        }
    }
    assert_eq!(node.state("app")["state"], "Ready", "what was good is not any more");
    node.cli(&["verify", "app"]).ok();
    vec![row("hostile archives", &found), folded()]
}

/// A store where names that differ in case or normal form are one.
fn folded() -> Row {
    let (disk, origin) = (VolatileDisk::folding(), Origin::start());
    origin.serve("/app.tgz", app("v1", 10_000));
    let good = document("app", &origin.url("/app.tgz"), "v1");
    let node = Node::builder().store(&disk.path().join("store")).document("app.yaml", &good).start();
    node.wait_ready("app");
    let mut trials = Vec::new();
    for (form, encode) in compress::ENCODERS {
        let cases = paths::folded().into_iter().map(|case| Case { archive: encode(&case.archive), ..case });
        trials.extend(cases.map(|case| Trial { case, form, trickled: false }));
    }
    let mut found = Found::default();
    try_all(&node, &origin, &trials, 0, &mut found);
    assert_eq!(node.state("app")["state"], "Ready", "what was good is not any more");
    row("archives with names that the store's file system takes for one", &found)
}

fn row(what: &str, found: &Found) -> Row {
    let Found { named, nameless, taken, outside, links } = found;
    // Not every row has archives that can name none.
    let without = if nameless.all > 0 { format!(", {nameless} that had none to name") } else { String::new() };
    Row {
        fault: format!("{what}, {} ({} that only look so)", named.all + nameless.all + taken.all, taken.all),
        figure: format!(
            "files outside {outside}, escaping links left {links}, refused with the entry named {named}{without}, \
             taken {taken}"
        ),
        reach: "0; 0; all; all",
        reached: (*outside, *links) == (0, 0) && [named, nameless, taken].into_iter().all(Tally::is_whole),
    }
}

fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for trickled in [false, true] {
        let mut add = |case, form| trials.push(Trial { case, form, trickled });
        cases().into_iter().for_each(|case| add(case, "tar"));
        for (form, encode) in compress::ENCODERS {
            cases().into_iter().for_each(|case| add(Case { archive: encode(&case.archive), ..case }, form));
        }
        compress::cases().into_iter().for_each(|case| add(case, "itself"));
    }
    trials
}

fn document(name: &str, url: &str, version: &str) -> String {
    format!(
        "---\napiVersion: seedcache.dev/v1alpha1\nkind: Artifact\nmetadata: {{name: {name}}}\n\
         spec: {{version: {version}, source: {{http: {{url: '{url}'}}}}}}\n"
    )
}

fn try_all(node: &Node, origin: &Origin, batch: &[Trial], at: usize, found: &mut Found) {
    let name = |number: usize| format!("case-{at}-{number}");
    let mut documents = String::new();
    for (number, trial) in batch.iter().enumerate() {
        let path = format!("/{}.archive", name(number));
        origin.serve(&path, &trial.case.archive[..]);
        if trial.trickled {
            let bytes = if trial.case.archive.len() <= TRICKLED { 1 } else { 997 };
            origin.always(&path, Fault::Trickle { bytes, pause: std::time::Duration::ZERO });
        }
        documents += &document(&name(number), &origin.url(&path), "v1");
    }
    node.write_config("cases.yaml", &documents);
    for (number, trial) in batch.iter().enumerate() {
        let state = until(&trial.shown(), BIG_PATIENCE, || {
            // As an operator, to whom every entry is named in full.
            let path = format!("/v1/artifacts/{}", name(number));
            let response = node.try_request(Over::Socket, "GET", &path, &[], None).unwrap();
            let state = (response.status == 200).then(|| response.json())?;
            (state["state"] == "Ready" || !state["lastError"].is_null()).then_some(state)
        });
        judge(node, trial, &name(number), &state, found);
    }
    // Nothing is tried again from here on, so that what is left is left.
    node.write_config("cases.yaml", "");
    until("the cases to be forgotten", PATIENCE, || {
        let states = node.get_json("/v1/artifacts");
        let forgotten = |state: &Value| state["name"] == "app" || state["observedGeneration"].is_null();
        states.as_array().unwrap().iter().all(forgotten).then_some(())
    });
    let staging = node.store().join("staging");
    until("staging to be emptied of trees", PATIENCE, || {
        walk_if_there(&staging).into_iter().all(|path| !path.ends_with("version")).then_some(())
    });
    found.outside += told("outside", outside(node));
    found.links += told("a link", escaping_links(node));
}

fn judge(node: &Node, trial: &Trial, name: &str, state: &Value, found: &mut Found) {
    let error = state["lastError"].as_str().unwrap_or_default();
    match trial.case.expect {
        Expect::Refused { kind, entry } => {
            let told = words_of(kind).iter().all(|words| error.contains(words)) && names(error, entry);
            let right = state["state"] != "Ready" && told;
            let tally = if entry.is_some() { &mut found.named } else { &mut found.nameless };
            tally.add(right);
            if !right {
                eprintln!("{}: expected {kind} of {entry:?}: {state}", trial.shown());
            }
        }
        Expect::Taken(paths) => {
            let right = state["state"] == "Ready" && entries(node, name) == paths;
            found.taken.add(right);
            if !right {
                eprintln!("{}: expected {paths:?}: {state}", trial.shown());
            }
        }
    }
}

/// What the error says of each kind: that it is one, and the reason.
fn words_of(kind: &str) -> [&'static str; 2] {
    let (error, reason) = kind.split_once('/').unwrap_or((kind, ""));
    let error = match error {
        "Refused" => "is refused: ",
        "Malformed" => "is malformed: ",
        "Truncated" => "is cut short",
        "TrailingBytes" => "bytes follow the end of the archive",
        "Decode" => "is no sound",
        "NotTar" => "no tar: ",
        "Empty" => "none is left to unpack",
        _ => panic!("{kind} is not known"),
    };
    let reason = match reason {
        "" => "",
        "Path/Absolute" => "its path cannot be used: the path is absolute",
        "Path/Parent" => "its path cannot be used: the path has a `..` component",
        "Path/NameTooLong" => "its path cannot be used: a component of the path is longer than",
        "Path/PathTooLong" => "its path cannot be used: the path is longer than",
        "NoName" => "it has no name",
        "Top" => "it stands for the archive's top",
        "Special" => "only directories, regular files and links are unpacked",
        "SetId" => "has a set-user-id or set-group-id bit",
        "SymlinkTarget" => "the target of the symlink is empty",
        "SymlinkEscapes" => "the symlink leads out of the tree",
        "SymlinkByOtherName" => "takes that for an entry whose name differs in case",
        "Maze" => "lead through each other more often than in any real tree",
        "HardLinkPath/Absolute" => "which cannot be a path in the tree: the path is absolute",
        "HardLinkPath/Parent" => "which cannot be a path in the tree: the path has a `..` component",
        "HardLinkPath/Empty" => "which cannot be a path in the tree: the path is empty",
        "HardLinkTarget" => "which is no regular file or symlink earlier in the archive",
        "BelowSymlink" => "which an earlier entry made a symlink",
        "BelowFile" => "which an earlier entry made a file",
        "Duplicate" => "the archive holds it twice",
        "SameName" => "takes its name for that of another entry",
        "Depth" => "`unpack.limits.depth`",
        "Bytes" => "`unpack.limits.bytes`",
        "Ratio" => "`unpack.limits.ratio`",
        "Checksum" => "its checksum does not match",
        "Number" => "is no number, or one out of range",
        "Type" => "its type '",
        "Nul" => "a NUL byte within its name or link target",
        "TooLong" => "its extended header is longer than any real one",
        "Record" => "a record that is not of the form",
        "Value" => "its extended header has a bad value for",
        "Twice" => "its extended header has two values for",
        "Global" => "the archive's global header sets",
        "Size" => "bytes, its extended header",
        "Mixed" => "it has extended headers that contradict each other",
        "Dangling" => "an extended header is followed by no entry",
        "Content" => "it says to have content",
        "Slash" => "its name ends in a slash",
        "Map" => "its map does not fit its sizes",
        "Sparse" => "it is a sparse file of a form that is not known",
        _ => panic!("{kind} is not known"),
    };
    [error, reason]
}

/// The paths of a version, as errors show them.
fn entries(node: &Node, name: &str) -> Vec<String> {
    let manifest = node.get_json(&format!("/v1/artifacts/{name}/versions/v1"));
    let entries = manifest["entries"].as_array().unwrap_or_else(|| panic!("no entries: {manifest}"));
    entries.iter().map(|entry| shown(&entry["path"])).collect()
}

fn shown(path: &Value) -> String {
    let bytes = match path.as_str() {
        Some(text) => text.as_bytes().to_vec(),
        None => base64::prelude::BASE64_STANDARD.decode(path["base64"].as_str().unwrap()).unwrap(),
    };
    let plain = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    let chunk = |chunk: std::str::Utf8Chunk<'_>| {
        let bytes: String = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")).collect();
        chunk.valid().chars().map(plain).collect::<String>() + &bytes
    };
    bytes.utf8_chunks().map(chunk).collect()
}

fn told(what: &str, found: Vec<PathBuf>) -> u64 {
    found.iter().for_each(|path| eprintln!("{what}: {}", path.display()));
    found.len() as u64
}

/// What is where nothing of an archive belongs.
fn outside(node: &Node) -> Vec<PathBuf> {
    let tree = node.store().join("staging/case/version/tree");
    let above = tree.ancestors().flat_map(|dir| NAMES.map(|name| dir.join(name)));
    let mut wrong: Vec<PathBuf> =
        above.chain([PathBuf::from(OUTSIDE)]).filter(|path| path.symlink_metadata().is_ok()).collect();
    const OWN: [&str; 15] = [
        "FORMAT",
        "lock",
        "versions",
        "current",
        "staging",
        "quarantine",
        "index",
        "pins.json",
        "seeds.json",
        "seeds.recent",
        "sound",
        "scrub.json",
        "index.aside",
        "leases.json",
        "clock.json",
    ];
    wrong.extend(walk_top(node.store()).into_iter().filter(|path| !OWN.iter().any(|own| path.ends_with(own))));
    wrong.extend(walk_top(node.root()).into_iter().filter(|path| path != node.store()));
    // What is below is the archive and notes on it, never a tree.
    for (dir, depth) in [("staging", 2), ("quarantine", 3)] {
        let dir = node.store().join(dir);
        wrong.extend(
            walk_if_there(&dir).into_iter().filter(|path| path.components().count() > depth).map(|path| dir.join(path)),
        );
    }
    wrong
}

/// Symlinks that lead out of a version's tree, and any that are in none.
fn escaping_links(node: &Node) -> Vec<PathBuf> {
    let store = node.store();
    let mut wrong = Vec::new();
    for dir in ["staging", "quarantine", "versions"] {
        for path in walk_if_there(&store.join(dir)) {
            let link = store.join(dir).join(&path);
            let Ok(target) = std::fs::read_link(&link) else { continue };
            // versions/<artifact>/<version>/tree/…
            let tree: PathBuf = store.join(dir).join(path.iter().take(3).collect::<PathBuf>());
            let inside = dir == "versions" && !target.is_absolute();
            // One that leads to nothing may lead out all the same.
            let led = link.canonicalize().unwrap_or_else(|_| plain(&link.parent().unwrap().join(target)));
            if !inside || !led.starts_with(tree.canonicalize().unwrap()) {
                wrong.push(link);
            }
        }
    }
    wrong
}

/// Without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

fn walk_top(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Everything below, by its path from there. What vanishes meanwhile was not left.
fn walk_if_there(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(at) = open.pop() {
        let Ok(entries) = std::fs::read_dir(dir.join(&at)) else { continue };
        for entry in entries.filter_map(Result::ok) {
            let path = at.join(entry.file_name());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(path.clone());
            }
            found.push(path);
        }
    }
    found
}
