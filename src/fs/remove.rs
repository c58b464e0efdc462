//! Removal of whole trees by descriptor: no symlink is followed, no mount is entered, nothing outside is touched, however
//! the tree is changed meanwhile. However deep it is, it takes a few descriptors and none of the stack; however many names
//! there are, a few of them are in memory. What is very deep is moved to the top first.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self as sys, AtFlags, FileType, Mode, OFlags, RawDir, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use super::beneath::again;
use super::dir::change;
use super::file::set_mode_of_path;
use super::{Dir, RelPath, Result};

/// Directories that are held open on the way down. Those above them are found again by `..`, and listed anew.
const HELD: usize = 32;
/// A directory so many levels down is moved to the top of the tree before it is entered: each level takes memory.
const DEEPEST: usize = 10_000;
/// About how many names of a directory are read at a time.
const AT_ONCE: usize = 1000;
/// So often as many are read, however small a directory says that it is.
const READINGS: u64 = 1000;
/// So often a directory is listed anew, at most: once for each in it that is deeper than those that are held open.
const RELISTINGS: u64 = 100_000;
const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What is mounted in a tree is not the tree's: removal ends there with EXDEV.
const WITHIN: ResolveFlags = ResolveFlags::NO_XDEV.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

impl Dir {
    /// Removes `rel` and all below it; nothing there is no error. What is mounted in it stays, and is an error.
    pub fn remove_tree(&self, rel: &RelPath) -> Result<()> {
        let (parent, name) = match self.locate("remove", rel) {
            Err(e) if e.is_not_found() => return Ok(()),
            other => other?,
        };
        remove(parent.as_fd(), name).map_err(|e| self.error("remove", rel, e))
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
        self.try_each_entry(|entry| self.remove_tree(&entry.name))
    }
}

/// A directory that is being removed.
struct Level {
    /// Its name in the one above.
    name: Vec<u8>,
    fd: OwnedFd,
    left: Left,
}

/// What is still to go of a directory.
struct Left {
    /// Directories in it.
    dirs: Vec<Vec<u8>>,
    /// There are names to be read.
    more: bool,
    /// There may be some that were not read, and are not: somebody goes on making them.
    unread: bool,
    /// So often some of them may still be read, and all anew: somebody may go on making names, and keeps what he makes.
    readings: u64,
    relistings: u64,
}

/// One on the way to it.
struct Above {
    name: Vec<u8>,
    /// Held open where it is near.
    fd: Option<OwnedFd>,
    /// Which directory it is.
    inode: (u64, u64),
    left: Left,
}

impl Above {
    fn of(Level { name, fd, left }: Level) -> io::Result<Self> {
        let inode = inode_of(&fd)?;
        Ok(Self { name, fd: Some(fd), inode, left })
    }

    /// Holds nothing of it but which it is.
    fn let_go(&mut self) {
        // Not listed since it was let go of.
        if self.fd.take().is_none() {
            return;
        }
        let Left { dirs, more, unread, readings, relistings } = &mut self.left;
        if std::mem::take(dirs).is_empty() && !*more && !*unread {
            return;
        }
        *more = *relistings > 0;
        *relistings = relistings.saturating_sub(1);
        *readings = (*readings).max(1);
    }
}

fn remove(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    change()?;
    if !is_to_enter(sys::unlinkat(parent, name, AtFlags::empty()))? {
        return Ok(());
    }
    // Those above the lowest, which alone is worked in.
    let mut above: Vec<Above> = Vec::new();
    let Some(mut level) = enter(parent, name)? else { return Ok(()) };
    let (mut top, mut lifted): (Option<OwnedFd>, u64) = (None, 0);
    loop {
        if let Some(next) = level.left.dirs.pop() {
            change()?;
            if above.len() >= DEEPEST
                && let Some(top) = &top
            {
                lift(&level, &next, top.as_fd(), &mut above[0].left, &mut lifted)?;
                continue;
            }
            if let Some(below) = enter(level.fd.as_fd(), &next)? {
                if above.is_empty() && top.is_none() {
                    top = Some(level.fd.try_clone()?);
                }
                above.push(Above::of(std::mem::replace(&mut level, below))?);
                if let Some(far) = above.len().checked_sub(HELD + 1) {
                    above[far].let_go();
                }
            }
            continue;
        }
        if level.left.more {
            let readings = level.left.readings.saturating_sub(1);
            let (dirs, unread) = empty_of_files(&level.fd)?;
            level.left = Left { dirs, more: unread && readings > 0, unread, readings, ..level.left };
            continue;
        }
        let Some(Above { name, fd, inode, left }) = above.pop() else { break };
        let fd = fd.map_or_else(|| go_up(level.fd.as_fd(), inode), Ok)?;
        remove_empty(fd.as_fd(), &level.name)?;
        level = Level { name, fd, left };
    }
    remove_empty(parent, &level.name)
}

/// Moves a directory to the top of the tree, under a name that none has there.
fn lift(level: &Level, name: &[u8], top: BorrowedFd<'_>, left: &mut Left, lifted: &mut u64) -> io::Result<()> {
    loop {
        let to = format!(".lifted-{lifted}").into_bytes();
        *lifted += 1;
        let rename = || sys::renameat_with(&level.fd, name, top, &*to, RenameFlags::NOREPLACE);
        let moved = match rename() {
            // What it is in is written in it.
            Err(Errno::ACCESS) => let_owner_in(level.fd.as_fd(), name).and_then(|()| rename()),
            moved => moved,
        };
        match moved {
            Ok(()) if left.dirs.len() < AT_ONCE => left.dirs.push(to),
            // It is read there.
            Ok(()) => (left.more, left.readings) = (true, left.readings.max(1)),
            Err(Errno::EXIST) => continue,
            Err(Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
        return Ok(());
    }
}

/// Whether what was to be unlinked is a directory.
fn is_to_enter(unlinked: std::result::Result<(), Errno>) -> io::Result<bool> {
    match unlinked {
        Ok(()) | Err(Errno::NOENT) => Ok(false),
        // Linux says EISDIR, POSIX EPERM, for a directory.
        Err(Errno::ISDIR | Errno::PERM) => Ok(true),
        Err(e) => Err(e.into()),
    }
}

fn remove_empty(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    match sys::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// The directory above `fd`, if it is the one that it was entered from: somebody may have moved it elsewhere.
fn go_up(fd: BorrowedFd<'_>, inode: (u64, u64)) -> io::Result<OwnedFd> {
    let above = sys::openat(fd, c"..", DIR_FLAGS, Mode::empty())?;
    if inode_of(&above)? == inode {
        return Ok(above);
    }
    Err(io::Error::other("a directory in it was moved elsewhere meanwhile; it is removed again the next time"))
}

fn inode_of(fd: &OwnedFd) -> io::Result<(u64, u64)> {
    let stat = sys::fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Lets the owner of a directory list it. Whoever serves the file system may have put a link in its place.
fn let_owner_in(parent: BorrowedFd<'_>, name: &[u8]) -> std::result::Result<(), Errno> {
    let found = again(|| sys::openat2(parent, name, DIR_FLAGS | OFlags::PATH, Mode::empty(), WITHIN))?;
    set_mode_of_path(found.as_fd(), Mode::RWXU)
}

/// Opens a directory; `None` where it is gone.
fn enter(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Level>> {
    let open = || again(|| sys::openat2(parent, name, DIR_FLAGS, Mode::empty(), WITHIN));
    let fd = match open() {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        // Something else since it was listed.
        Err(Errno::NOTDIR | Errno::LOOP) => {
            sys::unlinkat(parent, name, AtFlags::empty())?;
            return Ok(None);
        }
        // No right to list it: published directories have no write bits, strange ones no read bit.
        Err(Errno::ACCESS) => {
            let_owner_in(parent, name)?;
            open()?
        }
        Err(e) => return Err(e.into()),
    };
    // File systems count two bytes for a name at least, if they count names at all.
    let names = u64::try_from(sys::fstat(&fd)?.st_size).unwrap_or_default() / 2;
    let readings = (names / AT_ONCE as u64).max(READINGS);
    let left = Left { dirs: Vec::new(), more: true, unread: true, readings, relistings: RELISTINGS };
    Ok(Some(Level { name: name.to_vec(), fd, left }))
}

/// Removes the next of what is in a directory but for directories, which it gives; also whether there may be more.
fn empty_of_files(fd: &OwnedFd) -> io::Result<(Vec<Vec<u8>>, bool)> {
    let (names, more) = names(fd)?;
    let mut dirs = Vec::new();
    let mut writable = false;
    // Needed to unlink in it when this is not root; harmless when it is.
    let mut allow = || if std::mem::replace(&mut writable, true) { Ok(()) } else { sys::fchmod(fd, Mode::RWXU) };
    for (child, is_dir) in names {
        if is_dir {
            allow()?;
            dirs.push(child);
            continue;
        }
        let unlink = || sys::unlinkat(fd, &*child, AtFlags::empty());
        let unlinked = match unlink() {
            Err(Errno::ACCESS) => {
                allow()?;
                unlink()
            }
            other => other,
        };
        if is_to_enter(unlinked)? {
            allow()?;
            dirs.push(child);
        }
    }
    Ok((dirs, more))
}

/// A name in a directory, and whether it is known to be that of a directory.
type Name = (Vec<u8>, bool);

/// The next names in a directory, read before any of them is removed; also
/// whether there may be more. What is removed between two readings keeps none of the others from being read, as with `rm`.
fn names(fd: &OwnedFd) -> io::Result<(Vec<Name>, bool)> {
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut listing = RawDir::new(fd, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = listing.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push((name.to_vec(), entry.file_type() == FileType::Directory));
        }
        // What is in the buffer is read by nobody else.
        if names.len() >= AT_ONCE && listing.is_buffer_empty() {
            return Ok((names, true));
        }
    }
    Ok((names, false))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;

    /// More levels than a process may have open files here, or frames on a test's stack.
    const DEEP: usize = 25_000;

    /// Goes down `levels` directories below `top`, made as they are missing, with a file in each.
    fn dig(top: &Dir, levels: usize) {
        let mut here = top.reopen().unwrap();
        for _ in 0..levels {
            sys::mkdirat(&here, c"level", Mode::RWXU).unwrap();
            let file = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            drop(sys::openat(&here, c"file", file, Mode::RWXU).unwrap());
            let below = sys::openat(&here, c"level", DIR_FLAGS, Mode::empty()).unwrap();
            here = Dir::adopt(below, top.path());
        }
    }

    #[test]
    fn a_tree_deeper_than_any_path_takes_few_descriptors() {
        let temp = tempfile::tempdir().unwrap();
        let top = Dir::open(temp.path()).unwrap();
        top.make_dir(&"tree".parse().unwrap(), 0o700).unwrap();
        dig(&top.open_dir(&"tree".parse().unwrap()).unwrap(), DEEP);
        top.remove_tree(&"tree".parse().unwrap()).unwrap();
        assert_eq!(top.entries().unwrap(), []);
    }

    #[test]
    fn a_tree_with_many_names_and_directories_on_every_level_goes() {
        let temp = tempfile::tempdir().unwrap();
        let top = Dir::open(temp.path()).unwrap();
        top.make_dir(&"tree".parse().unwrap(), 0o700).unwrap();
        let tree = top.open_dir(&"tree".parse().unwrap()).unwrap();
        dig(&tree, 3 * HELD);
        let mut here = tree;
        for level in 0..3 * HELD {
            // On some levels more than are read at a time, of both kinds.
            let names = if level % 16 == 0 { 3 * AT_ONCE } else { 3 };
            for n in 0..names {
                let name = format!("{n:0>200}");
                if n % 2 == 0 {
                    sys::mkdirat(&here, &*name, Mode::RWXU).unwrap();
                } else {
                    sys::linkat(&here, c"file", &here, &*name, AtFlags::empty()).unwrap();
                }
            }
            here = here.open_dir(&"level".parse().unwrap()).unwrap();
        }
        top.remove_tree(&"tree".parse().unwrap()).unwrap();
        assert_eq!(top.entries().unwrap(), []);
    }

    #[test]
    fn a_directory_is_listed_anew_only_where_it_was_since() {
        let temp = tempfile::tempdir().unwrap();
        let fd = || sys::open(temp.path(), DIR_FLAGS, Mode::empty()).unwrap();
        let left = Left { dirs: vec![b"x".to_vec()], more: false, unread: false, readings: 0, relistings: 2 };
        let mut above = Above::of(Level { name: Vec::new(), fd: fd(), left }).unwrap();
        for _ in 0..3 {
            above.let_go();
            assert_eq!((above.left.more, above.left.readings, above.left.relistings), (true, 1, 1));
        }
        (above.fd, above.left.more, above.left.readings) = (Some(fd()), false, 0);
        above.let_go();
        assert!(!above.left.more, "all was read, and is gone");
        (above.fd, above.left.unread) = (Some(fd()), true);
        above.let_go();
        assert_eq!((above.left.more, above.left.relistings), (true, 0));
    }

    #[test]
    fn what_is_very_deep_is_moved_to_the_top() {
        let temp = tempfile::tempdir().unwrap();
        let top = Dir::open(temp.path()).unwrap();
        for name in ["top", ".lifted-0", "level", "level/below"] {
            top.make_dir(&name.parse().unwrap(), 0o700).unwrap();
        }
        let fd = |name: &str| sys::open(temp.path().join(name), DIR_FLAGS, Mode::empty()).unwrap();
        let none = || Left { dirs: Vec::new(), more: false, unread: false, readings: 0, relistings: 0 };
        let (level, top_fd) = (Level { name: Vec::new(), fd: fd("level"), left: none() }, fd("."));
        let (mut left, mut lifted) = (none(), 0);
        lift(&level, b"below", top_fd.as_fd(), &mut left, &mut lifted).unwrap();
        assert_eq!((&*left.dirs, left.more), (&[b".lifted-1".to_vec()][..], false));
        lift(&level, b"below", top_fd.as_fd(), &mut left, &mut lifted).unwrap();
        assert_eq!(left.dirs.len(), 1, "it is gone");
        left.dirs = vec![Vec::new(); AT_ONCE];
        std::fs::create_dir(temp.path().join("level/below")).unwrap();
        lift(&level, b"below", top_fd.as_fd(), &mut left, &mut lifted).unwrap();
        assert_eq!((left.dirs.len(), left.more, left.readings), (AT_ONCE, true, 1));
        assert!(temp.path().join(".lifted-3").exists() && !temp.path().join("level/below").exists());
    }

    #[test]
    fn few_names_are_read_at_a_time() {
        let temp = tempfile::tempdir().unwrap();
        for n in 0..5 * AT_ONCE {
            std::fs::write(temp.path().join(format!("{n:0>200}")), "").unwrap();
        }
        let fd = sys::open(temp.path(), DIR_FLAGS, Mode::empty()).unwrap();
        let mut all = 0;
        loop {
            let (some, more) = names(&fd).unwrap();
            assert!(some.len() < 2 * AT_ONCE, "{} at a time", some.len());
            all += some.len();
            if !more {
                break;
            }
        }
        assert_eq!(all, 5 * AT_ONCE);
    }

    #[test]
    fn a_closed_directory_is_opened_to_its_owner_and_no_link_in_its_place_is_followed() {
        use std::os::unix::fs::PermissionsExt as _;
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        let closed = |name: &str| {
            std::fs::create_dir_all(at(name).join("below")).unwrap();
            std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(0o000)).unwrap();
        };
        closed("tree");
        closed("other");
        std::os::unix::fs::symlink(at("other"), at("link")).unwrap();
        let top = Dir::open(temp.path()).unwrap();
        let (removed, linked) = super::super::without_override(|| {
            (top.remove_tree(&"tree".parse().unwrap()), let_owner_in(top.as_fd(), b"link"))
        });
        removed.unwrap();
        assert!(!at("tree").exists());
        assert_eq!(linked, Err(Errno::NOTDIR));
        assert_eq!(std::fs::metadata(at("other")).unwrap().permissions().mode() & 0o777, 0);
    }

    /// As root, which tests are run as where they mount.
    fn run(program: &str, arguments: &[&std::ffi::OsStr]) {
        let ended = std::process::Command::new(program).args(arguments).output().unwrap();
        assert!(ended.status.success(), "{program}: {} (needs root)", String::from_utf8_lossy(&ended.stderr));
    }

    #[test]
    fn what_is_mounted_in_a_tree_stays() {
        let temp = tempfile::tempdir().unwrap();
        let (other, inside) = (temp.path().join("other"), temp.path().join("tree/above/mounted"));
        std::fs::create_dir(&other).unwrap();
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::write(other.join("file"), "of another").unwrap();
        run("mount", &["--bind".as_ref(), other.as_ref(), inside.as_ref()]);
        let top = Dir::open(temp.path()).unwrap();
        let removed = top.remove_tree(&"tree".parse().unwrap());
        let left = std::fs::read_to_string(other.join("file"));
        run("umount", &[inside.as_ref()]);
        assert_eq!(removed.unwrap_err().errno(), Some(Errno::XDEV.raw_os_error()));
        assert_eq!(left.unwrap(), "of another");
        top.remove_tree(&"tree".parse().unwrap()).unwrap();
    }

    #[test]
    fn whoever_is_moved_while_the_tree_goes_is_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        for name in ["tree", "tree/below", "other"] {
            std::fs::create_dir(temp.path().join(name)).unwrap();
        }
        let top = Dir::open(temp.path()).unwrap();
        let open = |name: &str| top.open_dir(&name.parse().unwrap()).unwrap().as_fd().try_clone_to_owned().unwrap();
        let (tree, below) = (inode_of(&open("tree")).unwrap(), open("tree/below"));
        assert!(go_up(below.as_fd(), tree).is_ok());
        std::fs::rename(temp.path().join("tree/below"), temp.path().join("other/below")).unwrap();
        assert!(go_up(below.as_fd(), tree).is_err());
    }
}
