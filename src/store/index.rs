//! The index: what the manifests say, kept in sled for a fast start. The only user of sled.
//!
//! Invariant: it is a hint. A row carries its own checksum and the stamp of the manifest file it was made from, and is
//! believed only while both fit; a missing row means that the manifest is read. sled panics on damaged files, can hang
//! on them, and cannot be opened on a full disk: it lives on a thread of its own, behind `catch_unwind` and a time
//! limit. When it fails it is put aside and the store goes on without it until the next start.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ManifestHead;
use super::layout::{lock, own};
use crate::fs::{self, Dir, Rename, Stamp, fail_point};
use crate::intent::{ArtifactName, Digest, VersionName};

/// How long sled may take for one call; over it the index is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Calls that may wait; an index that is slower than that is not worth waiting for.
const QUEUE: usize = 1024;
/// Bytes of page cache that sled may hold.
const CACHE: u64 = 4 << 20;

/// What the index knows of one version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Row {
    /// The manifest file that this was read from, as it was then.
    pub(super) stamp: Stamp,
    /// What it said.
    pub(super) head: ManifestHead,
}

/// A handle on the index thread; `None` inside once it was given up.
#[derive(Debug)]
pub(super) struct Index {
    calls: Mutex<Option<SyncSender<Call>>>,
    /// Cut when the thread has ended.
    ended: Mutex<Option<Receiver<()>>>,
}

#[derive(Debug)]
enum Call {
    Load(SyncSender<Vec<(Vec<u8>, Vec<u8>)>>),
    Put(Vec<(Vec<u8>, Vec<u8>)>),
    Remove(Vec<u8>),
}

impl Index {
    /// Opens `index/` below `root`; one that cannot be opened is moved to `quarantine` and made anew.
    pub(super) fn open(root: &Dir, quarantine: &Dir) -> Self {
        let path = root.path().join("index");
        let calls = start(path.clone()).or_else(|failure| {
            tracing::warn!(%failure, "index put aside, made anew from the manifests");
            put_aside(root, quarantine)
                .inspect_err(|error| tracing::warn!(%error, "index cannot be put aside"))
                .ok()
                .and_then(|()| start(path).ok())
                .ok_or(failure)
        });
        match calls {
            Ok((calls, ended)) => Self { calls: Mutex::new(Some(calls)), ended: Mutex::new(Some(ended)) },
            Err(failure) => {
                tracing::warn!(%failure, "no index: starts read every manifest until it can be made");
                Self { calls: Mutex::new(None), ended: Mutex::new(None) }
            }
        }
    }

    /// All rows whose checksum fits, by version.
    pub(super) fn load(&self) -> HashMap<(ArtifactName, VersionName), Row> {
        let (answer, rows) = sync_channel(1);
        self.send(Call::Load(answer));
        let Ok(rows) = rows.recv_timeout(PATIENCE) else {
            self.give_up("loading took too long or failed");
            return HashMap::new();
        };
        rows.into_iter().filter_map(|(key, value)| read_row(&key, &value)).collect()
    }

    /// Notes what a manifest says.
    pub(super) fn put(&self, head: &ManifestHead, stamp: &Stamp) {
        self.put_all(&[Row { stamp: *stamp, head: head.clone() }]);
    }

    /// Notes what many manifests say, in one call: a start without an index must not fill the queue.
    pub(super) fn put_all(&self, rows: &[Row]) {
        if !rows.is_empty() {
            self.send(Call::Put(rows.iter().map(written).collect()));
        }
    }

    /// Forgets a version.
    pub(super) fn remove(&self, artifact: &ArtifactName, version: &VersionName) {
        self.send(Call::Remove(row_key(artifact, version)));
    }

    fn send(&self, call: Call) {
        let calls = lock(&self.calls).clone();
        // A full queue drops the hint: the next start reads that manifest.
        if let Some(calls) = calls
            && let Err(std::sync::mpsc::TrySendError::Disconnected(_)) = calls.try_send(call)
        {
            self.give_up("its thread ended");
        }
    }

    fn give_up(&self, why: &'static str) {
        if lock(&self.calls).take().is_some() {
            tracing::warn!(why, "index given up until the next start; the manifests serve instead");
        }
    }
}

/// The thread writes out what it was told before it ends: waited for, or the next start finds sled still locked.
impl Drop for Index {
    fn drop(&mut self) {
        lock(&self.calls).take();
        if let Some(ended) = lock(&self.ended).take() {
            // Nothing is ever sent: this returns when the thread is gone or patience is.
            let _ = ended.recv_timeout(PATIENCE);
        }
    }
}

/// Why sled is not to be had.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("sled refuses it")]
    Sled(#[source] sled::Error),
    #[error("sled panicked or took longer than {PATIENCE:?}")]
    Lost,
    #[error("no thread for it")]
    Thread(#[source] std::io::Error),
}

/// Opens sled on a thread of its own, which then serves calls until the handle is dropped.
fn start(path: PathBuf) -> Result<(SyncSender<Call>, Receiver<()>), Failure> {
    let (calls, queue) = sync_channel(QUEUE);
    let (ending, ended) = sync_channel::<()>(1);
    let (opened, outcome) = sync_channel(1);
    let serve = move || {
        let _ending = ending;
        let config = sled::Config::new().path(path).cache_capacity(CACHE).flush_every_ms(None);
        match config.open() {
            Ok(db) => {
                let _ = opened.send(Ok(()));
                answer_calls(&db, &queue);
            }
            Err(error) => {
                let _ = opened.send(Err(error));
            }
        }
    };
    // The panic ends the thread and with it both channels: whoever waits is told by that.
    let guarded = move || drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(serve)));
    std::thread::Builder::new().name("index".into()).spawn(guarded).map_err(Failure::Thread)?;
    match outcome.recv_timeout(PATIENCE) {
        Ok(Ok(())) => Ok((calls, ended)),
        Ok(Err(error)) => Err(Failure::Sled(error)),
        Err(_) => Err(Failure::Lost),
    }
}

fn answer_calls(db: &sled::Db, queue: &Receiver<Call>) {
    while let Ok(first) = queue.recv() {
        let waiting = std::iter::from_fn(|| queue.try_recv().ok());
        // What has piled up is written out once; the last flush is that of the handle's end.
        let done = std::iter::once(first).chain(waiting).try_for_each(|call| answer(db, call));
        fail_point("store.index.before-flush");
        if let Err(error) = done.and_then(|()| db.flush().map(drop)) {
            tracing::warn!(%error, "index failed");
            return;
        }
        fail_point("store.index.after-flush");
    }
}

fn answer(db: &sled::Db, call: Call) -> sled::Result<()> {
    fail_point("store.index.before-change");
    let done = match call {
        Call::Load(answer) => {
            let rows: sled::Result<Vec<_>> = db.iter().map(|row| row.map(|(k, v)| (k.to_vec(), v.to_vec()))).collect();
            rows.map(|rows| drop(answer.send(rows)))
        }
        Call::Put(rows) => rows.into_iter().try_for_each(|(key, value)| db.insert(key, value).map(drop)),
        Call::Remove(key) => db.remove(key).map(drop),
    };
    fail_point("store.index.after-change");
    done
}

fn put_aside(root: &Dir, quarantine: &Dir) -> fs::Result<()> {
    let aside = own(".index");
    fail_point("store.index.before-aside");
    quarantine.remove_tree(&aside)?;
    fail_point("store.index.after-clearing");
    match root.rename(&own("index"), quarantine, &aside, Rename::Replace) {
        Err(e) if !e.is_not_found() => return Err(e),
        _ => fail_point("store.index.after-aside"),
    }
    root.sync()
}

pub(super) fn row_key(artifact: &ArtifactName, version: &VersionName) -> Vec<u8> {
    format!("{artifact}/{version}").into_bytes()
}

/// Over the key too: a row that turns up under another key is not believed.
pub(super) fn checksum(key: &[u8], json: &[u8]) -> String {
    Digest::sha256(&[key, b"\0", json].concat()).hex()
}

fn written(row: &Row) -> (Vec<u8>, Vec<u8>) {
    let key = row_key(&row.head.artifact, &row.head.version);
    let json =
        serde_json::to_vec(row).unwrap_or_else(|e| unreachable!("plain fields with text keys always serialise: {e}"));
    let value = [checksum(&key, &json).as_bytes(), &json].concat();
    (key, value)
}

pub(super) fn read_row(key: &[u8], value: &[u8]) -> Option<((ArtifactName, VersionName), Row)> {
    let (sum, json) = value.split_at_checked(64)?;
    if checksum(key, json).as_bytes() != sum {
        return None;
    }
    let row: Row = serde_json::from_slice(json).ok()?;
    let (artifact, version) = (row.head.artifact.clone(), row.head.version.clone());
    (row_key(&artifact, &version) == key).then_some(((artifact, version), row))
}
