//! `seedcache.yaml`: the settings of one node, every field with its default.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::{DocumentError, Problem};
use super::validate::{Wrong, wrong};
use super::yaml::blank_is_default;
use super::{Bytes, Interval, MinFree};

/// The settings of a node. Relative paths are relative to the working directory.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Settings {
    /// Where versions are kept.
    #[serde(deserialize_with = "blank_is_default")]
    pub store: StoreSettings,
    /// Where pods are seeded.
    #[serde(deserialize_with = "blank_is_default")]
    pub seed: SeedSettings,
    /// Where the daemon listens.
    #[serde(deserialize_with = "blank_is_default")]
    pub listen: Listen,
    /// How it downloads.
    #[serde(deserialize_with = "blank_is_default")]
    pub fetch: FetchSettings,
    /// How it checks what it holds.
    #[serde(deserialize_with = "blank_is_default")]
    pub scrub: ScrubSettings,
    /// How it logs.
    #[serde(deserialize_with = "blank_is_default")]
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
    #[serde(deserialize_with = "blank_is_default")]
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
    /// Downloads at once. One that gets less than `minThroughput` does not count while it does, up to 16 such.
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

impl Settings {
    /// Checks what the types do not say.
    pub(super) fn check(&self) -> Result<(), Wrong> {
        let empty = |path: &Path| path.as_os_str().is_empty();
        let paths = [("store.root", Some(&self.store.root)), ("seed.root", Some(&self.seed.root))];
        let optional = [
            ("listen.socket", self.listen.socket.as_ref()),
            ("listen.tokenFile", self.listen.token_file.as_ref()),
            ("fetch.caFile", self.fetch.ca_file.as_ref()),
        ];
        if let Some((field, _)) =
            paths.into_iter().chain(optional).find(|(_, path)| path.is_some_and(|path| empty(path)))
        {
            return wrong(field, Problem::EmptyPath);
        }
        if self.seed.root.starts_with(&self.store.root) {
            return wrong("seed.root", Problem::RootInStore { store: self.store.root.display().to_string() });
        }
        if let Some(i) = self.seed.env.iter().position(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return wrong(format!("seed.env[{i}]"), Problem::EnvName { given: self.seed.env[i].clone() });
        }
        for (field, is_zero) in [
            ("store.maxBytes", self.store.max_bytes == Some(Bytes(0))),
            ("fetch.concurrency", self.fetch.concurrency == 0),
            ("scrub.bytesPerSecond", self.scrub.bytes_per_second.0 == 0),
        ] {
            if is_zero {
                return wrong(field, Problem::TooSmall { least: "1" });
            }
        }
        for (field, interval) in [("fetch.stallTimeout", self.fetch.stall_timeout), ("scrub.every", self.scrub.every)] {
            if interval.0 < Duration::from_secs(1) {
                return wrong(field, Problem::TooSmall { least: "1s" });
            }
        }
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&self.log.level) {
            return wrong("log.level", Problem::LogLevel(error));
        }
        match &self.listen.http {
            Some(given) => address(given).or_else(|problem| wrong("listen.http", problem)),
            None if self.listen.socket.is_none() => wrong("listen", Problem::NowhereToListen),
            None => Ok(()),
        }
    }

    /// Puts what the command line says in its place, and makes every path absolute: they are relative to the working
    /// directory.
    pub fn apply(
        &mut self,
        root: Option<&Path>,
        listen: Option<String>,
        socket: Option<PathBuf>,
    ) -> Result<(), DocumentError> {
        let empty = |path: Option<&Path>| path.is_some_and(|path| path.as_os_str().is_empty());
        for (option, path) in [("--root", root), ("--socket", socket.as_deref())] {
            if empty(path) {
                return Err(DocumentError::Option { option, problem: Problem::EmptyPath });
            }
        }
        if let Some(root) = root {
            self.seed.root = root.to_path_buf();
            self.store.root = root.join(".seedcache");
        }
        if let Some(given) = listen {
            address(&given).map_err(|problem| DocumentError::Option { option: "--listen", problem })?;
            self.listen.http = Some(given);
        }
        if socket.is_some() {
            self.listen.socket = socket;
        }
        let paths = [&mut self.store.root, &mut self.seed.root];
        let optional = [&mut self.listen.socket, &mut self.listen.token_file, &mut self.fetch.ca_file];
        for path in paths.into_iter().chain(optional.into_iter().flatten()) {
            *path = crate::fs::absolute(path)?;
        }
        Ok(())
    }
}

/// An address with a port: `127.0.0.1:7070`, `[::1]:7070`, `localhost:7070`.
fn address(given: &str) -> Result<(), Problem> {
    let host = given.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map(|(host, _)| host);
    match host {
        Some(host) if !host.is_empty() && (!host.contains(':') || host.starts_with('[')) => Ok(()),
        _ => Err(Problem::Listen { given: given.to_owned() }),
    }
}
