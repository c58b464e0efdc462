//! Between the kernel and the server: requests pass until the power goes, and fail from then on. What `fuser` does not
//! know, FUSE_SYNCFS, is answered here.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::model::Disk;
use super::server::lock;

/// Bytes of the longest message either way, and more.
const MESSAGE: usize = 256 * 1024;
/// Of a request: length, operation, number.
const HEAD: usize = 16;

const FORGET: u32 = 2;
const INTERRUPT: u32 = 36;
const DESTROY: u32 = 38;
const BATCH_FORGET: u32 = 42;
const SYNCFS: u32 = 50;
/// What changes something or makes it durable: SETATTR, SYMLINK, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, WRITE, FSYNC,
/// SETXATTR, REMOVEXATTR, FSYNCDIR, CREATE, FALLOCATE, RENAME2, SYNCFS.
const CHANGES: [u32; 17] = [4, 6, 8, 9, 10, 11, 12, 13, 16, 20, 21, 24, 30, 35, 43, 45, SYNCFS];

/// Whether there is power, and until when.
pub(super) struct Power {
    pub(super) is_cut: AtomicBool,
    /// Changes until it goes.
    left: AtomicI64,
    /// Changes so far.
    pub(super) changes: AtomicU64,
    /// Of them syncfs.
    pub(super) syncfs: AtomicU64,
}

impl Power {
    pub(super) fn on() -> Self {
        let left = AtomicI64::new(i64::MAX);
        Self { is_cut: AtomicBool::new(false), left, changes: AtomicU64::new(0), syncfs: AtomicU64::new(0) }
    }

    /// It goes before the change after so many.
    pub(super) fn cut_after(&self, changes: u64) {
        self.left.store(i64::try_from(changes).unwrap(), SeqCst);
    }

    fn passes(&self, operation: u32) -> bool {
        if CHANGES.contains(&operation) {
            if self.left.fetch_sub(1, SeqCst) <= 0 {
                self.is_cut.store(true, SeqCst);
            } else {
                self.changes.fetch_add(1, SeqCst);
                self.syncfs.fetch_add(u64::from(operation == SYNCFS), SeqCst);
            }
        }
        !self.is_cut.load(SeqCst)
    }
}

/// Starts passing on what comes from the kernel; gives the server's end. It ends with the mount.
pub(super) fn between(kernel: File, power: Arc<Power>, disk: Arc<Mutex<Disk>>) -> OwnedFd {
    let (ours, servers) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let (kernel, ours) = (Arc::new(kernel), Arc::new(File::from(ours)));
    std::thread::spawn({
        let (kernel, ours) = (kernel.clone(), ours.clone());
        move || {
            requests(&kernel, &ours, &power, &disk);
            // Whoever waits for a request is told that there is none any more.
            let _ = rustix::net::shutdown(&*ours, rustix::net::Shutdown::Both);
        }
    });
    std::thread::spawn(move || answers(&kernel, &ours));
    servers
}

fn requests(mut kernel: &File, mut server: &File, power: &Power, disk: &Mutex<Disk>) {
    let mut message = vec![0; MESSAGE];
    loop {
        let read = match kernel.read(&mut message) {
            Ok(read) => read,
            Err(error) => match Errno::from_io_error(&error) {
                // The first is: not mounted yet. The last: a request that was taken back meanwhile.
                Some(Errno::PERM | Errno::INTR | Errno::AGAIN | Errno::NOENT) => continue,
                _ => return,
            },
        };
        let word = |at: usize| u32::from_le_bytes(message[at..at + 4].try_into().unwrap());
        let operation = word(4);
        if matches!(operation, FORGET | BATCH_FORGET | INTERRUPT) {
            continue;
        }
        let passes = power.passes(operation) || operation == DESTROY;
        let answered = match operation {
            SYNCFS if passes => {
                lock(disk).sync_all();
                answer(kernel, &message, 0)
            }
            _ if passes => server.write_all(&message[..read]),
            _ => answer(kernel, &message, -Errno::IO.raw_os_error()),
        };
        if answered.is_err() {
            return;
        }
    }
}

/// An answer that is no more than an error or none.
fn answer(mut kernel: &File, request: &[u8], error: i32) -> std::io::Result<()> {
    let answer = [&(HEAD as u32).to_le_bytes()[..], &error.to_le_bytes(), &request[8..HEAD]].concat();
    match kernel.write_all(&answer) {
        // Whoever asked is gone.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn answers(mut kernel: &File, mut server: &File) {
    let mut message = vec![0; MESSAGE];
    while let Ok(read @ 1..) = server.read(&mut message) {
        // One that nobody waits for any more is refused, and that is that.
        let _ = kernel.write_all(&message[..read]);
    }
}
