//! The runner on a real store, with a file as its source.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::acquire::Fetcher;
use crate::intent::{ArtifactName, Digest, FetchSettings, Link, ScrubSettings, Swap, VersionWish, load_catalog};
use crate::seed::{SeedProgress, Seeder};
use crate::store::Store;

mod damage;

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

    async fn wait_for_use_of_all(&self) {
        self.reconciler.wait_for_use(&"thing".parse().unwrap(), LONG).await.unwrap();
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
async fn who_may_seed_declared_targets_only_has_them_as_the_document_says() {
    let declared = "  seeds: [{target: copied, link: copy, swap: exchange}, {target: open}]\n";
    let node = Running::start(declared, Running::fetcher());
    node.wait().await.unwrap();
    let pods = |target: &str| SeedAsk { declared_only: true, ..ask(target) };
    let seed = async |ask| node.reconciler.seed(ask, Arc::default()).await;
    for link in [None, Some(Link::Auto), Some(Link::Copy)] {
        let seeded = seed(SeedAsk { link, ..pods("copied") }).await.unwrap();
        assert_eq!(seeded.mode, crate::fs::LinkMode::Copy, "{link:?}");
    }
    let linked = SeedAsk { link: Some(Link::Hardlink), ..pods("copied") };
    assert!(matches!(seed(linked.clone()).await, Err(SeedAskError::OtherLink { .. })));
    let symlinked = SeedAsk { swap: Some(Swap::Symlink), ..pods("copied") };
    assert!(matches!(seed(symlinked).await, Err(SeedAskError::OtherSwap { .. })));
    let copies = std::fs::metadata(node.root.path().join("seeds/copied/bytes")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::nlink(&copies), 1);
    // What the document leaves open is the caller's to say, and all is an operator's.
    for ask in [SeedAsk { link: Some(Link::Hardlink), ..pods("open") }, SeedAsk { declared_only: false, ..linked }] {
        assert_eq!(seed(ask).await.unwrap().mode, crate::fs::LinkMode::Hardlink);
    }
    node.stop().await;
}

/// Waits until it is so.
async fn until(what: &str, so: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + LONG;
    while !so() {
        assert!(tokio::time::Instant::now() < deadline, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// It mounts: run as root.
#[tokio::test]
async fn a_declared_target_that_does_not_answer_keeps_no_other_from_being_followed_nor_seeds_from_being_noted() {
    let node = Running::start("  seeds: [{target: far/data}, {target: near/data}]\n", Running::fetcher());
    node.wait_for_use_of_all().await;
    let at = |name: &str| node.root.path().join(name);
    let far = crate::hung::Hung::at(&at("seeds/far"), Vec::new());
    far.hang(true);
    until("the target to be looked at", || far.waiting() > 0).await;
    crate::fs::Dir::open(&at("seeds/near")).unwrap().remove_tree(&"data".parse().unwrap()).unwrap();
    until("the other to be seeded again", || at("seeds/near/data").is_dir()).await;
    node.reconciler.seed(ask("by-hand"), Arc::default()).await.unwrap();
    let noted = || std::fs::read_to_string(at("store/seeds.json")).is_ok_and(|seeds| seeds.contains("by-hand"));
    until("it to be noted", noted).await;
    far.hang(false);
    node.stop().await;
    drop(far);
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

#[tokio::test]
async fn a_declared_target_that_failed_is_well_once_it_was_seeded_by_hand() {
    let root = tempfile::tempdir().unwrap();
    let in_the_way = root.path().join("seeds/pod/mine");
    std::fs::create_dir_all(in_the_way.parent().unwrap()).unwrap();
    std::fs::write(&in_the_way, "of another").unwrap();
    let store = Arc::new(Store::open(&root.path().join("store")).unwrap());
    let node = Running::start_on(root, store, "  seeds: [{target: pod, swap: exchange}]\n", Running::fetcher());
    node.wait().await.unwrap();
    let seed = || node.reconciler.state(&"thing".parse().unwrap()).unwrap().seeds.remove(0);
    until("it to fail", || seed().state == State::Failed).await;
    node.reconciler.seed(SeedAsk { force: true, ..ask("pod") }, Arc::default()).await.unwrap();
    assert_eq!(seed().state, State::Ready, "{:?}", seed());
    // As after a version that it could not be seeded with, and a pin back to this one.
    let fail = |holds: bool| {
        let mut world = node.reconciler.shared.world();
        let tracked = world.tracked.get_mut(&"thing".parse().unwrap()).unwrap();
        let facts = tracked.facts.seeds.get_mut(&"pod".parse().unwrap()).unwrap();
        (facts.error, facts.busy) = (Some("no room".into()), true);
        facts.holds = facts.holds.take().filter(|_| holds);
    };
    fail(true);
    assert_eq!(seed().state, State::Ready);
    fail(false);
    assert_eq!((seed().state, seed().reason), (State::Failed, Some("no room".into())));
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
async fn what_comes_of_a_step_that_was_given_up_ends_no_other() {
    let node = Running::start("", Running::fetcher());
    let (name, shared): (ArtifactName, _) = ("thing".parse().unwrap(), &node.reconciler.shared);
    let version = node.wait().await.unwrap().current.unwrap();
    let (head, artifact) =
        (shared.store.head(&name, &version).unwrap(), shared.world().catalog.artifacts[&name].clone());
    let location = crate::acquire::Location::recorded(&head.source_url).unwrap();
    let resolution = Box::new(crate::acquire::Resolution::recorded(&artifact, &head, location));
    let step = plan::Step::Acquire { artifact: name.clone(), wish: VersionWish::Latest, resolution };
    // Another is under way.
    let before = {
        let tracked = &mut *shared.world();
        let tracked = tracked.tracked.get_mut(&name).unwrap();
        tracked.begin(&step);
        tracked.answers
    };
    let given_up = CancellationToken::new();
    given_up.cancel();
    // Its turn comes as it is given up; by chance, either was seen first.
    for _ in 0..50 {
        shared.clone().carry_out(step.clone(), artifact.clone(), given_up.clone()).await;
    }
    {
        let world = shared.world();
        let tracked = &world.tracked[&name];
        assert_eq!((tracked.answers, tracked.facts.busy, tracked.running.is_some()), (before, true, true));
    }
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
