//! What others open and pass may lie on a file system that never answers. It is mounted: these tests run as root.

use std::sync::mpsc;
use std::time::Duration;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn whether_a_passed_directory_is_a_targets_parent_is_told_though_it_does_not_answer() {
    let (house, mount) = (House::new(), tempfile::tempdir().unwrap());
    let far = Arc::new(crate::hung::Hung::at(mount.path(), Vec::new()));
    let (theirs, own) = (Dir::open(mount.path()).unwrap(), Dir::open(&house.at("")).unwrap());
    assert!(house.seeder.is_parent_of(&own, &path("data")));
    far.hang(true);
    // What is known of it is too old by now: whoever looks waits.
    let asked = theirs.clone();
    let waits = std::thread::spawn(move || {
        let deadline = std::time::Instant::now() + Duration::from_secs(1);
        while std::time::Instant::now() < deadline {
            asked.stat_self().unwrap();
        }
    });
    while far.waiting() == 0 {
        assert!(!waits.is_finished(), "the server was never asked");
        std::thread::yield_now();
    }
    let (tell, told) = mpsc::channel();
    let seeder = house.seeder.clone();
    let looks = std::thread::spawn(move || tell.send(seeder.is_parent_of(&theirs, &path("data"))));
    let told = told.recv_timeout(PATIENCE);
    far.hang(false);
    waits.join().unwrap();
    looks.join().unwrap().unwrap();
    assert_eq!(told, Ok(false));
}

#[test]
fn a_target_whose_directory_does_not_answer_in_time_is_not_that_one_and_holds_up_no_other() {
    let house = House::new();
    fs::create_dir(house.at("far")).unwrap();
    let far = crate::hung::Hung::at(&house.at("far"), Vec::new());
    far.hang(true);
    let own = Dir::open(&house.at("")).unwrap();
    let (tell, told) = mpsc::channel();
    let seeder = house.seeder.clone();
    let asks = std::thread::spawn(move || {
        let soon = Duration::from_millis(100);
        for (target, limit) in [("far/deep/data", soon), ("far/deep/other", soon), ("data", PATIENCE)] {
            tell.send(seeder.is_parent_within(&own, &path(target), limit)).unwrap();
        }
    });
    let told: Vec<_> = (0..3).map(|_| told.recv_timeout(PATIENCE)).collect();
    far.hang(false);
    asks.join().unwrap();
    assert_eq!(told, [Ok(false), Ok(false), Ok(true)]);
}
