//! A target on a file system that does not answer: nobody else waits for it.

use std::process::Command;

use crate::fixture::archive::app;
use crate::fixture::hung::Hung;
use crate::fixture::node::{Node, Over};
use crate::fixture::releases::Releases;
use crate::fixture::{PATIENCE, until};

#[test]
fn a_target_that_does_not_answer_holds_up_neither_downloads_nor_removal_nor_a_start() {
    let releases = Releases::with("v1");
    let mut node = Node::start_with(&releases.document());
    node.wait_ready("app");
    for target in ["near/data", "far/data"] {
        let target = node.root().join(target);
        node.seed("app", target.to_str().unwrap(), &["--link", "copy"]).ok();
    }
    let far = Hung::at(&node.root().join("far"), Vec::new());
    far.hang(true);
    releases.publish("v2", &app("v2", 500_000));
    releases.point_to("v2");
    node.cli(&["refresh", "app", "--wait"]).ok();
    until("the target to be looked at", PATIENCE, || (far.waiting() > 0).then_some(()));
    assert_eq!(node.state("app")["current"], "v2");
    node.cli(&["gc"]).ok();
    let removed = node.try_request(Over::Socket, "DELETE", "/v1/artifacts/app/versions/v1?force=true", &[], None);
    assert_eq!(removed.unwrap().status, 200);

    // One whose call is being answered cannot be killed.
    far.hang(false);
    node.kill9();
    far.hang(true);
    node.start();
    assert_eq!(node.wait_ready("app")["current"], "v2");
    node.cli(&["gc"]).ok();
    far.hang(false);
    // The daemon may have a directory there open for a moment.
    let unmount = || Command::new("umount").arg(node.root().join("far")).output().unwrap().status.success();
    until("the target to be unmounted", PATIENCE, || unmount().then_some(()));
}
