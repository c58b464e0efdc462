//! All documents at one generation: plain data, what reconcile plans from.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Artifact, ArtifactName, DocumentError};

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
    /// This catalog after a reload: what is refused now keeps the last good document of its name.
    pub fn succeed(previous: &Catalog, mut next: Catalog) -> Catalog {
        for refused in &next.refused {
            let Some(name) = &refused.name else { continue };
            if let Some(last_good) = previous.artifacts.get(name) {
                next.artifacts.entry(name.clone()).or_insert_with(|| last_good.clone());
            }
        }
        next
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
