//! `seedcache serve`: runs the daemon.

use std::path::PathBuf;

use super::exit::{Exit, Failure};
use crate::node;

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

/// Runs until it is told to stop.
pub(super) fn run(args: Args) -> Result<Exit, Failure> {
    let Args { config, root, listen, socket } = args;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::Runtime)?;
    runtime.block_on(node::run(node::Options { config, root, listen, socket }))?;
    Ok(Exit::Done)
}
