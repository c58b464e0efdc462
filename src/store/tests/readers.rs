//! Who has a version open while it is published anew, removed or taken away.

use super::*;

#[test]
fn a_reader_keeps_a_removed_version_until_it_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    publish(&store, "1", b"one");
    let reader = store.open_version(&artifact(), &version("1")).unwrap();
    store.remove_version(&artifact(), &version("1"), || true).unwrap();
    assert!(matches!(store.open_version(&artifact(), &version("1")), Err(StoreError::NoVersion { .. })));
    store.sweep().unwrap();
    assert_eq!(content_of(&reader), b"one");
    drop(reader);
    store.sweep().unwrap();
    let drained =
        sys::read_dir(root.join("staging")).unwrap().filter(|e| e.as_ref().unwrap().file_name() != "os").count();
    assert_eq!(drained, 0);
}

#[test]
fn a_version_directory_that_vanishes_is_found_missing() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    publish(&store, "1", b"one");
    Dir::open(&root).unwrap().remove_tree(&path("versions/os/1")).unwrap();
    assert!(matches!(store.open_version(&artifact(), &version("1")), Err(StoreError::NoVersion { .. })));
    assert_eq!(store.head(&artifact(), &version("1")), None);
}

#[test]
fn what_takes_the_place_of_a_vanished_version_may_have_other_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    for (name, bytes) in [("versions/os/1", b"one"), ("versions/os/1", b"two"), ("versions/os", b"two")] {
        publish(&store, "1", bytes);
        Dir::open(&root).unwrap().remove_tree(&path(name)).unwrap();
    }
    publish(&store, "1", b"ten");
    assert_eq!(content_of(&store.open_version(&artifact(), &version("1")).unwrap()), b"ten");
}

#[test]
fn who_opens_a_version_that_is_being_replaced_gets_one_of_the_two_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    publish_as(&store, "1", b"content", "recipe").unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..100 {
                publish_as(&store, "1", b"content", &format!("recipe {n}")).unwrap();
            }
            done.store(true, Relaxed);
        });
        while !done.load(Relaxed) {
            let reader = store.open_version(&artifact(), &version("1")).unwrap();
            assert_eq!(store.manifest(&reader).unwrap().head, **reader.head());
        }
    });
    store.sweep().unwrap();
    assert_eq!(drained(&root), 0);
}

#[test]
fn readers_are_counted_once_nobody_can_open_the_version_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    publish(&store, "1", b"one");
    let reader = store.open_version(&artifact(), &version("1")).unwrap();
    let versions = Dir::open(&root.join("versions/os")).unwrap();
    let readers = || {
        assert!(!root.join("versions/os/1").exists(), "whoever opens it now would not be counted");
        store.close(&artifact(), &version("1"))
    };
    store.drain(&versions, &path("1"), readers).unwrap();
    assert_eq!((content_of(&reader), drained(&root)), (b"one".to_vec(), 1));
    drop(reader);
    store.sweep().unwrap();
    assert_eq!(drained(&root), 0);
}

#[test]
fn a_version_kept_open_is_opened_anew_once_it_is_another() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    publish(&store, "1", b"one");
    assert!(store.version_at_once(&artifact(), &version("1")).is_none(), "nobody asked for it yet");
    let first = store.open_version(&artifact(), &version("1")).unwrap();
    let manifest = store.manifest(&first).unwrap();
    let (again, same) = store.version_at_once(&artifact(), &version("1")).unwrap();
    assert!(again.is_same(&first).unwrap() && std::sync::Arc::ptr_eq(&same, &manifest));
    store.remove_version(&artifact(), &version("1"), || true).unwrap();
    assert!(store.version_at_once(&artifact(), &version("1")).is_none());
    store.open_version(&artifact(), &version("1")).unwrap_err();
    assert_eq!(content_of(&again), b"one", "it is read still");
    publish(&store, "1", b"two");
    assert!(store.version_at_once(&artifact(), &version("1")).is_none());
    assert_eq!(content_of(&store.open_version(&artifact(), &version("1")).unwrap()), b"two");
    drop((first, again));
    store.sweep().unwrap();
    assert_eq!(drained(&dir.path().join("store")), 0);
}

#[test]
fn what_a_late_look_missed_is_not_forgotten_once_it_is_published_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    publish(&store, "1", b"one");
    let late = store.head(&artifact(), &version("1")).unwrap();
    store.remove_version(&artifact(), &version("1"), || true).unwrap();
    publish(&store, "1", b"two");
    store.forget_vanished(&late);
    assert_eq!(content_of(&store.open_version(&artifact(), &version("1")).unwrap()), b"two");
}

#[test]
fn what_is_published_while_another_of_its_name_is_missed_is_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    publish(&store, "1", b"one");
    for _ in 0..1000 {
        let known = store.head(&artifact(), &version("1")).unwrap();
        let anew = std::sync::Arc::new((*known).clone());
        let both = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                both.wait();
                store.forget_vanished(&known);
            });
            both.wait();
            // As a publish does.
            store.change_inventory(|inventory| {
                inventory.entry(artifact()).or_default().versions.insert(version("1"), anew.clone());
            });
        });
        assert!(store.head(&artifact(), &version("1")).is_some_and(|head| std::sync::Arc::ptr_eq(&head, &anew)));
    }
}

#[test]
fn what_is_claimed_up_to_the_last_moment_stays_and_what_goes_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let (key, seeded) = ((artifact(), version("1")), std::sync::atomic::AtomicBool::new(false));
    let (mut kept, mut gone) = (0, 0);
    while kept == 0 || gone == 0 {
        if store.head(&key.0, &key.1).is_none() {
            publish(&store, "1", b"content");
        }
        seeded.store(false, Relaxed);
        std::thread::scope(|scope| {
            // As a seed by hard link does: what it claims is noted before it lets go of the version.
            scope.spawn(|| {
                std::thread::sleep(std::time::Duration::from_micros(fastrand::u64(0..300)));
                store.open_version(&key.0, &key.1).inspect(|_| seeded.store(true, Relaxed)).is_ok()
            });
            std::thread::sleep(std::time::Duration::from_micros(fastrand::u64(0..300)));
            let removed = store.remove_unclaimed(&key.0, &key.1, || seeded.load(Relaxed)).unwrap();
            (kept, gone) = (kept + i32::from(!removed), gone + i32::from(removed));
        });
        assert!(!seeded.load(Relaxed) || store.head(&key.0, &key.1).is_some(), "seeded, and gone");
    }
}

#[test]
fn what_cannot_be_removed_is_opened_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    publish(&store, "1", b"one");
    let manifest = store.manifest(&store.open_version(&artifact(), &version("1")).unwrap()).unwrap();
    // Where it would be moved there is no directory any more.
    sys::remove_dir_all(dir.path().join("store/staging")).unwrap();
    store.remove_unclaimed(&artifact(), &version("1"), || false).unwrap_err();
    let (reader, same) = store.version_at_once(&artifact(), &version("1")).unwrap();
    assert!(std::sync::Arc::ptr_eq(&same, &manifest));
    assert_eq!(content_of(&reader), b"one");
    // Who reads it by then is known of by whoever removes it next.
    assert!(!store.remove_unclaimed(&artifact(), &version("1"), || false).unwrap());
}

#[test]
fn a_version_kept_open_that_is_taken_away_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    publish(&store, "1", b"one");
    drop(store.open_version(&artifact(), &version("1")).unwrap());
    std::fs::remove_dir_all(root.join("versions/os/1")).unwrap();
    store.open_version(&artifact(), &version("1")).unwrap_err();
    assert_eq!(store.head(&artifact(), &version("1")), None);
}

#[test]
fn a_crowd_that_wants_one_manifest_reads_it_once() {
    const CROWD: usize = 16;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let (staging, mut entries) = stage(&store, b"one");
    // So many that one who reads it is at it while the others come.
    entries.extend(
        (0..20_000).map(|at| Entry { path: path(&format!("e{at:05}")), ..entries[0].clone() }).collect::<Vec<_>>(),
    );
    publish_entries(&store, "1", b"one", "recipe", &staging, entries).unwrap();
    let (began, read) = (std::sync::Barrier::new(CROWD), std::sync::Barrier::new(CROWD));
    let one = || {
        let version = store.open_version(&artifact(), &version("1")).unwrap();
        began.wait();
        let manifest = store.manifest(&version).unwrap();
        read.wait();
        std::sync::Arc::as_ptr(&manifest) as usize
    };
    let different: std::collections::BTreeSet<usize> = std::thread::scope(|scope| {
        let crowd: Vec<_> = (0..CROWD).map(|_| scope.spawn(one)).collect();
        crowd.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(different.len(), 1);
}

#[test]
fn what_is_removed_or_damaged_is_not_what_takes_its_place_at_that_moment() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    publish_as(&store, "1", b"content", "recipe").unwrap();
    let reason = || Reason::new("verify", &std::io::Error::other("damaged"));
    for n in 0..150 {
        let reader = store.open_version(&artifact(), &version("1")).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(std::time::Duration::from_micros(fastrand::u64(0..20_000)));
                match n % 2 {
                    0 => drop(store.remove_version(&artifact(), &version("1"), || true)),
                    _ => drop(store.quarantine_damaged(&reader, &reason(), || ())),
                }
            });
            publish_as(&store, "1", b"content", &format!("recipe {n}")).unwrap();
        });
        assert_eq!(content_of(&reader), b"content", "{n}: it is open");
        match store.open_version(&artifact(), &version("1")) {
            Ok(now) => assert_eq!(store.manifest(&now).unwrap().head, **now.head()),
            Err(_) => {
                assert!(!root.join("versions/os/1").exists(), "{n}: it is there and not known");
                publish(&store, "1", b"content");
            }
        }
    }
    store.sweep().unwrap();
    assert_eq!(drained(&root), 0);
}

#[test]
fn what_is_in_quarantine_is_kept_for_its_readers() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    let reason = || Reason::new("verify", &std::io::Error::other("damaged"));
    publish(&store, "1", b"content");
    let first = store.open_version(&artifact(), &version("1")).unwrap();
    assert!(store.quarantine_damaged(&first, &reason(), || ()).unwrap());
    publish(&store, "1", b"content");
    let second = store.open_version(&artifact(), &version("1")).unwrap();
    assert!(store.quarantine_damaged(&second, &reason(), || ()).unwrap(), "the first is drained for it");
    publish(&store, "1", b"content");
    assert!(store.repaired(second.head(), || true).unwrap());
    assert_ne!(store.clear_quarantine(store.age(std::time::Duration::ZERO), true).unwrap(), 0);
    store.sweep().unwrap();
    assert_eq!((content_of(&first), content_of(&second)), (b"content".to_vec(), b"content".to_vec()));
    drop((first, second));
    store.sweep().unwrap();
    assert_eq!(drained(&root), 0);
}
