//! Never worse than wget: with no daemon about, the client fetches, verifies and unpacks by itself.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::fixture::archive::{app, every_kind};
use crate::fixture::cli::{Output, PROGRAM, run};
use crate::fixture::node::Node;
use crate::fixture::origin::{Fault, Origin};
use crate::fixture::releases::Releases;
use crate::fixture::system;
use crate::fixture::tree::{Demand, assert_same, inodes};
use crate::fixture::{PATIENCE, scratch, sha256, until};

/// A pod with an origin, and no daemon at the socket.
struct Pod {
    origin: Origin,
    dir: TempDir,
}

impl Pod {
    fn new() -> Self {
        let pod = Self { origin: Origin::start(), dir: scratch() };
        pod.origin.serve("/kinds.tgz", every_kind());
        fs::write(pod.dir.path().join("kinds.tgz"), every_kind()).unwrap();
        fs::create_dir(pod.expected()).unwrap();
        fs::create_dir(pod.dir.path().join("pod")).unwrap();
        let (archive, tree) = (pod.dir.path().join("kinds.tgz"), pod.expected());
        let to = ["-C".as_ref(), tree.as_os_str(), "--strip-components=1".as_ref()];
        let from = ["--delay-directory-restore".as_ref(), "-xpzf".as_ref(), archive.as_os_str()];
        system::run("tar", [&from[..], &to].concat());
        pod
    }

    fn expected(&self) -> PathBuf {
        self.dir.path().join("expected")
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("pod/kinds")
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// `seedcache seed` of the archive to the target, `-o json`.
    fn seed(&self, wish: &str, sum: &str, more: &[&str]) -> Output {
        let url = self.origin.url("/kinds.tgz");
        let fetch = ["--or-fetch", &url, "--sha256", sum, "--strip-components", "1", "-o", "json"];
        self.bare(wish, &[&fetch, more].concat())
    }

    fn bare(&self, wish: &str, more: &[&str]) -> Output {
        run(self.command(Command::new(PROGRAM), wish).args(more))
    }

    /// The same as `program` is to run it.
    fn command(&self, mut program: Command, wish: &str) -> Command {
        let server = format!("unix://{}", self.socket().display());
        for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            program.env_remove(name).env_remove(name.to_ascii_uppercase());
        }
        program.args(["--server", &server, "seed", wish]).arg(self.target());
        program
    }

    /// Begins to seed as the first process of a container does.
    fn as_first(&self, more: &[&str]) -> First {
        assert!(system::is_root(), "run these tests as root");
        let unshare = system::command("unshare", ["--pid", "--fork", "--kill-child", PROGRAM]);
        let mut seed = self.command(unshare, "kinds");
        seed.args(more).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        First(seed.spawn().unwrap())
    }

    fn gets(&self) -> usize {
        self.origin.requests("/kinds.tgz").len()
    }

    /// What lies where the target does.
    fn beside(&self) -> Vec<String> {
        let names = fs::read_dir(self.dir.path().join("pod")).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

/// A command that is the first process of a PID namespace, and `unshare` above it.
struct First(Child);

impl First {
    fn pid(&self) -> Option<Pid> {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.0.id())).ok()?;
        Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
    }

    /// Whether it listens for SIGTERM; before that the kernel keeps the signal from it.
    fn listens(&self) -> Option<()> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?.as_raw_nonzero())).ok()?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        (u64::from_str_radix(caught.trim(), 16).ok()? & 1 << 14 != 0).then_some(())
    }

    /// Tells it to stop, and gives its exit code.
    fn stopped(mut self) -> i32 {
        kill_process(self.pid().unwrap(), Signal::TERM).unwrap();
        until("the end after SIGTERM", PATIENCE, || self.0.try_wait().unwrap()).code().unwrap()
    }
}

impl Drop for First {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sum() -> String {
    sha256(&every_kind())
}

#[test]
fn without_it_no_daemon_is_an_exit_code_and_a_sentence() {
    let pod = Pod::new();
    let failed = pod.bare("kinds", &[]).exits(5);
    assert!(failed.stderr.contains("cannot reach the daemon"), "{}", failed.stderr);
    assert!(!pod.target().exists());
}

#[test]
fn told_to_stop_it_leaves_nothing_beside_the_target() {
    let pod = Pod::new();
    pod.origin.always("/kinds.tgz", Fault::StallAfter(1000));
    let url = pod.origin.url("/kinds.tgz");
    let first = pod.as_first(&["--or-fetch", &url, "--sha256", &sum(), "--strip-components", "1"]);
    until("the download", PATIENCE, || first.listens().filter(|()| pod.gets() > 0 && pod.beside().len() == 2));
    assert_eq!(first.stopped(), 143);
    assert_eq!(pod.beside(), [""; 0]);
}

#[test]
fn told_to_stop_it_no_longer_waits_for_a_daemon() {
    let pod = Pod::new();
    let first = pod.as_first(&["--daemon-timeout", "30m"]);
    until("it to listen", PATIENCE, || first.listens());
    assert_eq!(first.stopped(), 143);
}

#[test]
fn who_keeps_the_target_locked_is_waited_for_and_told_of() {
    let pod = Pod::new();
    let parent = fs::File::open(pod.dir.path().join("pod")).unwrap();
    parent.lock().unwrap();
    let late = pod.seed("kinds", &sum(), &["--wait", "0s"]).exits(4);
    assert!(late.stderr.contains("waiting for another who works at the target"), "{}", late.stderr);
    assert!(late.stderr.contains("another client after 5 s"), "{}", late.stderr);
    drop(parent);
    pod.seed("kinds", &sum(), &["--wait", "0s"]).ok();
}

#[test]
fn with_it_the_client_fetches_verifies_and_unpacks() {
    let pod = Pod::new();
    let first = pod.seed("kinds", &sum(), &[]).ok().json();
    assert_same(&pod.expected(), &pod.target(), Demand::EXACT);
    assert_eq!((&first["mode"], &first["changed"]), (&"copy".into(), &true.into()), "{first}");
    assert!(first["reason"].as_str().unwrap().starts_with("no daemon: cannot reach"), "{first}");
    assert_eq!(first["version"], format!("sha256-{}", &sum()[..12]));
    assert_eq!(first["digest"], format!("sha256:{}", sum()));
    assert_eq!(pod.beside(), ["kinds"]);

    // Again: what is there is read, and nothing is fetched.
    let before = inodes(&pod.target());
    let second = pod.seed("kinds", &sum(), &[]).ok().json();
    assert_eq!((&second["changed"], &second["files"]), (&false.into(), &first["files"]), "{second}");
    assert_eq!((inodes(&pod.target()), pod.gets()), (before, 1));

    // Damaged, it is fetched again.
    fs::write(pod.target().join("deep/second"), "sEcond\n").unwrap();
    assert_eq!(pod.seed("kinds", &sum(), &[]).ok().json()["changed"], true);
    assert_same(&pod.expected(), &pod.target(), Demand::EXACT);
    assert_eq!((pod.gets(), pod.beside()), (2, vec!["kinds".to_owned()]));
}

#[test]
fn the_line_says_that_there_was_no_daemon() {
    let pod = Pod::new();
    let url = pod.origin.url("/kinds.tgz");
    let told = pod.bare("kinds@v7", &["--or-fetch", &url, "--sha256", &sum()]).ok().stdout;
    assert!(told.starts_with(&format!("kinds@v7 -> {}: copy, ", pod.target().display())), "{told}");
    assert!(told.contains("; no daemon: cannot reach the daemon at unix://"), "{told}");
}

#[test]
fn the_wrong_bytes_leave_the_target_as_it_is() {
    let pod = Pod::new();
    pod.seed("kinds", &sum(), &[]).ok();
    let before = inodes(&pod.target());
    let wrong = pod.seed("kinds", &"ab".repeat(32), &["--wait", "0s"]).exits(1);
    assert!(wrong.stderr.contains("digest"), "{}", wrong.stderr);
    pod.origin.always("/kinds.tgz", Fault::Status(404, None));
    let gone = pod.seed("kinds", &"cd".repeat(32), &["--wait", "0s"]).exits(1);
    assert!(gone.stderr.contains("404") && gone.stderr.contains("no daemon answers"), "{}", gone.stderr);
    pod.seed("kinds", &"cd".repeat(32), &["--require", "no/such/file", "--wait", "0s"]).exits(1);
    assert_eq!((inodes(&pod.target()), pod.beside()), (before, vec!["kinds".to_owned()]));
}

#[test]
fn a_download_that_breaks_off_goes_on() {
    let pod = Pod::new();
    pod.origin.once("/kinds.tgz", Fault::CutAfter(100_000));
    pod.seed("kinds", &sum(), &[]).ok();
    assert_same(&pod.expected(), &pod.target(), Demand::EXACT);
    let asked = pod.origin.requests("/kinds.tgz");
    assert_eq!((asked.len(), asked[1].start()), (2, 100_000));
}

#[test]
fn a_daemon_that_says_nothing_is_none() {
    let pod = Pod::new();
    // It takes connections, and that is all.
    let _listener = UnixListener::bind(pod.socket()).unwrap();
    let seeded = pod.seed("kinds", &sum(), &["--daemon-timeout", "1s"]).ok().json();
    assert!(seeded["reason"].as_str().unwrap().contains("has not answered for "), "{seeded}");
    assert_same(&pod.expected(), &pod.target(), Demand::EXACT);
}

/// One that names a version, and dies while it sends the manifest.
fn dies_in_mid_work(listener: &UnixListener) {
    let digest = format!("sha256:{}", "a".repeat(64));
    let problem = |kind: &str| {
        let body = serde_json::json!({
            "type": format!("urn:seedcache:problem:{kind}"), "detail": "why", "version": "v1", "digest": digest,
            "treeDigest": digest,
        })
        .to_string();
        let head = "HTTP/1.1 409 Conflict\r\nconnection: close\r\ncontent-type: application/problem+json";
        format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    };
    loop {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut asked, mut buffer) = (String::new(), [0; 4096]);
        while !asked.contains("\r\n\r\n") {
            let n = stream.read(&mut buffer).unwrap();
            assert_ne!(n, 0, "{asked}");
            asked.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
        let last = asked.starts_with("GET /v1/");
        let answer = match asked.split(' ').nth(1).unwrap() {
            path if path.ends_with("/seed") => problem("not-below-root"),
            path if path.ends_with("/fill") => problem("receive"),
            _ if last => "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{".to_owned(),
            _ => "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}".to_owned(),
        };
        stream.write_all(answer.as_bytes()).unwrap();
        if last {
            return;
        }
    }
}

#[test]
fn a_daemon_that_dies_in_mid_work_is_none() {
    let pod = Pod::new();
    let listener = UnixListener::bind(pod.socket()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || dies_in_mid_work(&listener));
        let seeded = pod.seed("kinds", &sum(), &["--daemon-timeout", "1s"]).ok().json();
        assert!(seeded["reason"].as_str().unwrap().starts_with("no daemon: "), "{seeded}");
    });
    assert_same(&pod.expected(), &pod.target(), Demand::EXACT);
    assert_eq!(pod.beside(), ["kinds"]);
}

#[test]
fn what_is_not_ours_stays_and_a_link_is_not_fetched() {
    let pod = Pod::new();
    fs::create_dir(pod.target()).unwrap();
    fs::write(pod.target().join("theirs"), "keep").unwrap();
    let refused = pod.seed("kinds", &sum(), &[]).exits(1);
    assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
    assert_eq!(fs::read_to_string(pod.target().join("theirs")).unwrap(), "keep");
    pod.seed("kinds", &sum(), &["--link", "hardlink"]).exits(5);
    assert_eq!((pod.gets(), pod.beside()), (0, vec!["kinds".to_owned()]));
    pod.seed("kinds", &sum(), &["--force"]).ok();
    assert_same(&pod.expected(), &pod.target(), Demand::EXACT);
}

#[test]
fn what_was_swapped_in_place_is_known_again() {
    let pod = Pod::new();
    for swap in ["inPlace", "symlink"] {
        let seed = || pod.seed("kinds", &sum(), &["--swap", swap, "--force"]).ok().json()["changed"].clone();
        assert_eq!(seed(), true, "{swap}");
        fs::write(pod.target().join("own"), "the pod's").unwrap();
        assert_eq!(seed(), false, "{swap}");
        fs::remove_file(pod.target().join("own")).unwrap();
        if swap == "symlink" {
            fs::remove_file(pod.target().join("deep")).unwrap();
            assert_eq!((seed(), seed()), (true.into(), false.into()), "a link through `..data`");
        }
    }
    assert_eq!((pod.gets(), pod.beside()), (2, vec!["kinds".to_owned()]));
}

#[test]
fn its_options_need_each_other() {
    let pod = Pod::new();
    let url = pod.origin.url("/kinds.tgz");
    for more in [&["--or-fetch", &url][..], &["--sha256", &sum()], &["--prefix", "x"], &["--strip-components", "1"]] {
        pod.bare("kinds", more).exits(2);
    }
}

/// With the daemon back, its word counts: what the client fetched is found to be that version.
#[test]
fn a_daemon_takes_over_what_was_fetched() {
    let releases = Releases::with("v1");
    let mut node = Node::start_with(&releases.document());
    node.wait_ready("app");
    node.terminate();
    let (url, sum) = (releases.origin.url("/v1/app.tgz"), sha256(&app("v1", 500_000)));
    let fetch = ["--or-fetch", &url, "--sha256", &sum, "--strip-components", "1", "--link", "copy"];
    let fetched = node.seed("app@v1", "pod", &fetch).ok().json();
    assert_eq!((&fetched["version"], &fetched["mode"]), (&"v1".into(), &"copy".into()), "{fetched}");
    node.start();
    let again: Value = node.seed("app@v1", "pod", &fetch).ok().json();
    assert_eq!((&again["changed"], &again["mode"]), (&false.into(), &"copy".into()), "{again}");
    assert_same(&node.tree("app", "v1"), &node.root().join("pod"), Demand { mode_mask: 0, ..Demand::EXACT });
}
