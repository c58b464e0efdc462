//! The three swaps: what they leave, what a reader sees meanwhile, and what a sudden end at any step does.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::fs::crash;

/// A tree in which names come, go and change their kind. Files of two versions have the same sizes and times.
fn tree(stamp: &str) -> Vec<Thing> {
    let file = |name, mode| F(name, mode, content(stamp));
    match stamp {
        "v1" => vec![
            D("bin", 0o755),
            file("bin/a", 0o755),
            file("bin/gone", 0o644),
            file("conf", 0o644),
            D("left", 0o555),
            file("left/deep", 0o644),
            file("turned-dir", 0o644),
            D("turned-file", 0o755),
            file("turned-file/x", 0o644),
        ],
        _ => vec![
            D("bin", 0o555),
            file("bin/a", 0o755),
            file("bin/new", 0o644),
            file("conf", 0o644),
            D("fresh", 0o755),
            D("fresh/deep", 0o755),
            file("fresh/deep/y", 0o644),
            S("link", "conf"),
            D("turned-dir", 0o755),
            file("turned-dir/x", 0o644),
            file("turned-file", 0o644),
        ],
    }
}

fn content(stamp: &str) -> String {
    format!("{stamp}\n").repeat(2000)
}

/// What each path of a version holds, as readers see it.
fn files(stamp: &str) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    for thing in tree(stamp) {
        match thing {
            F(name, _, content) => files.insert(PathBuf::from(name), content),
            S(name, _) => files.insert(PathBuf::from(name), content(stamp)),
            _ => None,
        };
    }
    files
}

/// The same of a target, links followed, but for hidden names at its top.
fn found(target: &Path) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    let mut todo = vec![target.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let at = entry.path();
            if dir == target && entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if at.is_dir() {
                todo.push(at);
            } else {
                files.insert(at.strip_prefix(target).unwrap().to_owned(), fs::read_to_string(&at).unwrap());
            }
        }
    }
    files
}

fn with_theirs(mut files: BTreeMap<PathBuf, String>) -> BTreeMap<PathBuf, String> {
    files.insert("theirs".into(), "theirs".into());
    files.insert("bin/theirs".into(), "theirs".into());
    files
}

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn by(swap: Swap) -> Request {
    Request { swap: Some(swap), ..to("pod/data", Link::Copy) }
}

impl House {
    fn seed_by(&self, version: &Version, swap: Swap) -> Seeded {
        self.ask(version, &by(swap)).unwrap()
    }

    /// The daemon ends without a word, and comes back.
    fn restart(&mut self) {
        crash::end_after(0);
        self.seeder = Seeder::open(&self.at(""), self.store.clone()).unwrap().into();
        crash::revive();
    }

    /// Nothing is left of earlier tries and versions, beside the target and in it.
    fn assert_neat(&self, swap: Swap, stamp: &str) {
        self.seeder.retired.remove(Duration::ZERO);
        assert_eq!(names(&self.at("pod")), ["data".to_owned()].into());
        let target = self.at("pod/data");
        let mut hidden = names(&target);
        hidden.retain(|name| name.starts_with('.'));
        let trees = hidden.extract_if(.., |name| name.starts_with("..") && name != "..data").count();
        let (expected, most): (&[&str], usize) = match swap {
            Swap::Exchange => (&[], 0),
            Swap::Symlink => (&["..data", ".seedcache-owned"], 2),
            Swap::InPlace => (&[".seedcache-owned"], 0),
        };
        assert_eq!(hidden, expected.iter().map(|&name| name.to_owned()).collect());
        assert!(trees <= most, "{trees} trees");
        assert_eq!(self.seeder.record(&path("pod/data")).unwrap().version.as_str(), stamp);
    }
}

const ALL: [Swap; 3] = [Swap::Exchange, Swap::Symlink, Swap::InPlace];

#[test]
fn each_swap_brings_a_version_checks_it_and_takes_it_away_again() {
    for swap in ALL {
        let house = House::new();
        let (v1, v2) = (house.publish("v1", &tree("v1")), house.publish("v2", &tree("v2")));
        for (version, stamp) in [(&v1, "v1"), (&v2, "v2"), (&v1, "v1"), (&v2, "v2")] {
            let done = house.seed_by(version, swap);
            assert!(done.changed, "{swap:?} {stamp}");
            assert_eq!(found(&house.at("pod/data")), files(stamp), "{swap:?}");
            let before = inodes(&house.at("pod/data"));
            // Asked for again without a word on the swap, it stays what it is.
            let again = house.seed(version, Link::Copy);
            assert_eq!((again.changed, again.written), (false, 0), "{swap:?}");
            assert_eq!(inodes(&house.at("pod/data")), before);
            house.assert_neat(swap, stamp);
        }
        let mode = |name: &str| fs::metadata(house.at("pod/data").join(name)).unwrap().mode() & 0o7777;
        assert_eq!((mode("bin"), mode("conf"), mode("turned-dir"), mode("")), (0o555, 0o644, 0o755, 0o755), "{swap:?}");
    }
}

#[test]
fn a_seed_inside_its_target_is_mended() {
    for swap in [Swap::Symlink, Swap::InPlace] {
        let house = House::new();
        let version = house.publish("v1", &tree("v1"));
        house.seed_by(&version, swap);
        let at = house.at("pod/data");
        fs::write(at.join("own"), "the pod's").unwrap();
        let damages: [&dyn Fn(); 4] = [
            &|| fs::remove_file(at.join("conf")).unwrap(),
            &|| fs::write(at.join("bin/a"), "longer").unwrap(),
            &|| fs::remove_dir_all(at.join("bin/")).unwrap_or_else(|_| fs::remove_file(at.join("bin")).unwrap()),
            &|| fs::set_permissions(at.join("bin/a"), fs::Permissions::from_mode(0o600)).unwrap(),
        ];
        for (number, damage) in damages.iter().enumerate() {
            damage();
            let done = house.seed(&version, Link::Copy);
            assert!(done.changed, "{swap:?} {number}");
            let mut expected = files("v1");
            expected.insert("own".into(), "the pod's".into());
            assert_eq!(found(&at), expected, "{swap:?} {number}");
            assert!(!house.seed(&version, Link::Copy).changed, "{swap:?} {number}");
        }
        house.assert_neat(swap, "v1");
    }
}

#[test]
fn without_attributes_the_records_tell_of_each_swap() {
    for swap in ALL {
        let mut house = House::new();
        Arc::get_mut(&mut house.seeder).unwrap().records.attributes = false;
        let (v1, v2) = (house.publish("v1", &tree("v1")), house.publish("v2", &tree("v2")));
        house.seed_by(&v1, swap);
        house.seeder = Seeder::open(&house.at(""), house.store.clone()).unwrap().into();
        Arc::get_mut(&mut house.seeder).unwrap().records.attributes = false;
        assert!(!house.seed_by(&v1, swap).changed, "{swap:?}");
        assert!(house.seed_by(&v2, swap).changed, "{swap:?}");
        assert!(!house.seed_by(&v2, swap).changed, "{swap:?}");
        house.assert_neat(swap, "v2");
    }
}

/// Reads again and again while versions come and go: each file is there, and of one version.
fn read_meanwhile(swap: Swap, rounds: usize) {
    let house = House::new();
    let versions = [house.publish("v1", &tree("v1")), house.publish("v2", &tree("v2"))];
    house.seed_by(&versions[0], swap);
    let done = AtomicBool::new(false);
    let wholes = [content("v1"), content("v2")];
    let seen = std::thread::scope(|scope| {
        let readers: Vec<_> = ["pod/data/bin/a", "pod/data/conf"]
            .map(|name| house.at(name))
            .map(|name| {
                let (done, wholes) = (&done, &wholes);
                scope.spawn(move || {
                    let mut seen = [0u32; 2];
                    while !done.load(SeqCst) || seen.contains(&0) {
                        let read = fs::read_to_string(&name).unwrap();
                        let version = wholes.iter().position(|whole| *whole == read);
                        seen[version.unwrap_or_else(|| panic!("{} is mixed", name.display()))] += 1;
                    }
                    seen
                })
            })
            .into();
        for round in 1..=rounds {
            assert!(house.seed_by(&versions[round % 2], swap).changed);
            house.seeder.remove_retired();
        }
        // The last one may have come after the readers' last look: they go on until they have seen both.
        done.store(true, SeqCst);
        readers.into_iter().map(|reader| reader.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(seen.iter().flatten().all(|&count| count > 0), "{seen:?}");
}

#[test]
fn a_reader_finds_each_file_whole_during_exchanges() {
    read_meanwhile(Swap::Exchange, 60);
}

#[test]
fn a_reader_finds_each_file_whole_while_data_is_switched() {
    read_meanwhile(Swap::Symlink, 60);
}

#[test]
fn a_reader_finds_each_file_whole_while_files_are_put_in_place() {
    read_meanwhile(Swap::InPlace, 60);
}

/// What stands at the target before.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Before {
    Nothing,
    Empty,
    Seed(Swap),
}

fn set_up(house: &House, version: &Version, before: Before, theirs: bool) {
    Dir::open(&house.at("")).unwrap().remove_tree(&path("pod")).unwrap();
    match before {
        Before::Nothing => fs::create_dir(house.at("pod")).unwrap(),
        Before::Empty => fs::create_dir_all(house.at("pod/data")).unwrap(),
        Before::Seed(swap) => drop(house.seed_by(version, swap)),
    }
    house.seeder.retired.remove(Duration::ZERO);
    if theirs {
        fs::create_dir_all(house.at("pod/data/bin")).unwrap();
        fs::write(house.at("pod/data/theirs"), "theirs").unwrap();
        fs::write(house.at("pod/data/bin/theirs"), "theirs").unwrap();
    }
}

/// Ends suddenly after each change to the file system in turn, looks as a reader would, and seeds again.
fn end_at_each_step(asked: Swap, before: Before) {
    let mut house = House::new();
    let (v1, v2) = (house.publish("v1", &tree("v1")), house.publish("v2", &tree("v2")));
    // Files of others stay where swaps go on in place.
    let theirs = asked == Swap::InPlace && before == Before::Seed(Swap::InPlace);
    let mut steps = 0;
    loop {
        set_up(&house, &v1, before, theirs);
        crash::end_after(steps);
        let tried = house.ask(&v2, &by(asked));
        let ended = crash::revive();
        house.restart();
        let context = format!("{before:?} to {asked:?}, ended after {steps} changes");
        if let Before::Seed(_) = before {
            for name in ["bin/a", "conf"] {
                let read = fs::read_to_string(house.at("pod/data").join(name))
                    .unwrap_or_else(|e| panic!("{context}: {name}: {e}"));
                assert!([content("v1"), content("v2")].contains(&read), "{context}: {name}");
            }
        }
        if let Err(error) = house.ask(&v2, &by(asked)) {
            panic!("{context}: {error}");
        }
        let expected = if theirs { with_theirs(files("v2")) } else { files("v2") };
        assert_eq!(found(&house.at("pod/data")), expected, "{context}");
        house.assert_neat(asked, "v2");
        assert!(!house.seed_by(&v2, asked).changed, "{context}");
        if !ended {
            tried.unwrap();
            break;
        }
        steps += 1;
    }
    assert!(steps > 15, "{steps} steps");
}

const SEEDS: [Before; 3] = [Before::Seed(Swap::Exchange), Before::Seed(Swap::Symlink), Before::Seed(Swap::InPlace)];

#[test]
fn an_exchange_that_ends_anywhere_leaves_old_or_new() {
    SEEDS.into_iter().for_each(|before| end_at_each_step(Swap::Exchange, before));
}

#[test]
fn a_switch_of_data_that_ends_anywhere_leaves_old_or_new() {
    SEEDS.into_iter().for_each(|before| end_at_each_step(Swap::Symlink, before));
}

#[test]
fn a_swap_in_place_that_ends_anywhere_leaves_old_or_new() {
    SEEDS.into_iter().for_each(|before| end_at_each_step(Swap::InPlace, before));
}

#[test]
fn a_first_seed_that_ends_anywhere_is_ended_by_the_next() {
    ALL.into_iter().for_each(|swap| end_at_each_step(swap, Before::Nothing));
    [Swap::Symlink, Swap::InPlace].into_iter().for_each(|swap| end_at_each_step(swap, Before::Empty));
}

#[test]
fn in_place_only_what_is_ours_is_touched() {
    let house = House::new();
    let (v1, v2) = (house.publish("v1", &tree("v1")), house.publish("v2", &tree("v2")));
    let at = house.at("pod/data");
    fs::create_dir_all(at.join("bin")).unwrap();
    fs::set_permissions(at.join("bin"), fs::Permissions::from_mode(0o711)).unwrap();
    fs::set_permissions(&at, fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(at.join("theirs"), "theirs").unwrap();
    fs::write(at.join("bin/theirs"), "theirs").unwrap();
    fs::create_dir(at.join("lost+found")).unwrap();
    let own = ino(&at);
    for (version, stamp) in [(&v1, "v1"), (&v2, "v2"), (&v1, "v1")] {
        assert!(house.seed_by(version, Swap::InPlace).changed);
        assert_eq!(found(&at), with_theirs(files(stamp)));
        let modes = |name: &str| fs::metadata(at.join(name)).unwrap().mode() & 0o7777;
        assert_eq!((modes("bin"), modes(""), ino(&at)), (0o711, 0o1777, own));
        assert!(!house.seed_by(version, Swap::InPlace).changed);
    }
    assert!(at.join("lost+found").is_dir());
    // An exchange would take theirs away.
    let error = house.ask(&v2, &by(Swap::Exchange)).unwrap_err();
    assert!(matches!(error, SeedError::Clash { .. }), "{error}");
    assert_eq!(found(&at), with_theirs(files("v1")));
    house.ask(&v2, &Request { force: true, ..by(Swap::Exchange) }).unwrap();
    assert_eq!(found(&at), files("v2"));
}

#[test]
fn what_clashes_is_named_and_stays_unless_forced() {
    for (swap, clash) in [(Swap::InPlace, "conf"), (Swap::InPlace, "bin/a"), (Swap::InPlace, "left")] {
        let house = House::new();
        let version = house.publish("v1", &tree("v1"));
        let at = house.at("pod/data").join(clash);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(&at, "theirs").unwrap();
        let error = house.ask(&version, &by(swap)).unwrap_err();
        assert!(matches!(&error, SeedError::Clash { path } if *path == at), "{error}");
        assert!(error.to_string().contains("--force"), "{error}");
        assert_eq!(found(&house.at("pod/data")), [(clash.into(), "theirs".into())].into());
        house.assert_tidy("pod/data");
        house.ask(&version, &Request { force: true, ..by(swap) }).unwrap();
        assert_eq!(found(&house.at("pod/data")), files("v1"));
        house.assert_neat(swap, "v1");
    }
}

#[test]
fn behind_a_symlink_others_are_not_hidden() {
    let house = House::new();
    let (v1, v2) = (house.publish("v1", &tree("v1")), house.publish("v2", &tree("v2")));
    let at = house.at("pod/data");
    fs::create_dir_all(&at).unwrap();
    fs::write(at.join("theirs"), "theirs").unwrap();
    let error = house.ask(&v1, &by(Swap::Symlink)).unwrap_err();
    assert!(matches!(error, SeedError::NotOurs { what: "a directory", .. }), "{error}");
    fs::remove_file(at.join("theirs")).unwrap();
    fs::create_dir(at.join("lost+found")).unwrap();
    house.seed_by(&v1, Swap::Symlink);
    // A name that only the next version has is taken meanwhile.
    fs::write(at.join("fresh"), "theirs").unwrap();
    let error = house.ask(&v2, &by(Swap::Symlink)).unwrap_err();
    assert!(matches!(&error, SeedError::Clash { path } if *path == at.join("fresh")), "{error}");
    fs::remove_file(at.join("fresh")).unwrap();
    house.seed_by(&v2, Swap::Symlink);
    assert_eq!(found(&at), files("v2"));
    assert_eq!(fs::read_link(at.join("conf")).unwrap(), Path::new("..data/conf"));
    // Another kind of swap would need what others have put into a directory that it replaces.
    house.seed_by(&v2, Swap::InPlace);
    fs::write(at.join("turned-dir/theirs"), "theirs").unwrap();
    let error = house.ask(&v2, &by(Swap::Symlink)).unwrap_err();
    assert!(matches!(&error, SeedError::Clash { path } if *path == at.join("turned-dir/theirs")), "{error}");
}

#[test]
fn names_that_seedcache_keeps_are_refused_in_a_tree() {
    let house = House::new();
    let dots = house.publish("v1", &[F("..data", 0o644, "x".into())]);
    let list = house.publish("v2", &[F(".seedcache-owned", 0o644, "x".into())]);
    for (version, swap) in [(&dots, Swap::Symlink), (&list, Swap::Symlink), (&list, Swap::InPlace)] {
        let error = house.ask(version, &by(swap)).unwrap_err();
        assert!(matches!(error, SeedError::NameKept { .. }), "{error}");
        assert!(!house.at("pod/data").exists());
        house.assert_tidy("pod");
    }
    house.seed_by(&dots, Swap::Exchange);
}

#[test]
fn what_is_put_beside_a_tree_can_be_made_ours() {
    let house = House::new();
    let (v1, v2) = (house.publish("v1", &tree("v1")), house.publish("v2", &tree("v2")));
    house.seed_by(&v1, Swap::InPlace);
    let at = house.at("pod/data");
    crate::seed::owned::Names::add(&Dir::open(&at).unwrap(), &[path("extra/file")]).unwrap();
    fs::create_dir(at.join("extra")).unwrap();
    fs::write(at.join("extra/file"), "rendered").unwrap();
    assert!(!house.seed_by(&v1, Swap::InPlace).changed);
    assert!(at.join("extra/file").exists());
    house.seed_by(&v2, Swap::InPlace);
    assert!(!at.join("extra").exists());
}

#[test]
fn a_tree_swapped_out_that_cannot_be_removed_goes_with_a_later_sweep() {
    let house = House::new();
    let (v1, v2) = (house.publish("v1", &tree("v1")), house.publish("v2", &tree("v2")));
    house.seed_by(&v1, Swap::Exchange);
    house.seed_by(&v2, Swap::Exchange);
    let staging = house.at(".seedcache/staging");
    let aside = || -> Vec<PathBuf> {
        let names = fs::read_dir(&staging).unwrap().map(|entry| entry.unwrap().path());
        names.filter(|path| path.file_name().unwrap().as_encoded_bytes().starts_with(b".drain-")).collect()
    };
    let [old] = &aside()[..] else { panic!("{:?}", aside()) };
    // As where a pod goes on writing into it.
    let kept = crate::fs::Immutable::new(old);
    house.seeder.retired.remove(Duration::ZERO);
    assert_eq!(aside(), std::slice::from_ref(old));
    drop(kept);
    house.store.sweep().unwrap();
    assert_eq!(aside(), [] as [PathBuf; 0]);
}

/// A pod may write it: a look at the target reads no more than the head, and work at it ends with an error.
#[test]
fn a_list_that_a_pod_made_endless_is_not_read_to_look_and_not_believed() {
    use std::io::Write as _;
    let house = House::new();
    let (v1, v2) = (house.publish("v1", &tree("v1")), house.publish("v2", &tree("v2")));
    house.seed_by(&v1, Swap::InPlace);
    let at = house.at("pod/data");
    let mut list = fs::OpenOptions::new().append(true).open(at.join(".seedcache-owned")).unwrap();
    list.write_all(&[b'f'; 5000]).unwrap();
    let standing = Place::at(&at).unwrap().look(&OnTargets).unwrap();
    assert!(matches!(standing, Standing::Ours(_)), "{standing:?}");
    for version in [&v1, &v2] {
        let error = house.ask(version, &by(Swap::InPlace)).unwrap_err();
        assert!(matches!(&error, SeedError::TooManyNames { target } if *target == at), "{error}");
    }
    house.ask(&v2, &Request { force: true, ..by(Swap::Exchange) }).unwrap();
}

/// As a client does it, in directories of its own; nothing here but the marks tells.
#[test]
fn a_client_stages_and_settles_by_itself() {
    let house = House::new();
    let (v1, v2) = (house.publish("v1", &tree("v1")), house.publish("v2", &tree("v2")));
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), house.at("way")).unwrap();
    for (i, swap) in ALL.into_iter().enumerate() {
        let target = house.at("way").join(format!("deep/{i}/data"));
        for version in [&v1, &v1, &v2] {
            let place = Place::at(&target).unwrap();
            assert_eq!(place.parent().stat_self().unwrap().mode, 0o755);
            let _lock = place.lock(Duration::ZERO).unwrap();
            assert!(matches!(place.lock(Duration::ZERO), Err(SeedError::Locked { .. })));
            place.clear_leftovers(|_| false).unwrap();
            let wanted = Wanted::from(&**version.head());
            let asked = Asked {
                wanted,
                link: Link::Auto,
                swap: Some(swap),
                force: false,
                device: None,
                mount_point: place.is_mount_point().unwrap(),
            };
            let held = |step: Step| matches!(step, Step::Mend(seed) if seed.mark.holds(wanted));
            let Step::Swap(switch) = decide(place.look(&OnTargets).unwrap(), &asked) else { continue };
            let staged = place.stage(&switch).unwrap();
            assert_eq!((staged.dir().stat_self().unwrap().mode, staged.dir().entries().unwrap().len()), (0o700, 0));
            staged.dir().write_atomic(&path("file"), version.head().version.as_str().as_bytes(), 0o644).unwrap();
            Mark::new(wanted, LinkMode::Copy, None, staged.dir()).unwrap().put(staged.dir()).unwrap();
            place.settle(switch, staged, &OnTargets).unwrap().retire(Duration::ZERO).unwrap();
            assert_eq!(fs::read_to_string(target.join("file")).unwrap(), version.head().version.as_str());
            assert!(held(decide(place.look(&OnTargets).unwrap(), &asked)), "{swap:?}");
            assert_eq!(names(target.parent().unwrap()), ["data".to_owned()].into());
        }
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "v2");
    }
    for given in ["/", "/.."] {
        assert!(matches!(Place::at(Path::new(given)), Err(SeedError::Target(TargetError::Top { .. }))), "{given}");
    }
}

#[test]
fn what_another_works_in_is_no_leftover() {
    let house = House::new();
    let v1 = house.publish("v1", &tree("v1"));
    let target = house.at("pod/data");
    for swap in ALL {
        let place = Place::at(&target).unwrap();
        let asked = Asked {
            wanted: Wanted::from(&**v1.head()),
            link: Link::Auto,
            swap: Some(swap),
            force: true,
            device: None,
            mount_point: false,
        };
        let Step::Swap(switch) = decide(place.look(&OnTargets).unwrap(), &asked) else { panic!("{swap:?}") };
        let staged = place.stage(&switch).unwrap();
        let at = staged.dir().path().to_owned();
        // The daemon, with which a client shares no other lock, seeds the same target meanwhile.
        Place::at(&target).unwrap().clear_leftovers(|_| false).unwrap();
        assert!(at.is_dir(), "{swap:?}");
        drop(staged);
        place.clear_leftovers(|_| false).unwrap();
        assert!(!at.exists(), "{swap:?}");
        fs::create_dir_all(&target).unwrap();
    }
}

#[test]
fn a_reader_that_holds_a_lock_does_not_stop_the_daemon() {
    let house = House::new();
    let v1 = house.publish("v1", &tree("v1"));
    house.seed_by(&v1, Swap::InPlace);
    let _held = Dir::open(&house.at("pod/data")).unwrap().lock(Duration::ZERO).unwrap().unwrap();
    let place = Place::at(&house.at("pod/data")).unwrap();
    assert!(place.lock_inside(Some(Swap::InPlace), Duration::ZERO).unwrap().is_none());
}
