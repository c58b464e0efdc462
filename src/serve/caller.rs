//! Who is asking and what they may do: a pure decision over plain data.
//!
//! Reading is open to everyone. Over TCP the bearer token decides about changes, over the Unix socket the peer's uid
//! alone, unless the peer is in another container: its root is not the node's. A seed of a declared target is allowed to
//! all.

use std::net::SocketAddr;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;

use crate::intent::Digest;

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// Over the network.
    Tcp(SocketAddr),
    /// Over the Unix socket, as the kernel tells it.
    Unix {
        /// The peer's effective uid when it connected.
        uid: u32,
        /// The peer's effective gid then.
        gid: u32,
        /// It runs in a PID namespace that this process does not see into: in another container, or around this one's.
        outside: bool,
    },
}

/// What the request's bearer token is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// None was sent.
    Absent,
    /// The daemon has none to compare with.
    NotConfigured,
    /// Not the daemon's.
    Wrong,
    /// The daemon's.
    Right,
}

/// What a caller may do besides reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rights {
    /// Seed what a document declares.
    Declared,
    /// Everything.
    All,
}

/// Why a change is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    #[error("this needs the daemon's bearer token, and the request has none")]
    NoToken,
    #[error("the bearer token is not the daemon's")]
    WrongToken,
    #[error("this needs a bearer token, and the daemon has none configured")]
    NotConfigured,
    #[error("uid {uid} may read and seed declared targets; this is for root and the daemon's own user")]
    Uid { uid: u32 },
    #[error(
        "uid {uid} of another container may read and seed declared targets; this is for the daemon's own container"
    )]
    Outside { uid: u32 },
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Peer::Tcp(address) => write!(f, "{address}"),
            Peer::Unix { uid, .. } => write!(f, "uid {uid}"),
        }
    }
}

impl Peer {
    /// Trusted by the kernel's word alone.
    pub(super) fn is_owner(self, own_uid: u32) -> bool {
        matches!(self, Peer::Unix { uid, outside: false, .. } if uid == 0 || uid == own_uid)
    }
}

/// What the caller may do. A wrong token is refused, not taken for none: whoever sends one expects it to count.
pub(super) fn rights(peer: Peer, own_uid: u32, token: Token) -> Result<Rights, Denied> {
    match (peer, token) {
        (Peer::Unix { .. }, _) => Ok(if peer.is_owner(own_uid) { Rights::All } else { Rights::Declared }),
        (Peer::Tcp(_), Token::Right) => Ok(Rights::All),
        (Peer::Tcp(_), Token::Wrong) => Err(Denied::WrongToken),
        (Peer::Tcp(_), Token::Absent | Token::NotConfigured) => Ok(Rights::Declared),
    }
}

/// Whether the caller may do what needs [`Rights::All`].
pub(super) fn may_change(peer: Peer, own_uid: u32, token: Token) -> Result<(), Denied> {
    match (rights(peer, own_uid, token)?, peer, token) {
        (Rights::All, ..) => Ok(()),
        (Rights::Declared, Peer::Unix { uid, outside: true, .. }, _) => Err(Denied::Outside { uid }),
        (Rights::Declared, Peer::Unix { uid, .. }, _) => Err(Denied::Uid { uid }),
        (Rights::Declared, Peer::Tcp(_), Token::NotConfigured) => Err(Denied::NotConfigured),
        (Rights::Declared, Peer::Tcp(_), _) => Err(Denied::NoToken),
    }
}

/// The bearer token of a request, if it has one.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Compares what was sent with the daemon's token, in a time that tells nothing of either.
pub(super) fn compare(sent: &[u8], token: &[u8]) -> Token {
    let (sent, token) = (Digest::sha256(sent).hex(), Digest::sha256(token).hex());
    let difference = sent.bytes().zip(token.bytes()).fold(0, |difference, (a, b)| difference | (a ^ b));
    if std::hint::black_box(difference) == 0 { Token::Right } else { Token::Wrong }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn callers_are_logged_in_a_word() {
        assert_eq!(Peer::Tcp("127.0.0.1:5".parse().unwrap()).to_string(), "127.0.0.1:5");
        assert_eq!(Peer::Unix { uid: 7, gid: 7, outside: true }.to_string(), "uid 7");
    }

    #[test]
    fn who_may_do_what() {
        let tcp = Peer::Tcp("127.0.0.1:5".parse().unwrap());
        let unix = |uid| Peer::Unix { uid, gid: 7, outside: false };
        let outside = |uid| Peer::Unix { uid, gid: 7, outside: true };
        let declared = Ok(Rights::Declared);
        let table = [
            (tcp, Token::Absent, declared, Err(Denied::NoToken)),
            (tcp, Token::NotConfigured, declared, Err(Denied::NotConfigured)),
            (tcp, Token::Wrong, Err(Denied::WrongToken), Err(Denied::WrongToken)),
            (tcp, Token::Right, Ok(Rights::All), Ok(())),
            (unix(0), Token::Absent, Ok(Rights::All), Ok(())),
            (unix(1000), Token::Wrong, Ok(Rights::All), Ok(())),
            (unix(7), Token::Absent, declared, Err(Denied::Uid { uid: 7 })),
            (unix(7), Token::Right, declared, Err(Denied::Uid { uid: 7 })),
            (outside(0), Token::Absent, declared, Err(Denied::Outside { uid: 0 })),
            (outside(1000), Token::Absent, declared, Err(Denied::Outside { uid: 1000 })),
        ];
        for (peer, token, may_seed, may) in table {
            assert_eq!(rights(peer, 1000, token), may_seed, "{peer:?} {token:?}");
            assert_eq!(may_change(peer, 1000, token), may, "{peer:?} {token:?}");
        }
    }

    #[test]
    fn tokens_are_read_and_compared() {
        let sent = |value| HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))]);
        assert_eq!(bearer(&sent("Bearer abc")), Some(&b"abc"[..]));
        assert_eq!(bearer(&sent("bearer  abc ")), Some(&b"abc"[..]));
        assert_eq!(bearer(&sent("Basic abc")), None);
        assert_eq!(bearer(&HeaderMap::new()), None);
        assert_eq!(compare(b"abc", b"abc"), Token::Right);
        assert_eq!(compare(b"abc", b"abd"), Token::Wrong);
        assert_eq!(compare(b"ab", b"abc"), Token::Wrong);
        assert_eq!(compare(b"", b"abc"), Token::Wrong);
    }
}
