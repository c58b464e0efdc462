//! What origins said last, so that they are asked only whether that changed.
//!
//! What must hold: an answer is recalled for the document that it was given to and no other; all of them together stay
//! within a bound; nothing is recalled that the origin gave no validator for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::header::{IF_MODIFIED_SINCE, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue};
use reqwest::Url;

use crate::acquire::transfer::Validators;
use crate::intent::{Artifact, ArtifactName, Digest};

/// Answers kept at most.
const MOST: usize = 4096;
/// Bytes of all texts together.
const MOST_BYTES: usize = 8 << 20;

/// The answers of all origins, the one used last at the end.
#[derive(Debug, Default)]
pub(in crate::acquire) struct Known {
    said: Mutex<VecDeque<Said>>,
}

/// One answer.
#[derive(Debug, Clone)]
pub(super) struct Said {
    artifact: ArtifactName,
    generation: Digest,
    url: Url,
    pub(super) validators: Validators,
    /// The text; `None` where only the validators were asked for.
    pub(super) text: Option<Arc<[u8]>>,
}

impl Said {
    fn answers(&self, artifact: &Artifact, url: &Url, with_text: bool) -> bool {
        self.artifact == artifact.name
            && self.generation == artifact.generation
            && self.url == *url
            && self.text.is_some() == with_text
    }

    /// The condition under which the origin shall give it again.
    pub(super) fn unless(&self) -> HeaderMap {
        condition(&self.validators).into_iter().collect()
    }
}

/// An ETag, else a time of change that has settled: one of the last second may stand for two contents.
fn condition(validators: &Validators) -> Option<(http::HeaderName, HeaderValue)> {
    let (name, value) = match (&validators.etag, &validators.strong) {
        (Some(etag), _) => (IF_NONE_MATCH, etag),
        (None, Some(settled)) => (IF_MODIFIED_SINCE, settled),
        (None, None) => return None,
    };
    Some((name, HeaderValue::from_str(value).ok()?))
}

impl Known {
    fn said(&self) -> MutexGuard<'_, VecDeque<Said>> {
        // Whole answers go in and out: whoever panicked left none half made.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was said last at this address.
    pub(super) fn recall(&self, artifact: &Artifact, url: &Url, with_text: bool) -> Option<Said> {
        let mut said = self.said();
        let at = said.iter().position(|said| said.answers(artifact, url, with_text))?;
        let found = said.remove(at)?;
        said.push_back(found.clone());
        Some(found)
    }

    /// Keeps an answer in place of the last one; what is used least goes when there is too much.
    pub(super) fn keep(&self, artifact: &Artifact, url: &Url, validators: &Validators, text: Option<&[u8]>) {
        let mut said = self.said();
        // What an older document was told is of no use any more.
        let old = |s: &Said| s.artifact == artifact.name && s.generation != artifact.generation;
        said.retain(|said| !old(said) && !said.answers(artifact, url, text.is_some()));
        if condition(validators).is_none() || text.is_some_and(|text| text.len() > MOST_BYTES / 4) {
            return;
        }
        said.push_back(Said {
            artifact: artifact.name.clone(),
            generation: artifact.generation.clone(),
            url: url.clone(),
            validators: validators.clone(),
            text: text.map(Into::into),
        });
        let size = |said: &Said| said.text.as_ref().map_or(0, |text| text.len());
        let mut bytes: usize = said.iter().map(size).sum();
        while bytes > MOST_BYTES || said.len() > MOST {
            let Some(dropped) = said.pop_front() else { break };
            bytes -= size(&dropped);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn artifact(name: &str, generation: &[u8]) -> Artifact {
        let spec = serde_json::json!({ "source": { "http": { "url": "http://h/a.tgz" } } });
        Artifact {
            name: name.parse().unwrap(),
            spec: serde_json::from_value(spec).unwrap(),
            generation: Digest::sha256(generation),
            file: "a.yaml".into(),
        }
    }

    fn etag(etag: &str) -> Validators {
        Validators::new(Some(etag), None, None)
    }

    #[test]
    fn an_answer_is_for_its_document_alone() {
        let (known, url) = (Known::default(), Url::parse("http://h/latest").unwrap());
        let (one, other, newer) = (artifact("a", b"1"), artifact("b", b"1"), artifact("a", b"2"));
        known.keep(&one, &url, &etag("\"x\""), Some(b"v1"));
        let said = known.recall(&one, &url, true).unwrap();
        assert_eq!((said.text.as_deref(), said.unless()[IF_NONE_MATCH].to_str().unwrap()), (Some(&b"v1"[..]), "\"x\""));
        assert!(known.recall(&one, &url, false).is_none());
        assert!(known.recall(&other, &url, true).is_none());
        assert!(known.recall(&newer, &url, true).is_none());
        known.keep(&newer, &url, &etag("\"y\""), None);
        assert!(known.recall(&one, &url, true).is_none(), "gone with its document");
        assert!(known.recall(&newer, &url, false).is_some());
    }

    #[test]
    fn only_what_has_a_validator_is_kept() {
        let (known, url, one) = (Known::default(), Url::parse("http://h/x").unwrap(), artifact("a", b"1"));
        known.keep(&one, &url, &etag("\"x\""), Some(b"v1"));
        known.keep(&one, &url, &Validators::default(), Some(b"v2"));
        assert!(known.recall(&one, &url, true).is_none(), "the old answer is not the last one any more");
        let time = "Thu, 01 Jan 2026 00:00:00 GMT";
        let at = |date: &str| Validators::new(None, Some(time), httpdate::parse_http_date(date).ok());
        known.keep(&one, &url, &at("Thu, 01 Jan 2026 00:00:01 GMT"), Some(b"v3"));
        assert!(known.recall(&one, &url, true).is_none(), "it may change within that second");
        known.keep(&one, &url, &at("Thu, 01 Jan 2026 01:00:00 GMT"), Some(b"v3"));
        assert_eq!(known.recall(&one, &url, true).unwrap().unless()[IF_MODIFIED_SINCE], time);
        known.keep(&one, &url, &Validators::new(Some("W/\"w\""), None, None), None);
        assert_eq!(known.recall(&one, &url, false).unwrap().unless()[IF_NONE_MATCH], "W/\"w\"");
    }

    #[test]
    fn it_stays_within_its_bound() {
        let (known, one) = (Known::default(), artifact("a", b"1"));
        let url = |at: usize| Url::parse(&format!("http://h/{at}")).unwrap();
        let text = vec![b'x'; 1 << 20];
        for at in 0..20 {
            known.keep(&one, &url(at), &etag("\"x\""), Some(&text));
            assert!(known.recall(&one, &url(0), true).is_some(), "what is used stays");
        }
        assert!(known.recall(&one, &url(1), true).is_none());
        assert_eq!(known.said().len(), MOST_BYTES / text.len());
        known.keep(&one, &url(50), &etag("\"x\""), Some(&vec![b'x'; MOST_BYTES]));
        assert!(known.recall(&one, &url(50), true).is_none());
        for at in 0..MOST + 100 {
            known.keep(&one, &url(at), &etag("\"x\""), None);
        }
        assert_eq!(known.said().len(), MOST);
    }
}
