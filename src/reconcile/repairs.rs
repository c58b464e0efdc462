//! Which damaged versions are to be had again, and when each is tried. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::plan::{Moment, Step};
use crate::intent::{ArtifactName, VersionName};
use crate::store::ManifestHead;

/// Versions to be had again.
#[derive(Debug, Default)]
pub(super) struct Repairs(BTreeMap<ArtifactName, BTreeMap<VersionName, Repair>>);

#[derive(Debug, Clone)]
pub(super) struct Repair {
    head: Arc<ManifestHead>,
    failures: u32,
    next_try: Option<Moment>,
    /// Why the last try failed, at the version or at mending.
    error: Option<String>,
    /// The version is on the node again, and what is left is to mend what is held of it.
    is_here: bool,
}

impl Repairs {
    pub(super) fn of(pending: Vec<ManifestHead>) -> Self {
        let mut repairs = Self::default();
        pending.into_iter().for_each(|head| repairs.add(Arc::new(head)));
        repairs
    }

    pub(super) fn add(&mut self, head: Arc<ManifestHead>) {
        let repair = Repair { head: head.clone(), failures: 0, next_try: None, error: None, is_here: false };
        self.0.entry(head.artifact.clone()).or_default().insert(head.version.clone(), repair);
    }

    /// Artifacts of which there are any.
    pub(super) fn artifacts(&self) -> impl Iterator<Item = &ArtifactName> {
        self.0.keys()
    }

    /// What is to be had again of an artifact.
    pub(super) fn heads(&self, name: &ArtifactName) -> impl Iterator<Item = &Arc<ManifestHead>> {
        self.of_artifact(name).map(|repair| &repair.head)
    }

    /// What this version was, where it is to be had again.
    pub(super) fn head(&self, name: &ArtifactName, version: &VersionName) -> Option<Arc<ManifestHead>> {
        Some(self.0.get(name)?.get(version)?.head.clone())
    }

    /// The one of this very version: what was published anew since, and found damaged too, is another.
    pub(super) fn is_of(&self, head: &Arc<ManifestHead>) -> bool {
        let repair = self.0.get(&head.artifact).and_then(|of| of.get(&head.version));
        repair.is_some_and(|repair| Arc::ptr_eq(&repair.head, head))
    }

    pub(super) fn remove(&mut self, head: &Arc<ManifestHead>) {
        drop(self.take(head));
    }

    /// The same, to be put back as it was.
    pub(super) fn take(&mut self, head: &Arc<ManifestHead>) -> Option<Repair> {
        if !self.is_of(head) {
            return None;
        }
        let of = self.0.get_mut(&head.artifact)?;
        let taken = of.remove(&head.version);
        if of.is_empty() {
            self.0.remove(&head.artifact);
        }
        taken
    }

    /// Unless the version was found damaged anew meanwhile.
    pub(super) fn put_back(&mut self, repair: Repair) {
        let head = &repair.head;
        self.0.entry(head.artifact.clone()).or_default().entry(head.version.clone()).or_insert(repair);
    }

    /// No step is needed for it any more, or one is again.
    pub(super) fn set_here(&mut self, head: &Arc<ManifestHead>, is_here: bool) {
        let Some(repair) = self.of_head(head) else { return };
        repair.is_here = is_here;
        repair.error = None;
    }

    /// The version is here, but not all that was made of it is mended.
    pub(super) fn not_mended(&mut self, head: &Arc<ManifestHead>, error: String) {
        if let Some(repair) = self.of_head(head) {
            repair.error = Some(error);
        }
    }

    /// A try failed, and is made again. Whether the version was here already.
    pub(super) fn failed(
        &mut self,
        head: &Arc<ManifestHead>,
        error: String,
        next_try: impl FnOnce(u32) -> Moment,
    ) -> bool {
        let Some(repair) = self.of_head(head) else { return false };
        repair.failures = repair.failures.saturating_add(1);
        repair.next_try = Some(next_try(repair.failures));
        repair.error = Some(error);
        std::mem::take(&mut repair.is_here)
    }

    fn of_head(&mut self, head: &Arc<ManifestHead>) -> Option<&mut Repair> {
        let repair = self.0.get_mut(&head.artifact)?.get_mut(&head.version)?;
        Arc::ptr_eq(&repair.head, head).then_some(repair)
    }

    fn of_artifact(&self, name: &ArtifactName) -> impl Iterator<Item = &Repair> {
        self.0.get(name).into_iter().flat_map(BTreeMap::values)
    }

    /// What is to be done for an artifact now, and when to look again.
    pub(super) fn plan(&self, name: &ArtifactName, now: Moment) -> (Option<Step>, Option<Moment>) {
        let open = || self.of_artifact(name).filter(|repair| !repair.is_here);
        let due = open().find(|repair| repair.next_try.is_none_or(|at| at <= now));
        let step = due.map(|repair| Step::Repair { artifact: name.clone(), head: repair.head.clone() });
        (step, open().filter_map(|repair| repair.next_try).filter(|at| *at > now).min())
    }

    /// Whether one is on its way that has not failed yet: seeds wait for it rather than go back to an older version.
    pub(super) fn is_hopeful(&self, name: &ArtifactName) -> bool {
        self.of_artifact(name).any(|repair| repair.failures == 0 && !repair.is_here)
    }

    /// Whether the first try to have this version again is still to end.
    pub(super) fn is_first_try(&self, name: &ArtifactName, version: &VersionName) -> bool {
        self.0.get(name).and_then(|of| of.get(version)).is_some_and(|repair| repair.failures == 0)
    }

    /// Whether this version is to be had again.
    pub(super) fn holds(&self, name: &ArtifactName, version: &VersionName) -> bool {
        self.0.get(name).is_some_and(|of| of.contains_key(version))
    }

    /// Why a version could not be had again, or what was made of it not be mended.
    pub(super) fn error(&self, name: &ArtifactName) -> Option<String> {
        let failed = |repair: &Repair| {
            let (version, error) = (&repair.head.version, repair.error.as_ref()?);
            Some(match repair.is_here {
                false => format!("version {version} was damaged and cannot be fetched again: {error}"),
                true => format!(
                    "version {version} was damaged and is here again, but not all that was seeded from it is mended; tried \
                     again: {error}"
                ),
            })
        };
        self.of_artifact(name).find_map(failed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn head(artifact: &str, version: &str) -> ManifestHead {
        ManifestHead::sample(artifact, version)
    }

    fn of(repairs: &Repairs, artifact: &str, version: &str) -> Arc<ManifestHead> {
        let found = repairs.0[&artifact.parse().unwrap()].get(&version.parse().unwrap());
        found.unwrap().head.clone()
    }

    fn due(repairs: &Repairs, artifact: &str, now: u64) -> (Option<String>, Option<u64>) {
        let (step, again) = repairs.plan(&artifact.parse().unwrap(), Moment::from_secs(now));
        let version = step.map(|step| match step {
            Step::Repair { head, .. } => head.version.to_string(),
            other => panic!("{other:?}"),
        });
        (version, again.map(|at| at.as_secs()))
    }

    #[test]
    fn each_is_tried_until_it_is_here_and_those_that_failed_wait() {
        let mut repairs = Repairs::of(vec![head("os", "1"), head("os", "2")]);
        let os = "os".parse().unwrap();
        assert_eq!(due(&repairs, "os", 0), (Some("1".into()), None));
        assert_eq!(due(&repairs, "other", 0), (None, None));
        let [first, second] = ["1", "2"].map(|version| of(&repairs, "os", version));
        repairs.failed(&first, "no".into(), |failures| Moment::from_secs(10 * u64::from(failures)));
        assert_eq!(due(&repairs, "os", 0), (Some("2".into()), Some(10)));
        assert!(repairs.is_hopeful(&os) && !repairs.is_first_try(&os, &"1".parse().unwrap()));
        repairs.set_here(&second, true);
        assert_eq!(due(&repairs, "os", 0), (None, Some(10)), "it is on the node");
        assert!(!repairs.is_hopeful(&os) && repairs.holds(&os, &"2".parse().unwrap()));
        repairs.remove(&first);
        repairs.not_mended(&second, "no room".into());
        assert_eq!(due(&repairs, "os", 0), (None, None), "who mends tries again");
        assert!(repairs.error(&os).unwrap().contains("version 2 was damaged and is here again"));
        repairs.add(first.clone());
        repairs.failed(&first, "no".into(), |_| Moment::from_secs(10));
        repairs.set_here(&second, false);
        assert_eq!(due(&repairs, "os", 0), (Some("2".into()), Some(10)), "it went before the repair was over");
        repairs.remove(&second);
        assert_eq!(due(&repairs, "os", 9), (None, Some(10)));
        assert!(!repairs.is_hopeful(&os));
        assert!(repairs.error(&os).unwrap().contains("version 1"));
        assert_eq!(due(&repairs, "os", 10), (Some("1".into()), None));
        repairs.remove(&first);
        assert!(repairs.0.is_empty() && repairs.error(&os).is_none());
    }

    #[test]
    fn what_ends_is_the_repair_that_was_begun() {
        let [before, since] = [(); 2].map(|()| Arc::new(head("os", "1")));
        let mut repairs = Repairs::default();
        repairs.add(before.clone());
        repairs.add(since.clone());
        repairs.failed(&before, "no".into(), |_| Moment::from_secs(10));
        repairs.remove(&before);
        assert!(repairs.is_of(&since) && repairs.is_hopeful(&since.artifact));
        repairs.remove(&since);
        assert!(repairs.0.is_empty());
    }
}
