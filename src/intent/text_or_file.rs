//! A value that stands in the document, or in a file that the document names: read so that a field too many is told by
//! its name, and no value ever.

use std::fmt;
use std::path::PathBuf;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

/// What is read.
pub(super) enum TextOrFile {
    Text(String),
    File(PathBuf),
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Fields {
    from_file: PathBuf,
}

impl<'de> Deserialize<'de> for TextOrFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrFileVisitor)
    }
}

struct TextOrFileVisitor;

impl<'de> Visitor<'de> for TextOrFileVisitor {
    type Value = TextOrFile;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, or `{fromFile: PATH}`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<TextOrFile, E> {
        Ok(TextOrFile::Text(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<TextOrFile, A::Error> {
        let Fields { from_file } = Fields::deserialize(MapAccessDeserializer::new(fields))?;
        Ok(TextOrFile::File(from_file))
    }
}
