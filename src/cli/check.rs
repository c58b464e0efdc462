//! `seedcache check`: says what is wrong with documents, without a daemon. (to come)

use std::io::{self, Write};
use std::path::PathBuf;

/// Whether all is well.
pub(super) fn run(_paths: &[PathBuf], _out: &mut impl Write) -> io::Result<bool> {
    unimplemented!()
}
