//! One file's bytes: hashed and written as they come, and on their way to the disk while more are decoded.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use sha2::{Digest as _, Sha256};

use super::UnpackError;
use super::member::Members;
use super::sparse::{Extent, Sparse};
use crate::acquire::Progress;
use crate::fs::{self, RelPath};

/// After so many bytes the disk is asked to take them: what is still to be written at the end, when the version is made
/// durable, is waited for.
const SENT_OUT: u64 = 8 << 20;
/// A file this large has room set aside for it (it saves 1 to 3 % of a warm-up on ext4), ...
const LARGE: u64 = 8 << 20;
/// ... so far ahead of its bytes: a header that lies takes no more.
const AHEAD: u64 = 64 << 20;

static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Room set aside and not written to yet; given up, it goes with the file.
struct Aside<'a> {
    progress: &'a Progress,
    bytes: u64,
}

impl Aside<'_> {
    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.progress.add_aside(bytes);
    }

    fn end(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.progress.end_aside(bytes);
    }
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        self.end(u64::MAX);
    }
}

/// A file being written.
pub(super) struct Output<'a> {
    file: File,
    path: &'a RelPath,
    hasher: Sha256,
    progress: &'a Progress,
    /// Up to where room is to be set aside.
    size: u64,
    aside: Aside<'a>,
    /// Bytes written one after the other.
    written: u64,
    /// How many of them the disk was asked to take.
    sent_out: u64,
}

impl<'a> Output<'a> {
    /// To a file that has room set aside for `size` bytes where that is many; 0 where nobody knows, or it is not to be.
    pub(super) fn new(file: File, path: &'a RelPath, size: u64, progress: &'a Progress) -> Self {
        let aside = Aside { progress, bytes: 0 };
        Self { file, path, hasher: Sha256::new(), progress, size, aside, written: 0, sent_out: 0 }
    }

    /// The file, and the digest of all it holds.
    pub(super) fn finish(self) -> (File, [u8; 32]) {
        (self.file, self.hasher.finalize().into())
    }

    fn failed(&self, source: std::io::Error) -> UnpackError {
        fs::Error::new("write", self.path.as_path(), source).into()
    }

    /// Writes what comes next.
    pub(super) fn take(&mut self, piece: &[u8]) -> Result<(), UnpackError> {
        self.hasher.update(piece);
        self.set_room_aside();
        self.file.write_all(piece).map_err(|e| self.failed(e))?;
        self.written += piece.len() as u64;
        if self.written - self.sent_out >= SENT_OUT {
            fs::begin_write_out(&self.file, self.sent_out, self.written - self.sent_out);
            self.sent_out = self.written;
        }
        self.progress.add_unpacked(piece.len() as u64);
        self.aside.end(piece.len() as u64);
        Ok(())
    }

    /// It counts as taken before the disk has less room.
    fn set_room_aside(&mut self) {
        if self.size >= LARGE && self.aside.bytes == 0 && self.written < self.size {
            let length = (self.size - self.written).min(AHEAD);
            self.aside.add(length);
            if !fs::set_room_aside(&self.file, self.written, length) {
                self.aside.end(length);
                self.size = 0;
            }
        }
    }

    /// Writes all that the entry has.
    pub(super) fn take_all(&mut self, content: &mut Members) -> Result<(), UnpackError> {
        loop {
            let piece = content.content(u64::MAX)?;
            if piece.is_empty() {
                return Ok(());
            }
            self.take(piece)?;
            let n = piece.len();
            content.took(n);
        }
    }

    /// Writes the stored parts where they belong; what is between them stays a hole, and counts as zeros.
    ///
    /// What an archive only says to store pays for no hole: from one on that is too large for what came before it, the
    /// file is hashed once all that is stored is there.
    pub(super) fn take_sparse(
        &mut self,
        sparse: &Sparse,
        content: &mut Members,
        abort: &AtomicBool,
    ) -> Result<(), UnpackError> {
        self.file.set_len(sparse.size).map_err(|e| self.failed(e))?;
        let (mut at, mut holes, mut hashed) = (0, 0, 0);
        let mut waiting: Option<&[Extent]> = None;
        for (number, extent) in sparse.extents.iter().enumerate() {
            holes += extent.offset - at;
            if waiting.is_none() && content.check_holes_so_far(holes).is_err() {
                waiting = Some(&sparse.extents[number..]);
            }
            if waiting.is_none() {
                self.pass_hole(extent.offset - at, abort)?;
                hashed = extent.offset + extent.length;
            }
            at = extent.offset;
            let end = extent.offset + extent.length;
            while at < end {
                let piece = content.content(end - at)?;
                if waiting.is_none() {
                    self.hasher.update(piece);
                }
                self.file.write_all_at(piece, at).map_err(|e| self.failed(e))?;
                self.progress.add_unpacked(piece.len() as u64);
                at += piece.len() as u64;
                let n = piece.len();
                content.took(n);
            }
        }
        content.check_holes_so_far(sparse.holes())?;
        for extent in waiting.unwrap_or_default() {
            self.pass_hole(extent.offset - hashed, abort)?;
            self.hash_written(extent, abort)?;
            hashed = extent.offset + extent.length;
        }
        self.pass_hole(sparse.size - hashed, abort)
    }

    /// It takes no room on the disk, so it does not count as unpacked.
    fn pass_hole(&mut self, length: u64, abort: &AtomicBool) -> Result<(), UnpackError> {
        let mut left = length;
        while left > 0 {
            check(abort)?;
            let piece = usize::try_from(left).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
            self.hasher.update(&ZEROS[..piece]);
            left -= piece as u64;
        }
        Ok(())
    }

    fn hash_written(&mut self, extent: &Extent, abort: &AtomicBool) -> Result<(), UnpackError> {
        let mut buffer = vec![0; ZEROS.len()];
        let (mut at, end) = (extent.offset, extent.offset + extent.length);
        while at < end {
            check(abort)?;
            let length = usize::try_from(end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
            let piece = &mut buffer[..length];
            self.file.read_exact_at(piece, at).map_err(|e| fs::Error::new("read", self.path.as_path(), e))?;
            self.hasher.update(piece);
            at += length as u64;
        }
        Ok(())
    }
}

/// Holes are long without a byte of the archive: what reads that cannot tell then that all of it is to end.
fn check(abort: &AtomicBool) -> Result<(), UnpackError> {
    if abort.load(Relaxed) { Err(UnpackError::Read { source: ErrorKind::Interrupted.into() }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn room_is_set_aside_for_a_large_file_and_never_far_ahead() {
        let (path, progress): (RelPath, _) = ("file".parse().unwrap(), Progress::default());
        let aside = |size| {
            let file = tempfile::tempfile().unwrap();
            let mut out = Output::new(file, &path, size, &progress);
            out.take(&[1; 4096]).unwrap();
            let meta = out.file.metadata().unwrap();
            assert_eq!(meta.len(), 4096, "of {size}");
            let (taken, told) = (meta.blocks() * 512, progress.snapshot().aside_bytes);
            assert!(told <= taken && taken - told < 1 << 20, "{told} of {taken}");
            drop(out);
            assert_eq!(progress.snapshot().aside_bytes, 0);
            taken
        };
        assert!(aside(LARGE - 1) < 1 << 20);
        assert!((LARGE..2 * LARGE).contains(&aside(LARGE)));
        assert!((AHEAD..2 * AHEAD).contains(&aside(u64::MAX)));
    }
}
