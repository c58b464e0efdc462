//! What the types do not say: each rule names the field it is about.

mod seeds;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use globset::GlobBuilder;

use super::pattern::version_pattern;
use super::problem::Problem;
use super::{
    Algorithm, Checksums, Connections, HeaderValue, Latest, LatestFrom, SeedValue, Source, Spec, Unpack, UnpackFormat,
    VersionWish,
};
use crate::fs::RelPath;

/// A field's dotted path and what is wrong with it.
pub(super) type Wrong = (String, Problem);

pub(super) fn wrong<T>(field: impl Into<String>, problem: Problem) -> Result<T, Wrong> {
    Err((field.into(), problem))
}

/// Checks `spec`; fields are named below it.
pub(super) fn spec(spec: &Spec) -> Result<(), Wrong> {
    let declared = Declared::of(&spec.source);
    source(spec, &declared)?;
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
    if spec.unpack.format == UnpackFormat::None && declared.from() == LatestFrom::TopDirectory {
        return declared.wrong("latest.from", Problem::SingleFile);
    }
    seeds::seeds(&spec.seeds)
}

/// Whether one of two targets is the other or lies in it.
pub(super) fn overlap(a: &RelPath, b: &RelPath) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

/// Both kinds of source, seen as one.
struct Declared<'a> {
    base: &'static str,
    /// The field that holds the archive's address.
    field: &'static str,
    address: &'a str,
    latest: Option<&'a Latest>,
    checksums: Option<&'a Checksums>,
}

impl<'a> Declared<'a> {
    fn of(source: &'a Source) -> Self {
        match source {
            Source::Http(http) => {
                let (latest, checksums) = (http.latest.as_ref(), http.checksums.as_ref());
                Self { base: "source.http", field: "url", address: &http.url, latest, checksums }
            }
            Source::File(file) => {
                let (latest, checksums) = (file.latest.as_ref(), file.checksums.as_ref());
                Self { base: "source.file", field: "path", address: &file.path, latest, checksums }
            }
        }
    }

    fn wrong<T>(&self, field: &str, problem: Problem) -> Result<T, Wrong> {
        wrong(format!("{}.{field}", self.base), problem)
    }

    /// What `latest` is told by, as the contract has it where `from` says nothing.
    fn from(&self) -> LatestFrom {
        match self.latest {
            Some(Latest { from: Some(from), .. }) => *from,
            Some(Latest { url: Some(_), .. }) => LatestFrom::Pointer,
            _ if self.checksums.is_some_and(|sums| !needs_version(&sums.url)) => LatestFrom::Checksums,
            _ => LatestFrom::Validator,
        }
    }
}

fn source(spec: &Spec, declared: &Declared<'_>) -> Result<(), Wrong> {
    addresses(&spec.source, declared)?;
    if let Source::Http(http) = &spec.source {
        // Names of headers are the same in any case.
        let mut names = BTreeSet::new();
        for (name, value) in &http.headers {
            let field = format!("source.http.headers.{name}");
            header(&field, name, value)?;
            if !names.insert(name.to_ascii_lowercase()) {
                return wrong(field, Problem::GivenTwice);
            }
        }
        if !(1..=Connections::MOST).contains(&http.connections.0) {
            let problem = Problem::OutOfRange { least: 1, most: Connections::MOST };
            return wrong("source.http.connections", problem);
        }
        if let Some(i) = http.redirects_to.iter().position(|text| !is_host(text)) {
            return wrong(format!("source.http.redirectsTo[{i}]"), Problem::Host);
        }
    }
    if let Some(glob) = declared.checksums.and_then(|sums| sums.file.as_ref()) {
        let field = format!("{}.checksums.file", declared.base);
        if glob.contains("{file}") {
            return wrong(field, Problem::Placeholder { found: "file".into() });
        }
        // Filled in by a word that any name may hold.
        self::glob(&field, &glob.replace("{version}", "0"))?;
    }
    pattern(declared)?;
    ways(declared, spec.version == VersionWish::Latest)
}

/// Every address: its form, and what is filled in there.
fn addresses(source: &Source, declared: &Declared<'_>) -> Result<(), Wrong> {
    let pointer = declared.latest.and_then(|latest| latest.url.as_deref()).map(|url| ("latest.url".to_owned(), url));
    let sums = declared.checksums.map(|sums| ("checksums.url".to_owned(), sums.url.as_str()));
    let mut all = vec![(declared.field.to_owned(), declared.address)];
    if let Source::Http(http) = source {
        all.extend(http.mirrors.iter().enumerate().map(|(i, mirror)| (format!("mirrors[{i}]"), mirror.as_str())));
    }
    let named = declared.checksums.is_some_and(|sums| sums.file.is_some());
    for (field, text) in &all {
        placeholders(&format!("{}.{field}", declared.base), text, named)?;
    }
    for (field, text) in pointer.iter().chain(&sums) {
        placeholders(&format!("{}.{field}", declared.base), text, false)?;
    }
    if pointer.as_ref().is_some_and(|(_, text)| needs_version(text)) {
        return declared.wrong("latest.url", Problem::VersionUnknown);
    }
    for (field, text) in all.iter().chain(&pointer).chain(&sums) {
        let form = match source {
            Source::Http(_) => url(text),
            Source::File(_) => path(text),
        };
        form.or_else(|problem| declared.wrong(field, problem))?;
    }
    Ok(())
}

fn pattern(declared: &Declared<'_>) -> Result<(), Wrong> {
    let Some(pattern) = declared.latest.and_then(|latest| latest.pattern.as_ref()) else { return Ok(()) };
    match version_pattern(pattern) {
        Err(e) => declared.wrong("latest.pattern", not_a_pattern(&e)),
        Ok(regex) if regex.captures_len() > 1 && !regex.capture_names().flatten().any(|name| name == "version") => {
            declared.wrong("latest.pattern", Problem::PatternGroup)
        }
        Ok(_) => Ok(()),
    }
}

/// Whether `latest` can be told, and be fetched when it is.
fn ways(declared: &Declared<'_>, follows: bool) -> Result<(), Wrong> {
    let given = declared.latest.and_then(|latest| latest.from);
    let pointer = declared.latest.is_some_and(|latest| latest.url.is_some());
    if given == Some(LatestFrom::Pointer) && !pointer {
        return declared.wrong("latest.from", Problem::FromNeeds { from: "pointer", needs: "latest.url" });
    }
    if given == Some(LatestFrom::Checksums) && declared.checksums.is_none() {
        return declared.wrong("latest.from", Problem::FromNeeds { from: "checksums", needs: "checksums" });
    }
    if !follows {
        return Ok(());
    }
    let sums = declared.checksums;
    let sums_url = sums.filter(|sums| needs_version(&sums.url)).map(|_| "checksums.url");
    let sums_file =
        sums.and_then(|sums| sums.file.as_deref()).filter(|file| needs_version(file)).map(|_| "checksums.file");
    let address = Some(declared.field).filter(|_| needs_version(declared.address));
    let (needing, problem) = match declared.from() {
        LatestFrom::Pointer => return Ok(()),
        LatestFrom::Checksums => (sums_url.or(sums_file), Problem::VersionUnknown),
        LatestFrom::Validator | LatestFrom::TopDirectory => {
            (sums_url.or(sums_file).or(address), Problem::VersionUntold)
        }
    };
    needing.map_or(Ok(()), |field| declared.wrong(field, problem))
}

fn needs_version(text: &str) -> bool {
    text.contains("{version}")
}

/// The parser draws the pattern over several lines; the last one says what is wrong.
fn not_a_pattern(error: &regex::Error) -> Problem {
    let drawn = error.to_string();
    let why = drawn.lines().next_back().unwrap_or_default().trim_start_matches("error: ").to_owned();
    Problem::Pattern { why }
}

/// Every `{…}` is one that is filled in; `{file}` where the sums file names one.
fn placeholders(field: &str, text: &str, named: bool) -> Result<(), Wrong> {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('{') {
        let Some((found, after)) = after.split_once('}') else { break };
        match found {
            "version" => {}
            "file" if named => {}
            "file" => return wrong(field, Problem::FileUnknown),
            other => return wrong(field, Problem::Placeholder { found: other.to_owned() }),
        }
        rest = after;
    }
    Ok(())
}

/// Addresses may hold secrets: none is repeated in what is wrong with it.
fn url(text: &str) -> Result<(), Problem> {
    // Filled in by a word that any address may hold.
    let filled = text.replace("{version}", "0").replace("{file}", "0");
    let url = reqwest::Url::parse(&filled).ok();
    let known = url.is_some_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if known { Ok(()) } else { Err(Problem::Url) }
}

/// A name or an address, and nothing around it.
fn is_host(text: &str) -> bool {
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.ends_with(']'),
        None => !text.contains(':'),
    };
    let around = |c: char| matches!(c, '/' | '\\' | '?' | '#' | '@' | '*' | '{') || c.is_whitespace();
    bare && !text.contains(around) && reqwest::Url::parse(&format!("http://{text}/")).is_ok()
}

fn path(text: &str) -> Result<(), Problem> {
    match text {
        "" => Err(Problem::EmptyPath),
        _ if text.contains("://") => Err(Problem::NotAPath),
        _ => Ok(()),
    }
}

fn glob(field: &str, text: &str) -> Result<(), Wrong> {
    match GlobBuilder::new(text).literal_separator(true).backslash_escape(true).build() {
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
        HeaderValue::File { from_file } if from_file.as_os_str().is_empty() => {
            wrong(format!("{field}.fromFile"), Problem::EmptyPath)
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
    // "Leave it as it is" to the system: nobody has it.
    if let Some(owner) = &unpack.owner
        && let Some((name, _)) = [("uid", owner.uid), ("gid", owner.gid)].into_iter().find(|(_, id)| *id == u32::MAX)
    {
        return wrong(format!("unpack.owner.{name}"), Problem::TooLarge { most: "4294967294" });
    }
    if let Some(given) = &unpack.file_name
        && RelPath::parse(given).map_or(true, |path| path.depth() != 1)
    {
        return wrong("unpack.fileName", Problem::FileName { given: given.clone() });
    }
    // What is required is named as it comes out: below the prefix, or a directory that the prefix is in.
    if let Some(prefix) = &unpack.prefix
        && let Some(i) = unpack.require.iter().position(|path| !overlap(path, prefix))
    {
        return wrong(format!("unpack.require[{i}]"), Problem::OutsidePrefix { prefix: prefix.to_string() });
    }
    if unpack.format != UnpackFormat::None {
        return match unpack.file_name {
            Some(_) => wrong("unpack.fileName", Problem::NotSingleFile),
            None => Ok(()),
        };
    }
    let meaningless = [
        ("stripComponents", unpack.strip_components > 0),
        ("include", !unpack.include.is_empty()),
        ("exclude", !unpack.exclude.is_empty()),
    ];
    match meaningless.into_iter().find(|(_, set)| *set) {
        Some((name, _)) => wrong(format!("unpack.{name}"), Problem::SingleFile),
        None => Ok(()),
    }
}

/// Makes relative file paths in `spec` absolute: they are relative to the document's directory.
pub(super) fn anchor(spec: &mut Spec, dir: &Path) -> Result<(), Wrong> {
    for value in spec.seeds.iter_mut().flat_map(|seed| seed.values.values_mut()) {
        if let SeedValue::File { from_file } = value {
            *from_file = dir.join(&*from_file);
        }
    }
    match &mut spec.source {
        Source::Http(http) => {
            for value in http.headers.values_mut() {
                if let HeaderValue::File { from_file } = value {
                    *from_file = dir.join(&*from_file);
                }
            }
        }
        Source::File(file) => {
            absolute("source.file.path", &mut file.path, dir)?;
            if let Some(pointer) = file.latest.as_mut().and_then(|latest| latest.url.as_mut()) {
                absolute("source.file.latest.url", pointer, dir)?;
            }
            if let Some(checksums) = &mut file.checksums {
                absolute("source.file.checksums.url", &mut checksums.url, dir)?;
            }
        }
    }
    Ok(())
}

/// A path that placeholders stand in is text, so what it is joined to must be text as well.
fn absolute(field: &str, path: &mut String, dir: &Path) -> Result<(), Wrong> {
    match dir.join(&*path).into_os_string().into_string() {
        Ok(joined) => *path = joined,
        Err(_) => return wrong(field, Problem::DirectoryName),
    }
    Ok(())
}
