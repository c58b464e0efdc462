//! The background check of what the node holds: every version against its manifest, one after the other on a thread of
//! its own, the least recently read first, at a bounded rate. What is damaged goes the way of all damage ([`super::repair`]).

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::run::Shared;
use crate::intent::{ArtifactName, ScrubSettings, VersionName, error_chain};
use crate::store::{Pace, StoreError, next_due};

/// Looked at least this often for what is due: versions come and go.
const ROUND: Duration = Duration::from_secs(60);
/// Never sooner: a version that cannot be read must not be tried in a loop.
const PAUSE: Duration = Duration::from_millis(100);
/// The lowest share of the processor.
const NICE: i32 = 19;

/// Scrubs until the node stops.
pub(super) async fn run(shared: Arc<Shared>, settings: ScrubSettings) {
    // Dropped when it is to end: that also wakes a thread that waits.
    let (stop, stopped) = sync_channel::<()>(0);
    let (ending, mut ended) = tokio::sync::oneshot::channel::<()>();
    let ours = shared.clone();
    let scrub = move || {
        let _ending = ending;
        step_back();
        Scrub { shared: ours, settings, stopped }.run();
    };
    let thread = match std::thread::Builder::new().name("scrub".into()).spawn(scrub) {
        Ok(thread) => thread,
        Err(error) => {
            tracing::error!(%error, "no thread for the scrub; versions are checked only when verified or seeded");
            return;
        }
    };
    // Nothing is ever sent: an error says that the thread is done.
    tokio::select! {
        () = shared.cancel.cancelled() => {
            drop(stop);
            let _ = ended.await;
        }
        _ = &mut ended => {}
    }
    // At once: it was the last thing that the thread did.
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Gives way to everyone else: the lowest share of the processor, and the disk (where its scheduler knows of classes)
/// only while nobody else wants it. Both are of the calling thread alone.
fn step_back() {
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "scrub runs at the usual priority");
    }
    let this_thread = ioprio::Target::Process(ioprio::Pid::from_raw(0));
    if let Err(error) = ioprio::set_priority(this_thread, ioprio::Priority::new(ioprio::Class::Idle)) {
        tracing::debug!(%error, "scrub reads at the usual priority");
    }
}

struct Scrub {
    shared: Arc<Shared>,
    settings: ScrubSettings,
    stopped: Receiver<()>,
}

/// How the check of one version ended.
enum Checked {
    Sound,
    Damaged,
    Stopped,
}

impl Scrub {
    fn run(&self) {
        let store = &self.shared.store;
        let mut scrubbed = store.scrubbed();
        let mut pause = Duration::ZERO;
        while self.wait(pause).is_continue() {
            let inventory = store.inventory();
            scrubbed.retain(&inventory);
            let Some((artifact, version, left)) =
                next_due(&inventory, &scrubbed, self.settings.every.0, Timestamp::now())
            else {
                pause = self.settings.every.0.clamp(PAUSE, ROUND);
                continue;
            };
            if !left.is_zero() {
                pause = left.clamp(PAUSE, ROUND);
                continue;
            }
            pause = PAUSE;
            match self.check(&artifact, &version) {
                Ok(Checked::Stopped) => break,
                Ok(Checked::Damaged) | Err(StoreError::NoVersion { .. }) => continue,
                Ok(Checked::Sound) => {}
                // Its turn comes again: others are not kept from theirs.
                Err(error) => {
                    tracing::error!(%artifact, %version, error = error_chain(&error), "version cannot be scrubbed");
                }
            }
            scrubbed.note(&artifact, &version, Timestamp::now());
            if let Err(error) = store.set_scrubbed(&scrubbed) {
                tracing::warn!(%error, "not noted which versions were scrubbed");
            }
        }
        if let Err(error) = store.remember_sound() {
            tracing::warn!(%error, "not noted which files are sound; they are read before they are seeded again");
        }
    }

    /// Waits; breaks when it is to end.
    fn wait(&self, pause: Duration) -> ControlFlow<()> {
        match self.stopped.recv_timeout(pause) {
            Err(RecvTimeoutError::Timeout) => ControlFlow::Continue(()),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => ControlFlow::Break(()),
        }
    }

    fn check(&self, artifact: &ArtifactName, version: &VersionName) -> Result<Checked, StoreError> {
        let (store, counts) = (&self.shared.store, &self.shared.counts);
        let opened = store.open_version(artifact, version)?;
        let began = Instant::now();
        let mut pace = Pace::new(self.settings.bytes_per_second.0);
        let checked = store.verify_while(&opened, |bytes| {
            counts.scrubbed.inc_by(bytes);
            self.wait(pace.after(bytes, began.elapsed()))
        });
        let report = match checked {
            Ok(Some(report)) => report,
            Ok(None) => return Ok(Checked::Stopped),
            Err(error @ StoreError::Manifest { .. }) => {
                self.shared.take_out_sometime(&opened, "scrub", error_chain(&error));
                return Ok(Checked::Damaged);
            }
            Err(error) => return Err(error),
        };
        let Some(first) = report.damage.first() else {
            counts.scrubbed_versions.inc();
            tracing::debug!(%artifact, %version, bytes = report.bytes, entries = report.entries,
                elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX), "version scrubbed");
            return Ok(Checked::Sound);
        };
        let what = format!("{} entries are damaged, the first {}: {}", report.damaged, first.path, first.what);
        self.shared.take_out_sometime(&opened, "scrub", what);
        Ok(Checked::Damaged)
    }
}
