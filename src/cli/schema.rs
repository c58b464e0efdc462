//! `seedcache schema`: prints the JSON Schema of the Artifact document. (to come)

use std::io::{self, Write};

/// Prints it.
pub(super) fn run(_out: &mut impl Write) -> io::Result<()> {
    unimplemented!()
}
