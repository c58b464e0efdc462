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

/// A pod renames its own hard link all the time, so that the file's state is another after each reading.
#[test]
fn a_file_whose_names_change_all_the_time_is_copied_alone() {
    let house = House::new();
    let version = house.publish("v1", &[F("large", 0o644, "x".repeat(16 << 20)), F("small", 0o644, "y".into())]);
    let [one, other] = ["one", "other"].map(|name| house.dir.path().join(name));
    let stored = version.tree().path().join("large");
    fs::hard_link(stored, &one).unwrap();
    let (done, started) = (AtomicBool::new(false), std::time::Instant::now());
    let seeded = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(SeqCst) {
                fs::rename(&one, &other).unwrap();
                fs::rename(&other, &one).unwrap();
            }
        });
        let seeded = loop {
            if house.at("pod/data").exists() {
                house.remove("pod/data");
            }
            let seeded = house.ask(&version, &to("pod/data", Link::Auto));
            let is_copied = |seeded: &Seeded| seeded.reason.as_ref().is_some_and(|why| why.contains("all the time"));
            if seeded.as_ref().map_or(true, is_copied) || started.elapsed() > std::time::Duration::from_secs(60) {
                break seeded;
            }
        };
        done.store(true, SeqCst);
        seeded
    });
    let reason = seeded.unwrap().reason.unwrap();
    assert!(reason.contains("1 of the files copied: others give it names"), "{reason}");
    assert!(fs::read(house.at("pod/data/large")).unwrap() == fs::read(version.tree().path().join("large")).unwrap());
    assert_eq!(fs::metadata(house.at("pod/data/large")).unwrap().nlink(), 1);
}
