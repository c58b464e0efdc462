//! Directories by file handle: opened anew through another mount of their file system, without any path.
//!
//! The one file with `unsafe`: no safe crate wraps `name_to_handle_at` and `open_by_handle_at`, nor [`write_back`]. What
//! must hold: a handle is at most [`LONGEST`] bytes long, and the kernel is never told that more room stands behind a
//! pointer than does.
#![allow(unsafe_code, reason = "three system calls that no crate wraps; each block says why it is sound")]

use std::fs::File;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::str::FromStr;

use rustix::io::Errno;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Dir, Error};

/// The longest handle that Linux makes (`MAX_HANDLE_SZ`).
const LONGEST: usize = 128;

/// Which directory it is, for as long as it is there: good over renames and reboots, on its own file system.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileHandle {
    kind: i32,
    /// At most [`LONGEST`].
    bytes: Vec<u8>,
}

/// Why a directory cannot be reached by its handle.
#[derive(Debug, thiserror::Error)]
pub enum HandleError {
    /// Opening by handle passes by the rights of every directory above, so the kernel wants a capability.
    #[error("the daemon lacks CAP_DAC_READ_SEARCH, without which it cannot reach the directory")]
    NoCapability,
    /// As overlay and some network file systems.
    #[error("the file system of the directory gives no file handles")]
    NotSupported,
    /// The directory is no more.
    #[error("the directory is not there any more")]
    Stale,
    /// No mount of one file system shows the other.
    #[error("the directory is on another file system than the store")]
    OtherFileSystem,
    /// A real failure.
    #[error(transparent)]
    Fs(#[from] Error),
}

/// Text that is no handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("that is no file handle: 5 to 132 bytes in hex")]
pub struct NoHandle;

/// As the kernel wants it: the head, and the room that it is told of behind it.
#[repr(C)]
struct Buffer {
    head: libc::file_handle,
    room: [u8; LONGEST],
}

/// The kernel takes the bytes of a handle to begin where the head's empty array is.
const _: () = assert!(offset_of!(Buffer, room) == offset_of!(libc::file_handle, f_handle));

impl Buffer {
    fn new(kind: i32, bytes: &[u8]) -> Self {
        let mut room = [0; LONGEST];
        room[..bytes.len()].copy_from_slice(bytes);
        // At most LONGEST, or the line above had panicked.
        let length = bytes.len() as libc::c_uint;
        Self { head: libc::file_handle { handle_bytes: length, handle_type: kind, f_handle: [] }, room }
    }
}

fn fault(op: &'static str, path: &Path) -> HandleError {
    let source = io::Error::last_os_error();
    match Errno::from_io_error(&source) {
        Some(Errno::PERM | Errno::ACCESS) => HandleError::NoCapability,
        Some(Errno::OPNOTSUPP | Errno::NOSYS | Errno::OVERFLOW) => HandleError::NotSupported,
        Some(Errno::STALE | Errno::NOENT) => HandleError::Stale,
        _ => Error::new(op, path, source).into(),
    }
}

impl Dir {
    /// The handle of this directory.
    pub fn handle(&self) -> Result<FileHandle, HandleError> {
        let mut buffer = Buffer::new(0, &[0; LONGEST]);
        let mut mount = 0;
        // SAFETY: the path is a NUL-terminated string that lives as long as the program. `handle` points to a whole
        // `Buffer`, and is derived from a reference to all of it; its head says `handle_bytes` = LONGEST, and so many
        // bytes follow the head without a gap (asserted above), so the kernel writes inside it only. `mount` is a c_int
        // of our own. The descriptor is open for the call, since `self` holds it.
        let outcome = unsafe {
            let handle = (&raw mut buffer).cast::<libc::file_handle>();
            let fd = self.as_fd().as_raw_fd();
            libc::name_to_handle_at(fd, c"".as_ptr(), handle, &raw mut mount, libc::AT_EMPTY_PATH)
        };
        if outcome != 0 {
            return Err(fault("take the handle of", self.path()));
        }
        // The kernel never says more than it was given room for; were it to, that would be no handle to take.
        let length = usize::try_from(buffer.head.handle_bytes).ok().filter(|length| *length <= LONGEST);
        let bytes = buffer.room[..length.ok_or(HandleError::NotSupported)?].to_vec();
        Ok(FileHandle { kind: buffer.head.handle_type, bytes })
    }

    /// Opens a directory of this one's file system by its handle, through the mount that this one was opened in. `name`
    /// is for messages only.
    pub fn open_by_handle(&self, handle: &FileHandle, name: &Path) -> Result<Dir, HandleError> {
        let mut buffer = Buffer::new(handle.kind, &handle.bytes);
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        // SAFETY: as above `handle` points to a whole `Buffer`, whose head says how many of the bytes behind it are the
        // handle's: at most LONGEST, which is all there are. The kernel reads them only. The descriptor is open for the
        // call, since `self` holds it.
        let fd = unsafe {
            let handle = (&raw mut buffer).cast::<libc::file_handle>();
            libc::open_by_handle_at(self.as_fd().as_raw_fd(), handle, flags)
        };
        if fd < 0 {
            return Err(fault("open by handle", name));
        }
        // SAFETY: the call has just given us this descriptor, it is no error, and nobody else knows it: it is ours to
        // close.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Dir::adopt(fd, name))
    }

    /// This very directory, opened anew through the mount that `mount` was opened in.
    pub fn reopened_through(&self, mount: &Dir) -> Result<(Dir, FileHandle), HandleError> {
        let own = self.stat_self()?.stamp;
        if own.dev != mount.stat_self()?.stamp.dev {
            return Err(HandleError::OtherFileSystem);
        }
        let handle = self.handle()?;
        let reopened = mount.open_by_handle(&handle, self.path())?;
        let found = reopened.stat_self()?.stamp;
        // Two file systems may show one device number, as layers of some stacked ones do.
        if (found.dev, found.ino) != (own.dev, own.ino) {
            Err(HandleError::OtherFileSystem)
        } else {
            Ok((reopened, handle))
        }
    }
}

/// Has what was written to a file go to its file system, and waits for that, but for no journal. A mapping through which a
/// page was written may be written through once more with no trace in the file's times, until the page goes there: from
/// then on the next such write shows in its ctime.
pub fn write_back(file: &File) -> io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: the call takes numbers only, of which the descriptor is open for the call, since `file` holds it. From 0 on
    // for 0 bytes is all of the file.
    let outcome = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl std::fmt::Display for FileHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:08x}{}", self.kind, hex::encode(&self.bytes))
    }
}

impl FromStr for FileHandle {
    type Err = NoHandle;
    fn from_str(text: &str) -> Result<Self, NoHandle> {
        let bytes = hex::decode(text).map_err(|_| NoHandle)?;
        let (kind, bytes) = bytes.split_first_chunk::<4>().ok_or(NoHandle)?;
        if bytes.is_empty() || bytes.len() > LONGEST {
            return Err(NoHandle);
        }
        Ok(Self { kind: i32::from_be_bytes(*kind), bytes: bytes.to_vec() })
    }
}

impl Serialize for FileHandle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FileHandle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

// Run under valgrind by tests/it/descriptor.rs too, by the name of this module.
#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fs::RelPath;

    fn held() -> (tempfile::TempDir, Dir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        (temp, dir)
    }

    fn name(text: &str) -> RelPath {
        text.parse().unwrap()
    }

    #[test]
    fn a_directory_is_found_again_by_its_handle_wherever_it_moved() {
        let (_temp, top) = held();
        top.make_dir(&name("a"), 0o700).unwrap();
        top.make_dir(&name("b"), 0o700).unwrap();
        let dir = top.open_dir(&name("a")).unwrap();
        let handle: FileHandle = dir.handle().unwrap().to_string().parse().unwrap();
        top.rename(&name("a"), &top, &name("b/moved"), crate::fs::Rename::NoReplace).unwrap();
        let (own, found) = (dir.stat_self().unwrap().stamp, top.open_by_handle(&handle, Path::new("x")));
        if !rustix::process::geteuid().is_root() {
            return assert!(matches!(found, Err(HandleError::NoCapability)), "{found:?}");
        }
        assert_eq!(found.unwrap().stat_self().unwrap().stamp.ino, own.ino);
        let (again, handle) = dir.reopened_through(&top).unwrap();
        assert_eq!(again.stat_self().unwrap().stamp.ino, own.ino);
        drop((dir, again));
        top.remove_tree(&name("b")).unwrap();
        assert!(matches!(top.open_by_handle(&handle, Path::new("x")), Err(HandleError::Stale)));
    }

    #[test]
    fn handles_of_every_length_are_safe_to_ask_for() {
        let (_temp, top) = held();
        for length in 1..=LONGEST {
            let handle = FileHandle { kind: 1, bytes: vec![0xff; length] };
            assert_eq!(handle.to_string().parse(), Ok(handle.clone()));
            assert!(top.open_by_handle(&handle, Path::new("x")).is_err(), "{length}");
        }
        for wrong in ["", "00000001", "0000000", "zz", &"00".repeat(LONGEST + 5)] {
            assert_eq!(wrong.parse::<FileHandle>(), Err(NoHandle), "{wrong}");
        }
    }

    #[test]
    fn another_file_system_is_told_from_one_without_handles() {
        let (_temp, top) = held();
        let proc = Dir::open(Path::new("/proc")).unwrap();
        assert!(matches!(proc.reopened_through(&top), Err(HandleError::OtherFileSystem)));
        let other = proc.open_dir(&name("tty")).unwrap();
        assert!(matches!(other.reopened_through(&proc), Err(HandleError::NotSupported)));
    }
}
