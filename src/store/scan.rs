//! What the store holds, found on disk: every version directory with a sound manifest, and the `current/` links.

use std::collections::HashMap;
use std::io::BufReader;
use std::sync::Arc;

use super::index::Row;
use super::layout::own;
use super::{Inventory, Manifest, ManifestError, ManifestHead, Reason, Store};
use crate::fs::{self, Dir, Kind};
use crate::intent::{ArtifactName, VersionName};

/// Walks `versions/`. A version whose row in the index fits its manifest file is taken from there; any other has its
/// manifest read, and one that is damaged goes into quarantine.
pub(super) fn scan(store: &Store) -> fs::Result<Inventory> {
    let mut rows = store.index.load();
    let mut read_anew = Vec::new();
    let mut inventory = Inventory::new();
    for (artifact, dir) in named_dirs::<ArtifactName>(&store.versions)? {
        for (version, dir) in named_dirs::<VersionName>(&dir)? {
            if let Some(head) = read_version(store, &artifact, &version, &dir, &mut rows, &mut read_anew)? {
                inventory.entry(artifact.clone()).or_default().versions.insert(version, head);
            }
        }
    }
    store.index.put_all(&read_anew);
    // Rows of versions that are gone.
    for (artifact, version) in rows.into_keys() {
        store.index.remove(&artifact, &version);
    }
    for (artifact, holding) in &mut inventory {
        holding.current = read_current(store, artifact)?.filter(|version| holding.versions.contains_key(version));
    }
    Ok(inventory)
}

type Rows = HashMap<(ArtifactName, VersionName), Row>;

fn read_version(
    store: &Store,
    artifact: &ArtifactName,
    version: &VersionName,
    dir: &Dir,
    rows: &mut Rows,
    read_anew: &mut Vec<Row>,
) -> fs::Result<Option<Arc<ManifestHead>>> {
    let name = own("manifest.json");
    let stamp = dir.stat(&name)?.map(|stat| stat.stamp);
    if let (Some(row), Some(stamp)) = (rows.remove(&(artifact.clone(), version.clone())), stamp)
        && row.stamp == stamp
    {
        return Ok(Some(Arc::new(row.head)));
    }
    let read = dir.open_file(&name).map(|file| Manifest::read(BufReader::with_capacity(128 * 1024, file)));
    let problem: ManifestError = match read {
        Ok(Ok(Manifest { head, .. })) if head.artifact == *artifact && head.version == *version => {
            if let Some(stamp) = stamp {
                read_anew.push(Row { stamp, head: head.clone() });
            }
            return Ok(Some(Arc::new(head)));
        }
        Ok(Ok(Manifest { head, .. })) => {
            ManifestError::Misplaced { says: format!("{}@{}", head.artifact, head.version).into() }
        }
        Ok(Err(error)) => error,
        Err(e) if e.is_not_found() => ManifestError::Truncated,
        Err(e) => return Err(e),
    };
    tracing::error!(%artifact, %version, error = %problem, "damaged version put into quarantine");
    store.quarantine_dir(artifact, version, &Reason::new("manifest", &problem))?;
    Ok(None)
}

/// The directories in `dir` whose names are such names; others are left alone.
fn named_dirs<N: std::str::FromStr>(dir: &Dir) -> fs::Result<Vec<(N, Dir)>> {
    let mut found = Vec::new();
    for entry in dir.entries()? {
        let name = entry.name.to_str().and_then(|text| text.parse::<N>().ok());
        match name {
            Some(name) if entry.kind == Kind::Dir => found.push((name, dir.open_dir(&entry.name)?)),
            _ => tracing::warn!(path = %dir.path_of(&entry.name).display(), "not made by seedcache, left alone"),
        }
    }
    Ok(found)
}

fn read_current(store: &Store, artifact: &ArtifactName) -> fs::Result<Option<VersionName>> {
    let target = match store.current.read_link(&artifact.as_component()) {
        Ok(target) => target,
        Err(e) if e.is_not_found() || e.kind() == std::io::ErrorKind::InvalidInput => return Ok(None),
        Err(e) => return Err(e),
    };
    let version = || {
        let text = std::str::from_utf8(&target).ok()?;
        text.strip_prefix("../versions/")?.strip_prefix(artifact.as_str())?.strip_prefix('/')?.strip_suffix("/tree")
    };
    Ok(version().and_then(|text| text.parse().ok()))
}
