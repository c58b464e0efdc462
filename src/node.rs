//! Composition: settings to a running node. The one place that wires the rooms.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::acquire::{ClientError, Fetcher};
use crate::intent::{self, DocumentError, LogFormat, Settings};
use crate::reconcile::{Parts, Reconciler, Vital};
use crate::seed::{Filled, Record, Renderer, SeedError, Seeder};
use crate::serve::{BindError, Server};
use crate::store::{Limits, ManifestHead, OpenError, Store};

/// How long work in flight may take to end once the node is told to stop: above the time that the server gives requests,
/// below the 30 s that Kubernetes gives a pod.
const DRAIN: Duration = Duration::from_secs(25);

/// How long the daemon before this one may take to let go of the store: its drain, and its last writing.
const TAKE_OVER: Duration = Duration::from_secs(40);

/// What the command line says about the node to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Directory with `seedcache.yaml` and the documents.
    pub config: PathBuf,
    /// Stands for `seed.root: DIR` and `store.root: DIR/.seedcache`.
    pub root: Option<PathBuf>,
    /// Stands for `listen.http`.
    pub listen: Option<String>,
    /// Stands for `listen.socket`.
    pub socket: Option<PathBuf>,
}

/// Why the node does not run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The settings are refused.
    #[error("the settings are refused")]
    Settings(#[source] DocumentError),
    /// The configuration directory cannot be read.
    #[error("the documents cannot be read")]
    Documents(#[source] DocumentError),
    /// `log.level` is none.
    #[error("log.level {level:?} is no filter; write it like `info` or `seedcache=debug,info`")]
    LogLevel {
        /// What the settings say.
        level: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// The store cannot be opened.
    #[error("the store cannot be opened")]
    Store(#[source] OpenError),
    /// Targets cannot be reached.
    #[error("seed.root cannot be opened")]
    Seeder(#[source] SeedError),
    /// No HTTP client.
    #[error("the HTTP client cannot be made")]
    Client(#[source] ClientError),
    /// An address cannot be listened on.
    #[error("the node cannot listen")]
    Bind(#[source] BindError),
    /// A defect.
    #[error(
        "the part that is to {task} broke, and the daemon ends; this is a defect of seedcache, please report it with the log"
    )]
    Broken {
        /// What it does.
        task: &'static str,
    },
    /// A defect.
    #[error("a starting task ended unexpectedly; this is a defect of seedcache, please report it")]
    Task(#[from] tokio::task::JoinError),
}

impl NodeError {
    /// What to do about it, where the message does not say.
    pub fn next(&self) -> Option<&'static str> {
        match self {
            NodeError::Settings(DocumentError::Fs(_)) | NodeError::Documents(DocumentError::Fs(_)) => {
                Some("give --config a directory that this user may read, with seedcache.yaml and the documents in it")
            }
            NodeError::Settings(_) => Some("`seedcache check` says whether the settings are well"),
            NodeError::Store(OpenError::Fs(_)) => {
                Some("give store.root (or --root) a directory that this user may write to")
            }
            NodeError::Seeder(SeedError::Fs(_)) => {
                Some("give seed.root (or --root) a directory that this user may write to")
            }
            _ => None,
        }
    }
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    /// What it does.
    pub reconciler: Reconciler,
    /// Where it listens for TCP.
    pub http: Option<SocketAddr>,
    /// Where its socket is.
    pub socket: Option<PathBuf>,
    /// Targets lie below it.
    pub seed_root: PathBuf,
    /// Logs are lines for people.
    pub talks_text: bool,
    vital: Vital,
    cancel: CancellationToken,
}

impl Node {
    /// Starts a node: what is declared is warmed and served from here on.
    pub async fn start(options: Options) -> Result<Self, NodeError> {
        let (given, settings) = tokio::task::spawn_blocking(move || settings(options)).await??;
        let talks_text = start_logging(&settings)?;
        raise_descriptor_limit();
        let (config, opened) = (given.config.clone(), settings.clone());
        let opened = tokio::task::spawn_blocking(move || open(&opened, &config));
        let Opened { catalog, store, seeder, records, filled, repairs } = opened.await??;
        tell_catalog(&catalog);
        let fetcher = Fetcher::new(&settings.fetch).map_err(NodeError::Client)?;
        let name = node_name();
        let server = Server::bind(&settings.listen, &name).await.map_err(NodeError::Bind)?;
        let (http, socket) = (server.address(), server.socket().map(std::path::Path::to_path_buf));
        let vital = Vital::new(TaskTracker::new());
        let cancel = CancellationToken::new();
        let concurrency = settings.fetch.concurrency as usize;
        let limits =
            Limits { max_bytes: settings.store.max_bytes.map(|bytes| bytes.0), min_free: settings.store.min_free };
        let scrub = settings.scrub.clone();
        let renderer = renderer(name, &settings);
        let parts =
            Parts { store, fetcher, seeder, renderer, catalog, records, filled, concurrency, limits, scrub, repairs };
        let reconciler = Reconciler::start(parts, &vital, cancel.child_token());
        let mut registry = Registry::default();
        reconciler.register(&mut registry);
        vital.spawn("serve", server.serve(reconciler.clone(), registry, cancel.child_token()));
        vital.spawn("follow documents", follow(given, settings.clone(), reconciler.clone(), cancel.child_token()));
        tracing::info!(version = env!("CARGO_PKG_VERSION"), store = %settings.store.root.display(),
            seed_root = %settings.seed.root.display(), http = http.map(tracing::field::display),
            socket = socket.as_ref().map(|s| tracing::field::display(s.display().to_string())), "seedcache started");
        let seed_root = settings.seed.root;
        Ok(Self { reconciler, http, socket, seed_root, talks_text, vital, cancel })
    }

    /// Waits until the node can't go on: a defect ended a part that it needs. It is to be stopped and started anew.
    pub async fn broken(&self) -> NodeError {
        NodeError::Broken { task: self.vital.broken().await }
    }

    /// Ends the node: requests in flight are finished, downloads are left to be resumed.
    pub async fn stop(self) {
        tracing::info!("seedcache stops");
        self.cancel.cancel();
        self.vital.tasks().close();
        if tokio::time::timeout(DRAIN, self.vital.tasks().wait()).await.is_err() {
            tracing::warn!(limit_s = DRAIN.as_secs(), "work in flight did not end in time and is given up");
        }
        // The store is closed here, off the async threads: it writes its index out.
        drop(tokio::task::spawn_blocking(move || drop(self.reconciler)).await);
        tracing::info!("seedcache stopped");
    }
}

/// The settings with what the command line says in its place, and the options with the configuration's absolute path.
fn settings(mut options: Options) -> Result<(Options, Settings), NodeError> {
    let load = || {
        options.config = crate::fs::absolute(&options.config)?;
        let mut settings = intent::load_settings(&options.config)?;
        settings.apply(options.root.as_deref(), options.listen.clone(), options.socket.clone())?;
        Ok(settings)
    };
    let settings = { load }().map_err(NodeError::Settings)?;
    Ok((options, settings))
}

fn tell_catalog(catalog: &intent::Catalog) {
    for refused in &catalog.refused {
        let error = intent::error_chain(&*refused.error);
        tracing::error!(file = %refused.file.display(), error, "document refused; the others go on");
    }
}

fn set(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// NODE_NAME, as the DaemonSet sets it, else the host's name.
fn node_name() -> String {
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    set("NODE_NAME").filter(|name| !name.is_empty()).unwrap_or_else(host)
}

/// Renders with the variables that the settings list.
fn renderer(node: String, settings: &Settings) -> Renderer {
    let env = settings.seed.env.iter().map(|name| (name.clone(), set(name))).collect();
    Renderer::new(node, env)
}

/// Takes up changed documents while the node runs. Settings are read once: that they changed is only said.
async fn follow(options: Options, running: Settings, reconciler: Reconciler, cancel: CancellationToken) {
    let mut watch = intent::Watch::new(&options.config);
    let mut told = None;
    // The first reading comes without a hint: between the start's own and the watch something may have changed.
    loop {
        let again = options.clone();
        let read = tokio::task::spawn_blocking(move || {
            let catalog = intent::load_catalog(&again.config).map_err(NodeError::Documents);
            (catalog, settings(again).map(|(_, settings)| settings))
        });
        if let Ok((catalog, settings)) = read.await {
            take_up(&reconciler, catalog);
            tell_settings(&mut told, &running, settings);
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = watch.hint() => {}
        }
    }
}

fn take_up(reconciler: &Reconciler, catalog: Result<intent::Catalog, NodeError>) {
    match catalog {
        Ok(catalog) => {
            if reconciler.set_catalog(catalog) {
                tell_catalog(&reconciler.catalog());
                tracing::info!("documents changed and were taken up");
            }
        }
        // A directory that is being replaced: what was read last goes on.
        Err(error) => tracing::warn!(error = intent::error_chain(&error), "documents cannot be read now"),
    }
}

fn tell_settings(told: &mut Option<String>, running: &Settings, settings: Result<Settings, NodeError>) {
    match settings {
        Ok(settings) if settings == *running => *told = None,
        Ok(_) => tell_once(told, "restart the daemon for the changed settings to take effect".into()),
        Err(error) => tell_once(told, intent::error_chain(&error)),
    }
}

fn tell_once(told: &mut Option<String>, what: String) {
    if told.as_ref() != Some(&what) {
        tracing::warn!(what, "settings changed");
        *told = Some(what);
    }
}

struct Opened {
    catalog: intent::Catalog,
    store: Arc<Store>,
    seeder: Arc<Seeder>,
    records: Vec<Record>,
    filled: Vec<Filled>,
    repairs: Vec<ManifestHead>,
}

fn open(settings: &Settings, config: &std::path::Path) -> Result<Opened, NodeError> {
    let catalog = intent::load_catalog(config).map_err(NodeError::Documents)?;
    let store = Arc::new(Store::take_over(&settings.store.root, TAKE_OVER).map_err(NodeError::Store)?);
    let seeder = Arc::new(Seeder::open(&settings.seed.root, store.clone()).map_err(NodeError::Seeder)?);
    // Of filled directories there may be thousands: those that are gone are forgotten by the first round of keeping house.
    let (records, filled) = (seeder.records(), seeder.known_filled());
    let repairs = store.pending_repairs();
    Ok(Opened { catalog, store, seeder, records, filled, repairs })
}

/// Logs go to standard error. Returns whether they are lines for people.
fn start_logging(settings: &Settings) -> Result<bool, NodeError> {
    use std::io::IsTerminal as _;
    let level = &settings.log.level;
    let filter = tracing_subscriber::EnvFilter::try_new(level)
        .map_err(|source| NodeError::LogLevel { level: level.clone(), source })?;
    let terminal = std::io::stderr().is_terminal();
    let text = match settings.log.format {
        LogFormat::Auto => terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    // A log that cannot be written, as on a full disk, is lost: told on standard error, that would fail, too, and panic.
    let subscriber =
        tracing_subscriber::fmt().log_internal_errors(false).with_env_filter(filter).with_writer(std::io::stderr);
    // A second node in one process (tests) keeps the first one's log.
    let _ = if text {
        subscriber.with_ansi(terminal).with_target(false).try_init()
    } else {
        subscriber.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    };
    Ok(text)
}

/// Takes all the descriptors that the system allows: connections, trees being seeded and downloads need many, and what
/// shells and container engines give at first is few.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => tracing::debug!(from = current, to = maximum, "limit of open files raised"),
        Err(error) => tracing::warn!(%error, limit = current, "limit of open files stays low"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_the_descriptors_there_are_can_be_used() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let low = maximum.map_or(1 << 20, |most| most - 1);
        assert!(setrlimit(Resource::Nofile, Rlimit { current: Some(low), maximum }).is_ok());
        raise_descriptor_limit();
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    }
}
