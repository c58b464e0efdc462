//! fs-verity: the kernel itself refuses to write to a file, and to hand out bytes of it that were changed beneath it.

use composefs_ioctls::fsverity::{EnableVerityError, fs_ioc_enable_verity};

use super::{Dir, Error, RelPath, Result};

/// SHA-256, as `linux/fsverity.h` numbers it.
const SHA256: u8 = 1;
/// The one size of block that every kernel with fs-verity knows.
const BLOCK: u32 = 4096;

/// What came of asking for it.
#[derive(Debug)]
pub enum Verity {
    /// The file has it, now or already.
    On,
    /// This file system, or this kernel, has none.
    Unsupported,
}

impl Dir {
    /// Switches fs-verity on for a file that nobody has open for writing. It stays on, through renames and hard links,
    /// until the file is gone; a reflink of it is a file of its own without it.
    pub fn enable_verity(&self, rel: &RelPath) -> Result<Verity> {
        let file = self.open_file(rel)?;
        match fs_ioc_enable_verity(&file, SHA256, BLOCK) {
            Ok(()) | Err(EnableVerityError::AlreadyEnabled) => Ok(Verity::On),
            Err(EnableVerityError::FilesystemNotSupported) => Ok(Verity::Unsupported),
            Err(EnableVerityError::Io(source)) => Err(self.error("switch fs-verity on for", rel, source)),
            Err(other) => Err(Error::new("switch fs-verity on for", &self.path_of(rel), std::io::Error::other(other))),
        }
    }
}
