//! What a disk with a volatile cache holds after its power went: all that was written before the last flush and, of what
//! came after it, what chance has it. qemu's `blklogwrites` has put each write and flush on record, in the format of Linux's
//! dm-log-writes: a head, then for each its own head of a sector and its data.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

const SECTOR: u64 = 512;
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;
/// So many bytes are written as a whole or not at all.
const WHOLE: u64 = 4096;

/// What a loss took.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
pub(crate) struct Taken {
    /// Pieces that were written and not flushed,
    pub(crate) unflushed: u64,
    /// and those of them that are lost.
    pub(crate) lost: u64,
}

/// A write on record.
#[derive(Debug, Clone, Copy)]
struct Write {
    /// Where on the disk,
    at: u64,
    /// where in the record,
    from: u64,
    bytes: u64,
}

/// Brings a disk from what it was when the record began to what it holds now; `keep` says which of the pieces are there that
/// nothing has flushed.
pub(crate) fn after_loss(record: &File, disk: &File, mut keep: impl FnMut() -> bool) -> io::Result<Taken> {
    let (writes, flushed) = read(record)?;
    for write in &writes[..flushed] {
        copy(record, disk, *write)?;
    }
    let mut taken = Taken::default();
    for piece in writes[flushed..].iter().flat_map(pieces) {
        taken.unflushed += 1;
        if keep() {
            copy(record, disk, piece)?;
        } else {
            taken.lost += 1;
        }
    }
    Ok(taken)
}

/// All writes, and how many of them were flushed.
fn read(record: &File) -> io::Result<(Vec<Write>, usize)> {
    let broken = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("the record of writes {what}"));
    let words = |at: u64| -> io::Result<Option<[u64; 4]>> {
        let mut bytes = [0; 32];
        match record.read_exact_at(&mut bytes, at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
        }
        Ok(Some(words))
    };
    let end = record.metadata()?.len();
    let [magic, version, count, sector] = words(0)?.ok_or_else(|| broken("is empty"))?;
    if (magic, version, sector) != (MAGIC, 1, SECTOR) {
        return Err(broken("is of another kind"));
    }
    let (mut writes, mut flushed, mut entries, mut at) = (Vec::new(), 0, 0, SECTOR);
    while let Some([sector, sectors, flags, _]) = words(at)? {
        if sectors == 0 && flags == 0 {
            // The power went while this one was put on record: it had not ended.
            break;
        }
        let (from, bytes) = (at + SECTOR, sectors * SECTOR);
        at = from;
        if flags & DISCARD == 0 && bytes > 0 {
            if from + bytes > end {
                break;
            }
            writes.push(Write { at: sector * SECTOR, from, bytes });
            at += bytes;
        }
        entries += 1;
        if flags & FLUSH != 0 {
            flushed = writes.len();
        }
    }
    // The head counts what there was at the last flush.
    if entries < count {
        Err(broken(&format!("has {entries} entries where there were {count}")))
    } else {
        Ok((writes, flushed))
    }
}

/// What of a write is on the disk as a whole or not at all.
fn pieces(write: &Write) -> impl Iterator<Item = Write> + use<> {
    let Write { at, from, bytes } = *write;
    let mut done = 0;
    std::iter::from_fn(move || {
        let here = at + done;
        let piece = (WHOLE - here % WHOLE).min(bytes - done);
        let of = Write { at: here, from: from + done, bytes: piece };
        done += piece;
        (piece > 0).then_some(of)
    })
}

fn copy(record: &File, disk: &File, write: Write) -> io::Result<()> {
    let mut bytes = vec![0; usize::try_from(write.bytes).expect("a write is small")];
    record.read_exact_at(&mut bytes, write.from)?;
    disk.write_all_at(&bytes, write.at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of writes (sector, content) and flushes (nothing).
    fn record(entries: &[Option<(u64, &[u8])>]) -> File {
        let mut bytes = [MAGIC, 1, entries.len() as u64, SECTOR].map(u64::to_le_bytes).concat();
        bytes.resize(SECTOR as usize, 0);
        for entry in entries {
            let (sector, data, flags) = entry.map_or((0, &[][..], FLUSH), |(sector, data)| (sector, data, 0));
            let start = bytes.len();
            bytes.extend([sector, data.len() as u64 / SECTOR, flags, 0].map(u64::to_le_bytes).concat());
            bytes.resize(start + SECTOR as usize, 0);
            bytes.extend(data);
        }
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        file
    }

    fn disk(len: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        file
    }

    fn sector(disk: &File, at: u64) -> u8 {
        let mut bytes = [0; SECTOR as usize];
        disk.read_exact_at(&mut bytes, at * SECTOR).unwrap();
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "it is of one content");
        bytes[0]
    }

    #[test]
    fn what_was_flushed_is_there_and_the_rest_by_chance() {
        let one = |byte: u8| vec![byte; SECTOR as usize];
        let (a, b, c, long) = (one(1), one(2), one(3), vec![4; 3 * WHOLE as usize]);
        let record = record(&[Some((0, &a)), None, Some((0, &b)), Some((1, &c)), Some((12, &long))]);
        let none = disk(1 << 16);
        // The long one begins in the midst of a piece.
        assert_eq!(after_loss(&record, &none, || false).unwrap(), Taken { unflushed: 6, lost: 6 });
        assert_eq!([0, 1, 12].map(|at| sector(&none, at)), [1, 0, 0]);
        let all = disk(1 << 16);
        assert_eq!(after_loss(&record, &all, || true).unwrap(), Taken { unflushed: 6, lost: 0 });
        assert_eq!([0, 1, 12, 35, 36].map(|at| sector(&all, at)), [2, 3, 4, 4, 0]);
        let (some, mut turn) = (disk(1 << 16), 0);
        let keep = || {
            turn += 1;
            turn % 2 == 0
        };
        assert_eq!(after_loss(&record, &some, keep).unwrap(), Taken { unflushed: 6, lost: 3 });
        assert_eq!([0, 1, 12, 15, 16, 24, 32, 35].map(|at| sector(&some, at)), [1, 3, 0, 0, 4, 0, 4, 4]);
    }

    #[test]
    fn a_record_that_lacks_what_was_flushed_is_an_error() {
        let record = record(&[Some((0, &[1; SECTOR as usize])), None]);
        record.set_len(SECTOR).unwrap();
        let error = after_loss(&record, &disk(1 << 12), || true).unwrap_err();
        assert!(error.to_string().contains("0 entries where there were 2"), "{error}");
    }

    #[test]
    fn what_was_being_recorded_is_lost() {
        let a = [1; SECTOR as usize];
        let record = record(&[Some((0, &a)), None, Some((1, &a))]);
        let len = record.metadata().unwrap().len();
        record.set_len(len - 1).unwrap();
        // The head was written at the flush.
        record.write_all_at(&2_u64.to_le_bytes(), 16).unwrap();
        let disk = disk(1 << 12);
        assert_eq!(after_loss(&record, &disk, || true).unwrap(), Taken::default());
        assert_eq!([0, 1].map(|at| sector(&disk, at)), [1, 0]);
    }
}
