//! What a daemon keeps in a JSON file of its own, read at its start.
//!
//! What must hold: what was acknowledged is not given up for an error that may pass. A file that is not understood is put
//! aside, and costs what stood in it; where the disk cannot give it, there is no start without it.

use serde::de::DeserializeOwned;

use super::layout::own;
use crate::fs::{self, Dir, Rename};
use crate::intent::error_chain;

/// The content of `name` below `root`, of at most `limit` bytes; `None` where there is none, or none that is understood: that
/// is put aside as `name.unreadable`. Errors are the disk's.
pub fn read_json_file<T: DeserializeOwned>(root: &Dir, name: &str, limit: u64) -> fs::Result<Option<T>> {
    let why = match root.read(&own(name), limit) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(content) => return Ok(Some(content)),
            Err(error) => error_chain(&error),
        },
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) if error.is_of_disk() => return Err(error),
        Err(error) => error_chain(&error),
    };
    let aside = format!("{name}.unreadable");
    tracing::error!(
        file = name,
        aside,
        error = why,
        "file of the store cannot be read and is put aside: what it said is lost"
    );
    if let Err(error) = root.rename(&own(name), root, &own(&aside), Rename::Replace) {
        tracing::warn!(error = error_chain(&error), "it cannot be put aside");
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;

    #[test]
    fn what_the_disk_cannot_give_is_neither_put_aside_nor_taken_for_nothing() {
        // Nothing is mapped at address 0: reading there fails by EIO.
        let proc = Dir::open(Path::new("/proc/self")).unwrap();
        let error = read_json_file::<Vec<u8>>(&proc, "mem", 100).unwrap_err();
        assert!(error.is_of_disk(), "{error:?}");
        assert_eq!(read_json_file::<Vec<u8>>(&proc, "nothing-of-that-name", 100).unwrap(), None);
    }
}
