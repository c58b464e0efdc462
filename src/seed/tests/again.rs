//! A target that is seeded again: nothing is touched that is as it should be, all else is mended.

use super::*;

#[test]
fn seeded_again_nothing_is_touched() {
    for link in [Link::Copy, Link::Hardlink, Link::Auto] {
        let house = House::new();
        let version = house.publish("v1", &platform("v1"));
        house.seed(&version, link);
        let before = inodes(&house.at("pod/data"));
        let records = fs::read(house.at(".seedcache/seeds.recent")).unwrap();
        let progress = SeedProgress::default();
        let again = house.seeder.seed(&version, &to("pod/data", link), &progress).unwrap();
        assert_eq!((again.changed, again.written), (false, 0));
        assert_eq!(progress.entries.into_inner(), 9);
        assert_eq!(inodes(&house.at("pod/data")), before);
        assert_eq!(fs::read(house.at(".seedcache/seeds.recent")).unwrap(), records);
    }
}

#[test]
fn another_mode_is_built_anew() {
    let house = House::new();
    let version = house.publish("v1", &platform("v1"));
    house.seed(&version, Link::Hardlink);
    let done = house.seed(&version, Link::Copy);
    assert_eq!((done.mode, done.changed), (LinkMode::Copy, true));
    let unix = "platform/kernel/unix";
    assert_ne!(ino(&house.at("pod/data").join(unix)), ino(&version.tree().path().join(unix)));
    assert_eq!(shape(&house.at("pod/data")), expected(&platform("v1")));
    assert_eq!(house.seed(&version, Link::Auto).mode, LinkMode::Copy);
}

/// Damages a copied seed in one way, and expects it whole again.
fn mended(damage: impl Fn(&Path), written: u64) {
    let house = House::new();
    let version = house.publish("v1", &platform("v1"));
    house.seed(&version, Link::Copy);
    let target = house.at("pod/data");
    fs::write(target.join("own"), "the pod's").unwrap();
    let untouched = ino(&target.join("platform/latest"));
    damage(&target.join("platform"));
    let done = house.seed(&version, Link::Copy);
    assert_eq!((done.changed, done.written), (true, written));
    assert_eq!(fs::read_to_string(target.join("own")).unwrap(), "the pod's");
    fs::remove_file(target.join("own")).unwrap();
    assert_eq!(shape(&target), expected(&platform("v1")));
    assert_eq!(ino(&target.join("platform/latest")), untouched);
    let etc = target.join("platform/etc");
    assert_eq!(ino(&etc.join("version")), ino(&etc.join("version.link")));
    house.assert_tidy("pod");
    assert!(!house.seed(&version, Link::Copy).changed);
}

#[test]
fn what_is_missing_is_mended() {
    mended(|at| fs::remove_file(at.join("kernel/unix")).unwrap(), 2);
    mended(|at| fs::remove_dir(at.join("empty")).unwrap(), 2);
    // The directory, its two files, and the time of the one above.
    mended(|at| fs::remove_dir_all(at.join("kernel")).unwrap(), 4);
}

#[test]
fn what_is_changed_is_mended() {
    mended(|at| fs::write(at.join("kernel/unix"), "longer than it was before").unwrap(), 1);
    mended(|at| fs::File::open(at.join("kernel/unix")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap(), 1);
    mended(|at| fs::set_permissions(at.join("kernel/unix"), fs::Permissions::from_mode(0o600)).unwrap(), 1);
    mended(|at| fs::set_permissions(at.join("empty"), fs::Permissions::from_mode(0o755)).unwrap(), 1);
}

#[test]
fn another_type_is_replaced() {
    let elsewhere = tempfile::tempdir().unwrap();
    let bait = elsewhere.path().join("bait");
    fs::write(&bait, "not to be touched").unwrap();
    let swap = |at: PathBuf, put: &dyn Fn(&Path)| {
        if at.is_dir() {
            fs::remove_dir_all(&at).unwrap()
        } else {
            fs::remove_file(&at).unwrap()
        }
        put(&at);
    };
    mended(|at| swap(at.join("kernel/unix"), &|at| symlink(&bait, at).unwrap()), 2);
    mended(|at| swap(at.join("kernel/unix"), &|at| fs::create_dir_all(at.join("deep")).unwrap()), 2);
    mended(|at| swap(at.join("empty"), &|at| symlink(elsewhere.path(), at).unwrap()), 2);
    mended(|at| swap(at.join("kernel"), &|at| fs::write(at, "a file").unwrap()), 4);
    assert_eq!(fs::read_to_string(&bait).unwrap(), "not to be touched");
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
}

#[test]
fn a_broken_hard_link_is_mended() {
    let unlock = |at: &Path| fs::set_permissions(at.join("etc"), fs::Permissions::from_mode(0o755)).unwrap();
    mended(
        |at| {
            unlock(at);
            fs::remove_file(at.join("etc/version.link")).unwrap();
            fs::write(at.join("etc/version.link"), "v1\n").unwrap();
        },
        2,
    );
}

#[test]
fn a_file_that_no_longer_shares_the_stores_inode_is_linked_again() {
    let house = House::new();
    let version = house.publish("v1", &platform("v1"));
    house.seed(&version, Link::Hardlink);
    let unix = house.at("pod/data/platform/kernel/unix");
    fs::remove_file(&unix).unwrap();
    fs::write(&unix, "unix of v1").unwrap();
    assert_eq!(house.seed(&version, Link::Hardlink).written, 2);
    assert_eq!(ino(&unix), ino(&version.tree().path().join("platform/kernel/unix")));
    assert!(!house.seed(&version, Link::Auto).changed);
}

#[test]
fn a_store_written_through_a_seed_is_noticed() {
    let house = House::new();
    let version = house.publish("v1", &platform("v1"));
    house.seed(&version, Link::Hardlink);
    let unix = house.at("pod/data/platform/kernel/unix");
    fs::set_permissions(&unix, fs::Permissions::from_mode(0o755)).unwrap();
    for target in ["pod/data", "pod/other"] {
        let error = house.ask(&version, &to(target, Link::Hardlink)).unwrap_err();
        let SeedError::StoreDamaged { path: damaged, .. } = &error else { panic!("{error}") };
        assert_eq!(damaged, &path("platform/kernel/unix"));
        assert!(error.to_string().contains("thing@v1 is damaged in the store: "), "{error}");
    }
    assert!(!house.at("pod/other").exists());
    house.assert_tidy("pod");
}

#[test]
fn after_a_reboot_the_content_is_read() {
    let house = House::new();
    let version = house.publish("v1", &platform("v1"));
    house.seed(&version, Link::Copy);
    let target = house.at("pod/data");
    let unix = target.join("platform/kernel/unix");
    // As many bytes, and the same time: what a crash of the machine may leave.
    let modified = fs::metadata(&unix).unwrap().modified().unwrap();
    fs::write(&unix, "\0\0\0\0\0\0\0\0\0\0").unwrap();
    fs::File::open(&unix).unwrap().set_modified(modified).unwrap();
    assert!(!house.seed(&version, Link::Copy).changed);
    let dir = Dir::open(&target).unwrap();
    let mut mark = mark::Mark::on(&dir).unwrap().unwrap();
    mark.boot = Some("an earlier one".into());
    assert!(mark.put(&dir).unwrap());
    assert_eq!(house.seed(&version, Link::Copy).written, 1);
    assert_eq!(shape(&target), expected(&platform("v1")));
    let mark = mark::Mark::on(&dir).unwrap().unwrap();
    assert_eq!(mark.boot.as_deref(), house.seeder.records.boot());
}
