//! Sums files: which digests a text of `HASH  name` lines gives one file. Pure.
//!
//! What must hold: one file name is found or none; two different digests of one algorithm for it are an error, never a
//! choice; a name never leads out of the directory that the URL names.

use globset::GlobBuilder;

use super::naming::cut;
use crate::fs::RelPath;
use crate::intent::{Algorithm, Digest};

/// Names shown in an error, each cut.
const SHOWN: usize = 5;

/// The one file that was meant, with every digest that the sums file gives it, strongest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::acquire) struct Sum {
    /// Its name as written, without a leading `./`.
    pub name: String,
    /// At least one.
    pub digests: Vec<Digest>,
}

/// Which line of a sums file is meant.
#[derive(Debug, Clone, Copy)]
pub(in crate::acquire) enum Wanted<'a> {
    /// The file of this name.
    Name(&'a str),
    /// The only file that this glob matches (its base name, where the glob has no slash).
    Glob(&'a str),
}

/// Why a sums file gives no digest.
#[derive(Debug, thiserror::Error)]
pub enum SumsError {
    /// Bytes that are no text.
    #[error("it is no text; `checksums.url` must name a sums file, not the archive")]
    Binary,
    /// No line of a known form.
    #[error("it has no line of the form `HASH  name` or `SHA256 (name) = HASH`; it starts with {start:?}")]
    NoSums {
        /// Its first characters.
        start: Box<str>,
    },
    /// No line for the file.
    #[error("it has no line for {wanted:?}, only for {names}; correct `checksums.file`")]
    Missing {
        /// Name or glob.
        wanted: Box<str>,
        /// Some names in it.
        names: Box<str>,
    },
    /// Several files match.
    #[error("{wanted:?} matches {count} files in it ({names}); narrow `checksums.file` down to one")]
    Ambiguous {
        /// The glob.
        wanted: Box<str>,
        /// How many.
        count: usize,
        /// Some of them.
        names: Box<str>,
    },
    /// Only hashes that are not supported.
    #[error("its hash for {name:?} is {algorithm}, which is not supported; name a sums file with sha256 or sha512")]
    Unsupported {
        /// The file, cut.
        name: Box<str>,
        /// The hash.
        algorithm: &'static str,
    },
    /// Two digests of one algorithm.
    #[error("it gives {name:?} two different {algorithm} digests; ask whoever publishes it")]
    Contradiction {
        /// The file, cut.
        name: Box<str>,
        /// Of both.
        algorithm: Algorithm,
    },
    /// A name that leads elsewhere.
    #[error("the name {name:?} in it is no plain relative path, so it is not put into a URL or path")]
    Name {
        /// The name, cut.
        name: Box<str>,
        /// Why not.
        #[source]
        source: crate::fs::PathError,
    },
    /// `checksums.file` is no glob.
    #[error("`checksums.file` is no glob")]
    Glob(#[source] globset::Error),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hash {
    Known(Digest),
    Unsupported(&'static str),
}

/// Finds the digests of the wanted file.
pub(in crate::acquire) fn find(bytes: &[u8], wanted: Wanted<'_>) -> Result<Sum, SumsError> {
    if bytes.contains(&0) {
        return Err(SumsError::Binary);
    }
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<(&str, Hash)> = text.lines().filter_map(parse_line).collect();
    if lines.is_empty() {
        return Err(SumsError::NoSums { start: text.trim().chars().take(40).collect() });
    }
    let matches = matcher(wanted)?;
    let mut names: Vec<&str> = lines.iter().map(|(name, _)| *name).filter(|name| matches(name)).collect();
    names.sort_unstable();
    names.dedup();
    let (Wanted::Name(shown) | Wanted::Glob(shown)) = wanted;
    match names[..] {
        [] => {
            let all: Vec<&str> = lines.iter().map(|(name, _)| *name).collect();
            Err(SumsError::Missing { wanted: shown.into(), names: some_of(&all) })
        }
        [name] => digests_of(name, &lines),
        _ => Err(SumsError::Ambiguous { wanted: shown.into(), count: names.len(), names: some_of(&names) }),
    }
}

type Matches<'a> = Box<dyn Fn(&str) -> bool + 'a>;

fn matcher(wanted: Wanted<'_>) -> Result<Matches<'_>, SumsError> {
    match wanted {
        Wanted::Name(exact) => Ok(Box::new(move |name| base_name(name) == exact)),
        Wanted::Glob(pattern) => {
            let whole = pattern.contains('/');
            let glob = GlobBuilder::new(pattern).literal_separator(true).build().map_err(SumsError::Glob)?;
            let glob = glob.compile_matcher();
            Ok(Box::new(move |name| glob.is_match(if whole { name } else { base_name(name) })))
        }
    }
}

fn base_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn some_of(names: &[&str]) -> Box<str> {
    let mut shown = names.iter().take(SHOWN).map(|name| format!("{:?}", cut(name))).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        shown.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    shown.into()
}

fn digests_of(name: &str, lines: &[(&str, Hash)]) -> Result<Sum, SumsError> {
    let shown = || cut(name).into();
    RelPath::parse(name).map_err(|source| SumsError::Name { name: shown(), source })?;
    let mut digests: Vec<Digest> = Vec::new();
    let mut unsupported = None;
    for (_, hash) in lines.iter().filter(|(of, _)| *of == name) {
        match hash {
            Hash::Unsupported(algorithm) => unsupported = Some(*algorithm),
            Hash::Known(digest) => match digests.iter().find(|seen| seen.algorithm() == digest.algorithm()) {
                None => digests.push(digest.clone()),
                Some(seen) if seen == digest => {}
                Some(_) => {
                    return Err(SumsError::Contradiction { name: shown(), algorithm: digest.algorithm() });
                }
            },
        }
    }
    match unsupported {
        Some(algorithm) if digests.is_empty() => Err(SumsError::Unsupported { name: shown(), algorithm }),
        _ => {
            digests.sort_by_key(|digest| std::cmp::Reverse(digest.algorithm()));
            Ok(Sum { name: name.into(), digests })
        }
    }
}

/// One line; `None` for a comment, a blank line, a signature around the sums, or anything else that is no sum: what is
/// missed that way is missing when it is asked for.
fn parse_line(line: &str) -> Option<(&str, Hash)> {
    let line = line.trim_end_matches(['\r', '\n']).trim_start_matches('\u{feff}');
    let (name, hash) = parse_bsd(line).or_else(|| parse_gnu(line))?;
    let name = name.strip_prefix("./").unwrap_or(name);
    (!name.is_empty()).then_some((name, hash))
}

/// `HASH  name`, `HASH *name`, `HASH name`.
fn parse_gnu(line: &str) -> Option<(&str, Hash)> {
    let (hash, rest) = line.split_once([' ', '\t'])?;
    let rest = rest.trim_start_matches([' ', '\t']);
    Some((rest.strip_prefix('*').unwrap_or(rest).trim_end(), parse_hash(hash)?))
}

/// `SHA256 (name) = HASH`, also as openssl writes it: `SHA2-256(name)= HASH`.
fn parse_bsd(line: &str) -> Option<(&str, Hash)> {
    let (label, rest) = line.split_once('(')?;
    let (name, hash) = rest.rsplit_once(')')?;
    let label = label.trim();
    let labelled = !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'/');
    labelled.then_some((name, parse_hash(hash.trim_start().strip_prefix('=')?.trim())?))
}

fn parse_hash(digits: &str) -> Option<Hash> {
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    match digits.len() {
        40 => Some(Hash::Unsupported("sha1")),
        56 => Some(Hash::Unsupported("sha224")),
        96 => Some(Hash::Unsupported("sha384")),
        _ => digits.parse().ok().map(Hash::Known),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn hex(digits: usize) -> String {
        "0123456789abcdef".repeat(8)[..digits].into()
    }

    #[test]
    fn every_form_of_line_is_read() {
        let sha256 = hex(64);
        let forms = [
            format!("{sha256}  a.tgz"),
            format!("{sha256} *a.tgz"),
            format!("{sha256} a.tgz\r\n"),
            format!("{sha256}\ta.tgz"),
            format!("{sha256}  ./a.tgz"),
            format!("SHA256 (a.tgz) = {sha256}"),
            format!("SHA2-256(./a.tgz)= {sha256}"),
            format!("\u{feff}{}  a.tgz", sha256.to_uppercase()),
            format!("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# sums\n{sha256}  a.tgz\n"),
        ];
        for form in forms {
            let sum = find(form.as_bytes(), Wanted::Name("a.tgz")).unwrap();
            assert_eq!((sum.name.as_str(), sum.digests), ("a.tgz", vec![sha256.parse().unwrap()]), "{form:?}");
        }
    }

    #[test]
    fn a_glob_finds_one_name_or_says_what_there_is() {
        let text = format!(
            "{h}  platform-release-20260101.tgz\n{h}  platform-latest.iso\n{h} smartos/disk.img\n{h} other/disk.img\n",
            h = hex(32)
        );
        let found = |glob| find(text.as_bytes(), Wanted::Glob(glob));
        let sum = found("platform-*.tgz").unwrap();
        assert_eq!(sum.name, "platform-release-20260101.tgz");
        assert!(sum.digests[0].algorithm().is_weak());
        assert_eq!(found("smartos/*.img").unwrap().name, "smartos/disk.img");
        let SumsError::Ambiguous { count: 2, names, .. } = found("*.img").unwrap_err() else { panic!() };
        assert!(names.contains("other/disk.img"), "{names}");
        let SumsError::Missing { names, .. } = found("*.zip").unwrap_err() else { panic!() };
        assert!(names.contains("platform-latest.iso"), "{names}");
    }

    #[test]
    fn all_digests_of_a_name_are_demanded_and_must_agree() {
        let (sha256, sha512) = (hex(64), hex(128));
        let both = format!("SHA256 (a) = {sha256}\nSHA512 (a) = {sha512}\n{}  a\n{sha256}  a\n", hex(40));
        let sum = find(both.as_bytes(), Wanted::Name("a")).unwrap();
        assert_eq!(sum.digests, [sha512.parse().unwrap(), sha256.parse().unwrap()]);
        let torn = format!("{sha256}  a\n{}  a\n", "f".repeat(64));
        assert!(matches!(find(torn.as_bytes(), Wanted::Name("a")), Err(SumsError::Contradiction { .. })));
        let old = format!("{}  a\n", hex(40));
        assert!(matches!(
            find(old.as_bytes(), Wanted::Name("a")),
            Err(SumsError::Unsupported { algorithm: "sha1", .. })
        ));
    }

    #[test]
    fn what_is_no_sums_file_is_refused() {
        assert!(matches!(find(b"\x1f\x8b\0", Wanted::Name("a")), Err(SumsError::Binary)));
        for text in ["", "\n\n", "<!doctype html><title>Not here</title>", "# only a comment"] {
            assert!(matches!(find(text.as_bytes(), Wanted::Name("a")), Err(SumsError::NoSums { .. })), "{text}");
        }
        for name in ["../../etc/shadow", "/etc/shadow", "a/../shadow"] {
            let text = format!("{}  {name}\n", hex(64));
            assert!(matches!(find(text.as_bytes(), Wanted::Name("shadow")), Err(SumsError::Name { .. })), "{name}");
        }
    }

    #[test]
    fn names_of_any_length_make_a_short_error() {
        let long = "\u{1}".repeat(100_000);
        let (sha1, sha256) = (hex(40), hex(64));
        for (text, wanted) in [
            (format!("{sha256}  {long}a\n{sha256}  {long}b\n"), "*"),
            (format!("{sha256}  {long}a\n"), "x"),
            (format!("{sha256}  {long}a\n"), "*"),
            (format!("{sha1}  {}\n", "a".repeat(200)), "*"),
        ] {
            let error = find(text.as_bytes(), Wanted::Glob(wanted)).unwrap_err();
            assert!(error.to_string().len() < 4_000, "{}", error.to_string().len());
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_found(
            names in proptest::collection::btree_set("[a-zA-Z0-9][a-zA-Z0-9._+-]{0,20}", 1..6),
            pick in any::<prop::sample::Index>(),
            form in 0..4,
            crlf in any::<bool>(),
        ) {
            let digest = |name: &str| Digest::sha256(name.as_bytes());
            let end = if crlf { "\r\n" } else { "\n" };
            let text: String = names.iter().map(|name| {
                let hex = digest(name).hex();
                match form {
                    0 => format!("{hex}  {name}{end}"),
                    1 => format!("{hex} *{name}{end}"),
                    2 => format!("{hex} {name}{end}"),
                    _ => format!("SHA256 ({name}) = {hex}{end}"),
                }
            }).collect();
            let wanted = names.iter().nth(pick.index(names.len())).unwrap();
            let sum = find(text.as_bytes(), Wanted::Name(wanted)).unwrap();
            prop_assert_eq!(sum, Sum { name: wanted.clone(), digests: vec![digest(wanted)] });
        }

        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "[0-9a-f (=)*./\\n]{0,200}") {
            let _ = find(&bytes, Wanted::Glob("*"));
            let _ = find(text.as_bytes(), Wanted::Glob("**/*"));
        }
    }
}
