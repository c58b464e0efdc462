//! The disk as a FUSE file system: each request is one call of the model.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::io::Errno as Code;

use super::content::Write;
use super::model::{Body, Disk, Ino, Rename};

/// Nothing changes but by the kernel, which is asked for names once and for attributes each time.
const NAMES: Duration = Duration::from_secs(3600);
const ATTRIBUTES: Duration = Duration::ZERO;
/// Bytes of one write: one message on the way here must hold it.
pub(super) const LARGEST_WRITE: u32 = 64 * 1024;

/// A directory as it was when it was opened.
type Listing = Vec<(Ino, FileType, OsString)>;

pub(super) struct Server {
    disk: Arc<Mutex<Disk>>,
    /// Directories being listed, as they were when they were opened.
    listings: Mutex<(u64, HashMap<u64, Listing>)>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn code(error: Code) -> Errno {
    Errno::from_i32(error.raw_os_error())
}

fn kind(body: &Body) -> FileType {
    match body {
        Body::File(_) => FileType::RegularFile,
        Body::Dir(_) => FileType::Directory,
        Body::Symlink(_) => FileType::Symlink,
    }
}

fn attr(disk: &Disk, ino: Ino) -> Result<FileAttr, Code> {
    let node = disk.node(ino)?;
    let size = match &node.body {
        Body::File(bytes) => bytes.len() as u64,
        Body::Symlink(target) => target.len() as u64,
        Body::Dir(_) => 4096,
    };
    let attr = &node.attr;
    Ok(FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: size.div_ceil(4096) * 8,
        atime: attr.atime,
        mtime: attr.mtime,
        ctime: attr.ctime,
        crtime: attr.ctime,
        kind: kind(&node.body),
        perm: u16::try_from(attr.mode & 0o7777).unwrap(),
        nlink: node.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    })
}

fn time(asked: TimeOrNow) -> SystemTime {
    match asked {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

impl Server {
    pub(super) fn new(disk: Arc<Mutex<Disk>>) -> Self {
        Self { disk, listings: Mutex::default() }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        lock(&self.disk)
    }

    fn entry(&self, reply: ReplyEntry, done: impl FnOnce(&mut Disk) -> Result<Ino, Code>) {
        let mut disk = self.disk();
        match done(&mut disk).and_then(|ino| attr(&disk, ino)) {
            // The kernel knows of no name that it is one with another.
            Ok(attr) if disk.folds => reply.entry_with_ttls(&ATTRIBUTES, &ATTRIBUTES, &attr, Generation(0)),
            Ok(attr) => reply.entry_with_ttls(&ATTRIBUTES, &NAMES, &attr, Generation(0)),
            Err(error) => reply.error(code(error)),
        }
    }

    fn empty(&self, reply: ReplyEmpty, done: impl FnOnce(&mut Disk) -> Result<(), Code>) {
        match done(&mut self.disk()) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(code(error)),
        }
    }
}

fn owner(request: &Request) -> (u32, u32) {
    (request.uid(), request.gid())
}

fn sized(reply: ReplyXattr, size: u32, bytes: &[u8]) {
    match size as usize {
        0 => reply.size(bytes.len() as u32),
        size if size < bytes.len() => reply.error(Errno::ERANGE),
        _ => reply.data(bytes),
    }
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        config.set_max_write(LARGEST_WRITE).expect("it is small enough");
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.entry(reply, |disk| disk.lookup(parent.0, name));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match attr(&self.disk(), ino.0) {
            Ok(attr) => reply.attr(&ATTRIBUTES, &attr),
            Err(error) => reply.error(code(error)),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut disk = self.disk();
        let meta = mode.is_some() || uid.is_some() || gid.is_some() || atime.is_some() || mtime.is_some();
        let done = size.map_or(Ok(()), |size| disk.write(ino.0, Write::Length(size))).and_then(|()| {
            if !meta {
                return Ok(());
            }
            disk.set_attr(ino.0, |attr| {
                attr.mode = mode.map_or(attr.mode, |mode| mode & 0o7777);
                (attr.uid, attr.gid) = (uid.unwrap_or(attr.uid), gid.unwrap_or(attr.gid));
                attr.atime = atime.map_or(attr.atime, time);
                attr.mtime = mtime.map_or(attr.mtime, time);
            })
        });
        match done.and_then(|()| attr(&disk, ino.0)) {
            Ok(attr) => reply.attr(&ATTRIBUTES, &attr),
            Err(error) => reply.error(code(error)),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.disk().node(ino.0).map(|node| &node.body) {
            Ok(Body::Symlink(target)) => reply.data(target),
            Ok(_) => reply.error(Errno::EINVAL),
            Err(error) => reply.error(code(error)),
        }
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let body = Body::Dir(Default::default());
        self.entry(reply, |disk| disk.make(parent.0, name, body, mode & !umask, owner(request)));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let body = Body::Symlink(target.as_os_str().as_bytes().to_owned());
        self.entry(reply, |disk| disk.make(parent.0, name, body, 0o777, owner(request)));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let mut disk = self.disk();
        let made = disk.make(parent.0, name, Body::File(Arc::default()), mode & !umask, owner(request));
        match made.and_then(|ino| attr(&disk, ino)) {
            Ok(attr) => reply.created(&ATTRIBUTES, &attr, Generation(0), FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(code(error)),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.empty(reply, |disk| disk.remove(parent.0, name));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.empty(reply, |disk| disk.remove(parent.0, name));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let how = match flags {
            flags if flags.is_empty() => Rename::Replace,
            RenameFlags::RENAME_NOREPLACE => Rename::NoReplace,
            RenameFlags::RENAME_EXCHANGE => Rename::Exchange,
            _ => return reply.error(Errno::EINVAL),
        };
        self.empty(reply, |disk| disk.rename((parent.0, name), (new_parent.0, new_name), how));
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.entry(reply, |disk| disk.link(ino.0, parent.0, name).map(|()| ino.0));
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.disk().node(ino.0).map(|node| &node.body) {
            Ok(Body::File(content)) => {
                let start = content.len().min(offset as usize);
                reply.data(&content[start..content.len().min(start + size as usize)]);
            }
            Ok(_) => reply.error(Errno::EISDIR),
            Err(error) => reply.error(code(error)),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.disk().write(ino.0, Write::At(offset, data.to_vec())) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(code(error)),
        }
    }

    fn fallocate(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, len: u64, mode: i32, reply: ReplyEmpty) {
        if mode != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        self.empty(reply, |disk| {
            let Body::File(content) = &disk.node(ino.0)?.body else { return Err(Code::ISDIR) };
            let length = (offset + len).max(content.len() as u64);
            disk.write(ino.0, Write::Length(length))
        });
    }

    /// A close makes nothing durable.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, data_only: bool, reply: ReplyEmpty) {
        self.empty(reply, |disk| disk.sync(ino.0, data_only));
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.empty(reply, |disk| disk.sync(ino.0, false));
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let disk = self.disk();
        let names = match disk.names(ino.0) {
            Ok(names) => names,
            Err(error) => return reply.error(code(error)),
        };
        let listed =
            names.iter().filter_map(|(name, ino)| Some((*ino, kind(&disk.node(*ino).ok()?.body), name.clone())));
        let dots = [".", ".."].map(|dot| (ino.0, FileType::Directory, dot.into()));
        let listing = dots.into_iter().chain(listed).collect();
        let mut listings = lock(&self.listings);
        listings.0 += 1;
        let handle = listings.0;
        listings.1.insert(handle, listing);
        reply.opened(FileHandle(handle), FopenFlags::empty());
    }

    fn readdir(&self, _: &Request, ino: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut listings = lock(&self.listings);
        // Read again from its start, it is listed anew.
        let (disk, listing) = (self.disk(), listings.1.get_mut(&handle.0).expect("it was opened"));
        if offset == 0 {
            let Ok(names) = disk.names(ino.0) else { return reply.error(Errno::ENOTDIR) };
            listing.truncate(2);
            listing.extend(
                names.iter().filter_map(|(name, ino)| Some((*ino, kind(&disk.node(*ino).ok()?.body), name.clone()))),
            );
        }
        for (at, (ino, kind, name)) in listing.iter().enumerate().skip(offset as usize) {
            if reply.add(INodeNo(*ino), at as u64 + 1, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        lock(&self.listings).1.remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        // As large as nothing here needs it.
        const BLOCKS: u64 = 1 << 24;
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, BLOCKS, BLOCKS, 4096, 255, 4096);
    }

    fn setxattr(
        &self,
        _: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        _: i32,
        position: u32,
        reply: ReplyEmpty,
    ) {
        assert_eq!(position, 0, "Linux has no positions in attributes");
        self.empty(reply, |disk| disk.set_xattr(ino.0, name, Some(value.to_vec())));
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let disk = self.disk();
        match disk.node(ino.0).and_then(|node| node.xattrs.get(name).ok_or(Code::NODATA)) {
            Ok(value) => sized(reply, size, value),
            Err(error) => reply.error(code(error)),
        }
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let disk = self.disk();
        match disk.node(ino.0) {
            Ok(node) => {
                let names: Vec<u8> = node.xattrs.keys().flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect();
                sized(reply, size, &names);
            }
            Err(error) => reply.error(code(error)),
        }
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.empty(reply, |disk| disk.set_xattr(ino.0, name, None));
    }
}
