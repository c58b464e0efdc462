//! Closing what peers passed, on threads that may wait: files on somebody's own file system, and sockets that linger,
//! take as long as they like. Directories mostly do not (9p and CIFS ask their server then, too). They are all that a peer
//! has reason to pass, so they have threads of their own: who passes a few others that hang holds up nobody.
//!
//! What must hold: nothing of it is closed on an async thread, and while very much waits to be closed no more is taken.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use crate::fs::is_dir_unsynced;

/// Threads that close.
const THREADS: usize = 4;
/// What may wait to be closed before no more is taken.
const MOST: usize = 1024;

static DIRECTORIES: LazyLock<Closer> = LazyLock::new(|| Closer::start(THREADS));
static OTHERS: LazyLock<Closer> = LazyLock::new(|| Closer::start(THREADS));

/// Closed by a thread that may wait.
#[derive(Debug)]
pub(super) struct Closing<T: Send + 'static> {
    held: Option<T>,
    is_dir: bool,
}

impl<T: AsFd + Send + 'static> Closing<T> {
    pub(super) fn new(held: T) -> Self {
        Self { is_dir: is_dir_unsynced(&held), held: Some(held) }
    }

    pub(super) fn get(&self) -> &T {
        self.held.as_ref().unwrap_or_else(|| unreachable!("taken out when it is dropped, and never before"))
    }
}

impl<T: Send + 'static> Drop for Closing<T> {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            if self.is_dir { &DIRECTORIES } else { &OTHERS }.close(held);
        }
    }
}

/// Whether so much waits to be closed that nothing more is to be taken.
pub(super) fn is_full() -> bool {
    let waiting = [&DIRECTORIES, &OTHERS].map(|closer| closer.waiting.load(Relaxed));
    waiting.into_iter().sum::<usize>() >= MOST
}

struct Closer {
    queue: Sender<Box<dyn Send>>,
    waiting: Arc<AtomicUsize>,
}

impl Closer {
    fn start(threads: usize) -> Self {
        let (queue, waits) = channel::<Box<dyn Send>>();
        let (waits, waiting) = (Arc::new(Mutex::new(waits)), Arc::new(AtomicUsize::new(0)));
        for _ in 0..threads {
            let (waits, waiting) = (waits.clone(), waiting.clone());
            let close = move || {
                loop {
                    let next = waits.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(held) = next else { return };
                    drop(held);
                    waiting.fetch_sub(1, Relaxed);
                }
            };
            if let Err(error) = std::thread::Builder::new().name("close".into()).spawn(close) {
                tracing::warn!(%error, "a thread that closes descriptors could not be started");
            }
        }
        Self { queue, waiting }
    }

    fn close(&self, held: impl Send + 'static) {
        self.waiting.fetch_add(1, Relaxed);
        // With no thread at all it is closed here.
        if self.queue.send(Box::new(held)).is_err() {
            self.waiting.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::mpsc::Receiver;

    use super::*;

    /// As a file on a server that does not answer.
    struct Hangs(Receiver<()>);

    impl Drop for Hangs {
        fn drop(&mut self) {
            let _ = self.0.recv();
        }
    }

    #[test]
    fn what_hangs_holds_up_nobody_and_is_counted() {
        let closer = Closer::start(2);
        let (answer, hangs) = channel();
        closer.close(Hangs(hangs));
        let (closed, closes) = channel::<()>();
        closer.close(closed);
        // It ends when the sender is closed, by the thread that does not hang.
        assert!(closes.recv().is_err());
        assert!(closer.waiting.load(Relaxed) >= 1);
        drop(answer);
        while closer.waiting.load(Relaxed) > 0 {
            std::thread::yield_now();
        }
    }
}
