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
        State::Ready => state.seeds.iter().all(|seed| seed.state != State::Pending),
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
    let program = std::env::args_os().next().unwrap_or_else(|| "seedcache".into());
    let ask = format!("{} --server unix://{}", Path::new(&program).display(), socket.display());
    let name = &first.name;
    let target = node.seed_root.join("mine");
    writeln!(out, "\nTry next, in another terminal in this directory:\n")?;
    writeln!(out, "  {ask} status")?;
    writeln!(out, "  {ask} seed {name} {}", target.display())?;
    writeln!(out, "  {ask} versions {name}")?;
    writeln!(out, "  {ask} verify {name}")?;
    out.flush()
}

fn tell(out: &mut impl Write, state: &ArtifactState, seed_root: &Path) -> std::io::Result<()> {
    let current = state.versions.iter().find(|version| Some(&version.version) == state.current.as_ref());
    match current {
        Some(version) => writeln!(
            out,
            "{}@{} is here: {} files, {}, verified by {}",
            state.name,
            version.version,
            version.files,
            human::size(version.bytes),
            version.digest
        )?,
        None => {
            writeln!(out, "{} failed: {}", state.name, state.last_error.as_deref().unwrap_or("no error was recorded"))?;
        }
    }
    for seed in &state.seeds {
        match (seed.state, seed.mode) {
            (State::Ready, Some(mode)) => {
                writeln!(out, "  seeded to {} ({})", seed_root.join(&seed.target).display(), mode.words())?;
            }
            _ => writeln!(out, "  not seeded to {}: {}", seed.target, seed.reason.as_deref().unwrap_or("not yet"))?,
        }
    }
    Ok(())
}
