//! `seedcache pin` and `seedcache unpin`: one version held on this node, and let go of; each says what that did.

use std::io::Write;
use std::time::Duration;

use super::Format;
use super::client::Client;
use super::exit::{Exit, Failure};
use super::follow::follow;
use super::human::plain;
use super::output::Output;
use super::wait;
use crate::intent::{ArtifactName, VersionName};
use crate::reconcile::{ArtifactState, PinAnswer};

/// Hold an artifact at one version on this node.
#[derive(Debug, clap::Args)]
pub(super) struct PinArgs {
    /// The artifact
    artifact: ArtifactName,
    /// The version; one that is not here is fetched first
    version: VersionName,
    /// Wait until it is current (at most this long, 10m when not said)
    #[arg(
        long,
        value_name = "DURATION",
        num_args = 0..=1,
        default_missing_value = wait::DEFAULT,
        value_parser = wait::limit
    )]
    wait: Option<Duration>,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Follow what the document says again.
#[derive(Debug, clap::Args)]
pub(super) struct UnpinArgs {
    /// The artifact
    artifact: ArtifactName,
    /// Wait until the version that the document follows is current (at most this long, 10m when not said)
    #[arg(
        long,
        value_name = "DURATION",
        num_args = 0..=1,
        default_missing_value = wait::DEFAULT,
        value_parser = wait::limit
    )]
    wait: Option<Duration>,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Pins.
pub(super) async fn pin(args: PinArgs, client: &Client, out: &mut Output<impl Write>) -> Result<Exit, Failure> {
    change(&args.artifact, Some(&args.version), args.wait, args.output, client, out).await
}

/// Takes the pin away.
pub(super) async fn unpin(args: UnpinArgs, client: &Client, out: &mut Output<impl Write>) -> Result<Exit, Failure> {
    change(&args.artifact, None, args.wait, args.output, client, out).await
}

async fn change(
    name: &ArtifactName,
    version: Option<&VersionName>,
    wait: Option<Duration>,
    output: Format,
    client: &Client,
    out: &mut Output<impl Write>,
) -> Result<Exit, Failure> {
    // Only to say what changed; whether it may be asked for is for the change itself to say.
    let before = client.artifact(name).await.ok();
    let asked = client.pin(name, version, wait);
    let answer = if wait.is_some() { follow(client, name, |_| None, asked).await? } else { asked.await? };
    match output {
        Format::Table => writeln!(out, "{}", outcome(version, before.as_ref(), &answer))?,
        Format::Json => writeln!(out, "{}", serde_json::to_string(&answer)?)?,
    }
    out.flush()?;
    Ok(Exit::Done)
}

/// What came of it, in one line.
fn outcome(version: Option<&VersionName>, before: Option<&ArtifactState>, answer: &PinAnswer) -> String {
    let PinAnswer { state, note } = answer;
    let name = &state.name;
    if let Some(note) = note {
        return format!("{name}: {}", plain(note));
    }
    let old = before.and_then(|before| before.current.as_ref());
    let switched = match (old, &state.current) {
        (Some(old), Some(new)) if old != new => format!("switched from {old} to {new}"),
        (None, Some(new)) => format!("switched to {new}"),
        (_, Some(same)) => format!("{same} was current already"),
        (_, None) => "no version is here yet".to_owned(),
    };
    match (version, &state.current) {
        (Some(version), Some(current)) if version == current => format!("{name}: pinned at {version}, {switched}"),
        (Some(version), current) => {
            let stays = match current {
                Some(current) => format!("{current} stays current until then"),
                None => "nothing is current until then".to_owned(),
            };
            format!("{name}: pinned at {version}, which is switched to once it is fetched; {stays}")
        }
        (None, _) => format!("{name}: unpinned, {switched}; the source is asked for what is newest"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::tests::artifact;

    #[test]
    fn one_line_says_what_happened() {
        let old = artifact(None);
        let v: fn(&str) -> VersionName = |name| name.parse().unwrap();
        let new = ArtifactState { current: Some(v("20260201T000000Z")), ..old.clone() };
        let none = ArtifactState { current: None, ..old.clone() };
        let told = |version: Option<&str>, before: &ArtifactState, after: &ArtifactState, note: Option<&str>| {
            let answer = PinAnswer { state: after.clone(), note: note.map(Into::into) };
            outcome(version.map(v).as_ref(), Some(before), &answer)
        };
        let (one, two) = (Some("20260101T000000Z"), Some("20260201T000000Z"));
        for (line, expected) in [
            (
                told(one, &new, &old, None),
                "pinned at 20260101T000000Z, switched from 20260201T000000Z to 20260101T000000Z",
            ),
            (told(one, &old, &old, None), "pinned at 20260101T000000Z, 20260101T000000Z was current already"),
            (
                told(two, &old, &old, None),
                "pinned at 20260201T000000Z, which is switched to once it is fetched; 20260101T000000Z stays current \
                 until then",
            ),
            (
                told(two, &none, &none, None),
                "pinned at 20260201T000000Z, which is switched to once it is fetched; nothing is current until then",
            ),
            (told(two, &old, &old, Some("the document pins")), "the document pins"),
            (
                told(None, &old, &new, None),
                "unpinned, switched from 20260101T000000Z to 20260201T000000Z; the source is asked for what is newest",
            ),
        ] {
            assert_eq!(line, format!("smartos-platform: {expected}"));
        }
    }

    #[test]
    fn the_json_is_the_artifacts_state_and_a_note() {
        let answer = PinAnswer { state: artifact(None), note: Some("why".into()) };
        let json = serde_json::to_value(&answer).unwrap();
        assert_eq!((&json["name"], &json["note"]), (&"smartos-platform".into(), &"why".into()));
        assert_eq!(serde_json::from_value::<PinAnswer>(json).unwrap(), answer);
    }
}
