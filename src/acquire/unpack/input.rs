//! The archive's bytes as the decoders take them: buffered, counted, and a failure of the stream kept apart from what
//! a decoder makes of it.

use std::cell::Cell;
use std::io::{self, BufRead, Read};

const BUFFER: usize = 128 * 1024;

/// What is known of an [`Input`] while a decoder owns it.
#[derive(Default)]
pub(super) struct Meter {
    taken: Cell<u64>,
    failure: Cell<Option<io::Error>>,
}

impl Meter {
    /// Archive bytes handed to the decoder.
    pub(super) fn taken(&self) -> u64 {
        self.taken.get()
    }

    /// The stream failed, or is not to be read on: what a decoder is told of it.
    pub(super) fn fail(&self, error: io::Error) -> io::Error {
        let kind = error.kind();
        self.failure.set(Some(error));
        kind.into()
    }

    /// The stream's own error, if it failed.
    pub(super) fn take_failure(&self) -> Option<io::Error> {
        self.failure.take()
    }
}

/// A buffered reader that can look ahead.
pub(super) struct Input<'m, R> {
    from: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    ended: bool,
    meter: &'m Meter,
}

impl<'m, R: Read> Input<'m, R> {
    pub(super) fn new(from: R, meter: &'m Meter) -> Self {
        Self { from, buffer: vec![0; BUFFER].into(), start: 0, end: 0, ended: false, meter }
    }

    /// The next `n` bytes (at most the buffer's size) without taking them; fewer only at the end.
    pub(super) fn peek(&mut self, n: usize) -> io::Result<&[u8]> {
        if self.buffer.len() - self.start < n {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        while self.end - self.start < n && !self.ended {
            self.read_more()?;
        }
        Ok(&self.buffer[self.start..self.end.min(self.start + n)])
    }

    fn read_more(&mut self) -> io::Result<()> {
        loop {
            match self.from.read(&mut self.buffer[self.end..]) {
                Ok(n) => {
                    self.end += n;
                    self.ended = n == 0;
                    return Ok(());
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.meter.fail(e)),
            }
        }
    }
}

impl<R: Read> BufRead for Input<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end && !self.ended {
            (self.start, self.end) = (0, 0);
            self.read_more()?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, n: usize) {
        self.start += n;
        self.meter.taken.set(self.meter.taken.get() + n as u64);
    }
}

impl<R: Read> Read for Input<'_, R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let from = self.fill_buf()?;
        let n = from.len().min(to.len());
        to[..n].copy_from_slice(&from[..n]);
        self.consume(n);
        Ok(n)
    }
}
