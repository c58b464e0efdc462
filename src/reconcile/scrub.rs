//! The background check of what the node holds: every version against its manifest, one after the other on a thread of
//! its own, the least recently read first, at a bounded rate. Files whose states changed meanwhile come before them
//! ([`super::recheck`]). What is damaged goes the way of all damage ([`super::repair`]).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::recheck::Recheck;
use super::run::Shared;
use crate::intent::{ArtifactName, ScrubSettings, VersionName, error_chain};
use crate::store::{Inventory, ManifestHead, Pace, Report, StoreError, Version, next_due};

/// Looked at least this often for what is due: versions come and go.
const ROUND: Duration = Duration::from_secs(60);
/// Never sooner: a version that cannot be read must not be tried in a loop.
const PAUSE: Duration = Duration::from_millis(100);
/// What could not be read or be taken out of service has another turn after so long, and each time after twice as long, up to
/// `scrub.every`: it keeps no other from its own.
const LATER: Duration = Duration::from_secs(600);
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
        Scrub::new(ours, settings, stopped).run(&RefCell::new(Recheck::new()));
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

/// Versions that could not be checked: when they were tried last, and how often.
#[derive(Debug, Default)]
struct PutOff(BTreeMap<(ArtifactName, VersionName), (Duration, u32)>);

impl PutOff {
    fn note(&mut self, artifact: ArtifactName, version: VersionName, now: Duration) {
        let (at, times) = self.0.entry((artifact, version)).or_default();
        (*at, *times) = (now, times.saturating_add(1));
    }

    fn forget(&mut self, artifact: &ArtifactName, version: &VersionName) {
        self.0.remove(&(artifact.clone(), version.clone()));
    }

    fn retain(&mut self, inventory: &Inventory) {
        self.0.retain(|(artifact, version), _| {
            inventory.get(artifact).is_some_and(|holding| holding.versions.contains_key(version))
        });
    }

    /// Whether it is not to be tried yet.
    fn holds(&self, head: &ManifestHead, now: Duration, every: Duration) -> bool {
        let Some((at, times)) = self.0.get(&(head.artifact.clone(), head.version.clone())) else { return false };
        let wait = LATER.saturating_mul(1 << (times - 1).min(20)).min(every.max(LATER));
        now.saturating_sub(*at) < wait
    }
}

pub(super) struct Scrub {
    pub(super) shared: Arc<Shared>,
    settings: ScrubSettings,
    stopped: Receiver<()>,
    /// Of all that this thread reads.
    pace: RefCell<Pace>,
    began: Instant,
}

/// How the check of one version ended.
pub(super) enum Checked {
    Sound,
    Damaged,
    Stopped,
}

impl Scrub {
    fn new(shared: Arc<Shared>, settings: ScrubSettings, stopped: Receiver<()>) -> Self {
        let pace = RefCell::new(Pace::new(settings.bytes_per_second.0));
        Self { shared, settings, stopped, pace, began: Instant::now() }
    }

    fn run(&self, recheck: &RefCell<Recheck>) {
        let store = &self.shared.store;
        let mut scrubbed = store.scrubbed();
        let mut put_off = PutOff::default();
        let mut pause = Duration::ZERO;
        while self.idle(pause, recheck).is_continue() {
            let inventory = store.inventory();
            scrubbed.retain(&inventory);
            put_off.retain(&inventory);
            let now = self.began.elapsed();
            let is_put_off = |head: &ManifestHead| put_off.holds(head, now, self.settings.every.0);
            let Some((artifact, version, left)) =
                next_due(&inventory, is_put_off, &scrubbed, self.settings.every.0, Timestamp::now())
            else {
                pause = self.settings.every.0.clamp(PAUSE, ROUND);
                continue;
            };
            if !left.is_zero() {
                pause = left.clamp(PAUSE, ROUND);
                continue;
            }
            pause = PAUSE;
            match self.check(&artifact, &version, recheck) {
                Ok(Checked::Stopped) => break,
                Err(StoreError::NoVersion { .. }) => continue,
                Ok(Checked::Sound) => put_off.forget(&artifact, &version),
                // It may still be there.
                Ok(Checked::Damaged) => {
                    put_off.note(artifact, version, self.began.elapsed());
                    continue;
                }
                Err(error) => {
                    tracing::error!(%artifact, %version, error = error_chain(&error), "version cannot be scrubbed yet");
                    put_off.note(artifact, version, self.began.elapsed());
                    continue;
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

    /// Waits, and looks meanwhile for what is to be read before all else.
    fn idle(&self, pause: Duration, recheck: &RefCell<Recheck>) -> ControlFlow<()> {
        let began = Instant::now();
        loop {
            let left = pause.saturating_sub(began.elapsed());
            let look = recheck.borrow().left();
            self.wait(left.min(look))?;
            self.recheck(recheck)?;
            if left <= look {
                return ControlFlow::Continue(());
            }
        }
    }

    /// Counts bytes that were read, and waits until as many may have been.
    pub(super) fn pay(&self, bytes: u64) -> ControlFlow<()> {
        self.shared.counts.scrubbed.inc_by(bytes);
        let pause = self.pace.borrow_mut().after(bytes, self.began.elapsed());
        self.wait(pause)
    }

    fn check(
        &self,
        artifact: &ArtifactName,
        version: &VersionName,
        recheck: &RefCell<Recheck>,
    ) -> Result<Checked, StoreError> {
        let (store, counts) = (&self.shared.store, &self.shared.counts);
        let opened = store.open_version(artifact, version)?;
        let began = Instant::now();
        let checked = store.verify_while(&opened, |bytes| {
            self.pay(bytes)?;
            self.recheck(recheck)
        });
        let read = checked.as_ref().ok().and_then(|report| Some((report.as_ref()?.bytes, report.as_ref()?.entries)));
        let checked = self.judge(&opened, checked)?;
        if let (Checked::Sound, Some((bytes, entries))) = (&checked, read) {
            counts.scrubbed_versions.inc();
            tracing::debug!(%artifact, %version, bytes, entries,
                elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX), "version scrubbed");
        }
        Ok(checked)
    }

    /// Takes a version that was found damaged out of service.
    pub(super) fn judge(
        &self,
        version: &Version,
        checked: Result<Option<Report>, StoreError>,
    ) -> Result<Checked, StoreError> {
        let report = match checked {
            Ok(Some(report)) => report,
            Ok(None) => return Ok(Checked::Stopped),
            Err(error @ StoreError::Manifest { .. }) => {
                self.shared.take_out_sometime(version, "scrub", error_chain(&error));
                return Ok(Checked::Damaged);
            }
            Err(error) => return Err(error),
        };
        let Some(first) = report.damage.first() else { return Ok(Checked::Sound) };
        let what = format!("{} entries are damaged, the first {}: {}", report.damaged, first.path, first.what);
        self.shared.take_out_sometime(version, "scrub", what);
        Ok(Checked::Damaged)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_cannot_be_checked_is_tried_less_and_less_often() {
        let (head, every) = (ManifestHead::sample("os", "1"), LATER * 5);
        let mut put_off = PutOff::default();
        let mut now = Duration::from_secs(7);
        assert!(!put_off.holds(&head, now, every));
        for wait in [1, 2, 4, 5, 5] {
            put_off.note(head.artifact.clone(), head.version.clone(), now);
            now += LATER * wait;
            assert!(put_off.holds(&head, now - Duration::from_secs(1), every));
            assert!(!put_off.holds(&head, now, every), "after {wait}");
        }
        put_off.note(head.artifact.clone(), head.version.clone(), now);
        put_off.forget(&head.artifact, &head.version);
        assert!(!put_off.holds(&head, now, every));
        put_off.note(head.artifact.clone(), head.version.clone(), now);
        put_off.retain(&Inventory::new());
        assert!(!put_off.holds(&head, now, every), "it is gone");
    }
}
