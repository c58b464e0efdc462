//! What tests put in the way of the file system's rules: rights taken from root, and what even root may not change.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// Does it on a thread for which modes count, also where it is root's.
pub(crate) fn without_override<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let bound = || {
        let sets = capabilities(None).unwrap();
        let effective = sets.effective - (CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
        set_capabilities(None, CapabilitySets { effective, ..sets }).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(bound).join().unwrap())
}

/// A directory that nobody can change, move or remove until this is dropped.
pub(crate) struct Immutable(PathBuf);

impl Immutable {
    pub(crate) fn new(path: &Path) -> Self {
        chattr("+i", path);
        Self(path.to_owned())
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        chattr("-i", &self.0);
    }
}

/// Mounts argv[1] at argv[2] so that what belongs to user or group n is shown as that of n + 65536: a clone of the mount (428,
/// open_tree) is given the users of a namespace (442, mount_setattr) and put there (429, move_mount).
const SHIFT: &str = r#"
import ctypes, os, signal, struct, sys

libc = ctypes.CDLL(None, use_errno=True)

def call(number, *arguments):
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    found = libc.syscall(ctypes.c_long(number), *words)
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found

made, tell = os.pipe()
child = os.fork()
if child == 0:
    os.close(made)
    if libc.unshare(0x10000000) == 0:
        os.write(tell, b"x")
        signal.pause()
    os._exit(1)
os.close(tell)
try:
    assert os.read(made, 1) == b"x"
    for name in ["uid_map", "gid_map"]:
        with open(f"/proc/{child}/{name}", "w") as ids:
            ids.write("0 65536 65536")
    users = os.open(f"/proc/{child}/ns/user", os.O_RDONLY)
    tree = call(428, -100, os.fsencode(sys.argv[1]), 1)
    call(442, tree, b"", 0x1000, struct.pack("QQQQ", 0x100000, 0, 0, users), 32)
    call(429, tree, b"", -100, os.fsencode(sys.argv[2]), 4)
finally:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"#;

/// A directory as pods with users of their own have it mounted, whose root is user 65536; until this is dropped.
pub(crate) struct Shifted(PathBuf);

impl Shifted {
    pub(crate) fn new(from: &Path, to: &Path) -> Self {
        let mut python = Command::new("python3");
        assert!(python.args(["-c", SHIFT]).args([from, to]).status().unwrap().success(), "it takes root");
        Self(to.to_owned())
    }
}

impl Drop for Shifted {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(&self.0).status().unwrap().success(), "{}", self.0.display());
    }
}

fn chattr(what: &str, path: &Path) {
    assert!(Command::new("chattr").arg(what).arg(path).status().unwrap().success(), "{what} {}", path.display());
}

/// Another process with a lease on a file, which it does not give up when asked to; until this is dropped.
pub(crate) struct Leased(Child);

impl Leased {
    pub(crate) fn new(path: &Path) -> Self {
        let hold = "import fcntl, os, signal, sys\n\
                    signal.signal(signal.SIGIO, signal.SIG_IGN)\n\
                    fd = os.open(sys.argv[1], os.O_RDONLY)\n\
                    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n\
                    print('held', flush=True)\n\
                    sys.stdin.read()";
        let mut python = Command::new("python3");
        let mut child =
            python.args(["-c", hold]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        Self(child)
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}
