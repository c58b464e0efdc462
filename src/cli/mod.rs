//! The command line: one file per subcommand, and the client that speaks to a running node.
//!
//! What must hold: what people and machines read goes to standard output, all else to standard error; whatever happens
//! ends in one of the exit codes that `exit` maps it to; commands that wait say how far it is.

mod attach;
mod check;
mod client;
mod connection;
mod details;
mod events;
mod exit;
mod follow;
mod gc;
mod greeting;
mod human;
mod named;
mod output;
mod overview;
mod pin;
mod problem;
mod progress;
mod refresh;
mod report;
mod schema;
mod seed;
mod serve;
mod server;
mod status;
mod stop;
mod table;
mod token;
mod verify;
mod versions;
mod wait;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand};

use client::Client;
use exit::{Exit, Failure};
use output::Output;
use server::Server;

/// Fetches, verifies and versions large artifacts on this node, and seeds them into pods in milliseconds.
#[derive(Debug, Parser)]
#[command(name = "seedcache", version, arg_required_else_help = true, after_help = EXIT_CODES)]
struct Cli {
    /// Where the daemon listens: unix:///PATH or http://HOST:PORT
    #[arg(
        long,
        global = true,
        help_heading = "The daemon",
        value_name = "ADDRESS",
        env = "SEEDCACHE_SERVER",
        default_value = server::DEFAULT
    )]
    server: Server,
    /// File with the bearer token that changes over TCP need (else SEEDCACHE_TOKEN holds the token)
    #[arg(long, global = true, help_heading = "The daemon", value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 timed out waiting, 5 daemon unreachable, 130 interrupted, 143 \
     terminated.";

/// How long work that a signal cut short may take to end.
const TIDYING: Duration = Duration::from_secs(5);

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon of this node
    Serve(serve::Args),
    #[command(flatten)]
    Ask(Ask),
    /// Check documents and settings without a daemon
    Check {
        /// Files or directories of documents
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
    /// Print the JSON Schema of the Artifact document
    Schema,
    /// Print a completion script
    #[command(hide = true)]
    Completions {
        /// The shell that it is for
        shell: clap_complete::Shell,
    },
}

/// What a running node is asked.
#[derive(Debug, Subcommand)]
enum Ask {
    /// Put a version of an artifact into a directory
    Seed(Box<seed::Args>),
    /// Show what is on the node and how it stands
    Status(status::Args),
    /// List the versions of an artifact
    Versions(versions::Args),
    /// Hold an artifact at one version on this node
    Pin(pin::PinArgs),
    /// Follow what the document says again
    Unpin(pin::UnpinArgs),
    /// Ask the source now whether there is something newer
    Refresh(refresh::Args),
    /// Read versions again and compare every byte with their manifests
    Verify(verify::Args),
    /// Remove versions that retention lets go, and tell each version's fate
    Gc(gc::Args),
}

/// Form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Format {
    /// For people
    #[default]
    Table,
    /// For machines
    Json,
}

/// Reads the command line, does what it says, and tells how that went.
pub fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _armed = crate::fs::arm_fail_points();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(told) => {
            // Help and version too come this way; a closed pipe is no reason to fail.
            let _ = told.print();
            return if told.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    let mut out = Output::stdout();
    match run(cli, &mut out) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            report::tell(&failure);
            failure.exit().into()
        }
    }
}

fn run(cli: Cli, out: &mut Output) -> Result<Exit, Failure> {
    match cli.command {
        Command::Serve(args) => serve::run(args, out),
        Command::Ask(asked) => ask(&Client::new(cli.server, token::read(cli.token_file.as_deref())?), asked, out),
        Command::Check { paths } => Ok(if check::run(&paths, out)? { Exit::Done } else { Exit::Failed }),
        Command::Schema => Ok(schema::run(out).map(|()| Exit::Done)?),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "seedcache", &mut script);
            Ok(out.write_all(&script).map(|()| Exit::Done)?)
        }
    }
}

/// Asks a running node. One thread is enough for that, and starts fast.
fn ask(client: &Client, asked: Ask, out: &mut Output) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?;
    let leavings = seed::Leavings::default();
    let ended = runtime.block_on(async {
        let mut stop = stop::Stop::new().map_err(Failure::Runtime)?;
        tokio::select! {
            biased;
            answer = answer(client, asked, &leavings, out) => answer,
            exit = stop.asked() => Ok(exit),
        }
    });
    // Whoever still writes there has to end first; what else goes on is waited for by nobody, idle threads neither: that
    // takes longer than many an answer.
    runtime.shutdown_timeout(if leavings.are_none() { Duration::ZERO } else { TIDYING });
    leavings.remove();
    ended
}

async fn answer(
    client: &Client,
    asked: Ask,
    leavings: &seed::Leavings,
    out: &mut Output<impl Write>,
) -> Result<Exit, Failure> {
    match asked {
        Ask::Seed(args) => seed::run(*args, client, leavings, out).await,
        Ask::Status(args) => status::run(args, client, out).await,
        Ask::Versions(args) => versions::run(args, client, out).await,
        Ask::Pin(args) => pin::pin(args, client, out).await,
        Ask::Unpin(args) => pin::unpin(args, client, out).await,
        Ask::Refresh(args) => refresh::run(args, client, out).await,
        Ask::Verify(args) => verify::run(args, client, out).await,
        Ask::Gc(args) => gc::run(args, client, out).await,
    }
}

#[cfg(test)]
mod tests;
