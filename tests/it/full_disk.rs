//! A full disk: the artifact that doesn't fit is refused, the last good version stays, and room made is room used.

use crate::fixture::archive::app;
use crate::fixture::loopfs::LoopFs;
use crate::fixture::node::Node;
use crate::fixture::releases::Releases;

#[test]
fn what_does_not_fit_changes_nothing() {
    let disk = LoopFs::ext4(24);
    let releases = Releases::with("v1");
    let node = Node::builder().root(disk.path()).document("app.yaml", &releases.document()).start();
    node.wait_ready("app");
    releases.publish("v2", &app("v2", 40_000_000));
    releases.point_to("v2");

    let refused = node.cli(&["refresh", "app", "--wait"]).exits(1);
    let state = node.state("app");
    assert_eq!(state["current"], "v1", "{state}");
    for said in [refused.stderr.as_str(), state["lastError"].as_str().expect("it is a text")] {
        assert!(said.contains("space") && said.contains("larger disk"), "{said}");
    }
    assert_eq!(node.get("/v1/artifacts/app/versions/current/files/VERSION").text(), "v1");
    assert_eq!(node.get("/readyz").status, 200);
    assert_eq!(node.seed("app", "pod", &[]).ok().json()["version"], "v1");

    releases.publish("v3", &app("v3", 300_000));
    releases.point_to("v3");
    node.cli(&["refresh", "app", "--wait"]).ok();
    assert_eq!(node.state("app")["current"], "v3");
    assert_eq!(node.seed("app", "pod", &[]).ok().json()["version"], "v3");
}

#[test]
fn what_does_not_fit_unpacked_changes_nothing() {
    let disk = LoopFs::ext4(24);
    let releases = Releases::with("v1");
    let node = Node::builder().root(disk.path()).document("app.yaml", &releases.document()).start();
    node.wait_ready("app");
    // Small to fetch and within the limits, too big when unpacked.
    let swelling = crate::fixture::archive::Archive::new()
        .file("app/noise", 0o644, &crate::fixture::noise(9, 1_000_000))
        .file("app/zeros", 0o644, &vec![0; 60_000_000])
        .tgz();
    releases.publish("v2", &swelling);
    releases.point_to("v2");
    let refused = node.cli(&["refresh", "app", "--wait"]).exits(1);
    assert!(refused.stderr.contains("space"), "{}", refused.stderr);
    assert_eq!(node.state("app")["current"], "v1");
    node.cli(&["verify", "app"]).ok();
}
