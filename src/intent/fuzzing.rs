//! This room's fuzz target.

use std::path::Path;

use super::split::lines;
use super::{Builder, error_chain, parse_documents, parse_settings, recipe_digest};

/// A file of documents, to the catalog, and the same as settings.
pub(crate) fn documents(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let file = Path::new("/config/fuzz.yaml");
    let lines = lines(text).count() as u64 + 1;
    let told = |error: &super::DocumentError| {
        let told = error_chain(error);
        assert!(!told.contains('\n') && told.contains("fuzz.yaml"), "{told}");
        if let super::DocumentError::At { place, .. } = error {
            assert!((1..=lines).contains(&place.line) && place.column >= 1, "{told}: there is no such place");
        }
    };
    let mut builder = Builder::default();
    match parse_documents(file, text) {
        Ok(parsed) => parsed.into_iter().for_each(|parsed| drop(builder.add(file, parsed))),
        Err(error) => told(&error),
    }
    let catalog = builder.catalog;
    catalog.refused.iter().for_each(|refused| told(&refused.error));
    for (name, artifact) in &catalog.artifacts {
        assert_eq!(*name, artifact.name);
        let _ = recipe_digest(&artifact.spec.unpack);
    }
    assert!(catalog.says_the_same(&catalog));
    if let Err(error) = parse_settings(file, text) {
        told(&error);
    }
}
