//! The body of an answer, handed piece by piece to a thread that reads it.
//!
//! What must hold: a few pieces are on their way at any time, whatever the body's size, and a daemon that says nothing
//! more is not waited for without end.

use std::io::{self, Read};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::cli::connection::ClientError;
use crate::cli::server::Server;

/// Pieces on their way; hyper's are some 100 KiB each.
const QUEUE: usize = 8;
/// How long the next bytes may take.
const STALL: Duration = Duration::from_secs(60);

/// Work that blocks, done on a thread of its own. A panic in it goes on here.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    joined(tokio::task::spawn_blocking(work)).await
}

async fn joined<T>(work: JoinHandle<T>) -> T {
    match work.await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => unreachable!("nothing cancels it while the runtime lives: {error}"),
        },
    }
}

/// Has `reader` read all of `body`, which comes from `server`, on a thread of its own, and gives what it says. Where the
/// body broke off that is the error, whatever the reader made of it.
pub(super) async fn read<T: Send + 'static>(
    mut body: Incoming,
    server: &Server,
    reader: impl FnOnce(Pieces) -> T + Send + 'static,
) -> Result<T, ClientError> {
    let (to, from) = channel(QUEUE);
    let reading = tokio::task::spawn_blocking(move || reader(Pieces { from, current: Bytes::new() }));
    let broken = loop {
        let piece = match timeout(STALL, body.frame()).await {
            Ok(None) => break None,
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            Ok(Some(Err(source))) => break Some(ClientError::Lost { server: server.clone(), source }),
            Err(_) => break Some(ClientError::Silent { server: server.clone(), limit: STALL }),
        };
        // A reader that takes no more knows why.
        if to.send(Ok(piece)).await.is_err() {
            break None;
        }
    };
    if broken.is_some() {
        // A reader that is gone has nothing to be told.
        let _ = to.send(Err(io::ErrorKind::UnexpectedEof.into())).await;
    }
    drop(to);
    let read = joined(reading).await;
    broken.map_or(Ok(read), Err)
}

/// The bytes as the thread reads them.
pub(super) struct Pieces {
    from: Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.from.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let n = out.len().min(self.current.len());
        out[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}
