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
