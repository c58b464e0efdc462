//! `{version}` and `{file}` in addresses and paths. Pure.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::intent::VersionName;

/// What a file name may hold in a URL's path as it is.
const PLAIN: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'+').remove(b'/');

/// A template whose value is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FillError {
    /// `{version}` with none to fill in.
    #[error("{template:?} needs a version: give `latest.url` or an exact `version`")]
    Version {
        /// The template, without secrets.
        template: Box<str>,
    },
    /// `{file}` with none to fill in.
    #[error("{template:?} needs a file name: give `checksums` with `file`")]
    File {
        /// The template, without secrets.
        template: Box<str>,
    },
}

/// What is known to fill in.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::acquire) struct Fill<'a> {
    /// For `{version}`.
    pub version: Option<&'a VersionName>,
    /// For `{file}`.
    pub file: Option<&'a str>,
}

impl<'a> Fill<'a> {
    /// Fills a URL; what means something else in a URL is percent-encoded.
    pub(in crate::acquire) fn url(self, template: &str) -> Result<String, FillError> {
        self.fill(template, |file| utf8_percent_encode(file, PLAIN).into())
    }

    /// Fills a path or glob.
    pub(in crate::acquire) fn path(self, template: &str) -> Result<String, FillError> {
        self.fill(template, Cow::Borrowed)
    }

    fn fill(self, template: &str, encode: impl Fn(&'a str) -> Cow<'a, str>) -> Result<String, FillError> {
        let shown = || crate::acquire::source::redacted_text(template).into_boxed_str();
        let mut text = Cow::Borrowed(template);
        if needs_version(template) {
            let version = self.version.ok_or_else(|| FillError::Version { template: shown() })?;
            text = text.replace("{version}", version.as_str()).into();
        }
        if text.contains("{file}") {
            let file = self.file.ok_or_else(|| FillError::File { template: shown() })?;
            text = text.replace("{file}", &encode(file)).into();
        }
        Ok(text.into_owned())
    }
}

/// Whether a version is to be filled in.
pub(in crate::acquire) fn needs_version(template: &str) -> bool {
    template.contains("{version}")
}

/// The last segment of a URL or path, percent-decoded for a URL; `None` where it is no plain file name.
pub(in crate::acquire) fn last_segment(address: &str, encoded: bool) -> Option<String> {
    let address = if encoded { address.split(['?', '#']).next().unwrap_or_default() } else { address };
    let segment = address.rsplit('/').next()?;
    let name: Cow<'_, str> =
        if encoded { percent_encoding::percent_decode_str(segment).decode_utf8().ok()? } else { segment.into() };
    let plain = crate::fs::RelPath::parse(name.as_bytes()).is_ok_and(|path| path.depth() == 1);
    (plain && !name.chars().any(char::is_control)).then(|| name.into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_are_filled_and_encoded() {
        let version = "1+2".parse().unwrap();
        let fill = Fill { version: Some(&version), file: Some("a b/c#?%.tgz") };
        assert_eq!(
            fill.url("http://h/{version}/{file}?v={version}").unwrap(),
            "http://h/1+2/a%20b/c%23%3F%25.tgz?v=1+2"
        );
        assert_eq!(fill.path("d/{version}/{file}").unwrap(), "d/1+2/a b/c#?%.tgz");
        assert_eq!(Fill::default().url("http://h/{other}").unwrap(), "http://h/{other}");
        let none = Fill::default().url("http://user:secret@h/{version}?sig=secret").unwrap_err();
        assert!(matches!(none, FillError::Version { .. }));
        assert!(!none.to_string().contains("secret"), "{none}");
        assert!(matches!(Fill::default().path("{file}"), Err(FillError::File { .. })));
    }

    #[test]
    fn a_file_name_is_one_plain_component() {
        assert_eq!(last_segment("http://h/a/b%20c.tgz?x=/y", true).as_deref(), Some("b c.tgz"));
        assert_eq!(last_segment("/srv/a%20b", false).as_deref(), Some("a%20b"));
        for bad in ["http://h/a/", "http://h/..", "http://h/a%2Fb", "http://h/%00", "http://h/%0A", "http://h/%FF"] {
            assert_eq!(last_segment(bad, true), None, "{bad}");
        }
    }
}
