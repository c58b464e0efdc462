//! How far an artifact is, as one line. Only the words: who shows them, and when, is [`follow`](super::follow)'s.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;

use super::human::{about, ahead, count, plain, size};
use crate::acquire::Phase;
use crate::intent::ArtifactName;
use crate::reconcile::{ArtifactState, ProgressState, SeedProgressState, State};

/// Over so long a time the rate is taken.
const WINDOW: Duration = Duration::from_secs(10);
/// Below it a rate says nothing.
const SHORTEST: Duration = Duration::from_millis(500);

/// How fast bytes come, over the last seconds.
#[derive(Debug, Default)]
pub(super) struct Meter {
    samples: VecDeque<(Duration, u64)>,
}

impl Meter {
    /// So many bytes were here at `at`, counted from any fixed moment.
    pub(super) fn add(&mut self, at: Duration, bytes: u64) {
        // A download that starts anew has no past.
        if self.samples.back().is_some_and(|(_, before)| *before > bytes) {
            self.samples.clear();
        }
        self.samples.push_back((at, bytes));
        while self.samples.len() > 2
            && self.samples.front().is_some_and(|(first, _)| at.saturating_sub(*first) > WINDOW)
        {
            self.samples.pop_front();
        }
    }

    /// Bytes per second; `None` until that can be told.
    pub(super) fn rate(&self) -> Option<u64> {
        let ((first, from), (last, to)) = (self.samples.front()?, self.samples.back()?);
        let span = last.saturating_sub(*first);
        if span < SHORTEST {
            return None;
        }
        u64::try_from(u128::from(to - from) * 1000 / span.as_millis()).ok()
    }
}

/// What is being done and how far it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    /// All of it, for a log.
    pub(super) full: String,
    /// Short enough for a terminal, with room for a bar.
    pub(super) brief: String,
    /// The share done, 0 to 1, where that is known.
    pub(super) share: Option<f64>,
}

impl Line {
    /// An artifact and some words.
    pub(super) fn plain(name: &ArtifactName, words: &str) -> Self {
        let text = format!("{name}: {words}");
        Self { full: text.clone(), brief: text, share: None }
    }
}

/// What is being done for an artifact and how far it is.
pub(super) fn line(state: &ArtifactState, rate: Option<u64>, now: Timestamp) -> Line {
    let name = &state.name;
    match &state.progress {
        Some(progress) => fetching(name, progress, rate),
        None => Line::plain(name, &idle(state, now)),
    }
}

/// How far the seed is that has most left to do; `None` while nothing is being seeded.
pub(super) fn seeding(state: &ArtifactState) -> Option<Line> {
    let under_way = state.seeds.iter().filter_map(|seed| seed.progress);
    let seed = under_way.max_by_key(|seed| seed.total_entries.saturating_sub(seed.entries))?;
    Some(entries(&state.name, "seeding", seed))
}

/// How far a tree is that is made entry by entry.
pub(super) fn entries(name: &ArtifactName, doing: &str, seed: SeedProgressState) -> Line {
    let share = (seed.total_entries > 0).then(|| (seed.entries as f64 / seed.total_entries as f64).min(1.0));
    let text = format!(
        "{name}: {doing}, {} of {}, {}",
        seed.entries,
        count(seed.total_entries, "entry", "entries"),
        size(seed.bytes)
    );
    Line { full: text.clone(), brief: text, share }
}

/// How far an archive is that is fetched here.
pub(super) fn fetching(name: &ArtifactName, progress: &ProgressState, rate: Option<u64>) -> Line {
    Line {
        full: format!("{name}: {}", phase(progress, rate)),
        brief: format!("{name}: {}{}", word(progress.phase), figures(progress, rate)),
        share: share(progress),
    }
}

/// The phase in a word.
pub(super) fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Resolving => "asking the source",
        Phase::Downloading => "downloading",
        Phase::Unpacking => "unpacking",
        Phase::Publishing => "publishing",
    }
}

/// The share of a download that is here, 0 to 1.
pub(super) fn share(progress: &ProgressState) -> Option<f64> {
    let total = progress.total_bytes.filter(|&total| total > 0 && progress.phase == Phase::Downloading)?;
    Some((progress.bytes as f64 / total as f64).min(1.0))
}

/// The phase, with its version and figures.
pub(super) fn phase(progress: &ProgressState, rate: Option<u64>) -> String {
    let version = progress.version.as_ref().map_or_else(String::new, |version| format!(" {version}"));
    format!("{}{version}{}", word(progress.phase), figures(progress, rate))
}

fn figures(progress: &ProgressState, rate: Option<u64>) -> String {
    match progress.phase {
        Phase::Downloading => download(progress, rate),
        Phase::Unpacking => {
            format!(", {}, {}", count(progress.entries, "entry", "entries"), size(progress.unpacked_bytes))
        }
        Phase::Resolving | Phase::Publishing => String::new(),
    }
}

fn download(progress: &ProgressState, rate: Option<u64>) -> String {
    let mut text = format!(", {}", size(progress.bytes));
    if let (Some(total), Some(share)) = (progress.total_bytes, share(progress)) {
        // Rounded down: 100% is said when all is here.
        text += &format!(" of {} ({}%)", size(total), (share * 100.0).floor());
    }
    if let Some(rate) = rate {
        text += &format!(", {}/s", size(rate));
        let left = progress.total_bytes.map(|total| total.saturating_sub(progress.bytes));
        if let Some(left) = left.filter(|_| rate > 0) {
            text += &format!(", {} left", about(Duration::from_secs(left.div_ceil(rate))));
        }
    }
    text
}

fn idle(state: &ArtifactState, now: Timestamp) -> String {
    if let Some(error) = &state.last_error {
        let next = state.next_try.map_or_else(String::new, |at| format!("; next try {}", ahead(at, now)));
        return format!("the last try failed: {}{next}", plain(error));
    }
    match state.state {
        State::Pending | State::Warming => "waiting for its turn".to_owned(),
        State::Ready => "waiting".to_owned(),
        State::Failed => "failed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::tests::{artifact, progress};
    use proptest::prelude::*;

    #[test]
    fn a_seed_under_way_is_told_with_its_share() {
        let mut state = artifact(None);
        assert_eq!(seeding(&state), None);
        let progress = crate::reconcile::SeedProgressState { entries: 20, total_entries: 80, bytes: 358_400_000 };
        state.seeds[0].progress = Some(progress);
        let line = seeding(&state).unwrap();
        assert_eq!(line.full, "smartos-platform: seeding, 20 of 80 entries, 358 MB");
        assert_eq!(line.share, Some(0.25));
    }

    fn now() -> Timestamp {
        "2026-01-01T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_download_shows_bytes_share_rate_and_time_left() {
        let state = artifact(Some(progress(Phase::Downloading, 120_000_000, Some(185_000_000))));
        let line = line(&state, Some(12_000_000), now());
        assert_eq!(
            line.full,
            "smartos-platform: downloading 20260201T000000Z, 120 MB of 185 MB (64%), 12 MB/s, 6 s left"
        );
        assert_eq!(line.brief, "smartos-platform: downloading, 120 MB of 185 MB (64%), 12 MB/s, 6 s left");
        assert!(line.share.is_some_and(|share| (0.64..0.65).contains(&share)));
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let text = |phase, total| phase_text(&progress(phase, 1_000_000, total));
        assert_eq!(text(Phase::Downloading, None), "downloading 20260201T000000Z, 1.0 MB");
        assert_eq!(text(Phase::Downloading, Some(0)), "downloading 20260201T000000Z, 1.0 MB");
        assert_eq!(text(Phase::Unpacking, None), "unpacking 20260201T000000Z, 14 entries, 358 MB");
        assert_eq!(text(Phase::Publishing, None), "publishing 20260201T000000Z");
        let unnamed = ProgressState { version: None, ..progress(Phase::Resolving, 0, None) };
        assert_eq!(phase_text(&unnamed), "asking the source");
    }

    fn phase_text(progress: &ProgressState) -> String {
        phase(progress, None)
    }

    #[test]
    fn between_tries_the_last_error_and_the_next_try_are_shown() {
        let mut state = artifact(None);
        state.state = State::Pending;
        assert_eq!(line(&state, None, now()).full, "smartos-platform: waiting for its turn");
        state.last_error = Some("connection\x1b refused".to_owned());
        state.next_try = Some("2026-01-01T12:00:12Z".parse().unwrap());
        assert_eq!(
            line(&state, None, now()).full,
            "smartos-platform: the last try failed: connection\\u{1b} refused; next try in 12 s"
        );
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut meter = Meter::default();
        assert_eq!(meter.rate(), None);
        for second in 0..60 {
            let slow_then_fast = if second < 40 { second * 100 } else { 4000 + (second - 40) * 1000 };
            meter.add(Duration::from_secs(second), slow_then_fast);
        }
        assert_eq!(meter.rate(), Some(1000));
        meter.add(Duration::from_secs(60), 0);
        assert_eq!(meter.rate(), None);
        meter.add(Duration::from_secs(62), 10);
        assert_eq!(meter.rate(), Some(5));
    }

    proptest! {
        #[test]
        fn no_figures_make_it_fail(samples: Vec<(u32, u64)>, bytes: u64, total: Option<u64>) {
            let mut meter = Meter::default();
            let mut at = Duration::ZERO;
            for (step, bytes) in samples {
                at += Duration::from_millis(step.into());
                meter.add(at, bytes);
            }
            let line = line(&artifact(Some(progress(Phase::Downloading, bytes, total))), meter.rate(), now());
            prop_assert!(line.share.is_none_or(|share| (0.0..=1.0).contains(&share)));
            prop_assert!(line.full.len() < 200);
        }
    }
}
