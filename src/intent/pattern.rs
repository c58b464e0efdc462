//! Regular expressions that find a version in a text. Linear in the text whatever they are; what they cost for each of its
//! bytes, and to be made, is bounded by their size.

use regex::{Regex, RegexBuilder};

/// Bytes that a compiled one may take: a hundred of `\w` do. As many as the crate allows by itself take seconds to make.
const MOST: usize = 2 << 20;

/// Compiles `latest.pattern`.
pub fn version_pattern(text: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(text).size_limit(MOST).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_as_large_as_anybody_needs_and_no_larger() {
        for good in
            [r"(?<version>\d{8}T\d{6}Z(_u\d+)?)$", r"-([\w.+-]+)_\w{20}\.tar\.[[:alpha:]]{1,3}", "[0-9a-f]{128}"]
        {
            assert!(version_pattern(good).is_ok(), "{good}");
        }
        // Found by fuzzing: the first took four seconds.
        for large in [r"((a*)..*|\b)*{4098}", r"\w{1000}", r"((\d{30}){30}){30}"] {
            assert!(matches!(version_pattern(large), Err(regex::Error::CompiledTooBig(_))), "{large}");
        }
    }
}
