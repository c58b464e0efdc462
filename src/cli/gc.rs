//! `seedcache gc`: has the node remove what it need not keep, and tells what becomes of each version.

use std::io::Write;

use super::Format;
use super::client::Client;
use super::exit::{Exit, Failure};
use super::human::{plain, size};
use super::output::Output;
use crate::reconcile::{Collected, FateState, Verdict};

/// Remove versions that retention lets go, and tell each version's fate.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only tell what would become of each version
    #[arg(long)]
    dry_run: bool,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Has it collected, and tells a line for each version.
pub(super) async fn run(args: Args, client: &Client, out: &mut Output<impl Write>) -> Result<Exit, Failure> {
    let collected = client.collect(args.dry_run).await?;
    match args.output {
        Format::Table => out.write_all(lines(&collected, args.dry_run).as_bytes())?,
        Format::Json => writeln!(out, "{}", serde_json::to_string(&collected)?)?,
    }
    out.flush()?;
    Ok(Exit::Done)
}

fn lines(collected: &Collected, dry_run: bool) -> String {
    let mut text: String = collected.fates.iter().map(line).collect();
    let verb = if dry_run { "would be freed" } else { "freed" };
    text += &format!("{} {verb}\n", size(collected.freed));
    text
}

fn line(fate: &FateState) -> String {
    let verdict = match fate.fate {
        Verdict::Kept => "kept",
        Verdict::Removed => "removed",
    };
    format!("{}@{}: {verdict}: {} ({})\n", fate.artifact, fate.version, plain(&fate.why), size(fate.bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_line_each_and_the_sum() {
        let fate = |version: &str, fate, why: &str| FateState {
            artifact: "app".parse().unwrap(),
            version: version.parse().unwrap(),
            fate,
            why: why.into(),
            bytes: 1_200_000,
        };
        let fates = vec![
            fate("v2", Verdict::Kept, "current, pinned"),
            fate("v1", Verdict::Removed, "4th newest, older than 48h"),
        ];
        let collected = Collected { fates, freed: 1_200_000 };
        let told = "app@v2: kept: current, pinned (1.2 MB)\napp@v1: removed: 4th newest, older than 48h (1.2 MB)\n";
        assert_eq!(lines(&collected, false), format!("{told}1.2 MB freed\n"));
        assert_eq!(lines(&collected, true), format!("{told}1.2 MB would be freed\n"));
    }
}
