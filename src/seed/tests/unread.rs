//! Large files whose states are unknown are read before the tree is gone through.

use super::*;
use crate::seed::tree::Layout;
use crate::seed::unread::read_large;

#[test]
fn large_files_of_unknown_state_become_known_but_the_damaged_do_not() {
    let house = House::new();
    let large = |letter: &str| letter.repeat(4 << 20);
    let version = house.publish(
        "1",
        &[
            F("a", 0o644, large("a")),
            F("b", 0o644, large("b")),
            F("c", 0o644, large("c")),
            F("small", 0o644, "small".into()),
        ],
    );
    let manifest = house.store.manifest(&version).unwrap();
    let known = |name: &str| {
        let entry = manifest.entries.iter().find(|entry| entry.path == path(name)).unwrap();
        version.knows(&version.tree().stat(&path(name)).unwrap().unwrap(), &entry.sha256.unwrap())
    };
    for name in ["a", "b", "c", "small"] {
        assert!(known(name));
        // A pod's link that came and went.
        let inode = version.tree().path().join(name);
        fs::hard_link(&inode, house.at("link")).unwrap();
        fs::remove_file(house.at("link")).unwrap();
        assert!(!known(name));
    }
    let inode = version.tree().path().join("c");
    fs::set_permissions(&inode, fs::Permissions::from_mode(0o644)).unwrap();
    let file = fs::File::options().write(true).open(&inode).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 1 << 20).unwrap();
    read_large(&version, &Layout::of(&manifest.entries).unwrap());
    assert_eq!(["a", "b", "c", "small"].map(known), [true, true, false, false]);
}
