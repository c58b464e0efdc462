//! What is noted beside the part of a download, and when a part may be gone on with after a restart. Pure.

use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::source::redacted;
use super::transfer::{Held, Validators};
use super::{Location, Resolution};
use crate::intent::Digest;

/// `download.json`. It names the address by its digest, since a signed URL is a secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Note {
    /// The version being fetched, where it is known.
    version: Option<String>,
    /// Where from, for people.
    url: String,
    url_digest: Digest,
    demanded: Vec<Digest>,
    etag: Option<String>,
    last_modified: Option<String>,
    strong: Option<String>,
    total: Option<u64>,
    /// The running system: after a crash of it, what was written without fsync may be anything.
    boot_id: Option<String>,
}

impl Note {
    /// What to note about the part `held`.
    pub(super) fn new(resolution: &Resolution, held: &Held, url: &Url, boot_id: Option<&str>) -> Self {
        let Validators { etag, last_modified, strong } = held.validators.clone();
        Self {
            version: resolution.version().map(ToString::to_string),
            url: redacted(url),
            url_digest: digest_of(url),
            demanded: resolution.demanded.clone(),
            etag,
            last_modified,
            strong,
            total: held.total,
            boot_id: boot_id.map(Into::into),
        }
    }

    /// As it is stored.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_else(|e| unreachable!("plain fields with text keys always serialise: {e}"))
    }

    /// What was stored; `None` where it is of another form.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// What the part beside this note is worth for `resolution`: nothing if it is of another version, digest or
    /// address, or of another state than the source says it has now, if nothing strong could vouch for a splice, or if the
    /// system has crashed since and no digest would find out.
    pub(super) fn worth(&self, resolution: &Resolution, boot_id: Option<&str>) -> Option<Held> {
        let same_version = self.version.as_deref() == resolution.version().map(|version| version.as_str());
        let same_digests = self.demanded == resolution.demanded;
        let same_boot = boot_id.is_some() && self.boot_id.as_deref() == boot_id;
        let vouched = resolution.has_strong_digest() || (same_boot && self.strong.is_some());
        if !(same_version && same_digests && vouched) {
            return None;
        }
        let ours = |location: &Location| matches!(location, Location::Http(url) if digest_of(url) == self.url_digest);
        let validators = Validators {
            etag: self.etag.clone(),
            last_modified: self.last_modified.clone(),
            strong: self.strong.clone(),
        };
        let location = resolution.locations.iter().position(ours)?;
        // A mirror's validators say nothing of the source's.
        if location == 0 && resolution.is_contradicted_by(&validators) {
            return None;
        }
        Some(Held { location, validators, total: self.total })
    }
}

fn digest_of(url: &Url) -> Digest {
    Digest::sha256(url.as_str().as_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::acquire::Naming;
    use crate::store::ResolvedFrom;

    fn resolution(version: &str, url: &str, demanded: Vec<Digest>) -> Resolution {
        Resolution {
            naming: Naming::Known(version.parse().unwrap()),
            locations: vec![Location::Http("http://first/".parse().unwrap()), Location::Http(url.parse().unwrap())],
            demanded,
            resolved_from: ResolvedFrom::default(),
            file_name: "x".into(),
        }
    }

    #[test]
    fn a_part_is_worth_something_only_for_the_same_bytes() {
        let url = "http://user:secret@h/x?sig=secret";
        let held = |strong| Held { location: 1, validators: Validators::new(strong, None, None), total: Some(9) };
        let digests = vec![Digest::sha256(b"x")];
        let plain = resolution("1", url, vec![]);
        let note = Note::new(&plain, &held(Some("\"a\"")), &url.parse().unwrap(), Some("boot"));
        assert!(!String::from_utf8(note.to_bytes()).unwrap().contains("secret"));
        let note = Note::parse(&note.to_bytes()).unwrap();
        assert_eq!(note.worth(&plain, Some("boot")), Some(held(Some("\"a\""))));
        assert_eq!(note.worth(&plain, Some("later")), None);
        assert_eq!(note.worth(&plain, None), None);
        assert_eq!(note.worth(&resolution("2", url, vec![]), Some("boot")), None);
        assert_eq!(note.worth(&resolution("1", "http://h/x", vec![]), Some("boot")), None);
        assert_eq!(note.worth(&resolution("1", url, digests.clone()), Some("boot")), None);
        let strong = resolution("1", url, digests);
        let vouched = Note::new(&strong, &held(None), &url.parse().unwrap(), Some("boot"));
        assert_eq!(vouched.worth(&strong, Some("later")), Some(held(None)));
        let weak = Note::new(&plain, &held(Some("W/\"a\"")), &url.parse().unwrap(), Some("boot"));
        assert_eq!(weak.worth(&plain, Some("boot")), None);
        assert_eq!(Note::parse(b"{}"), None);
    }

    #[test]
    fn a_part_of_what_the_source_had_before_is_worth_nothing() {
        let first = "http://first/".parse().unwrap();
        let now = |etag: &str| Resolution {
            naming: Naming::TopDirectory { pattern: None },
            resolved_from: ResolvedFrom { etag: Some(etag.into()), ..ResolvedFrom::default() },
            ..resolution("1", "http://mirror/", vec![])
        };
        let held = |location| Held { location, validators: Validators::new(Some("\"a\""), None, None), total: Some(9) };
        let note = Note::new(&now("\"a\""), &held(0), &first, Some("boot"));
        assert_eq!(note.worth(&now("\"b\""), Some("boot")), None);
        assert_eq!(note.worth(&now("W/\"a\""), Some("boot")), Some(held(0)));
        let mirrored = Note::new(&now("\"a\""), &held(1), &"http://mirror/".parse().unwrap(), Some("boot"));
        assert_eq!(mirrored.worth(&now("\"b\""), Some("boot")), Some(held(1)));
    }
}
