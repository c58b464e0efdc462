//! What the kernel has in memory: had without waiting for a disk, or sent from there to a socket. `None` says that a
//! disk may have to be asked, or that it fails: whoever can wait asks in the plain way and is told.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::AsFd;

use rustix::fs::{self as sys, Mode, OFlags, ResolveFlags};
use rustix::io::{ReadWriteFlags, preadv2};

use super::beneath::BENEATH;
use super::{Dir, Kind, RelPath, Stat};

/// The page cache is asked for one byte in so many: what Linux reads ahead at once. Asking costs: at 16 KiB it was a third of
/// the time of sending.
const STRIDE: usize = 128 * 1024;

impl Dir {
    /// Opens what lies there for reading where all names on its path are in memory (Linux 5.12; before, never): a regular
    /// file, or what [`stat_at_once`] knows not to be one.
    pub fn open_file_at_once(&self, rel: &RelPath) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let how = BENEATH.union(ResolveFlags::CACHED);
        Some(File::from(sys::openat2(self, rel.as_path(), flags, Mode::empty(), how).ok()?))
    }
}

/// Metadata of a regular file; nothing of anything else.
pub fn stat_at_once(file: &File) -> Option<Stat> {
    super::file::stat_file(file).ok().filter(|stat| stat.kind == Kind::File)
}

fn read_some(file: &File, buffer: &mut [u8], at: u64) -> Option<usize> {
    preadv2(file, &mut [IoSliceMut::new(buffer)], at, ReadWriteFlags::NOWAIT).ok()
}

/// Exactly `length` bytes from `at` on, where they are in memory.
pub fn read_at_once(file: &File, at: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    (length == 0 || read_some(file, &mut bytes, at)? == length).then_some(bytes)
}

/// How many of `length` bytes from `at` on seem to be in memory: the first of each few are.
pub fn seem_in_memory(file: &File, at: u64, length: usize) -> usize {
    let mut places = (0..length).step_by(STRIDE);
    places.find(|&place| read_some(file, &mut [0], at + place as u64) != Some(1)).unwrap_or(length)
}

/// Sends at most `length` bytes from `at` on; how many it were, 0 at the end of the file.
pub fn send_file(socket: impl AsFd, file: &File, mut at: u64, length: usize) -> io::Result<usize> {
    Ok(sys::sendfile(socket, file, Some(&mut at), length)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_in_memory_is_had_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("file"), b"content").unwrap();
        std::fs::create_dir(root.path().join("dir")).unwrap();
        std::os::unix::fs::symlink("file", root.path().join("link")).unwrap();
        let dir = Dir::open(root.path()).unwrap();
        let open = |name: &str| dir.open_file_at_once(&name.parse().unwrap());
        for name in ["link", "none", "file/x"] {
            assert!(open(name).is_none(), "{name}");
        }
        assert!(stat_at_once(&open("dir").unwrap()).is_none());
        let file = open("file").unwrap();
        assert_eq!(stat_at_once(&file).unwrap().size, 7);
        assert_eq!(read_at_once(&file, 0, 7).unwrap(), b"content");
        assert_eq!(read_at_once(&file, 3, 0).unwrap(), b"");
        assert_eq!((read_at_once(&file, 0, 8), read_at_once(&file, 7, 1)), (None, None));
        assert_eq!([(0, 7), (7, 0), (7, 1)].map(|(at, length)| seem_in_memory(&file, at, length)), [7, 0, 0]);
    }
}
