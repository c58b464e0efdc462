//! `--follow`: the target is kept at the current version for as long as the command runs, as a sidecar does.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::sleep;

use super::Wish;
use crate::cli::client::Client;
use crate::cli::events::Change;
use crate::cli::exit::{Exit, Failure};
use crate::cli::stop::Stop;
use crate::cli::{report, wait};
use crate::intent::VersionName;

/// Between two tries to put another version there.
const AGAIN: Duration = Duration::from_secs(10);

/// Has `seed` put the current version into the target, then each that becomes current. Only the first must not fail:
/// later on, what stands there is whole, and goes on being so.
pub(super) async fn keep(
    client: &Client,
    wish: &Wish<'_>,
    mut seed: impl AsyncFnMut() -> Result<VersionName, Failure>,
) -> Result<Exit, Failure> {
    let mut held = seed().await?;
    let kept = async {
        loop {
            another(client, wish, &held).await;
            match seed().await {
                Ok(version) => held = version,
                Err(Failure::Print(error)) => return Err::<Infallible, _>(Failure::Print(error)),
                Err(failure) => {
                    report::tell(&failure);
                    sleep(wait::spread(AGAIN)).await;
                }
            }
        }
    };
    let mut stop = Stop::new().map_err(Failure::Runtime)?;
    tokio::select! {
        failed = kept => failed.map(|never| match never {}),
        // It did what it was there for.
        _ = stop.asked() => Ok(Exit::Done),
    }
}

/// Comes back when another version than `held` is current. One that was asked for by name never is.
async fn another(client: &Client, wish: &Wish<'_>, held: &VersionName) {
    if wish.version.is_some() {
        std::future::pending::<()>().await;
    }
    loop {
        if let Ok(mut events) = client.events(Some(wish.name)).await {
            while let Ok(Some(change)) = events.next().await {
                if let Change::Artifact(state) = change
                    && state.current.is_some_and(|current| current != *held)
                {
                    return;
                }
            }
        }
        // It restarts, or is not there for a while.
        sleep(wait::spread(wait::LONGEST_PAUSE)).await;
    }
}
