//! Maps of sparse files, in the four forms that GNU tar has had: which parts of a file are stored, all else is zeros.
//! Pure.

use tar::{GnuHeader, GnuSparseHeader};

use super::header::{BLOCK, Malformed, text, unsigned};
use super::pax::{PaxSparse, decimal};

/// More stored parts than a real file has: 4 MiB of map.
const MOST_EXTENTS: usize = 256 * 1024;

/// A stored part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// A sparse file: its size and its stored parts, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sparse {
    pub(super) size: u64,
    pub(super) extents: Vec<Extent>,
}

impl Sparse {
    /// Bytes that are not stored.
    pub(super) fn holes(&self) -> u64 {
        self.size - self.extents.iter().map(|extent| extent.length).sum::<u64>()
    }

    /// Checks that the parts stand in order within `size` and are exactly the `stored` bytes. Only the last part may
    /// end within a block: readers differ on whether the next one starts there or at the next block.
    pub(super) fn new(size: u64, extents: Vec<Extent>, stored: u64) -> Result<Self, Malformed> {
        let mut end = 0u64;
        let mut sum = 0u64;
        let mut aligned = true;
        for extent in &extents {
            let ordered = extent.offset >= end && (aligned || extent.length == 0);
            end = extent.offset.checked_add(extent.length).filter(|_| ordered).ok_or(Malformed::Map)?;
            sum = sum.checked_add(extent.length).ok_or(Malformed::Map)?;
            aligned &= extent.length % BLOCK as u64 == 0;
        }
        if end > size || sum != stored { Err(Malformed::Map) } else { Ok(Self { size, extents }) }
    }
}

/// The map of the old GNU format: four parts in the header, more in blocks that follow it.
#[derive(Debug, Default)]
pub(super) struct OldMap {
    extents: Vec<Extent>,
    ended: bool,
}

impl OldMap {
    /// Takes a header's or block's parts; an unused one ends the map. Whether a block with more of them follows, as
    /// `extended` says: refused is what readers differ on, where another mark than 0 and 1 is set, or the map has ended.
    pub(super) fn push(&mut self, parts: &[GnuSparseHeader], extended: [u8; 1]) -> Result<bool, Malformed> {
        for part in parts {
            // Some readers look at the one for an unused part, some at the other.
            match (text(&part.offset).is_empty(), text(&part.numbytes).is_empty()) {
                (true, true) => self.ended = true,
                (false, false) if !self.ended => self.add(part)?,
                _ => return Err(Malformed::Map),
            }
        }
        match extended {
            [0] => Ok(false),
            [1] if !self.ended => Ok(true),
            _ => Err(Malformed::Map),
        }
    }

    fn add(&mut self, part: &GnuSparseHeader) -> Result<(), Malformed> {
        if self.extents.len() == MOST_EXTENTS {
            return Err(Malformed::TooLong);
        }
        let offset = unsigned("sparse map", &part.offset)?;
        self.extents.push(Extent { offset, length: unsigned("sparse map", &part.numbytes)? });
        Ok(())
    }

    /// The file, once all of the map was taken.
    pub(super) fn finish(self, header: &GnuHeader, stored: u64) -> Result<Sparse, Malformed> {
        Sparse::new(unsigned("real size", &header.realsize)?, self.extents, stored)
    }
}

/// The file of format 0.0 or 0.1, whose map stands in the extended header.
pub(super) fn from_records(records: &PaxSparse, stored: u64) -> Result<Sparse, Malformed> {
    let extents = match &records.map {
        Some(map) if records.extents.is_empty() => map.clone(),
        Some(_) => return Err(Malformed::Mixed),
        None => records.extents.clone(),
    };
    if records.blocks.is_some_and(|blocks| blocks != extents.len() as u64) {
        return Err(Malformed::Map);
    }
    Sparse::new(records.size.ok_or(Malformed::Map)?, extents, stored)
}

/// The map of format 1.0: decimal lines at the head of the content, in whole blocks. The first is how many parts.
#[derive(Debug, Default)]
pub(super) struct MapReader {
    parts: Option<u64>,
    line: Option<u64>,
    offset: Option<u64>,
    extents: Vec<Extent>,
}

impl MapReader {
    /// Takes one block; `true` when it was the last one of the map.
    pub(super) fn push(&mut self, block: &[u8; BLOCK]) -> Result<bool, Malformed> {
        for &byte in block {
            match byte {
                b'\n' => {
                    let number = self.line.take().ok_or(Malformed::Map)?;
                    if self.take(number)? {
                        return Ok(true);
                    }
                }
                _ => {
                    let digit = decimal(&[byte]).ok_or(Malformed::Map)?;
                    let number = self.line.unwrap_or(0).checked_mul(10).and_then(|n| n.checked_add(digit));
                    self.line = Some(number.ok_or(Malformed::Map)?);
                }
            }
        }
        Ok(false)
    }

    fn take(&mut self, number: u64) -> Result<bool, Malformed> {
        match (self.parts, self.offset.take()) {
            (None, _) if number > MOST_EXTENTS as u64 => return Err(Malformed::TooLong),
            (None, _) => self.parts = Some(number),
            (Some(_), None) => self.offset = Some(number),
            (Some(_), Some(offset)) => self.extents.push(Extent { offset, length: number }),
        }
        Ok(self.offset.is_none() && self.parts == Some(self.extents.len() as u64))
    }

    /// The file, once all of the map was taken; `stored` is the content without the map.
    pub(super) fn finish(self, size: u64, stored: u64) -> Result<Sparse, Malformed> {
        Sparse::new(size, self.extents, stored)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn extents(parts: &[(u64, u64)]) -> Vec<Extent> {
        parts.iter().map(|&(offset, length)| Extent { offset, length }).collect()
    }

    #[test]
    fn a_map_must_fit_its_sizes() {
        for (size, parts, stored) in [
            (0, &[][..], 0),
            (1 << 40, &[(0, 512), (1 << 30, 512)], 1024),
            (1100, &[(512, 512), (1024, 76), (1100, 0)], 588),
        ] {
            assert!(Sparse::new(size, extents(parts), stored).is_ok(), "{parts:?}");
        }
        for (size, parts, stored) in [
            (1024, &[(512, 512), (0, 512)][..], 1024),
            (1024, &[(0, 1024), (512, 512)], 1536),
            (1000, &[(0, 512), (512, 512)], 1024),
            (4096, &[(0, 100), (512, 512)], 612),
            (4096, &[(0, 512)], 1024),
            (u64::MAX, &[(u64::MAX, 2)], 2),
        ] {
            assert_eq!(Sparse::new(size, extents(parts), stored), Err(Malformed::Map), "{parts:?}");
        }
    }

    proptest! {
        #[test]
        fn a_written_map_is_read_whole_blocks_at_a_time(parts in proptest::collection::vec((any::<u32>(), any::<u32>()), 0..200)) {
            let parts: Vec<_> = parts.iter().map(|&(offset, length)| (u64::from(offset), u64::from(length))).collect();
            let mut text = format!("{}\n", parts.len());
            for (offset, length) in &parts {
                text += &format!("{offset}\n{length}\n");
            }
            let mut bytes = text.into_bytes();
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
            let mut reader = MapReader::default();
            let (blocks, _) = bytes.as_chunks::<BLOCK>();
            for (i, block) in blocks.iter().enumerate() {
                prop_assert_eq!(reader.push(block).unwrap(), i + 1 == blocks.len());
            }
            prop_assert_eq!(reader.extents, extents(&parts));
        }
    }
}
