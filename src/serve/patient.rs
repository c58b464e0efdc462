//! A connection that is given up when its peer takes no bytes for too long: a stalled reader would otherwise hold a
//! version, and its place among the connections, for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// A stream that may itself have to wait for what it is to write.
pub(super) trait Writes: AsyncWrite {
    /// The bytes are still to be had: it is not the peer that is waited for.
    fn waits_for_bytes(&self) -> bool {
        false
    }
}

/// A stream whose writes may each wait so long and no longer: for the peer, or for their bytes.
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    patience: Duration,
    /// Running while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
    /// What it waits for: its bytes, not the peer.
    for_bytes: bool,
}

impl<S: Writes> Patient<S> {
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, waiting: None, for_bytes: false }
    }

    fn limit<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.waiting = None;
            return outcome;
        }
        // What the disk took of the time is not the peer's.
        let for_bytes = self.stream.waits_for_bytes();
        if std::mem::replace(&mut self.for_bytes, for_bytes) != for_bytes {
            self.waiting = None;
        }
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        waiting.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: Writes + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.limit(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.limit(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.limit(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.limit(cx, outcome)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    impl Writes for DuplexStream {}

    /// Takes nothing: for so many times it is asked it waits for its bytes, then for the peer.
    struct Stuck(u32);

    impl AsyncWrite for Stuck {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            self.0 = self.0.saturating_sub(1);
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl Writes for Stuck {
        fn waits_for_bytes(&self) -> bool {
            self.0 > 0
        }
    }

    #[tokio::test]
    async fn the_time_that_bytes_took_to_be_had_is_not_the_peers() {
        let patience = Duration::from_millis(50);
        let mut stuck = Patient::new(Stuck(2), patience);
        let mut ask = || Pin::new(&mut stuck).poll_write(&mut Context::from_waker(std::task::Waker::noop()), b"x");
        assert!(ask().is_pending());
        tokio::time::sleep(2 * patience).await;
        assert!(ask().is_pending(), "the bytes are there, and the peer has its own time");
        tokio::time::sleep(2 * patience).await;
        assert!(matches!(ask(), Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::TimedOut));
    }

    #[tokio::test]
    async fn a_peer_that_reads_nothing_is_given_up() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut near = Patient::new(near, Duration::from_millis(10));
        near.write_all(&[1; 16]).await.unwrap();
        assert_eq!(near.write_all(&[2; 16]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let mut got = [0; 16];
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(got, [1; 16]);
    }

    #[tokio::test]
    async fn a_peer_that_reads_gets_everything() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut near = Patient::new(near, Duration::from_secs(60));
        let writing = tokio::spawn(async move { near.write_all(&[3; 1000]).await });
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, [3; 1000]);
        writing.await.unwrap().unwrap();
    }
}
