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
