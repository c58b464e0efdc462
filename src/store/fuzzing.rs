//! This room's fuzz targets.
#![allow(clippy::unwrap_used, reason = "it fails by panicking")]

use super::Manifest;
use super::index::{checksum, read_row, row_key};
use crate::intent::{Digest, error_chain};

/// A manifest as it is, and with the checksum that belongs to it: what is read is written and read again alike.
pub(crate) fn manifests(bytes: &[u8]) {
    let sealed = [bytes, format!("\"checksum\":\"{}\"}}\n", Digest::sha256(bytes)).as_bytes()].concat();
    for bytes in [bytes, &sealed] {
        match Manifest::read(bytes) {
            Ok(manifest) => {
                let mut written = Vec::new();
                manifest.write(&mut written).unwrap();
                assert_eq!(Manifest::read(&written[..]).unwrap(), manifest);
            }
            Err(error) => drop(error_chain(&error)),
        }
    }
}

/// A row's key in the first line, and what stands under it, as it is and with the checksum that belongs to it.
pub(crate) fn index_rows(bytes: &[u8]) {
    let at = bytes.iter().position(|&b| b == b'\n').unwrap_or(bytes.len());
    let (key, value) = (&bytes[..at], bytes.get(at + 1..).unwrap_or_default());
    let sealed = [checksum(key, value).as_bytes(), value].concat();
    for value in [value, &sealed] {
        if let Some(((artifact, version), row)) = read_row(key, value) {
            assert_eq!((&row.head.artifact, &row.head.version), (&artifact, &version));
            assert_eq!(row_key(&artifact, &version), key, "a row is believed under another's key");
        }
    }
}
