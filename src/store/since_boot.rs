//! Moments by the clock that counts from boot: nobody sets it, and it goes on while no daemon runs.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::fs;

/// A moment of one boot of the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SinceBoot {
    pub(super) boot: String,
    pub(super) ms: u64,
}

/// How long ago the machine was booted.
pub(super) fn since_boot() -> Duration {
    // Never negative.
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}

impl SinceBoot {
    /// `None` where the kernel does not say which boot this is.
    pub(super) fn now() -> Option<Self> {
        Self::at(since_boot())
    }

    /// So long after this boot; `None` where the kernel does not say which one it is.
    pub(super) fn at(time: Duration) -> Option<Self> {
        Some(Self { boot: fs::boot_id()?, ms: u64::try_from(time.as_millis()).ok()? })
    }

    pub(super) fn after(self, time: Duration) -> Self {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self { ms: self.ms.saturating_add(time), ..self }
    }

    /// How long it is until then; `None` where that was another boot.
    pub(super) fn until(&self, then: &Self) -> Option<Duration> {
        (self.boot == then.boot).then(|| Duration::from_millis(then.ms.saturating_sub(self.ms)))
    }
}
