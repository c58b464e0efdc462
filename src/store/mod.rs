//! What the node holds: published versions with their manifests, `current/` links, staging and quarantine.
//!
//! What must hold: a version directory is complete, verified and durable before it is visible (invariant 1); the
//! directories and manifests are the truth, the index only a hint that is checked (invariant 2); one writer
//! (invariant 3). Everything here blocks: async callers go through `spawn_blocking`.

mod budget;
mod clock;
mod collect;
mod content_digest;
mod donors;
mod drain;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod give;
mod index;
mod inventory;
mod json_file;
mod layout;
mod leases;
mod manifest;
mod opening;
mod pins;
mod publish;
mod quarantine;
mod same;
#[cfg(test)]
mod sample;
mod scan;
mod scrub;
mod seal;
mod since_boot;
mod sizes;
mod sound;
mod staging;
mod take_over;
mod telltale;
#[cfg(test)]
mod tests;
mod verify;
mod version;

pub use budget::{Limits, Promises, Room, Taken};
pub use clock::Age;
pub use collect::{Claim, Claims, Fate, Why, fates, make_room};
pub use donors::Donors;
pub use give::Wanted;
pub use inventory::{Holding, Inventory};
pub use json_file::{read_json_file, read_or_put_aside};
pub use layout::{OpenError, Store, StoreError};
pub use leases::{HolderName, LONGEST_LEASE, LeaseError, TimedLease};
pub use manifest::{Archive, Entry, EntryType, Manifest, ManifestError, ManifestHead, ResolvedFrom, tree_digest};
pub use pins::{Pinned, Pinning};
pub use publish::{NewVersion, PublishError};
pub use quarantine::Reason;
pub use scrub::{Pace, Scrubbed, next_due};
pub use sound::{DamageReport, Judged};
pub use staging::Staging;
pub use telltale::Telltales;
pub use verify::{Damage, Report, store_mode};
pub use version::Version;
