//! Manifests that were just used, kept in memory for the next request: reading that of a large tree takes far longer
//! than finding a file in it. The store shares a manifest for as long as anyone holds it; this is who does.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::store::Manifest;

/// So many entries are kept in all; a manifest with more is read for each request.
const ENTRIES: usize = 200_000;
/// So many manifests.
const COUNT: usize = 16;
/// How long one is kept that nobody asks for.
const IDLE: Duration = Duration::from_secs(60);

/// The manifests kept, the latest used last.
#[derive(Debug, Default)]
pub(super) struct Manifests(Mutex<Vec<(Arc<Manifest>, Instant)>>);

impl Manifests {
    /// Keeps a manifest that is in use, and lets go of the longest unused ones that are too many with it.
    pub(super) fn keep(&self, manifest: &Arc<Manifest>, now: Instant) {
        if manifest.entries.len() > ENTRIES {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(other, _)| !Arc::ptr_eq(other, manifest));
        kept.push((manifest.clone(), now));
        let mut entries = 0;
        let fitting = kept.iter().rev().take(COUNT).take_while(|(manifest, _)| {
            entries += manifest.entries.len();
            entries <= ENTRIES
        });
        let surplus = kept.len() - fitting.count();
        kept.drain(..surplus);
    }

    fn forget_older(&self, now: Instant) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(_, used)| now.saturating_duration_since(*used) < IDLE);
    }

    /// Lets go of what nobody asks for, until `cancel`.
    pub(super) async fn forget_idle(&self, cancel: &CancellationToken) {
        while cancel.run_until_cancelled(tokio::time::sleep(IDLE / 2)).await.is_some() {
            self.forget_older(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::fixture::{entry, manifest};
    use super::*;
    use crate::store::EntryType;

    fn of(entries: usize) -> Arc<Manifest> {
        let mut manifest = manifest(vec![entry("a", EntryType::Dir, None)]);
        manifest.entries = vec![manifest.entries[0].clone(); entries];
        Arc::new(manifest)
    }

    fn is_kept(manifest: &Arc<Manifest>) -> bool {
        Arc::strong_count(manifest) > 1
    }

    #[test]
    fn the_latest_used_stay_within_bounds() {
        let (kept, now) = (Manifests::default(), Instant::now());
        let (first, second, third) = (of(ENTRIES / 2), of(ENTRIES / 2), of(1));
        for manifest in [&first, &second, &first] {
            kept.keep(manifest, now);
        }
        assert!(is_kept(&first) && is_kept(&second), "both fit, the one used twice counts once");
        kept.keep(&third, now);
        assert!(is_kept(&first) && is_kept(&third) && !is_kept(&second), "the longest unused goes");
        let huge = of(ENTRIES + 1);
        kept.keep(&huge, now);
        assert!(!is_kept(&huge) && is_kept(&first), "one that never fits takes no other's place");
        let many: Vec<_> = (0..COUNT + 1).map(|_| of(0)).collect();
        many.iter().for_each(|manifest| kept.keep(manifest, now));
        assert!(!is_kept(&many[0]) && many[1..].iter().all(is_kept));
    }

    #[test]
    fn what_nobody_asks_for_goes() {
        let (kept, now) = (Manifests::default(), Instant::now());
        let (old, new) = (of(1), of(1));
        kept.keep(&old, now);
        kept.keep(&new, now + IDLE);
        kept.forget_older(now + IDLE);
        assert!(!is_kept(&old) && is_kept(&new));
    }
}
