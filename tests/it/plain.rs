//! What a pod has without our program: busybox or curl, one line each. `$URL` is the daemon, `$OUT` an empty directory.

use serde_json::Value;
use tempfile::TempDir;

use crate::fixture::archive::app;
use crate::fixture::cli::{Output, run};
use crate::fixture::node::Node;
use crate::fixture::releases::Releases;
use crate::fixture::scratch;
use crate::fixture::system::{command, tool};
use crate::fixture::tree::{Demand, assert_same};

struct Pod {
    node: Node,
    /// What GNU tar makes of the archive.
    expected: TempDir,
    out: TempDir,
    _releases: Releases,
}

impl Pod {
    fn new() -> Self {
        let releases = Releases::with("v1");
        let (archive, expected) = (app("v1", 3_000_000), scratch());
        let file = expected.path().join("app.tgz");
        std::fs::write(&file, &archive).unwrap();
        let (from, to) = (file.to_str().unwrap(), expected.path().to_str().unwrap());
        crate::fixture::system::run("tar", ["-xpzf", from, "-C", to, "--strip-components=1"]);
        std::fs::remove_file(&file).unwrap();
        releases.publish("v1", &archive);
        let seeds = "  keepArchive: true\n  seeds: [{target: boot/app}]\n";
        let node = Node::start_with(&releases.document_with("app", true, seeds));
        node.wait_ready("app");
        for program in ["busybox", "curl"] {
            tool(program);
        }
        Self { node, expected, out: scratch(), _releases: releases }
    }

    /// Runs a line in a shell that stops at the first failure, of a pipe's too.
    fn line(&self, line: &str) -> Output {
        let mut shell = command("bash", ["-euo", "pipefail", "-c", line]);
        for name in ["http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"] {
            shell.env_remove(name);
        }
        shell.env("URL", self.node.url()).env("OUT", self.out.path());
        run(shell.current_dir(self.out.path()))
    }

    fn boot(&self) -> std::path::PathBuf {
        self.node.root().join("boot/app")
    }
}

#[test]
fn the_tree_by_wget_and_tar() {
    let pod = Pod::new();
    pod.line("busybox wget -q -O- $URL/v1/artifacts/app/versions/current/tree.tar | busybox tar x").ok();
    // It sets no times of directories.
    assert_same(pod.expected.path(), pod.out.path(), Demand { mtime: false, ..Demand::EXACT });
}

#[test]
fn the_tree_by_curl_and_tar() {
    let pod = Pod::new();
    pod.line("curl -fsS $URL/v1/artifacts/app/versions/v1/tree.tar | tar x").ok();
    assert_same(pod.expected.path(), pod.out.path(), Demand::EXACT);
    // A version that is not there fails the line, as `wget | tar` alone would not without `pipefail`.
    assert_ne!(pod.line("curl -fsS $URL/v1/artifacts/app/versions/v9/tree.tar | tar x").code, 0);
    assert_ne!(pod.line("busybox wget -q -O- $URL/v1/artifacts/app/versions/v9/tree.tar | busybox tar x").code, 0);
}

#[test]
fn one_file_whole_and_resumed() {
    let pod = Pod::new();
    let path = "$URL/v1/artifacts/app/versions/current/files/noise";
    pod.line(&format!("busybox wget -q {path}")).ok();
    pod.line(&format!("head -c 1000000 noise >part; curl -fsS -C - -o part {path}; cmp part noise")).ok();
    pod.line(&format!("head -c 1000001 noise >resumed; busybox wget -q -c -O resumed {path}; cmp resumed noise")).ok();
    pod.line("curl -fsS -O -J $URL/v1/artifacts/app/versions/current/archive; tar tzf app.tgz app/noise").ok();
    let noise = std::fs::read(pod.expected.path().join("noise")).unwrap();
    assert_eq!(std::fs::read(pod.out.path().join("part")).unwrap(), noise);
    assert_eq!(std::fs::read(pod.out.path().join("resumed")).unwrap(), noise);
}

#[test]
fn waiting_before_anything_else() {
    let pod = Pod::new();
    let waited = pod.line("busybox wget -q -O- \"$URL/v1/artifacts/app/wait?timeout=60s\"").ok();
    assert_eq!(waited.json()["current"], "v1");
    pod.line("until curl -fsS $URL/readyz; do sleep 1; done").ok();
    pod.line("until curl -fsS \"$URL/readyz?artifact=app\"; do sleep 1; done").ok();
    pod.line("until busybox wget -q -O- \"$URL/readyz?artifact=app\"; do sleep 1; done").ok();
    assert_same(pod.expected.path(), &pod.boot(), Demand::LINKED);
    // A refusal is a status that makes the line fail, with the problem in it for who wants to read it.
    let refused = pod.line("curl -sS --fail-with-body $URL/v1/artifacts/nosuch/wait");
    assert_ne!(refused.code, 0);
    assert_eq!(refused.json()["status"], 404);
}

/// The two lines of each program that ask for the declared target.
fn seeds_by(line: &str) {
    let pod = Pod::new();
    let seeded: Value = pod.line(line).ok().json();
    assert_eq!((&seeded["artifact"], &seeded["version"]), (&"app".into(), &"v1".into()), "{seeded}");
    assert_same(pod.expected.path(), &pod.boot(), Demand::LINKED);
    let again = pod.line(line).ok().json();
    assert_eq!(again["changed"], false, "{again}");
    let elsewhere = pod.line(&line.replace("boot/app", "boot/other"));
    assert_ne!(elsewhere.code, 0, "{elsewhere:?}");
    assert!(!pod.boot().with_file_name("other").exists());
}

#[test]
fn a_declared_target_is_seeded_by_curl() {
    seeds_by(r#"curl -fsS -X POST $URL/v1/artifacts/app/seed -d '{"target": "boot/app"}'"#);
}

#[test]
fn a_declared_target_is_seeded_by_curl_as_json() {
    seeds_by(r#"curl -fsS $URL/v1/artifacts/app/seed --json '{"target": "boot/app"}'"#);
}

#[test]
fn a_declared_target_is_seeded_by_busybox() {
    seeds_by(r#"busybox wget -q -O- --post-data '{"target": "boot/app"}' $URL/v1/artifacts/app/seed"#);
}

#[test]
fn a_page_in_a_browser_cannot_send_a_form() {
    let pod = Pod::new();
    let ask = |more: &str| {
        let seed = r#"-d '{"target": "boot/app"}' $URL/v1/artifacts/app/seed"#;
        pod.line(&format!("curl -sS -o /dev/null -w '%{{http_code}}' -H 'Origin: http://pages.invalid' {more} {seed}"))
            .ok()
            .stdout
    };
    assert_eq!(ask(""), "415");
    assert_eq!(ask("-H 'Content-Type: text/plain'"), "415");
    assert_eq!(ask("-H 'Content-Type: application/json'"), "200");
}
