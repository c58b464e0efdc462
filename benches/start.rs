//! How long a daemon takes to answer over a store of 10,000 versions: with no index, with a good one, and beside them
//! `find`, which reads no manifest. `cargo bench --bench start [-- VERSIONS]`
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench looks at the disk from outside, and fails by panicking"
)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use seedcache::intent::{Digest, load_catalog, recipe_digest};
use seedcache::store::{Archive, Entry, EntryType, Manifest, ManifestHead, ResolvedFrom, tree_digest};

/// Versions of each artifact.
const EACH: usize = 100;
/// How long a start may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() {
    let asked = std::env::args().skip(1).find_map(|argument| argument.parse().ok());
    let versions: usize = asked.unwrap_or(10_000);
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (config, root) = (dir.path().join("config"), dir.path().join("root"));
    declare(&config, versions.div_ceil(EACH));
    let from = Instant::now();
    generate(&config, &root.join(".seedcache"), versions);
    println!("{:<44} {:>8} ms", format!("{versions} versions generated"), from.elapsed().as_millis());
    for (what, limit) in [("start with no index", 15), ("start with a good index", 2), ("the same once more", 2)] {
        let took = start(dir.path(), &config, &root, versions);
        let within = if took.as_secs_f64() < f64::from(limit) { "within" } else { "OVER" };
        println!("{what:<44} {:>8} ms   {within} {limit} s", took.as_millis());
    }
    let from = Instant::now();
    let found = Command::new("find").arg(&root).args(["-name", "manifest.json"]).output().unwrap();
    assert_eq!(found.stdout.split(|&b| b == b'\n').count(), versions + 1);
    println!("{:<44} {:>8} ms", "find -name manifest.json", from.elapsed().as_millis());
}

fn name(artifact: usize) -> String {
    format!("artifact-{artifact:03}")
}

/// Documents that ask for the newest generated version: there is nothing to fetch.
fn declare(config: &Path, artifacts: usize) {
    fs::create_dir_all(config).unwrap();
    for artifact in 0..artifacts {
        let name = name(artifact);
        let document = format!(
            "apiVersion: seedcache.dev/v1alpha1\nkind: Artifact\nmetadata: {{name: {name}}}\nspec:\n  version: v000\n  \
             source: {{http: {{url: 'http://127.0.0.1:9/{{version}}.tar'}}}}\n"
        );
        fs::write(config.join(format!("{name}.yaml")), document).unwrap();
    }
}

/// Writes a store as `publish` would, without waiting for the disk at each version.
fn generate(config: &Path, store: &Path, versions: usize) {
    fs::create_dir_all(store).unwrap();
    fs::write(store.join("FORMAT"), "1\n").unwrap();
    fs::create_dir(store.join("current")).unwrap();
    let catalog = load_catalog(config).unwrap();
    let recipes: Vec<Digest> = catalog.artifacts.values().map(|artifact| recipe_digest(&artifact.unpack)).collect();
    for i in 0..versions {
        let (artifact, version) = (name(i / EACH), format!("v{:03}", i % EACH));
        let dir = store.join("versions").join(&artifact).join(&version);
        let entries = tree(&dir.join("tree"), &format!("{artifact} {version}\n"));
        let digest = Digest::sha256(version.as_bytes());
        let head = ManifestHead {
            format: 1,
            artifact: artifact.parse().unwrap(),
            version: version.parse().unwrap(),
            source_url: format!("http://127.0.0.1:9/{version}.tar"),
            archive: Archive {
                digest: digest.clone(),
                size: 4096,
                verified_by: vec![digest],
                weak: false,
                kept: false,
            },
            resolved_from: ResolvedFrom::default(),
            published_at: Timestamp::from_second(1_767_225_600 + i as i64).unwrap(),
            recipe: recipes[i / EACH].clone(),
            tree_digest: tree_digest(&entries),
            bytes: entries.iter().map(|entry| entry.size).sum(),
            files: 3,
        };
        let manifest = fs::File::create(dir.join("manifest.json")).unwrap();
        Manifest { head, entries }.write(&manifest).unwrap();
        manifest.set_permissions(fs::Permissions::from_mode(0o444)).unwrap();
        if i % EACH == 0 {
            symlink(format!("../versions/{artifact}/{version}/tree"), store.join("current").join(&artifact)).unwrap();
        }
    }
}

/// Three small files in a directory.
fn tree(root: &Path, content: &str) -> Vec<Entry> {
    fs::create_dir_all(root.join("etc")).unwrap();
    let mut entries = vec![entry(root, "etc", EntryType::Dir, "")];
    for file in ["etc/build", "etc/name", "etc/version"] {
        fs::write(root.join(file), content).unwrap();
        fs::set_permissions(root.join(file), fs::Permissions::from_mode(0o444)).unwrap();
        entries.push(entry(root, file, EntryType::File, content));
    }
    entries[0].mtime = fs::metadata(root.join("etc")).unwrap().modified().unwrap().try_into().unwrap();
    entries
}

fn entry(root: &Path, path: &str, kind: EntryType, content: &str) -> Entry {
    let meta = fs::metadata(root.join(path)).unwrap();
    let sha256 = hex::decode(Digest::sha256(content.as_bytes()).hex()).unwrap().try_into().unwrap();
    Entry {
        path: path.parse().unwrap(),
        kind,
        mode: meta.mode() & 0o777,
        uid: meta.uid(),
        gid: meta.gid(),
        mtime: meta.modified().unwrap().try_into().unwrap(),
        size: content.len() as u64,
        sha256: (kind == EntryType::File).then_some(sha256),
        target: None,
    }
}

/// From the exec of the daemon to the last byte of its answer.
fn start(dir: &Path, config: &Path, root: &Path, versions: usize) -> Duration {
    let socket = dir.join("s.sock");
    let log = fs::File::create(dir.join("log")).unwrap();
    let from = Instant::now();
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_seedcache"))
        .args(["serve", "--listen", "127.0.0.1:0", "--config"])
        .arg(config)
        .arg("--root")
        .arg(root)
        .arg("--socket")
        .arg(&socket)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let answer = loop {
        match ask(&socket) {
            Ok(answer) => break answer,
            Err(_) => {
                let ended = daemon.try_wait().unwrap();
                assert!(ended.is_none(), "{}", fs::read_to_string(dir.join("log")).unwrap());
                assert!(from.elapsed() < PATIENCE, "no answer within {PATIENCE:?}");
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    };
    let took = from.elapsed();
    assert_eq!(answer.matches("\"publishedAt\"").count(), versions, "it knows all versions");
    stop(&mut daemon);
    took
}

fn ask(socket: &Path) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(b"GET /v1/artifacts HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn stop(daemon: &mut Child) {
    let pid = rustix::process::Pid::from_child(daemon);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(daemon.wait().unwrap().success());
}
