//! `seedcache serve`: runs the daemon.

use std::path::PathBuf;

use super::exit::{Exit, Failure};
use super::greeting;
use super::output::Output;
use super::stop::Stop;
use crate::node::{Node, Options};

/// Run the daemon of this node.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory with seedcache.yaml (settings) and the documents
    #[arg(long, value_name = "DIR")]
    config: PathBuf,
    /// Keep the store in DIR/.seedcache and seed below DIR, whatever the settings say
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// TCP address to listen on, whatever the settings say
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Unix socket to listen on, whatever the settings say
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Runs until it is told to stop: SIGTERM or SIGINT.
pub(super) fn run(args: Args, out: &mut Output) -> Result<Exit, Failure> {
    let Args { config, root, listen, socket } = args;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::Runtime)?;
    std::panic::set_hook(Box::new(tell_panic));
    let ended = runtime.block_on(async {
        let mut stop = Stop::new().map_err(Failure::Runtime)?;
        let node = tokio::select! {
            started = Node::start(Options { config, root, listen, socket }) => started?,
            // It may wait for the daemon before it.
            _ = stop.asked() => return Ok(Exit::Done),
        };
        let told = async {
            if node.talks_text {
                greeting::greet(&node, out).await?;
            }
            std::future::pending::<Result<(), Failure>>().await
        };
        let broken = tokio::select! {
            _ = stop.asked() => None,
            failed = told => failed.map(|()| None)?,
            // Not restarted from here: what started the daemon does it, and sees that it had to.
            error = node.broken() => Some(error),
        };
        // Told twice, it ends at once, as after a kill: what is durable stays, the rest is resumed.
        tokio::select! {
            () = node.stop() => {}
            _ = stop.asked() => tracing::warn!("told to stop again: work in flight is given up"),
        }
        broken.map_or(Ok(Exit::Done), |error| Err(error.into()))
    });
    // Blocking work that outlasted its time is not waited for once more.
    runtime.shutdown_background();
    ended
}

/// Panics go to the log like all else: one line, with the place.
fn tell_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let what = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    let place = panic.location().map(tracing::field::display);
    tracing::error!(what, place, thread = std::thread::current().name(), "a defect of seedcache; please report it");
}
