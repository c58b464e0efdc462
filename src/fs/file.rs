//! Metadata of open files, set by descriptor, durability of their content, and reading what nobody keeps others from.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use rustix::fs::{self as sys, AtFlags, Mode, OFlags, StatxFlags, Timespec, Timestamps};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::beneath::again;
use super::read_only::read_all;
use super::{Dir, Error, Kind, RelPath, Result, Stat};

/// What an entry's metadata shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits; ignored for symlinks.
    pub mode: u32,
    /// Owner and group; `None` leaves them as they are.
    pub owner: Option<(u32, u32)>,
    /// Modification time: seconds since the epoch and nanoseconds.
    pub mtime: (i64, u32),
}

impl Meta {
    fn timestamps(&self) -> Timestamps {
        let time = Timespec { tv_sec: self.mtime.0, tv_nsec: i64::from(self.mtime.1) };
        Timestamps { last_access: time, last_modification: time }
    }
}

pub(super) fn stat_file(file: &File) -> std::result::Result<Stat, Errno> {
    sys::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map(|x| Stat::from_statx(&x))
}

fn ids((uid, gid): (u32, u32)) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

/// Sets owner, then mode, then times of an open file or directory: a change of owner drops mode bits, and any change
/// but the last would touch the times. `name` is for messages only.
pub fn apply_meta(fd: impl std::os::fd::AsFd, name: &std::path::Path, meta: &Meta) -> Result<()> {
    let apply = || {
        super::dir::change()?;
        if let Some(owner) = meta.owner {
            let (uid, gid) = ids(owner);
            sys::fchown(&fd, uid, gid)?;
        }
        sys::fchmod(&fd, Mode::from_raw_mode(meta.mode))?;
        sys::futimens(&fd, &meta.timestamps())
    };
    apply().map_err(|e: Errno| Error::new("set metadata of", name, e))
}

/// Sets the permission bits of what an `O_PATH` descriptor is of; a symlink has none.
pub(super) fn set_mode_of_path(fd: BorrowedFd<'_>, mode: Mode) -> std::result::Result<(), Errno> {
    // fchmod takes no such descriptor, and fchmodat2 is of Linux 6.6.
    sys::chmodat(sys::CWD, format!("/proc/self/fd/{}", fd.as_raw_fd()), mode, AtFlags::empty())
}

impl Dir {
    /// Sets owner and times of a symlink itself.
    pub fn apply_symlink_meta(&self, rel: &RelPath, meta: &Meta) -> Result<()> {
        let (parent, name) = self.locate("set metadata of", rel)?;
        let apply = || {
            if let Some(owner) = meta.owner {
                let (uid, gid) = ids(owner);
                sys::chownat(&*parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            sys::utimensat(&*parent, name, &meta.timestamps(), AtFlags::SYMLINK_NOFOLLOW)
        };
        apply().map_err(|e: Errno| self.error("set metadata of", rel, e))
    }

    /// Sets the permission bits of what is no symlink; one that was put in its place is not followed.
    pub fn set_mode(&self, rel: &RelPath, mode: u32) -> Result<()> {
        let (parent, name) = self.locate("set mode of", rel)?;
        sys::openat(&*parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .and_then(|found| set_mode_of_path(found.as_fd(), Mode::from_raw_mode(mode)))
            .map_err(|e| self.error("set mode of", rel, e))
    }

    /// Sets owner, mode and times of this directory.
    pub fn apply_meta(&self, meta: &Meta) -> Result<()> {
        apply_meta(self, self.path(), meta)
    }

    /// Reads a whole small file as [`Dir::read`] does; `None` where somebody keeps it from being opened, as by a lease. That is
    /// not waited for, not even a moment: where there are thousands of files, it adds up.
    pub fn read_unless_held(&self, rel: &RelPath, limit: u64) -> Result<Option<Vec<u8>>> {
        let (parent, name) = self.locate("read", rel)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = again(|| match sys::openat(&*parent, name, flags, Mode::empty()) {
            Err(Errno::AGAIN) => Ok(None),
            opened => opened.map(Some),
        });
        let Some(file) = opened.map_err(|e| self.error("read", rel, e))?.map(File::from) else { return Ok(None) };
        if stat_file(&file).map_err(|e| self.error("read", rel, e))?.kind != Kind::File {
            return Err(self.error("read", rel, io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")));
        }
        read_all(&file, limit).map(Some).map_err(|e| self.error("read", rel, e))
    }

    /// Metadata of an open file.
    pub fn stat_file(file: &File, name: &std::path::Path) -> Result<Stat> {
        stat_file(file).map_err(|e| Error::new("stat", name, e))
    }
}
