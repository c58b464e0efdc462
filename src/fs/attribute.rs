//! Extended attributes of directories, where the file system has them and room for them.

use rustix::fs::{self as sys, XattrFlags};
use rustix::io::Errno;

use super::dir::change;
use super::{Dir, Error, Result};

impl Dir {
    /// The extended attribute `name` of this directory; `None` where it is not set or the file system has none.
    pub fn xattr(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let mut value = Vec::with_capacity(64 * 1024);
        match sys::fgetxattr(self, name, rustix::buffer::spare_capacity(&mut value)) {
            Ok(_) => Ok(Some(value)),
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
            Err(e) => Err(Error::new("read extended attribute of", self.path(), e)),
        }
    }

    /// Sets an extended attribute of this directory; `false` where the file system has none or refuses it: one that was there
    /// before is there still.
    pub fn set_xattr(&self, name: &str, value: &[u8]) -> Result<bool> {
        match change().and_then(|()| sys::fsetxattr(self, name, value, XattrFlags::empty())) {
            Ok(()) => Ok(true),
            Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS | Errno::NOSPC | Errno::TOOBIG) => Ok(false),
            Err(e) => Err(Error::new("set extended attribute of", self.path(), e)),
        }
    }

    /// Removes an extended attribute of this directory, if it is there.
    pub fn remove_xattr(&self, name: &str) -> Result<()> {
        // Who may set none may not ask for the removal of none, either.
        if self.xattr(name)?.is_none() {
            return Ok(());
        }
        match change().and_then(|()| sys::fremovexattr(self, name)) {
            Ok(()) | Err(Errno::NODATA) => Ok(()),
            Err(e) => Err(Error::new("remove extended attribute of", self.path(), e)),
        }
    }
}
