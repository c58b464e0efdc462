//! What is current, while versions go and somebody else works in its directory.

use super::*;

#[test]
fn a_quarantine_that_fails_leaves_what_is_current() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    publish(&store, "1", b"one");
    store.switch_current(&artifact(), &version("1")).unwrap();
    // In the way of the artifact's place in quarantine.
    sys::write(root.join("quarantine/os"), "").unwrap();
    let reason = Reason::new("verify", &std::io::Error::other("bad"));
    store.quarantine_version(&artifact(), &version("1"), &reason).unwrap_err();
    assert!(root.join("current/os").exists());
    assert_eq!(store.holding(&artifact()).current, Some(version("1")));
}

#[test]
fn what_somebody_made_in_place_of_current_keeps_no_version_from_going() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    for name in ["1", "2", "3"] {
        publish(&store, name, name.as_bytes());
    }
    sys::create_dir_all(root.join("current/os/of-a-pod")).unwrap();
    let reason = Reason::new("verify", &std::io::Error::other("bad"));
    store.quarantine_version(&artifact(), &version("1"), &reason).unwrap();
    assert!(store.remove_version(&artifact(), &version("2"), || true).unwrap());
    // Nor does it where it came in place of one that is known.
    sys::remove_dir_all(root.join("current/os")).unwrap();
    store.switch_current(&artifact(), &version("3")).unwrap();
    sys::remove_file(root.join("current/os")).unwrap();
    sys::create_dir_all(root.join("current/os/of-a-pod")).unwrap();
    assert!(store.remove_version(&artifact(), &version("3"), || true).unwrap());
    assert!(root.join("current/os/of-a-pod").exists());
    assert_eq!(store.holding(&artifact()).current, None);
}

#[test]
fn a_current_link_that_is_not_known_goes_with_its_version_alone() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    publish(&store, "1", b"one");
    publish(&store, "2", b"two");
    // As one is left that leads to what could not be read at the start.
    std::os::unix::fs::symlink("../versions/os/2/tree", root.join("current/os")).unwrap();
    assert!(store.remove_version(&artifact(), &version("1"), || true).unwrap());
    assert!(root.join("current/os").exists());
    assert!(store.remove_version(&artifact(), &version("2"), || true).unwrap());
    assert!(root.join("current/os").symlink_metadata().is_err());
}
