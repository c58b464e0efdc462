//! How far an acquisition is: counters that its threads add to and anyone may read.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Asking the source what is to be had.
    Resolving,
    /// Downloading, and unpacking what has come.
    Downloading,
    /// All bytes are here; the rest is being unpacked.
    Unpacking,
    /// Being made durable and visible.
    Publishing,
}

const PHASES: [Phase; 4] = [Phase::Resolving, Phase::Downloading, Phase::Unpacking, Phase::Publishing];

/// Shared counters of one acquisition.
#[derive(Debug, Default)]
pub struct Progress {
    phase: AtomicU8,
    bytes: AtomicU64,
    /// Plus one; 0 is unknown.
    total: AtomicU64,
    unpacked: AtomicU64,
    aside: AtomicU64,
    entries: AtomicU64,
    came: AtomicU64,
    waits: AtomicBool,
    crowded: AtomicBool,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// What is being done.
    pub phase: Phase,
    /// Archive bytes here so far.
    pub bytes: u64,
    /// Archive bytes in all, where the source says.
    pub total_bytes: Option<u64>,
    /// Bytes unpacked so far, without holes of sparse files.
    pub unpacked_bytes: u64,
    /// Bytes of room set aside for files and not written to yet.
    pub aside_bytes: u64,
    /// Entries unpacked so far.
    pub entries: u64,
}

impl Progress {
    /// Enters a phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    /// Archive bytes here so far (set, not added: a download may start anew).
    pub fn set_bytes(&self, bytes: u64) {
        self.bytes.store(bytes, Relaxed);
    }

    /// Archive bytes in all, where the source says.
    pub fn set_total(&self, total: Option<u64>) {
        self.total.store(total.map_or(0, |t| t.saturating_add(1)), Relaxed);
    }

    /// Bytes unpacked so far.
    pub fn add_unpacked(&self, bytes: u64) {
        self.unpacked.fetch_add(bytes, Relaxed);
    }

    /// More room is about to be set aside for a file.
    pub(super) fn add_aside(&self, bytes: u64) {
        self.aside.fetch_add(bytes, Relaxed);
    }

    /// So much of it is written to, or given back.
    pub(super) fn end_aside(&self, bytes: u64) {
        self.aside.fetch_sub(bytes, Relaxed);
    }

    /// One more entry is unpacked.
    pub fn add_entry(&self) {
        self.entries.fetch_add(1, Relaxed);
    }

    /// Unpacking starts anew.
    pub fn reset_unpacked(&self) {
        self.unpacked.store(0, Relaxed);
        self.entries.store(0, Relaxed);
    }

    /// So many bytes came from the source, wherever they belong.
    pub(super) fn came(&self, bytes: u64) {
        self.came.fetch_add(bytes, Relaxed);
    }

    /// Waits for the source, which is seen meanwhile.
    pub(super) async fn waits<T>(&self, answer: impl Future<Output = T>) -> T {
        /// Also where what waits is given up.
        struct Ends<'a>(&'a AtomicBool);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                self.0.store(false, Relaxed);
            }
        }
        self.waits.store(true, Relaxed);
        let _ends = Ends(&self.waits);
        answer.await
    }

    /// Does what waits for memory that others have.
    pub(super) fn crowded<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.crowded.store(true, Relaxed);
        let waited = wait();
        self.crowded.store(false, Relaxed);
        waited
    }

    /// Bytes that came from the source so far, those of earlier tries too; and whether more are being waited for, or memory to
    /// take them in.
    pub fn flow(&self) -> (u64, bool) {
        (self.came.load(Relaxed), self.waits.load(Relaxed) || self.crowded.load(Relaxed))
    }

    /// The counters now.
    pub fn snapshot(&self) -> Snapshot {
        // First: what is written to meanwhile is seen twice rather than not at all.
        let aside_bytes = self.aside.load(Relaxed);
        Snapshot {
            aside_bytes,
            phase: PHASES[usize::from(self.phase.load(Relaxed)) % PHASES.len()],
            bytes: self.bytes.load(Relaxed),
            total_bytes: self.total.load(Relaxed).checked_sub(1),
            unpacked_bytes: self.unpacked.load(Relaxed),
            entries: self.entries.load(Relaxed),
        }
    }
}
