//! The JSON Schema of a document, for editors and for those who write documents by program.

use schemars::Schema;
use serde_json::{Value, json};

use super::document::Document;

/// The JSON Schema of a document (draft 2020-12).
pub fn schema() -> Value {
    schemars::schema_for!(Document).to_value()
}

/// Under a file source `url` may be called `path`: the schema takes either, and never both.
pub(super) fn url_or_path(schema: &mut Schema) {
    let Some(url) = schema.pointer("/properties/url").cloned() else { return };
    let demanded = schema.get("required").is_some_and(|required| *required == json!(["url"]));
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("path".into(), url);
    }
    if demanded {
        schema.remove("required");
        schema.insert("oneOf".into(), json!([{ "required": ["url"] }, { "required": ["path"] }]));
    } else {
        schema.insert("not".into(), json!({ "required": ["url", "path"] }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_says_what_the_parser_takes() {
        let schema = schema();
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert_eq!(schema["title"], "Artifact");
        assert_eq!(schema["properties"]["apiVersion"]["const"], "seedcache.dev/v1alpha1");
        assert_eq!(schema["properties"]["kind"]["const"], "Artifact");
        assert_eq!(schema["additionalProperties"], false);
        for name in ["Latest", "Checksums"] {
            assert_eq!(schema["$defs"][name]["properties"]["path"], schema["$defs"][name]["properties"]["url"]);
        }
        assert_eq!(schema["$defs"]["Checksums"]["oneOf"][1]["required"][0], "path");
        assert_eq!(schema["$defs"]["Limits"]["properties"]["ratio"]["minimum"], 1);
        let connections = &schema["$defs"]["Connections"];
        assert_eq!((&connections["minimum"], &connections["maximum"]), (&json!(1), &json!(16)));
        for name in ["HeaderValue", "SeedValue"] {
            let choices = schema["$defs"][name]["anyOf"].as_array().map(Vec::as_slice).unwrap_or_default();
            let file = choices.iter().find(|choice| choice["type"] == "object");
            assert_eq!(file.map(|file| &file["additionalProperties"]), Some(&json!(false)), "{name}");
        }
        assert_eq!(schema["$defs"]["VersionName"]["not"], json!({ "enum": ["latest", "current"] }));
        let text = schema.to_string();
        for field in ["apiVersion", "stripComponents", "keepArchive", "fromFile", "inPlace", "tar.zst", "topDirectory"]
        {
            assert!(text.contains(field), "{field}");
        }
    }
}
