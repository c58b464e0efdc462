//! Fail points: all of them known, and a slice of the campaign of kills: a daemon that dies at each of them once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use regex::Regex;
use seedcache::fs::{FAIL_POINTS, RARE_FAIL_POINTS};

use crate::fixture::kill::ledger::Violation;
use crate::fixture::kill::{At, Runner};

/// Daemons side by side: they wait for the disk most of the time.
const WORKERS: usize = 6;
/// Runs until the point is reached.
const TRIES: usize = 12;

/// The points that the sources name, with the room that each stands in.
fn named() -> Vec<(String, String)> {
    let point = Regex::new(r#"fail_point\(\s*"([^"]*)"\s*\)"#).unwrap();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let sources = crate::fixture::tree::walk(&src)
        .into_iter()
        .filter(|(path, meta)| meta.is_file() && path.extension().is_some_and(|extension| extension == "rs"));
    sources
        .flat_map(|(path, _)| {
            let room = path.iter().next().unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(src.join(path)).unwrap();
            let names: Vec<String> = point.captures_iter(&text).map(|found| found[1].to_owned()).collect();
            names.into_iter().map(move |name| (name, room.clone())).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn the_list_has_every_point_that_the_sources_name_once_and_no_other() {
    let named = named();
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    named.iter().for_each(|(name, _)| *times.entry(name).or_default() += 1);
    assert_eq!(times.iter().filter(|(_, times)| **times > 1).collect::<Vec<_>>(), []);
    let (in_sources, listed): (BTreeSet<&str>, BTreeSet<&str>) =
        (times.into_keys().collect(), FAIL_POINTS.iter().chain(RARE_FAIL_POINTS).copied().collect());
    assert_eq!(in_sources, listed);
    assert_eq!(FAIL_POINTS.len() + RARE_FAIL_POINTS.len(), listed.len(), "listed twice");
    let form = Regex::new(r"^(\w+)\.[a-z-]+\.(before|after)-[a-z-]+$").unwrap();
    for (name, room) in &named {
        let found = form.captures(name).unwrap_or_else(|| panic!("{name} is not of the form room.thing.before-step"));
        assert_eq!(&found[1], room, "{name}");
    }
}

#[test]
fn a_daemon_killed_at_each_point_loses_nothing_and_shows_nothing_half_done() {
    let (next, broken) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let mut runner: Option<Runner> = None;
                while let Some(&point) = FAIL_POINTS.get(next.fetch_add(1, Relaxed)) {
                    let runner = match &mut runner {
                        Some(runner) => {
                            runner.turn_to(point);
                            runner
                        }
                        none => none.insert(Runner::new(point)),
                    };
                    let said = once(runner, point);
                    broken.lock().unwrap().extend(said);
                }
            });
        }
    });
    let broken = broken.into_inner().unwrap();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// One kill at the point; what was wrong.
fn once(runner: &mut Runner, point: &str) -> Vec<String> {
    for number in 0..TRIES {
        // What happens once in a store's life is met at a new one, and some of the rest at an old one alone.
        let found = runner.run(Some(1), number > 0 && number.is_multiple_of(2));
        let said = |violation: &Violation| format!("{point}: {:?}: {}", violation.kind, violation.what);
        let said: Vec<String> = found.violations.iter().map(said).collect();
        eprintln!("{point}: {:?} at try {number}, ready after {:?}", found.at, found.restart);
        if found.at == At::Point || !said.is_empty() {
            return said;
        }
    }
    vec![format!("{point}: not reached in {TRIES} runs")]
}
