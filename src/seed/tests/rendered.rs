//! Rendered files in trees, whatever swap puts them there.

use super::*;
use crate::fs::crash::{end_after, revive};

fn file(at: &str, content: &str) -> Rendered {
    Rendered { path: path(at), mode: 0o640, content: content.into() }
}

fn with(swap: Swap, files: &[Rendered]) -> Request {
    Request { swap: Some(swap), rendered: Some(files.to_vec()), ..to("pod/data", Link::Copy) }
}

/// The tree with these files in it; times of what is rendered, and directories made for it, left out.
fn assert_holds(house: &House, things: &[Thing], files: &[Rendered]) {
    let target = house.at("pod/data");
    let data = target.join("..data");
    let top = if data.exists() { fs::canonicalize(data).unwrap() } else { target.clone() };
    let mut found = shape(&top);
    found.retain(|path, _| !path.to_string_lossy().starts_with(".seedcache-owned"));
    for file in files {
        let shown = found.remove(file.path.as_path()).unwrap_or_default();
        let content = String::from_utf8(file.content.clone()).unwrap();
        assert!(shown.starts_with(&format!("640 {content} ")), "{}: {shown}", file.path);
        assert_eq!(fs::read_to_string(target.join(file.path.as_path())).unwrap(), content, "as readers find it");
        let mut above = file.path.parent();
        while let Some(dir) = above {
            if !things.iter().any(|thing| matches!(thing, D(name, _) if path(name) == dir)) {
                found.remove(dir.as_path());
            }
            above = dir.parent();
        }
    }
    assert_eq!(found, expected(things));
    house.assert_tidy("pod");
}

const SWAPS: [Swap; 3] = [Swap::Exchange, Swap::Symlink, Swap::InPlace];

#[test]
fn they_stand_beside_the_tree_and_in_its_read_only_directories() {
    for swap in SWAPS {
        let house = House::new();
        let (v1, v2) = (house.publish("v1", &platform("v1")), house.publish("v2", &platform("v2")));
        let files =
            |version: &str| [file("boot.ipxe", version), file("platform/etc/local", version), file("a/b/c", version)];
        for (version, name) in [(&v1, "v1"), (&v2, "v2"), (&v1, "v1")] {
            assert!(house.ask(version, &with(swap, &files(name))).unwrap().changed, "{swap:?}");
            assert_holds(&house, &platform(name), &files(name));
            let again = house.ask(version, &with(swap, &files(name))).unwrap();
            assert!(!again.changed, "{swap:?}: {again:?}");
        }
        // Asked for without a word on rendered files, they stay; with fewer, the others go with their directories.
        assert!(!house.ask(&v1, &Request { rendered: None, ..with(swap, &[]) }).unwrap().changed);
        assert_holds(&house, &platform("v1"), &files("v1"));
        let more = [files("v1").as_slice(), &[file("more", "1"), file("platform/etc/more", "1")]].concat();
        assert!(house.ask(&v1, &with(swap, &more)).unwrap().changed);
        assert_holds(&house, &platform("v1"), &more);
        let fewer = [file("boot.ipxe", "changed"), file("new/one", "")];
        assert!(house.ask(&v1, &with(swap, &fewer)).unwrap().changed);
        assert_holds(&house, &platform("v1"), &fewer);
        assert!(house.ask(&v1, &with(swap, &[])).unwrap().changed);
        assert_holds(&house, &platform("v1"), &[]);
    }
}

#[test]
fn where_marks_cannot_be_put_on_targets_they_are_known_all_the_same() {
    let mut house = House::new();
    Arc::get_mut(&mut house.seeder).unwrap().records.attributes = false;
    let version = house.publish("v1", &platform("v1"));
    let (before, after) = ([file("a/b", "1"), file("c", "1")], [file("c", "2")]);
    house.ask(&version, &with(Swap::Exchange, &before)).unwrap();
    house.ask(&version, &with(Swap::Exchange, &after)).unwrap();
    assert_holds(&house, &platform("v1"), &after);
    assert!(!house.ask(&version, &with(Swap::Exchange, &after)).unwrap().changed);
}

#[test]
fn what_is_damaged_is_mended_and_what_is_the_pods_is_left() {
    let house = House::new();
    let version = house.publish("v1", &platform("v1"));
    let files = [file("conf/boot", "text"), file("platform/kernel/local", "text")];
    let seed = |files: &[Rendered]| house.ask(&version, &with(Swap::Exchange, files)).unwrap().written;
    seed(&files);
    let at = |rel: &str| house.at("pod/data").join(rel);
    let elsewhere = house.at("elsewhere");
    fs::write(&elsewhere, "text").unwrap();
    let damages: [&dyn Fn(); 5] = [
        &|| fs::write(at("conf/boot"), "txet").unwrap(),
        &|| fs::set_permissions(at("conf/boot"), fs::Permissions::from_mode(0o644)).unwrap(),
        &|| fs::remove_file(at("platform/kernel/local")).unwrap(),
        &|| fs::remove_dir_all(at("conf")).unwrap(),
        &|| {
            fs::remove_file(at("conf/boot")).unwrap();
            symlink(&elsewhere, at("conf/boot")).unwrap();
        },
    ];
    for (number, damage) in damages.iter().enumerate() {
        damage();
        // The second is a directory of the tree, whose time has changed.
        assert_eq!(seed(&files), [1, 1, 2, 1, 1][number], "damage {number}");
        assert_holds(&house, &platform("v1"), &files);
    }
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "text");

    // A directory that leads elsewhere is not gone through, and one in the file's place not replaced.
    fs::remove_dir_all(at("conf")).unwrap();
    fs::create_dir(house.at("other")).unwrap();
    symlink(house.at("other"), at("conf")).unwrap();
    let error = house.ask(&version, &with(Swap::Exchange, &files)).unwrap_err();
    assert!(error.to_string().contains("conf is a symlink, where a rendered file is to be"), "{error}");
    assert_eq!(fs::read_dir(house.at("other")).unwrap().count(), 0);
    fs::remove_file(at("conf")).unwrap();
    fs::create_dir_all(at("conf/boot")).unwrap();
    let error = house.ask(&version, &with(Swap::Exchange, &files)).unwrap_err();
    assert!(error.to_string().contains("conf/boot is a directory"), "{error}");
    fs::remove_dir(at("conf/boot")).unwrap();

    // The pod's own file keeps the directory that was made for ours.
    seed(&files);
    fs::write(at("conf/own"), "the pod's").unwrap();
    fs::write(at("platform/kernel/zero"), "the pod's").unwrap();
    let only = Request { only_rendered: true, ..with(Swap::Exchange, &files[1..]) };
    assert_eq!(house.ask(&version, &only).unwrap().written, 1);
    assert_eq!(fs::read_to_string(at("conf/own")).unwrap(), "the pod's");
    assert_eq!(fs::read_to_string(at("platform/kernel/zero")).unwrap(), "the pod's", "the tree was not looked at");
    assert!(!at("conf/boot").exists());
}

#[test]
fn a_path_that_the_version_has_is_refused_before_anything_is_touched() {
    let house = House::new();
    let version = house.publish("v1", &platform("v1"));
    house.ask(&version, &with(Swap::Exchange, &[file("x", "1")])).unwrap();
    let before = inodes(&house.at("pod/data"));
    for (at, entry) in [
        ("platform", "platform"),
        ("platform/etc", "platform/etc"),
        ("platform/latest", "platform/latest"),
        ("platform/latest/below", "platform/latest"),
        ("platform/etc/version/a/b", "platform/etc/version"),
    ] {
        let error = house.ask(&version, &with(Swap::Exchange, &[file("x", "2"), file(at, "")])).unwrap_err();
        let told = error.to_string();
        assert!(told.starts_with(&format!("{at} cannot be rendered")) && told.contains(entry), "{told}");
    }
    assert_eq!(inodes(&house.at("pod/data")), before);
}

#[test]
fn whenever_it_ends_the_next_seed_clears_what_is_left() {
    let house = House::new();
    let version = house.publish("v1", &platform("v1"));
    let (before, after) = ([file("a/b", "1"), file("c", "1")], [file("c", "2"), file("d/e", "2")]);
    let only = |files: &[Rendered]| Request { only_rendered: true, ..with(Swap::Exchange, files) };
    for changes in 0..100 {
        house.ask(&version, &with(Swap::Exchange, &before)).unwrap();
        end_after(changes);
        let done = house.ask(&version, &only(&after));
        if !revive() {
            done.unwrap();
            assert!(changes > 5, "{changes}");
            return;
        }
        house.ask(&version, &with(Swap::Exchange, &after)).unwrap();
        assert_holds(&house, &platform("v1"), &after);
    }
    unreachable!("a rendering takes fewer changes");
}
