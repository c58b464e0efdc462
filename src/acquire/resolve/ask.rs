//! Asking a source what it has: pointer, sums file, validators.

use std::path::PathBuf;

use http::{Method, StatusCode};
use reqwest::Url;

use super::fill::{Fill, last_segment, needs_version};
use super::known::Said;
use super::naming::{by_digest, by_time_and_size, by_validators, cut, find_version};
use super::sums::{self, Wanted};
use super::{Known, Location, Naming, Resolution, ResolveError};
use crate::acquire::source::http::{Credentials, HttpClient, Small, head_of, status_error};
use crate::acquire::source::{HttpError, file, redacted_text};
use crate::acquire::transfer::Rules;
use crate::intent::{Algorithm, Artifact, Checksums, Digest, Latest, LatestFrom, Source, VersionName, VersionWish};
use crate::store::ResolvedFrom;

/// A pointer is a line; more is something else.
const POINTER_LIMIT: u64 = 64 * 1024;
const SUMS_LIMIT: u64 = 1 << 20;
/// Requests of one question before the answer is an error.
const ATTEMPTS: u32 = 3;

/// Asks the source of `artifact` what `wish` is now.
pub(in crate::acquire) async fn resolve(
    http: &HttpClient,
    known: &Known,
    rules: Rules,
    artifact: &Artifact,
    wish: &VersionWish,
) -> Result<Resolution, ResolveError> {
    let declared = Declared::of(&artifact.source);
    let mut question = Question { http, known, rules, artifact, declared, credentials: Credentials::default() };
    let mut answer = match wish {
        VersionWish::Latest => question.latest().await?,
        VersionWish::Exact(version) if declared.is_versioned() => question.version(version).await?,
        // The source has one version at a time: no other may get the wanted name.
        VersionWish::Exact(wanted) => {
            let answer = match &artifact.version {
                VersionWish::Exact(has) => same(wanted, has).map(|()| question.version(has))?.await?,
                VersionWish::Latest => question.latest().await?,
            };
            answer.version().map_or(Ok(()), |has| same(wanted, has))?;
            answer
        }
    };
    demand(&mut answer, artifact)?;
    if answer.naming == Naming::Content
        && let Some(sha256) = answer.demanded.iter().find(|digest| digest.algorithm() == Algorithm::Sha256)
    {
        // The bytes will have this name or be refused.
        answer.naming = Naming::Known(by_digest(sha256));
    }
    Ok(answer)
}

fn same(wanted: &VersionName, has: &VersionName) -> Result<(), ResolveError> {
    if wanted == has { Ok(()) } else { Err(ResolveError::Gone { wanted: wanted.clone(), has: has.clone() }) }
}

/// Adds the document's digests to those of the sums file.
fn demand(answer: &mut Resolution, artifact: &Artifact) -> Result<(), ResolveError> {
    let fields = [(Algorithm::Sha256, &artifact.sha256), (Algorithm::Sha512, &artifact.sha512)];
    for (field, digest) in fields {
        let Some(digest) = digest else { continue };
        if digest.algorithm() != field {
            return Err(ResolveError::WrongAlgorithm { field, given: digest.clone() });
        }
        match answer.demanded.iter().find(|said| said.algorithm() == field) {
            None => answer.demanded.push(digest.clone()),
            Some(said) if said == digest => {}
            Some(said) => {
                let sums = artifact_sums(artifact);
                return Err(ResolveError::Contradiction { document: digest.clone(), sums, said: said.clone() });
            }
        }
    }
    Ok(())
}

fn artifact_sums(artifact: &Artifact) -> Box<str> {
    Declared::of(&artifact.source).checksums.map(|sums| redacted_text(&sums.url)).unwrap_or_default().into()
}

/// Both kinds of source, seen as one.
#[derive(Debug, Clone, Copy)]
struct Declared<'a> {
    source: &'a Source,
    /// URL or path of the archive, a template.
    archive: &'a str,
    latest: Option<&'a Latest>,
    checksums: Option<&'a Checksums>,
    mirrors: &'a [String],
}

impl<'a> Declared<'a> {
    fn of(source: &'a Source) -> Self {
        match source {
            Source::Http(http) => Self {
                source,
                archive: &http.url,
                latest: http.latest.as_ref(),
                checksums: http.checksums.as_ref(),
                mirrors: &http.mirrors,
            },
            Source::File(file) => Self {
                source,
                archive: &file.path,
                latest: file.latest.as_ref(),
                checksums: file.checksums.as_ref(),
                mirrors: &[],
            },
        }
    }

    fn is_http(self) -> bool {
        matches!(self.source, Source::Http(_))
    }

    /// Whether a version decides what is fetched.
    fn is_versioned(self) -> bool {
        let sums = self.checksums.map(|sums| [Some(sums.url.as_str()), sums.file.as_deref()]);
        let sums = sums.into_iter().flatten().flatten();
        sums.chain([self.archive]).any(needs_version)
    }

    fn from(self) -> LatestFrom {
        let sums_stand_alone = self.checksums.is_some_and(|sums| !needs_version(&sums.url));
        match self.latest {
            Some(Latest { from: Some(from), .. }) => *from,
            Some(Latest { url: Some(_), .. }) => LatestFrom::Pointer,
            _ if sums_stand_alone => LatestFrom::Checksums,
            _ => LatestFrom::Validator,
        }
    }

    fn pattern(self) -> Option<&'a str> {
        self.latest.and_then(|latest| latest.pattern.as_deref())
    }

    fn location(self, template: &str, fill: Fill<'_>) -> Result<Location, ResolveError> {
        if !self.is_http() {
            return Ok(Location::File(PathBuf::from(fill.path(template)?)));
        }
        let text = fill.url(template)?;
        let url = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let refused = || ResolveError::Address { address: redacted_text(&text).into() };
        url.map(Location::Http).ok_or_else(refused)
    }
}

/// What a version's archive is called by its document; `None` where only a sums file knows.
pub(super) fn file_name(artifact: &Artifact, version: &VersionName) -> Option<String> {
    let declared = Declared::of(&artifact.source);
    let fill = Fill { version: Some(version), file: None };
    let address = if declared.is_http() { fill.url(declared.archive) } else { fill.path(declared.archive) };
    last_segment(&address.ok()?, declared.is_http())
}

/// What a sums file said.
struct Listed {
    address: String,
    name: String,
    digests: Vec<Digest>,
}

struct Question<'a> {
    http: &'a HttpClient,
    known: &'a Known,
    rules: Rules,
    artifact: &'a Artifact,
    declared: Declared<'a>,
    credentials: Credentials,
}

impl Question<'_> {
    async fn latest(&mut self) -> Result<Resolution, ResolveError> {
        let pattern = self.declared.pattern();
        match self.declared.from() {
            LatestFrom::Pointer => {
                let template = self.declared.latest.and_then(|latest| latest.url.as_deref());
                let template = template.ok_or(ResolveError::Incomplete { from: "pointer", needs: "latest.url" })?;
                let pointer = self.declared.location(template, Fill::default())?;
                let bytes = self.text(&pointer, POINTER_LIMIT).await?;
                let text = String::from_utf8_lossy(&bytes);
                let version = find_version(pattern, &text)
                    .map_err(|source| ResolveError::Naming { pointer: pointer.redacted().into(), source })?;
                let mut answer = self.version(&version).await?;
                answer.resolved_from.pointer = Some(pointer.redacted());
                answer.resolved_from.text = Some(cut(text.trim()).into());
                Ok(answer)
            }
            LatestFrom::Checksums => {
                let listed = self.listed(None).await?;
                let listed = listed.ok_or(ResolveError::Incomplete { from: "checksums", needs: "checksums" })?;
                let version = match pattern {
                    Some(_) => find_version(pattern, &listed.name)
                        .map_err(|source| ResolveError::Naming { pointer: listed.address.as_str().into(), source })?,
                    None => by_digest(&listed.digests[0]),
                };
                self.answer(Naming::Known(version), Some(listed))
            }
            LatestFrom::Validator => {
                let listed = self.listed(None).await?;
                let mut answer = self.answer(Naming::Content, listed)?;
                if let Some(name) = self.validate(&mut answer).await? {
                    answer.naming = Naming::Known(name);
                }
                Ok(answer)
            }
            LatestFrom::TopDirectory => {
                let listed = self.listed(None).await?;
                let naming = Naming::TopDirectory { pattern: pattern.map(Into::into) };
                let mut answer = self.answer(naming, listed)?;
                self.validate(&mut answer).await?;
                Ok(answer)
            }
        }
    }

    async fn version(&mut self, version: &VersionName) -> Result<Resolution, ResolveError> {
        let listed = self.listed(Some(version)).await?;
        self.answer(Naming::Known(version.clone()), listed)
    }

    /// Asks the sums file, where there is one.
    async fn listed(&mut self, version: Option<&VersionName>) -> Result<Option<Listed>, ResolveError> {
        let declared = self.declared;
        let Some(checksums) = declared.checksums else { return Ok(None) };
        let fill = Fill { version, file: None };
        let location = declared.location(&checksums.url, fill)?;
        let address = location.redacted();
        let named;
        let wanted = match &checksums.file {
            Some(glob) => {
                named = fill.path(glob)?;
                Wanted::Glob(&named)
            }
            None => {
                let archive =
                    if declared.is_http() { fill.url(declared.archive)? } else { fill.path(declared.archive)? };
                let unnamed = || ResolveError::NoFileName { address: redacted_text(&archive).into() };
                named = last_segment(&archive, declared.is_http()).ok_or_else(unnamed)?;
                Wanted::Name(&named)
            }
        };
        let bytes = self.text(&location, SUMS_LIMIT).await?;
        let sum = sums::find(&bytes, wanted)
            .map_err(|source| ResolveError::Sums { sums: address.as_str().into(), source })?;
        Ok(Some(Listed { address, name: sum.name, digests: sum.digests }))
    }

    fn answer(&self, naming: Naming, listed: Option<Listed>) -> Result<Resolution, ResolveError> {
        let declared = self.declared;
        let version = if let Naming::Known(version) = &naming { Some(version) } else { None };
        // A sums file asked without `file` finds the archive's own name, which fills nothing in.
        let named = declared.checksums.is_some_and(|checksums| checksums.file.is_some());
        let file = listed.as_ref().filter(|_| named).map(|listed| listed.name.as_str());
        let fill = Fill { version, file };
        let templates = std::iter::once(declared.archive).chain(declared.mirrors.iter().map(String::as_str));
        let locations: Vec<Location> =
            templates.map(|template| declared.location(template, fill)).collect::<Result<_, _>>()?;
        let address = match &locations[0] {
            Location::Http(url) => url.as_str().to_owned(),
            Location::File(path) => path.to_string_lossy().into_owned(),
        };
        let file_name = last_segment(&address, declared.is_http()).unwrap_or_else(|| "data".into());
        let resolved_from = match &listed {
            Some(listed) => ResolvedFrom {
                pointer: Some(listed.address.clone()),
                text: Some(cut(&listed.name).into()),
                ..Default::default()
            },
            None => ResolvedFrom::default(),
        };
        let demanded = listed.map(|listed| listed.digests).unwrap_or_default();
        Ok(Resolution { naming, locations, demanded, resolved_from, file_name })
    }

    /// Asks for the archive's validators, records them, and gives the name they make.
    async fn validate(&mut self, answer: &mut Resolution) -> Result<Option<VersionName>, ResolveError> {
        match &answer.locations[0] {
            Location::File(path) => {
                let stat = file::stat(path).await?;
                let time = file::time_of(&stat);
                answer.resolved_from.last_modified = Some(time.to_string());
                Ok(Some(by_time_and_size(time, stat.size)))
            }
            Location::Http(url) => {
                let url = url.clone();
                let head = self.again(&url, Ask::Head).await?;
                let Answer::Validators(etag, last_modified) = head else { unreachable!("a head was asked for") };
                let name = by_validators(etag.as_deref(), last_modified.as_deref());
                answer.resolved_from.etag = etag;
                answer.resolved_from.last_modified = last_modified;
                Ok(name)
            }
        }
    }

    async fn text(&mut self, location: &Location, limit: u64) -> Result<Vec<u8>, ResolveError> {
        match location {
            Location::File(path) => Ok(file::small(path, limit).await?),
            Location::Http(url) => match self.again(url, Ask::Text { limit }).await? {
                Answer::Text(bytes) => Ok(bytes),
                Answer::Validators(..) => unreachable!("a text was asked for"),
            },
        }
    }

    /// Asks, and asks again after a while when that may help.
    async fn again(&mut self, url: &Url, ask: Ask) -> Result<Answer, ResolveError> {
        if let Source::Http(source) = self.declared.source {
            self.credentials = Credentials::read(source, None).await?;
        }
        let mut failures = 0;
        loop {
            let error = match self.once(url, ask).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            failures += 1;
            // Each try of a slow one costs a whole window of waiting.
            if !error.is_transient() || error.is_slow() || failures >= ATTEMPTS {
                return Err(error.into());
            }
            let wait = error.retry_after().unwrap_or_else(|| self.rules.back_off(failures, fastrand::f64()));
            if wait > self.rules.cap {
                return Err(error.into());
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn once(&self, url: &Url, ask: Ask) -> Result<Answer, HttpError> {
        match ask {
            Ask::Text { limit } => {
                let said = self.known.recall(self.artifact, url, true);
                let unless = said.as_ref().map(Said::unless).unwrap_or_default();
                match (self.http.small(url, &self.credentials, limit, &unless).await?, said.and_then(|said| said.text))
                {
                    (Small::Unchanged, Some(text)) => Ok(Answer::Text(text.to_vec())),
                    (Small::Unchanged, None) => unreachable!("only a condition is answered so, and there was none"),
                    (Small::Whole { bytes, validators }, _) => {
                        self.known.keep(self.artifact, url, &validators, Some(&bytes));
                        Ok(Answer::Text(bytes))
                    }
                }
            }
            Ask::Head => {
                let said = self.known.recall(self.artifact, url, false);
                let unless = said.as_ref().map(Said::unless).unwrap_or_default();
                let mut response = self.http.send(Method::HEAD, url, &self.credentials, &unless).await?;
                // Some origins know no HEAD, and a signed URL is often good for GET only.
                if matches!(response.status().as_u16(), 400 | 403 | 405 | 501) {
                    response = self.http.send(Method::GET, url, &self.credentials, &unless).await?;
                }
                let validators = match (response.status(), said) {
                    (StatusCode::OK, _) => head_of(&response).validators,
                    (StatusCode::NOT_MODIFIED, Some(said)) => said.validators,
                    _ => return Err(status_error(url, &response)),
                };
                self.known.keep(self.artifact, url, &validators, None);
                Ok(Answer::Validators(validators.etag, validators.last_modified))
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Ask {
    Text { limit: u64 },
    Head,
}

enum Answer {
    Text(Vec<u8>),
    Validators(Option<String>, Option<String>),
}

#[cfg(test)]
mod tests;
