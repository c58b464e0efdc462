//! `seedcache refresh`: has the source asked now, and says what changed.

use std::io::Write;
use std::time::Duration;

use super::Format;
use super::client::Client;
use super::exit::{Exit, Failure};
use super::follow::follow;
use super::output::Output;
use super::wait;
use crate::intent::ArtifactName;
use crate::reconcile::ArtifactState;

/// Ask the source now whether there is something newer.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The artifact
    artifact: ArtifactName,
    /// Wait until what the source names is here (at most this long, 10m when not said)
    #[arg(
        long,
        value_name = "DURATION",
        num_args = 0..=1,
        default_missing_value = wait::DEFAULT,
        value_parser = wait::limit
    )]
    wait: Option<Duration>,
    /// Form of the answer; as JSON the artifact's state
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// The source had nothing that could be used; what was current still is.
#[derive(Debug, thiserror::Error)]
#[error("{artifact} could not be refreshed: {error}")]
pub(super) struct RefreshFailed {
    artifact: ArtifactName,
    /// As the daemon tells it.
    error: Box<str>,
    /// What stays served.
    current: Option<Box<str>>,
}

impl RefreshFailed {
    /// What to do about it.
    pub(super) fn next(&self) -> String {
        let kept = self.current.as_ref().map_or_else(String::new, |version| format!("{version} is still served; "));
        format!("{kept}it is tried again by itself, `seedcache status {}` says when", self.artifact)
    }
}

/// Has it asked, and tells what came of it.
pub(super) async fn run(args: Args, client: &Client, out: &mut Output<impl Write>) -> Result<Exit, Failure> {
    let name = &args.artifact;
    let Some(limit) = args.wait else {
        let state = client.refresh(name).await?;
        match args.output {
            Format::Table => {
                writeln!(out, "{name}: the source is being asked; `seedcache status {name}` shows what comes of it")?;
            }
            Format::Json => writeln!(out, "{}", serde_json::to_string(&state)?)?,
        }
        out.flush()?;
        return Ok(Exit::Done);
    };
    let before = client.artifact(name).await?;
    let after = follow(client, name, |_| None, client.refresh_and_wait(name, limit)).await?;
    if let Some(error) = &after.last_error {
        let current = after.current.as_ref().map(|version| version.as_str().into());
        return Err(RefreshFailed { artifact: after.name, error: error.as_str().into(), current }.into());
    }
    match args.output {
        Format::Table => writeln!(out, "{}", outcome(&before, &after))?,
        Format::Json => writeln!(out, "{}", serde_json::to_string(&after)?)?,
    }
    out.flush()?;
    Ok(Exit::Done)
}

/// What changed.
fn outcome(before: &ArtifactState, after: &ArtifactState) -> String {
    let name = &after.name;
    match (&before.current, &after.current) {
        (Some(old), Some(new)) if old != new => format!("{name}: {old} -> {new}"),
        (None, Some(new)) => format!("{name}: now at {new}"),
        (_, None) => format!("{name}: no version yet"),
        (_, Some(current)) => match &after.latest {
            Some(latest) if latest != current && after.pin.is_some() => {
                format!("{name}: pinned at {current}; the latest is {latest}")
            }
            _ => format!("{name}: already at {current}"),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::tests::artifact;

    #[test]
    fn one_line_says_what_changed() {
        let old = artifact(None);
        let none = ArtifactState { current: None, ..old.clone() };
        let new = ArtifactState { current: Some("20260201T000000Z".parse().unwrap()), ..old.clone() };
        let pinned = ArtifactState {
            pin: old.current.clone(),
            latest: Some("20260201T000000Z".parse().unwrap()),
            ..old.clone()
        };
        for (before, after, told) in [
            (&old, &new, "20260101T000000Z -> 20260201T000000Z"),
            (&old, &old, "already at 20260101T000000Z"),
            (&none, &old, "now at 20260101T000000Z"),
            (&none, &none, "no version yet"),
            (&old, &pinned, "pinned at 20260101T000000Z; the latest is 20260201T000000Z"),
        ] {
            assert_eq!(outcome(before, after), format!("smartos-platform: {told}"));
        }
    }
}
