//! What the store holds, found on disk: every version directory with a sound manifest, and the `current/` links.

use std::collections::HashMap;
use std::io::BufReader;
use std::sync::Arc;

use super::index::Row;
use super::layout::own;
use super::{Inventory, Manifest, ManifestError, ManifestHead, Reason, Store};
use crate::fs::{self, Dir, Kind, RelPath};
use crate::intent::{ArtifactName, VersionName, error_chain};

/// Walks `versions/`. A version whose row in the index fits its manifest file is taken from there; any other has its
/// manifest read, and one that is damaged goes into quarantine.
pub(super) fn scan(store: &Store) -> fs::Result<Inventory> {
    let mut rows = store.index.load();
    let mut read_anew = Vec::new();
    let mut inventory = Inventory::new();
    for (artifact, versions) in named_dirs::<ArtifactName>(&store.versions)? {
        let known = read_anew.len();
        let found = match named_dirs::<VersionName>(&versions) {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%artifact, error = error_chain(&error),
                    "its versions cannot be listed and are left out until the next start");
                continue;
            }
        };
        for (version, dir) in found {
            match read_version(store, &artifact, &version, &dir, &mut rows, &mut read_anew) {
                Ok(Some(head)) => {
                    inventory.entry(artifact.clone()).or_default().versions.insert(version, head);
                }
                Ok(None) => {}
                // One that cannot be read now takes neither the others down nor itself away.
                Err(error) => tracing::error!(%artifact, %version, error = error_chain(&error),
                    "version cannot be read and is left out until the next start"),
            }
        }
        // What the index does not know may have been renamed into place by a daemon that was killed before that was durable.
        let synced = if read_anew.len() > known { versions.sync() } else { Ok(()) };
        if let Err(error) = synced {
            for Row { head, .. } in read_anew.drain(known..) {
                tracing::error!(%artifact, version = %head.version, error = error_chain(&error),
                    "version is not known to be durable and is left out until the next start");
                if let Some(holding) = inventory.get_mut(&artifact) {
                    holding.versions.remove(&head.version);
                }
            }
            inventory.retain(|_, holding| !holding.versions.is_empty());
        }
    }
    store.index.put_all(&read_anew);
    // Rows of versions that are gone.
    for (artifact, version) in rows.into_keys() {
        store.index.remove(&artifact, &version);
    }
    find_current(store, &mut inventory)?;
    Ok(inventory)
}

/// Reads `current/`; links to what is not there (any more) are removed, other things left alone.
fn find_current(store: &Store, inventory: &mut Inventory) -> fs::Result<()> {
    for entry in store.current.entries()? {
        // What a switch that was cut short left.
        if entry.name.as_bytes().starts_with(b".") && entry.kind == Kind::Symlink {
            store.current.remove_file(&entry.name)?;
            continue;
        }
        let artifact = entry.name.to_str().and_then(|text| text.parse::<ArtifactName>().ok());
        let Some(artifact) = artifact.filter(|_| entry.kind == Kind::Symlink) else {
            tell_foreign(&store.current, &entry.name);
            continue;
        };
        let version = match store.current.read_link(&entry.name) {
            Ok(target) => current_version(&artifact, &target),
            Err(error) => {
                tracing::error!(%artifact, error = error_chain(&error), "current link cannot be read, and is left alone");
                continue;
            }
        };
        let holding = inventory.get_mut(&artifact);
        match holding.filter(|holding| version.as_ref().is_some_and(|v| holding.versions.contains_key(v))) {
            Some(holding) => holding.current = version,
            None if stands(store, &artifact, version.as_ref()) => {}
            None => {
                tracing::warn!(%artifact, "current link to what is not in the store removed");
                store.current.remove_file(&entry.name)?;
            }
        }
    }
    Ok(())
}

/// Whether a version that could not be read is there all the same, or may be.
fn stands(store: &Store, artifact: &ArtifactName, version: Option<&VersionName>) -> bool {
    let Some(version) = version else { return false };
    let found = store.versions.stat(&own(&format!("{artifact}/{version}")));
    found.map_or_else(|error| !error.is_not_found(), |stat| stat.is_some())
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
    let row = rows.remove(&(artifact.clone(), version.clone()));
    if let (Some(row), Some(stamp)) = (&row, stamp)
        && row.stamp == stamp
    {
        return Ok(Some(Arc::new(row.head.clone())));
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
        // The disk's fault, or a want of descriptors: no word on the bytes.
        Ok(Err(ManifestError::Read(source))) => return Err(fs::Error::new("read", &dir.path_of(&name), source)),
        Ok(Err(error)) => error,
        Err(e) if e.is_not_found() => ManifestError::Truncated,
        Err(e) => return Err(e),
    };
    tracing::error!(%artifact, %version, error = %problem, "damaged version put into quarantine");
    let known = row.as_ref().map(|row| &row.head);
    store.quarantine_dir(artifact, version, &Reason::new("manifest", &problem), known)?;
    Ok(None)
}

/// The directories in `dir` whose names are such names; others are left alone.
fn named_dirs<N: std::str::FromStr>(dir: &Dir) -> fs::Result<Vec<(N, Dir)>> {
    let mut found = Vec::new();
    for entry in dir.entries()? {
        let name = entry.name.to_str().and_then(|text| text.parse::<N>().ok());
        match name {
            Some(name) if entry.kind == Kind::Dir => match dir.open_dir(&entry.name) {
                Ok(dir) => found.push((name, dir)),
                Err(error) => tracing::error!(error = error_chain(&error), "left out until the next start"),
            },
            _ => tell_foreign(dir, &entry.name),
        }
    }
    Ok(found)
}

fn tell_foreign(dir: &Dir, name: &RelPath) {
    tracing::warn!(path = %dir.path_of(name).display(), "not made by seedcache, left alone");
}

/// The version that a link of `current/` names.
pub(super) fn current_version(artifact: &ArtifactName, target: &[u8]) -> Option<VersionName> {
    let text = std::str::from_utf8(target).ok()?;
    let version =
        text.strip_prefix("../versions/")?.strip_prefix(artifact.as_str())?.strip_prefix('/')?.strip_suffix("/tree")?;
    version.parse().ok()
}
