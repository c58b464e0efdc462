//! What keeps a version here by somebody's word: leases and pins.

use super::*;

#[test]
fn nobody_pins_a_version_that_is_being_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    for is_to_be_here in [true, false] {
        publish(&store, "1", b"one");
        std::thread::scope(|scope| {
            let mut pinning = None;
            let may_go = || {
                // Not before it went, or the other way round: then it stays.
                pinning = Some(scope.spawn(|| store.pin(&artifact(), &version("1"), is_to_be_here)));
                store.pin_of(&artifact()).is_none()
            };
            assert!(store.remove_version(&artifact(), &version("1"), may_go).unwrap());
            match pinning.unwrap().join().unwrap() {
                Ok(pinning) => assert!(!is_to_be_here && !pinning.is_here, "{pinning:?}"),
                Err(error) => assert!(is_to_be_here && matches!(error, StoreError::NoVersion { .. }), "{error}"),
            }
        });
        store.unpin(&artifact()).unwrap();
    }
    publish(&store, "1", b"one");
    assert!(store.pin(&artifact(), &version("1"), true).unwrap().is_here);
    assert!(!store.remove_unclaimed(&artifact(), &version("1"), || false).unwrap());
}

#[test]
fn what_was_refused_for_a_failed_write_is_not_true_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    publish(&store, "1", b"one");
    let holder: HolderName = "job".parse().unwrap();
    let lease = || store.grant_lease(&artifact(), &version("1"), &holder, std::time::Duration::from_secs(600));
    let pin = || store.pin(&artifact(), &version("1"), true);
    lease().unwrap();
    pin().unwrap();
    let files = ["leases.json", "pins.json"].map(|name| root.join(name));
    let new = files.clone().map(|file| sys::read(file).unwrap());
    assert!(store.drop_lease(&artifact(), &holder).unwrap());
    store.unpin(&artifact()).unwrap();
    // A directory in the file's place: the rename fails for root too.
    for file in &files {
        sys::remove_file(file).unwrap();
        sys::create_dir_all(file.join("x")).unwrap();
    }
    lease().unwrap_err();
    pin().unwrap_err();
    store.write_unsure().unwrap_err();
    // As if the new file had come into its place, and that could not be synced.
    for (file, new) in files.iter().zip(&new) {
        sys::remove_dir_all(file).unwrap();
        sys::write(file, new).unwrap();
    }
    store.write_unsure().unwrap();
    drop(store);
    let store = Store::open(&root).unwrap();
    assert_eq!((store.leases_on(&artifact()), store.pin_of(&artifact())), (vec![], None));
    // Where nothing failed nothing is written.
    sys::remove_file(&files[0]).unwrap();
    store.write_unsure().unwrap();
    assert!(!files[0].exists());
}
