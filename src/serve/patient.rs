//! A connection that is given up when its peer takes no bytes for too long: a stalled reader would otherwise hold a
//! version, and its place among the connections, for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::load::{Counted, Intake, Load};

/// How often a peer that takes nothing is looked at: how long it may depends on how many of them there are.
const LOOK: Duration = Duration::from_secs(1);

/// A stream that may itself have to wait for what it is to write.
pub(super) trait Writes: AsyncWrite {
    /// The bytes are still to be had: it is not the peer that is waited for.
    fn waits_for_bytes(&self) -> bool {
        false
    }
}

/// A stream whose writes may each wait so long and no longer: for the peer, or for their bytes. What it reads counts, too.
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    patience: Duration,
    waiting: Option<Waiting>,
    load: &'static Load,
    intake: Intake,
}

/// A write that waits.
#[derive(Debug)]
struct Waiting {
    since: Instant,
    look: Pin<Box<Sleep>>,
    /// `None`: it waits for its bytes, not for the peer.
    stalled: Option<Counted>,
}

impl Waiting {
    fn new(load: &'static Load, for_bytes: bool, patience: Duration) -> Self {
        let since = Instant::now();
        let look = Box::pin(sleep_until(since + patience.min(LOOK)));
        Self { since, look, stalled: (!for_bytes).then(|| Counted::stalled(load)) }
    }
}

impl<S: Writes> Patient<S> {
    pub(super) fn new(stream: S, patience: Duration, load: &'static Load, intake: Intake) -> Self {
        Self { stream, patience, waiting: None, load, intake }
    }

    fn limit<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.waiting = None;
            return outcome;
        }
        // What the disk took of the time is not the peer's.
        let for_bytes = self.stream.waits_for_bytes();
        let kept = self.waiting.take().filter(|waiting| waiting.stalled.is_none() == for_bytes);
        let waiting = self.waiting.insert(kept.unwrap_or_else(|| Waiting::new(self.load, for_bytes, self.patience)));
        while waiting.look.as_mut().poll(cx).is_ready() {
            let patience = if for_bytes { self.patience } else { self.load.patience(self.patience) };
            let (end, now) = (waiting.since + patience, Instant::now());
            if now >= end {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            waiting.look.as_mut().reset(end.min(now + LOOK));
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        match outcome {
            Poll::Ready(Ok(())) => Poll::Ready(self.intake.took(buffer.filled().len() - before)),
            outcome => outcome,
        }
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

    fn patient<S: Writes>(stream: S, patience: Duration) -> Patient<S> {
        static LOAD: Load = Load::new();
        Patient::new(stream, patience, &LOAD, Intake::new(&LOAD))
    }

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
        let mut stuck = patient(Stuck(2), patience);
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
        let mut near = patient(near, Duration::from_millis(10));
        near.write_all(&[1; 16]).await.unwrap();
        assert_eq!(near.write_all(&[2; 16]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let mut got = [0; 16];
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(got, [1; 16]);
    }

    #[tokio::test]
    async fn a_peer_that_reads_gets_everything() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut near = patient(near, Duration::from_secs(60));
        let writing = tokio::spawn(async move { near.write_all(&[3; 1000]).await });
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, [3; 1000]);
        writing.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn where_many_take_nothing_each_is_given_up_sooner() {
        static LOAD: Load = Load::new();
        let _crowd: Vec<Counted> = (0..100_000).map(|_| Counted::stalled(&LOAD)).collect();
        let (near, _far) = tokio::io::duplex(16);
        let mut near = Patient::new(near, Duration::from_secs(3600), &LOAD, Intake::new(&LOAD));
        let written = tokio::time::timeout(Duration::from_secs(60), near.write_all(&[1; 32])).await.unwrap();
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
