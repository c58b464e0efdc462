//! The clients that requests are sent by: one for most, one for where redirects lead.

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

/// Where a client connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Wherever it is told to, by way of proxies.
    Any,
    /// To addresses of the internet only, and asks no proxy.
    Global,
}

/// The clients of the node. All speak HTTP/1.1: over HTTP/2 a connection that its origin does not answer on any more would
/// be taken again for the next request, and all requests at once would be on one.
#[derive(Debug)]
pub(super) struct Clients {
    extra: Vec<Certificate>,
    roots: Roots,
    /// The proxies that the usual client asks, seen in the same way.
    proxies: Matcher,
    usual: Client,
    /// Made when it is first needed.
    global: OnceLock<Client>,
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
        let usual = builder(&extra, roots, Reach::Any).build().map_err(ClientError::Build)?;
        Ok(Self { extra, roots, proxies: Matcher::from_system(), usual, global: OnceLock::new() })
    }

    /// Whether a proxy is asked for an address: it looks names up, not this node.
    pub(super) fn are_proxied(&self, url: &Url) -> bool {
        url.as_str().parse().is_ok_and(|uri| self.proxies.intercept(&uri).is_some())
    }

    /// The client that reaches so far.
    pub(super) async fn get(self: &Arc<Self>, reach: Reach) -> Result<Client, ClientError> {
        let made = match reach {
            Reach::Any => Some(&self.usual),
            Reach::Global => self.global.get(),
        };
        if let Some(client) = made {
            return Ok(client.clone());
        }
        let this = self.clone();
        let mut making = tokio::task::spawn_blocking(move || {
            let made = builder(&this.extra, this.roots, reach).build().map_err(ClientError::Build)?;
            Ok(this.global.get_or_init(|| made).clone())
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
    builder(&certificates, Roots::None, Reach::Any).build().map_err(malformed)?;
    Ok(certificates)
}

fn builder(extra: &[Certificate], roots: Roots, reach: Reach) -> ClientBuilder {
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
    match reach {
        Reach::Any => builder,
        // A proxy's own address may be a private one, and is not what the guard is to judge.
        Reach::Global => builder.no_proxy().dns_resolver(Guard::new()),
    }
}
