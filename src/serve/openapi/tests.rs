//! The document against the types, and against the routes that there are.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};

use super::DOCUMENT;
use crate::intent::{ArtifactName, Digest, VersionName, VersionOrCurrent};
use crate::reconcile::{ArtifactState, Collected, FateState, PinAnswer};
use crate::seed::Seeded;
use crate::serve::ask::{NoBody, PinBody, SeedBody, VerifyBody};
use crate::serve::fill::FillBody;
use crate::serve::health::Readiness;
use crate::serve::keep::LeaseBody;
use crate::serve::listing::Listing;
use crate::serve::patience::Patience;
use crate::serve::routes::Verified;
use crate::serve::{problem, routes};
use crate::store::{Entry, HolderName, ManifestHead, TimedLease};

/// A version, where it came from, and every entry of its tree.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "its schema is what is wanted")]
struct Manifest {
    #[serde(flatten)]
    head: ManifestHead,
    /// Sorted by path, parents before children.
    entries: Vec<Entry>,
    /// SHA-256 of all bytes before its line.
    checksum: Digest,
}

fn document() -> Value {
    serde_json::from_str(DOCUMENT).unwrap()
}

/// The schemas of all that is sent and taken, as the document has them.
fn schemas() -> Map<String, Value> {
    let settings = || {
        let mut settings = SchemaSettings::draft2020_12();
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
        settings
    };
    let mut taken = SchemaGenerator::new(settings().for_deserialize());
    taken.subschema_for::<SeedBody>();
    taken.subschema_for::<FillBody>();
    taken.subschema_for::<VerifyBody>();
    taken.subschema_for::<PinBody>();
    taken.subschema_for::<LeaseBody>();
    taken.subschema_for::<NoBody>();
    taken.subschema_for::<ArtifactName>();
    taken.subschema_for::<VersionName>();
    taken.subschema_for::<VersionOrCurrent>();
    taken.subschema_for::<HolderName>();
    taken.subschema_for::<Patience>();
    let mut sent = SchemaGenerator::new(settings().for_serialize());
    sent.subschema_for::<ArtifactState>();
    sent.subschema_for::<PinAnswer>();
    sent.subschema_for::<Verified>();
    sent.subschema_for::<Collected>();
    sent.subschema_for::<FateState>();
    sent.subschema_for::<TimedLease>();
    sent.subschema_for::<Seeded>();
    sent.subschema_for::<Manifest>();
    sent.subschema_for::<Listing<'_>>();
    sent.subschema_for::<Readiness>();
    sent.subschema_for::<problem::Document>();
    let mut all = sent.take_definitions(true);
    for (name, schema) in taken.take_definitions(true) {
        let known = all.insert(name.clone(), schema.clone());
        assert!(known.is_none_or(|known| known == schema), "{name} is not taken as it is sent");
    }
    all
}

/// JSON for people, and with few bytes: what fits a line stands on one.
fn text(value: &Value, depth: usize) -> String {
    let flat = match value {
        Value::Object(members) => {
            let members: Vec<_> = members.iter().map(|(name, value)| format!("{name:?}: {}", text(value, 0))).collect();
            format!("{{{}}}", members.join(", "))
        }
        Value::Array(values) => {
            let values: Vec<_> = values.iter().map(|value| text(value, 0)).collect();
            format!("[{}]", values.join(", "))
        }
        plain => plain.to_string(),
    };
    if depth + flat.len() <= 120 && !flat.contains('\n') {
        return flat;
    }
    let (open, inner, close) = match value {
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| format!("{name:?}: {}", text(value, depth + 1)));
            ('{', members.collect::<Vec<_>>(), '}')
        }
        Value::Array(values) => ('[', values.iter().map(|value| text(value, depth + 1)).collect(), ']'),
        plain => return plain.to_string(),
    };
    let (line, pad) = ("\n".to_owned() + &" ".repeat(depth + 1), " ".repeat(depth));
    format!("{open}{line}{}\n{pad}{close}", inner.join(&format!(",{line}")))
}

#[test]
fn the_schemas_are_those_of_the_types() {
    let mut document = document();
    let written = document["components"]["schemas"].take();
    let wanted = Value::Object(schemas());
    if written != wanted && std::env::var_os("WRITE_OPENAPI").is_some() {
        document["components"]["schemas"] = wanted.clone();
        let text = text(&document, 0) + "\n";
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/serve/openapi.json"), text).unwrap();
    }
    for (name, schema) in wanted.as_object().unwrap() {
        assert_eq!(written[name], *schema, "{name}: WRITE_OPENAPI=1 has this test write the types' schemas");
    }
    assert_eq!(written.as_object().unwrap().len(), wanted.as_object().unwrap().len(), "schemas of no type");
}

#[test]
fn the_version_is_the_crates() {
    assert_eq!(document()["info"]["version"], env!("CARGO_PKG_VERSION"), "src/serve/openapi.json");
}

#[test]
fn every_schema_that_is_named_is_there_and_every_one_there_is_named() {
    let document = document();
    let named: BTreeSet<&str> = Regex::new("\"#(/components/[^\"]+)\"")
        .unwrap()
        .captures_iter(DOCUMENT)
        .map(|found| found.extract::<1>().1[0])
        .collect();
    for pointer in &named {
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
    for (kind, parts) in document["components"].as_object().unwrap() {
        for name in parts.as_object().unwrap().keys().filter(|_| kind != "securitySchemes") {
            assert!(named.contains(&*format!("/components/{kind}/{name}")), "nothing names {kind}/{name}");
        }
    }
}

/// The real routes with their methods, as axum tells them to who debugs.
fn routes_there_are() -> BTreeMap<String, BTreeSet<String>> {
    let all = format!("{:?}", routes::endpoints());
    // Behind it are the answers for what is no route, with numbers of their own.
    let (told, _) = all.split_once("fallback_router").unwrap();
    let pairs = |pattern: &str| -> BTreeMap<String, String> {
        let pattern = Regex::new(pattern).unwrap();
        pattern.captures_iter(told).map(|found| (found[1].to_owned(), found[2].to_owned())).collect()
    };
    let paths = pairs(r#"RouteId\((\d+)\): "([^"]+)""#);
    let methods = pairs(r#"RouteId\((\d+)\): MethodRouter\(MethodRouter \{[^}]*allow_header: Bytes\(b"([A-Z,]+)"\)"#);
    assert!(paths.len() > 15 && methods.keys().eq(paths.keys()), "axum no longer tells its routes: {told}");
    let split = |methods: &str| methods.split(',').map(str::to_ascii_lowercase).collect();
    paths.iter().map(|(id, path)| (path.replace("{*", "{"), split(&methods[id]))).collect()
}

#[test]
fn the_routes_are_those_that_there_are() {
    let mut documented: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, operations) in document()["paths"].as_object().unwrap() {
        let operations = operations.as_object().unwrap().keys().filter(|key| *key != "parameters");
        let mut methods: BTreeSet<String> = operations.cloned().collect();
        // Whatever can be got can be asked for without its body.
        if methods.contains("get") {
            methods.insert("head".into());
        }
        documented.insert(path.clone(), methods);
    }
    assert_eq!(documented, routes_there_are());
}
