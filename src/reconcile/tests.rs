//! The runner on a real store, with a file as its source.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::acquire::Fetcher;
use crate::intent::{ArtifactName, Digest, FetchSettings, ScrubSettings, VersionName, VersionWish, load_catalog};
use crate::seed::{SeedProgress, Seeder};
use crate::store::Store;

const LONG: Duration = Duration::from_secs(60);

struct Running {
    root: tempfile::TempDir,
    reconciler: Reconciler,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Running {
    fn fetcher() -> Fetcher {
        Fetcher::new(&FetchSettings::default()).unwrap()
    }

    /// A node with the artifact `thing`, a file; `spec` is what its document says besides.
    fn start(spec: &str, fetcher: Fetcher) -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&root.path().join("store")).unwrap());
        Self::start_on(root, store, spec, fetcher)
    }

    fn start_on(root: tempfile::TempDir, store: Arc<Store>, spec: &str, fetcher: Fetcher) -> Self {
        Self::start_within(None, root, store, spec, fetcher)
    }

    fn start_within(
        max_bytes: Option<u64>,
        root: tempfile::TempDir,
        store: Arc<Store>,
        spec: &str,
        fetcher: Fetcher,
    ) -> Self {
        let at = |name: &str| root.path().join(name);
        std::fs::create_dir(at("config")).unwrap();
        std::fs::write(at("config/bytes"), "bytes").unwrap();
        std::fs::write(at("config/thing.yaml"), document(spec)).unwrap();
        let seeder = Arc::new(Seeder::open(&at("seeds"), store.clone()).unwrap());
        let catalog = load_catalog(&at("config")).unwrap();
        assert!(catalog.refused.is_empty(), "{:?}", catalog.refused);
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let limits = crate::store::Limits { max_bytes, min_free: crate::intent::MinFree::Bytes(0) };
        let (records, scrub, repairs) = (vec![], ScrubSettings::default(), vec![]);
        let filled = vec![];
        let renderer = crate::seed::Renderer::new("node".into(), Default::default());
        let parts = Parts {
            store,
            fetcher,
            seeder,
            renderer,
            catalog,
            records,
            filled,
            concurrency: 1,
            limits,
            scrub,
            repairs,
        };
        let reconciler = Reconciler::start(parts, &Vital::new(tasks.clone()), cancel.clone());
        Self { root, reconciler, tasks, cancel }
    }

    async fn wait(&self) -> Result<ArtifactState, WaitError> {
        self.reconciler.wait(&"thing".parse().unwrap(), None, LONG).await
    }

    /// A node with a version that is leased by `job` and damaged, and whose source has another one now, which is current.
    async fn with_damaged(max_bytes: Option<u64>, spec: &str, bytes: usize) -> (Self, VersionName) {
        let root = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&root.path().join("store")).unwrap());
        let node = Self::start_within(max_bytes, root, store, spec, Self::fetcher());
        let source = node.root.path().join("config/bytes");
        std::fs::write(&source, vec![7; bytes]).unwrap();
        let name = "thing".parse().unwrap();
        let damaged = node.reconciler.refresh_and_wait(&name, LONG).await.unwrap().current.unwrap();
        node.reconciler.lease(&name, Some(damaged.clone()), &"job".parse().unwrap(), LONG).await.unwrap();
        std::fs::write(&source, "other bytes").unwrap();
        let current = node.reconciler.refresh_and_wait(&name, LONG).await.unwrap().current;
        assert_ne!(current.as_ref(), Some(&damaged));
        let opened = node.reconciler.shared.store.open_version(&name, &damaged).unwrap();
        assert!(node.reconciler.shared.take_out(&opened, "verify", "bad").unwrap());
        node.reconciler.wait_for_repair(&name, &damaged, LONG).await.unwrap();
        (node, damaged)
    }

    fn is_to_be_repaired(&self, version: &VersionName) -> bool {
        let shared = &self.reconciler.shared;
        let holds = shared.world().repairs.holds(&"thing".parse().unwrap(), version);
        assert_eq!(holds, shared.store.pending_repairs().iter().any(|head| head.version == *version));
        holds
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn document(spec: &str) -> String {
    format!(
        "apiVersion: seedcache.dev/v1alpha1\nkind: Artifact\nmetadata: {{name: thing}}\n\
         spec:\n  source: {{file: {{path: bytes}}}}\n  unpack: {{format: none}}\n{spec}"
    )
}

fn ask(target: &str) -> SeedAsk {
    SeedAsk {
        parent: None,
        artifact: "thing".parse().unwrap(),
        version: None,
        target: target.into(),
        link: None,
        swap: None,
        force: false,
        wait: Duration::ZERO,
        declared_only: false,
    }
}

#[tokio::test]
async fn a_step_that_panics_counts_as_failed_and_is_tried_again() {
    let node = Running::start("", Fetcher::that_panics());
    let Err(WaitError::Failed { state }) = node.wait().await else { panic!("no bytes can have come") };
    assert_eq!((state.state, state.failures), (State::Failed, 1));
    assert!(state.last_error.unwrap().contains("defect"));
    assert!(state.next_try.is_some(), "it is not busy any more");
    node.stop().await;
}

#[tokio::test]
async fn a_seed_is_finished_and_noted_when_whoever_asked_goes_away() {
    let node = Running::start("", Running::fetcher());
    node.wait().await.unwrap();
    {
        let seeding = node.reconciler.seed(ask("mine"), Arc::new(SeedProgress::default()));
        tokio::pin!(seeding);
        // Polled once, so that it is begun, and dropped; on a quick disk it may be over by then.
        let _ = futures_util::poll!(&mut seeding);
    }
    node.cancel.cancel();
    node.tasks.close();
    node.tasks.wait().await;
    let seeds = node.reconciler.state(&"thing".parse().unwrap()).unwrap().seeds;
    assert_eq!(seeds.iter().map(|seed| &seed.target[..]).collect::<Vec<_>>(), ["mine"]);
}

#[tokio::test]
async fn who_asks_during_a_repair_is_answered_after_it() {
    let node = Running::start("", Running::fetcher());
    node.wait().await.unwrap();
    let (shared, name) = (&node.reconciler.shared, "thing".parse::<ArtifactName>().unwrap());
    let set_busy = |busy| {
        shared.world().tracked.get_mut(&name).unwrap().facts.busy = busy;
        shared.changed();
    };
    set_busy(true);
    {
        let asking = node.reconciler.refresh_and_wait(&name, LONG);
        tokio::pin!(asking);
        assert!(futures_util::poll!(&mut asking).is_pending());
        // It ends, and is no answer of the source.
        set_busy(false);
        asking.await.unwrap();
    }
    node.stop().await;
}

#[tokio::test]
async fn who_asks_is_answered_by_the_document_as_it_is_by_then() {
    for spec in ["  refresh: 2h\n", "  pin: VERSION\n"] {
        let node = Running::start("", Running::fetcher());
        let version = node.wait().await.unwrap().current.unwrap();
        let name = "thing".parse::<ArtifactName>().unwrap();
        {
            let asking = node.reconciler.refresh_and_wait(&name, LONG);
            tokio::pin!(asking);
            assert!(futures_util::poll!(&mut asking).is_pending());
            let config = node.root.path().join("config");
            std::fs::write(config.join("thing.yaml"), document(&spec.replace("VERSION", version.as_str()))).unwrap();
            assert!(node.reconciler.set_catalog(load_catalog(&config).unwrap()));
            assert_eq!(asking.await.unwrap().current, Some(version), "{spec}");
        }
        node.stop().await;
    }
}

#[tokio::test]
async fn a_repaired_version_is_not_put_where_another_was_seeded_meanwhile() {
    let node = Running::start("", Running::fetcher());
    node.wait().await.unwrap();
    let linked = SeedAsk { link: Some(crate::intent::Link::Hardlink), ..ask("mine") };
    let seeded = node.reconciler.seed(linked, Arc::default()).await.unwrap();
    let (shared, name) = (&node.reconciler.shared, "thing".parse::<ArtifactName>().unwrap());
    let artifact = shared.world().catalog.artifacts[&name].clone();
    let repaired = crate::store::ManifestHead::sample("thing", "repaired");
    shared.mend_seed(&artifact, &repaired, &"mine".parse().unwrap()).await.unwrap();
    let state = node.reconciler.state(&name).unwrap();
    assert_eq!(state.seeds[0].version, Some(seeded.version));
    node.stop().await;
}

#[tokio::test]
async fn bad_bytes_are_told_of_also_where_they_cannot_be_put_aside() {
    let root = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&root.path().join("store")).unwrap());
    std::fs::write(root.path().join("store/quarantine/thing"), "in the way").unwrap();
    let spec = format!("  sha256: {}\n", Digest::sha256(b"other bytes").hex());
    let node = Running::start_on(root, store, &spec, Running::fetcher());
    let Err(WaitError::Failed { state }) = node.wait().await else { panic!("the bytes are wrong") };
    let told = state.last_error.unwrap();
    assert!(told.contains("have the digest"), "{told}");
    assert_eq!(std::fs::read_dir(staged(&node.root)).unwrap().count(), 0);
    node.stop().await;
}

fn staged(root: &tempfile::TempDir) -> std::path::PathBuf {
    Path::new(root.path()).join("store/staging/thing")
}

#[tokio::test]
async fn what_came_while_one_waited_for_the_turn_is_not_fetched_again() {
    let node = Running::start("", Running::fetcher());
    let (name, shared): (ArtifactName, _) = ("thing".parse().unwrap(), &node.reconciler.shared);
    // No task has run yet. As an acquisition that its document's change gave up while it was publishing:
    let mut turn = shared.turn(&name).await;
    let pending = || shared.world().tracked[&name].facts.pending.clone();
    let look = |there: bool| if there { wait::Look::Done } else { wait::Look::NotYet };
    node.reconciler.wait_until(&name, LONG, |_| look(pending().is_some())).await.unwrap();
    let ((wish, resolution), artifact) = (pending().unwrap(), shared.world().catalog.artifacts[&name].clone());
    shared.fetch_and_publish(&artifact, &wish, &resolution, None, &mut turn, &node.cancel).await.unwrap();
    std::fs::remove_file(node.root.path().join("config/bytes")).unwrap();
    drop(turn);
    node.reconciler.wait_until(&name, LONG, |_| look(shared.world().tracked[&name].answers > 0)).await.unwrap();
    let state = node.wait().await.unwrap();
    assert_eq!((state.failures, state.last_error, state.versions.len()), (0, None, 1));
    node.stop().await;
}

#[tokio::test]
async fn nobody_waits_for_what_no_document_declares_any_more() {
    let node = Running::start("", Running::fetcher());
    node.wait().await.unwrap();
    std::fs::remove_file(node.root.path().join("config/thing.yaml")).unwrap();
    assert!(node.reconciler.set_catalog(load_catalog(&node.root.path().join("config")).unwrap()));
    let (name, version) = ("thing".parse().unwrap(), "none".parse().unwrap());
    let waited = node.reconciler.wait(&name, Some(&version), LONG).await;
    assert!(matches!(waited, Err(WaitError::Failed { .. })), "{waited:?}");
    assert!(node.wait().await.is_ok(), "what is here is here");
    node.stop().await;
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_pin_that_is_taken_back_is_nobody_elses() {
    use std::sync::mpsc::sync_channel;

    let node = Running::start("", Running::fetcher());
    let (name, version) = ("thing".parse().unwrap(), node.wait().await.unwrap().current.unwrap());
    std::fs::remove_file(node.root.path().join("config/thing.yaml")).unwrap();
    assert!(node.reconciler.set_catalog(load_catalog(&node.root.path().join("config")).unwrap()));
    let (shared, current) = (&node.reconciler.shared, node.root.path().join("store/current/thing"));
    let (first_is_there, first) = sync_channel(1);
    let (go_on, stopped) = sync_channel(1);
    let stopped = std::sync::Mutex::new(stopped);
    // A link cannot take the place of a directory.
    let stop = move || match std::thread::current().name() {
        Some("first pin") => {
            std::fs::remove_file(&current).unwrap();
            std::fs::create_dir_all(current.join("in the way")).unwrap();
            first_is_there.send(()).unwrap();
            stopped.lock().unwrap().recv_timeout(LONG).unwrap();
        }
        Some("second pin") => std::fs::remove_dir_all(&current).unwrap(),
        _ => {}
    };
    fail::cfg_callback("store.current.before-switch", stop).unwrap();
    std::thread::scope(|scope| {
        let pin = |called: &str| {
            let (name, version) = (&name, &version);
            let thread = std::thread::Builder::new().name(called.into());
            thread.spawn_scoped(scope, move || shared.pin(name, version, true)).unwrap()
        };
        let one = pin("first pin");
        first.recv_timeout(LONG).unwrap();
        let (tell, told) = sync_channel(1);
        let other = pin("second pin");
        scope.spawn(move || tell.send(other.join().unwrap()));
        told.recv_timeout(Duration::from_millis(200)).unwrap_err();
        go_on.send(()).unwrap();
        one.join().unwrap().unwrap_err();
        assert!(told.recv_timeout(LONG).unwrap().unwrap());
    });
    fail::remove("store.current.before-switch");
    assert_eq!(shared.store.pin_of(&name), Some(version));
    node.stop().await;
}

#[tokio::test]
async fn a_version_whose_manifest_is_damaged_is_repaired_too() {
    let node = Running::start("", Running::fetcher());
    let (name, version) = ("thing".parse().unwrap(), node.wait().await.unwrap().current.unwrap());
    let manifest = node.root.path().join(format!("store/versions/thing/{version}/manifest.json"));
    std::fs::remove_file(&manifest).unwrap();
    std::fs::write(&manifest, "no manifest").unwrap();
    node.reconciler.verify(&name, None, false).await.unwrap_err();
    let found = node.reconciler.verify(&name, None, true).await.unwrap();
    assert_eq!((found[0].repairing, found[0].report.damaged), (true, 1));
    node.reconciler.wait_for_repair(&name, &version, LONG).await.unwrap();
    assert_eq!(node.reconciler.verify(&name, None, false).await.unwrap()[0].report.damaged, 0);
    node.stop().await;
}

#[tokio::test]
async fn the_end_of_a_repair_leaves_the_next_one_to_be_done() {
    let node = Running::start("", Running::fetcher());
    let (name, version) = ("thing".parse().unwrap(), node.wait().await.unwrap().current.unwrap());
    let shared = &node.reconciler.shared;
    let head = shared.store.head(&name, &version).unwrap();
    // Nothing is done for it by itself.
    shared.world().tracked.get_mut(&name).unwrap().facts.busy = true;
    let damage = || {
        let opened = shared.store.open_version(&name, &version).unwrap();
        assert!(shared.take_out(&opened, "verify", "bad").unwrap());
    };
    damage();
    let artifact = shared.world().catalog.artifacts[&name].clone();
    let (wish, resolution) = (VersionWish::Exact(version.clone()), {
        let url = crate::acquire::Location::recorded(&head.source_url).unwrap();
        crate::acquire::Resolution::recorded(&head, url)
    });
    for _ in 0..2 {
        let mut turn = shared.turn(&name).await;
        let made = shared.fetch_and_publish(&artifact, &wish, &resolution, Some(&head), &mut turn, &node.cancel).await;
        made.unwrap();
        damage();
    }
    // The first of the three, which is found to be over only now.
    shared.note_repaired(&head);
    assert_eq!((shared.counts.repaired.get(), shared.store.pending_repairs().len()), (0, 1));
    let mut turn = shared.turn(&name).await;
    shared.fetch_and_publish(&artifact, &wish, &resolution, Some(&head), &mut turn, &node.cancel).await.unwrap();
    shared.note_repaired(&head);
    assert!(shared.world().repairs.holds(&name, &version), "here again, which another repair has to find");
    assert_eq!(shared.store.pending_repairs().len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn a_damaged_version_that_nobody_wants_any_more_is_not_had_again() {
    let (node, version) = Running::with_damaged(None, "  retain: {versions: 1, for: 0s}\n", 1000).await;
    let name = "thing".parse().unwrap();
    node.reconciler.collect(false).await.unwrap();
    assert!(node.is_to_be_repaired(&version), "somebody has a lease on it");
    assert!(node.reconciler.state(&name).unwrap().last_error.is_some());
    node.reconciler.drop_lease(&name, &"job".parse().unwrap()).await.unwrap();
    node.reconciler.collect(true).await.unwrap();
    node.reconciler.collect(false).await.unwrap();
    assert!(!node.is_to_be_repaired(&version));
    let state = node.reconciler.state(&name).unwrap();
    assert_eq!((state.last_error, state.versions.len()), (None, 1));
    assert_ne!(node.reconciler.shared.store.quarantined_spare(), 0, "it may be looked at for a week");
    node.stop().await;
}

#[tokio::test]
async fn a_damaged_version_is_removed_on_demand() {
    let (node, version) = Running::with_damaged(None, "", 1000).await;
    let name = "thing".parse().unwrap();
    let removed = node.reconciler.remove_version(&name, &version, false).await;
    assert!(matches!(&removed, Err(RemoveError::Claimed { why, .. }) if why.contains("job")), "{removed:?}");
    assert!(node.is_to_be_repaired(&version));
    let removed = node.reconciler.remove_version(&name, &version, true).await.unwrap();
    assert_eq!((removed.fate, removed.version == version), (Verdict::Removed, true));
    assert!(removed.bytes >= 1000, "{}", removed.bytes);
    assert!(!node.is_to_be_repaired(&version));
    let again = node.reconciler.remove_version(&name, &version, true).await;
    assert!(matches!(again, Err(RemoveError::Store(crate::store::StoreError::NoVersion { .. }))), "{again:?}");
    node.stop().await;
}

#[tokio::test]
async fn a_damaged_version_that_is_kept_only_makes_room() {
    const MIB: usize = 1 << 20;
    let (node, version) = Running::with_damaged(Some(10 * MIB as u64), "", 4 * MIB).await;
    let shared = &node.reconciler.shared;
    let ask = || {
        let shared = shared.clone();
        tokio::task::spawn_blocking(move || {
            shared.promise(&"other".parse().unwrap(), 8 * MIB as u64, crate::store::Taken::default())
        })
    };
    ask().await.unwrap().unwrap_err();
    assert!(node.is_to_be_repaired(&version), "somebody has a lease on it");
    node.reconciler.drop_lease(&"thing".parse().unwrap(), &"job".parse().unwrap()).await.unwrap();
    node.reconciler.collect(false).await.unwrap();
    assert!(node.is_to_be_repaired(&version), "there is room, and it is kept");
    ask().await.unwrap().unwrap();
    assert!(!node.is_to_be_repaired(&version));
    assert_eq!(shared.store.quarantined(), 0);
    node.stop().await;
}

#[tokio::test]
async fn what_cannot_be_removed_keeps_nothing_else_here() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join("store").join(name);
    drop(Store::open(&at("")).unwrap());
    let make = |name: &str| {
        std::fs::create_dir(at(name)).unwrap();
        std::fs::write(at(name).join("file"), name).unwrap();
    };
    ["staging/.drain-old", "staging/gone-1", "staging/gone-2", "staging/gone-3"].iter().for_each(|name| make(name));
    let store = Arc::new(Store::open(&at("")).unwrap());
    let fixed = ["staging/.drain-old", "staging/gone-2"].map(|name| crate::fs::Immutable::new(&at(name)));
    let at = |name: &str| store.root().path().join(name);
    let node = Running::start_on(root, store.clone(), "", Running::fetcher());
    node.wait().await.unwrap();
    node.reconciler.collect(false).await.unwrap_err();
    let there = |name: &str| at(name).exists();
    assert_eq!(["staging/gone-1", "staging/gone-2", "staging/gone-3"].map(there), [false, true, false]);
    drop(fixed);
    node.reconciler.collect(false).await.unwrap();
    assert!(!there("staging/gone-2"));
    node.stop().await;
}
