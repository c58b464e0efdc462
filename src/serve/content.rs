//! A tree's file, opened and held against the manifest before any of its bytes are promised to anyone.

use std::fs::File;

use crate::fs::{self, Dir, RelPath};
use crate::intent::{ArtifactName, VersionName};
use crate::store::{Entry, Version};

/// Why a file of a version cannot be served.
#[derive(Debug, thiserror::Error)]
pub(super) enum ContentError {
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] fs::Error),
    /// Written to behind the store's back.
    #[error(
        "{path} of {artifact}@{version} was changed after it was published; the version is being fetched again, ask \
         again in a while"
    )]
    Damaged { artifact: ArtifactName, version: VersionName, path: RelPath },
}

/// Opens a regular file (or a further name of one) whose content has this digest; one that was changed is refused, and
/// its version reported.
pub(super) fn open_entry(version: &Version, entry: &Entry, sha256: &[u8; 32]) -> Result<File, ContentError> {
    if let Some(file) = entry_at_once(version, entry, sha256) {
        return Ok(file);
    }
    let damaged = || {
        version.report(format!("{} was changed after it was published", entry.path));
        ContentError::Damaged {
            artifact: version.head().artifact.clone(),
            version: version.head().version.clone(),
            path: entry.path.clone(),
        }
    };
    let file = match version.tree().open_file(&entry.path) {
        Err(error) if error.is_not_found() => return Err(damaged()),
        other => other?,
    };
    let stat = Dir::stat_file(&file, entry.path.as_path())?;
    let unchanged = stat.size == entry.size
        && stat.mtime == entry.mtime_parts()
        && version.is_sound(&file, sha256, &version.tree().path_of(&entry.path))?;
    if unchanged { Ok(file) } else { Err(damaged()) }
}

/// The same where no disk need be asked for it and all is well; else `None`.
pub(super) fn entry_at_once(version: &Version, entry: &Entry, sha256: &[u8; 32]) -> Option<File> {
    let (file, stat) = version.tree().open_file_at_once(&entry.path)?;
    let unchanged = stat.size == entry.size && stat.mtime == entry.mtime_parts() && version.knows(&stat, sha256);
    unchanged.then_some(file)
}

/// The media type of a file, by its name. Nothing that a browser would run: trees come from outside.
pub(super) fn media_type(name: &[u8]) -> &'static str {
    let extension = name.iter().rposition(|&b| b == b'.').map_or(&b""[..], |dot| &name[dot + 1..]);
    match &extension.to_ascii_lowercase()[..] {
        b"txt" | b"log" | b"md" | b"conf" | b"cfg" | b"ini" | b"toml" | b"csv" | b"ipxe" | b"hash" => {
            "text/plain; charset=utf-8"
        }
        b"yaml" | b"yml" => "text/plain; charset=utf-8",
        b"json" => "application/json",
        b"gz" | b"tgz" => "application/gzip",
        b"zst" => "application/zstd",
        b"tar" => "application/x-tar",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_browser_runs() {
        assert_eq!(media_type(b"a.JSON"), "application/json");
        assert_eq!(media_type(b"notes.txt"), "text/plain; charset=utf-8");
        for name in [&b"x.html"[..], b"x.svg", b"x.js", b"unix", b"x.", b"\xff"] {
            assert_eq!(media_type(name), "application/octet-stream");
        }
    }
}
