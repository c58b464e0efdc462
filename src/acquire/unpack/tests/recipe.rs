//! What a document says about unpacking, and what comes out.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use proptest::prelude::*;

use super::builder::Tar;
use super::*;
use crate::intent::Owner;
use crate::store::EntryType;

fn platform() -> Vec<u8> {
    Tar::default()
        .dir("platform-1/")
        .file("platform-1/root.password", b"secret")
        .dir("platform-1/etc/")
        .file("platform-1/etc/root.password", b"other")
        .file("platform-1/etc/notes.md", b"#")
        .file("platform-1/unix", b"kernel")
        .hard_link("platform-1/genunix", "platform-1/unix")
        .symlink("platform-1/up", "../platform/unix")
        .end()
}

fn unpacked_paths(archive: &[u8], recipe: &Unpack) -> Vec<String> {
    paths(&Sandbox::new().unpack(archive, recipe).unwrap())
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.into()).collect()
}

#[test]
fn the_seeds_own_case() {
    let recipe = Unpack {
        strip_components: 1,
        prefix: Some("platform".parse().unwrap()),
        exclude: strings(&["root.password"]),
        require: vec!["platform/unix".parse().unwrap()],
        ..Unpack::default()
    };
    let sandbox = Sandbox::new();
    let unpacked = sandbox.unpack(&platform()[..], &recipe).unwrap();
    let expected =
        ["", "/etc", "/etc/notes.md", "/etc/root.password", "/genunix", "/unix", "/up"].map(|p| format!("platform{p}"));
    assert_eq!(paths(&unpacked), expected);
    assert_eq!(unpacked.top_directory.as_deref(), Some("platform-1"));
    assert_eq!(unpacked.bytes, 12);
    let entry = |path: &str| unpacked.entries.iter().find(|e| e.path.to_str() == Some(path)).unwrap();
    let (unix, link) = (entry("platform/genunix"), entry("platform/unix"));
    // In the archive it is the other way round.
    assert_eq!((unix.kind, link.kind), (EntryType::File, EntryType::Hardlink));
    assert_eq!(link.target.as_deref(), Some(&b"platform/genunix"[..]));
    assert_eq!((link.sha256, link.size, link.mode, link.mtime), (unix.sha256, unix.size, unix.mode, unix.mtime));
    assert_eq!(crate::intent::Digest::sha256(b"kernel").hex(), hex::encode(unix.sha256.unwrap()));
    let on_disk = |path: &str| std::fs::symlink_metadata(sandbox.tree().join(path)).unwrap();
    assert_eq!(on_disk("platform/unix").ino(), on_disk("platform/genunix").ino());
    assert_eq!(on_disk("platform/unix").permissions().mode() & 0o7777, 0o444);
    assert_eq!(on_disk("platform").permissions().mode() & 0o7777, 0o555);
    assert_eq!(on_disk("platform").mtime(), 0);
    assert_eq!(on_disk("platform/etc").mtime(), 1_700_000_000);
}

#[test]
fn globs_stand_for_whole_paths_from_the_top() {
    let strip = |include: &[&str], exclude: &[&str]| Unpack {
        strip_components: 1,
        include: strings(include),
        exclude: strings(exclude),
        ..Unpack::default()
    };
    for (include, exclude, left) in [
        (&[][..], &["root.password", "up"][..], &["etc", "etc/notes.md", "etc/root.password", "genunix", "unix"][..]),
        (&[], &["**/root.password", "up", "*unix"], &["etc", "etc/notes.md"]),
        (&["etc"], &[], &["etc", "etc/notes.md", "etc/root.password"]),
        (&["/etc/"], &["*.password"], &["etc", "etc/notes.md", "etc/root.password"]),
        (&["**/*.md"], &[], &["etc", "etc/notes.md"]),
        (&["*"], &["etc", "up"], &["genunix", "root.password", "unix"]),
        (&["e?c/*.md", "u{nix,nox}"], &[], &["etc", "etc/notes.md", "unix"]),
    ] {
        assert_eq!(unpacked_paths(&platform(), &strip(include, exclude)), left, "{include:?} {exclude:?}");
    }
    let error = Sandbox::new().unpack(&platform()[..], &strip(&["[a"], &[])).unwrap_err();
    assert!(matches!(&error, UnpackError::Glob { pattern, .. } if &**pattern == "[a"), "{error:?}");
    assert!(!error.is_bad_content());
    // A link whose file is left out has nothing to be a name of.
    let error = Sandbox::new().unpack(&platform()[..], &strip(&[], &["unix", "up"])).unwrap_err();
    assert!(matches!(error, UnpackError::Refused { source: Refusal::HardLinkLeftOut { .. }, .. }), "{error:?}");
}

#[test]
fn a_link_is_judged_where_it_ends_up() {
    // `up` leads from the prefix to its sibling: inside with the prefix, outside without.
    let recipe = Unpack { strip_components: 1, ..Unpack::default() };
    let error = Sandbox::new().unpack(&platform()[..], &recipe).unwrap_err();
    assert!(matches!(error, UnpackError::Refused { source: Refusal::SymlinkEscapes { .. }, .. }), "{error:?}");
    let excluded = Unpack { exclude: strings(&["up"]), ..recipe };
    assert!(Sandbox::new().unpack(&platform()[..], &excluded).is_ok());
}

#[test]
fn what_is_left_out_must_still_be_safe() {
    let recipe = Unpack { exclude: strings(&["**"]), ..Unpack::default() };
    let archive = Tar::default().file("ok", b"").file("a/../../b", b"").end();
    assert!(matches!(Sandbox::new().unpack(&archive[..], &recipe), Err(UnpackError::Refused { .. })));
    let recipe = Unpack { exclude: strings(&["dev"]), ..Unpack::default() };
    let archive = Tar::default().dir("dev").entry(b'3', b"dev/null", b"", |_| ()).file("ok", b"").end();
    assert_eq!(unpacked_paths(&archive, &recipe), ["ok"]);
}

#[test]
fn what_is_demanded_must_be_there_and_something_must_be_left() {
    let recipe = |paths: &[&str]| Unpack {
        require: paths.iter().map(|path| path.parse().unwrap()).collect(),
        ..Unpack::default()
    };
    assert!(Sandbox::new().unpack(&platform()[..], &recipe(&["platform-1/etc", "platform-1/unix"])).is_ok());
    let error = Sandbox::new().unpack(&platform()[..], &recipe(&["platform-1/unix", "unix", "x/y"])).unwrap_err();
    assert!(error.to_string().ends_with("`unix`, `x/y`"), "{error}");
    assert!(error.is_bad_content());
    let stripped = Unpack { strip_components: 5, ..Unpack::default() };
    let error = Sandbox::new().unpack(&platform()[..], &stripped).unwrap_err();
    assert!(matches!(error, UnpackError::Empty { seen: 8 }), "{error:?}");
    let error = Sandbox::new().unpack(&Tar::default().end()[..], &Unpack::default()).unwrap_err();
    assert!(matches!(error, UnpackError::Empty { seen: 0 }), "{error:?}");
}

#[test]
fn the_top_directory_is_what_all_entries_share() {
    for (archive, top) in [
        (Tar::default().dir("./").dir("./a/").file("./a/x", b""), Some("a")),
        (Tar::default().file("a/x", b"").file("a/y/z", b""), Some("a")),
        (Tar::default().dir("a").dir("b"), None),
        (Tar::default().file("only", b""), None),
        (Tar::default().dir("a").file("ab", b""), None),
    ] {
        let unpacked = Sandbox::new().unpack(&archive.end()[..], &Unpack::default()).unwrap();
        assert_eq!(unpacked.top_directory.as_deref(), top);
    }
}

#[test]
fn a_dot_is_stripped_as_tar_does() {
    let of = |archive: &[u8], strip_components| {
        let recipe = Unpack { strip_components, ..Unpack::default() };
        let sandbox = Sandbox::new();
        let unpacked = sandbox.unpack(archive, &recipe).unwrap();
        let first = unpacked.entries.iter().find_map(|entry| entry.target.clone());
        assert_eq!(unpacked.top_directory.as_deref(), Some("a"));
        (paths(&unpacked), first.map(|first| String::from_utf8(first).unwrap()))
    };
    let dotted = Tar::default().dir("./").dir("./a/").file("./a//f", b"").hard_link("./a/l", "./a/f").end();
    let plain = Tar::default().dir("a/").file("a/f", b"").hard_link("a/l", "a/f").end();
    let whole = (strings(&["a", "a/f", "a/l"]), Some("a/f".to_owned()));
    let stripped = (strings(&["f", "l"]), Some("f".to_owned()));
    assert_eq!((of(&dotted, 0), of(&dotted, 1), of(&dotted, 2)), (whole.clone(), whole.clone(), stripped.clone()));
    assert_eq!((of(&plain, 0), of(&plain, 1)), (whole, stripped));
    let within = Tar::default().file("a/./b/f", b"").end();
    assert_eq!((of(&within, 2), of(&within, 3)), ((strings(&["b", "b/f"]), None), (strings(&["f"]), None)));
}

#[test]
fn a_directory_may_be_listed_again_and_the_last_word_counts() {
    let late = |header: &mut tar::Header| {
        header.set_mode(0o1700);
        header.set_mtime(5);
    };
    let archive = Tar::default().file("d/x", b"").dir("d").entry(b'5', b"d/", b"", late).file("d/y", b"").end();
    let sandbox = Sandbox::new();
    let unpacked = sandbox.unpack(&archive[..], &Unpack::default()).unwrap();
    assert_eq!(paths(&unpacked), ["d", "d/x", "d/y"]);
    assert_eq!((unpacked.entries[0].mode, unpacked.entries[0].mtime.as_second()), (0o1700, 5));
    let on_disk = std::fs::metadata(sandbox.tree().join("d")).unwrap();
    assert_eq!((on_disk.mode() & 0o7777, on_disk.mtime()), (0o1500, 5));
}

#[test]
fn the_documents_owner_counts_for_root_and_nobody_else() {
    let recipe = Unpack { owner: Some(Owner { uid: 4242, gid: 4343 }), ..Unpack::default() };
    let sandbox = Sandbox::new();
    let archive = Tar::default().file("d/file", b"").symlink("link", "d").end();
    let unpacked = sandbox.unpack(&archive[..], &recipe).unwrap();
    let own = std::fs::metadata(sandbox.outer.path()).unwrap();
    let expected = if own.uid() == 0 { (4242, 4343) } else { (own.uid(), own.gid()) };
    for entry in &unpacked.entries {
        let on_disk = std::fs::symlink_metadata(sandbox.tree().join(entry.path.as_path())).unwrap();
        assert_eq!((entry.uid, entry.gid), expected, "{}", entry.path);
        assert_eq!((on_disk.uid(), on_disk.gid()), expected, "{}", entry.path);
    }
}

#[test]
fn each_file_has_the_archives_owner_whoever_owned_the_one_before() {
    let sandbox = Sandbox::new();
    let own = std::fs::metadata(sandbox.outer.path()).unwrap();
    if own.uid() == 0 {
        // What is made in it has its group, which is not this process's.
        std::os::unix::fs::chown(sandbox.tree(), None, Some(4343)).unwrap();
        std::fs::set_permissions(sandbox.tree(), std::fs::Permissions::from_mode(0o2755)).unwrap();
    }
    let owners = [(0u32, 4343u32), (0, 0), (4242, 4343), (0, 4343), (4242, 0)];
    let mut archive = Tar::default().dir("d/");
    for (at, (uid, gid)) in owners.into_iter().enumerate() {
        archive = archive.entry(b'0', format!("d/{at}").as_bytes(), b"x", |header| {
            header.set_uid(u64::from(uid));
            header.set_gid(u64::from(gid));
        });
    }
    sandbox.unpack(&archive.end()[..], &Unpack::default()).unwrap();
    for (at, (uid, gid)) in owners.into_iter().enumerate() {
        let on_disk = std::fs::metadata(sandbox.tree().join(format!("d/{at}"))).unwrap();
        let expected = if own.uid() == 0 { (uid, gid) } else { (own.uid(), own.gid()) };
        assert_eq!((on_disk.uid(), on_disk.gid()), expected, "d/{at}");
    }
}

#[test]
fn a_single_file_is_stored_as_it_is() {
    let bytes = platform();
    let recipe = Unpack { format: UnpackFormat::None, ..Unpack::default() };
    let sandbox = Sandbox::new();
    let unpacked = sandbox.unpack(&bytes[..], &recipe).unwrap();
    assert_eq!((paths(&unpacked), unpacked.bytes), (strings(&["single.bin"]), bytes.len() as u64));
    assert_eq!(read(&sandbox.tree().join("single.bin")), bytes);
    assert_eq!(unpacked.entries[0].sha256.map(hex::encode), Some(crate::intent::Digest::sha256(&bytes).hex()));
    let named = Unpack {
        file_name: Some("model.bin".into()),
        prefix: Some("a/b".parse().unwrap()),
        require: vec!["a/b/model.bin".parse().unwrap()],
        ..recipe.clone()
    };
    assert_eq!(unpacked_paths(&bytes, &named), ["a", "a/b", "a/b/model.bin"]);
    for bad in ["", "..", "../x", "/x", "a/"] {
        let error = Sandbox::new().unpack(&bytes[..], &Unpack { file_name: Some(bad.into()), ..recipe.clone() });
        assert!(matches!(error, Err(UnpackError::FileName { .. })), "{bad:?}: {error:?}");
    }
}

fn raw_path() -> impl Strategy<Value = Vec<u8>> {
    let component = prop_oneof![Just("a"), Just("b"), Just("é"), Just("."), Just(".."), Just(""), Just("c.d")];
    proptest::collection::vec(component, 0..6).prop_map(|components| components.join("/").into_bytes())
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Dir),
        Just(Kind::File),
        Just(Kind::Special("fifo")),
        raw_path().prop_map(|target| Kind::Symlink { target }),
        raw_path().prop_map(|target| Kind::HardLink { target }),
    ]
}

/// Components that are more than `.` and the empty one.
fn plain(path: &[u8]) -> Vec<&[u8]> {
    path.split(|&b| b == b'/').filter(|c| !matches!(*c, b"" | b".")).collect()
}

proptest! {
    #[test]
    fn whatever_the_policy_keeps_is_safe(
        raw in raw_path(),
        kind in kind(),
        mode in 0u32..0o10000,
        strip in 0u32..3,
        prefix in proptest::option::of(Just("p/q")),
        exclude in proptest::option::of(Just("a")),
    ) {
        let recipe = Unpack {
            strip_components: strip,
            prefix: prefix.map(|p| p.parse().unwrap()),
            exclude: exclude.into_iter().map(String::from).collect(),
            ..Unpack::default()
        };
        let verdict = Policy::new(&recipe).unwrap().judge(&raw, &kind, mode);
        let components = plain(&raw);
        if raw.first() == Some(&b'/') || components.contains(&&b".."[..]) || raw.is_empty() {
            prop_assert!(verdict.is_err());
        }
        let Ok(Verdict::Keep { path, target }) = verdict else { return Ok(()) };
        let stripped = raw.split(|&b| b == b'/').filter(|c| !c.is_empty()).take(strip as usize);
        let kept = &components[stripped.filter(|c| *c != b".").count()..];
        let above = prefix.map_or(vec![], |p| plain(p.as_bytes()));
        prop_assert_eq!(path.components().collect::<Vec<_>>(), [&above[..], kept].concat());
        prop_assert!(exclude.is_none_or(|first| kept[0] != first.as_bytes()));
        prop_assert_eq!(target.is_some(), matches!(kind, Kind::HardLink { .. }));
        match kind {
            Kind::Special(_) => prop_assert!(false, "a fifo was kept"),
            Kind::Symlink { target } => {
                let mut depth = path.depth() as i64 - 1;
                for component in plain(&target) {
                    depth += if component == b".." { -1 } else { 1 };
                    prop_assert!(depth >= 0);
                }
                prop_assert!(target.first() != Some(&b'/'));
            }
            _ => prop_assert_eq!(mode & 0o6000, 0),
        }
    }

    #[test]
    fn a_glob_stands_for_what_it_matches_and_all_below(
        glob in r"(/|\./)?([ab*?]|\*\*|[{]a,b[}]|\[ab\]|é){1,3}(/([ab*?]|\*\*|[{]a/b,b[}]){1,3}){0,3}/?",
        path in r"(a|b|ab|é|\.)(/(a|b|ab|aa|c)){0,4}",
    ) {
        let recipe = Unpack { include: vec![glob.clone()], ..Unpack::default() };
        let Some(named) = RelPath::normalize(path.as_bytes()).unwrap() else { return Ok(()) };
        let bare = glob.strip_prefix("./").unwrap_or(&glob).trim_matches('/');
        let alone = globset::GlobBuilder::new(bare).literal_separator(true).build().unwrap().compile_matcher();
        let above = std::iter::successors(Some(named.clone()), RelPath::parent);
        let expected = above.into_iter().any(|path| alone.is_match(path.as_path()));
        let verdict = Policy::new(&recipe).unwrap().judge(path.as_bytes(), &Kind::File, 0o644).unwrap();
        prop_assert_eq!(verdict != Verdict::Skip, expected);
    }

    #[test]
    fn no_bytes_panic_or_write_outside(noise in proptest::collection::vec((0usize..3000, any::<u8>()), 1..6)) {
        let mut bytes = platform();
        for (at, byte) in noise {
            bytes[at] = byte;
        }
        let sandbox = Sandbox::new();
        let _ = sandbox.unpack(&bytes[..], &Unpack { format: UnpackFormat::Tar, ..Unpack::default() });
        sandbox.assert_nothing_outside();
    }
}
