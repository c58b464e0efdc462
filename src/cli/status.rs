//! `seedcache status`: what is on the node and how it stands, once or with each change.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{interval, sleep};

use super::Format;
use super::client::Client;
use super::connection::ClientError;
use super::events::{Change, Events};
use super::exit::{Exit, Failure};
use super::output::Output;
use super::wait::may_pass;
use super::{details, overview};
use crate::intent::ArtifactName;
use crate::reconcile::ArtifactState;

/// How often a watch draws anew, and how long it waits for a daemon that is gone.
const EVERY: Duration = Duration::from_secs(1);
/// To the upper left corner, and all from there cleared.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Show what is on the node and how it stands.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// One artifact, in full; all of them when left out
    artifact: Option<ArtifactName>,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Go on until interrupted: redrawn on a terminal, else a line for each change
    #[arg(long)]
    watch: bool,
}

/// Shows it.
pub(super) async fn run(args: Args, client: &Client, out: &mut Output<impl Write>) -> Result<Exit, Failure> {
    if args.watch {
        return watch(&args, client, out).await;
    }
    match args.output {
        Format::Table => {
            let states = ask(&args, client).await?;
            out.write_all(page(&args, &states, out.width()).as_bytes())?;
        }
        Format::Json => writeln!(out, "{}", client.raw(args.artifact.as_ref()).await?.get().trim_end())?,
    }
    out.flush()?;
    Ok(Exit::Done)
}

async fn ask(args: &Args, client: &Client) -> Result<Vec<ArtifactState>, ClientError> {
    match &args.artifact {
        Some(name) => Ok(vec![client.artifact(name).await?]),
        None => client.artifacts().await,
    }
}

fn page(args: &Args, states: &[ArtifactState], width: Option<u16>) -> String {
    match (&args.artifact, states) {
        (Some(_), [one]) => details::render(one, width, Timestamp::now()),
        _ => overview::render(states, width, Timestamp::now()),
    }
}

/// Shows each change until the reader is gone. Once it was reached, a daemon that restarts is waited for.
async fn watch(args: &Args, client: &Client, out: &mut Output<impl Write>) -> Result<Exit, Failure> {
    let mut screen = Screen { args, seen: None };
    let mut lost = false;
    while !out.is_closed() {
        let error = match client.events(args.artifact.as_ref()).await {
            Ok(events) => {
                lost = false;
                match screen.follow(events, out).await? {
                    // The daemon stops, or the reader is gone.
                    None => continue,
                    Some(error) => error,
                }
            }
            Err(error) => error,
        };
        if !may_pass(&error, screen.seen.is_some()) {
            return Err(error.into());
        }
        if !lost {
            let _ = writeln!(std::io::stderr().lock(), "{error}; waiting for it");
        }
        lost = true;
        sleep(EVERY).await;
    }
    Ok(Exit::Done)
}

/// What a watch shows.
struct Screen<'a> {
    args: &'a Args,
    /// As shown last.
    seen: Option<Vec<ArtifactState>>,
}

impl Screen<'_> {
    /// Shows what comes until the stream ends; why it broke, when it did.
    async fn follow(
        &mut self,
        mut events: Events,
        out: &mut Output<impl Write>,
    ) -> Result<Option<ClientError>, Failure> {
        let mut states: BTreeMap<ArtifactName, ArtifactState> = BTreeMap::new();
        let mut synced = false;
        // Times are shown from now, so that what stands on a terminal is drawn anew though nothing happens.
        let mut tick = interval(EVERY);
        while !out.is_closed() {
            let change = tokio::select! {
                change = events.next() => change,
                _ = tick.tick() => {
                    if synced && out.width().is_some() {
                        self.show(&states, out)?;
                    }
                    continue;
                }
            };
            match change {
                Ok(Some(Change::Artifact(state))) => drop(states.insert(state.name.clone(), *state)),
                Ok(Some(Change::Removed(name))) => drop(states.remove(&name)),
                Ok(Some(Change::Synced)) => synced = true,
                Ok(None) => {
                    sleep(EVERY).await;
                    return Ok(None);
                }
                Err(error) => return Ok(Some(error)),
            }
            if synced {
                self.show(&states, out)?;
            }
        }
        Ok(None)
    }

    fn show(
        &mut self,
        states: &BTreeMap<ArtifactName, ArtifactState>,
        out: &mut Output<impl Write>,
    ) -> Result<(), Failure> {
        let states: Vec<ArtifactState> = states.values().cloned().collect();
        let text = match (self.args.output, out.width()) {
            (Format::Table, Some(width)) => format!("{CLEAR}{}", page(self.args, &states, Some(width))),
            (format, _) => changes(format, self.seen.as_deref().unwrap_or_default(), &states)?,
        };
        out.write_all(text.as_bytes())?;
        out.flush()?;
        self.seen = Some(states);
        Ok(())
    }
}

/// A line for each artifact that differs from what was seen before: its summary, or all of it as JSON.
fn changes(format: Format, seen: &[ArtifactState], states: &[ArtifactState]) -> Result<String, Failure> {
    let mut text = String::new();
    for state in states {
        let before = seen.iter().find(|before| before.name == state.name);
        match format {
            Format::Table => {
                let line = overview::summary(state);
                if before.map(overview::summary).as_ref() != Some(&line) {
                    text += &format!("{line}\n");
                }
            }
            Format::Json if before != Some(state) => text += &format!("{}\n", serde_json::to_string(state)?),
            Format::Json => {}
        }
    }
    let gone = seen.iter().filter(|before| states.iter().all(|state| state.name != before.name));
    for before in gone.filter(|_| format == Format::Table) {
        text += &format!("{}: gone\n", before.name);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::acquire::Phase;
    use crate::cli::tests::{artifact, progress};

    #[test]
    fn only_changes_are_told() {
        let download = |bytes| vec![artifact(Some(progress(Phase::Downloading, bytes, Some(100))))];
        let (one, two) = (download(1), download(2));
        let told = |format, seen: &[ArtifactState], states: &[ArtifactState]| changes(format, seen, states).unwrap();
        assert_eq!(told(Format::Table, &[], &one).lines().count(), 1);
        assert_eq!(told(Format::Table, &one, &two), "");
        assert_eq!(told(Format::Json, &one, &one), "");
        let json: ArtifactState = serde_json::from_str(&told(Format::Json, &one, &two)).unwrap();
        assert_eq!(json, two[0]);
        let done = vec![artifact(None)];
        assert_eq!(told(Format::Table, &two, &done), "smartos-platform: Ready at 20260101T000000Z, 1 seed ready\n");
        assert_eq!(told(Format::Table, &done, &[]), "smartos-platform: gone\n");
    }
}
