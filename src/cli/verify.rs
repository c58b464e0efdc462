//! `seedcache verify`: has versions read again and compared with their manifests, and mended where told to.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;

use super::Format;
use super::client::Client;
use super::exit::{Exit, Failure};
use super::follow::follow;
use super::human::{count, plain, size};
use super::named::Named;
use super::output::Output;
use super::wait;
use crate::intent::ArtifactName;
use crate::reconcile::VerifyResult;

/// Read versions again and compare every byte with their manifests.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// One artifact or version; all that is on the node when left out
    #[arg(value_name = "ARTIFACT[@VERSION]")]
    named: Option<Named>,
    /// Put damaged versions into quarantine, fetch them again, and wait for them
    #[arg(long)]
    repair: bool,
    /// How long to wait for each repair
    #[arg(
        long,
        value_name = "DURATION",
        requires = "repair",
        default_value = wait::DEFAULT,
        value_parser = wait::limit
    )]
    wait: Duration,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Serialize)]
struct Answer {
    results: Vec<VerifyResult>,
}

/// Verifies artifact after artifact; failed when damage was found and not repaired.
pub(super) async fn run(args: Args, client: &Client, out: &mut Output<impl Write>) -> Result<Exit, Failure> {
    let named = match &args.named {
        Some(named) => vec![named.clone()],
        None => {
            let states = client.artifacts().await?;
            states.into_iter().map(|state| Named { artifact: state.name, version: None }).collect()
        }
    };
    let mut answer = Answer { results: Vec::new() };
    let mut exit = Exit::Done;
    let mut unrepaired = None;
    for named in &named {
        let name = &named.artifact;
        let asked = client.verify(name, named.version.as_ref(), args.repair);
        let results = follow(client, name, |_| Some("verifying"), asked).await?;
        if args.output == Format::Table {
            out.write_all(lines(name, &results).as_bytes())?;
            out.flush()?;
        }
        for damaged in results.iter().filter(|result| result.report.damaged > 0) {
            if damaged.repairing {
                // One that does not come back keeps the others from being verified no longer than its wait.
                let failure = repaired(&args, client, damaged, out).await.err();
                unrepaired = unrepaired.or(failure);
            } else {
                exit = Exit::Failed;
            }
        }
        answer.results.extend(results);
    }
    if args.output == Format::Json {
        writeln!(out, "{}", serde_json::to_string(&answer)?)?;
    }
    out.flush()?;
    unrepaired.map_or(Ok(exit), Err)
}

/// Waits until a damaged version is back.
async fn repaired(
    args: &Args,
    client: &Client,
    damaged: &VerifyResult,
    out: &mut Output<impl Write>,
) -> Result<(), Failure> {
    let VerifyResult { artifact, version, .. } = damaged;
    follow(client, artifact, |_| None, client.wait(artifact, version, args.wait)).await?;
    if args.output == Format::Table {
        writeln!(out, "{artifact}@{version}: repaired")?;
        out.flush()?;
    }
    Ok(())
}

/// A line for each version, and below a damaged one what is wrong with it.
fn lines(name: &ArtifactName, results: &[VerifyResult]) -> String {
    if results.is_empty() {
        return format!("{name}: no version on this node\n");
    }
    results.iter().map(version_lines).collect()
}

fn version_lines(result: &VerifyResult) -> String {
    let VerifyResult { artifact, version, report, repairing } = result;
    let read = format!("{}, {} read", count(report.entries, "entry", "entries"), size(report.bytes));
    if report.damaged == 0 {
        return format!("{artifact}@{version}: sound, {read}\n");
    }
    let then = if *repairing { "; in quarantine, being fetched again" } else { "" };
    let mut text = format!("{artifact}@{version}: damaged, {} of {read}{then}\n", report.damaged);
    for damage in &report.damage {
        text += &format!("  {}: {}\n", damage.path, plain(&damage.what));
    }
    let unnamed = report.damaged.saturating_sub(report.damage.len() as u64);
    if unnamed > 0 {
        text += &format!("  and {unnamed} more\n");
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::tests::verified;

    #[test]
    fn a_line_each_and_the_damage_below() {
        let sound = verified(0);
        let mut damaged = verified(3);
        damaged.repairing = true;
        assert_eq!(
            lines(&sound.artifact.clone(), &[sound, damaged]),
            "smartos-platform@20260101T000000Z: sound, 14 entries, 358 MB read\n\
             smartos-platform@20260101T000000Z: damaged, 3 of 14 entries, 358 MB read; in quarantine, \
             being fetched again\n\
             \x20 platform/i86pc/kernel/amd64/unix: it is missing\n\
             \x20 and 2 more\n"
        );
        assert_eq!(lines(&"cni".parse().unwrap(), &[]), "cni: no version on this node\n");
    }
}
