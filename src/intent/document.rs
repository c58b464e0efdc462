//! YAML files to settings and documents, with file, line and field in every refusal. One bad document takes neither its
//! neighbours in the file nor other files with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::located::Fields;
use super::problem::{DocumentError, Place, Problem};
use super::{Artifact, ArtifactName, Catalog, Digest, Refused, Settings, Spec, validate};
use crate::fs;

/// The most bytes a file of documents may hold: a ConfigMap cannot hold more either.
const FILE_LIMIT: u64 = 1 << 20;
/// The most documents in a file.
const DOCUMENTS_LIMIT: usize = 10_000;
/// The settings' file in the configuration directory.
const SETTINGS: &str = "seedcache.yaml";
/// The only `apiVersion` there is.
pub(super) const API_VERSION: &str = "seedcache.dev/v1alpha1";
/// The only `kind` there is.
pub(super) const KIND: &str = "Artifact";

/// A document as it is written.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(title = "Artifact", extend("$id" = "https://seedcache.dev/v1alpha1/artifact.json"))]
pub(super) struct Document {
    /// Always `seedcache.dev/v1alpha1`.
    #[schemars(extend("const" = API_VERSION))]
    api_version: String,
    /// Always `Artifact`.
    #[schemars(extend("const" = KIND))]
    kind: String,
    /// What it is called.
    metadata: Metadata,
    /// What is declared.
    spec: Spec,
}

/// `metadata`, as Kubernetes objects have it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Metadata {
    /// The artifact's name.
    name: ArtifactName,
    /// Taken and not used.
    #[serde(default, skip_serializing)]
    #[allow(dead_code, reason = "named so that it is not refused as unknown")]
    namespace: Option<String>,
    /// Taken and not used.
    #[serde(default, skip_serializing)]
    #[allow(dead_code, reason = "named so that it is not refused as unknown")]
    labels: BTreeMap<String, String>,
    /// Taken and not used.
    #[serde(default, skip_serializing)]
    #[allow(dead_code, reason = "named so that it is not refused as unknown")]
    annotations: BTreeMap<String, String>,
}

/// What of a document is read first, whatever else is wrong with it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Header {
    api_version: Option<String>,
    kind: Option<String>,
    metadata: Option<HeaderMetadata>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HeaderMetadata {
    name: Option<String>,
}

/// One document of a file, read or refused.
#[derive(Debug)]
pub struct Parsed {
    /// The line it starts at.
    pub line: u64,
    /// Its name, where that much could be read.
    pub name: Option<ArtifactName>,
    /// What it says, or why it is refused.
    pub artifact: Result<Artifact, DocumentError>,
}

/// Reads `DIR/seedcache.yaml`; the defaults where there is none.
pub fn load_settings(dir: &Path) -> Result<Settings, DocumentError> {
    let file = dir.join(SETTINGS);
    match read(&file) {
        Ok(text) => parse_settings(&file, &text),
        // The directory itself must be there: a misspelt one shall not run on defaults.
        Err(DocumentError::Fs(e)) if e.is_not_found() => {
            fs::documents_in(dir).map(|_| Settings::default()).map_err(Into::into)
        }
        Err(e) => Err(e),
    }
}

/// Whether a path names the settings rather than documents.
pub fn is_settings(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == SETTINGS)
}

/// Checks the text of a settings file.
pub fn parse_settings(file: &Path, text: &str) -> Result<Settings, DocumentError> {
    let part = Part { file, text, first_line: 1, fields: Fields::of(text) };
    if is_blank(text) {
        return Ok(Settings::default());
    }
    let settings: Settings = part.read()?;
    validate::settings(&settings).map_err(|(field, problem)| part.problem(&field, problem))?;
    Ok(settings)
}

/// Reads every other YAML file in `dir`. Only a directory that cannot be listed is an error; what is wrong with files
/// and documents stands in the catalog.
pub fn load_catalog(dir: &Path) -> Result<Catalog, DocumentError> {
    let mut builder = Builder::default();
    for file in fs::documents_in(dir)? {
        if is_settings(&file) {
            continue;
        }
        match read(&file).and_then(|text| parse_documents(&file, &text)) {
            Ok(parsed) => parsed.into_iter().for_each(|parsed| builder.add(&file, parsed)),
            Err(error) => builder.catalog.refused.push(Refused { file, name: None, error: Arc::new(error) }),
        }
    }
    Ok(builder.catalog)
}

/// Reads a file of documents or settings.
pub fn read(file: &Path) -> Result<String, DocumentError> {
    let bytes = fs::read_limited(file, FILE_LIMIT)?;
    String::from_utf8(bytes).map_err(|_| DocumentError::NotText { file: file.into() })
}

/// Checks the documents in one file's text.
pub fn parse_documents(file: &Path, text: &str) -> Result<Vec<Parsed>, DocumentError> {
    let parts = split(text);
    if parts.len() > DOCUMENTS_LIMIT {
        return Err(DocumentError::TooMany { file: file.into(), limit: DOCUMENTS_LIMIT });
    }
    let parts = parts.into_iter().filter(|(_, text)| !is_blank(text));
    Ok(parts.map(|(line, text)| parse_document(file, line, text)).collect())
}

/// The documents of a text, each with the line it starts at. `---` at the start of a line ends a document wherever it
/// stands: YAML allows it in no block scalar (YAML 1.2.2, 9.1.2).
fn split(text: &str) -> Vec<(u64, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut first_line) = (0, 1);
    let mut at = 0;
    for (line, number) in text.split_inclusive('\n').zip(1..) {
        let marker =
            line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker && at > start {
            parts.push((first_line, &text[start..at]));
            (start, first_line) = (at, number);
        }
        at += line.len();
    }
    parts.push((first_line, &text[start..]));
    parts
}

/// Nothing but comments, markers and white space.
fn is_blank(text: &str) -> bool {
    text.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line == "---" || line == "..."
    })
}

fn parse_document(file: &Path, first_line: u64, text: &str) -> Parsed {
    let part = Part { file, text, first_line, fields: Fields::of(text) };
    let header = serde_saphyr::from_str::<Header>(text).unwrap_or_default();
    let name = header.metadata.as_ref().and_then(|metadata| metadata.name.as_ref()?.parse().ok());
    Parsed { line: first_line, name, artifact: parse_artifact(&part, &header) }
}

fn parse_artifact(part: &Part<'_>, header: &Header) -> Result<Artifact, DocumentError> {
    for (field, found, wanted) in [("apiVersion", &header.api_version, API_VERSION), ("kind", &header.kind, KIND)] {
        if let Some(found) = found.as_ref().filter(|found| *found != wanted) {
            return Err(part.problem(field, Problem::Header { found: found.clone(), wanted }));
        }
    }
    let document: Document = part.read()?;
    let mut spec = document.spec;
    validate::spec(&spec).map_err(|(field, problem)| part.problem(&format!("spec.{field}"), problem))?;
    let json = serde_json::to_vec(&spec).unwrap_or_else(|e| unreachable!("what was read from YAML serialises: {e}"));
    let dir = part.file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    validate::anchor(&mut spec, &fs::absolute(dir).map_err(DocumentError::Fs)?);
    Ok(Artifact { name: document.metadata.name, spec, generation: Digest::sha256(&json), file: part.file.into() })
}

/// One document of a file.
struct Part<'a> {
    file: &'a Path,
    text: &'a str,
    first_line: u64,
    fields: Fields,
}

impl Part<'_> {
    fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, DocumentError> {
        serde_saphyr::from_str(self.text).map_err(|error| {
            let place = error.location().map_or((1, 1), |location| (location.line().max(1), location.column().max(1)));
            let field = self.fields.at(place).unwrap_or_default().to_owned();
            DocumentError::At { place: self.place(place, field), problem: Problem::Yaml(Box::new(error)) }
        })
    }

    fn problem(&self, field: &str, problem: Problem) -> DocumentError {
        DocumentError::At { place: self.place(self.fields.place_of(field), field.to_owned()), problem }
    }

    fn place(&self, (line, column): (u64, u64), field: String) -> Place {
        Place { file: self.file.into(), line: self.first_line + line - 1, column, field }
    }
}

/// Builds a catalog document by document: whoever comes second with a name or a target is refused.
#[derive(Debug, Default)]
pub struct Builder {
    /// What was taken and what was refused so far.
    pub catalog: Catalog,
    places: BTreeMap<ArtifactName, (PathBuf, u64)>,
}

impl Builder {
    /// Adds what one document gave.
    pub fn add(&mut self, file: &Path, parsed: Parsed) {
        let at = |field: &str, problem| {
            let place = Place { file: file.into(), line: parsed.line, column: 1, field: field.into() };
            DocumentError::At { place, problem }
        };
        let taken = match parsed.artifact {
            Ok(artifact) => match self.conflict(&artifact) {
                None => Ok(artifact),
                Some((field, problem)) => Err(at(&field, problem)),
            },
            Err(error) => Err(error),
        };
        match taken {
            Ok(artifact) => {
                self.places.insert(artifact.name.clone(), (file.into(), parsed.line));
                self.catalog.artifacts.insert(artifact.name.clone(), Arc::new(artifact));
            }
            Err(error) => {
                let refused = Refused { file: file.into(), name: parsed.name, error: Arc::new(error) };
                self.catalog.refused.push(refused);
            }
        }
    }

    fn conflict(&self, artifact: &Artifact) -> Option<(String, Problem)> {
        let first = |name: &ArtifactName| {
            self.places.get(name).map_or_else(String::new, |(file, line)| Place::line_of(file, *line))
        };
        if self.catalog.artifacts.contains_key(&artifact.name) {
            let problem = Problem::Duplicate { name: artifact.name.to_string(), first: first(&artifact.name) };
            return Some(("metadata.name".into(), problem));
        }
        for (i, seed) in artifact.seeds.iter().enumerate() {
            for other in self.catalog.artifacts.values() {
                let overlaps = |o: &&super::SeedTarget| validate::overlap(&o.target, &seed.target);
                if let Some(taken) = other.seeds.iter().find(overlaps) {
                    let problem = Problem::TargetTaken { other: taken.target.to_string(), first: first(&other.name) };
                    return Some((format!("spec.seeds[{i}].target"), problem));
                }
            }
        }
        None
    }
}

/// The JSON Schema of a document (draft 2020-12).
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Document).to_value()
}
