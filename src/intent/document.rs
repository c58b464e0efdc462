//! YAML files to settings and documents, with file, line and field in every refusal.

use std::path::{Path, PathBuf};

use super::{Artifact, Catalog, Settings};

/// Why a document or the settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The file could not be read.
    #[error(transparent)]
    Fs(#[from] crate::fs::Error),
}

/// Reads `DIR/seedcache.yaml`; defaults where there is none.
pub fn load_settings(_dir: &Path) -> Result<Settings, DocumentError> {
    unimplemented!()
}

/// Reads every other YAML file in `dir`.
pub fn load_catalog(_dir: &Path) -> Result<Catalog, DocumentError> {
    unimplemented!()
}

/// Checks the documents in one file's text.
pub fn parse_documents(_file: &Path, _text: &str) -> Vec<Result<Artifact, DocumentError>> {
    let _: PathBuf;
    unimplemented!()
}

/// The JSON Schema of a document.
pub fn schema() -> serde_json::Value {
    unimplemented!()
}
