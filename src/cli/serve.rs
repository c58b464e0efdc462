//! `seedcache serve`: runs the daemon.

use std::path::PathBuf;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit::{Exit, Failure};
use super::greeting;
use super::output::Output;
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
    runtime.block_on(async {
        let mut stop = Stop::new().map_err(Failure::Runtime)?;
        let node = Node::start(Options { config, root, listen, socket }).await?;
        let told = async {
            if node.talks_text {
                greeting::greet(&node, out).await?;
            }
            std::future::pending::<Result<(), Failure>>().await
        };
        tokio::select! {
            () = stop.asked() => {}
            failed = told => failed?,
        }
        node.stop().await;
        Ok(Exit::Done)
    })
}

/// The signals that end the daemon.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
