//! The house rules that can be read off the sources: which room imports which, who touches the file system, and how
//! files are cut.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// In the order in which data flows: a module imports only from its own room and those before it.
const ROOMS: [&str; 9] = ["fs", "intent", "store", "acquire", "seed", "reconcile", "serve", "node", "cli"];
/// Without a file's tests.
const MOST_LINES: usize = 400;
/// What is compiled for tests alone, and is no room.
const TESTS: [&str; 4] = ["tests", "tests.rs", "fixture.rs", "fuzzing.rs"];
const FORBIDDEN_NAMES: [&str; 8] = ["util", "utils", "helper", "helpers", "common", "manager", "misc", "mod_utils"];

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A source file: its path below `src`, and its text.
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// The text before the file's tests.
    fn without_tests(&self) -> &str {
        self.text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default()
    }

    /// The same without comments and without what stands in quotes.
    fn code(&self) -> String {
        code_of(self.without_tests())
    }

    /// The room it is in; none for the crate's two roots.
    fn room(&self) -> Option<&str> {
        let first = self.path.iter().next()?.to_str()?;
        let room = first.strip_suffix(".rs").unwrap_or(first);
        (!matches!(room, "lib" | "main")).then_some(room)
    }

    /// How many modules are above it: `super` that often is the crate's root.
    fn depth(&self) -> usize {
        let components = self.path.iter().count();
        if self.path.ends_with("mod.rs") { components - 1 } else { components }
    }
}

fn code_of(text: &str) -> String {
    let hidden =
        Regex::new(r##"(?s)//[^\n]*|/\*.*?\*/|r#".*?"#|r"[^"]*"|b?"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])'"##).unwrap();
    hidden.replace_all(text, "\"\"").into_owned()
}

fn sources_in(dir: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    for (path, meta) in crate::fixture::tree::walk(dir) {
        if meta.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(Source { text: fs::read_to_string(dir.join(&path)).unwrap(), path });
        }
    }
    sources
}

fn sources() -> Vec<Source> {
    let mut sources = sources_in(&repository().join("src"));
    // A module's tests in files of their own are tests, not rooms.
    sources.retain(|source| !source.path.iter().any(|name| TESTS.iter().any(|tests| name == *tests)));
    assert!(sources.len() > 20, "these are not the sources");
    sources
}

/// Fails with all that `wrong` finds in any of the sources.
#[track_caller]
fn none(what: &str, wrong: impl Fn(&Source) -> Vec<String>) {
    let found: Vec<String> = sources()
        .iter()
        .flat_map(|source| wrong(source).into_iter().map(|said| format!("src/{}: {said}", source.path.display())))
        .collect();
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

/// The rooms that the code of a module names, `depth` modules below the crate's root.
fn rooms_named(code: &str, depth: usize) -> Vec<String> {
    let path = Regex::new(r"\b(crate|super(?:\s*::\s*super)*)\s*::\s*(\w+|\{)").unwrap();
    let at_root = |from: &str| from == "crate" || from.matches("super").count() == depth;
    let named = path.captures_iter(code).filter(|found| at_root(&found[1])).map(|found| found[2].to_owned());
    named.collect()
}

/// The names that stand wrong in `room`: rooms below it, and what hides rooms.
fn wrong_arrows(room: &str, named: Vec<String>) -> Vec<String> {
    let position = |room: &str| ROOMS.iter().position(|r| *r == room);
    let own = position(room);
    let wrong = |name: &String| name == "{" || position(name).is_some_and(|named| Some(named) > own);
    named.into_iter().filter(wrong).collect()
}

#[test]
fn every_room_is_known() {
    none("a room that design.md does not have", |source| match source.room() {
        Some(room) if !ROOMS.contains(&room) => vec![room.to_owned()],
        _ => vec![],
    });
}

#[test]
fn no_arrow_goes_the_wrong_way() {
    none("imports from a room below (or `crate::{…}`, which hides them: write one `use` a room)", |source| {
        let Some(room) = source.room() else { return vec![] };
        wrong_arrows(room, rooms_named(&source.code(), source.depth()))
    });
}

#[test]
fn a_wrong_arrow_is_seen() {
    let wrong = |room, code: &str, depth| wrong_arrows(room, rooms_named(&code_of(code), depth));
    assert_eq!(wrong("fs", "use crate::store::Staging;", 2), ["store"]);
    assert_eq!(wrong("store", "use super::super::serve::Server;", 2), ["serve"]);
    assert_eq!(wrong("acquire", "fn f() { crate::seed::seed() }", 3), ["seed"]);
    assert_eq!(wrong("store", "use crate::{fs, cli};", 2), ["{"]);
    let none: [&str; 0] = [];
    assert_eq!(
        wrong("store", "use crate::fs::Dir; use super::fs_like; // crate::serve\nconst A: &str = \"crate::cli\";", 2),
        none
    );
    assert_eq!(wrong("cli", "use crate::node::Node; use crate::cli::Client;", 1), none);
}

/// Uses of the file system in code, the types of what is open already aside.
fn file_system_uses(code: &str) -> Vec<String> {
    let uses = Regex::new(r"\b(std|tokio|rustix)\s*::\s*fs\b(?:\s*::\s*(\w+|\{|\*)(?:\s*::\s*(\w+))?)?").unwrap();
    let grouped = Regex::new(r"\buse\s+(std|tokio|rustix)::\{[^;]*\bfs\b").unwrap();
    // Reading and writing an open `File` is fine, opening one is not.
    let open_file = |found: &regex::Captures<'_>| {
        let last = found.get(3).map(|last| last.as_str());
        &found[1] == "std" && found.get(2).is_some_and(|name| name.as_str() == "File") && last.is_none()
    };
    let paths = uses.captures_iter(code).filter(|found| !open_file(found)).map(|found| found[0].to_owned());
    let opening =
        Regex::new(r"\bFile::(open|create|create_new|options)\b|\bos::unix::fs::(symlink|DirBuilder\w*)").unwrap();
    let groups = grouped.find_iter(code).chain(opening.find_iter(code)).map(|found| found.as_str().to_owned());
    paths.chain(groups).collect()
}

#[test]
fn one_room_touches_the_file_system() {
    none("the file system is touched outside src/fs", |source| match source.room() {
        Some("fs") => vec![],
        _ => file_system_uses(&source.code()),
    });
    for bad in [
        "use std::fs;",
        "std::fs::read(p)",
        "use std::fs::{File};",
        "tokio::fs::File",
        "rustix::fs::openat",
        "use std::{fs, io};",
    ] {
        assert!(!file_system_uses(bad).is_empty(), "{bad}");
    }
    for bad in ["std::fs::File::open(p)", "File::create(p)", "std::os::unix::fs::symlink(a, b)"] {
        assert!(!file_system_uses(bad).is_empty(), "{bad}");
    }
    for good in ["use std::fs::File;", "use crate::fs::{self, Dir};", "use std::os::unix::fs::FileExt;"] {
        assert_eq!(file_system_uses(good), Vec::<String>::new(), "{good}");
    }
}

#[test]
fn each_of_these_has_one_user() {
    let users =
        [(r"\bsled\b", "store/index.rs"), (r"\bnotify\s*::", "intent/watch.rs"), (r"\bunsafe\b", "fs/handle.rs")];
    for (word, user) in users {
        let word = Regex::new(word).unwrap();
        none(&format!("only src/{user} may use this"), |source| {
            let found = word.find(&source.code()).map(|found| found.as_str().to_owned());
            found.filter(|_| source.path != Path::new(user)).into_iter().collect()
        });
    }
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    none("a file does one thing, and opens with `//!`", |source| {
        let lines = source.without_tests().lines().count();
        let long = (lines > MOST_LINES).then(|| format!("{lines} lines without its tests, at most {MOST_LINES}"));
        let silent = (!source.text.starts_with("//! ")).then(|| "its first line is no `//! `".to_owned());
        long.into_iter().chain(silent).collect()
    });
}

#[test]
fn files_have_names_that_say_something() {
    none("a name for anything", |source| {
        let names = source.path.iter().map(|name| name.to_str().unwrap().trim_end_matches(".rs"));
        names.filter(|name| FORBIDDEN_NAMES.contains(name)).map(str::to_owned).collect()
    });
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    let places = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];
    let mut texts: BTreeMap<PathBuf, String> = BTreeMap::new();
    let made = ["target", ".git", "fuzz/target", "fuzz/corpus", "fuzz/artifacts"];
    for (path, meta) in crate::fixture::tree::walk_but(&repository(), &made) {
        if let (true, Ok(text)) = (meta.is_file(), fs::read_to_string(repository().join(&path))) {
            texts.insert(path, text);
        }
    }
    assert!(texts.contains_key(Path::new("Cargo.toml")));
    let names = |text: &String| places.iter().any(|place| text.contains(place));
    let found: Vec<_> = texts.into_iter().filter(|(_, text)| names(text)).map(|(path, _)| path).collect();
    assert!(found.is_empty(), "{found:?}");
}
