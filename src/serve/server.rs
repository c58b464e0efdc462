//! The server: listeners bound early, so that their addresses are known, and served until the daemon stops.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio_util::sync::CancellationToken;

use super::files::Shelf;
use super::gate::Gate;
use super::host::OwnNames;
use super::listener::{Connections, Limits};
use super::manifests::Manifests;
use super::metrics::Metrics;
use super::quick::Quick;
use super::routes::{App, router};
use super::socket::{Socket, SocketError};
use crate::intent::Listen;
use crate::reconcile::Reconciler;

/// Connections that may wait to be accepted; the system's own limit may be lower.
const BACKLOG: u32 = 4096;

/// Bound listeners that do not answer yet; who connects waits.
#[derive(Debug)]
pub struct Server {
    tcp: Option<(TcpListener, SocketAddr)>,
    unix: Option<(Socket, UnixListener)>,
    token_file: Option<PathBuf>,
    names: OwnNames,
}

/// Why the daemon cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The TCP address is not to be had.
    #[error("cannot listen on {address}; if another daemon has it, stop that one or set listen.http (or --listen)")]
    Tcp {
        /// As configured.
        address: String,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The Unix socket is not to be had.
    #[error(transparent)]
    Socket(#[from] SocketError),
}

impl Server {
    /// Listens where the settings say: port 0 takes any free one, null listens not at all. `node` is the node's name, one
    /// of those that browsers may call it by.
    pub async fn bind(listen: &Listen, node: &str) -> Result<Self, BindError> {
        let tcp = match &listen.http {
            None => None,
            Some(address) => Some(bind_tcp(address).await.map_err(|source| {
                let address = address.clone();
                BindError::Tcp { address, source }
            })?),
        };
        let unix = match &listen.socket {
            None => None,
            Some(path) => Some(Socket::bind(path).await?),
        };
        let names = OwnNames::new(listen.http.as_deref(), node);
        Ok(Self { tcp, unix, token_file: listen.token_file.clone(), names })
    }

    /// The TCP address, its real port in it.
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().map(|(_, address)| *address)
    }

    /// The Unix socket.
    pub fn socket(&self) -> Option<&Path> {
        self.unix.as_ref().map(|(socket, _)| socket.path())
    }

    /// Serves until `cancel`, then finishes what is in flight (within 20 s) and returns. `registry` holds the metrics of
    /// other rooms, to be shown with this one's.
    pub async fn serve(self, reconciler: Reconciler, registry: Registry, cancel: CancellationToken) {
        let gate = Gate {
            token_file: self.token_file.as_deref().map(Into::into),
            own_uid: rustix::process::geteuid().as_raw(),
        };
        let manifests = Arc::new(Manifests::default());
        let shelf = Shelf { store: reconciler.store().clone(), manifests: manifests.clone() };
        let metrics = Metrics::new(registry);
        let quick = Quick { shelf: shelf.clone(), metrics: metrics.clone(), names: self.names.clone() };
        let app = App { reconciler, shelf, metrics, gate };
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let router = router(app, self.names.clone());
        let connections = Connections::new(router, Limits::within(files)).with_quick(quick);
        let http = self.address().map(|address| address.to_string());
        let socket = self.socket().map(|path| path.display().to_string());
        tracing::info!(http, socket, "listening");
        tokio::join!(serve_on(connections, self, &cancel), manifests.forget_idle(&cancel));
    }
}

async fn bind_tcp(address: &str) -> io::Result<(TcpListener, SocketAddr)> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name leads to no address");
    for address in tokio::net::lookup_host(address).await? {
        match listen_on(address) {
            Ok(listener) => {
                let address = listener.local_addr()?;
                return Ok((listener, address));
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// What `TcpListener::bind` does, but for its queue of 128: more pods than that may ask at one moment, and those that
/// found it full would wait a second or be reset.
fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn serve_on(connections: Connections, server: Server, cancel: &CancellationToken) {
    let tcp = async {
        if let Some((listener, _)) = server.tcp {
            connections.accept_from(listener, cancel).await;
        }
    };
    let unix = async {
        let Some((socket, listener)) = server.unix else { return };
        connections.accept_from(listener, cancel).await;
        if let Err(error) = socket.remove() {
            tracing::warn!(%error, "socket not removed");
        }
    };
    tokio::join!(tcp, unix);
    connections.drain().await;
    tracing::info!("no longer listening");
}

#[cfg(test)]
mod tests;
