//! Carries out what `caller.rs` decides: reads the daemon's token anew and lets a request pass or not.

use std::path::Path;
use std::sync::Arc;

use axum::http::HeaderMap;

use super::caller::{Denied, Peer, Rights, Token, bearer, compare, may_change, rights};
use super::files::blocking;
use super::problem::Problem;
use super::view::View;
use crate::fs;

/// Longer than any token.
const TOKEN_LIMIT: u64 = 4096;

/// Who may pass.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    pub(super) token_file: Option<Arc<Path>>,
    pub(super) own_uid: u32,
}

/// A token file that protects nothing.
#[derive(Debug, thiserror::Error)]
#[error("the token file {} is empty; write the bearer token into it", path.display())]
struct EmptyToken {
    path: Arc<Path>,
}

impl Gate {
    /// What the caller may do.
    pub(super) async fn rights(&self, peer: Peer, headers: &HeaderMap) -> Result<Rights, Problem> {
        let token = self.token(peer, headers).await?;
        rights(peer, self.own_uid, token).map_err(|denied| refused(peer, denied))
    }

    /// Lets pass who may change things.
    pub(super) async fn may_change(&self, peer: Peer, headers: &HeaderMap) -> Result<(), Problem> {
        let token = self.token(peer, headers).await?;
        may_change(peer, self.own_uid, token).map_err(|denied| refused(peer, denied))
    }

    /// What the caller is shown. Reading is open: a token that is wrong, or cannot be compared, shows nothing more.
    pub(super) async fn view(&self, peer: Option<Peer>, headers: &HeaderMap) -> View {
        let Some(peer) = peer else { return View::Reader };
        match peer.is_owner(self.own_uid) || matches!(self.token(peer, headers).await, Ok(Token::Right)) {
            true => View::Operator,
            false => View::Reader,
        }
    }

    async fn token(&self, peer: Peer, headers: &HeaderMap) -> Result<Token, Problem> {
        let Some(path) = self.token_file.clone() else { return Ok(Token::NotConfigured) };
        let (Peer::Tcp(_), Some(sent)) = (peer, bearer(headers)) else { return Ok(Token::Absent) };
        let sent = sent.to_vec();
        blocking(move || {
            let token = fs::read_limited(&path, TOKEN_LIMIT)?;
            match token.trim_ascii() {
                b"" => Err(Problem::internal(&EmptyToken { path })),
                token => Ok(compare(&sent, token)),
            }
        })
        .await
    }
}

fn refused(peer: Peer, denied: Denied) -> Problem {
    tracing::warn!(?peer, %denied, "request refused");
    denied.into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;
    use axum::http::header::AUTHORIZATION;
    use axum::http::{HeaderValue, StatusCode};
    use axum::response::IntoResponse as _;

    fn with_token(token: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap())])
    }

    #[tokio::test]
    async fn the_token_is_read_anew_for_each_request() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let gate = Gate { token_file: Some(path.as_path().into()), own_uid: 5 };
        let peer = Peer::Tcp("127.0.0.1:9".parse().unwrap());
        let status = async |headers: HeaderMap| match gate.may_change(peer, &headers).await {
            Ok(()) => StatusCode::OK,
            Err(problem) => problem.into_response().status(),
        };
        assert_eq!(status(with_token("old")).await, StatusCode::INTERNAL_SERVER_ERROR, "no file");
        std::fs::write(&path, "old\n").unwrap();
        assert_eq!(status(with_token("old")).await, StatusCode::OK);
        assert_eq!(status(with_token("new")).await, StatusCode::UNAUTHORIZED);
        assert_eq!(status(HeaderMap::new()).await, StatusCode::UNAUTHORIZED);
        std::fs::write(&path, "new").unwrap();
        assert_eq!(status(with_token("old")).await, StatusCode::UNAUTHORIZED);
        assert_eq!(status(with_token("new")).await, StatusCode::OK);
        std::fs::write(&path, " \n").unwrap();
        assert_eq!(status(with_token("")).await, StatusCode::INTERNAL_SERVER_ERROR, "an empty token lets nobody in");
    }

    #[tokio::test]
    async fn without_a_token_file_nobody_changes_anything_over_tcp() {
        let gate = Gate { token_file: None, own_uid: 5 };
        let peer = Peer::Tcp("127.0.0.1:9".parse().unwrap());
        let problem = gate.may_change(peer, &with_token("any")).await.unwrap_err();
        assert_eq!(problem.into_response().status(), StatusCode::FORBIDDEN);
        assert_eq!(gate.rights(peer, &with_token("any")).await.unwrap(), Rights::Declared);
        assert!(gate.may_change(Peer::Unix { uid: 5, gid: 5, outside: false }, &HeaderMap::new()).await.is_ok());
    }

    #[tokio::test]
    async fn operators_are_shown_all_and_nobody_is_refused_for_looking() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let gate = Gate { token_file: Some(path.as_path().into()), own_uid: 5 };
        let tcp = Some(Peer::Tcp("127.0.0.1:9".parse().unwrap()));
        let unix = |uid, outside| Some(Peer::Unix { uid, gid: uid, outside });
        assert_eq!(gate.view(tcp, &with_token("old")).await, View::Reader, "no file");
        std::fs::write(&path, "old\n").unwrap();
        for (peer, headers, view) in [
            (tcp, with_token("old"), View::Operator),
            (tcp, with_token("new"), View::Reader),
            (tcp, HeaderMap::new(), View::Reader),
            (unix(5, false), HeaderMap::new(), View::Operator),
            (unix(0, false), HeaderMap::new(), View::Operator),
            (unix(0, true), HeaderMap::new(), View::Reader),
            (unix(7, false), with_token("old"), View::Reader),
            (None, with_token("old"), View::Reader),
        ] {
            assert_eq!(gate.view(peer, &headers).await, view, "{peer:?} {headers:?}");
        }
        let open = Gate { token_file: None, own_uid: 5 };
        assert_eq!(open.view(tcp, &with_token("any")).await, View::Reader);
    }
}
