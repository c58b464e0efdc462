//! What this room counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::{Registry, Unit};

/// Counters of what is held: its check, its repair and its going.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) scrubbed: Counter,
    pub(super) scrubbed_versions: Counter,
    pub(super) damaged: Counter,
    pub(super) repaired: Counter,
    pub(super) repair_failures: Counter,
    pub(super) collected: Counter,
    pub(super) collected_versions: Counter,
}

impl Counts {
    pub(super) fn register(&self, registry: &mut Registry) {
        let store = registry.sub_registry_with_prefix("seedcache_store");
        let help = "Bytes read by the background check of what is held";
        store.register_with_unit("scrubbed", help, Unit::Bytes, self.scrubbed.clone());
        let help = "Versions that the background check read whole and found good";
        store.register("scrubbed_versions", help, self.scrubbed_versions.clone());
        store.register("damaged_versions", "Versions found damaged, by whoever found it", self.damaged.clone());
        store.register("repaired_versions", "Damaged versions that were had again", self.repaired.clone());
        let help = "Tries to have a damaged version again that failed";
        store.register("repair_failures", help, self.repair_failures.clone());
        let help = "Bytes of the versions that collection removed, as their files show them";
        store.register_with_unit("collected", help, Unit::Bytes, self.collected.clone());
        let help = "Versions that collection removed";
        store.register("collected_versions", help, self.collected_versions.clone());
    }
}
