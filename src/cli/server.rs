//! Where the daemon listens, as people write it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use http::uri::{Authority, Scheme, Uri};

/// Where it listens when nobody says otherwise.
pub(super) const DEFAULT: &str = "unix:///run/seedcache/seedcache.sock";

/// Where the daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Server {
    /// A Unix socket.
    Unix(PathBuf),
    /// TCP, plain HTTP; the port is always there.
    Http(Authority),
}

/// Why a text is no such address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ServerError {
    /// Neither form.
    #[error("write it as unix:///PATH of a socket, or as http://HOST:PORT")]
    Form,
    /// HTTPS.
    #[error("the daemon speaks plain HTTP: write http://HOST:PORT, and put a tunnel or proxy before it for TLS")]
    Https,
    /// No port.
    #[error("the port is missing; write http://{host}:7070 if the daemon listens where it does by default")]
    Port {
        /// The host as given.
        host: Box<str>,
    },
    /// A path, query or user.
    #[error("nothing may stand beside host and port: write http://HOST:PORT")]
    Extra,
}

impl FromStr for Server {
    type Err = ServerError;
    fn from_str(text: &str) -> Result<Self, ServerError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(ServerError::Form) } else { Ok(Server::Unix(path.into())) };
        }
        let uri: Uri = text.parse().map_err(|_| ServerError::Form)?;
        match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => {}
            Some(scheme) if *scheme == Scheme::HTTPS => return Err(ServerError::Https),
            _ => return Err(ServerError::Form),
        }
        let authority = uri.authority().ok_or(ServerError::Form)?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(ServerError::Extra);
        }
        if authority.port_u16().is_none() {
            return Err(ServerError::Port { host: authority.host().into() });
        }
        Ok(Server::Http(authority.clone()))
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Server::Unix(path) => write!(f, "unix://{}", path.display()),
            Server::Http(authority) => write!(f, "http://{authority}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_forms_are_read_and_written_alike() {
        assert_eq!(DEFAULT.parse(), Ok(Server::Unix("/run/seedcache/seedcache.sock".into())));
        assert_eq!("unix:run/x.sock".parse(), Ok(Server::Unix("run/x.sock".into())));
        for text in [DEFAULT, "http://127.0.0.1:7070", "http://[::1]:7070", "http://node-1:80"] {
            assert_eq!(text.parse::<Server>().unwrap().to_string(), text);
        }
        assert_eq!("http://node:7070/".parse::<Server>().unwrap().to_string(), "http://node:7070");
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        for (text, why) in [
            ("", ServerError::Form),
            ("unix://", ServerError::Form),
            ("/run/x.sock", ServerError::Form),
            ("127.0.0.1:7070", ServerError::Form),
            ("ftp://node:21", ServerError::Form),
            ("https://node:7070", ServerError::Https),
            ("http://node", ServerError::Port { host: "node".into() }),
            ("http://node:7070/v1", ServerError::Extra),
            ("http://node:7070/?a", ServerError::Extra),
            ("http://me:secret@node:7070", ServerError::Extra),
        ] {
            assert_eq!(text.parse::<Server>(), Err(why), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_so_that_it_reads_the_same(text in ".{0,40}|http://.{0,30}|unix:.{0,30}") {
            if let Ok(server) = text.parse::<Server>() {
                prop_assert_eq!(server.to_string().parse::<Server>(), Ok(server));
            }
        }
    }
}
