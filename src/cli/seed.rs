//! `seedcache seed`: has a version put into a directory, and says in one line what that took.

mod activity;
mod current;
mod hand_over;
mod leavings;
mod or_fetch;
mod stream;

use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::Format;
use super::client::{Client, SeedQuestion};
use super::exit::{Exit, Failure};
use super::follow::watch;
use super::human::{count, duration, plain, size};
use super::named::Named;
use super::output::Output;
use super::server::Server;
use super::wait;
use crate::fs::LinkMode;
use crate::intent::{ArtifactName, Digest, Interval, Link, Swap, VersionName, VersionOrCurrent, error_chain};
use crate::seed::Seeded;
use activity::Activity;
pub(super) use hand_over::HandOverError;
pub(super) use leavings::Leavings;
pub(super) use or_fetch::FetchError;

/// Put a version of an artifact into a directory.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The artifact; without a version its current one
    #[arg(value_name = "ARTIFACT[@VERSION]")]
    named: Named,
    /// The directory; what seedcache put there before is mended, or replaced by the new version
    target: PathBuf,
    /// How files get there [default: as the document declares, else auto]
    #[arg(long)]
    link: Option<Link>,
    /// How a new version takes the old one's place [default: as the document declares, else as the target was seeded before,
    /// else exchange, or inPlace at a mount point]
    #[arg(long)]
    swap: Option<Swap>,
    /// How long to wait for a version that is not on the node yet, and for others who seed the same target
    #[arg(long, value_name = "DURATION", default_value = wait::DEFAULT, value_parser = wait::limit)]
    wait: Duration,
    /// Replace a directory that seedcache did not make
    #[arg(long)]
    force: bool,
    /// Stay, and put each version that becomes current there
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    fetch: or_fetch::OrFetch,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Why a target cannot be sent to the daemon.
#[derive(Debug, thiserror::Error)]
pub(super) enum TargetError {
    /// Its place is unknown.
    #[error("cannot tell which directory {} is", target.display())]
    Unknown {
        /// As given.
        target: PathBuf,
        /// Why.
        #[source]
        source: crate::fs::Error,
    },
    /// Not UTF-8.
    #[error("{} is not UTF-8, and a target must be; choose another directory", target.display())]
    NotText {
        /// As given.
        target: PathBuf,
    },
}

/// What is wished for, as all ways to it need it.
#[derive(Debug, Clone, Copy)]
struct Wish<'a> {
    name: &'a ArtifactName,
    version: Option<&'a VersionName>,
    /// The target as given.
    given: &'a Path,
    /// The target from the root of the file system.
    absolute: &'a str,
    link: Option<Link>,
    swap: Option<Swap>,
    force: bool,
    wait: Duration,
    /// How long a daemon that went away is missed; `None`: as long as anything is waited for.
    absence: Option<Duration>,
    /// How long one that is not there yet is waited for; `None`: not at all.
    arrival: Option<Duration>,
    leavings: &'a Leavings,
}

impl<'a> Wish<'a> {
    fn question(&self) -> SeedQuestion<'a> {
        let Self { version, link, swap, force, .. } = *self;
        SeedQuestion { target: self.absolute, version, link, swap, force, wait: Interval(self.wait) }
    }
}

/// Has it done and tells what was done.
pub(super) async fn run(
    args: Args,
    client: &Client,
    leavings: &Leavings,
    out: &mut Output<impl Write>,
) -> Result<Exit, Failure> {
    let target = absolute(&args.target)?;
    let plan = args.fetch.plan();
    let wish = Wish {
        name: &args.named.artifact,
        version: args.named.version.as_ref().and_then(VersionOrCurrent::name),
        given: &args.target,
        absolute: &target,
        link: args.link,
        swap: args.swap,
        force: args.force,
        wait: args.wait,
        absence: plan.as_ref().map(|plan| plan.daemon_timeout),
        arrival: args.fetch.daemon_timeout,
        leavings,
    };
    let once = async |out: &mut Output<_>| {
        let seeded = shown(client, &wish, plan.as_ref()).await?;
        tell(&seeded, &args, out).map(|()| seeded.version)
    };
    if args.follow {
        return current::keep(client, &wish, async || once(out).await).await;
    }
    once(out).await.map(|_| Exit::Done)
}

/// Seeds, and shows how far that is.
async fn shown(client: &Client, wish: &Wish<'_>, plan: Option<&or_fetch::Plan>) -> Result<Seeded, Failure> {
    let activity = Activity::new();
    let work = seed(client, wish, plan, &activity);
    watch(work, async |at| activity.look(client, wish.name, wish.version, at).await).await
}

/// Says what was done.
fn tell(seeded: &Seeded, args: &Args, out: &mut Output<impl Write>) -> Result<(), Failure> {
    match args.output {
        Format::Table => writeln!(out, "{}", line(seeded, &args.target))?,
        Format::Json => writeln!(out, "{}", serde_json::to_string(&Answer::from(seeded))?)?,
    }
    Ok(out.flush()?)
}

/// By the daemon, else, where that is wished, without it.
async fn seed(
    client: &Client,
    wish: &Wish<'_>,
    plan: Option<&or_fetch::Plan>,
    activity: &Activity,
) -> Result<Seeded, Failure> {
    // Only the daemon has what can be linked.
    let plan = plan.filter(|_| matches!(wish.link, None | Some(Link::Auto | Link::Copy)));
    match (by_daemon(client, wish, plan, activity).await, plan) {
        (Err(Failure::Client(error)), Some(plan)) if error.is_absence() => {
            or_fetch::fetch(plan, wish, error_chain(&error), activity).await
        }
        (answer, _) => answer,
    }
}

async fn by_daemon(
    client: &Client,
    wish: &Wish<'_>,
    plan: Option<&or_fetch::Plan>,
    activity: &Activity,
) -> Result<Seeded, Failure> {
    match (wish.arrival, plan) {
        (Some(limit), _) => client.arrival(limit).await?,
        (None, Some(plan)) => client.health(plan.daemon_timeout).await?,
        (None, None) => {}
    }
    match client.server() {
        Server::Unix(_) => hand_over::hand_over(client, wish, activity).await,
        Server::Http(_) => Ok(client.seed(wish.name, wish.question(), wish.wait).await?),
    }
}

/// From the root of the file system. What stands before a `..` is resolved, as the kernel would; nothing else is, since
/// the target may not be there yet.
fn absolute(target: &Path) -> Result<String, TargetError> {
    let unknown = |source| TargetError::Unknown { target: target.to_path_buf(), source };
    let components: Vec<Component<'_>> = target.components().collect();
    let start = components.iter().rposition(|c| *c == Component::ParentDir).map_or(0, |last| last + 1);
    let (resolved, rest) = components.split_at(start);
    let base = match resolved {
        [] => PathBuf::new(),
        _ => crate::fs::canonical(&resolved.iter().collect::<PathBuf>()).map_err(unknown)?,
    };
    let whole = base.join(rest.iter().collect::<PathBuf>());
    let whole = crate::fs::absolute(&whole).map_err(unknown)?.components().collect::<PathBuf>();
    whole.into_os_string().into_string().map_err(|_| TargetError::NotText { target: target.to_path_buf() })
}

/// What was done, with the target as it was given.
fn line(seeded: &Seeded, target: &Path) -> String {
    let Seeded { artifact, version, .. } = seeded;
    let mut line = format!(
        "{artifact}@{version} -> {}: {}, {}, {}, {}",
        plain(&target.to_string_lossy()),
        seeded.mode.words(),
        count(seeded.files, "file", "files"),
        size(seeded.bytes),
        duration(Duration::from_millis(seeded.elapsed_ms)),
    );
    if !seeded.changed {
        line += " (nothing to change)";
    }
    if let Some(reason) = &seeded.reason {
        line += &format!("; {}", plain(reason));
    }
    line
}

/// What was done, for machines: all fields are always there.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    artifact: &'a ArtifactName,
    version: &'a VersionName,
    digest: &'a Digest,
    target: &'a str,
    mode: LinkMode,
    reason: Option<&'a str>,
    files: u64,
    bytes: u64,
    changed: bool,
    elapsed_ms: u64,
}

impl<'a> From<&'a Seeded> for Answer<'a> {
    fn from(seeded: &'a Seeded) -> Self {
        Self {
            artifact: &seeded.artifact,
            version: &seeded.version,
            digest: &seeded.digest,
            target: &seeded.target,
            mode: seeded.mode,
            reason: seeded.reason.as_deref(),
            files: seeded.files,
            bytes: seeded.bytes,
            changed: seeded.changed,
            elapsed_ms: seeded.elapsed_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::tests::seeded;

    #[test]
    fn one_line_says_what_was_done() {
        let mut seeded = seeded();
        let told = "smartos-platform@20260101T000000Z -> smartos: hard link, 7 files, 358 MB, 4 ms";
        let line = |seeded: &Seeded| line(seeded, Path::new("smartos"));
        assert_eq!(line(&seeded), told);
        seeded.reason = Some("no reflink: the file system has none".to_owned());
        assert_eq!(line(&seeded), format!("{told}; no reflink: the file system has none"));
        seeded.changed = false;
        assert_eq!(line(&seeded), format!("{told} (nothing to change); no reflink: the file system has none"));
    }

    #[test]
    fn machines_get_every_field() {
        let json = serde_json::to_value(Answer::from(&seeded())).unwrap();
        let digest = seeded().digest;
        assert_eq!(
            json,
            serde_json::json!({
                "artifact": "smartos-platform", "version": "20260101T000000Z", "digest": digest,
                "target": "/data/smartos", "mode": "hardlink", "reason": null, "files": 7, "bytes": 358_400_000,
                "changed": true, "elapsedMs": 4,
            })
        );
    }

    #[test]
    fn a_target_is_sent_from_the_root() {
        let here = crate::fs::absolute(Path::new("x")).unwrap();
        let here = here.parent().unwrap();
        let sent = |target: &str| PathBuf::from(absolute(Path::new(target)).unwrap());
        assert_eq!(sent("data/smartos"), here.join("data/smartos"));
        assert_eq!(sent("./data//smartos/"), here.join("data/smartos"));
        assert_eq!(sent("/data/smartos"), Path::new("/data/smartos"));
        assert_eq!(sent("."), here);
        assert_eq!(sent("../not-there"), crate::fs::canonical(here.parent().unwrap()).unwrap().join("not-there"));
        assert!(matches!(absolute(Path::new("not-there/../x")), Err(TargetError::Unknown { .. })));
    }

    #[test]
    fn a_target_that_is_no_text_is_refused() {
        use std::os::unix::ffi::OsStrExt as _;
        let target = Path::new(std::ffi::OsStr::from_bytes(b"/data/\xff"));
        assert!(matches!(absolute(target), Err(TargetError::NotText { .. })));
    }
}
