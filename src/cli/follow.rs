//! Says how far an artifact is while a command waits for it: a bar on a terminal, a line now and then in a log.

use std::convert::Infallible;
use std::io::Write as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use tokio::time::sleep;

use super::client::Client;
use super::output;
use super::progress::{self, Line, Meter};
use crate::intent::ArtifactName;
use crate::reconcile::ArtifactState;

/// What is done sooner is done silently.
const QUIET: Duration = Duration::from_millis(200);
/// How often a bar moves.
const BAR_EVERY: Duration = Duration::from_millis(250);
/// How often a log's figures are taken.
const LOG_EVERY: Duration = Duration::from_secs(1);
/// How often a log gets a line.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// The bar's length in steps.
const STEPS: u64 = 1000;

/// Waits for `work` and shows meanwhile how far the artifact is. `doing` names what goes on where that is not the
/// artifact's own progress.
pub(super) async fn follow<T>(
    client: &Client,
    name: &ArtifactName,
    doing: impl Fn(&ArtifactState) -> Option<&'static str>,
    work: impl Future<Output = T>,
) -> T {
    let mut meter = Meter::default();
    watch(work, async |at| look(client, name, &mut meter, at, &doing).await).await
}

/// How far the artifact is, as the daemon says; `at` is the time since the first look.
pub(super) async fn look(
    client: &Client,
    name: &ArtifactName,
    meter: &mut Meter,
    at: Duration,
    doing: impl Fn(&ArtifactState) -> Option<&'static str>,
) -> Line {
    match client.artifact(name).await {
        Ok(state) => {
            meter.add(at, state.progress.as_ref().map_or(0, |progress| progress.bytes));
            match doing(&state) {
                Some(doing) => progress::seeding(&state).unwrap_or_else(|| Line::plain(name, doing)),
                None => progress::line(&state, meter.rate(), Timestamp::now()),
            }
        }
        // Whether that matters is for the call that waits to say.
        Err(_) => Line::plain(name, "waiting for the daemon"),
    }
}

/// Waits for `work` and shows meanwhile what `look` says, which is told the time since its first time.
pub(super) async fn watch<T>(work: impl Future<Output = T>, look: impl AsyncFnMut(Duration) -> Line) -> T {
    tokio::select! {
        biased;
        done = work => done,
        never = show(look) => match never {},
    }
}

async fn show(mut look: impl AsyncFnMut(Duration) -> Line) -> Infallible {
    sleep(QUIET).await;
    let start = Instant::now();
    let mut display = Display::new();
    loop {
        display.show(&look(start.elapsed()).await);
        sleep(display.every()).await;
    }
}

enum Display {
    Bar(ProgressBar),
    /// When the last line was written.
    Log {
        last: Option<Instant>,
    },
}

impl Display {
    fn new() -> Self {
        if output::stderr_is_terminal() { Display::Bar(ProgressBar::new(STEPS)) } else { Display::Log { last: None } }
    }

    fn every(&self) -> Duration {
        match self {
            Display::Bar(_) => BAR_EVERY,
            Display::Log { .. } => LOG_EVERY,
        }
    }

    fn show(&mut self, line: &Line) {
        match self {
            Display::Bar(bar) => {
                bar.set_style(style(line.share.is_some()));
                bar.set_message(line.brief.clone());
                bar.set_position(line.share.map_or(0, |share| (share * STEPS as f64) as u64));
            }
            Display::Log { last } if last.is_none_or(|last| last.elapsed() + QUIET >= LINE_EVERY) => {
                *last = Some(Instant::now());
                let _ = writeln!(std::io::stderr().lock(), "{}", line.full);
            }
            Display::Log { .. } => {}
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Display::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn style(with_bar: bool) -> ProgressStyle {
    let template = if with_bar { "{msg} [{wide_bar}]" } else { "{wide_msg}" };
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|e| unreachable!("both templates are sound: {e}"));
    style.progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_sound() {
        style(true);
        style(false);
    }
}
