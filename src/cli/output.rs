//! Standard output as commands see it, and what is known of the terminals.

use std::io::{self, IsTerminal as _, Write};

/// Standard output. A reader that closes its end (`| head`) is no failure: the rest is dropped quietly, so that the
/// command still ends with the code that it earned.
pub(super) struct Output<W = io::StdoutLock<'static>> {
    to: W,
    closed: bool,
    width: Option<u16>,
}

impl Output {
    /// Standard output, locked.
    pub(super) fn stdout() -> Self {
        let to = io::stdout().lock();
        // A pipe has no width: nothing is wrapped there, so that lines stay whole for the next program.
        let width =
            if to.is_terminal() { rustix::termios::tcgetwinsize(&to).map(|size| size.ws_col).ok() } else { None };
        Self::new(to, width.filter(|&columns| columns > 0))
    }
}

impl<W> Output<W> {
    /// What writes to `to`, a terminal of so many columns.
    pub(super) fn new(to: W, width: Option<u16>) -> Self {
        Self { to, closed: false, width }
    }

    /// The reader is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Columns of the terminal; `None` when it is none.
    pub(super) fn width(&self) -> Option<u16> {
        self.width
    }

    /// The result of a write, with a closed pipe taken as done.
    fn quiet<T>(&mut self, result: io::Result<T>, done: T) -> io::Result<T> {
        match result {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(done)
            }
            other => other,
        }
    }
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.closed {
            return Ok(bytes.len());
        }
        let written = self.to.write(bytes);
        self.quiet(written, bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.closed {
            return Ok(());
        }
        let flushed = self.to.flush();
        self.quiet(flushed, ())
    }
}

/// Whether standard error is a terminal.
pub(super) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Whether standard error may be coloured.
pub(super) fn stderr_has_colours() -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    stderr_is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Fails each write with one kind of error.
    struct Failing(io::ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn a_closed_pipe_is_quiet_and_a_full_disk_is_not() {
        let mut closed = Output::new(Failing(io::ErrorKind::BrokenPipe), None);
        writeln!(closed, "one").unwrap();
        assert!(closed.is_closed());
        closed.flush().unwrap();

        let mut full = Output::new(Failing(io::ErrorKind::StorageFull), None);
        assert_eq!(writeln!(full, "one").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(!full.is_closed());
    }
}
