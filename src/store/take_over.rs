//! Opening a store that another daemon still holds but is about to leave: the one before this, which ends.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{OpenError, Store};
use crate::fs::LockError;

/// Between two tries for the lock.
const PAUSE: Duration = Duration::from_millis(100);

impl Store {
    /// Opens the store at `path` as [`Store::open`] does, but waits up to `limit` for another process to let go of it.
    /// Blocks.
    pub fn take_over(path: &Path, limit: Duration) -> Result<Self, OpenError> {
        let deadline = Instant::now() + limit;
        let mut told = false;
        loop {
            match Store::open(path) {
                Err(OpenError::Lock(LockError::Held { holder, .. })) if Instant::now() + PAUSE < deadline => {
                    if !std::mem::replace(&mut told, true) {
                        let limit_s = limit.as_secs();
                        tracing::warn!(path = %path.display(), holder, limit_s, "store locked: waiting for its daemon to end");
                    }
                    std::thread::sleep(PAUSE);
                }
                opened => return opened,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_store_is_had_once_its_daemon_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let first = Store::open(&path).unwrap();
        let refused = Store::take_over(&path, Duration::from_millis(250));
        assert!(matches!(refused, Err(OpenError::Lock(LockError::Held { .. }))), "{refused:?}");
        let held = std::thread::scope(|scope| {
            let second = scope.spawn(|| Store::take_over(&path, Duration::from_secs(60)));
            drop(first);
            second.join().unwrap()
        });
        assert!(held.is_ok(), "{held:?}");
    }
}
