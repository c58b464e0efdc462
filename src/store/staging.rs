//! Downloads and unpacks in progress: `staging/<artifact>/`, kept over a restart so that a download resumes.

use std::fs::File;
use std::sync::Arc;

use super::Donors;
use crate::fs::{self, Dir, RelPath, fail_point};

/// The staging directory of one artifact. One acquisition of an artifact runs at a time, so one directory is enough.
#[derive(Debug, Clone)]
pub struct Staging {
    dir: Dir,
    /// Where the tree is made, if that is not below `dir`.
    tree: Option<Dir>,
    /// What may be in the tree already.
    donors: Option<Arc<Donors>>,
}

fn name(text: &'static str) -> RelPath {
    RelPath::parse(text).unwrap_or_else(|e| unreachable!("{text} is a component: {e}"))
}

impl Staging {
    /// Works in `dir`.
    pub fn new(dir: Dir) -> Self {
        Self { dir, tree: None, donors: None }
    }

    /// Downloads in `dir` and unpacks straight into the directory `tree`, which is emptied for it.
    pub fn into_tree(dir: Dir, tree: Dir) -> Self {
        Self { dir, tree: Some(tree), donors: None }
    }

    /// Files that these have are shared with them when the tree is made.
    pub fn with_donors(self, donors: Donors) -> Self {
        Self { donors: Some(Arc::new(donors)), ..self }
    }

    /// What the tree shares files with.
    pub fn donors(&self) -> Option<&Donors> {
        self.donors.as_deref()
    }

    /// The directory itself: `archive.part`, `download.json` and `version/` stand in it.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// The bytes downloaded so far, open for reading and writing; made where there are none.
    pub fn part(&self) -> fs::Result<File> {
        self.dir.open_or_create_file(&Self::part_name(), 0o600)
    }

    /// The name of the part in [`Staging::dir`].
    pub fn part_name() -> RelPath {
        name("archive.part")
    }

    /// What was noted about the download, if it was.
    pub fn download_note(&self) -> fs::Result<Option<Vec<u8>>> {
        match self.dir.read(&name("download.json"), 64 * 1024) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Notes about the download, durably.
    pub fn set_download_note(&self, bytes: &[u8]) -> fs::Result<()> {
        fail_point("store.staging.before-note");
        self.dir.write_atomic(&name("download.json"), bytes, 0o600)?;
        fail_point("store.staging.after-note");
        Ok(())
    }

    /// Forgets the part and the note.
    pub fn discard_download(&self) -> fs::Result<()> {
        fail_point("store.staging.before-discarding");
        self.dir.remove_tree(&Self::part_name())?;
        fail_point("store.staging.after-part");
        self.dir.remove_tree(&name("download.json"))?;
        fail_point("store.staging.after-discarding");
        Ok(())
    }

    /// An empty tree (`version/tree`), whatever an earlier try left there removed.
    pub fn fresh_tree(&self) -> fs::Result<Dir> {
        self.discard_tree()?;
        if let Some(tree) = &self.tree {
            return Ok(tree.clone());
        }
        fail_point("store.staging.before-tree");
        self.dir.make_dir(&Self::version_name(), 0o755)?;
        let version = self.dir.open_dir(&Self::version_name())?;
        version.make_dir(&name("tree"), 0o755)?;
        fail_point("store.staging.after-tree");
        version.open_dir(&name("tree"))
    }

    /// Removes the half-made version.
    pub fn discard_tree(&self) -> fs::Result<()> {
        if let Some(tree) = &self.tree {
            return tree.clear();
        }
        if let Some(donors) = &self.donors
            && let Ok(tree) = self.dir.open_dir(&Self::version_name()).and_then(|dir| dir.open_dir(&name("tree")))
        {
            donors.take_back(&tree);
        }
        fail_point("store.staging.before-removal");
        self.dir.remove_tree(&Self::version_name())?;
        fail_point("store.staging.after-removal");
        Ok(())
    }

    /// The name of the half-made version in [`Staging::dir`].
    pub fn version_name() -> RelPath {
        name("version")
    }
}
