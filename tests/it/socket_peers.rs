//! Peers of the Unix socket that pass what nobody asked for, die half-way or pass what hangs: nothing of theirs stays open,
//! nothing stays locked, and others are served meanwhile.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, inotify, memfd_create, openat};
use serde_json::json;

use crate::fixture::cli::PROGRAM;
use crate::fixture::hung::{FILE, Hung};
use crate::fixture::loopfs::LoopFs;
use crate::fixture::mounted::Mounted;
use crate::fixture::node::{Node, Over};
use crate::fixture::passing::{MOST, post, send, try_post};
use crate::fixture::releases::Releases;
use crate::fixture::tree::{Demand, assert_same};
use crate::fixture::{PATIENCE, archive, scratch, until};

const FILL: &str = "/v1/artifacts/app/versions/v1/fill";
/// How long others may wait for an answer while somebody floods the daemon: machines are shared.
const ANSWERED: Duration = Duration::from_secs(30);

struct House {
    node: Node,
    _releases: Releases,
    disk: LoopFs,
    open: usize,
}

impl House {
    fn new() -> Self {
        let (disk, releases) = (LoopFs::ext4(128), Releases::with("v0"));
        releases.publish("v1", &archive::app("v1", 12_000_000));
        releases.point_to("v1");
        let node = Node::builder().root(&disk.path().join("root")).document("app.yaml", &releases.document()).start();
        node.wait_ready("app");
        let mut house = Self { node, _releases: releases, disk, open: 0 };
        // One of each kind of work, so that what is opened once for all is open.
        house.fills_a_volume();
        house.open = until("the daemon to be at rest", PATIENCE, || {
            let first = house.open_files().len();
            (0..20).all(|_| house.open_files().len() == first).then_some(first)
        });
        house
    }

    /// What the daemon has open.
    fn open_files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.node.pid())).unwrap();
        entries.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok()).collect()
    }

    /// As many descriptors are open as were at first, and the few that come later by themselves: within 5 s the daemon opens
    /// the current version, whose files it looks at from then on.
    fn is_at_rest(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let open = self.open_files();
            if open.len() <= self.open + 2 {
                return;
            }
            assert!(Instant::now() < deadline, "{} were open at first, now: {open:#?}", self.open);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Somebody else's work goes as it should.
    fn fills_a_volume(&self) {
        let volume = self.disk.path().join("volume");
        fs::create_dir(&volume).unwrap();
        let dir = File::open(&volume).unwrap();
        let answer = post(&self.node.socket(), FILL, &json!({"target": "/data"}), &dir);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_same(&self.node.tree("app", "v1"), &volume, Demand::CONTENT);
        fs::remove_dir_all(volume).unwrap();
    }

    fn path_descriptor(&self) -> OwnedFd {
        openat(CWD, self.disk.path(), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }
}

#[test]
fn descriptors_of_other_kinds_are_refused_and_closed() {
    let house = House::new();
    let socket = house.node.socket();
    let (pipe, own) = (std::io::pipe().unwrap(), UnixStream::connect(&socket).unwrap());
    let pair = UnixStream::pair().unwrap();
    let open = |path: &str| OwnedFd::from(File::open(path).unwrap());
    let others: Vec<(&str, OwnedFd)> = vec![
        ("pipe", pipe.0.into()),
        ("the other end of a pipe", pipe.1.into()),
        ("socket", pair.0.into()),
        ("a connection to the daemon", own.into()),
        ("inotify", inotify::init(inotify::CreateFlags::CLOEXEC).unwrap()),
        ("memory", memfd_create("x", MemfdFlags::CLOEXEC).unwrap()),
        ("a path", house.path_descriptor()),
        ("/dev/null", open("/dev/null")),
        ("/dev/fuse", File::options().read(true).write(true).open("/dev/fuse").unwrap().into()),
        ("a file", tempfile::tempfile().unwrap().into()),
        ("/proc/self/fd", open("/proc/self/fd")),
        ("/sys", open("/sys")),
        ("the store", open(house.node.store().to_str().unwrap())),
        ("a directory of the store", open(house.node.tree("app", "v1").to_str().unwrap())),
    ];
    for (what, descriptor) in &others {
        for round in 0..5 {
            let answer = post(&socket, FILL, &json!({"target": "/data"}), descriptor);
            let problem = answer.problem();
            assert!((400..600).contains(&answer.status), "{what}: {problem}");
            let body = json!({"target": format!("/data/{round}")});
            let answer = post(&socket, "/v1/artifacts/app/seed", &body, descriptor);
            assert!((400..600).contains(&answer.status), "{what}: {}", answer.text());
        }
    }
    assert!(!house.node.log_text().contains("panicked"));
    drop(others);
    house.is_at_rest();
    house.fills_a_volume();
    house.node.cli(&["verify", "app"]).ok();
}

#[test]
fn floods_of_descriptors_end_their_own_connection_only() {
    let house = House::new();
    let (socket, stop) = (house.node.socket(), AtomicBool::new(false));
    let volume = scratch();
    let dir = File::open(volume.path()).unwrap();
    let many: Vec<BorrowedFd<'_>> = vec![dir.as_fd(); MOST];
    let head =
        format!("POST {FILL} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n");
    let slowest = std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            while !stop.load(Relaxed) {
                let from = Instant::now();
                let answer = house.node.try_request(Over::Socket, "GET", "/healthz", &[], None).unwrap();
                assert_eq!(answer.status, 200);
                slowest = slowest.max(from.elapsed());
            }
            slowest
        });
        let mut held = Vec::new();
        for round in 0..400 {
            let mut stream = UnixStream::connect(&socket).unwrap();
            let count = [1, 2, 16, MOST][round % 4];
            match round % 5 {
                // With no request.
                0 => drop(send(&stream, b"G", &many[..count])),
                // With a request's head, over several messages.
                1 => head.as_bytes().chunks(16).for_each(|part| drop(send(&stream, part, &many[..count]))),
                // In the middle of a body.
                2 => {
                    stream.write_all(head.as_bytes()).unwrap();
                    for _ in 0..3 {
                        let _ = send(&stream, b"{\"tar", &many[..count]);
                    }
                }
                // On a connection that is kept, after each request.
                3 => {
                    for _ in 0..4 {
                        if send(&stream, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", &many[..1]).is_err() {
                            break;
                        }
                        stream.read_exact(&mut [0; 15]).unwrap();
                    }
                    let _ = send(&stream, b"G", &many[..count]);
                }
                // As many as fit into the socket, and nobody who reads the answers.
                _ => {
                    stream.set_nonblocking(true).unwrap();
                    while send(&stream, b"x", &many[..count]).is_ok() {}
                }
            }
            if round % 3 > 0 {
                held.push(stream);
            }
        }
        drop(held);
        stop.store(true, Relaxed);
        others.join().unwrap()
    });
    house.is_at_rest();
    house.fills_a_volume();
    assert!(slowest < ANSWERED, "the slowest answer to somebody else took {slowest:?}");
}

#[test]
fn who_dies_half_way_leaves_nothing_open_and_nothing_locked() {
    let house = House::new();
    let memory = Mounted::tmpfs_of("64m");
    let server = format!("unix://{}", house.node.socket().display());
    let seed = |target: &Path| {
        let mut seed = Command::new(PROGRAM);
        seed.args(["seed", "app@v1"]).arg(target).env("SEEDCACHE_SERVER", &server);
        seed.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        seed
    };
    // Filled by the daemon, and written by the client itself.
    for at in [house.disk.path(), memory.path()] {
        let target = at.join("pod/app");
        for round in 0..25 {
            let mut child = seed(&target).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(2 * round));
            child.kill().unwrap();
            child.wait().unwrap();
            if round % 4 == 0 {
                let _ = fs::remove_dir_all(&target);
            }
        }
        assert!(seed(&target).status().unwrap().success());
        assert_same(&house.node.tree("app", "v1"), &target, Demand::CONTENT);
        let left: Vec<_> = fs::read_dir(at.join("pod")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["app"], "what the killed left is cleared");
    }
    house.is_at_rest();
}

#[test]
fn what_hangs_holds_up_nobody_else() {
    let house = House::new();
    let mount = scratch();
    let hung = Hung::at(mount.path(), vec![7; 4096]);
    let (dir, file) = (File::open(mount.path()).unwrap(), File::open(mount.path().join(FILE)).unwrap());
    let socket = house.node.socket();
    hung.hang(true);
    std::thread::scope(|scope| {
        // Closing a file there waits for its server.
        for _ in 0..100 {
            let stream = UnixStream::connect(&socket).unwrap();
            send(&stream, b"GET /healthz HTTP/1.1\r\n", &[file.as_fd()]).unwrap();
        }
        // More than there are turns for.
        for _ in 0..40 {
            scope.spawn(|| drop(try_post(&socket, FILL, &json!({"target": "/data"}), &[dir.as_fd()])));
        }
        until("the server to be asked", PATIENCE, || (hung.waiting() > 0).then_some(()));
        for _ in 0..30 {
            house.fills_a_volume();
        }
        // A thousand descriptors more, all of which are closed while those hang.
        for _ in 0..1100 {
            let answer = post(&socket, "/v1/gc?dryRun=true", &json!({}), house.path_descriptor());
            assert!(answer.status < 300, "{}", answer.text());
        }
        house.fills_a_volume();
        hung.hang(false);
    });
    drop((dir, file));
    house.is_at_rest();
    house.fills_a_volume();
}
