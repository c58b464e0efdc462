//! Directories that peers hold open. The peers are other users, which takes root.

use std::os::unix::fs::chown;

use super::*;

const POD: u32 = 1000;

#[track_caller]
fn needs_root() {
    assert!(
        crate::fs::may_give_away(),
        "this test makes files of other users: run it as root, outside user namespaces"
    );
}

/// Without the file that only root may read, which would not be linked for a pod.
fn platform(stamp: &str) -> Vec<Thing> {
    let mut things = super::platform(stamp);
    for thing in &mut things {
        if let F(_, mode, _) = thing {
            *mode |= 0o044;
        }
    }
    things
}

/// A directory of the pod's.
fn volume(house: &House, name: &str, owner: u32) -> PathBuf {
    let at = house.at(name);
    fs::create_dir(&at).unwrap();
    chown(&at, Some(owner), Some(owner)).unwrap();
    at
}

fn fill(house: &House, version: &Version, at: &Path, uid: u32, link: Link) -> Result<Filling, FillError> {
    let dir = Dir::open(at).unwrap();
    let request = FillRequest { dir, link, target: "/data".into(), peer: Peer { uid, gid: uid } };
    house.seeder.fill(version, &request, &SeedProgress::default())
}

#[track_caller]
fn filled(house: &House, version: &Version, at: &Path, uid: u32) -> Seeded {
    match fill(house, version, at, uid, Link::Auto).unwrap() {
        Filling::Seeded(seeded, _) => *seeded,
        Filling::Receive(why) => panic!("{why}"),
    }
}

#[track_caller]
fn received(house: &House, version: &Version, at: &Path, uid: u32) -> Receive {
    match fill(house, version, at, uid, Link::Auto).unwrap() {
        Filling::Receive(why) => why,
        Filling::Seeded(seeded, _) => panic!("{seeded:?}"),
    }
}

#[track_caller]
fn clash(outcome: Result<Filling, FillError>) -> PathBuf {
    match outcome {
        Err(FillError::Seed(SeedError::Clash { path })) => path,
        other => panic!("{other:?}"),
    }
}

/// Has the mark say another mode.
fn forge(at: &Path, mode: LinkMode) {
    let dir = Dir::open(at).unwrap();
    let mut mark = Mark::on(&dir).unwrap().unwrap();
    mark.mode = mode;
    assert!(mark.put(&dir).unwrap());
}

#[test]
fn nothing_is_changed_in_a_directory_that_is_not_the_peers() {
    needs_root();
    let house = House::new();
    let version = house.publish("v1", &platform("v1"));
    let at = volume(&house, "pod", POD);
    filled(&house, &version, &at, POD);
    // Another's directory, that the pod may rename but not look into.
    let (kernel, theirs) = (at.join("platform/kernel"), at.join("theirs"));
    fs::remove_dir_all(&kernel).unwrap();
    fs::create_dir(&theirs).unwrap();
    fs::write(theirs.join("unix"), "theirs").unwrap();
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o700)).unwrap();
    fs::rename(&theirs, &kernel).unwrap();
    for mode in [LinkMode::Hardlink, LinkMode::Copy] {
        forge(&at, mode);
        assert_eq!(clash(fill(&house, &version, &at, POD, Link::Auto)).file_name().unwrap(), "kernel");
        assert_eq!(fs::read_to_string(kernel.join("unix")).unwrap(), "theirs");
        assert_eq!(fs::read_dir(&kernel).unwrap().count(), 1);
    }
    // Root may.
    forge(&at, LinkMode::Copy);
    filled(&house, &version, &at, 0);
    assert_eq!(fs::read_to_string(kernel.join("unix")).unwrap(), "unix of v1");
}

#[test]
fn no_file_of_others_gets_a_name_that_the_peer_can_reach() {
    needs_root();
    let house = House::new();
    let things = [
        D("first", 0o755),
        F("first/name", 0o644, "shared".into()),
        D("second", 0o755),
        L("second/name", "first/name"),
    ];
    let version = house.publish("v1", &things);
    let at = volume(&house, "pod", POD);
    filled(&house, &version, &at, POD);
    // What stands under the first name while it is linked is the pod's to choose.
    let theirs = house.at("theirs");
    fs::write(&theirs, "secret").unwrap();
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o600)).unwrap();
    let (first, second) = (at.join("first/name"), at.join("second/name"));
    let (done, linked) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            while !done.load(SeqCst) {
                if fs::metadata(&second).is_ok_and(|found| found.ino() == ino(&theirs)) {
                    linked.store(true, SeqCst);
                }
                let _ = fs::remove_file(&second);
                let _ = fs::hard_link(&theirs, at.join("aside"));
                let _ = fs::rename(at.join("aside"), &first);
            }
        });
        for _ in 0..150 {
            let _ = fill(&house, &version, &at, POD, Link::Auto);
        }
        done.store(true, SeqCst);
        swapper.join().unwrap();
    });
    assert!(!linked.into_inner(), "another's file was linked for the pod");
}

#[test]
fn who_owns_the_stores_files_gets_no_link_to_them() {
    needs_root();
    let house = House::new();
    let version = house.publish_owned("v1", &platform("v1"), Some(POD));
    let at = volume(&house, "pod", POD);
    assert_eq!(received(&house, &version, &at, POD), Receive::PeersOwn);
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0);
    let refused = fill(&house, &version, &at, POD, Link::Hardlink).unwrap_err();
    assert!(matches!(refused, FillError::Refused(Refusal::NoLink { why: Receive::PeersOwn, .. })), "{refused}");
    // As root it was linked; then it becomes the pod's.
    filled(&house, &version, &at, 0);
    assert_eq!(received(&house, &version, &at, POD), Receive::PeersOwn);
    // Nor does a mark that says otherwise get the inodes other rights.
    let stored = version.tree().path().join("platform/kernel/unix");
    let before = fs::metadata(&stored).unwrap();
    for path in ["platform", "platform/kernel", "platform/etc", "platform/empty"] {
        let _ = chown(at.join(path), Some(POD), Some(POD));
    }
    forge(&at, LinkMode::Copy);
    filled(&house, &version, &at, POD);
    let after = fs::metadata(&stored).unwrap();
    assert_eq!((after.mode(), after.uid(), after.ino()), (before.mode(), before.uid(), before.ino()));
    assert_ne!(ino(&at.join("platform/kernel/unix")), before.ino());
}

#[test]
fn unread_content_is_given_to_nobody() {
    needs_root();
    let house = House::new();
    let version = house.publish("v1", &platform("v1"));
    house.seed(&version, Link::Copy);
    let unix = house.at("pod/data/platform/kernel/unix");
    let modified = fs::metadata(&unix).unwrap().modified().unwrap();
    for (owner, mode) in [(POD, 0o644), (0, 0o666)] {
        fs::write(&unix, "UNIX OF V1").unwrap();
        fs::File::open(&unix).unwrap().set_modified(modified).unwrap();
        chown(&unix, Some(owner), Some(owner)).unwrap();
        fs::set_permissions(&unix, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(house.seed(&version, Link::Copy).written, 1);
        assert_eq!(fs::read_to_string(&unix).unwrap(), "unix of v1");
        assert_eq!((fs::metadata(&unix).unwrap().uid(), fs::metadata(&unix).unwrap().mode() & 0o777), (0, 0o755));
    }
}

#[test]
fn what_a_peer_writes_into_a_mark_is_not_told_at_length() {
    needs_root();
    let house = House::new();
    let version = house.publish("v1", &platform("v1"));
    let at = volume(&house, "pod", POD);
    filled(&house, &version, &at, POD);
    let dir = Dir::open(&at).unwrap();
    let mut mark = Mark::on(&dir).unwrap().unwrap();
    mark.reason = Some("x".repeat(2000));
    assert!(mark.put(&dir).unwrap());
    assert_eq!(filled(&house, &version, &at, POD).reason.unwrap().len(), 256);
    assert_eq!(house.seeder.filled()[0].reason.as_ref().unwrap().len(), 256);
}

#[test]
fn a_directory_on_record_is_mended_only_while_it_holds_that_version() {
    needs_root();
    let house = House::new();
    let [v1, v2] = ["v1", "v2"].map(|version| house.publish(version, &platform(version)));
    let at = volume(&house, "pod", POD);
    filled(&house, &v1, &at, POD);
    let record = house.seeder.filled().remove(0);
    let mend = || {
        let dir = house.seeder.open_filled(&record).unwrap();
        house.seeder.mend_filled(&v1, &record, dir, std::time::Duration::ZERO, &SeedProgress::default())
    };
    let unix = at.join("platform/kernel/unix");
    fs::remove_file(&unix).unwrap();
    assert!(mend().unwrap());
    assert!(unix.exists());

    let dir = Dir::open(&at).unwrap();
    let mark = Mark::on(&dir).unwrap().unwrap();
    fs::remove_file(&unix).unwrap();
    let held = dir.lock(std::time::Duration::ZERO).unwrap().unwrap();
    assert!(matches!(mend().unwrap_err(), FillError::Seed(SeedError::Locked { .. })));
    drop(held);
    // A swap in place is under way, or is done.
    let names = super::super::owned::Names::default();
    let head = |whole| super::super::owned::Head::new(&dir, Swap::InPlace, whole, None).unwrap();
    head(false).write(&dir, &names).unwrap();
    assert!(!mend().unwrap());
    head(true).write(&dir, &names).unwrap();
    let wanted: Wanted = (&**v2.head()).into();
    let other = Mark { version: wanted.version.clone(), tree_digest: wanted.tree_digest.clone(), ..mark };
    assert!(other.put(&dir).unwrap());
    assert!(!mend().unwrap());
    assert!(!unix.exists());
}

#[test]
fn what_a_peer_put_there_meanwhile_stays_when_a_fill_fails() {
    needs_root();
    let house = House::new();
    let version = house.publish("v1", &platform("v1"));
    let at = volume(&house, "pod", 0);
    // The directory was empty when it was looked at.
    for theirs in ["platform", "theirs"] {
        fs::write(at.join(theirs), "theirs").unwrap();
    }
    let (dir, progress) = (Dir::open(&at).unwrap(), SeedProgress::default());
    let work = house.seeder.work_on(&version, Link::Auto, Peer { uid: 0, gid: 0 }, &progress).unwrap();
    let scratch = super::super::staged::Scratch::within(&dir);
    // By whatever link there is: the tree is made, and then the name is taken.
    let filled = house.seeder.fill_through(&work, &dir, &scratch, None);
    let Err(SeedError::Fs(failed)) = filled else { panic!("it was filled, or failed before it was moved in") };
    assert!(failed.is_exists(), "{failed}");
    assert_eq!(fs::read_dir(&at).unwrap().count(), 2);
    for theirs in ["platform", "theirs"] {
        assert_eq!(fs::read_to_string(at.join(theirs)).unwrap(), "theirs");
    }
}

#[test]
fn a_pod_with_users_of_its_own_gets_no_link_whose_owner_it_would_seem_to_be() {
    needs_root();
    const MAPPED_ROOT: u32 = 65_536;
    let house = House::new();
    let version = house.publish("v1", &platform("v1"));
    let on_disk = volume(&house, "pod", 0);
    let at = house.at("mounted");
    fs::create_dir(&at).unwrap();
    let mounted = crate::fs::Shifted::new(&on_disk, &at);
    assert_eq!(received(&house, &version, &at, MAPPED_ROOT), Receive::Mapped);
    // Nor does root's own client there: the daemon is not to write through that mount.
    assert_eq!(received(&house, &version, &at, 0), Receive::Mapped);
    let demanded = fill(&house, &version, &at, MAPPED_ROOT, Link::Hardlink).unwrap_err();
    let why = Refusal::NoLink { mode: LinkMode::Hardlink, why: Receive::Mapped };
    assert!(matches!(demanded, FillError::Refused(refused) if refused == why), "{demanded}");
    assert_eq!(fs::read_dir(&on_disk).unwrap().count(), 0);
    drop(mounted);
    assert!(filled(&house, &version, &on_disk, 0).changed);
}

#[test]
fn a_directory_that_lost_its_mark_is_known_by_its_record() {
    needs_root();
    let house = House::new();
    let version = house.publish("v1", &platform("v1"));
    let at = volume(&house, "pod", POD);
    filled(&house, &version, &at, POD);
    let unix = at.join("platform/kernel/unix");
    fs::remove_file(&unix).unwrap();
    let dir = Dir::open(&at).unwrap();
    assert!(dir.set_xattr(super::super::mark::ATTRIBUTE, b"").unwrap());
    assert_eq!(Mark::on(&dir).unwrap(), None);
    assert!(filled(&house, &version, &at, POD).changed);
    assert_eq!(fs::read_to_string(&unix).unwrap(), "unix of v1");
    assert_eq!(house.seeder.filled().len(), 1);
}

#[test]
fn what_was_replaced_is_forgotten_once_it_is_looked_for() {
    needs_root();
    let house = House::new();
    let version = house.publish("v1", &platform("v1"));
    let [old, new] = ["old", "new"].map(|name| volume(&house, name, POD));
    filled(&house, &version, &old, POD);
    filled(&house, &version, &new, POD);
    fs::remove_dir_all(&old).unwrap();
    assert_eq!(house.seeder.known_filled().len(), 2);
    assert!(!house.seeder.look_at_filled(&["/other".to_owned()].into()));
    assert!(house.seeder.look_at_filled(&["/data".to_owned()].into()));
    assert_eq!(house.seeder.known_filled().len(), 1);
    // Its handle leads there for as long as somebody has it open.
    let _open = Dir::open(&new).unwrap();
    fs::remove_dir_all(&new).unwrap();
    assert!(house.seeder.look_at_filled(&["/data".to_owned()].into()));
    assert!(house.seeder.known_filled().is_empty());
}
