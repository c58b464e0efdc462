//! The clients that requests are sent by: one for most, others made when they are first needed.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{Certificate, Client, ClientBuilder, Url};

use super::error::ClientError;
use super::guard::Guard;
use crate::fs;
use crate::intent::FetchSettings;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a file with certificates.
const CA_LIMIT: u64 = 4 << 20;

/// Which authorities are trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Roots {
    System,
    None,
}

/// What a client is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Kind {
    /// Connects to addresses of the internet only, and asks no proxy.
    pub(super) global: bool,
    /// Each request has a connection of its own: HTTP/2 would put them all on one.
    pub(super) apart: bool,
}

/// All clients of the node.
#[derive(Debug)]
pub(super) struct Clients {
    extra: Vec<Certificate>,
    roots: Roots,
    /// The proxies that the clients ask, seen in the same way.
    proxies: Matcher,
    usual: Client,
    /// The others, by kind.
    others: [OnceLock<Client>; 3],
}

impl Clients {
    /// As the settings say. An image without any authorities still fetches over plain http, or under `caFile` alone.
    pub(super) fn new(settings: &FetchSettings) -> Result<Self, ClientError> {
        let extra = extra_roots(settings)?;
        Self::with(extra.clone(), Roots::System).or_else(|error| {
            let clients = Self::with(extra, Roots::None)?;
            tracing::warn!(error = %error, "no system certificate authorities: https trusts fetch.caFile only");
            Ok(clients)
        })
    }

    pub(super) fn with(extra: Vec<Certificate>, roots: Roots) -> Result<Self, ClientError> {
        let usual = builder(&extra, roots, Kind::default()).build().map_err(ClientError::Build)?;
        Ok(Self { extra, roots, proxies: Matcher::from_system(), usual, others: Default::default() })
    }

    /// Whether a proxy is asked for an address: it looks names up, not this node.
    pub(super) fn are_proxied(&self, url: &Url) -> bool {
        url.as_str().parse().is_ok_and(|uri| self.proxies.intercept(&uri).is_some())
    }

    /// A client of a kind.
    pub(super) async fn get(self: &Arc<Self>, kind: Kind) -> Result<Client, ClientError> {
        let at = match kind {
            Kind { global: false, apart: false } => return Ok(self.usual.clone()),
            Kind { global: false, apart: true } => 0,
            Kind { global: true, apart: false } => 1,
            Kind { global: true, apart: true } => 2,
        };
        if let Some(client) = self.others[at].get() {
            return Ok(client.clone());
        }
        let this = self.clone();
        let mut making = tokio::task::spawn_blocking(move || {
            let made = builder(&this.extra, this.roots, kind).build().map_err(ClientError::Build)?;
            Ok(this.others[at].get_or_init(|| made).clone())
        });
        super::file::joined(&mut making).await
    }
}

fn extra_roots(settings: &FetchSettings) -> Result<Vec<Certificate>, ClientError> {
    let Some(path) = &settings.ca_file else { return Ok(Vec::new()) };
    let pem = fs::read_limited(path, CA_LIMIT).map_err(ClientError::CaRead)?;
    let malformed = |source| ClientError::CaMalformed { path: path.clone(), source };
    let certificates = Certificate::from_pem_bundle(&pem).map_err(malformed)?;
    if certificates.is_empty() {
        return Err(ClientError::CaEmpty { path: path.clone() });
    }
    // One that does not parse fails here, with the file named, and not as "the client cannot be made".
    builder(&certificates, Roots::None, Kind::default()).build().map_err(malformed)?;
    Ok(certificates)
}

fn builder(extra: &[Certificate], roots: Roots, kind: Kind) -> ClientBuilder {
    // The client panics without a provider. An error says that one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .user_agent(concat!("seedcache/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false);
    let builder = match roots {
        Roots::System => builder.tls_certs_merge(extra.iter().cloned()),
        Roots::None => builder.tls_certs_only(extra.iter().cloned()),
    };
    let builder = if kind.apart { builder.http1_only() } else { builder };
    // A proxy's own address may be a private one, and is not what the guard is to judge.
    if kind.global { builder.no_proxy().dns_resolver(Guard::new()) } else { builder }
}
