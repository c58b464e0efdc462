//! Many files: the Linux source of Debian's `linux-source-6.1`, 83,000 entries, against what GNU tar makes of it.

use std::fs;
use std::path::Path;

use crate::fixture::nginx::Nginx;
use crate::fixture::node::Node;
use crate::fixture::system::{is_root, run};
use crate::fixture::tree::{Demand, assert_same, walk};
use crate::fixture::{BIG_PATIENCE, scratch};

const TARBALL: &str = "linux-source-6.1.tar.xz";

#[test]
fn the_linux_tree_is_as_gnu_tar_makes_it() {
    let tarball = Path::new("/usr/src").join(TARBALL);
    assert!(tarball.is_file(), "linux-source-6.1 is not installed: `tests/run` installs what the tests need");
    let site = scratch();
    std::os::unix::fs::symlink(&tarball, site.path().join(TARBALL)).unwrap();
    let nginx = Nginx::serve(site.path());
    let node = Node::start_with(&format!(
        "apiVersion: seedcache.dev/v1alpha1
kind: Artifact
metadata: {{name: linux}}
spec:
  version: '6.1'
  source: {{http: {{url: '{}/{TARBALL}'}}}}
",
        nginx.url()
    ));
    let expected = scratch();
    run(
        "tar",
        [
            "--delay-directory-restore".as_ref(),
            "-xpf".as_ref(),
            tarball.as_os_str(),
            "-C".as_ref(),
            expected.path().as_os_str(),
        ],
    );
    assert!(walk(expected.path()).len() > 80_000);
    node.wait_state("linux", "Ready", BIG_PATIENCE, |state| state["state"] == "Ready");

    // Owners can be given away by root only.
    let copied = Demand { owner: is_root(), ..Demand::EXACT };
    let report = node.seed("linux", "copied", &["--link", "copy"]).ok().json();
    assert_eq!(report["mode"], "copy", "{report}");
    assert_same(expected.path(), &node.root().join("copied"), copied);
    fs::remove_dir_all(node.root().join("copied")).unwrap();

    node.seed("linux", "linked", &[]).ok();
    assert_same(expected.path(), &node.root().join("linked"), Demand { owner: is_root(), ..Demand::LINKED });
    let again = node.seed("linux", "linked", &[]).ok().json();
    assert_eq!(again["changed"], false, "{again}");
}
