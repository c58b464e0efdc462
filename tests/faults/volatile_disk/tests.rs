//! The model keeps its own promises: what was synced is never lost, everything else can be.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use super::content::Write;
use super::model::{Body, Ino, ROOT, Rename};
use super::{Disk, Order, VolatileDisk};

const ORDERS: [Order; 2] = [Order::Journal, Order::Strict];

fn name(name: &str) -> &OsStr {
    OsStr::new(name)
}

fn file(disk: &mut Disk, dir: Ino, named: &str, content: &[u8]) -> Ino {
    let ino = disk.make(dir, name(named), Body::File(Arc::default()), 0o644, (0, 0)).unwrap();
    disk.write(ino, Write::At(0, content.to_vec())).unwrap();
    ino
}

fn dir(disk: &mut Disk, named: &str) -> Ino {
    disk.make(ROOT, name(named), Body::Dir(Default::default()), 0o755, (0, 0)).unwrap()
}

fn read(disk: &Disk, dir: Ino, named: &str) -> Option<Vec<u8>> {
    let Body::File(content) = &disk.node(disk.lookup(dir, name(named)).ok()?).unwrap().body else { panic!("no file") };
    Some(content.to_vec())
}

/// What is seen after each of many losses of what `made` leaves.
fn losses<T: Ord>(order: Order, made: impl Fn(&mut Disk), seen: impl Fn(&Disk) -> T) -> BTreeSet<T> {
    let after = |seed| {
        let mut disk = Disk::new(order);
        made(&mut disk);
        disk.lose_power(&mut fastrand::Rng::with_seed(seed));
        seen(&disk)
    };
    (0..400).map(after).collect()
}

#[test]
fn a_name_wants_its_directory_synced_and_content_its_file() {
    for order in ORDERS {
        let seen = losses(order, |disk| _ = file(disk, ROOT, "f", &[7; 9000]), |disk| read(disk, ROOT, "f"));
        assert!(seen.contains(&None) && seen.contains(&Some(vec![])) && seen.contains(&Some(vec![7; 9000])));
        let torn = |content: &Vec<u8>| content.contains(&0) && content.contains(&7);
        assert!(seen.iter().flatten().any(torn), "nothing was torn");

        let named = |disk: &mut Disk| {
            file(disk, ROOT, "f", b"text");
            disk.sync(ROOT, false).unwrap();
        };
        let seen = losses(order, named, |disk| read(disk, ROOT, "f"));
        assert!(!seen.contains(&None) && seen.contains(&Some(vec![])) && seen.contains(&Some(b"text".to_vec())));

        let filled = |disk: &mut Disk| {
            let ino = file(disk, ROOT, "f", b"text");
            disk.sync(ino, false).unwrap();
        };
        let seen = losses(order, filled, |disk| read(disk, ROOT, "f"));
        // A journal has the name with the inode.
        let nameless = BTreeSet::from([None, Some(b"text".to_vec())]);
        assert_eq!(seen, if order == Order::Strict { nameless } else { BTreeSet::from([Some(b"text".to_vec())]) });

        for all_at_once in [true, false] {
            let both = |disk: &mut Disk| {
                let ino = file(disk, ROOT, "f", b"text");
                disk.set_xattr(ino, name("user.x"), Some(b"x".to_vec())).unwrap();
                if all_at_once {
                    disk.sync_all();
                } else {
                    disk.sync(ino, false).unwrap();
                    disk.sync(ROOT, false).unwrap();
                }
                disk.write(ino, Write::At(4, b" and more".to_vec())).unwrap();
            };
            let whole = |disk: &Disk| {
                let node = disk.node(disk.lookup(ROOT, name("f")).unwrap()).unwrap();
                assert_eq!(node.xattrs[name("user.x")], b"x");
                read(disk, ROOT, "f").unwrap().starts_with(b"text")
            };
            assert_eq!(losses(order, both, whole), BTreeSet::from([true]));
        }
    }
}

#[test]
fn a_rename_is_whole_within_a_directory_and_of_a_directory() {
    for order in ORDERS {
        let replaced = |disk: &mut Disk| {
            file(disk, ROOT, "old", b"old");
            disk.sync_all();
            let new = file(disk, ROOT, "new", b"new");
            disk.sync(new, false).unwrap();
            disk.rename((ROOT, name("new")), (ROOT, name("old")), Rename::Replace).unwrap();
        };
        let seen = losses(order, replaced, |disk| read(disk, ROOT, "old").unwrap());
        assert_eq!(seen, BTreeSet::from([b"new".to_vec(), b"old".to_vec()]));

        let moved = |of_directory: bool| {
            move |disk: &mut Disk| {
                let (from, _to) = (dir(disk, "from"), dir(disk, "to"));
                match of_directory {
                    true => _ = disk.make(from, name("x"), Body::Dir(Default::default()), 0o755, (0, 0)),
                    false => _ = file(disk, from, "x", b""),
                }
                disk.sync_all();
                disk.rename((from, name("x")), (from + 1, name("x")), Rename::NoReplace).unwrap();
            }
        };
        let places = |disk: &Disk| {
            ["from", "to"].map(|dir| disk.lookup(disk.lookup(ROOT, name(dir)).unwrap(), name("x")).is_ok())
        };
        let one = BTreeSet::from([[true, false], [false, true]]);
        assert_eq!(losses(order, moved(true), places), one);
        let any = BTreeSet::from([[true, false], [false, true], [true, true], [false, false]]);
        assert_eq!(losses(order, moved(false), places), if order == Order::Strict { any } else { one });
    }
}

#[test]
fn a_journal_keeps_the_order_of_metadata() {
    let made = |disk: &mut Disk| ["a", "b", "c"].into_iter().for_each(|name| _ = dir(disk, name));
    let there = |disk: &Disk| ["a", "b", "c"].map(|dir| disk.lookup(ROOT, name(dir)).is_ok());
    let prefixes = [[false; 3], [true, false, false], [true, true, false], [true; 3]];
    assert_eq!(losses(Order::Journal, made, there), BTreeSet::from(prefixes));
    assert_eq!(losses(Order::Strict, made, there).len(), 8);
}

#[test]
fn the_kernel_sees_a_file_system() {
    let mut disk = VolatileDisk::new(Order::Strict);
    let path = disk.path().to_owned();
    fs::create_dir(path.join("d")).unwrap();
    fs::write(path.join("d/f"), "text").unwrap();
    fs::hard_link(path.join("d/f"), path.join("d/g")).unwrap();
    std::os::unix::fs::symlink("f", path.join("d/l")).unwrap();
    assert_eq!(fs::read_to_string(path.join("d/l")).unwrap(), "text");
    assert_eq!(fs::metadata(path.join("d/g")).unwrap().nlink(), 2);
    let root = fs::File::open(&path).unwrap();
    let exchange = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(&root, "d/f", &root, "d/l", exchange).unwrap();
    assert_eq!(fs::read_link(path.join("d/f")).unwrap().to_str(), Some("f"));
    rustix::fs::setxattr(path.join("d"), "user.x", b"x", rustix::fs::XattrFlags::empty()).unwrap();
    rustix::fs::syncfs(&root).unwrap();
    assert_eq!(disk.changes().1, 1, "syncfs did not get here");
    fs::write(path.join("d/lost"), "text").unwrap();
    disk.cut_after(0);
    assert!(fs::write(path.join("d/refused"), "text").is_err() && disk.is_cut());
    assert!(fs::read(path.join("d/g")).is_err());
    drop(root);
    let loss = disk.lose_power(&mut fastrand::Rng::with_seed(1));
    assert_eq!((loss.changes, loss.unsynced), (1, 1));
    assert!(!path.join("d/refused").exists());
    assert_eq!(fs::read_to_string(path.join("d/g")).unwrap(), "text");
    assert_eq!(fs::metadata(path.join("d/g")).unwrap().nlink(), 2);
    let mut value = [0; 8];
    assert_eq!(rustix::fs::getxattr(path.join("d"), "user.x", &mut value[..]).unwrap(), 1);
}
