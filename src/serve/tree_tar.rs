//! A version's tree as a tar stream, made from the manifest while it is read: nothing is staged, and the same version
//! always gives the same bytes.
//!
//! GNU headers, since busybox knows those: long names as `L` and `K` entries. A time that whole seconds after 1970
//! cannot tell goes before its entry as a PAX record, which busybox skips.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::BytesMut;
use tar::{EntryType as Kind, Header};

use super::body::{PIECE, read_range};
use super::content::{Content, open_entry};
use crate::store::{Entry, EntryType, Manifest, Version};

const BLOCK: u64 = 512;
/// Two empty blocks end an archive.
const END: usize = 1024;
/// What fits into a header's name and link fields, a NUL kept for readers that want one.
const SHORT: usize = 99;

/// The tree of a version as a tar archive, in pieces that are each made by itself.
#[derive(Debug)]
pub(super) struct TreeTar {
    tree: Arc<Tree>,
    cut: Cut,
    /// Of the entry whose parts are being given.
    large: Arc<Large>,
}

/// A file of several parts, which the first of them to be made judges and opens for all; the others wait for that. Each for
/// itself would read it all where its state is another one than a moment ago, and somebody may change that all the time.
type Large = OnceLock<Result<File, Arc<io::Error>>>;

/// How far an archive was cut into pieces.
#[derive(Debug, Default)]
struct Cut {
    /// The entry to come.
    next: usize,
    /// Bytes of its content that were given.
    given: u64,
    ended: bool,
}

#[derive(Debug)]
struct Tree {
    version: Version,
    manifest: Arc<Manifest>,
}

/// What a piece holds.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    /// Whole entries.
    Entries(Range<usize>),
    /// A part of the content of an entry that is larger than a piece; before the first its head, after the last padding.
    Part { entry: usize, range: Range<u64> },
    /// Two empty blocks.
    End,
}

/// Bytes of the whole archive.
pub(super) fn length(manifest: &Manifest) -> u64 {
    manifest.entries.iter().map(whole).sum::<u64>() + END as u64
}

/// Bytes that follow the entry's header.
fn content(entry: &Entry) -> u64 {
    if entry.kind == EntryType::File { entry.size } else { 0 }
}

impl TreeTar {
    pub(super) fn new(version: Version, manifest: Arc<Manifest>) -> Self {
        Self { tree: Arc::new(Tree { version, manifest }), cut: Cut::default(), large: Arc::default() }
    }
}

impl Cut {
    /// The next piece: as many whole entries as fit, or a part of one that does not.
    fn next(&mut self, entries: &[Entry]) -> Option<Piece> {
        let (first, mut bytes) = (self.next, 0);
        while let Some(entry) = entries.get(self.next)
            && content(entry) <= PIECE
            && (bytes == 0 || bytes + whole(entry) <= PIECE)
        {
            bytes += whole(entry);
            self.next += 1;
        }
        if self.next > first {
            return Some(Piece::Entries(first..self.next));
        }
        let Some(entry) = entries.get(self.next) else {
            return (!std::mem::replace(&mut self.ended, true)).then_some(Piece::End);
        };
        let range = self.given..entry.size.min(self.given + PIECE);
        let piece = Piece::Part { entry: self.next, range: range.clone() };
        (self.next, self.given) = if range.end == entry.size { (self.next + 1, 0) } else { (self.next, range.end) };
        Some(piece)
    }
}

/// Bytes of an entry with its head and padding.
fn whole(entry: &Entry) -> u64 {
    head_length(entry) + content(entry).next_multiple_of(BLOCK)
}

impl Iterator for TreeTar {
    type Item = Box<dyn FnOnce(&mut BytesMut) -> io::Result<()> + Send>;

    fn next(&mut self) -> Option<Self::Item> {
        let piece = self.cut.next(&self.tree.manifest.entries)?;
        if matches!(&piece, Piece::Part { range, .. } if range.start == 0) {
            self.large = Arc::default();
        }
        let (tree, large) = (self.tree.clone(), self.large.clone());
        Some(Box::new(move |out| tree.make(piece, &large, out)))
    }
}

impl Tree {
    fn make(&self, piece: Piece, large: &Large, out: &mut BytesMut) -> io::Result<()> {
        match piece {
            Piece::Entries(entries) => {
                for entry in &self.manifest.entries[entries] {
                    out.extend_from_slice(&head(entry));
                    if entry.kind == EntryType::File {
                        match self.open(entry)? {
                            Content::Few(few) => out.extend_from_slice(&few),
                            Content::File(file) => read_range(&file, 0..entry.size, out)?,
                        }
                        pad(entry, out);
                    }
                }
            }
            Piece::Part { entry, range } => {
                let entry = &self.manifest.entries[entry];
                if range.start == 0 {
                    out.extend_from_slice(&head(entry));
                }
                let is_last = range.end == entry.size;
                read_range(self.open_large(entry, large)?, range, out)?;
                if is_last {
                    pad(entry, out);
                }
            }
            Piece::End => out.resize(END, 0),
        }
        Ok(())
    }

    fn open(&self, entry: &Entry) -> io::Result<Content> {
        let sha256 = entry.sha256.as_ref().ok_or(io::ErrorKind::InvalidData)?;
        open_entry(&self.version, entry, sha256).map_err(io::Error::other)
    }

    fn open_large<'a>(&self, entry: &Entry, large: &'a Large) -> io::Result<&'a File> {
        let open = || match self.open(entry) {
            Ok(Content::File(file)) => Ok(file),
            Ok(Content::Few(few)) => unreachable!("{} bytes fit into a piece", few.len()),
            Err(error) => Err(Arc::new(error)),
        };
        large.get_or_init(open).as_ref().map_err(|error| io::Error::other(error.clone()))
    }
}

/// Fills the last block of a file's content.
fn pad(entry: &Entry, out: &mut BytesMut) {
    // Below 512.
    let padding = (entry.size.next_multiple_of(BLOCK) - entry.size) as usize;
    out.resize(out.len() + padding, 0);
}

/// Bytes of [`head`], without making it.
fn head_length(entry: &Entry) -> u64 {
    let extension = |bytes: usize| BLOCK + (bytes as u64).next_multiple_of(BLOCK);
    let of_text = |bytes: usize| if bytes > SHORT { extension(bytes + 1) } else { 0 };
    let record = time(entry).1.map_or(0, |record| extension(record.len()));
    let name = entry.path.as_bytes().len() + usize::from(entry.kind == EntryType::Dir);
    BLOCK + record + of_text(entry.target.as_deref().unwrap_or_default().len()) + of_text(name)
}

/// All header blocks of an entry.
fn head(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::with_capacity(BLOCK as usize);
    let mut name = entry.path.as_bytes().to_vec();
    let kind = match entry.kind {
        EntryType::Dir => {
            name.push(b'/');
            Kind::Directory
        }
        EntryType::File => Kind::Regular,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Hardlink => Kind::Link,
    };
    let link = entry.target.as_deref().unwrap_or_default();
    let (seconds, record) = time(entry);
    if let Some(record) = record {
        extension(&mut out, Kind::XHeader, b"./PaxHeaders/entry", &record);
    }
    if link.len() > SHORT {
        extension(&mut out, Kind::GNULongLink, b"././@LongLink", &[link, b"\0"].concat());
    }
    if name.len() > SHORT {
        extension(&mut out, Kind::GNULongName, b"././@LongLink", &[&name[..], b"\0"].concat());
    }
    let mut header = blank(kind, content(entry));
    header.set_mode(entry.mode & 0o7777);
    header.set_uid(entry.uid.into());
    header.set_gid(entry.gid.into());
    header.set_mtime(seconds);
    let fields = header.as_old_mut();
    put(&mut fields.name, &name);
    put(&mut fields.linkname, link);
    finish(&mut out, header);
    out
}

fn blank(kind: Kind, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header
}

fn finish(out: &mut Vec<u8>, mut header: Header) {
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
}

/// An entry that says something about the one after it.
fn extension(out: &mut Vec<u8>, kind: Kind, name: &[u8], data: &[u8]) {
    let mut header = blank(kind, data.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    put(&mut header.as_old_mut().name, name);
    finish(out, header);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(BLOCK as usize), 0);
}

fn put(field: &mut [u8; 100], bytes: &[u8]) {
    let n = bytes.len().min(SHORT);
    field[..n].copy_from_slice(&bytes[..n]);
}

/// The header's seconds, and a PAX record where they do not tell all.
fn time(entry: &Entry) -> (u64, Option<Vec<u8>>) {
    let (seconds, nanos) = entry.mtime_parts();
    let whole = u64::try_from(seconds);
    if let (Ok(whole), 0) = (whole, nanos) {
        return (whole, None);
    }
    let total = entry.mtime.as_nanosecond();
    let sign = if total < 0 { "-" } else { "" };
    let (whole_part, fraction) = (total.unsigned_abs() / 1_000_000_000, total.unsigned_abs() % 1_000_000_000);
    let value = format!("{sign}{whole_part}.{fraction:09}");
    (whole.unwrap_or(0), Some(record("mtime", &value)))
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::super::fixture::{Fixture, entry};
    use super::*;
    use crate::fs::RelPath;
    use proptest::prelude::*;
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;
    use std::process::{Command, Stdio};

    #[test]
    fn pax_records_count_their_own_length() {
        assert_eq!(record("mtime", "1.5"), b"13 mtime=1.5\n");
        // 9 + 90 is where the length of the length changes.
        for n in 80..110 {
            let bytes = record("k", &"v".repeat(n));
            let length: usize = std::str::from_utf8(&bytes).unwrap().split(' ').next().unwrap().parse().unwrap();
            assert_eq!(length, bytes.len());
        }
    }

    #[test]
    fn times_before_1970_and_parts_of_seconds_are_told() {
        let at = |seconds, nanos| {
            let entry =
                Entry { mtime: jiff::Timestamp::new(seconds, nanos).unwrap(), ..entry("a", EntryType::Dir, None) };
            let (seconds, record) = time(&entry);
            (seconds, record.map(|record| String::from_utf8(record).unwrap()))
        };
        assert_eq!(at(7, 0), (7, None));
        assert_eq!(at(7, 500_000_000), (7, Some("21 mtime=7.500000000\n".into())));
        assert_eq!(at(-1, -500_000_000), (0, Some("22 mtime=-1.500000000\n".into())));
        assert_eq!(at(-5, 0), (0, Some("22 mtime=-5.000000000\n".into())));
    }

    proptest! {
        #[test]
        fn pieces_hold_every_byte_once_and_are_bounded(sizes in prop::collection::vec(sizes(), 0..40)) {
            let file = |size| Entry { size, ..entry("a", EntryType::File, None) };
            let entries: Vec<Entry> = sizes.iter().map(|&size| file(size)).collect();
            let (mut cut, mut next, mut given, mut ended) = (Cut::default(), 0, 0, false);
            while let Some(piece) = cut.next(&entries) {
                prop_assert!(!ended);
                let bytes = match piece {
                    Piece::Entries(range) => {
                        prop_assert!(range.start == next && !range.is_empty() && given == 0);
                        next = range.end;
                        entries[range].iter().map(whole).sum()
                    }
                    Piece::Part { entry, range } => {
                        prop_assert!(entry == next && range.start == given && !range.is_empty());
                        let is_last = range.end == sizes[entry];
                        (next, given) = if is_last { (next + 1, 0) } else { (next, range.end) };
                        range.end - range.start
                    }
                    Piece::End => {
                        ended = true;
                        END as u64
                    }
                };
                prop_assert!(bytes <= PIECE + 2 * BLOCK, "{bytes}");
            }
            prop_assert!(ended && next == entries.len());
        }
    }

    fn sizes() -> impl Strategy<Value = u64> {
        prop_oneof![0..2000_u64, PIECE - 600..PIECE + 600, 0..5 * PIECE]
    }

    fn read(mut pieces: TreeTar) -> io::Result<Vec<u8>> {
        pieces.try_fold(Vec::new(), |mut bytes, read| {
            let mut piece = BytesMut::new();
            read(&mut piece)?;
            bytes.extend_from_slice(&piece);
            Ok(bytes)
        })
    }

    fn archive(fixture: &Fixture) -> Vec<u8> {
        let (version, manifest) = fixture.opened();
        let expected = length(&manifest);
        let bytes = read(TreeTar::new(version, manifest)).unwrap();
        assert_eq!(bytes.len() as u64, expected);
        bytes
    }

    fn extract(program: &[&str], archive: &[u8], into: &Path) {
        std::fs::create_dir_all(into).unwrap();
        let mut child =
            Command::new(program[0]).args(&program[1..]).arg("-C").arg(into).stdin(Stdio::piped()).spawn().unwrap();
        io::Write::write_all(&mut child.stdin.take().unwrap(), archive).unwrap();
        assert!(child.wait().unwrap().success(), "{program:?}");
    }

    /// `exact`: the program keeps parts of seconds, times before 1970 and those of directories; busybox does not.
    fn check(manifest: &Manifest, fixture: &Fixture, at: &Path, exact: bool) {
        for entry in &manifest.entries {
            let path = at.join(entry.path.as_path());
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let (seconds, nanos) = entry.mtime_parts();
            if entry.kind != EntryType::Symlink {
                assert_eq!(meta.mode() & 0o7777, entry.mode, "{}", entry.path);
                if exact {
                    assert_eq!((meta.mtime(), meta.mtime_nsec()), (seconds, i64::from(nanos)), "{}", entry.path);
                } else if entry.kind != EntryType::Dir {
                    assert_eq!(meta.mtime(), seconds, "{}", entry.path);
                }
            }
            match entry.kind {
                EntryType::Dir => assert!(meta.is_dir()),
                EntryType::File => {
                    assert_eq!(std::fs::read(&path).unwrap(), fixture.content(&entry.path), "{}", entry.path);
                }
                EntryType::Symlink => {
                    let target = std::fs::read_link(&path).unwrap();
                    assert_eq!(target.as_os_str().as_encoded_bytes(), entry.target.as_deref().unwrap());
                }
                EntryType::Hardlink => {
                    let target = RelPath::parse(entry.target.as_deref().unwrap()).unwrap();
                    assert_eq!(std::fs::symlink_metadata(at.join(target.as_path())).unwrap().ino(), meta.ino());
                }
            }
        }
        let found = std::fs::read_dir(at).unwrap().count();
        assert_eq!(found, manifest.entries.iter().filter(|entry| entry.path.depth() == 1).count());
    }

    #[test]
    fn gnu_tar_and_busybox_give_back_what_the_manifest_says() {
        let fixture = Fixture::new();
        let bytes = archive(&fixture);
        assert_eq!(bytes, archive(&fixture), "the same bytes each time");
        let (_, manifest) = fixture.opened();
        let out = tempfile::tempdir().unwrap();
        for (name, program, exact) in
            [("gnu", &["tar", "-xpf", "-"][..], true), ("busybox", &["busybox", "tar", "-xpf", "-"][..], false)]
        {
            let into = out.path().join(name);
            extract(program, &bytes, &into);
            check(&manifest, &fixture, &into, exact);
        }
    }

    #[test]
    fn a_large_file_is_opened_once_for_all_its_parts() {
        let fixture = Fixture::new();
        let (version, manifest) = fixture.opened();
        let (whole, mut cut) = (archive(&fixture), Cut::default());
        let first = std::iter::from_fn(|| cut.next(&manifest.entries))
            .position(|piece| matches!(piece, Piece::Part { range, .. } if range.start == 0))
            .unwrap();
        let mut pieces: Vec<_> = TreeTar::new(version, manifest).map(Some).collect();
        let mut made = vec![BytesMut::new(); pieces.len()];
        pieces[first + 1].take().unwrap()(&mut made[first + 1]).unwrap();
        fixture.remove("dir/big");
        // In an order in which none is made after the one before it.
        for (piece, made) in pieces.into_iter().zip(&mut made).rev() {
            if let Some(make) = piece {
                make(made).unwrap();
            }
        }
        assert_eq!(made.concat(), whole);
    }

    #[test]
    fn a_damaged_file_ends_the_archive_with_an_error() {
        let fixture = Fixture::new();
        fixture.damage("hello.txt");
        let (version, manifest) = fixture.opened();
        assert!(read(TreeTar::new(version, manifest)).is_err());
    }
}
