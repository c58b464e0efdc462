//! Whose a target is: what seedcache made is told from what it did not.

use super::*;

#[test]
fn what_seedcache_did_not_make_stays_unless_forced() {
    for words in ["an empty directory", "a directory", "a file", "a symlink"] {
        let house = House::new();
        let version = house.publish("v1", &platform("v1"));
        fs::create_dir(house.at("pod")).unwrap();
        let at = house.at("pod/data");
        match words {
            "an empty directory" => fs::create_dir(&at).unwrap(),
            "a directory" => fs::create_dir_all(at.join("precious")).unwrap(),
            "a file" => fs::write(&at, "bytes").unwrap(),
            _ => symlink("elsewhere", &at).unwrap(),
        }
        let before = ino(&at);
        let error = house.ask(&version, &to("pod/data", Link::Copy)).unwrap_err();
        assert!(matches!(error, SeedError::NotOurs { what, .. } if what == words), "{error}");
        assert!(error.to_string().contains("--force"), "{error}");
        assert_eq!(ino(&house.at("pod/data")), before);
        house.ask(&version, &Request { link: Link::Copy, ..forced("pod/data") }).unwrap();
        assert_eq!(shape(&house.at("pod/data")), expected(&platform("v1")));
        house.assert_tidy("pod");
    }
}

#[test]
fn what_is_no_file_is_no_list() {
    for what in ["a directory", "a symlink", "a fifo"] {
        let house = House::new();
        let (v1, v2) = (house.publish("v1", &platform("v1")), house.publish("v2", &platform("v2")));
        let put = |target: &str| {
            let list = house.at(target).join(".seedcache-owned");
            let _ = fs::remove_file(&list);
            match what {
                "a directory" => fs::create_dir(&list).unwrap(),
                "a symlink" => symlink("elsewhere", &list).unwrap(),
                _ => rustix::fs::mknodat(
                    rustix::fs::CWD,
                    &list,
                    rustix::fs::FileType::Fifo,
                    rustix::fs::Mode::from_raw_mode(0o644),
                    0,
                )
                .unwrap(),
            }
        };
        house.seed(&v1, Link::Copy);
        put("pod/data");
        house.seed(&v2, Link::Copy);
        assert_eq!(shape(&house.at("pod/data")), expected(&platform("v2")), "{what}");
        // What is not ours is replaced when that is wanted.
        fs::create_dir_all(house.at("pod/foreign/precious")).unwrap();
        put("pod/foreign");
        let error = house.ask(&v1, &to("pod/foreign", Link::Copy)).unwrap_err();
        assert!(matches!(error, SeedError::NotOurs { .. }), "{what}: {error}");
        house.ask(&v1, &Request { link: Link::Copy, ..forced("pod/foreign") }).unwrap();
        assert_eq!(shape(&house.at("pod/foreign")), expected(&platform("v1")), "{what}");
        // Where a list is to be written it takes its place, or that is refused before anything else is done.
        let inside = Request { swap: Some(Swap::InPlace), ..to("pod/inside", Link::Copy) };
        house.ask(&v1, &inside).unwrap();
        put("pod/inside");
        let swapped = house.ask(&v2, &inside);
        let stamp = if what == "a directory" {
            let Err(SeedError::Fs(error)) = swapped else { panic!("{swapped:?}") };
            assert!(error.path.ends_with("pod/inside/.seedcache-owned"), "{error}");
            "v1"
        } else {
            assert!(swapped.unwrap().changed);
            assert!(fs::symlink_metadata(house.at("pod/inside/.seedcache-owned")).unwrap().is_file(), "{what}");
            assert!(!house.at("pod/inside/elsewhere").exists());
            "v2"
        };
        assert_eq!(fs::read_to_string(house.at("pod/inside/platform/etc/version")).unwrap(), format!("{stamp}\n"));
    }
}

#[test]
fn a_copy_of_a_seed_is_not_ours_and_a_moved_one_is() {
    let house = House::new();
    let version = house.publish("v1", &platform("v1"));
    house.seed(&version, Link::Copy);
    fs::rename(house.at("pod/data"), house.at("pod/moved")).unwrap();
    assert!(!house.ask(&version, &to("pod/moved", Link::Copy)).unwrap().changed);
    // A copy with its attributes, as `cp -a` makes.
    fs::create_dir(house.at("pod/data")).unwrap();
    let mark = mark::Mark::on(&Dir::open(&house.at("pod/moved")).unwrap()).unwrap().unwrap();
    mark.put(&Dir::open(&house.at("pod/data")).unwrap()).unwrap();
    let error = house.ask(&version, &to("pod/data", Link::Copy)).unwrap_err();
    assert!(matches!(error, SeedError::NotOurs { .. }), "{error}");
}

#[test]
fn without_attributes_the_records_tell() {
    let mut house = House::new();
    Arc::get_mut(&mut house.seeder).unwrap().records.attributes = false;
    let (v1, v2) = (house.publish("v1", &platform("v1")), house.publish("v2", &platform("v2")));
    house.seed(&v1, Link::Copy);
    assert!(Dir::open(&house.at("pod/data")).unwrap().xattr(mark::ATTRIBUTE).unwrap().is_none());
    house.seeder = Seeder::open(&house.at(""), house.store.clone()).unwrap().into();
    Arc::get_mut(&mut house.seeder).unwrap().records.attributes = false;
    assert!(!house.seed(&v1, Link::Copy).changed);
    assert!(house.seed(&v2, Link::Copy).changed);
    assert_eq!(house.seeder.records()[0].version.as_str(), "v2");
    house.remove("pod/data");
    fs::create_dir(house.at("pod/data")).unwrap();
    let error = house.ask(&v2, &to("pod/data", Link::Copy)).unwrap_err();
    assert!(matches!(error, SeedError::NotOurs { .. }), "{error}");
}

#[test]
fn a_crash_before_the_swap_leaves_the_old_seed_ours() {
    let mut house = House::new();
    Arc::get_mut(&mut house.seeder).unwrap().records.attributes = false;
    let (v1, v2) = (house.publish("v1", &platform("v1")), house.publish("v2", &platform("v2")));
    house.seed(&v1, Link::Copy);
    // The new tree was announced, then all ended.
    let left = house.at("pod/.data.seedcache-abcdefghijkl");
    fs::create_dir(&left).unwrap();
    let dir = Dir::open(&left).unwrap();
    let old = Dir::open(&house.at("pod/data")).unwrap();
    let mut mark = house.seeder.records.mark_of(&old, &path("pod/data")).unwrap().unwrap();
    (mark.version, mark.id) = ("v2".parse().unwrap(), mark::Identity::of(&dir).unwrap());
    house.seeder.records.announce(&path("pod/data"), &dir, &mark).unwrap();
    house.seeder = Seeder::open(&house.at(""), house.store.clone()).unwrap().into();
    Arc::get_mut(&mut house.seeder).unwrap().records.attributes = false;
    assert!(!house.seed(&v1, Link::Copy).changed);
    assert!(!left.exists());
    assert!(house.seed(&v2, Link::Copy).changed);
}

#[test]
fn records_are_kept_over_a_restart_and_vanished_ones_forgotten() {
    let mut house = House::new();
    let version = house.publish("v1", &platform("v1"));
    house.seed(&version, Link::Copy);
    house.ask(&version, &to("other", Link::Hardlink)).unwrap();
    let records = house.seeder.records();
    house.seeder.note_seeds();
    house.seeder = Seeder::open(&house.at(""), house.store.clone()).unwrap().into();
    assert_eq!(house.seeder.records(), records);
    assert_eq!(records.len(), 2);
    house.remove("other");
    assert_eq!(house.seeder.records(), records[1..]);
    // Unreadable records cost the list, not the seeds.
    fs::write(house.at(".seedcache/seeds.json"), "{\"seeds\":[{").unwrap();
    house.seeder = Seeder::open(&house.at(""), house.store.clone()).unwrap().into();
    assert_eq!(house.seeder.records(), []);
    assert!(house.at(".seedcache/seeds.json.unreadable").exists());
    assert!(!house.seed(&version, Link::Copy).changed);
    assert_eq!(house.seeder.records(), records[1..]);
}
