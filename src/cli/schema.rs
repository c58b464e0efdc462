//! `seedcache schema`: prints the JSON Schema of the Artifact document.

use std::io::{self, Write};

use crate::intent;

/// Prints it.
pub(super) fn run(out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, &intent::schema())?;
    writeln!(out)
}
