//! What is damaged on disk is found, told apart and put aside.

use futures_util::FutureExt as _;

use super::*;

#[test]
fn a_damaged_manifest_takes_only_its_own_version_out_of_service() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    {
        let store = Store::open(&root).unwrap();
        publish(&store, "1", b"one");
        publish(&store, "2", b"two");
        store.switch_current(&artifact(), &version("2")).unwrap();
    }
    let manifest = root.join("versions/os/2/manifest.json");
    sys::set_permissions(&manifest, sys::Permissions::from_mode(0o644)).unwrap();
    let mut bytes = sys::read(&manifest).unwrap();
    bytes[40] ^= 1;
    sys::write(&manifest, bytes).unwrap();
    let store = Store::open(&root).unwrap();
    let holding = store.holding(&artifact());
    assert_eq!(holding.versions.keys().collect::<Vec<_>>(), [&version("1")]);
    assert_eq!(holding.current, None);
    let reason = sys::read_to_string(root.join("quarantine/os/2/reason.json")).unwrap();
    assert!(reason.contains("checksum"), "{reason}");
    assert!(root.join("quarantine/os/2/version/tree/d/f").is_file());
    let pending = store.pending_repairs();
    assert_eq!((pending.len(), &pending[0].version), (1, &version("2")), "the index knows which it was");
}

#[test]
fn every_kind_of_damage_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    let tree = root.join("versions/os/1/tree");
    let file = tree.join("d/f");
    let open = |path: &Path| sys::set_permissions(path, sys::Permissions::from_mode(0o755)).unwrap();
    let flip = || {
        let before = sys::metadata(&file).unwrap().modified().unwrap();
        open(&file);
        let written = sys::OpenOptions::new().write(true).open(&file).unwrap();
        written.write_all_at(b"X", 1).unwrap();
        written.set_modified(before).unwrap();
        sys::set_permissions(&file, sys::Permissions::from_mode(0o444)).unwrap();
    };
    let damages: [(&str, &dyn Fn()); 6] = [
        ("d/f", &flip),
        ("d/f", &|| sys::remove_file(&file).unwrap()),
        ("d/f", &|| open(&file)),
        ("d/x", &|| sys::write(tree.join("d/x"), b"").unwrap()),
        ("d/l", &|| {
            sys::remove_file(tree.join("d/l")).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", tree.join("d/l")).unwrap();
        }),
        ("d", &|| {
            sys::remove_dir_all(tree.join("d")).unwrap();
            std::os::unix::fs::symlink("/etc", tree.join("d")).unwrap();
        }),
    ];
    for (i, (entry, damage)) in damages.iter().enumerate() {
        publish(&store, "1", b"content");
        open(&tree.join("d"));
        damage();
        if tree.join("d").is_dir() && !tree.join("d").is_symlink() {
            let time =
                sys::FileTimes::new().set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(1_767_225_600, 7));
            sys::File::open(tree.join("d")).unwrap().set_times(time).unwrap();
            sys::set_permissions(tree.join("d"), sys::Permissions::from_mode(0o555)).unwrap();
        }
        let report = store.verify(&store.open_version(&artifact(), &version("1")).unwrap(), |_| {}).unwrap();
        assert!(report.damage.iter().any(|found| found.path == path(entry)), "damage {i}: {report:?}");
        store.remove_version(&artifact(), &version("1"), || true).unwrap();
    }
}

#[test]
fn what_was_left_out_at_the_start_stands_until_it_is_replaced_and_keeps_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    publish(&store, "1", b"one");
    // As at a start that cannot read it.
    store.forget(&artifact(), &version("1"));
    let refused = publish_as(&store, "1", b"other", "recipe").unwrap_err();
    assert!(matches!(refused, PublishError::OtherBytes { .. }), "{refused}");
    let stands = root.join("versions/os/1/tree/d/f");
    assert_eq!(sys::read(&stands).unwrap(), b"one");
    publish_as(&store, "1", b"one", "another recipe").unwrap();
    assert_eq!(content_of(&store.open_version(&artifact(), &version("1")).unwrap()), b"one");
    // Not to be read at all: it makes way, and nothing of it is left.
    store.forget(&artifact(), &version("1"));
    sys::write(root.join("versions/os/1/manifest.json"), b"damaged").unwrap();
    publish_as(&store, "1", b"other", "recipe").unwrap();
    assert_eq!(sys::read(&stands).unwrap(), b"other");
    assert_eq!(sys::read_dir(root.join("staging/os")).unwrap().count(), 0);
}

#[test]
fn a_file_that_is_renamed_all_the_time_is_not_called_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    let content = vec![7; 16 << 20];
    publish(&store, "1", &content);
    let version = store.open_version(&artifact(), &version("1")).unwrap();
    let [one, other] = ["one", "other"].map(|name| dir.path().join(name));
    sys::hard_link(root.join("versions/os/1/tree/d/f"), &one).unwrap();
    let sha256: [u8; 32] = hex::decode(Digest::sha256(&content).hex()).unwrap().try_into().unwrap();
    let (done, until) = (std::sync::atomic::AtomicBool::new(false), std::time::Instant::now());
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    let judge = || version.judge(&version.tree().open_file(&path("d/f")).unwrap(), &sha256, Path::new("d/f")).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(relaxed) {
                sys::rename(&one, &other).unwrap();
                sys::rename(&other, &one).unwrap();
            }
        });
        loop {
            let judged = judge();
            let waited = until.elapsed() > std::time::Duration::from_secs(60);
            if judged != Judged::Sound || waited {
                done.store(true, relaxed);
                assert_eq!(judged, Judged::Unsettled);
                break;
            }
        }
    });
    assert_eq!(judge(), Judged::Sound);
}

#[test]
fn bad_downloads_are_put_aside_with_the_reason_and_replace_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    for bytes in [b"first", b"other"] {
        let staging = store.staging(&artifact()).unwrap();
        staging.part().unwrap().write_all(bytes).unwrap();
        let reason = Reason::new("digest", &std::io::Error::other("wrong digest"));
        store.quarantine_download(&artifact(), &staging, &reason).unwrap();
        assert_eq!(sys::read_dir(root.join("staging/os")).unwrap().count(), 0);
    }
    assert_eq!(sys::read(root.join("quarantine/os/.download/archive")).unwrap(), b"other");
    assert!(sys::read_to_string(root.join("quarantine/os/.download/reason.json")).unwrap().contains("wrong digest"));
}

#[test]
fn a_version_whose_manifest_cannot_be_read_is_left_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    {
        let store = Store::open(&root).unwrap();
        publish(&store, "1", b"one");
        publish(&store, "2", b"two");
        store.switch_current(&artifact(), &version("2")).unwrap();
    }
    // A directory in the manifest's place fails the open itself, as a broken disk would.
    let manifest = root.join("versions/os/2/manifest.json");
    sys::remove_file(&manifest).unwrap();
    sys::create_dir(&manifest).unwrap();
    let store = Store::open(&root).unwrap();
    let holding = store.holding(&artifact());
    assert_eq!(holding.versions.keys().collect::<Vec<_>>(), [&version("1")]);
    assert_eq!(holding.current, None);
    assert_eq!(sys::read(root.join("current/os/d/f")).unwrap(), b"two", "its link is left, too");
}

#[test]
fn a_current_link_removed_by_hand_does_not_hold_up_quarantine() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    publish(&store, "1", b"one");
    publish(&store, "2", b"two");
    store.switch_current(&artifact(), &version("1")).unwrap();
    sys::remove_file(root.join("current/os")).unwrap();
    let reason = Reason::new("verify", &std::io::Error::other("bad"));
    store.quarantine_version(&artifact(), &version("1"), &reason).unwrap();
    assert_eq!(store.holding(&artifact()).current, None);
}

#[test]
fn a_manifest_that_is_gone_is_damage_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    publish(&store, "1", b"one");
    let opened = store.open_version(&artifact(), &version("1")).unwrap();
    sys::remove_file(root.join("versions/os/1/manifest.json")).unwrap();
    let found = store.manifest(&opened).unwrap_err();
    assert!(matches!(found, StoreError::Manifest { source: ManifestError::Truncated, .. }), "{found:?}");
    // A symlink cannot be opened, now or later.
    std::os::unix::fs::symlink("elsewhere", root.join("versions/os/1/manifest.json")).unwrap();
    let found = store.manifest(&opened).unwrap_err();
    assert!(matches!(found, StoreError::Manifest { source: ManifestError::Read(_), .. }), "{found:?}");
    let reported = store.damage_reports().now_or_never().expect("both are one damage, reported");
    assert_eq!(reported.len(), 1);
    assert!(store.quarantine_damaged(&opened, &Reason::new("read", &found), || ()).unwrap());
}

#[test]
fn a_file_is_read_only_in_a_state_that_is_not_known() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let sha256: [u8; 32] = hex::decode(Digest::sha256(b"one").hex()).unwrap().try_into().unwrap();
    let linked = dir.path().join("linked");
    {
        let store = Store::open(&root).unwrap();
        publish(&store, "1", b"one");
        let version = store.open_version(&artifact(), &version("1")).unwrap();
        let stat = || version.tree().stat(&path("d/f")).unwrap().unwrap();
        let published = stat();
        assert!(version.knows(&published, &sha256));
        assert!(!version.knows(&published, &[0; 32]), "the state goes with the digest");
        // A name more changes the ctime: known when followed, else only once it was read.
        let inode = version.tree().path().join("d/f");
        sys::hard_link(&inode, &linked).unwrap();
        assert!(!version.knows(&stat(), &sha256));
        version.follow(&published, &stat(), &sha256);
        assert!(version.knows(&stat(), &sha256) && !version.knows(&published, &sha256));
        sys::remove_file(&linked).unwrap();
        assert!(!version.knows(&stat(), &sha256));
        let file = version.tree().open_file(&path("d/f")).unwrap();
        assert_eq!(version.judge(&file, &sha256, Path::new("d/f")).unwrap(), Judged::Sound);
        assert!(version.knows(&stat(), &sha256));
        store.remember_sound().unwrap();
    }
    {
        let store = Store::open(&root).unwrap();
        let version = store.open_version(&artifact(), &version("1")).unwrap();
        let stat = || version.tree().stat(&path("d/f")).unwrap().unwrap();
        let known = stat();
        assert!(version.knows(&known, &sha256), "over a restart");
        // A byte flipped and the time set back.
        let inode = version.tree().path().join("d/f");
        sys::set_permissions(&inode, sys::Permissions::from_mode(0o644)).unwrap();
        let file = sys::File::options().write(true).open(&inode).unwrap();
        file.write_all_at(b"0", 1).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(known.mtime.0 as u64, known.mtime.1))
            .unwrap();
        sys::set_permissions(&inode, sys::Permissions::from_mode(known.mode)).unwrap();
        assert_eq!((stat().mtime, stat().size, stat().mode), (known.mtime, known.size, known.mode));
        let file = version.tree().open_file(&path("d/f")).unwrap();
        assert_eq!(version.judge(&file, &sha256, Path::new("d/f")).unwrap(), Judged::Damaged);
    }
    let file = root.join("sound");
    let mut bytes = sys::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    sys::write(&file, bytes).unwrap();
    let store = Store::open(&root).unwrap();
    let version = store.open_version(&artifact(), &version("1")).unwrap();
    let stat = version.tree().stat(&path("d/f")).unwrap().unwrap();
    assert!(!version.knows(&stat, &sha256), "a damaged file of what is known tells nothing");
}

#[test]
fn what_a_stranger_did_to_names_is_seen_and_only_that_is_read() {
    use std::ops::ControlFlow::Continue;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    publish(&store, "1", b"one");
    let version = store.open_version(&artifact(), &version("1")).unwrap();
    let telltales = store.telltales(&version).unwrap();
    let bytes = || store.recheck_while(&version, |_| Continue(())).unwrap().unwrap().bytes;
    assert_eq!((telltales.unknown().unwrap(), bytes()), (vec![], 0));
    let inode = version.tree().path().join("d/f");
    let linked = dir.path().join("linked");
    sys::hard_link(&inode, &linked).unwrap();
    sys::remove_file(&linked).unwrap();
    let state = version.tree().stat(&path("d/f")).unwrap().unwrap().stamp;
    assert_eq!(telltales.unknown().unwrap(), [Some(state)]);
    assert_eq!(bytes(), 3);
    assert_eq!((telltales.unknown().unwrap(), bytes()), (vec![], 0));
    sys::set_permissions(&inode, sys::Permissions::from_mode(0o644)).unwrap();
    sys::write(&inode, b"two").unwrap();
    assert_eq!(store.recheck_while(&version, |_| Continue(())).unwrap().unwrap().damaged, 1);
    sys::remove_dir_all(version.tree().path()).unwrap();
    assert_eq!(telltales.unknown().unwrap(), [None]);
}

#[test]
fn what_cannot_be_looked_at_in_quarantine_hides_no_repair_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let reason = Reason::new(
        "scrub",
        &PublishError::from(crate::fs::Error::new("read", Path::new("x"), std::io::Error::other("bad"))),
    );
    for name in ["1", "2", "3"] {
        publish(&store, name, b"bytes");
        let damaged = store.open_version(&artifact(), &version(name)).unwrap();
        assert!(store.quarantine_damaged(&damaged, &reason, || ()).unwrap());
    }
    sys::create_dir(dir.path().join("quarantine/locked")).unwrap();
    for bad in ["quarantine/locked", "quarantine/os/1", "quarantine/os/2/repair.json"] {
        sys::set_permissions(dir.path().join(bad), sys::Permissions::from_mode(0o000)).unwrap();
    }
    let pending = crate::fs::without_override(|| store.pending_repairs());
    assert_eq!(pending.iter().map(|head| head.version.to_string()).collect::<Vec<_>>(), ["3"]);
}

#[test]
fn a_damaged_version_is_to_be_had_again_until_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    publish(&store, "1", b"one");
    publish(&store, "2", b"two");
    store.switch_current(&artifact(), &version("2")).unwrap();
    let damaged = store.open_version(&artifact(), &version("2")).unwrap();
    let reason = Reason::new(
        "scrub",
        &PublishError::from(crate::fs::Error::new("read", Path::new("x"), std::io::Error::other("bad"))),
    );
    assert!(store.pending_repairs().is_empty());
    assert!(store.quarantine_damaged(&damaged, &reason, || ()).unwrap());
    assert!(!store.quarantine_damaged(&damaged, &reason, || ()).unwrap(), "it is out of service already");
    assert_eq!(store.holding(&artifact()).current, None);
    assert!(!root.join("current/os").exists());
    assert_eq!(content_of(&damaged), b"two", "who reads it goes on");
    drop((damaged, store));
    let store = Store::open(&root).unwrap();
    let pending = store.pending_repairs();
    assert_eq!(pending.iter().map(|head| head.version.to_string()).collect::<Vec<_>>(), ["2"]);
    assert_eq!(store.quarantined_archive(&pending[0]).unwrap(), None);
    assert!(store.quarantined_spare() < store.quarantined());
    store.clear_quarantine(store.age(std::time::Duration::ZERO), true).unwrap();
    assert_eq!(store.pending_repairs().len(), 1, "what is to be had again is needed");
    let before = store.open_version(&artifact(), &version("1")).unwrap();
    publish(&store, "2", b"two");
    assert!(!store.repaired(&pending[0], || false).unwrap());
    assert_eq!(store.pending_repairs().len(), 1, "it is another repair by now");
    let damaged = root.join("quarantine/os/2/version");
    store.let_go_of_damaged(&pending[0], || false).unwrap();
    assert!(damaged.exists());
    for _ in 0..2 {
        store.let_go_of_damaged(&pending[0], || true).unwrap();
        assert!(!damaged.exists());
        assert_eq!(store.pending_repairs(), pending, "it is still to be mended");
    }
    assert!(store.repaired(&pending[0], || true).unwrap());
    assert!(store.pending_repairs().is_empty());
    store.clear_quarantine(store.age(std::time::Duration::ZERO), true).unwrap();
    assert_eq!(store.quarantined(), 0);
    // A late report of what was open before the repair does not take the good one.
    let late = store.open_version(&artifact(), &version("2")).unwrap();
    store.remove_version(&artifact(), &version("2"), || true).unwrap();
    publish(&store, "2", b"two");
    assert!(!store.quarantine_damaged(&late, &reason, || ()).unwrap());
    assert!(store.quarantine_damaged(&before, &reason, || ()).unwrap());
    assert_eq!(store.holding(&artifact()).versions.len(), 1);
}

#[test]
fn damage_is_noted_before_anything_that_takes_long() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    let reason = Reason::new("scrub", &std::io::Error::other("bad"));
    let drained = || {
        let names = sys::read_dir(root.join("staging")).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with(".drain-")).count()
    };
    let mut noted = vec![];
    for _ in 0..2 {
        publish(&store, "1", b"one");
        let damaged = store.open_version(&artifact(), &version("1")).unwrap();
        let note = || noted.push((store.head(&artifact(), &version("1")), drained()));
        assert!(store.quarantine_damaged(&damaged, &reason, note).unwrap());
        assert!(!store.quarantine_damaged(&damaged, &reason, || panic!("it is out of service already")).unwrap());
    }
    assert_eq!(noted, [(None, 0), (None, 1)], "what the first left is removed after that");
    assert_eq!(drained(), 0);
}

#[test]
fn a_check_stops_when_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    publish(&store, "1", &vec![7; 1 << 20]);
    let version = store.open_version(&artifact(), &version("1")).unwrap();
    let mut read = 0;
    let stopped = store.verify_while(&version, |bytes| {
        read += bytes;
        if bytes > 0 { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) }
    });
    assert_eq!(stopped.unwrap(), None);
    assert!(read > 0 && read < 1 << 20, "{read}");
    assert_eq!(store.verify(&version, |_| {}).unwrap().bytes, 1 << 20);
}

#[test]
fn a_directory_that_cannot_be_read_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    publish(&store, "1", b"one");
    let opened = store.open_version(&artifact(), &version("1")).unwrap();
    sys::set_permissions(root.join("versions/os/1/tree/d"), sys::Permissions::from_mode(0o000)).unwrap();
    let report = crate::fs::without_override(|| store.verify(&opened, |_| {}).unwrap());
    let damaged: Vec<_> = report.damage.iter().map(|damage| damage.path.to_string()).collect();
    assert_eq!(damaged, ["d", "d/f", "d/l", "d"]);
}

#[test]
fn a_lease_that_a_pod_has_on_a_file_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    publish(&store, "1", b"one");
    let opened = store.open_version(&artifact(), &version("1")).unwrap();
    let lease = crate::fs::Leased::new(&root.join("versions/os/1/tree/d/f"));
    let told = store.verify(&opened, |_| {}).unwrap_err();
    assert!(matches!(&told, StoreError::Fs(error) if error.is_busy()), "{told:?}");
    drop(lease);
    assert_eq!(store.verify(&opened, |_| {}).unwrap().damaged, 0);
    // Nor does it hide what else is damaged.
    let _lease = crate::fs::Leased::new(&root.join("versions/os/1/tree/d/f"));
    let link = root.join("versions/os/1/tree/d/l");
    sys::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("elsewhere", &link).unwrap();
    let found = store.verify(&opened, |_| {}).unwrap().damage;
    assert!(found.iter().any(|damage| damage.path == path("d/l")), "{found:?}");
}
