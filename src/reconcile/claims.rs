//! Who needs which versions of an artifact: the claims that collection goes by.

use crate::fs::LinkMode;
use crate::intent::{Artifact, ArtifactName, Catalog, VersionName, VersionWish};
use crate::seed::Record;
use crate::store::{Claim, Claims, Holding, TimedLease};

/// Whether a refused document is this artifact's, or may be for all that can be told of it.
pub(super) fn may_be_refused(catalog: &Catalog, name: &ArtifactName) -> bool {
    catalog.refusal_of(name).is_some() || catalog.refused.iter().any(|refused| refused.name.is_none())
}

/// All that claims are gathered from.
pub(super) struct Seen<'a> {
    pub(super) artifact: Option<&'a Artifact>,
    pub(super) node_pin: Option<&'a VersionName>,
    pub(super) refused: bool,
    pub(super) latest: Option<&'a VersionName>,
    pub(super) leases: &'a [TimedLease],
    pub(super) records: &'a [Record],
}

/// The claims on an artifact's versions, but for that of being current.
pub(super) fn claims(
    name: &ArtifactName,
    holding: &Holding,
    seen: &Seen<'_>,
    is_read: impl Fn(&VersionName) -> bool,
) -> Claims {
    let pin = seen.artifact.and_then(|artifact| artifact.pin.as_ref());
    let wanted = seen.artifact.and_then(|artifact| match &artifact.version {
        VersionWish::Exact(version) => Some(version),
        VersionWish::Latest => seen.latest,
    });
    let of = |version: &VersionName| {
        let mut claims = Vec::new();
        // The node's pin holds its version also while the document's wins: going back to it needs no download.
        if pin == Some(version) || seen.node_pin == Some(version) {
            claims.push(Claim::Pinned);
        }
        if wanted == Some(version) && holding.current.as_ref() != Some(version) {
            claims.push(Claim::Wanted);
        }
        let leases = seen.leases.iter().filter(|lease| lease.version == *version);
        claims.extend(
            leases.map(|lease| Claim::Leased { holder: lease.holder.as_str().into(), until: lease.expires_at }),
        );
        // The other modes leave nothing at the target that the store's bytes are needed for.
        let linked = |record: &&Record| {
            record.artifact == *name && record.version == *version && record.mode == LinkMode::Hardlink
        };
        let seeds = seen.records.iter().filter(linked);
        claims.extend(seeds.map(|record| Claim::Seeded { target: record.target.to_string().into() }));
        if is_read(version) {
            claims.push(Claim::Read);
        }
        if seen.refused {
            claims.push(Claim::Refused);
        }
        claims
    };
    let all = holding.versions.keys().map(|version| (version.clone(), of(version)));
    all.filter(|(_, claims)| !claims.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use jiff::Timestamp;

    use super::*;
    use crate::fs::RelPath;
    use crate::intent::Digest;
    use crate::store::ManifestHead;

    fn head(version: &str) -> std::sync::Arc<ManifestHead> {
        std::sync::Arc::new(ManifestHead::sample("app", version))
    }

    fn record(artifact: &str, version: &str, mode: LinkMode) -> Record {
        Record {
            target: RelPath::parse(format!("{artifact}-{mode}")).unwrap(),
            artifact: artifact.parse().unwrap(),
            version: version.parse().unwrap(),
            tree_digest: Digest::sha256(b"x"),
            mode,
            reason: None,
            at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn claims_come_from_all_who_need_a_version() {
        let heads = ["v1", "v2", "v3"].map(|version| (version.parse().unwrap(), head(version)));
        let holding = Holding { versions: heads.into(), current: Some("v3".parse().unwrap()) };
        let name: ArtifactName = "app".parse().unwrap();
        let records = [
            record("app", "v1", LinkMode::Hardlink),
            record("app", "v2", LinkMode::Copy),
            record("app", "v2", LinkMode::Reflink),
            record("other", "v2", LinkMode::Hardlink),
        ];
        let pin: VersionName = "v2".parse().unwrap();
        let told = |refused, node_pin| {
            let seen = Seen { artifact: None, node_pin, refused, latest: None, leases: &[], records: &records };
            let claims = claims(&name, &holding, &seen, |version| version.as_str() == "v3");
            let words = claims.iter().map(|(version, claims)| {
                let claims: Vec<String> = claims.iter().map(ToString::to_string).collect();
                format!("{version}: {}", claims.join(", "))
            });
            words.collect::<Vec<_>>()
        };
        assert_eq!(told(false, None), ["v1: seeded at app-hardlink", "v3: being read"]);
        assert_eq!(told(true, None)[1], "v2: its document is refused");
        assert_eq!(told(false, Some(&pin))[1], "v2: pinned");
    }
}
