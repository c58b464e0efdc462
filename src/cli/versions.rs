//! `seedcache versions`: what the node holds of one artifact.

use std::io::Write;

use serde::Serialize;

use super::Format;
use super::client::Client;
use super::details::versions_table;
use super::exit::{Exit, Failure};
use super::output::Output;
use crate::intent::{ArtifactName, VersionName};
use crate::reconcile::VersionState;

/// List the versions of an artifact.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The artifact
    artifact: ArtifactName,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Serialize)]
struct Answer<'a> {
    artifact: &'a ArtifactName,
    current: Option<&'a VersionName>,
    versions: &'a [VersionState],
}

/// Lists them, newest first.
pub(super) async fn run(args: Args, client: &Client, out: &mut Output<impl Write>) -> Result<Exit, Failure> {
    let state = client.artifact(&args.artifact).await?;
    match args.output {
        Format::Table if state.versions.is_empty() => {
            writeln!(out, "{}: no version on this node yet", state.name)?;
        }
        Format::Table => out.write_all(versions_table(&state, out.width()).as_bytes())?,
        Format::Json => {
            let answer = Answer { artifact: &state.name, current: state.current.as_ref(), versions: &state.versions };
            writeln!(out, "{}", serde_json::to_string(&answer)?)?;
        }
    }
    out.flush()?;
    Ok(Exit::Done)
}
