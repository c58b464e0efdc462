//! What the node holds: published versions with their manifests, `current/` links, staging and quarantine.
//!
//! What must hold: a version directory is complete, verified and durable before it is visible (invariant 1); the
//! directories and manifests are the truth, the index only a hint that is checked (invariant 2); one writer
//! (invariant 3).

mod index;
mod inventory;
mod layout;
mod manifest;
mod publish;
mod quarantine;
mod staging;
mod verify;
mod version;

pub use manifest::{Archive, Entry, EntryType, Manifest, ManifestError, ManifestHead, ResolvedFrom, tree_digest};
pub use staging::Staging;
