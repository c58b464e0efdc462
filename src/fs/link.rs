//! One file handed on by reflink, hard link or copy: the single tries. Which to try next is decided elsewhere.

use std::fs::File;
use std::io::{self, Read as _, Write as _};

use rustix::fs::{self as sys, AtFlags};
use rustix::io::Errno;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Dir, RelPath, Result};

/// How a file's content reached its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum LinkMode {
    /// Shared extents, own inode (FICLONE).
    Reflink,
    /// Shared inode.
    Hardlink,
    /// Own bytes.
    Copy,
}

impl LinkMode {
    /// As people say it: "hard link".
    pub fn words(self) -> &'static str {
        match self {
            LinkMode::Reflink => "reflink",
            LinkMode::Hardlink => "hard link",
            LinkMode::Copy => "copy",
        }
    }
}

impl std::fmt::Display for LinkMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            LinkMode::Reflink => "reflink",
            LinkMode::Hardlink => "hardlink",
            LinkMode::Copy => "copy",
        })
    }
}

/// Shares the extents of `from` with the empty file `to`. `Err` holds the system's reason, to decide on.
pub fn reflink(from: &File, to: &File) -> io::Result<()> {
    Ok(sys::ioctl_ficlone(to, from)?)
}

/// Gives the file `from` below `from_dir` a second name. `Err` holds the system's reason, to decide on.
pub fn hard_link(from_dir: &Dir, from: &RelPath, to_dir: &Dir, to: &RelPath) -> io::Result<()> {
    let failed = |e: super::Error| io::Error::new(e.kind(), e);
    let (from_parent, from_name) = from_dir.locate("link", from).map_err(failed)?;
    let (to_parent, to_name) = to_dir.locate("link", to).map_err(failed)?;
    Ok(sys::linkat(&*from_parent, from_name, &*to_parent, to_name, AtFlags::empty())?)
}

/// Copies all of `from` into the empty file `to`, in the kernel where it can be. Returns the bytes copied; `progress`
/// is told of each piece.
pub fn copy_file(from: &File, to: &File, mut progress: impl FnMut(u64)) -> io::Result<u64> {
    const PIECE: usize = 8 * 1024 * 1024;
    let mut copied = 0u64;
    loop {
        match sys::copy_file_range(from, None, to, None, PIECE) {
            Ok(0) => return Ok(copied),
            Ok(n) => {
                copied += n as u64;
                progress(n as u64);
            }
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::NOTSUP | Errno::NOSYS | Errno::INVAL | Errno::PERM) => break,
            Err(e) => return Err(e.into()),
        }
    }
    let (mut from, mut to) = (from, to);
    let mut buffer = vec![0u8; 256 * 1024];
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        to.write_all(&buffer[..n])?;
        copied += n as u64;
        progress(n as u64);
    }
}

impl Dir {
    /// Gives the file `from` below this directory a second name, `to`, below it.
    pub fn hard_link(&self, from: &RelPath, to: &RelPath) -> Result<()> {
        hard_link(self, from, self, to).map_err(|e| self.error("link", to, e))
    }
}
