//! Texts and validators to version names. Pure.

use crate::intent::{Digest, NameError, VersionName, version_pattern};

/// Why a text gives no version name.
#[derive(Debug, thiserror::Error)]
pub enum NamingError {
    /// `latest.pattern` is no regular expression.
    #[error("`latest.pattern` is no regular expression")]
    Pattern(#[source] regex::Error),
    /// The pattern finds nothing.
    #[error("`latest.pattern` finds nothing in {text:?}")]
    NoMatch {
        /// The text, cut.
        text: Box<str>,
    },
    /// What was found is no version name.
    #[error("{text:?} gives no version name; correct `latest.pattern`")]
    Name {
        /// The text, cut.
        text: Box<str>,
        /// Why not.
        #[source]
        source: NameError,
    },
}

/// The first characters of a text: enough to recognise it, little enough for a line and for a record.
pub(in crate::acquire) fn cut(text: &str) -> &str {
    let mut end = text.len().min(256);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The version name that `pattern` finds in `text`: its group `version`, else its first group, else the whole match;
/// searched in the whole trimmed text, then line by line. Without a pattern the whole trimmed text.
pub(in crate::acquire) fn find_version(pattern: Option<&str>, text: &str) -> Result<VersionName, NamingError> {
    let text = text.trim().trim_start_matches('\u{feff}');
    let shown = || cut(text).chars().take(80).collect::<Box<str>>();
    let found = match pattern {
        None => text,
        Some(pattern) => {
            let regex = version_pattern(pattern).map_err(NamingError::Pattern)?;
            std::iter::once(text)
                .chain(text.lines().map(str::trim))
                .find_map(|piece| {
                    let captures = regex.captures(piece)?;
                    captures.name("version").or_else(|| captures.get(1)).or_else(|| captures.get(0))
                })
                .ok_or_else(|| NamingError::NoMatch { text: shown() })?
                .as_str()
        }
    };
    found.parse().map_err(|source| NamingError::Name { text: shown(), source })
}

/// The name that a digest gives: `sha256-<12 hex digits>`.
pub(crate) fn by_digest(digest: &Digest) -> VersionName {
    made(format!("{}-{}", digest.algorithm(), digest.short(12)))
}

/// The name that validators give: the time of the last change, and the ETag's mark where there is one, since an origin
/// may change bytes twice in a second. `None` without either.
pub(in crate::acquire) fn by_validators(etag: Option<&str>, last_modified: Option<&str>) -> Option<VersionName> {
    let mark = etag.map(|etag| Digest::sha256(unmarked(etag).as_bytes()));
    let time = last_modified.and_then(|text| httpdate::parse_http_date(text).ok());
    let time = time.and_then(|time| jiff::Timestamp::try_from(time).ok());
    match (time, mark) {
        (Some(time), None) => Some(by_time(time)),
        (Some(time), Some(mark)) => Some(made(format!("{}-{}", by_time(time), mark.short(8)))),
        (None, Some(mark)) => Some(made(format!("etag-{}", mark.short(12)))),
        (None, None) => None,
    }
}

/// An ETag grows and loses its `W/` on the way through proxies; the bytes stay the same.
pub(super) fn unmarked(etag: &str) -> &str {
    etag.trim_start_matches("W/")
}

/// The name that a file's time and size give.
pub(in crate::acquire) fn by_time_and_size(time: jiff::Timestamp, size: u64) -> VersionName {
    let mark = Digest::sha256(format!("{} {size}", time.as_nanosecond()).as_bytes());
    made(format!("{}-{}", by_time(time), mark.short(8)))
}

fn by_time(time: jiff::Timestamp) -> VersionName {
    // A year before 0 or after 9999 would bring a sign.
    made(time.strftime("%Y%m%dT%H%M%SZ").to_string().replace('-', "0"))
}

fn made(name: String) -> VersionName {
    name.parse().unwrap_or_else(|e| unreachable!("letters, digits and `-` make a name: {e}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn found(pattern: &str, text: &str) -> Option<String> {
        find_version(Some(pattern), text).ok().map(String::from)
    }

    #[test]
    fn a_pattern_finds_its_group() {
        let stamp = r"(?<version>\d{8}T\d{6}Z(_u\d+)?)$";
        let manta = "/Joyent_Dev/public/SmartOS/20260101T000000Z\n";
        assert_eq!(found(stamp, manta).as_deref(), Some("20260101T000000Z"));
        assert_eq!(found(stamp, "a/20260101T000000Z_u1\r\nmore\n").as_deref(), Some("20260101T000000Z_u1"));
        assert_eq!(found(r"v(\d+)", "is v12 now").as_deref(), Some("12"));
        assert_eq!(found(r"\d+", "is v12 now").as_deref(), Some("12"));
        assert_eq!(found(r"\d+", "none"), None);
        assert_eq!(found("(", "x"), None);
        assert_eq!(find_version(None, " 1.2.3\n").unwrap().as_str(), "1.2.3");
        for bad in ["", "  \n", "<html>", "two words", "../x", "latest\n", "current"] {
            assert!(matches!(find_version(None, bad), Err(NamingError::Name { .. })), "{bad}");
        }
    }

    #[test]
    fn validators_make_names() {
        let modified = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        let name = |etag, modified| by_validators(etag, modified).map(String::from);
        assert_eq!(name(None, modified).as_deref(), Some("19941106T084937Z"));
        let both = name(Some("\"a\""), modified).unwrap();
        assert!(both.starts_with("19941106T084937Z-") && both.len() == 25, "{both}");
        assert_eq!(name(Some("W/\"a\""), modified).unwrap(), both);
        assert_ne!(name(Some("\"b\""), modified).unwrap(), both);
        assert!(name(Some("\"a\""), Some("yesterday")).unwrap().starts_with("etag-"));
        assert_eq!(name(None, None), None);
    }

    proptest! {
        #[test]
        fn names_are_made_of_anything(etag in ".*", time in -377_705_023_201i64..253_402_207_200, size: u64, text in ".*") {
            let _ = by_validators(Some(&etag), Some(&text));
            let _ = find_version(Some("(?s).*"), &text);
            let name = by_time_and_size(jiff::Timestamp::from_second(time).unwrap(), size);
            prop_assert!(name.as_str().len() < 40);
            prop_assert!(text.starts_with(cut(&text)));
        }
    }
}
