//! A scripted origin on loopback for tests: each request is answered by a closure, byte for byte as it says.

#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub(in crate::acquire) struct Asked {
    pub method: String,
    pub target: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
}

impl Asked {
    pub(in crate::acquire) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first byte asked for.
    pub(in crate::acquire) fn from(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.split('-').next()?.parse().ok()
    }

    /// The last byte asked for, where not all of the rest is.
    pub(in crate::acquire) fn last(&self) -> Option<usize> {
        self.header("range")?.rsplit('-').next()?.parse().ok()
    }
}

/// How an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::acquire) enum Ending {
    /// The connection is closed.
    Close,
    /// Nothing more comes until the client goes.
    Stall,
}

/// An answer: status line and headers, then the body.
#[derive(Debug, Clone)]
pub(in crate::acquire) struct Reply {
    head: String,
    body: Vec<u8>,
    ending: Ending,
}

impl Reply {
    /// An answer without Content-Length.
    pub(in crate::acquire) fn bare(status: u16, body: &[u8]) -> Self {
        Self { head: format!("HTTP/1.1 {status} Scripted\r\n"), body: body.into(), ending: Ending::Close }
    }

    pub(in crate::acquire) fn new(status: u16, body: &[u8]) -> Self {
        Self::bare(status, body).with("Content-Length", body.len())
    }

    /// No answer at all.
    pub(in crate::acquire) fn mute() -> Self {
        Self { head: String::new(), body: Vec::new(), ending: Ending::Stall }
    }

    pub(in crate::acquire) fn with(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.head.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    /// Only so much of the body is sent.
    pub(in crate::acquire) fn cut(mut self, at: usize, ending: Ending) -> Self {
        self.body.truncate(at);
        self.ending = ending;
        self
    }

    /// What an honest origin answers to a request that may want only the rest.
    pub(in crate::acquire) fn honest(asked: &Asked, body: &[u8], etag: &str) -> Self {
        let unchanged = asked.header("if-range").is_none_or(|validator| validator == etag);
        match asked.from().filter(|from| unchanged && *from < body.len()) {
            Some(from) => {
                let last = asked.last().unwrap_or(body.len()).min(body.len() - 1);
                let range = format!("bytes {from}-{last}/{}", body.len());
                Self::new(206, &body[from..=last]).with("Content-Range", range).with("ETag", etag)
            }
            None => Self::new(200, body).with("ETag", etag).with("Accept-Ranges", "bytes"),
        }
    }
}

/// A running origin; dropped, it is gone.
pub(in crate::acquire) struct Origin {
    pub base: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Origin {
    /// Answers the n-th request (from 0) with what `script` says.
    pub(in crate::acquire) async fn start(script: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(None, script).await
    }

    /// The same over TLS.
    pub(in crate::acquire) async fn start_tls(
        acceptor: TlsAcceptor,
        script: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::listen(Some(acceptor), script).await
    }

    async fn listen(tls: Option<TlsAcceptor>, script: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let base = format!("{scheme}://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, script) = (asked.clone(), Arc::new(script));
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, script, tls) = (log.clone(), script.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => answer(stream, log, script).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                answer(stream, log, script).await;
                            }
                        }
                    }
                });
            }
        });
        Self { base, asked, serving }
    }

    pub(in crate::acquire) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// What was asked so far.
    pub(in crate::acquire) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    log: Arc<Mutex<Vec<Asked>>>,
    script: Arc<impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let text = String::from_utf8(head).unwrap();
    let mut lines = text.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let asked = Asked {
        method: first.next().unwrap_or_default().into(),
        target: first.next().unwrap_or_default().into(),
        headers: lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect(),
    };
    let reply = {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.push(asked.clone());
        script(log.len() - 1, &asked)
    };
    if reply.head.is_empty() {
        let _ = stream.read_u8().await;
        return;
    }
    let head = format!("{}Connection: close\r\n\r\n", reply.head);
    let body = if asked.method == "HEAD" { &[][..] } else { &reply.body };
    // The client may have gone: that is its test's business.
    let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
    let _ = stream.flush().await;
    if reply.ending == Ending::Close {
        let _ = stream.shutdown().await;
    }
    if reply.ending == Ending::Stall {
        let _ = stream.read_u8().await;
    }
}
