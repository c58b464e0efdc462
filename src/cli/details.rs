//! One artifact in full, for people.

use jiff::Timestamp;

use super::human::{ago, ahead, plain, size};
use super::overview::failure_line;
use super::{progress, table};
use crate::reconcile::{ArtifactState, PinnedBy, SeedState, VersionState};

/// Everything that is known of an artifact, as lines.
pub(super) fn render(state: &ArtifactState, width: Option<u16>, now: Timestamp) -> String {
    let mut text = format!("{}: {}\n", state.name, state.state);
    for (label, value) in facts(state, now) {
        text += &format!("  {label:<9} {value}\n");
    }
    if let Some(line) = failure_line(state, now) {
        text += &format!("  {line}\n");
    }
    if !state.versions.is_empty() {
        text += "\n";
        text += &versions_table(state, width);
    }
    if !state.seeds.is_empty() {
        text += "\n";
        text +=
            &table::render(&["TARGET", "STATE", "VERSION", "MODE", "REASON"], state.seeds.iter().map(seed_row), width);
    }
    text
}

fn facts(state: &ArtifactState, now: Timestamp) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    let mut add = |label, value: Option<String>| facts.extend(value.map(|value| (label, value)));
    add("current", Some(state.current.as_ref().map_or_else(|| "none yet".to_owned(), ToString::to_string)));
    add("latest", state.latest.as_ref().map(ToString::to_string));
    let by = |by| match by {
        Some(PinnedBy::Document) => " (by the document)",
        Some(PinnedBy::Node) => " (on this node)",
        None => "",
    };
    add("pin", state.pin.as_ref().map(|pin| format!("{pin}{}", by(state.pinned_by))));
    add("now", state.progress.as_ref().map(|progress| progress::phase(progress, None)));
    add("asked", state.refreshed_at.map(|at| ago(at, now)));
    add("next try", state.next_try.map(|at| ahead(at, now)));
    add(
        "document",
        Some(state.observed_generation.as_ref().map_or_else(
            || "none declares it any more".to_owned(),
            |generation| format!("{}:{}", generation.algorithm(), generation.short(12)),
        )),
    );
    facts
}

/// The versions on the node, the current one marked.
pub(super) fn versions_table(state: &ArtifactState, width: Option<u16>) -> String {
    let rows =
        state.versions.iter().map(|version| version_row(version, state.current.as_ref() == Some(&version.version)));
    table::render(&["VERSION", "DIGEST", "SIZE", "FILES", "PUBLISHED", "KEPT"], rows, width)
}

fn version_row(held: &VersionState, current: bool) -> Vec<String> {
    let digest = held.digest.short(12);
    vec![
        format!("{}{}", held.version, if current { " *" } else { "" }),
        // Bytes that nothing strong vouches for are shown as such.
        if held.weak { format!("{digest} (weak)") } else { digest },
        size(held.bytes),
        held.files.to_string(),
        format!("{:.0}", held.published_at),
        plain(&held.kept).into_owned(),
    ]
}

fn seed_row(seed: &SeedState) -> Vec<String> {
    vec![
        // What a peer calls its directory is no path of this node.
        plain(&seed.target).into_owned() + if seed.by_handle { " (in a pod)" } else { "" },
        seed.state.to_string(),
        seed.version.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
        seed.mode.map_or("-", crate::fs::LinkMode::words).to_owned(),
        seed.reason.as_deref().map_or_else(|| "-".to_owned(), |reason| plain(reason).into_owned()),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::tests::artifact;
    use crate::reconcile::State;

    fn now() -> Timestamp {
        "2026-01-01T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn everything_known_is_shown() {
        let mut state = artifact(None);
        state.pin = state.current.clone();
        state.pinned_by = Some(PinnedBy::Node);
        state.refreshed_at = Some("2026-01-01T11:55:00Z".parse().unwrap());
        state.next_try = Some("2026-01-01T12:55:00Z".parse().unwrap());
        state.observed_generation = None;
        assert_eq!(
            render(&state, None, now()),
            "smartos-platform: Ready\n\
             \x20 current   20260101T000000Z\n\
             \x20 latest    20260101T000000Z\n\
             \x20 pin       20260101T000000Z (on this node)\n\
             \x20 asked     5 min ago\n\
             \x20 next try  in 55 min\n\
             \x20 document  none declares it any more\n\
             \n\
             VERSION             DIGEST        SIZE    FILES  PUBLISHED             KEPT\n\
             20260101T000000Z *  6e340b9cffb3  358 MB  7      2026-01-01T00:10:00Z  current\n\
             \n\
             TARGET         STATE  VERSION           MODE       REASON\n\
             /data/smartos  Ready  20260101T000000Z  hard link  no reflink: the file system has none\n"
        );
    }

    #[test]
    fn what_is_not_there_yet_makes_no_table() {
        let mut state = artifact(None);
        state.state = State::Failed;
        (state.current, state.latest) = (None, None);
        state.versions.clear();
        state.seeds.clear();
        state.last_error = Some("no route".to_owned());
        state.failures = 2;
        let text = render(&state, None, now());
        assert!(text.contains("  current   none yet\n"), "{text}");
        assert!(text.ends_with("  smartos-platform: the last try failed (2 in a row): no route\n"), "{text}");
    }

    #[test]
    fn a_weak_version_is_marked() {
        let mut state = artifact(None);
        state.versions[0].weak = true;
        assert!(versions_table(&state, None).contains("6e340b9cffb3 (weak)"));
    }
}
