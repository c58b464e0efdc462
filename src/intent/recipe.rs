//! The recipe under which a version is made: what of `unpack` decides the tree.

use super::{Digest, Limits, Unpack};

/// The digest of `unpack`, limits and requirements aside: those decide whether a tree is accepted, not what it holds.
pub fn recipe_digest(unpack: &Unpack) -> Digest {
    let deciding = Unpack { limits: Limits::default(), require: Vec::new(), ..unpack.clone() };
    let mut json = serde_json::to_vec(&deciding)
        .unwrap_or_else(|e| unreachable!("plain fields with text keys always serialise: {e}"));
    if deciding.strip_components > 0 {
        // Once a `.` before the first name was none of the components that are stripped.
        json.extend_from_slice(b" 2");
    }
    Digest::sha256(&json)
}
