//! Removal of whole trees by descriptor: no symlink is followed, nothing outside is touched, however the tree is
//! changed meanwhile.

use rustix::fs::{self as sys, AtFlags, Mode};
use rustix::io::Errno;

use super::dir::change;
use super::{Dir, Kind, RelPath, Result};

impl Dir {
    /// Removes `rel` and all below it; nothing there is no error.
    pub fn remove_tree(&self, rel: &RelPath) -> Result<()> {
        let (parent, name) = match self.locate("remove", rel) {
            Err(e) if e.is_not_found() => return Ok(()),
            other => other?,
        };
        remove(&parent, name).map_err(|e| self.error("remove", rel, e))
    }

    /// Removes a directory if nothing is in it; `false` where it is not empty, or not there as one.
    pub fn remove_empty_dir(&self, rel: &RelPath) -> Result<bool> {
        let (parent, name) = self.locate("remove", rel)?;
        match change().and_then(|()| sys::unlinkat(&*parent, name, AtFlags::REMOVEDIR)) {
            Ok(()) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(e) => Err(self.error("remove", rel, e)),
        }
    }

    /// Removes all that this directory holds.
    pub fn clear(&self) -> Result<()> {
        for entry in self.entries()? {
            self.remove_tree(&entry.name)?;
        }
        Ok(())
    }
}

fn remove(parent: &Dir, name: &[u8]) -> std::result::Result<(), std::io::Error> {
    change()?;
    match sys::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Linux says EISDIR, POSIX EPERM, for a directory.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    let dir = match parent.child(name) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(()),
        // No right to list it: published directories have no write bits, strange ones no read bit.
        Err(Errno::ACCESS) => {
            sys::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
            parent.child(name)?
        }
        Err(e) => return Err(e.into()),
    };
    let entries = dir.entries().map_err(std::io::Error::other)?;
    let mut writable = false;
    for entry in entries {
        let child = entry.name.as_bytes();
        if entry.kind == Kind::Dir {
            if !writable {
                // Needed to unlink in it when this is not root; harmless when it is.
                sys::fchmod(&dir, Mode::RWXU)?;
                writable = true;
            }
            remove(&dir, child)?;
            continue;
        }
        match sys::unlinkat(&dir, child, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ACCESS) if !writable => {
                sys::fchmod(&dir, Mode::RWXU)?;
                writable = true;
                sys::unlinkat(&dir, child, AtFlags::empty())?;
            }
            Err(e) => return Err(e.into()),
        }
    }
    match sys::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
