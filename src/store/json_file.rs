//! What a daemon keeps in a JSON file of its own, read at its start.
//!
//! What must hold: what was acknowledged is not given up for an error that may pass. A file that is not understood is put
//! aside, and costs what stood in it; where it cannot be read, for whatever reason, there is no start without it.

use std::io::ErrorKind;

use rustix::io::Errno;
use serde::de::DeserializeOwned;

use super::layout::own;
use crate::fs::{self, Dir, Rename, fail_point};
use crate::intent::error_chain;

/// The content of `name` below `root`, of at most `limit` bytes; `None` where there is none, or none that is understood: that
/// is put aside as `name.unreadable`. Errors are of reading.
pub fn read_json_file<T: DeserializeOwned>(root: &Dir, name: &str, limit: u64) -> fs::Result<Option<T>> {
    let Some(bytes) = read_or_put_aside(root, name, limit)? else { return Ok(None) };
    match serde_json::from_slice(&bytes) {
        Ok(content) => Ok(Some(content)),
        Err(error) => {
            put_aside(root, name, &error);
            Ok(None)
        }
    }
}

/// The bytes of `name` below `root`, `limit` at most; `None` where there is no such file. What stands there and is none, or is
/// larger, is put aside as `name.unreadable`. Errors are of reading.
pub fn read_or_put_aside(root: &Dir, name: &str, limit: u64) -> fs::Result<Option<Vec<u8>>> {
    match root.read(&own(name), limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) if is_never_read(&error) => {
            put_aside(root, name, &error);
            Ok(None)
        }
        Err(error) => {
            tracing::error!(
                file = name,
                "no start without this file: make it readable, or move it away and lose what it says"
            );
            Err(error)
        }
    }
}

/// Whether it fails for what stands there, each time: too large, or no regular file (of a symlink and of a socket the system
/// says so).
fn is_never_read(error: &fs::Error) -> bool {
    let not_regular = [Errno::LOOP, Errno::NXIO].iter().any(|errno| error.errno() == Some(errno.raw_os_error()));
    let told_by_us = error.errno().is_none();
    not_regular || told_by_us && matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::FileTooLarge)
}

fn put_aside(root: &Dir, name: &str, error: &(dyn std::error::Error + 'static)) {
    let aside = format!("{name}.unreadable");
    tracing::error!(
        file = name,
        aside,
        error = error_chain(error),
        "file of the store is not understood and is put aside: what it said is lost"
    );
    fail_point("store.json.before-aside");
    if let Err(error) = root.rename(&own(name), root, &own(&aside), Rename::Replace) {
        tracing::warn!(error = error_chain(&error), "it cannot be put aside");
    }
    fail_point("store.json.after-aside");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
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

    #[test]
    fn only_what_is_never_read_is_put_aside() {
        let error = |errno: Errno| fs::Error::new("read", Path::new("pins.json"), errno);
        for errno in [Errno::IO, Errno::BADMSG, Errno::TIMEDOUT, Errno::ACCESS, Errno::PERM, Errno::STALE, Errno::INVAL]
        {
            assert!(!is_never_read(&error(errno)), "{errno}");
        }
        let temp = tempfile::tempdir().unwrap();
        let (root, at) = (Dir::open(temp.path()).unwrap(), |name: &str| temp.path().join(name));
        std::fs::write(at("large"), [b' '; 101]).unwrap();
        std::fs::write(at("torn"), b"[1").unwrap();
        std::fs::create_dir(at("dir")).unwrap();
        std::os::unix::fs::symlink("torn", at("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for name in ["large", "torn", "dir", "link", "socket"] {
            assert_eq!(read_json_file::<Vec<u8>>(&root, name, 100).unwrap(), None, "{name}");
            assert!(at(&format!("{name}.unreadable")).symlink_metadata().is_ok(), "{name}");
            assert!(at(name).symlink_metadata().is_err(), "{name}");
        }
    }
}
