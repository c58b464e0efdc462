//! What a seed is at, as it is shown while it lasts.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::acquire::Progress;
use crate::cli::client::Client;
use crate::cli::follow;
use crate::cli::progress::{self, Line, Meter};
use crate::intent::{ArtifactName, VersionName};
use crate::reconcile::{ArtifactState, ProgressState, SeedProgressState};
use crate::seed::SeedProgress;

/// What is being done.
#[derive(Debug)]
pub(super) enum Doing {
    /// The daemon is at it.
    Asking,
    /// Another client holds the target, or another request the directory.
    Waiting,
    /// The tree comes as a stream and is written here.
    Receiving(Arc<SeedProgress>),
    /// What is there is held against the manifest.
    Checking,
    /// No daemon answers: the archive is fetched here.
    Fetching(Arc<Progress>),
}

/// The same, as work and display share it.
#[derive(Debug)]
pub(super) struct Activity {
    doing: RefCell<Doing>,
    meter: RefCell<Meter>,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self { doing: RefCell::new(Doing::Asking), meter: RefCell::default() }
    }

    /// Something else is done from now on.
    pub(super) fn turn_to(&self, doing: Doing) {
        self.doing.replace(doing);
    }

    /// How far it is; `at` is the time since the first look.
    pub(super) async fn look(
        &self,
        client: &Client,
        name: &ArtifactName,
        version: Option<&VersionName>,
        at: Duration,
    ) -> Line {
        if let Some(line) = self.own(name, at) {
            return line;
        }
        let mut meter = self.meter.take();
        let doing = |state: &ArtifactState| is_here(state, version).then_some("seeding");
        let line = follow::look(client, name, &mut meter, at, doing).await;
        self.meter.replace(meter);
        line
    }

    /// What this process does by itself.
    fn own(&self, name: &ArtifactName, at: Duration) -> Option<Line> {
        match &*self.doing.borrow() {
            Doing::Asking => None,
            Doing::Waiting => Some(Line::plain(name, "waiting for another who works at the target")),
            Doing::Checking => Some(Line::plain(name, "checking what is there")),
            Doing::Receiving(made) => {
                let made = SeedProgressState {
                    entries: made.entries.load(Relaxed),
                    total_entries: made.total_entries.load(Relaxed),
                    bytes: made.bytes.load(Relaxed),
                };
                Some(progress::entries(name, "receiving", made))
            }
            Doing::Fetching(fetched) => {
                let now = fetched.snapshot();
                let mut meter = self.meter.borrow_mut();
                meter.add(at, now.bytes);
                let state = ProgressState {
                    phase: now.phase,
                    version: None,
                    bytes: now.bytes,
                    total_bytes: now.total_bytes,
                    unpacked_bytes: now.unpacked_bytes,
                    entries: now.entries,
                };
                Some(progress::fetching(name, &state, meter.rate()))
            }
        }
    }
}

/// Whether the version (the current one when none is named) is on the node, so that only seeding is left.
fn is_here(state: &ArtifactState, version: Option<&VersionName>) -> bool {
    match version {
        Some(version) => state.versions.iter().any(|held| held.version == *version),
        None => state.current.is_some(),
    }
}
