//! What the tests of this room serve: a store in a temporary directory with one published version.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Request};
use axum::response::Response;
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use prometheus_client::registry::Registry;
use tower::ServiceExt as _;

use super::caller::Peer;
use super::files::{self, Shelf};
use super::gate::Gate;
use super::host::OwnNames;
use super::metrics::Metrics;
use super::observe::{Observer, observed};
use crate::fs::{Meta, RelPath, apply_meta};
use crate::intent::Digest;
use crate::reconcile::{ArtifactState, State};
use crate::store::{
    Archive, Entry, EntryType, Manifest, ManifestHead, NewVersion, ResolvedFrom, Staging, Store, Version, store_mode,
    tree_digest,
};

/// The artifact that [`Fixture`] publishes.
pub(super) const ARTIFACT: &str = "thing";
/// Its version, which is current.
pub(super) const VERSION: &str = "v1";
/// The bytes kept as its archive.
pub(super) const ARCHIVE: &[u8] = b"the archive as downloaded";

pub(super) fn entry(path: &str, kind: EntryType, target: Option<&str>) -> Entry {
    Entry {
        path: path.parse().unwrap(),
        kind,
        mode: if kind == EntryType::Dir { 0o755 } else { 0o644 },
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime: Timestamp::new(1_767_225_600, 0).unwrap(),
        size: 0,
        sha256: (kind == EntryType::File).then(|| sha256(b"")),
        target: target.map(|target| target.as_bytes().to_vec()),
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    hex::decode_to_slice(Digest::sha256(bytes).hex(), &mut digest).unwrap();
    digest
}

/// A manifest of these entries, in its order.
pub(super) fn manifest(mut entries: Vec<Entry>) -> Manifest {
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let sample = ManifestHead::sample(ARTIFACT, VERSION);
    let archive = Archive { size: 9, ..sample.archive.clone() };
    let head = ManifestHead { archive, tree_digest: tree_digest(&entries), bytes: 0, files: 0, ..sample };
    Manifest { head, entries }
}

/// What a request got.
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Result<Bytes, axum::Error>,
}

impl Answered {
    pub(super) async fn of(response: Response) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes());
        Self { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.body.as_deref().unwrap()
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(self.bytes()).unwrap()
    }
}

/// The state of a declared artifact of which nothing else is known.
pub(super) fn state(name: &str, stand: State) -> ArtifactState {
    ArtifactState {
        name: name.parse().unwrap(),
        state: stand,
        current: None,
        latest: None,
        pin: None,
        pinned_by: None,
        versions: vec![],
        progress: None,
        last_error: None,
        last_error_at: None,
        next_try: None,
        failures: 0,
        refreshed_at: None,
        observed_generation: Some(Digest::sha256(b"document")),
        seeds: vec![],
        leases: vec![],
    }
}

/// A published version with every kind of entry.
pub(super) struct Fixture {
    pub(super) store: Arc<Store>,
    contents: BTreeMap<RelPath, Vec<u8>>,
    root: tempfile::TempDir,
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self::with_archive(true)
    }

    pub(super) fn with_archive(keep_archive: bool) -> Self {
        Self::publish(keep_archive, tree())
    }

    /// With nothing but a file `large` of so many bytes.
    pub(super) fn with_large(size: usize) -> Self {
        let (path, content) = (RelPath::parse(b"large").unwrap(), vec![7; size]);
        let file = entry("large", EntryType::File, None);
        let file = Entry { size: size as u64, sha256: Some(sha256(&content)), ..file };
        Self::publish(false, (vec![file], BTreeMap::from([(path, content)])))
    }

    fn publish(keep_archive: bool, (entries, contents): (Vec<Entry>, BTreeMap<RelPath, Vec<u8>>)) -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(root.path()).unwrap());
        let artifact = ARTIFACT.parse().unwrap();
        let staging = store.staging(&artifact).unwrap();
        lay_out(&staging, &entries, &contents);
        staging.part().unwrap().write_all(ARCHIVE).unwrap();
        let version = VERSION.parse().unwrap();
        let new = NewVersion {
            artifact: ARTIFACT.parse().unwrap(),
            version: VERSION.parse().unwrap(),
            source_url: "https://origin.invalid/thing.tgz".into(),
            digest: Digest::sha256(ARCHIVE),
            size: ARCHIVE.len() as u64,
            verified_by: vec![],
            resolved_from: ResolvedFrom::default(),
            recipe: Digest::sha256(b"recipe"),
            keep_archive,
            entries,
        };
        store.publish(&staging, new, Timestamp::new(1_767_300_000, 0).unwrap()).unwrap();
        store.switch_current(&artifact, &version).unwrap();
        Self { store, contents, root }
    }

    pub(super) fn opened(&self) -> (Version, Arc<Manifest>) {
        let version = self.store.open_version(&ARTIFACT.parse().unwrap(), &VERSION.parse().unwrap()).unwrap();
        let manifest = self.store.manifest(&version).unwrap();
        (version, manifest)
    }

    pub(super) fn content(&self, path: &RelPath) -> Vec<u8> {
        self.contents[path].clone()
    }

    pub(super) fn shelf(&self) -> Shelf {
        Shelf { store: self.store.clone(), manifests: Arc::default() }
    }

    /// The routes of a version with the outermost layer around them, for a caller over TCP.
    pub(super) fn router(&self) -> Router {
        let gate = Gate { token_file: None, own_uid: 12345 };
        let observer = Observer { metrics: Metrics::new(Registry::default()), gate, names: OwnNames::default() };
        let peer = Peer::Tcp("127.0.0.1:9".parse().unwrap());
        observed(files::routes().with_state(self.shelf()), observer).layer(axum::Extension(peer))
    }

    /// Asks those routes; `what` is below the version, as in `files/hello.txt`.
    pub(super) async fn get(&self, what: &str, headers: &[(&str, &str)]) -> Answered {
        self.ask(Method::GET, &format!("/v1/artifacts/{ARTIFACT}/versions/{VERSION}{what}"), headers).await
    }

    pub(super) async fn ask(&self, method: Method, uri: &str, headers: &[(&str, &str)]) -> Answered {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answered::of(self.router().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()).await
    }

    fn stored(&self, path: &str) -> PathBuf {
        self.root.path().join("versions").join(ARTIFACT).join(VERSION).join("tree").join(path)
    }

    /// Gives a file of the store's another name, outside of the store's trees.
    pub(super) fn link(&self, path: &str, name: &str) -> PathBuf {
        let linked = self.root.path().join(name);
        std::fs::hard_link(self.stored(path), &linked).unwrap();
        linked
    }

    /// Takes a file of the store's away behind its back.
    pub(super) fn remove(&self, path: &str) {
        std::fs::remove_file(self.stored(path)).unwrap();
    }

    /// Writes through the store's back: what root can do to a published file.
    pub(super) fn damage(&self, path: &str) {
        let path = self.stored(path);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::write(&path, b"short").unwrap();
    }
}

fn tree() -> (Vec<Entry>, BTreeMap<RelPath, Vec<u8>>) {
    let big: Vec<u8> = (0..700_001u32).map(|at| (at % 251) as u8).collect();
    let deep = format!("deep/{}/{}", "d".repeat(120), "e".repeat(120));
    let mut entries = Vec::new();
    let mut contents = BTreeMap::new();
    let mut file = |path: &[u8], content: &[u8], mode, nanos| {
        let path = RelPath::parse(path).unwrap();
        contents.insert(path.clone(), content.to_vec());
        let mtime = Timestamp::new(1_767_225_600, nanos).unwrap();
        let (size, sha256) = (content.len() as u64, Some(sha256(content)));
        Entry { path, mode, mtime, size, sha256, ..entry("x", EntryType::File, None) }
    };
    entries.push(file(b"hello.txt", b"hello, world\n", 0o644, 0));
    entries.push(file(b"page.html", b"<script>", 0o644, 0));
    entries.push(file(b"empty", b"", 0o600, 0));
    entries.push(file(b"dir/big", &big, 0o755, 123_456_789));
    entries.push(file(b"dir/block", &[7; 1024], 0o444, 0));
    entries.push(file(b"dir/\xff\xfe", b"no utf-8", 0o640, 0));
    entries.push(file(format!("{deep}/file").as_bytes(), b"far down", 0o644, 5));
    let hundred = "n".repeat(100);
    entries.push(file(hundred.as_bytes(), b"on the border", 0o644, 0));
    entries.push(entry("dir", EntryType::Dir, None));
    entries.push(Entry { mode: 0o700, ..entry("dir/void", EntryType::Dir, None) });
    entries.push(entry("deep", EntryType::Dir, None));
    entries.push(entry(&format!("deep/{}", "d".repeat(120)), EntryType::Dir, None));
    entries.push(entry(&deep, EntryType::Dir, None));
    entries.push(Entry { mtime: Timestamp::new(-86_400, 0).unwrap(), ..entry("old", EntryType::Dir, None) });
    entries.push(Entry { mode: 0o777, ..entry("link", EntryType::Symlink, Some("dir/big")) });
    entries.push(Entry { mode: 0o777, ..entry("dirlink", EntryType::Symlink, Some("dir/")) });
    let far = format!("{deep}/file");
    entries.push(Entry { mode: 0o777, ..entry("longlink", EntryType::Symlink, Some(&far)) });
    entries.push(Entry {
        size: 8,
        mtime: Timestamp::new(1_767_225_600, 5).unwrap(),
        ..entry("zhard", EntryType::Hardlink, Some(&far))
    });
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    (entries, contents)
}

fn lay_out(staging: &Staging, entries: &[Entry], contents: &BTreeMap<RelPath, Vec<u8>>) {
    let tree = staging.fresh_tree().unwrap();
    let meta = |entry: &Entry| Meta { mode: store_mode(entry.mode), owner: None, mtime: entry.mtime_parts() };
    for entry in entries {
        match entry.kind {
            EntryType::Dir => tree.make_dir(&entry.path, 0o755).unwrap(),
            EntryType::File => {
                let mut file = tree.create_file(&entry.path, 0o600).unwrap();
                file.write_all(&contents[&entry.path]).unwrap();
                apply_meta(&file, entry.path.as_path(), &meta(entry)).unwrap();
            }
            EntryType::Symlink => {
                tree.symlink(entry.target.as_deref().unwrap(), &entry.path).unwrap();
                tree.apply_symlink_meta(&entry.path, &meta(entry)).unwrap();
            }
            EntryType::Hardlink => {
                let target = RelPath::parse(entry.target.as_deref().unwrap()).unwrap();
                crate::fs::hard_link(&tree, &target, &tree, &entry.path).unwrap();
            }
        }
    }
    for entry in entries.iter().rev().filter(|entry| entry.kind == EntryType::Dir) {
        tree.open_dir(&entry.path).unwrap().apply_meta(&meta(entry)).unwrap();
    }
}
