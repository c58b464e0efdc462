//! One YAML text to a typed value; what is wrong comes with the field's path and its place.

use std::borrow::Cow;

use serde::de::{Deserialize, DeserializeOwned, Deserializer};
use serde_path_to_error::{Path, Segment, Track};
use serde_saphyr::{DuplicateKeyPolicy, Error, MessageFormatter as _, Options, UserMessageFormatter};

use super::problem::Problem;

/// The most values in a document, those that aliases repeat among them: far more than any real one has.
const NODES_LIMIT: usize = 50_000;

/// The deepest nesting; ours is 7. Reading recurses, and must not come near the end of a small thread stack.
const DEPTH_LIMIT: usize = 16;

/// A text that is not what it should be.
#[derive(Debug)]
pub(super) struct Misread {
    /// The field's dotted path, as far as it is known.
    pub(super) field: String,
    /// Line and column, both from 1; unknown where only the field is.
    pub(super) place: Option<(u64, u64)>,
    pub(super) problem: Problem,
}

/// Reads one document strictly.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> Result<T, Misread> {
    let mut track = Track::new();
    let read =
        serde_saphyr::with_deserializer_from_str_with_options(text, options(DuplicateKeyPolicy::Error), |yaml| {
            T::deserialize(serde_path_to_error::Deserializer::new(yaml, &mut track))
        });
    read.map_err(|error| misread(&error, &track.path()))
}

/// Reads one document whatever stands in it twice: for looking at what is wrong elsewhere.
pub(super) fn read_loosely<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_saphyr::from_str_with_options(text, options(DuplicateKeyPolicy::FirstWins)).ok()
}

/// For fields with a default: `field:` with nothing after it is as good as no such field.
pub(super) fn blank_is_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de> + Default,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

fn options(duplicate_keys: DuplicateKeyPolicy) -> Options {
    serde_saphyr::options! {
        duplicate_keys: duplicate_keys,
        with_snippet: false,
        emit_comments: false,
        budget: serde_saphyr::budget! { max_nodes: NODES_LIMIT, max_depth: DEPTH_LIMIT },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: NODES_LIMIT },
    }
}

fn misread(error: &Error, path: &Path) -> Misread {
    let place = error.location().map(|at| (at.line().max(1), at.column().max(1)));
    let mut error = error.without_snippet();
    while let Error::AliasError { error: inner, .. } = error {
        error = inner.without_snippet();
    }
    let mut field = dotted(path);
    let mut place = place;
    let mut below = |name: &str| {
        if !field.is_empty() {
            field.push('.');
        }
        field.push_str(name);
    };
    let problem = match error {
        Error::SerdeUnknownField { field: given, expected, .. } => {
            Problem::UnknownField { like: like(given, expected), known: expected.join(", ").into() }
        }
        Error::SerdeMissingField { field: name, .. } => {
            // The place would be where the parser noticed: its first sibling.
            place = None;
            below(name);
            Problem::Missing
        }
        Error::SerdeUnknownVariant { variant, expected, .. } if matches!(variant.as_str(), "" | "~" | "null") => {
            Problem::NoChoice { known: expected.join(", ").into() }
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => Problem::UnknownChoice {
            given: variant.as_str().into(),
            like: like(variant, expected),
            known: expected.join(", ").into(),
        },
        Error::DuplicateMappingKey { key, .. } => {
            key.iter().for_each(|key| below(key));
            Problem::GivenTwice
        }
        Error::ExpectedMappingEndAfterEnumVariantValue { .. } => {
            // The path ends with the first kind; it is the field that holds both.
            field.truncate(field.rfind('.').unwrap_or(0));
            Problem::SeveralKinds
        }
        other => Problem::Form { why: form(other).into() },
    };
    Misread { field, place, problem }
}

/// What is wrong with a value's form, and what belongs there.
fn form(error: &Error) -> Cow<'_, str> {
    let expected = match error {
        Error::Unexpected { expected: "mapping start", .. } => "fields (`name: value`) belong here",
        Error::Unexpected { expected: "sequence start", .. } => {
            "a list belongs here (`- item` on lines of their own, or `[item]`)"
        }
        Error::Unexpected { expected: "string scalar", .. } => "one text belongs here",
        Error::InvalidScalar { ty: "bool" | "boolean", .. } | Error::InvalidBooleanStrict { .. } => {
            "write true or false"
        }
        Error::InvalidScalar { ty: "u8" | "u16" | "u32" | "u64", .. } => {
            "write a whole number, 0 or more, that is not huge"
        }
        Error::ExpectedStringKeyForExternallyTaggedEnum { .. }
        | Error::ExternallyTaggedEnumExpectedScalarOrMapping { .. } => "one kind belongs here, by its name",
        Error::NullIntoString { .. } => "a text is missing",
        // What was found may be a secret.
        Error::SerdeInvalidType { expected, .. } => return format!("{expected} belongs here").into(),
        other => return UserMessageFormatter.format_message(other),
    };
    expected.into()
}

/// The known name that a misspelt one is most like.
fn like(given: &str, known: &[&'static str]) -> Option<&'static str> {
    let near = |name: &&str| strsim::damerau_levenshtein(&given.to_lowercase(), &name.to_lowercase());
    known.iter().copied().min_by_key(near).filter(|name| near(name) <= 1 + name.len() / 4)
}

fn dotted(path: &Path) -> String {
    let mut dotted = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => dotted.push_str(&format!("[{index}]")),
            Segment::Map { key: name } | Segment::Enum { variant: name } => {
                if !dotted.is_empty() {
                    dotted.push('.');
                }
                dotted.push_str(name);
            }
            Segment::Unknown => {}
        }
    }
    dotted
}
