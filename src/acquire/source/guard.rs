//! Names that may lead to addresses of the internet only.
//!
//! What must hold: what is connected to is what was looked at. A connection is made to the addresses that leave here, and
//! nobody asks for the name again.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::global::is_global;

/// A name that leads to no address of the internet.
#[derive(Debug, thiserror::Error)]
#[error("{name} leads to {address}, which is no public address")]
pub(super) struct NotGlobal {
    name: Box<str>,
    /// The first that it leads to.
    pub(super) address: IpAddr,
}

impl NotGlobal {
    /// Whether that is why a request failed.
    pub(super) fn behind<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        std::iter::successors(Some(error), |error| error.source()).find_map(|cause| cause.downcast_ref())
    }
}

type Found = std::io::Result<Vec<SocketAddr>>;

/// Looks names up, and lets only addresses of the internet pass.
pub(super) struct Guard {
    look_up: Arc<dyn Fn(String) -> BoxFuture<'static, Found> + Send + Sync>,
}

impl Guard {
    /// By the system's resolver.
    pub(super) fn new() -> Self {
        let look_up = |name: String| -> BoxFuture<'static, Found> {
            Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) })
        };
        Self { look_up: Arc::new(look_up) }
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let name = name.as_str().to_owned();
        let looking = (self.look_up)(name.clone());
        Box::pin(async move {
            let found = looking.await?;
            let global: Vec<SocketAddr> = found.iter().copied().filter(|found| is_global(found.ip())).collect();
            match (global.is_empty(), found.first()) {
                (true, Some(first)) => Err(NotGlobal { name: name.into(), address: first.ip() }.into()),
                _ => Ok(Box::new(global.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Mutex;

    use super::*;

    /// What leaves the guard where the resolver gives these answers one after the other.
    async fn pass(answers: &[&[&str]]) -> Vec<Result<Vec<String>, String>> {
        let mut given = answers.iter();
        let left: Vec<Vec<SocketAddr>> = given
            .by_ref()
            .map(|answer| answer.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0)).collect())
            .rev()
            .collect();
        let left = Mutex::new(left);
        let look_up = move |_| -> BoxFuture<'static, Found> {
            let answer = left.lock().unwrap().pop().unwrap();
            Box::pin(async move { Ok(answer) })
        };
        let guard = Guard { look_up: Arc::new(look_up) };
        let mut passed = Vec::new();
        for _ in answers {
            let answer = guard.resolve("cdn.example".parse().unwrap()).await;
            let shown = |error: Box<dyn std::error::Error + Send + Sync>| {
                NotGlobal::behind(&*error).unwrap().address.to_string()
            };
            passed.push(answer.map(|found| found.map(|found| found.ip().to_string()).collect()).map_err(shown));
        }
        passed
    }

    #[tokio::test]
    async fn only_addresses_of_the_internet_pass() {
        let passed = pass(&[
            &["8.8.8.8", "2606:4700::1"],
            &["10.0.0.1"],
            &["169.254.169.254", "8.8.8.8", "::ffff:127.0.0.1"],
            &["::1", "127.0.0.1"],
            &[],
        ])
        .await;
        let good = |addresses: &[&str]| Ok(addresses.iter().map(ToString::to_string).collect());
        let expected = [
            good(&["8.8.8.8", "2606:4700::1"]),
            Err("10.0.0.1".to_owned()),
            good(&["8.8.8.8"]),
            Err("::1".to_owned()),
            good(&[]),
        ];
        assert_eq!(passed, expected);
    }

    #[tokio::test]
    async fn each_answer_is_looked_at_again() {
        let passed = pass(&[&["8.8.8.8"], &["127.0.0.1"], &["8.8.8.8"]]).await;
        assert_eq!(passed.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    }

    #[tokio::test]
    async fn the_systems_resolver_is_asked() {
        let error = Guard::new().resolve("localhost".parse().unwrap()).await.map(|_| ()).unwrap_err();
        assert!(NotGlobal::behind(&*error).unwrap().address.is_loopback(), "{error}");
    }
}
