//! Composition: settings -> a running node. (to come)

use std::path::PathBuf;

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
pub enum NodeError {}

/// Runs the node until it is told to stop.
pub async fn run(_options: Options) -> Result<(), NodeError> {
    unimplemented!()
}
