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

#[path = "../tests/it/fixture/many.rs"]
mod many;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a start may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() {
    let asked = std::env::args().skip(1).find_map(|argument| argument.parse().ok());
    let versions: usize = asked.unwrap_or(10_000);
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (config, root) = (dir.path().join("config"), dir.path().join("root"));
    many::declare(&config, versions);
    let from = Instant::now();
    many::generate(&config, &root.join(".seedcache"), versions);
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
