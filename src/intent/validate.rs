//! What the types do not say: each rule names the field it is about.

use std::path::{Path, PathBuf};
use std::time::Duration;

use globset::GlobBuilder;
use regex::Regex;

use super::problem::Problem;
use super::{
    Algorithm, Artifact, Checksums, HeaderValue, Latest, LatestFrom, Settings, Source, Spec, Unpack, UnpackFormat,
};
use crate::fs::RelPath;

/// A field's dotted path and what is wrong with it.
type Wrong = (String, Problem);

fn wrong<T>(field: impl Into<String>, problem: Problem) -> Result<T, Wrong> {
    Err((field.into(), problem))
}

/// Checks `spec`; fields are named below it.
pub(super) fn spec(spec: &Spec) -> Result<(), Wrong> {
    source(&spec.source)?;
    let wanted = [(&spec.sha256, Algorithm::Sha256, "sha256"), (&spec.sha512, Algorithm::Sha512, "sha512")];
    for (digest, algorithm, name) in wanted {
        if let Some(found) = digest.as_ref().map(super::Digest::algorithm).filter(|found| *found != algorithm) {
            return wrong(name, Problem::DigestKind { found: found.to_string(), wanted: name });
        }
    }
    if spec.refresh.0 < Duration::from_secs(1) {
        return wrong("refresh", Problem::TooSmall { least: "1s" });
    }
    unpack(&spec.unpack)?;
    for (i, seed) in spec.seeds.iter().enumerate() {
        let field = format!("seeds[{i}].target");
        if seed.target.components().any(|component| component == b".seedcache") {
            return wrong(field, Problem::TargetInStore);
        }
        if let Some(j) = spec.seeds[..i].iter().position(|other| overlap(&other.target, &seed.target)) {
            let other = spec.seeds[j].target.to_string();
            return wrong(field, Problem::TargetTaken { other, first: format!("spec.seeds[{j}]") });
        }
    }
    Ok(())
}

/// Whether one of two targets is the other or lies in it.
pub(super) fn overlap(a: &RelPath, b: &RelPath) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

/// What of a source the rules for versions are about.
struct Versions<'a> {
    /// The field that holds the archive's address.
    field: &'static str,
    address: &'a str,
    latest: Option<&'a Latest>,
    checksums: Option<&'a Checksums>,
}

fn source(source: &Source) -> Result<(), Wrong> {
    match source {
        Source::Http(http) => {
            let base = "source.http";
            url(&format!("{base}.url"), &http.url)?;
            for (i, mirror) in http.mirrors.iter().enumerate() {
                url(&format!("{base}.mirrors[{i}]"), mirror)?;
                placeholders(&format!("{base}.mirrors[{i}]"), mirror, http.checksums.as_ref())?;
            }
            if let Some(pointer) = http.latest.as_ref().and_then(|latest| latest.url.as_ref()) {
                url(&format!("{base}.latest.url"), pointer)?;
            }
            if let Some(checksums) = &http.checksums {
                url(&format!("{base}.checksums.url"), &checksums.url)?;
            }
            for (name, value) in &http.headers {
                header(&format!("{base}.headers.{name}"), name, value)?;
            }
            let (latest, checksums) = (http.latest.as_ref(), http.checksums.as_ref());
            versions(base, &Versions { field: "url", address: &http.url, latest, checksums })
        }
        Source::File(file) => {
            let (latest, checksums) = (file.latest.as_ref(), file.checksums.as_ref());
            versions("source.file", &Versions { field: "path", address: &file.path, latest, checksums })
        }
    }
}

fn versions(base: &str, source: &Versions<'_>) -> Result<(), Wrong> {
    placeholders(&format!("{base}.{}", source.field), source.address, source.checksums)?;
    if let Some(checksums) = source.checksums {
        let field = format!("{base}.checksums.url");
        placeholders(&field, &checksums.url, None)?;
        if let Some(file) = &checksums.file {
            glob(&format!("{base}.checksums.file"), file)?;
        }
    }
    let Some(latest) = source.latest else { return Ok(()) };
    if let Some(pattern) = &latest.pattern {
        let field = format!("{base}.latest.pattern");
        let regex = Regex::new(pattern).map_err(|e| (field.clone(), not_a_pattern(&e)))?;
        let named = regex.capture_names().flatten().any(|name| name == "version");
        if regex.captures_len() > 1 && !named {
            return wrong(field, Problem::PatternGroup);
        }
    }
    if latest.url.as_ref().is_some_and(|url| url.contains("{version}")) {
        return wrong(format!("{base}.latest.url"), Problem::VersionUnknown);
    }
    if let Some(pointer) = &latest.url {
        placeholders(&format!("{base}.latest.url"), pointer, None)?;
    }
    let from = format!("{base}.latest.from");
    match latest.from {
        Some(LatestFrom::Pointer) if latest.url.is_none() => {
            wrong(from, Problem::FromNeeds { from: "pointer", needs: "latest.url" })
        }
        Some(LatestFrom::Checksums) if source.checksums.is_none() => {
            wrong(from, Problem::FromNeeds { from: "checksums", needs: "checksums" })
        }
        Some(LatestFrom::Checksums) if source.checksums.is_some_and(|c| c.url.contains("{version}")) => {
            wrong(format!("{base}.checksums.url"), Problem::VersionUnknown)
        }
        Some(LatestFrom::Validator | LatestFrom::TopDirectory) if source.address.contains("{version}") => {
            wrong(format!("{base}.{}", source.field), Problem::VersionUnknown)
        }
        _ => Ok(()),
    }
}

/// The parser draws the pattern over several lines; the last one says what is wrong.
fn not_a_pattern(error: &regex::Error) -> Problem {
    let drawn = error.to_string();
    let why = drawn.lines().next_back().unwrap_or_default().trim_start_matches("error: ").to_owned();
    Problem::Pattern { why }
}

/// Every `{…}` is one that is filled in.
fn placeholders(field: &str, text: &str, checksums: Option<&Checksums>) -> Result<(), Wrong> {
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        rest = &rest[open + 1..];
        let Some(close) = rest.find('}') else { break };
        match &rest[..close] {
            "version" => {}
            "file" if checksums.is_some_and(|checksums| checksums.file.is_some()) => {}
            "file" => return wrong(field, Problem::FileUnknown),
            other => return wrong(field, Problem::Placeholder { found: other.to_owned() }),
        }
        rest = &rest[close + 1..];
    }
    Ok(())
}

fn url(field: &str, text: &str) -> Result<(), Wrong> {
    // Filled in by a word that any address may hold.
    let filled = text.replace("{version}", "0").replace("{file}", "0");
    let given = || text.split(['?', '@']).next_back().unwrap_or_default().to_owned();
    match filled.parse::<http::Uri>() {
        Ok(uri) if matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() => Ok(()),
        _ => wrong(field, Problem::Url { given: given() }),
    }
}

fn glob(field: &str, text: &str) -> Result<(), Wrong> {
    match GlobBuilder::new(text).literal_separator(true).build() {
        Ok(_) => Ok(()),
        Err(e) => wrong(field, Problem::Glob(Box::new(e))),
    }
}

fn header(field: &str, name: &str, value: &HeaderValue) -> Result<(), Wrong> {
    if http::HeaderName::try_from(name).is_err() {
        return wrong(field, Problem::HttpHeader { part: "name" });
    }
    match value {
        HeaderValue::Text(text) if http::HeaderValue::try_from(text).is_err() => {
            wrong(field, Problem::HttpHeader { part: "value" })
        }
        _ => Ok(()),
    }
}

fn unpack(unpack: &Unpack) -> Result<(), Wrong> {
    for (name, globs) in [("include", &unpack.include), ("exclude", &unpack.exclude)] {
        for (i, text) in globs.iter().enumerate() {
            glob(&format!("unpack.{name}[{i}]"), text)?;
        }
    }
    let limits = &unpack.limits;
    for (name, zero) in [
        ("bytes", limits.bytes.0 == 0),
        ("ratio", limits.ratio == 0),
        ("entries", limits.entries == 0),
        ("depth", limits.depth == 0),
    ] {
        if zero {
            return wrong(format!("unpack.limits.{name}"), Problem::TooSmall { least: "1" });
        }
    }
    if let Some(given) = &unpack.file_name
        && RelPath::parse(given).map_or(true, |path| path.depth() != 1)
    {
        return wrong("unpack.fileName", Problem::FileName { given: given.clone() });
    }
    if unpack.format == UnpackFormat::None {
        for (name, set) in [
            ("stripComponents", unpack.strip_components > 0),
            ("include", !unpack.include.is_empty()),
            ("exclude", !unpack.exclude.is_empty()),
        ] {
            if set {
                return wrong(format!("unpack.{name}"), Problem::SingleFile);
            }
        }
    }
    Ok(())
}

/// Makes relative file paths in `spec` absolute: they are relative to the document's directory.
pub(super) fn anchor(spec: &mut Spec, dir: &Path) {
    let absolute = |path: &mut String| *path = dir.join(&*path).to_string_lossy().into_owned();
    match &mut spec.source {
        Source::Http(http) => {
            for value in http.headers.values_mut() {
                if let HeaderValue::File { from_file } = value {
                    *from_file = dir.join(&*from_file);
                }
            }
        }
        Source::File(file) => {
            absolute(&mut file.path);
            if let Some(pointer) = file.latest.as_mut().and_then(|latest| latest.url.as_mut()) {
                absolute(pointer);
            }
            if let Some(checksums) = &mut file.checksums {
                absolute(&mut checksums.url);
            }
        }
    }
}

/// Checks the settings.
pub(super) fn settings(settings: &Settings) -> Result<(), Wrong> {
    if settings.fetch.concurrency == 0 {
        return wrong("fetch.concurrency", Problem::TooSmall { least: "1" });
    }
    for (field, interval) in
        [("fetch.stallTimeout", settings.fetch.stall_timeout), ("scrub.every", settings.scrub.every)]
    {
        if interval.0 < Duration::from_secs(1) {
            return wrong(field, Problem::TooSmall { least: "1s" });
        }
    }
    if settings.scrub.bytes_per_second.0 == 0 {
        return wrong("scrub.bytesPerSecond", Problem::TooSmall { least: "1" });
    }
    match &settings.listen.http {
        Some(given) => listen("listen.http", given),
        None if settings.listen.socket.is_none() => wrong("listen", Problem::NowhereToListen),
        None => Ok(()),
    }
}

/// An address with a port: `127.0.0.1:7070`, `[::1]:7070`, `localhost:7070`.
pub(super) fn listen(field: &str, given: &str) -> Result<(), Wrong> {
    let port =
        given.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(_) => Ok(()),
        None => wrong(field, Problem::Listen { given: given.to_owned() }),
    }
}

impl Settings {
    /// Puts what the command line says in its place, and makes every path absolute: they are relative to the working
    /// directory.
    pub fn apply(
        &mut self,
        root: Option<&Path>,
        address: Option<String>,
        socket: Option<PathBuf>,
    ) -> Result<(), super::DocumentError> {
        if let Some(root) = root {
            self.seed.root = root.to_path_buf();
            self.store.root = root.join(".seedcache");
        }
        if let Some(address) = address {
            listen("--listen", &address).map_err(|(field, problem)| super::DocumentError::At {
                place: super::Place { file: "command line".into(), line: 1, column: 1, field },
                problem,
            })?;
            self.listen.http = Some(address);
        }
        if socket.is_some() {
            self.listen.socket = socket;
        }
        let paths = [&mut self.store.root, &mut self.seed.root];
        let optional = [&mut self.listen.socket, &mut self.listen.token_file, &mut self.fetch.ca_file];
        for path in paths.into_iter().chain(optional.into_iter().flatten()) {
            *path = crate::fs::absolute(path)?;
        }
        Ok(())
    }
}

impl super::Catalog {
    /// The artifact that declares a target, if one does.
    pub fn declares(&self, target: &RelPath) -> Option<&std::sync::Arc<Artifact>> {
        self.artifacts.values().find(|artifact| artifact.seeds.iter().any(|seed| seed.target == *target))
    }
}
