//! `seedcache.yaml`: the settings of one node, every field with its default.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Bytes, Interval, MinFree};

/// The settings of a node. Relative paths are relative to the working directory.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Settings {
    /// Where versions are kept.
    pub store: StoreSettings,
    /// Where pods are seeded.
    pub seed: SeedSettings,
    /// Where the daemon listens.
    pub listen: Listen,
    /// How it downloads.
    pub fetch: FetchSettings,
    /// How it checks what it holds.
    pub scrub: ScrubSettings,
    /// How it logs.
    pub log: LogSettings,
}

/// Where versions are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct StoreSettings {
    /// The store's directory.
    pub root: PathBuf,
    /// Most bytes that the store may hold; null: no limit but `minFree`.
    pub max_bytes: Option<Bytes>,
    /// Room to leave free on its file system.
    pub min_free: MinFree,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self { root: "/mnt/kube-data/.seedcache".into(), max_bytes: None, min_free: MinFree::Percent(5.0) }
    }
}

/// Where pods are seeded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct SeedSettings {
    /// Every path target is below it.
    pub root: PathBuf,
    /// Names of environment variables that templates may read.
    pub env: Vec<String>,
}

impl Default for SeedSettings {
    fn default() -> Self {
        Self { root: "/mnt/kube-data".into(), env: Vec::new() }
    }
}

/// Where the daemon listens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Listen {
    /// TCP address; null: none.
    pub http: Option<String>,
    /// Unix socket; null: none.
    pub socket: Option<PathBuf>,
    /// File with the bearer token that changes over TCP need; without it they are refused.
    pub token_file: Option<PathBuf>,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            http: Some("127.0.0.1:7070".into()),
            socket: Some("/run/seedcache/seedcache.sock".into()),
            token_file: None,
        }
    }
}

/// How the daemon downloads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct FetchSettings {
    /// Downloads at once.
    pub concurrency: u32,
    /// Bytes per second below which a download is given up and tried again elsewhere.
    pub min_throughput: Bytes,
    /// How long a download may stay below it, or without a byte.
    pub stall_timeout: Interval,
    /// PEM file of certificate authorities to trust besides the system's.
    pub ca_file: Option<PathBuf>,
}

impl Default for FetchSettings {
    fn default() -> Self {
        Self {
            concurrency: 2,
            min_throughput: Bytes(10 * 1024),
            stall_timeout: Interval(Duration::from_secs(30)),
            ca_file: None,
        }
    }
}

/// How the daemon checks what it holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ScrubSettings {
    /// Most bytes read each second.
    pub bytes_per_second: Bytes,
    /// How often everything is read once.
    pub every: Interval,
}

impl Default for ScrubSettings {
    fn default() -> Self {
        Self { bytes_per_second: Bytes(20 << 20), every: Interval(Duration::from_secs(24 * 3600)) }
    }
}

/// How the daemon logs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct LogSettings {
    /// Text or JSON lines.
    pub format: LogFormat,
    /// As `tracing` filters are written: `info`, `seedcache=debug,info`.
    pub level: String,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: "info".into() }
    }
}

/// Text or JSON lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Lines for people.
    Text,
    /// Lines for machines.
    Json,
}
