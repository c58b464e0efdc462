//! What a daemon that talks to people says once it has done its first work: what it did, and what to try next.

use std::io::Write;
use std::path::Path;

use super::human;
use crate::intent::{Catalog, error_chain};
use crate::node::Node;
use crate::reconcile::{ArtifactState, State};

/// Waits until every artifact is ready, its declared targets too, or has failed; then tells.
pub(super) async fn greet(node: &Node, out: &mut impl Write) -> std::io::Result<()> {
    let mut changes = node.reconciler.changes();
    loop {
        changes.borrow_and_update();
        let states = node.reconciler.states();
        if states.iter().all(is_settled) {
            return write(out, node, &states, &node.reconciler.catalog());
        }
        if changes.changed().await.is_err() {
            return Ok(());
        }
    }
}

fn is_settled(state: &ArtifactState) -> bool {
    match state.state {
        State::Failed => true,
        State::Ready => state.seeds.iter().all(|seed| matches!(seed.state, State::Ready | State::Failed)),
        State::Pending | State::Warming => false,
    }
}

fn write(out: &mut impl Write, node: &Node, states: &[ArtifactState], catalog: &Catalog) -> std::io::Result<()> {
    writeln!(out, "The daemon is running; Ctrl-C stops it.")?;
    // The others stand among the states, by their names.
    for refused in catalog.refused.iter().filter(|refused| refused.name.is_none()) {
        writeln!(out, "refused: {}", error_chain(&*refused.error))?;
    }
    if states.is_empty() {
        writeln!(out, "No document declares an artifact yet; documents put beside the settings are taken up at once.")?;
    }
    for state in states {
        tell(out, state, &node.seed_root)?;
    }
    if let Some(http) = node.http {
        writeln!(out, "status page: http://{http}/")?;
    }
    let (Some(socket), Some(first)) = (&node.socket, states.iter().find(|state| state.state == State::Ready)) else {
        return out.flush();
    };
    let here = std::env::current_dir().unwrap_or_default();
    let program = std::env::args_os().next().unwrap_or_else(|| "seedcache".into());
    let program = quoted(Path::new(&program));
    let socket = quoted(near(socket, &here));
    let target = node.seed_root.join("mine");
    let target = quoted(near(&target, &here));
    let name = &first.name;
    writeln!(out, "\nTry next, in another terminal in this directory:\n")?;
    writeln!(out, "  export SEEDCACHE_SERVER=unix://{socket}")?;
    writeln!(out, "  {program} status")?;
    writeln!(out, "  {program} seed {name} {target}")?;
    writeln!(out, "  {program} versions {name}")?;
    writeln!(out, "  {program} verify {name}")?;
    out.flush()
}

/// The path as written in the directory `here`: short where it lies below.
fn near<'a>(path: &'a Path, here: &Path) -> &'a Path {
    path.strip_prefix(here).ok().filter(|below| !below.as_os_str().is_empty()).unwrap_or(path)
}

/// The path as one word of a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    match text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+:@%=,".contains(c)) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

fn tell(out: &mut impl Write, state: &ArtifactState, seed_root: &Path) -> std::io::Result<()> {
    let current = state.versions.iter().find(|version| Some(&version.version) == state.current.as_ref());
    match current {
        Some(version) => writeln!(
            out,
            "{}@{} is here: {}, {}, {} ({})",
            state.name,
            version.version,
            human::count(version.files, "file", "files"),
            human::size(version.bytes),
            if version.weak { "weakly verified" } else { "verified" },
            version.digest.short(12),
        )?,
        None => {
            writeln!(out, "{} failed: {}", state.name, state.last_error.as_deref().unwrap_or("no error was recorded"))?;
        }
    }
    let here = std::env::current_dir().unwrap_or_default();
    for seed in &state.seeds {
        match (seed.state, seed.mode) {
            (State::Ready, Some(mode)) => {
                let target = seed_root.join(&seed.target);
                writeln!(out, "  seeded to {} ({})", near(&target, &here).display(), mode.words())?;
            }
            _ => writeln!(out, "  not seeded to {}: {}", seed.target, seed.reason.as_deref().unwrap_or("not yet"))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_paths_are_short_and_one_word_each() {
        let here = Path::new("/home/x");
        for (path, written) in [
            ("/home/x/q/s.sock", "q/s.sock"),
            ("/home/x", "/home/x"),
            ("/home/xy/s", "/home/xy/s"),
            ("/home/x/my dir", "'my dir'"),
            ("/home/x/it's $HOME", r"'it'\''s $HOME'"),
        ] {
            assert_eq!(quoted(near(Path::new(path), here)), written);
        }
    }
}
