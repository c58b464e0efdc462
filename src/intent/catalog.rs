//! All documents at one generation: plain data, what reconcile plans from.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::validate::overlap;
use super::{Artifact, ArtifactName, DocumentError, SeedTarget};

/// The declared artifacts, and the documents that were refused.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// By name; the last good document of a name whose present one is refused.
    pub artifacts: BTreeMap<ArtifactName, Arc<Artifact>>,
    /// What was refused, with file, line and field.
    pub refused: Vec<Refused>,
}

/// A document that was refused.
#[derive(Debug, Clone)]
pub struct Refused {
    /// The file it stands in.
    pub file: PathBuf,
    /// Its name, where it could be read: the last good one of that name goes on.
    pub name: Option<ArtifactName>,
    /// Why.
    pub error: Arc<DocumentError>,
}

impl Catalog {
    /// This catalog after a reload: what is refused now keeps the last good document of its name; where not even the
    /// name could be read, every document goes on that the file held before. A target that another document has taken
    /// meanwhile is the other's, as it would be after a restart. Each document that goes on so has its refusal.
    pub fn succeed(previous: &Catalog, mut next: Catalog) -> Catalog {
        let mut held_up: Vec<Refused> = Vec::new();
        for last_good in previous.artifacts.values() {
            let refused = next.refused.iter().find(|refused| match &refused.name {
                Some(name) => *name == last_good.name,
                None => refused.file == last_good.file,
            });
            let Some(refused) = refused.filter(|_| !next.artifacts.contains_key(&last_good.name)).cloned() else {
                continue;
            };
            if refused.name.is_none() {
                held_up.push(Refused { name: Some(last_good.name.clone()), ..refused });
            }
            let kept = next.without_taken_targets(last_good);
            next.artifacts.insert(last_good.name.clone(), kept);
        }
        // Whoever asks for such an artifact is told why its document is not taken up.
        next.refused.retain(|refused| !held_up.iter().any(|held_up| Arc::ptr_eq(&held_up.error, &refused.error)));
        next.refused.append(&mut held_up);
        next
    }

    fn without_taken_targets(&self, artifact: &Arc<Artifact>) -> Arc<Artifact> {
        let taken = |seed: &SeedTarget| {
            self.artifacts.values().flat_map(|other| &other.seeds).any(|other| overlap(&other.target, &seed.target))
        };
        if !artifact.seeds.iter().any(taken) {
            return artifact.clone();
        }
        let mut rest = Artifact::clone(artifact);
        rest.spec.seeds.retain(|seed| !taken(seed));
        Arc::new(rest)
    }

    /// Whether two catalogs declare and refuse the same.
    pub fn says_the_same(&self, other: &Catalog) -> bool {
        let refusals = |catalog: &Catalog| -> Vec<String> {
            catalog.refused.iter().map(|refused| super::error_chain(&*refused.error)).collect()
        };
        self.artifacts == other.artifacts && refusals(self) == refusals(other)
    }

    /// The error that a refused document of this name gave, if there is one.
    pub fn refusal_of(&self, name: &ArtifactName) -> Option<&Refused> {
        self.refused.iter().find(|refused| refused.name.as_ref() == Some(name))
    }
}
