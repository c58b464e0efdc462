//! Targets as people give them: which paths may be seeded at all.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::fs::{self, PathError, RelPath};

/// Letters and digits that end a temporary name ([`fs::Dir::temporary_name`]).
const RANDOM: usize = 12;
const TEMPORARY: &[u8] = b".seedcache-";

/// Why a target is refused.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// No path below anything.
    #[error("{given:?} cannot be a target; give a directory below seed.root ({})", root.display())]
    Path {
        /// What was given.
        given: Box<str>,
        /// `seed.root`.
        root: PathBuf,
        /// What is wrong with it.
        #[source]
        source: PathError,
    },
    /// Absolute, and elsewhere.
    #[error("{given:?} is not below seed.root ({})", root.display())]
    Outside {
        /// What was given.
        given: Box<str>,
        /// `seed.root`.
        root: PathBuf,
    },
    /// The root itself.
    #[error("seed.root itself ({}) cannot be a target; name a directory below it", root.display())]
    Root {
        /// `seed.root`.
        root: PathBuf,
    },
    /// No name that a directory could have.
    #[error("{} cannot be a target; give the path of a directory", given.display())]
    Unfit {
        /// What was given.
        given: PathBuf,
        /// What is wrong with it.
        #[source]
        source: PathError,
    },
    /// The top of the file system.
    #[error("{} cannot be a target; name a directory below it", given.display())]
    Top {
        /// What was given.
        given: PathBuf,
    },
    /// In the store.
    #[error("{target} lies in the store ({}), which only seedcache writes; choose a target outside it", store.display())]
    InStore {
        /// The target.
        target: RelPath,
        /// The store.
        store: PathBuf,
    },
    /// Around the store.
    #[error("{target} holds the store ({}), which a seed would replace; choose a target beside it", store.display())]
    HoldsStore {
        /// The target.
        target: RelPath,
        /// The store.
        store: PathBuf,
    },
    /// A name that seedcache uses for what it is making.
    #[error(
        "{target} has a component of the form `.NAME.seedcache-…`, which seedcache keeps for its temporary files; choose another name"
    )]
    Reserved {
        /// The target.
        target: RelPath,
    },
}

/// Where targets may lie: names only, nothing is looked up.
#[derive(Debug)]
pub(super) struct Grounds {
    root: PathBuf,
    /// The root as configured and as the system resolves it.
    spellings: Vec<PathBuf>,
    store: PathBuf,
    /// The store, where it lies below the root.
    store_at: Option<RelPath>,
}

impl Grounds {
    /// Of existing directories. `None` when the root lies in the store.
    pub(super) fn new(root: &Path, store: &Path) -> fs::Result<Option<Self>> {
        let resolved = fs::canonical(root)?;
        let store = fs::canonical(store)?;
        if resolved.starts_with(&store) {
            return Ok(None);
        }
        let store_at = match store.strip_prefix(&resolved) {
            Ok(below) => RelPath::parse(below.as_os_str().as_bytes()).ok(),
            Err(_) => None,
        };
        let root = fs::absolute(root)?;
        Ok(Some(Self { spellings: vec![root.clone(), resolved], root, store, store_at }))
    }

    /// A target given by people.
    pub(super) fn target(&self, given: &str) -> Result<RelPath, TargetError> {
        let path = |source| TargetError::Path { given: given.into(), root: self.root.clone(), source };
        let bytes = given.as_bytes();
        if bytes.is_empty() {
            return Err(path(PathError::Empty));
        }
        let below = match bytes.strip_prefix(b"/") {
            None => RelPath::normalize(bytes).map_err(path)?,
            Some(_) if bytes.split(|&b| b == b'/').any(|component| component == b"..") => {
                return Err(path(PathError::Parent));
            }
            Some(_) => {
                // Comparing by components forgives doubled slashes and `.`.
                let below = self.spellings.iter().find_map(|root| Path::new(given).strip_prefix(root).ok());
                let below =
                    below.ok_or_else(|| TargetError::Outside { given: given.into(), root: self.root.clone() })?;
                RelPath::normalize(below.as_os_str().as_bytes()).map_err(path)?
            }
        };
        let target = below.ok_or_else(|| TargetError::Root { root: self.root.clone() })?;
        self.check(&target)?;
        Ok(target)
    }

    /// A target from the root of the daemon's file system, for messages and answers.
    pub(super) fn path_of(&self, target: &RelPath) -> PathBuf {
        self.root.join(target.as_path())
    }

    /// Whether a path below the root may be a target.
    pub(super) fn check(&self, target: &RelPath) -> Result<(), TargetError> {
        if let Some(store_at) = &self.store_at {
            if target.starts_with(store_at) {
                return Err(self.in_store(target));
            }
            if store_at.starts_with(target) {
                return Err(TargetError::HoldsStore { target: target.clone(), store: self.store.clone() });
            }
        }
        if target.components().any(is_reserved) {
            return Err(TargetError::Reserved { target: target.clone() });
        }
        Ok(())
    }

    /// The refusal of a target that turns out to lie in the store.
    pub(super) fn in_store(&self, target: &RelPath) -> TargetError {
        TargetError::InStore { target: target.clone(), store: self.store.clone() }
    }
}

/// Whether `name` is one that seedcache uses for what it is making.
pub(super) fn is_reserved(name: &[u8]) -> bool {
    name.starts_with(b".") && name.windows(TEMPORARY.len()).any(|w| w == TEMPORARY)
}

/// Whether `name` is a temporary that was made beside a target whose temporaries start with `prefix`.
pub(super) fn is_leftover(name: &[u8], prefix: &[u8]) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.len() == RANDOM && rest.iter().all(u8::is_ascii_alphanumeric))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;
    use proptest::prelude::*;

    fn grounds() -> Grounds {
        Grounds {
            root: "/mnt/data".into(),
            spellings: vec!["/mnt/data".into(), "/srv/data".into()],
            store: "/srv/data/cache/.seedcache".into(),
            store_at: Some("cache/.seedcache".parse().unwrap()),
        }
    }

    #[test]
    fn absolute_and_relative_name_the_same() {
        for given in ["a/b", "./a//b/", "/mnt/data/a/b", "/srv/data/./a/b/", "//mnt//data/a/b"] {
            assert_eq!(grounds().target(given).unwrap(), "a/b".parse().unwrap(), "{given}");
        }
    }

    #[test]
    fn what_is_no_target_is_told_why() {
        let refuse = |given: &str| grounds().target(given).unwrap_err();
        for given in ["", "a/../b", "/mnt/data/../x", "..", "a\0b"] {
            assert!(matches!(refuse(given), TargetError::Path { .. }), "{given:?}");
        }
        for given in ["/", "/mnt", "/mnt/database", "/etc"] {
            assert!(matches!(refuse(given), TargetError::Outside { .. }), "{given}");
        }
        for given in [".", "/mnt/data", "/srv/data/"] {
            assert!(matches!(refuse(given), TargetError::Root { .. }), "{given}");
        }
        for given in ["cache/.seedcache", "cache/.seedcache/versions/x"] {
            assert!(matches!(refuse(given), TargetError::InStore { .. }), "{given}");
        }
        assert!(matches!(refuse("cache"), TargetError::HoldsStore { .. }));
        assert!(matches!(refuse("x/.a.seedcache-abc/y"), TargetError::Reserved { .. }));
        assert!(grounds().target("cache/.seedcache2").is_ok());
    }

    #[test]
    fn the_root_must_not_lie_in_the_store() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("store/seeds")).unwrap();
        let grounds = |root: &str, store: &str| Grounds::new(&dir.path().join(root), &dir.path().join(store)).unwrap();
        assert!(grounds("store/seeds", "store").is_none());
        assert!(grounds("store", "store").is_none());
        assert_eq!(grounds(".", "store").unwrap().store_at, Some("store".parse().unwrap()));
    }

    #[test]
    fn leftovers_are_only_those_of_that_target() {
        let prefix = b".x.seedcache-";
        assert!(is_leftover(b".x.seedcache-abcdefghijk1", prefix));
        for other in [".x.seedcache-abc", ".x.seedcache-y.seedcache-abcdefghijk1", "x", ".x.seedcache-abcdefghij-1"] {
            assert!(!is_leftover(other.as_bytes(), prefix), "{other}");
        }
    }

    proptest! {
        #[test]
        fn a_target_never_leaves_the_root(given in "[a./]{0,12}") {
            for given in [given.clone(), format!("/mnt/data/{given}")] {
                if let Ok(target) = grounds().target(&given) {
                    prop_assert!(target.components().all(|c| c != b".." && c != b"." && !c.is_empty()));
                }
            }
        }
    }
}
