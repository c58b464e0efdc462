//! Turns for decoders with large windows: so many at once on the node, however many downloads run. One that waits for its turn
//! reads nothing meanwhile, so that its source waits, too.
//!
//! What must hold: who has one waits for nothing that only those who wait for one could give; none is held longer than its
//! decoder.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::input::Meter;
use crate::acquire::Progress;

/// How often one who waits looks whether it is its turn, or all is over.
const LOOK: Duration = Duration::from_millis(20);

/// It was told to stop.
#[derive(Debug, thiserror::Error)]
#[error("unpacking was interrupted while it waited for memory")]
struct Interrupted;

/// Where the decoder of one archive gets its turn.
#[derive(Debug, Clone)]
pub(in crate::acquire) struct Large {
    /// Those of the node.
    pub turns: Arc<Semaphore>,
    /// Set when nobody wants the archive any more.
    pub abort: Arc<AtomicBool>,
    /// Set when no more of it is read: it is refused, or what was to come does not.
    pub over: Arc<AtomicBool>,
    /// Where to say that it waits.
    pub progress: Arc<Progress>,
}

impl Large {
    fn wait(&self) -> Result<OwnedSemaphorePermit, Interrupted> {
        self.progress.crowded(|| {
            loop {
                if self.abort.load(Relaxed) || self.over.load(Relaxed) {
                    return Err(Interrupted);
                }
                if let Ok(turn) = self.turns.clone().try_acquire_owned() {
                    return Ok(turn);
                }
                std::thread::sleep(LOOK);
            }
        })
    }
}

/// The window of one decoder: small, until it has a turn.
pub(super) struct Window<'m> {
    large: Option<&'m Large>,
    meter: &'m Meter,
    turn: Option<OwnedSemaphorePermit>,
    is_large: bool,
}

impl<'m> Window<'m> {
    /// A small one; where there are no turns it may be large at once.
    pub(super) fn new(large: Option<&'m Large>, meter: &'m Meter) -> Self {
        Self { large, meter, turn: None, is_large: false }
    }

    pub(super) fn is_large(&self) -> bool {
        self.is_large
    }

    /// Waits for the turn that a large one takes, unless it is that already.
    pub(super) fn enlarge(&mut self) -> io::Result<()> {
        if let (false, Some(large)) = (self.is_large, self.large) {
            // It says nothing of the archive.
            let turn = large.wait().map_err(|error| self.meter.fail(io::Error::other(error)))?;
            self.turn = Some(turn);
        }
        self.is_large = true;
        Ok(())
    }
}
