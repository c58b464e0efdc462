//! `GET /metrics`: what is counted all the time, and gauges made from the node's state at the moment of the scrape.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::files::blocking;
use super::metrics::Labels;
use super::problem::Problem;
use super::routes::App;
use crate::fs::Space;
use crate::reconcile::{ArtifactState, State as Stand};
use crate::store::Inventory;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) async fn metrics(State(app): State<App>) -> Result<Response, Problem> {
    let text = blocking(move || {
        let states = app.reconciler.states();
        let space =
            app.shelf.store.space().inspect_err(|error| tracing::warn!(%error, "room on the store not known")).ok();
        let gauges = gauges(&states, &app.shelf.store.inventory(), space);
        let mut text = String::new();
        encode_registry(&mut text, &app.metrics.registry)
            .and_then(|()| encode_registry(&mut text, &gauges))
            .and_then(|()| encode_eof(&mut text))
            .map_err(|error| Problem::internal(&error))?;
        Ok(text)
    })
    .await?;
    Ok(([(CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

/// Sizes as the format has them; none comes near the sign bit.
fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Gauges of this moment. Labels are the names of artifacts, which operators write.
fn gauges(states: &[ArtifactState], inventory: &Inventory, space: Option<Space>) -> Registry {
    let mut registry = Registry::with_prefix("seedcache");
    artifact_gauges(registry.sub_registry_with_prefix("artifact"), states);
    let heads = || inventory.values().flat_map(|holding| holding.versions.values());
    let kept = heads().filter(|head| head.archive.kept).map(|head| head.archive.size).sum();
    let store = registry.sub_registry_with_prefix("store");
    let mut gauge = |name, help, unit, value: u64| {
        let gauge = Gauge::<i64>::default();
        gauge.set(signed(value));
        match unit {
            Some(unit) => store.register_with_unit(name, help, unit, gauge),
            None => store.register(name, help, gauge),
        }
    };
    gauge("versions", "Versions published", None, heads().count() as u64);
    gauge("trees", "Bytes of all versions' files", Some(Unit::Bytes), heads().map(|head| head.bytes).sum());
    gauge("archives", "Bytes of the archives kept", Some(Unit::Bytes), kept);
    if let Some(space) = space {
        gauge("free", "Bytes free on the store's file system", Some(Unit::Bytes), space.free);
        gauge("size", "Bytes of the store's file system", Some(Unit::Bytes), space.total);
        gauge("free_inodes", "Inodes free on the store's file system", None, space.free_inodes);
    }
    registry
}

fn artifact_gauges(registry: &mut Registry, states: &[ArtifactState]) {
    let family = Family::<Labels, Gauge>::default;
    let (state, versions, tree, failures) = (family(), family(), family(), family());
    let (seeds, downloaded, refreshed) = (family(), family(), family());
    for artifact in states {
        let labels = || vec![("artifact", artifact.name.to_string())];
        for stand in [Stand::Pending, Stand::Warming, Stand::Ready, Stand::Failed] {
            let labels = || [labels(), vec![("state", stand.to_string())]].concat();
            state.get_or_create(&labels()).set((artifact.state == stand).into());
            let count = artifact.seeds.iter().filter(|seed| seed.state == stand).count();
            seeds.get_or_create(&labels()).set(signed(count as u64));
        }
        versions.get_or_create(&labels()).set(signed(artifact.versions.len() as u64));
        tree.get_or_create(&labels()).set(signed(artifact.versions.iter().map(|version| version.bytes).sum()));
        failures.get_or_create(&labels()).set(artifact.failures.into());
        if let Some(progress) = &artifact.progress {
            downloaded.get_or_create(&labels()).set(signed(progress.bytes));
        }
        if let Some(at) = artifact.refreshed_at {
            refreshed.get_or_create(&labels()).set(at.as_second());
        }
    }
    registry.register("state", "1 for the state an artifact is in", state);
    registry.register("seeds", "Targets of an artifact by their state", seeds);
    registry.register("versions", "Versions of an artifact on the node", versions);
    registry.register("failures", "Tries that failed since the last success", failures);
    registry.register_with_unit("tree", "Bytes of an artifact's versions", Unit::Bytes, tree);
    registry.register_with_unit("download", "Bytes here of the download under way", Unit::Bytes, downloaded);
    let help = "When the source last answered, since the epoch";
    registry.register_with_unit("refresh_timestamp", help, Unit::Seconds, refreshed);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::fixture::{ARCHIVE, Fixture, state};
    use super::*;

    #[test]
    fn the_state_of_the_node_in_numbers() {
        let fixture = Fixture::new();
        let states = [
            ArtifactState { failures: 3, ..state("bad", Stand::Failed) },
            ArtifactState { refreshed_at: Some(jiff::Timestamp::new(77, 0).unwrap()), ..state("good", Stand::Ready) },
        ];
        let space = Space { total: 100, free: 60, free_inodes: 5 };
        let mut text = String::new();
        encode_registry(&mut text, &gauges(&states, &fixture.store.inventory(), Some(space))).unwrap();
        let archives = format!("seedcache_store_archives_bytes {}", ARCHIVE.len());
        for line in [
            "seedcache_artifact_state{artifact=\"bad\",state=\"Failed\"} 1",
            "seedcache_artifact_state{artifact=\"bad\",state=\"Ready\"} 0",
            "seedcache_artifact_failures{artifact=\"bad\"} 3",
            "seedcache_artifact_refresh_timestamp_seconds{artifact=\"good\"} 77",
            "seedcache_store_versions 1",
            "seedcache_store_free_bytes 60",
            &archives,
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert!(!text.contains("refresh_timestamp_seconds{artifact=\"bad\"}"), "{text}");
    }
}
