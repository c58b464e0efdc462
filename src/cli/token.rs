//! The bearer token, from a file or the environment. It is never printed.

use std::path::{Path, PathBuf};

use http::HeaderValue;

/// Holds the token when no file is named.
const VARIABLE: &str = "SEEDCACHE_TOKEN";
/// Longest token file, in bytes.
const LIMIT: u64 = 16 * 1024;

/// Why there is no usable token.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    /// The file cannot be read.
    #[error("cannot read the token file {}; name another with --token-file, or leave it out", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: crate::fs::Error,
    },
    /// It holds bytes that no header may hold.
    #[error("the token of {from} is empty or holds more than one line of plain characters; write it anew")]
    Malformed {
        /// The file or variable.
        from: Box<str>,
    },
}

/// The value of the `Authorization` header, marked as a secret; `None` when there is no token.
pub(super) fn read(file: Option<&Path>) -> Result<Option<HeaderValue>, TokenError> {
    if let Some(path) = file {
        let bytes = crate::fs::read_limited(path, LIMIT)
            .map_err(|source| TokenError::File { path: path.to_path_buf(), source })?;
        return bearer(&bytes, &path.display().to_string()).map(Some);
    }
    match std::env::var_os(VARIABLE) {
        Some(value) if !value.is_empty() => bearer(value.as_encoded_bytes(), VARIABLE).map(Some),
        _ => Ok(None),
    }
}

fn bearer(token: &[u8], from: &str) -> Result<HeaderValue, TokenError> {
    let malformed = || TokenError::Malformed { from: from.into() };
    let token = token.trim_ascii();
    if token.is_empty() || !token.iter().all(u8::is_ascii_graphic) {
        return Err(malformed());
    }
    let mut value = HeaderValue::from_bytes(&[b"Bearer ", token].concat()).map_err(|_| malformed())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;

    #[test]
    fn a_token_is_trimmed_and_kept_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "s3cret\n").unwrap();
        let value = read(Some(&path)).unwrap().unwrap();
        assert_eq!(value.to_str().unwrap(), "Bearer s3cret");
        assert!(!format!("{value:?}").contains("s3cret"));
    }

    #[test]
    fn what_is_no_token_is_refused_without_being_shown() {
        for bad in ["", " \n", "two\nlines", "sm\u{f6}rg\u{e5}s"] {
            let error = bearer(bad.as_bytes(), "the file").unwrap_err();
            assert!(error.to_string().starts_with("the token of the file"), "{error}");
            assert!(!error.to_string().contains("rg"), "{error}");
        }
        assert!(matches!(read(Some(Path::new("/nonexistent/token"))), Err(TokenError::File { .. })));
    }
}
