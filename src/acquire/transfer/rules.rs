//! How patient a download is.

use std::time::Duration;

/// Bytes ahead of a reader, see [`Rules::window`].
pub(in crate::acquire) const WINDOW: u32 = 24 << 20;
/// What all bodies together may be ahead: one takes no more than a window, and leaves the next some. Each has a
/// range more.
pub(in crate::acquire) const AHEAD: u32 = WINDOW / 2 * 3;

/// The bounds of a download.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::acquire) struct Rules {
    /// Failures of one address, without `progress` bytes between them, after which the next one is asked.
    pub attempts: u32,
    /// Bytes after which failures are forgiven.
    pub progress: u64,
    /// The first wait is at most this long; each further one up to twice as long.
    pub base: Duration,
    /// No wait is longer.
    pub cap: Duration,
    /// The longest Retry-After that is waited for here.
    pub patience: Duration,
    /// How often one address may make the download start anew.
    pub anew: u32,
    /// Most bytes of the object.
    pub max_bytes: u64,
    /// Most bytes that are asked for or held ahead of the reader, where several connections read one body.
    pub window: u64,
}

impl Rules {
    /// The rules of a download of at most `max_bytes`.
    pub(in crate::acquire) fn new(max_bytes: u64) -> Self {
        Self {
            attempts: 5,
            progress: 1 << 20,
            base: Duration::from_millis(500),
            cap: Duration::from_secs(30),
            patience: Duration::from_secs(300),
            anew: 3,
            max_bytes,
            window: WINDOW.into(),
        }
    }

    /// The wait after so many failures: anything up to a bound that doubles, so that nodes which failed together don't
    /// come back together. `chance` is from 0 to 1.
    pub(in crate::acquire) fn back_off(&self, failures: u32, chance: f64) -> Duration {
        let doubled = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.base.saturating_mul(doubled).min(self.cap).mul_f64(chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound() {
        let rules = Rules::new(1);
        assert_eq!(rules.back_off(1, 1.0), Duration::from_millis(500));
        assert_eq!(rules.back_off(3, 1.0), Duration::from_secs(2));
        assert_eq!(rules.back_off(3, 0.25), Duration::from_millis(500));
        assert_eq!(rules.back_off(u32::MAX, 1.0), Duration::from_secs(30));
        assert_eq!(rules.back_off(2, 0.0), Duration::ZERO);
    }
}
