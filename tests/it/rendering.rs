//! Rendered files: they switch with the version, follow their values, and fail before anything is switched.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use serde_json::Value;

use crate::fixture::archive::app;
use crate::fixture::node::Node;
use crate::fixture::releases::Releases;
use crate::fixture::{PATIENCE, until};

const SECRET: &str = "s3cr3t-and-l0ng";

/// Two versions, of which the first is `latest`.
fn releases() -> Releases {
    let releases = Releases::with("v1");
    releases.publish("v2", &app("v2", 1_000));
    releases
}

fn document(releases: &Releases, seeds: &str) -> String {
    releases.document_with("app", true, &format!("  seeds:\n    - {seeds}\n"))
}

/// A boot script that names the version, and a file with a secret in a directory of its own.
const BOOT: &str = r"target: boot/app
      values: {token: {fromFile: token}, port: '8080'}
      render:
        - path: app.ipxe
          template: |
            kernel http://{{ node }}:{{ values.port }}/{{ artifact }}/{{ version }}/unix proxy={{ env.PROXY }}
        - path: conf/deep/token
          mode: '0600'
          template: '{{ values.token }}'";

fn start(releases: &Releases, seeds: &str) -> Node {
    let node = Node::builder()
        .settings("seed: {env: [PROXY]}")
        .env("NODE_NAME", "node-7")
        .env("PROXY", "p:3128")
        .env("HIDDEN", SECRET)
        .document("token", &format!("{SECRET}\n"))
        .document("app.yaml", &document(releases, seeds))
        .start();
    node.wait_ready("app");
    node
}

fn seed_row(state: &Value) -> &Value {
    &state["seeds"][0]
}

fn wait_seed(node: &Node, state: &str) -> Value {
    node.wait_state("app", &format!("its target {state}"), PATIENCE, |app| seed_row(app)["state"] == state)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn script(version: &str) -> String {
    format!("kernel http://node-7:8080/app/{version}/unix proxy=p:3128\n")
}

#[test]
fn version_and_rendered_files_switch_together_and_secrets_stay_where_they_belong() {
    let releases = releases();
    let node = start(&releases, BOOT);
    wait_seed(&node, "Ready");
    let boot = node.root().join("boot/app");
    assert_eq!(read(&boot.join("app.ipxe")), script("v1"));
    assert_eq!(read(&boot.join("conf/deep/token")), SECRET);
    let mode = |path: &str| fs::metadata(boot.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("app.ipxe"), mode("conf/deep/token"), mode("conf")), (0o644, 0o600, 0o755));

    // One directory handle sees one tree: script and version agree in each.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut rounds = 0;
            while !stop.load(SeqCst) {
                let dir = fs::File::open(&boot).unwrap();
                let held = format!("/proc/self/fd/{}", dir.as_raw_fd());
                let held = Path::new(&held);
                assert_eq!(read(&held.join("app.ipxe")), script(&read(&held.join("VERSION"))));
                rounds += 1;
            }
            rounds
        });
        for version in ["v2", "v1", "v2"] {
            node.cli(&["pin", "app", version, "--wait", "1m"]).ok();
            until("the switch", PATIENCE, || (read(&boot.join("VERSION")) == version).then_some(()));
        }
        stop.store(true, SeqCst);
        assert!(reader.join().unwrap() > 0);
    });
    assert_eq!(read(&boot.join("app.ipxe")), script("v2"));

    // Asked for by path it is rendered, too, and nothing is written twice.
    let again = node.seed("app", "boot/app", &[]).ok().json();
    assert_eq!(again["changed"], false, "{again}");
    fs::write(boot.join("app.ipxe"), "damaged").unwrap();
    fs::remove_file(boot.join("conf/deep/token")).unwrap();
    let mended = node.seed("app", "boot/app", &[]).ok().json();
    assert_eq!(mended["changed"], true, "{mended}");
    assert_eq!((read(&boot.join("app.ipxe")), read(&boot.join("conf/deep/token"))), (script("v2"), SECRET.into()));

    for told in [node.log_text(), node.get("/v1/artifacts").text(), node.get("/metrics").text()] {
        assert!(!told.contains(SECRET), "{told}");
    }
}

#[test]
fn changed_values_render_again_without_seeding_again() {
    let releases = releases();
    let node = start(&releases, &BOOT.replace("target: boot/app", "target: boot/app\n      link: copy"));
    wait_seed(&node, "Ready");
    let boot = node.root().join("boot/app");
    // The pod wrote to its copy: that is its own affair until the version changes.
    fs::write(boot.join("VERSION"), "the pod's").unwrap();
    let inode = |path: &str| fs::metadata(boot.join(path)).unwrap().ino();
    let before = (inode("VERSION"), inode("app.ipxe"));
    node.write_config("token", "another\n");
    until("the new token", PATIENCE, || (read(&boot.join("conf/deep/token")) == "another").then_some(()));
    wait_seed(&node, "Ready");
    assert_eq!((read(&boot.join("VERSION")).as_str(), (inode("VERSION"), inode("app.ipxe"))), ("the pod's", before));

    // Gone, it fails, and what stands stays; back, it goes on.
    fs::remove_file(node.config().join("token")).unwrap();
    let failed = wait_seed(&node, "Failed");
    let reason = seed_row(&failed)["reason"].as_str().unwrap();
    assert!(reason.contains("value \"token\" of boot/app cannot be read"), "{reason}");
    assert_eq!(read(&boot.join("conf/deep/token")), "another");
    node.write_config("token", "third");
    until("the third token", PATIENCE, || (read(&boot.join("conf/deep/token")) == "third").then_some(()));
}

#[test]
fn what_fails_to_render_switches_nothing_and_is_named() {
    let releases = releases();
    let mut node = start(&releases, BOOT);
    wait_seed(&node, "Ready");
    let boot = node.root().join("boot/app");
    for (path, template, told) in [
        (
            "app.ipxe",
            "a\n              {{ env.HIDDEN }}",
            ["app.ipxe of boot/app cannot be rendered", "line 2", "HIDDEN is not listed in seed.env"],
        ),
        (
            "app.ipxe",
            "{{ [1]|first|items }}",
            ["app.ipxe of boot/app cannot be rendered", "line 1", "invalid operation"],
        ),
        ("VERSION", "x", ["VERSION cannot be rendered", "the version itself has VERSION there", "another path"]),
        (
            "VERSION/below",
            "x",
            ["VERSION/below cannot be rendered", "the version itself has VERSION there", "another path"],
        ),
    ] {
        let seeds = format!(
            "target: boot/app\n      render:\n        - path: {path}\n          template: |\n              {template}"
        );
        node.write_config("app.yaml", &document(&releases, &seeds));
        let state = node.wait_state("app", told[0], PATIENCE, |app| {
            seed_row(app)["reason"].as_str().is_some_and(|reason| told.iter().all(|told| reason.contains(told)))
        });
        assert_eq!(seed_row(&state)["state"], "Failed", "{state}");
        assert_eq!((state["current"].as_str(), read(&boot.join("app.ipxe"))), (Some("v1"), script("v1")));
        assert!(!node.log_text().contains(SECRET));
    }
    // Mended, with one file less: that one goes, and the directories that were made for it.
    let less = BOOT.split("        - path: conf").next().unwrap();
    node.write_config("app.yaml", &document(&releases, less));
    wait_seed(&node, "Ready");
    until("the undeclared file to go", PATIENCE, || (!boot.join("conf").exists()).then_some(()));
    assert_eq!((read(&boot.join("app.ipxe")), read(&boot.join("VERSION"))), (script("v1"), "v1".into()));
    // A changed template of the same version, while the daemon is down.
    node.terminate();
    node.write_config("app.yaml", &document(&releases, &less.replace("kernel", "module")));
    node.start();
    until("the changed template", PATIENCE, || read(&boot.join("app.ipxe")).starts_with("module ").then_some(()));
}

#[test]
fn each_swap_brings_rendered_files() {
    let releases = releases();
    for swap in ["symlink", "inPlace"] {
        let seeds = BOOT.replace("target: boot/app", &format!("target: boot/app\n      swap: {swap}"));
        let node = start(&releases, &seeds);
        wait_seed(&node, "Ready");
        let boot = node.root().join("boot/app");
        let holds = |version: &str, token: &str| {
            let wanted = [version, &script(version), token].map(str::to_owned);
            until(&format!("{swap} of {version}"), PATIENCE, || {
                (["VERSION", "app.ipxe", "conf/deep/token"].map(|file| read(&boot.join(file))) == wanted).then_some(())
            });
        };
        holds("v1", SECRET);
        node.cli(&["pin", "app", "v2", "--wait", "1m"]).ok();
        holds("v2", SECRET);
        node.write_config("token", "another");
        holds("v2", "another");
        let renamed = seeds.replace("conf/deep/token", "conf/other").replace("path: app.ipxe", "path: new.ipxe");
        node.write_config("app.yaml", &document(&releases, &renamed));
        until("the new names", PATIENCE, || (read(&boot.join("new.ipxe")) == script("v2")).then_some(()));
        wait_seed(&node, "Ready");
        assert_eq!(read(&boot.join("conf/other")), "another");
        for gone in ["app.ipxe", "conf/deep"] {
            assert!(fs::symlink_metadata(boot.join(gone)).is_err(), "{swap}: {gone} is left");
        }
    }
}
