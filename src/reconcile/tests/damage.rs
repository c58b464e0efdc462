//! Damaged versions: had again, or let go.

use super::*;
use crate::fs::LinkMode;
use crate::intent::VersionName;
use crate::store::Version;

impl Running {
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
}

#[tokio::test]
async fn a_repaired_version_is_not_put_where_another_was_seeded_meanwhile() {
    let node = Running::start("", Running::fetcher());
    node.wait().await.unwrap();
    let linked = SeedAsk { link: Some(crate::intent::Link::Hardlink), ..ask("mine") };
    let seeded = node.reconciler.seed(linked, Arc::default()).await.unwrap();
    let (shared, name) = (&node.reconciler.shared, "thing".parse::<ArtifactName>().unwrap());
    let repaired = crate::store::ManifestHead::sample("thing", "repaired");
    shared.mend_target(&repaired, &"mine".parse().unwrap()).await.unwrap();
    let state = node.reconciler.state(&name).unwrap();
    assert_eq!(state.seeds[0].version, Some(seeded.version));
    node.stop().await;
}

#[tokio::test]
async fn a_damaged_version_does_not_come_back_with_other_bytes() {
    let node = Running::start("  version: one\n", Running::fetcher());
    let (name, version) = ("thing".parse().unwrap(), node.wait().await.unwrap().current.unwrap());
    let shared = &node.reconciler.shared;
    let opened = shared.store.open_version(&name, &version).unwrap();
    let source = node.root.path().join("config/bytes");
    std::fs::write(&source, "other bytes").unwrap();
    assert!(shared.take_out(&opened, "verify", "bad").unwrap());
    // The repair, and who follows the source.
    let failed = || node.reconciler.state(&name).is_some_and(|state| state.failures > 0);
    until("both to fail", || failed() && !shared.world().repairs.is_first_try(&name, &version)).await;
    assert!(shared.store.head(&name, &version).is_none());
    let state = node.reconciler.state(&name).unwrap();
    assert!(state.last_error.as_ref().unwrap().contains("changes its bytes"), "{state:?}");
    std::fs::write(&source, "bytes").unwrap();
    let again = node.reconciler.refresh_and_wait(&name, LONG).await.unwrap();
    assert_eq!(again.versions[0].digest, Digest::sha256(b"bytes"));
    node.stop().await;
}

#[tokio::test]
async fn what_was_linked_while_the_version_was_had_again_is_linked_anew() {
    let node = Running::start("", Running::fetcher());
    let (name, version) = ("thing".parse().unwrap(), node.wait().await.unwrap().current.unwrap());
    let shared = &node.reconciler.shared;
    let opened = shared.store.open_version(&name, &version).unwrap();
    assert!(shared.had_anew(&opened, LinkMode::Hardlink).unwrap().is_none());
    assert!(shared.take_out(&opened, "verify", "bad").unwrap());
    node.reconciler.wait_for_repair(&name, &version, LONG).await.unwrap();
    let anew = shared.had_anew(&opened, LinkMode::Hardlink).unwrap().unwrap();
    let inode = |version: &Version| version.tree().stat_self().unwrap().stamp.ino;
    assert_ne!(inode(&anew), inode(&opened));
    assert!(shared.had_anew(&opened, LinkMode::Reflink).unwrap().is_none(), "those have bytes of their own");
    assert!(shared.had_anew(&anew, LinkMode::Hardlink).unwrap().is_none());
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
        crate::acquire::Resolution::recorded(&artifact, &head, url)
    });
    for _ in 0..2 {
        let mut turn = shared.turn(&name).await;
        let made = shared.fetch_and_publish(&artifact, &wish, &resolution, Some(&head), &mut turn, &node.cancel).await;
        made.unwrap();
        damage();
    }
    // The first of the three, which is found to be over only now.
    shared.note_repaired(&head).unwrap();
    assert_eq!((shared.counts.repaired.get(), shared.store.pending_repairs().len()), (0, 1));
    let mut turn = shared.turn(&name).await;
    shared.fetch_and_publish(&artifact, &wish, &resolution, Some(&head), &mut turn, &node.cancel).await.unwrap();
    shared.note_repaired(&head).unwrap();
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
