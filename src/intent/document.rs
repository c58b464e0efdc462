//! YAML files to settings and documents, with file, line and field in every refusal. One bad document takes neither its
//! neighbours in the file nor other files with it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::located::Fields;
use super::problem::{DocumentError, Place, Problem};
use super::split::{Part, lines, split};
use super::yaml::{self, blank_is_default, read_loosely};
use super::{Artifact, ArtifactName, Catalog, Digest, Refused, Settings, Spec, validate};
use crate::fs;

/// The most bytes a file of documents may hold: a ConfigMap cannot hold more either.
const FILE_LIMIT: u64 = 1 << 20;
/// The most documents in a file.
const DOCUMENTS_LIMIT: usize = 10_000;
/// The fields at a document's top: `apiVersion`, `kind`, `metadata`, `spec`.
const TOP_LEVEL: usize = 4;
/// The settings' file in the configuration directory.
const SETTINGS: &str = "seedcache.yaml";
/// The only `apiVersion` there is.
pub(super) const API_VERSION: &str = "seedcache.dev/v1alpha1";
/// The only `kind` there is.
pub(super) const KIND: &str = "Artifact";

/// Declares an artifact: where its bytes come from, which version is wanted, how it is unpacked and where it is seeded.
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
    #[serde(default, deserialize_with = "blank_is_default", skip_serializing)]
    #[allow(dead_code, reason = "named so that it is not refused as unknown")]
    labels: BTreeMap<String, String>,
    /// Taken and not used.
    #[serde(default, deserialize_with = "blank_is_default", skip_serializing)]
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

impl Header {
    /// Whether it is one of our documents at all: what is wrong below says nothing where it is not.
    fn check(&self) -> Result<(), (&'static str, Problem)> {
        match (&self.kind, &self.api_version) {
            (None, _) => Err(("kind", Problem::Missing)),
            (Some(found), _) if found != KIND => Err(("kind", Problem::Kind { found: found.clone(), wanted: KIND })),
            (_, Some(found)) if found != API_VERSION => {
                Err(("apiVersion", Problem::ApiVersion { found: found.clone(), wanted: API_VERSION }))
            }
            _ => Ok(()),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HeaderMetadata {
    name: Option<String>,
}

/// One document of a file, read or refused.
#[derive(Debug)]
pub struct Parsed {
    /// Its name, where that much could be read.
    pub name: Option<ArtifactName>,
    /// What it says, or why it is refused.
    pub artifact: Result<Artifact, DocumentError>,
    /// Where its name stands, and its seeds' targets.
    named: Place,
    targets: Vec<Place>,
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
    let parts = split(text);
    let Some(first) = parts.first() else { return Ok(Settings::default()) };
    let text = Text::new(file, *first);
    if let Some(second) = parts.get(1) {
        let place = Place { file: file.into(), line: second.first_line, column: 1, field: String::new() };
        return Err(DocumentError::At { place, problem: Problem::SecondSettings });
    }
    let settings: Settings = text.read()?;
    settings.check().map_err(|(field, problem)| text.problem(&field, problem))?;
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
            Ok(parsed) => parsed.into_iter().for_each(|parsed| drop(builder.add(&file, parsed))),
            Err(error) => {
                builder.refuse(&file, None, error);
            }
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
    Ok(parts.into_iter().map(|part| parse_document(&Text::new(file, part))).collect())
}

fn parse_document(text: &Text<'_>) -> Parsed {
    let header = read_loosely::<Header>(text.part.text);
    let artifact = parse_artifact(text, header.as_ref());
    // A slip of the pen below the name does not hide it: what stands above the slip is read alone.
    let header = header.or_else(|| text.shortened().find_map(read_loosely));
    let name = header.and_then(|header| header.metadata?.name?.parse().ok());
    let seeds = artifact.as_ref().map_or(0, |artifact| artifact.seeds.len());
    let targets = (0..seeds).map(|i| text.place_of(&format!("spec.seeds[{i}].target"))).collect();
    Parsed { name, artifact, named: text.place_of("metadata.name"), targets }
}

fn parse_artifact(text: &Text<'_>, header: Option<&Header>) -> Result<Artifact, DocumentError> {
    if let Some(header) = header {
        header.check().map_err(|(field, problem)| text.problem(field, problem))?;
    }
    let document: Document = text.read()?;
    let mut spec = document.spec;
    let below = |(field, problem): (String, Problem)| text.problem(&format!("spec.{field}"), problem);
    validate::spec(&spec).map_err(below)?;
    let json = serde_json::to_vec(&spec).unwrap_or_else(|e| unreachable!("what was read from YAML serialises: {e}"));
    let dir = text.file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    validate::anchor(&mut spec, &fs::absolute(dir).map_err(DocumentError::Fs)?).map_err(below)?;
    Ok(Artifact { name: document.metadata.name, spec, generation: Digest::sha256(&json), file: text.file.into() })
}

/// One document's text, and where it stands.
struct Text<'a> {
    file: &'a Path,
    part: Part<'a>,
    fields: Fields,
}

impl<'a> Text<'a> {
    fn new(file: &'a Path, part: Part<'a>) -> Self {
        Self { file, part, fields: Fields::of(part.text) }
    }

    fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, DocumentError> {
        yaml::read(self.part.text).map_err(|misread| {
            let place = misread.place.unwrap_or_else(|| self.fields.place_of(&misread.field));
            DocumentError::At { place: self.place(place, misread.field), problem: misread.problem }
        })
    }

    fn problem(&self, field: &str, problem: Problem) -> DocumentError {
        DocumentError::At { place: self.place_of(field), problem }
    }

    fn place_of(&self, field: &str) -> Place {
        self.place(self.fields.place_of(field), field.to_owned())
    }

    fn place(&self, (line, column): (u64, u64), field: String) -> Place {
        Place { file: self.file.into(), line: self.part.first_line + line - 1, column, field }
    }

    /// What stands above the top-level fields, one after the other from the last: the text in which less and less can be
    /// wrong.
    fn shortened(&self) -> impl Iterator<Item = &'a str> {
        let text = self.part.text;
        let starts = lines(text).scan(0, |at, line| Some(std::mem::replace(at, *at + line.len())));
        let starts_field = |at: &usize| *at > 0 && text[*at..].starts_with(|c: char| c.is_alphabetic());
        let starts: Vec<usize> = starts.filter(starts_field).collect();
        starts.into_iter().rev().take(TOP_LEVEL).map(|at| &text[..at])
    }
}

/// Builds a catalog document by document: whoever comes second with a name or a target is refused.
#[derive(Debug, Default)]
pub struct Builder {
    /// What was taken and what was refused so far.
    pub catalog: Catalog,
    places: BTreeMap<ArtifactName, (Place, Vec<Place>)>,
}

impl Builder {
    /// Adds what one document of `file` gave. Returns why it was refused, if it was.
    pub fn add(&mut self, file: &Path, parsed: Parsed) -> Option<Arc<DocumentError>> {
        let Parsed { name, artifact, named, targets } = parsed;
        let taken = artifact.and_then(|artifact| match self.conflict(&artifact, &named, &targets) {
            None => Ok(artifact),
            Some((place, problem)) => Err(DocumentError::At { place, problem }),
        });
        match taken {
            Ok(artifact) => {
                self.places.insert(artifact.name.clone(), (named, targets));
                self.catalog.artifacts.insert(artifact.name.clone(), Arc::new(artifact));
                None
            }
            Err(error) => Some(self.refuse(file, name, error)),
        }
    }

    /// Adds what is wrong with a document, or with a whole file.
    pub fn refuse(&mut self, file: &Path, name: Option<ArtifactName>, error: DocumentError) -> Arc<DocumentError> {
        let error = Arc::new(error);
        self.catalog.refused.push(Refused { file: file.into(), name, error: error.clone() });
        error
    }

    fn conflict(&self, artifact: &Artifact, named: &Place, targets: &[Place]) -> Option<(Place, Problem)> {
        if let Some((first, _)) = self.places.get(&artifact.name) {
            let problem = Problem::Duplicate { name: artifact.name.to_string(), first: first.line_of() };
            return Some((named.clone(), problem));
        }
        for (seed, place) in artifact.seeds.iter().zip(targets) {
            for (other, (_, others)) in &self.places {
                let declared = self.catalog.artifacts.get(other).into_iter().flat_map(|other| &other.seeds).zip(others);
                for (taken, first) in declared {
                    if validate::overlap(&taken.target, &seed.target) {
                        let problem = Problem::TargetTaken { other: taken.target.to_string(), first: first.line_of() };
                        return Some((place.clone(), problem));
                    }
                }
            }
        }
        None
    }
}
