//! Quantities and texts as people read them.

use std::borrow::Cow;
use std::time::Duration;

use jiff::Timestamp;

/// Bytes in SI units, two or three digits: `7 B`, `1.2 GB`, `358 MB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let bytes = u128::from(bytes);
    let mut unit_bytes = 1000;
    for unit in UNITS {
        // Rounded before the unit is chosen, so that `1000 kB` is never shown.
        let tenths = (bytes * 10 + unit_bytes / 2) / unit_bytes;
        let whole = (bytes + unit_bytes / 2) / unit_bytes;
        if tenths < 100 {
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
        if whole < 1000 {
            return format!("{whole} {unit}");
        }
        unit_bytes *= 1000;
    }
    unreachable!("no u64 reaches 1000 EB")
}

/// A length of time: `4 ms`, `1.2 s`, `2 min 5 s`, `3 h 12 min`, `2 d 4 h`.
pub(super) fn duration(length: Duration) -> String {
    let ms = length.as_millis();
    let tenths = (ms + 50) / 100;
    let seconds = (ms + 500) / 1000;
    match seconds {
        _ if ms < 1000 => format!("{ms} ms"),
        _ if tenths < 600 => format!("{}.{} s", tenths / 10, tenths % 10),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

fn two(large: u128, large_unit: &str, small: u128, small_unit: &str) -> String {
    if small == 0 { format!("{large} {large_unit}") } else { format!("{large} {large_unit} {small} {small_unit}") }
}

/// A length of time to the second, for what is not measured but awaited: `5 s`, `2 min`.
pub(super) fn about(length: Duration) -> String {
    match length.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min", (seconds + 30) / 60),
        _ => duration(length),
    }
}

/// When something was: `5 min ago`, `just now`.
pub(super) fn ago(at: Timestamp, now: Timestamp) -> String {
    match Duration::try_from(now.duration_since(at)) {
        Ok(length) if length.as_secs() > 0 => format!("{} ago", about(length)),
        _ => "just now".to_owned(),
    }
}

/// When something will be: `in 5 min`, `now`.
pub(super) fn ahead(at: Timestamp, now: Timestamp) -> String {
    match Duration::try_from(at.duration_since(now)) {
        Ok(length) if length.as_secs() > 0 => format!("in {}", about(length)),
        _ => "now".to_owned(),
    }
}

/// A number with its noun: `1 file`, `7 files`.
pub(super) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Text from elsewhere, with control characters made visible: none of it can steer the terminal.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
        Cow::Owned(text.chars().map(escape).collect())
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_short_and_in_si() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (9949, "9.9 kB"),
            (9950, "10 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (358_400_000, "358 MB"),
            (1_234_567_890, "1.2 GB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn durations_are_short() {
        for (ms, text) in [
            (0, "0 ms"),
            (4, "4 ms"),
            (999, "999 ms"),
            (1000, "1.0 s"),
            (1249, "1.2 s"),
            (59_949, "59.9 s"),
            (59_950, "1 min"),
            (125_000, "2 min 5 s"),
            (11_520_000, "3 h 12 min"),
            (187_200_000, "2 d 4 h"),
        ] {
            assert_eq!(duration(Duration::from_millis(ms)), text, "{ms}");
        }
    }

    #[test]
    fn times_are_told_from_now() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        for (at, past, future) in [
            ("2026-01-01T12:00:00Z", "just now", "now"),
            ("2026-01-01T12:00:42Z", "just now", "in 42 s"),
            ("2026-01-01T12:41:40Z", "just now", "in 42 min"),
            ("2026-01-01T11:57:00Z", "3 min ago", "now"),
            ("2026-01-01T09:00:00Z", "3 h ago", "now"),
        ] {
            let at = at.parse().unwrap();
            assert_eq!((ago(at, now).as_str(), ahead(at, now).as_str()), (past, future), "{at}");
        }
    }

    #[test]
    fn nothing_from_elsewhere_steers_the_terminal() {
        assert_eq!(plain("fine, ö"), "fine, ö");
        assert_eq!(plain("a\x1b[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
    }

    proptest! {
        #[test]
        fn a_size_has_at_most_three_digits(bytes: u64) {
            let text = size(bytes);
            prop_assert!(text.chars().filter(char::is_ascii_digit).count() <= 3, "{text}");
        }

        #[test]
        fn a_larger_size_never_reads_smaller(bytes in 0..u64::MAX / 2) {
            let value = |text: String| {
                let (number, unit) = text.split_once(' ').unwrap();
                let power = ["B", "kB", "MB", "GB", "TB", "PB", "EB"].iter().position(|u| *u == unit).unwrap();
                number.parse::<f64>().unwrap() * 1000_f64.powi(i32::try_from(power).unwrap())
            };
            prop_assert!(value(size(bytes)) <= value(size(bytes + bytes / 16 + 1)));
        }
    }
}
