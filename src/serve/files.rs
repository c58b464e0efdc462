//! A version over HTTP: its manifest, the files and directories of its tree, the tree as one tar stream, and the
//! archive it was made from.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{FromRef, State};
use axum::http::header::CONTENT_DISPOSITION;
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};

use super::address::Addressed;
use super::body::{FileRange, stream};
use super::conditional::etag_of;
use super::content::{Content, ContentError, entry_at_once, media_type, open_entry};
use super::listing::Directory;
use super::manifests::Manifests;
use super::problem::{Kind, Problem};
use super::reply::{Representation, is_wanted, reply};
use super::resolve::{Found, ResolveError, content_of, entry_at, resolve};
use super::sendfile::Outbox;
use super::tree_tar::{self, TreeTar};
use crate::intent::{Digest, error_chain};
use crate::store::{Entry, EntryType, Manifest, ManifestHead, Store, Version};

/// The address of a file in a tree, as routes and metrics name it.
pub(super) const FILES: &str = "/v1/artifacts/{name}/versions/{version}/files/{*path}";

/// Where versions are read from.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    pub(super) store: Arc<Store>,
    pub(super) manifests: Arc<Manifests>,
}

/// The routes of a version; all they need is the store.
pub(super) fn routes<S>() -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    Shelf: FromRef<S>,
{
    Router::new()
        .route("/v1/artifacts/{name}/versions/{version}", get(manifest))
        .route("/v1/artifacts/{name}/versions/{version}/files", get(files))
        .route("/v1/artifacts/{name}/versions/{version}/files/", get(files))
        .route(FILES, get(files))
        .route("/v1/artifacts/{name}/versions/{version}/tree.tar", get(tree))
        .route("/v1/artifacts/{name}/versions/{version}/archive", get(archive))
}

/// Runs what blocks off the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await?
}

impl Shelf {
    /// Opens the version that an address names; it stays on disk for as long as it is held.
    fn open(&self, addressed: &Addressed) -> Result<Version, Problem> {
        let artifact = &addressed.artifact;
        let version = match &addressed.version {
            Some(version) => version.clone(),
            None => self.store.current(artifact).ok_or_else(|| {
                let next = format!("GET /v1/artifacts/{artifact} says where it stands, …/wait waits for it");
                Problem::new(Kind::NotFound, format!("{artifact} has no current version on this node"), next)
            })?,
        };
        Ok(self.store.open_version(artifact, &version)?)
    }

    /// The answer with a file, where nothing need be waited for: by far the most requests for small files find it so, and
    /// handing one to another thread costs more than all the rest. `None`: ask the route.
    pub(super) fn reply_at_once(
        &self,
        addressed: &Addressed,
        ask: (&Method, &HeaderMap),
        outbox: Option<Extension<Outbox>>,
    ) -> Option<Response> {
        let artifact = &addressed.artifact;
        let current = || self.store.current(artifact);
        let named = addressed.version.clone().or_else(current)?;
        let (version, manifest) = self.store.version_at_once(artifact, &named)?;
        self.manifests.keep(&manifest, Instant::now());
        // Where an archive's symlinks lead may take long to find: that is for a thread that may block.
        let entry = entry_at(&manifest, addressed.path.as_ref()?.as_bytes())?;
        if addressed.wants_dir || !matches!(entry.kind, EntryType::File | EntryType::Hardlink) {
            return None;
        }
        let sha256 = content_of(&manifest, entry)?;
        let content = entry_at_once(&version, entry, &sha256)?;
        let what = of_file(&version, addressed, entry, &sha256);
        reply(ask, &what, |range| body_of(content, range, version, outbox)).ok()
    }

    fn manifest(&self, version: &Version) -> Result<Arc<Manifest>, Problem> {
        let manifest = self.store.manifest(version)?;
        self.manifests.keep(&manifest, Instant::now());
        Ok(manifest)
    }
}

fn representation(version: &Version, addressed: &Addressed, etag: String, length: u64) -> Representation {
    Representation {
        etag,
        modified: None,
        length,
        media_type: "application/octet-stream",
        version: version.head().version.clone(),
        moving: addressed.version.is_none(),
        ranges: true,
    }
}

/// Tells a manifest's bytes, and what is listed from it, from all others: the head holds the digest of the entries, and
/// besides it what changes when the same tree is published anew or under another name.
fn head_digest(head: &ManifestHead) -> Digest {
    let head = serde_json::to_vec(head).unwrap_or_else(|e| unreachable!("plain fields always serialise: {e}"));
    Digest::sha256(&head)
}

fn published(version: &Version) -> Option<u64> {
    u64::try_from(version.head().published_at.as_second()).ok()
}

async fn manifest(
    State(shelf): State<Shelf>,
    addressed: Addressed,
    method: Method,
    headers: HeaderMap,
    outbox: Option<Extension<Outbox>>,
) -> Result<Response, Problem> {
    let (what, file, version) = blocking(move || {
        let version = shelf.open(&addressed)?;
        let file = version.manifest_file()?;
        let length = file.metadata().map_err(|error| Problem::internal(&error))?.len();
        let etag = etag_of(&head_digest(version.head()));
        let what = Representation {
            modified: published(&version),
            media_type: "application/json",
            ..representation(&version, &addressed, etag, length)
        };
        Ok((what, file, version))
    })
    .await?;
    reply((&method, &headers), &what, |range| FileRange::new(file, range, version).body(outbox))
}

/// What lies at a path in the tree.
enum Node {
    File(Representation, Content, Version),
    /// Its length is not known yet.
    Directory(Representation, Directory),
}

async fn files(
    State(shelf): State<Shelf>,
    addressed: Addressed,
    method: Method,
    headers: HeaderMap,
    outbox: Option<Extension<Outbox>>,
) -> Result<Response, Problem> {
    let ask = (&method, &headers);
    match blocking(move || node(&shelf, &addressed)).await? {
        Node::File(what, content, version) => reply(ask, &what, |range| body_of(content, range, version, outbox)),
        Node::Directory(what, directory) if !is_wanted(ask, &what) => {
            reply(ask, &what, |_| directory.body(what.length))
        }
        Node::Directory(what, directory) => {
            let (length, directory) = blocking(move || Ok((directory.length(), directory))).await?;
            reply(ask, &Representation { length, ..what }, |_| directory.body(length))
        }
    }
}

fn node(shelf: &Shelf, addressed: &Addressed) -> Result<Node, Problem> {
    let version = shelf.open(addressed)?;
    let manifest = shelf.manifest(&version)?;
    let found = match &addressed.path {
        None => Found::Root,
        Some(path) => resolve(&manifest, path)?,
    };
    let dir = match found {
        Found::Entry(entry) if entry.kind != EntryType::Dir => {
            if addressed.wants_dir {
                return Err(ResolveError::NotFound.into());
            }
            return file(&version, &manifest, addressed, entry);
        }
        Found::Entry(entry) => Some(entry.path.clone()),
        Found::Root => None,
    };
    let etag = etag_of(&head_digest(version.head()));
    let what = Representation {
        modified: published(&version),
        media_type: "application/json",
        ranges: false,
        ..representation(&version, addressed, etag, 0)
    };
    Ok(Node::Directory(what, Directory::new(manifest, dir)))
}

fn file(version: &Version, manifest: &Manifest, addressed: &Addressed, entry: &Entry) -> Result<Node, Problem> {
    let sha256 = content_of(manifest, entry).ok_or_else(|| {
        let detail = format!("the manifest has no digest for {}", entry.path);
        Problem::new(Kind::Internal, detail, "run `seedcache verify --repair` on this version")
    })?;
    let content = open_entry(version, entry, &sha256)?;
    Ok(Node::File(of_file(version, addressed, entry, &sha256), content, version.clone()))
}

/// A range of a file's bytes; the version stays for as long as they are being read.
fn body_of(content: Content, range: Range<u64>, version: Version, outbox: Option<Extension<Outbox>>) -> Body {
    match content {
        // Within the file, whose length has been a usize.
        Content::Few(bytes) => Body::from(bytes.slice(range.start as usize..range.end as usize)),
        Content::File(file) => FileRange::new(file, range, version).body(outbox),
    }
}

fn of_file(version: &Version, addressed: &Addressed, entry: &Entry, sha256: &[u8; 32]) -> Representation {
    let digest = Digest::new(crate::intent::Algorithm::Sha256, sha256)
        .unwrap_or_else(|| unreachable!("32 bytes are as many as SHA-256 has"));
    Representation {
        modified: u64::try_from(entry.mtime_parts().0).ok(),
        media_type: media_type(entry.path.file_name()),
        ..representation(version, addressed, etag_of(&digest), entry.size)
    }
}

async fn tree(
    State(shelf): State<Shelf>,
    addressed: Addressed,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (what, version, manifest) = blocking(move || {
        let version = shelf.open(&addressed)?;
        let manifest = shelf.manifest(&version)?;
        let etag = format!("\"{}.tar\"", version.head().tree_digest);
        let what = Representation {
            modified: published(&version),
            media_type: "application/x-tar",
            ranges: false,
            ..representation(&version, &addressed, etag, tree_tar::length(&manifest))
        };
        Ok((what, version, manifest))
    })
    .await?;
    let name = format!("{}-{}.tar", version.head().artifact, version.head().version);
    let length = what.length;
    let response = reply((&method, &headers), &what, |_| stream(TreeTar::new(version, manifest), length))?;
    Ok(as_download(response, &name))
}

async fn archive(
    State(shelf): State<Shelf>,
    addressed: Addressed,
    method: Method,
    headers: HeaderMap,
    outbox: Option<Extension<Outbox>>,
) -> Result<Response, Problem> {
    let (what, file, version) = blocking(move || {
        let version = shelf.open(&addressed)?;
        let head = version.head().clone();
        let file = version.archive()?.ok_or_else(|| {
            let detail = format!("the archive of {}@{} was not kept: its document had no keepArchive", head.artifact, head.version);
            let next = "set keepArchive: true in its document; versions fetched from then on keep theirs, tree.tar gives the tree";
            Problem::new(Kind::NotFound, detail, next)
        })?;
        let length = file.metadata().map_err(|error| Problem::internal(&error))?.len();
        if length != head.archive.size {
            let detail = format!("the kept archive has {length} bytes, not {}", head.archive.size);
            let next = format!("run `seedcache verify {}@{} --repair`", head.artifact, head.version);
            return Err(Problem::new(Kind::Internal, detail, next));
        }
        let modified = published(&version);
        let what = Representation { modified, ..representation(&version, &addressed, etag_of(&head.archive.digest), length) };
        Ok((what, file, version))
    })
    .await?;
    let name = download_name(&version.head().source_url);
    let response = reply((&method, &headers), &what, |range| FileRange::new(file, range, version).body(outbox))?;
    Ok(as_download(response, &name))
}

/// The last segment of the source's address, as far as it is safe in a quoted header value.
fn download_name(source_url: &str) -> String {
    let path = source_url.split(['?', '#']).next().unwrap_or_default();
    let last = path.rsplit('/').next().unwrap_or_default();
    let safe: String =
        last.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+')).take(128).collect();
    if safe.is_empty() { "archive".into() } else { safe }
}

fn as_download(mut response: Response, name: &str) -> Response {
    let value = format!("attachment; filename=\"{name}\"");
    if let Ok(value) = HeaderValue::from_str(&value) {
        response.headers_mut().insert(CONTENT_DISPOSITION, value);
    }
    response
}

impl From<ResolveError> for Problem {
    fn from(error: ResolveError) -> Self {
        Self::new(Kind::NotFound, error, "GET …/files/ lists what is in the tree")
    }
}

impl From<ContentError> for Problem {
    fn from(error: ContentError) -> Self {
        match error {
            ContentError::Fs(error) => error.into(),
            ContentError::Damaged { ref artifact, ref version, .. } => {
                let next = format!("…/wait?version={version} of {artifact} waits for it");
                Self::new(Kind::Internal, error_chain(&error), next)
            }
        }
    }
}

#[cfg(test)]
mod tests;
