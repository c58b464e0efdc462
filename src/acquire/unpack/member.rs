//! The entries of a tar stream, one after the other: each with all that its header, its extended headers and the
//! archive's global one say about it, and then its content.
//!
//! What must hold: a stream that two readers could take for different trees is refused. It ends with a block of zeros,
//! and nothing but zeros follows.

use jiff::Timestamp;
use tar::{GnuExtSparseHeader, GnuHeader, Header};

use super::UnpackError;
use super::error::shown;
use super::header::{self, BLOCK, Malformed};
use super::pax::Pax;
use super::policy::Refusal;
use super::sparse::{MapReader, OldMap, Sparse, from_records};
use super::stream::{Halt, Stream};

/// The longest extended header taken: names are 4 KiB at most, extended attributes (passed over) are longer.
const LONGEST_EXTENDED: u64 = 1 << 20;

/// What an archive's entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Dir,
    File,
    Symlink {
        target: Vec<u8>,
    },
    HardLink {
        target: Vec<u8>,
    },
    /// A device or fifo, by its name.
    Special(&'static str),
}

/// One entry of an archive, nothing about it judged yet but its form.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits, setid bits among them.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    /// Bytes of the file, holes included.
    pub(crate) size: u64,
    /// Where the content belongs, if the file is sparse.
    pub(super) sparse: Option<Sparse>,
}

impl Member {
    /// Bytes of its name and of its link's target.
    pub(super) fn names(&self) -> u64 {
        let target = match &self.kind {
            Kind::Symlink { target } | Kind::HardLink { target } => target.len(),
            Kind::Dir | Kind::File | Kind::Special(_) => 0,
        };
        (self.path.len() + target) as u64
    }

    /// Whether its content is only what is stored of it, holes left out.
    pub(crate) fn is_sparse(&self) -> bool {
        self.sparse.is_some()
    }
}

/// Reads a tar stream.
pub(crate) struct Members {
    stream: Stream,
    globals: Pax,
    /// The entry last begun, for messages.
    name: Vec<u8>,
    /// Its content that was not taken yet.
    left: u64,
    /// What fills its last block.
    padding: u64,
}

/// What stands before an entry's own header.
#[derive(Default)]
struct Extended {
    pax: Option<Pax>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Extended {
    fn is_some(&self) -> bool {
        self.pax.is_some() || self.name.is_some() || self.link.is_some()
    }

    /// The name as far as it is known already.
    fn name_or(&self, header: &Header) -> Vec<u8> {
        let pax = self.pax.as_ref().and_then(|pax| pax.sparse.name.as_ref().or(pax.path.as_ref()));
        pax.or(self.name.as_ref()).cloned().unwrap_or_else(|| header::name(header))
    }

    /// Takes a `L`, `K` or `x` header's content. GNU's two may follow each other; nothing else may come twice or mix.
    fn take(&mut self, flag: u8, content: &[u8]) -> Result<(), Malformed> {
        let other_is_set = if flag == b'x' { self.is_some() } else { self.pax.is_some() };
        if other_is_set {
            return Err(Malformed::Mixed);
        }
        match flag {
            b'x' => self.pax = Some(Pax::parse(content)?),
            b'L' => set_once(&mut self.name, content)?,
            _ => set_once(&mut self.link, content)?,
        }
        Ok(())
    }
}

fn set_once(field: &mut Option<Vec<u8>>, content: &[u8]) -> Result<(), Malformed> {
    let end = content.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
    if content[..end].contains(&0) {
        return Err(Malformed::Nul);
    }
    match field.replace(content[..end].to_vec()) {
        None => Ok(()),
        Some(_) => Err(Malformed::Mixed),
    }
}

impl Members {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, globals: Pax::default(), name: Vec::new(), left: 0, padding: 0 }
    }

    /// The next entry, whatever was not taken of the last one's content passed over; `None` at the archive's end.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, UnpackError> {
        self.pass_content()?;
        let mut extended = Extended::default();
        loop {
            let Some(header) = self.header()? else {
                let dangling = extended.is_some().then(|| UnpackError::malformed(&self.name, Malformed::Dangling));
                return dangling.map_or(Ok(None), Err);
            };
            let name = extended.name_or(&header);
            let wrong = |malformed| UnpackError::malformed(&name, malformed);
            match header.as_old().linkflag[0] {
                flag @ (b'x' | b'L' | b'K') => {
                    let content = self.extended_content(&header, &name)?;
                    extended.take(flag, &content).map_err(wrong)?;
                }
                b'g' if extended.is_some() => return Err(wrong(Malformed::Mixed)),
                b'g' => {
                    let content = self.extended_content(&header, &name)?;
                    self.globals = Pax::parse_global(&content).map_err(wrong)?;
                }
                // A volume's label: GNU tar writes it where it is asked to, and extracts nothing.
                b'V' if !extended.is_some() => self.begin(&header, &name).map_err(wrong)?,
                _ => return self.member(&header, extended, name).map(Some),
            }
            self.pass_content()?;
        }
    }

    /// Up to `max` bytes of the entry's content that lie in one buffer; none when all was taken. [`Members::took`]
    /// says how many were used.
    pub(crate) fn content(&mut self, max: u64) -> Result<&[u8], UnpackError> {
        let max = max.min(self.left);
        let piece = self.stream.peek(max).map_err(|halt| halt.within(&self.name))?;
        if piece.is_empty() && max > 0 {
            return Err(Halt::Ended.within(&self.name));
        }
        Ok(piece)
    }

    /// Whether the file may have so many bytes of holes besides what it says is stored of it.
    pub(super) fn check_holes(&self, holes: u64) -> Result<(), Refusal> {
        self.stream.check_holes(self.left, holes)
    }

    /// Whether the file may have so many bytes of holes by what of the archive has come so far.
    pub(super) fn check_holes_so_far(&self, holes: u64) -> Result<(), UnpackError> {
        self.stream.check_holes(0, holes).map_err(|refusal| UnpackError::refused(&self.name, refusal))
    }

    /// Counts the holes of a file whose content was taken.
    pub(super) fn count_holes(&mut self, holes: u64) -> Result<(), Refusal> {
        self.stream.count(holes)
    }

    /// `n` bytes of what [`Members::content`] gave are done with.
    pub(crate) fn took(&mut self, n: usize) {
        self.stream.take(n);
        self.left -= n as u64;
    }

    fn pass_content(&mut self) -> Result<(), UnpackError> {
        let rest = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        self.stream.skip(rest).map_err(|halt| halt.within(&self.name))
    }

    /// The next header block; `None` at the end, which is checked to be one.
    fn header(&mut self) -> Result<Option<Header>, UnpackError> {
        let mut header = header::empty();
        let length = self.stream.read(header.as_mut_bytes()).map_err(|halt| halt.within(&self.name))?;
        if length < BLOCK {
            let place =
                format!("after entry `{}`: the block that marks an archive's end is missing", shown(&self.name));
            return Err(UnpackError::Truncated { place: place.into() });
        }
        if header::is_zero(header.as_bytes()) {
            return self.only_zeros().map(|()| None);
        }
        if !header::checksum_holds(header.as_bytes()) {
            return Err(UnpackError::malformed(&header::name(&header), Malformed::Checksum));
        }
        Ok(Some(header))
    }

    fn only_zeros(&mut self) -> Result<(), UnpackError> {
        loop {
            let rest = self.stream.peek(u64::MAX).map_err(|halt| halt.within(&self.name))?;
            if rest.is_empty() {
                return Ok(());
            }
            if !header::is_zero(rest) {
                return Err(UnpackError::TrailingBytes { entry: shown(&self.name) });
            }
            let n = rest.len();
            self.stream.take(n);
        }
    }

    /// Starts an entry whose content is as long as its header says.
    fn begin(&mut self, header: &Header, name: &[u8]) -> Result<(), Malformed> {
        let size = header::unsigned("size", &header.as_old().size)?;
        self.begin_sized(size, name)
    }

    fn begin_sized(&mut self, size: u64, name: &[u8]) -> Result<(), Malformed> {
        self.name = name.to_vec();
        self.left = size;
        self.padding = size.checked_next_multiple_of(BLOCK as u64).ok_or(Malformed::Number { field: "size" })? - size;
        Ok(())
    }

    /// All content of an extended header.
    fn extended_content(&mut self, header: &Header, name: &[u8]) -> Result<Vec<u8>, UnpackError> {
        let wrong = |malformed| UnpackError::malformed(name, malformed);
        self.begin(header, name).map_err(wrong)?;
        if self.left > LONGEST_EXTENDED {
            return Err(wrong(Malformed::TooLong));
        }
        let mut content = Vec::new();
        loop {
            let piece = self.content(u64::MAX)?;
            if piece.is_empty() {
                return Ok(content);
            }
            content.extend_from_slice(piece);
            let n = piece.len();
            self.took(n);
        }
    }

    /// The entry that `header` is about.
    fn member(&mut self, header: &Header, extended: Extended, path: Vec<u8>) -> Result<Member, UnpackError> {
        let wrong = |malformed| UnpackError::malformed(&path, malformed);
        let pax = extended.pax.unwrap_or_default();
        if pax.has_two_names() {
            return Err(wrong(Malformed::Twice { key: "path".into() }));
        }
        let stored = stored_size(header, &pax).map_err(wrong)?;
        let link = pax.linkpath.clone().or(extended.link);
        let kind = kind(header, &path, link).map_err(wrong)?;
        let is_sparse = header.as_old().linkflag[0] == b'S' || pax.sparse.is_some();
        if kind != Kind::File && (stored > 0 || is_sparse) {
            return Err(wrong(Malformed::Content));
        }
        let (mode, uid, gid, mtime) = self.metadata(header, &pax).map_err(wrong)?;
        self.begin_sized(stored, &path).map_err(wrong)?;
        let sparse = if is_sparse { Some(self.sparse(header, &pax)?) } else { None };
        let size = sparse.as_ref().map_or(stored, |sparse| sparse.size);
        Ok(Member { path, kind, mode, uid, gid, mtime, size, sparse })
    }

    fn metadata(&self, header: &Header, pax: &Pax) -> Result<(u32, u32, u32, Timestamp), Malformed> {
        let old = header.as_old();
        let mode = header::number("mode", &old.mode)? & 0o7777;
        let own = |id: Option<u32>, field, bytes| id.map_or_else(|| header::owner(field, bytes), Ok);
        let uid = own(pax.uid.or(self.globals.uid), "uid", &old.uid)?;
        let gid = own(pax.gid.or(self.globals.gid), "gid", &old.gid)?;
        let (seconds, nanos) = match pax.mtime.or(self.globals.mtime) {
            Some(mtime) => mtime,
            None => (header::number("mtime", &old.mtime)?, 0),
        };
        let mtime = Timestamp::from_nanosecond(i128::from(seconds) * 1_000_000_000 + i128::from(nanos))
            .map_err(|_| Malformed::Number { field: "mtime" })?;
        let mode = u32::try_from(mode).map_err(|_| Malformed::Number { field: "mode" })?;
        Ok((mode, uid, gid, mtime))
    }

    /// The map of a sparse file, wherever its format has it; what is left of the content are the stored parts.
    fn sparse(&mut self, header: &Header, pax: &Pax) -> Result<Sparse, UnpackError> {
        let records = &pax.sparse;
        let is_old = header.as_old().linkflag[0] == b'S';
        match (is_old, records.major, records.minor) {
            (true, ..) if records.is_some() => Err(self.wrong(Malformed::Mixed)),
            (true, ..) => self.map_in_headers(header.as_gnu().ok_or_else(|| self.wrong(Malformed::Sparse))?),
            // Some readers take the map of the older formats where there is one, some that of the content.
            (false, Some(1), Some(0)) if records.has_map() => Err(self.wrong(Malformed::Mixed)),
            (false, Some(1), Some(0)) => {
                let size = records.size.ok_or_else(|| self.wrong(Malformed::Map))?;
                self.map_in_content(size)
            }
            (false, None | Some(0), None | Some(0 | 1)) => {
                from_records(records, self.left).map_err(|malformed| self.wrong(malformed))
            }
            _ => Err(self.wrong(Malformed::Sparse)),
        }
    }

    fn map_in_headers(&mut self, header: &GnuHeader) -> Result<Sparse, UnpackError> {
        let mut map = OldMap::default();
        let mut goes_on = map.push(&header.sparse, header.isextended).map_err(|malformed| self.wrong(malformed))?;
        while goes_on {
            let mut block = GnuExtSparseHeader::new();
            self.block(block.as_mut_bytes())?;
            goes_on = map.push(&block.sparse, block.isextended).map_err(|malformed| self.wrong(malformed))?;
        }
        map.finish(header, self.left).map_err(|malformed| self.wrong(malformed))
    }

    fn map_in_content(&mut self, size: u64) -> Result<Sparse, UnpackError> {
        let mut map = MapReader::default();
        let mut block = [0; BLOCK];
        loop {
            self.left = self.left.checked_sub(BLOCK as u64).ok_or_else(|| self.wrong(Malformed::Map))?;
            self.block(&mut block)?;
            if map.push(&block).map_err(|malformed| self.wrong(malformed))? {
                return map.finish(size, self.left).map_err(|malformed| self.wrong(malformed));
            }
        }
    }

    /// Reads a block that belongs to the entry.
    fn block(&mut self, to: &mut [u8; BLOCK]) -> Result<(), UnpackError> {
        match self.stream.read(to) {
            Ok(BLOCK) => Ok(()),
            Ok(_) => Err(Halt::Ended.within(&self.name)),
            Err(halt) => Err(halt.within(&self.name)),
        }
    }

    fn wrong(&self, malformed: Malformed) -> UnpackError {
        UnpackError::malformed(&self.name, malformed)
    }
}

/// Bytes of content in the archive. An extended header may say it only where the header cannot, or says the same.
fn stored_size(header: &Header, pax: &Pax) -> Result<u64, Malformed> {
    const LARGEST_OCTAL: u64 = 0o77_777_777_777;
    let said = header::unsigned("size", &header.as_old().size)?;
    match pax.size {
        Some(extended) if extended != said && extended <= LARGEST_OCTAL => {
            Err(Malformed::Size { header: said, extended })
        }
        Some(extended) => Ok(extended),
        None => Ok(said),
    }
}

fn kind(header: &Header, path: &[u8], link: Option<Vec<u8>>) -> Result<Kind, Malformed> {
    let target = || link.unwrap_or_else(|| header::text(&header.as_old().linkname).to_vec());
    let kind = match header.as_old().linkflag[0] {
        // Before POSIX a directory was a file whose name ends in a slash.
        0 if path.ends_with(b"/") => Kind::Dir,
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink { target: target() },
        b'2' => Kind::Symlink { target: target() },
        b'3' => Kind::Special("character device"),
        b'4' => Kind::Special("block device"),
        b'5' => Kind::Dir,
        b'6' => Kind::Special("fifo"),
        flag => return Err(Malformed::Type { flag }),
    };
    if kind != Kind::Dir && path.ends_with(b"/") { Err(Malformed::Slash) } else { Ok(kind) }
}
