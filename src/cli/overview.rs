//! All artifacts at a glance, for people.

use jiff::Timestamp;

use super::human::{ago, ahead, plain, size};
use super::{progress, table};
use crate::reconcile::{ArtifactState, State};

const HEADER: [&str; 9] = ["NAME", "STATE", "CURRENT", "LATEST", "PIN", "VERSIONS", "SIZE", "SEEDS", "NEXT"];
/// The columns that a narrow terminal does without while they tell nothing.
const CURRENT: usize = 2;
const LATEST: usize = 3;
const PIN: usize = 4;

/// A row for each artifact, and below them a line for each last error.
pub(super) fn render(states: &[ArtifactState], width: Option<u16>, now: Timestamp) -> String {
    if states.is_empty() {
        return "no artifact is declared, and none is on this node\n".to_owned();
    }
    let rows: Vec<Vec<String>> = states.iter().map(|state| row(state, now)).collect();
    let mut text = table::render(&HEADER, rows.clone(), None);
    if let Some(width) = width.filter(|&width| text.lines().any(|line| line.chars().count() > width.into())) {
        text = narrow(&rows, width);
    }
    for line in states.iter().filter_map(|state| failure_line(state, now)) {
        text += &format!("{line}\n");
    }
    text
}

/// The table fitted to a narrow terminal: first what tells nothing goes, then long cells wrap.
fn narrow(rows: &[Vec<String>], width: u16) -> String {
    let tells = |column: usize| match column {
        LATEST => rows.iter().any(|row| row[LATEST] != "-" && row[LATEST] != row[CURRENT]),
        PIN => rows.iter().any(|row| row[PIN] != "-"),
        _ => true,
    };
    let keep: Vec<usize> = (0..HEADER.len()).filter(|&column| tells(column)).collect();
    let header: Vec<&str> = keep.iter().map(|&column| HEADER[column]).collect();
    table::render(&header, rows.iter().map(|row| keep.iter().map(|&column| row[column].clone()).collect()), Some(width))
}

fn row(state: &ArtifactState, now: Timestamp) -> Vec<String> {
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let name = |version: &Option<_>| or_none(version.as_ref().map(ToString::to_string));
    vec![
        state.name.to_string(),
        standing(state),
        name(&state.current),
        name(&state.latest),
        name(&state.pin),
        state.versions.len().to_string(),
        size(state.versions.iter().fold(0, |sum, version| sum.saturating_add(version.bytes))),
        seeds(state),
        or_none(state.next_try.map(|at| ahead(at, now))),
    ]
}

/// The state, with what goes on now: `Warming, downloading 64%`.
fn standing(state: &ArtifactState) -> String {
    let Some(now) = &state.progress else {
        return state.state.to_string();
    };
    let share = progress::share(now).map_or_else(String::new, |share| format!(" {}%", (share * 100.0).floor()));
    format!("{}, {}{share}", state.state, progress::word(now.phase))
}

/// How many targets hold what they should: `2`, or `1 of 2`.
fn seeds(state: &ArtifactState) -> String {
    let ready = state.seeds.iter().filter(|seed| seed.state == State::Ready).count();
    if ready == state.seeds.len() { ready.to_string() } else { format!("{ready} of {}", state.seeds.len()) }
}

/// What went wrong at the last try.
pub(super) fn failure_line(state: &ArtifactState, now: Timestamp) -> Option<String> {
    let error = state.last_error.as_deref()?;
    let when = state.last_error_at.map_or_else(String::new, |at| format!(" {}", ago(at, now)));
    let often = if state.failures > 1 { format!(" ({} in a row)", state.failures) } else { String::new() };
    Some(format!("{}: the last try failed{when}{often}: {}", state.name, plain(error)))
}

/// One artifact in one line, without figures that move all the time: what a log shows when it changes.
pub(super) fn summary(state: &ArtifactState) -> String {
    let mut text = format!("{}: {}", state.name, state.state);
    if let Some(current) = &state.current {
        text += &format!(" at {current}");
    }
    if let Some(pin) = state.pin.as_ref().filter(|pin| state.current.as_ref() != Some(pin)) {
        text += &format!(", pinned to {pin}");
    }
    if let Some(now) = &state.progress {
        text += &format!(", {}", progress::word(now.phase));
        if let Some(version) = &now.version {
            text += &format!(" {version}");
        }
    }
    if !state.seeds.is_empty() {
        let noun = if state.seeds.len() == 1 { "seed" } else { "seeds" };
        text += &format!(", {} {noun} ready", seeds(state));
    }
    if let Some(error) = &state.last_error {
        text += &format!(", the last try failed: {}", plain(error));
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::acquire::Phase;
    use crate::cli::tests::{artifact, progress};

    fn now() -> Timestamp {
        "2026-01-01T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_row_each_and_errors_below() {
        let mut warm = artifact(None);
        warm.next_try = Some("2026-01-01T12:42:00Z".parse().unwrap());
        let mut cold = artifact(Some(progress(Phase::Downloading, 64, Some(100))));
        cold.name = "cni".parse().unwrap();
        cold.state = State::Warming;
        (cold.current, cold.latest) = (None, Some("v2".parse().unwrap()));
        cold.versions.clear();
        cold.seeds[0].state = State::Pending;
        cold.last_error = Some("connection reset".to_owned());
        cold.last_error_at = Some("2026-01-01T11:57:00Z".parse().unwrap());
        cold.failures = 4;
        assert_eq!(
            render(&[warm, cold], None, now()),
            "NAME              STATE                     CURRENT           LATEST            PIN  VERSIONS  \
             SIZE    SEEDS   NEXT\n\
             smartos-platform  Ready                     20260101T000000Z  20260101T000000Z  -    1         \
             358 MB  1       in 42 min\n\
             cni               Warming, downloading 64%  -                 v2                -    0         \
             0 B     0 of 1  -\n\
             cni: the last try failed 3 min ago (4 in a row): connection reset\n"
        );
        assert!(render(&[], None, now()).starts_with("no artifact is declared"));
    }

    #[test]
    fn it_fits_a_narrow_terminal() {
        let mut state = artifact(None);
        state.next_try = Some("2026-01-01T12:42:00Z".parse().unwrap());
        let text = render(&[state], Some(80), now());
        assert!(text.starts_with("NAME              STATE  CURRENT           VERSIONS"), "{text}");
        assert_eq!(text.lines().count(), 2, "{text}");
        let mut pinned = artifact(None);
        pinned.pin = pinned.current.clone();
        let text = render(&[pinned], Some(60), now());
        assert!(text.contains("PIN") && text.lines().all(|line| line.chars().count() <= 60), "{text}");
    }

    #[test]
    fn a_summary_changes_with_what_matters_and_not_with_bytes() {
        let at = |bytes| summary(&artifact(Some(progress(Phase::Downloading, bytes, Some(100)))));
        assert_eq!(at(1), "smartos-platform: Ready at 20260101T000000Z, downloading 20260201T000000Z, 1 seed ready");
        assert_eq!(at(1), at(99));
        let mut state = artifact(None);
        state.pin = Some("v1".parse().unwrap());
        state.last_error = Some("no route".to_owned());
        assert_eq!(
            summary(&state),
            "smartos-platform: Ready at 20260101T000000Z, pinned to v1, 1 seed ready, the last try failed: no route"
        );
    }
}
