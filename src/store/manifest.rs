//! The manifest of a version: what it is, where it came from, and every entry of its tree.
//!
//! On disk it is one JSON object, an entry a line, whose last member is the SHA-256 of all the bytes before that
//! member's line. So it is checked without knowing its fields, written and read as a stream, and readable with `grep`.

use std::io::{self, BufRead, Read as _, Write};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fs::RelPath;
use crate::intent::{Algorithm, ArtifactName, Digest, Hasher, VersionName};

/// The format that this code writes and reads.
pub(super) const FORMAT: u32 = 1;
const ENTRIES_OPEN: &[u8] = b",\"entries\":[\n";
const ENTRIES_CLOSE: &[u8] = b"],\n";
const CHECKSUM_KEY: &str = "\"checksum\":\"";
/// Longer than any entry can be: a path and a link target of 4 KiB each, escaped.
const LINE_LIMIT: u64 = 128 * 1024;
/// Bytes read before they are parsed; a manifest of fewer is not worth a thread.
const BLOCK: usize = 128 * 1024;
/// Blocks that may wait to be parsed.
const QUEUE: usize = 4;

/// What a version is and where it came from: the manifest without its entries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ManifestHead {
    /// Always 1.
    pub format: u32,
    /// Which artifact.
    pub artifact: ArtifactName,
    /// Which version.
    pub version: VersionName,
    /// Where the bytes came from, without user info or signed query.
    pub source_url: String,
    /// The downloaded bytes.
    pub archive: Archive,
    /// How `latest` became this version.
    pub resolved_from: ResolvedFrom,
    /// When it became visible.
    pub published_at: Timestamp,
    /// The recipe it was made under.
    pub recipe: Digest,
    /// SHA-256 over the entries, see [`tree_digest`].
    pub tree_digest: Digest,
    /// Bytes of all regular files.
    pub bytes: u64,
    /// Regular files.
    pub files: u64,
}

/// The downloaded bytes of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Archive {
    /// SHA-256.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// The digests that were demanded and matched; empty when the digest was only recorded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verified_by: Vec<Digest>,
    /// Nothing stronger than MD5 vouches for it, or nothing at all.
    pub weak: bool,
    /// The bytes are kept beside the tree.
    pub kept: bool,
}

/// How `latest` became a version: what the source said then.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ResolvedFrom {
    /// The address asked: pointer object or sums file; without secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// What it said, trimmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The archive's ETag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// The archive's Last-Modified (a file's mtime), as the source wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EntryType {
    /// A directory.
    Dir,
    /// A regular file; the first name of its inode.
    File,
    /// A symbolic link.
    Symlink,
    /// A further name of an earlier entry, `target`.
    Hardlink,
}

/// One entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Where it is below the tree.
    pub path: RelPath,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: EntryType,
    /// Permission bits as the archive has them; the store's own files have no write bits.
    pub mode: u32,
    /// Owner, as it is on disk.
    pub uid: u32,
    /// Group, as it is on disk.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Bytes of a regular file (of a hard link: of the file it names); 0 for others.
    pub size: u64,
    /// SHA-256 of a regular file's content, hex.
    #[serde(default, with = "super::content_digest", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("pattern" = "^[0-9a-f]{64}$"))]
    pub sha256: Option<[u8; 32]>,
    /// A symlink's target as written in it; a hard link's target as a path below the tree.
    #[serde(default, with = "link_target", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<crate::fs::lossless::Written>")]
    pub target: Option<Vec<u8>>,
}

impl Entry {
    /// The modification time as the system takes it: seconds since the epoch, rounded down, and nanoseconds.
    pub fn mtime_parts(&self) -> (i64, u32) {
        let nanos = self.mtime.as_nanosecond();
        let seconds = nanos.div_euclid(1_000_000_000);
        // A jiff timestamp's seconds fit 64 bits by far, and the remainder is below 10^9.
        (seconds as i64, nanos.rem_euclid(1_000_000_000) as u32)
    }
}

mod link_target {
    use crate::fs::lossless;
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(target: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
        match target {
            Some(bytes) => lossless::serialize(bytes, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
        lossless::deserialize(deserializer).map(Some)
    }
}

/// A whole manifest, its entries sorted by path.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// What and where from.
    pub head: ManifestHead,
    /// Every entry of the tree, parents before children.
    pub entries: Vec<Entry>,
}

/// Why bytes are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Reading failed.
    #[error("the manifest cannot be read")]
    Read(#[source] io::Error),
    /// The checksum is missing: the file was cut short or is none of ours.
    #[error("the manifest ends without its checksum: it was cut short")]
    Truncated,
    /// The checksum does not fit.
    #[error("the manifest's checksum does not match its content: it was changed after it was written")]
    Checksum,
    /// Sound, but not understood.
    #[error("the manifest is not of a form this version of seedcache understands")]
    Form(#[source] serde_json::Error),
    /// Sound, but of another version.
    #[error("the manifest is that of {says}: its directory was renamed")]
    Misplaced {
        /// What it says it is.
        says: Box<str>,
    },
    /// A later format.
    #[error("the manifest has format {found}, this version of seedcache reads format {FORMAT}")]
    Format {
        /// What it says.
        found: u32,
    },
}

/// SHA-256 over the entries, each as its line in the manifest with a newline.
pub fn tree_digest(entries: &[Entry]) -> Digest {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut line = Vec::with_capacity(512);
    for entry in entries {
        line.clear();
        write_entry(&mut line, entry).unwrap_or_else(|e| unreachable!("writing to memory does not fail: {e}"));
        line.push(b'\n');
        hasher.update(&line);
    }
    hasher.finish()
}

fn write_entry(out: &mut impl Write, entry: &Entry) -> io::Result<()> {
    serde_json::to_writer(out, entry).map_err(io::Error::from)
}

impl Manifest {
    /// Writes the manifest as it stands on disk.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        let mut out = HashingWriter { out, hasher: Hasher::new(Algorithm::Sha256) };
        let head = serde_json::to_vec(&self.head)?;
        // The head without its closing brace, for the entries to follow in the same object.
        out.write_all(&head[..head.len() - 1])?;
        out.write_all(ENTRIES_OPEN)?;
        for (i, entry) in self.entries.iter().enumerate() {
            write_entry(&mut out, entry)?;
            out.write_all(if i + 1 < self.entries.len() { b",\n" } else { b"\n" })?;
        }
        out.write_all(ENTRIES_CLOSE)?;
        let HashingWriter { mut out, hasher } = out;
        writeln!(out, "{CHECKSUM_KEY}{}\"}}", hasher.finish())?;
        out.flush()
    }

    /// Reads and checks a manifest, line by line: nothing of it is handed out before its checksum was found right. A
    /// large one is hashed by one thread and understood by another.
    pub fn read(from: impl BufRead) -> Result<Self, ManifestError> {
        let mut lines = Lines { from, hasher: Hasher::new(Algorithm::Sha256) };
        let mut head = Vec::new();
        lines.next(&mut head)?;
        lines.hasher.update(&head);
        let Some(open) = head.strip_suffix(ENTRIES_OPEN) else { return Err(ManifestError::Truncated) };
        let head = [open, b"}"].concat();
        let block = lines.block()?;
        let mut parsed = Parsed::default();
        if block.is_last {
            parsed.take(&block);
        } else {
            parsed = lines.parse_beside(block)?;
        }
        let mut line = Vec::new();
        lines.next(&mut line)?;
        if line != format!("{CHECKSUM_KEY}{}\"}}\n", lines.hasher.finish()).as_bytes() {
            return Err(ManifestError::Checksum);
        }
        if let Some(error) = parsed.unread {
            return Err(ManifestError::Form(error));
        }
        let head: ManifestHead = serde_json::from_slice(&head).map_err(ManifestError::Form)?;
        if head.format != FORMAT {
            return Err(ManifestError::Format { found: head.format });
        }
        Ok(Self { head, entries: parsed.entries })
    }
}

/// The lines of a manifest and the checksum of those read.
struct Lines<R> {
    from: R,
    hasher: Hasher,
}

/// Whole lines of entries.
#[derive(Default)]
struct Block {
    bytes: Vec<u8>,
    /// Where each line ends.
    ends: Vec<usize>,
    /// No entry comes after these.
    is_last: bool,
}

impl<R: BufRead> Lines<R> {
    /// Appends a line.
    fn next(&mut self, to: &mut Vec<u8>) -> Result<(), ManifestError> {
        let start = to.len();
        self.from.by_ref().take(LINE_LIMIT).read_until(b'\n', to).map_err(ManifestError::Read)?;
        if to[start..].last() == Some(&b'\n') { Ok(()) } else { Err(ManifestError::Truncated) }
    }

    fn block(&mut self) -> Result<Block, ManifestError> {
        let mut block = Block { bytes: Vec::with_capacity(2 * BLOCK), ..Block::default() };
        while block.bytes.len() < BLOCK && !block.is_last {
            let start = block.bytes.len();
            self.next(&mut block.bytes)?;
            if block.bytes[start..] == *ENTRIES_CLOSE {
                block.is_last = true;
            } else {
                block.ends.push(block.bytes.len());
            }
        }
        self.hasher.update(&block.bytes);
        Ok(block)
    }

    /// Reads on after the first block, while a thread makes entries of what was read.
    fn parse_beside(&mut self, first: Block) -> Result<Parsed, ManifestError> {
        std::thread::scope(|scope| {
            let (send, receive) = std::sync::mpsc::sync_channel::<Block>(QUEUE);
            let parse = move || {
                let mut parsed = Parsed::default();
                receive.into_iter().for_each(|block| parsed.take(&block));
                parsed
            };
            let Ok(parser) = std::thread::Builder::new().spawn_scoped(scope, parse) else {
                return self.parse_here(first);
            };
            let mut block = first;
            loop {
                let is_last = block.is_last;
                // Refused only when the parser panicked, which is passed on below.
                if send.send(block).is_err() || is_last {
                    break;
                }
                block = self.block()?;
            }
            drop(send);
            Ok(parser.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }

    /// The same where there may be no more threads.
    fn parse_here(&mut self, first: Block) -> Result<Parsed, ManifestError> {
        let (mut parsed, mut block) = (Parsed::default(), first);
        loop {
            parsed.take(&block);
            if block.is_last {
                return Ok(parsed);
            }
            block = self.block()?;
        }
    }
}

/// Entries understood so far.
#[derive(Default)]
struct Parsed {
    entries: Vec<Entry>,
    /// The first that was not: the checksum decides whether this is damage or a form that is not ours.
    unread: Option<serde_json::Error>,
}

impl Parsed {
    fn take(&mut self, block: &Block) {
        let mut start = 0;
        for &end in &block.ends {
            let line = &block.bytes[start..end];
            let entry = line.strip_suffix(b",\n").or(line.strip_suffix(b"\n")).unwrap_or(line);
            match serde_json::from_slice(entry) {
                Ok(entry) => self.entries.push(entry),
                Err(error) => self.unread = self.unread.take().or(Some(error)),
            }
            start = end;
        }
    }
}

struct HashingWriter<W> {
    out: W,
    hasher: Hasher,
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample() -> Manifest {
        let entry = |path: &[u8], kind, target: Option<&[u8]>| Entry {
            path: RelPath::parse(path).unwrap(),
            kind,
            mode: 0o644,
            uid: 0,
            gid: 7,
            mtime: Timestamp::new(1_767_225_600, 5).unwrap(),
            size: 3,
            sha256: (kind == EntryType::File).then_some([7; 32]),
            target: target.map(<[u8]>::to_vec),
        };
        let entries = vec![
            entry(b"d", EntryType::Dir, None),
            entry(b"d/\xff", EntryType::File, None),
            entry(b"d/l", EntryType::Symlink, Some(b"\xfe")),
        ];
        let head = ManifestHead { tree_digest: tree_digest(&entries), bytes: 3, ..ManifestHead::sample("a", "1") };
        Manifest { head, entries }
    }

    fn written(manifest: &Manifest) -> Vec<u8> {
        let mut bytes = Vec::new();
        manifest.write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_read_and_is_one_json_object() {
        for manifest in [sample(), Manifest { entries: vec![], ..sample() }] {
            let bytes = written(&manifest);
            assert_eq!(Manifest::read(&bytes[..]).unwrap(), manifest);
            let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(json["entries"].as_array().unwrap().len(), manifest.entries.len());
            assert!(json["checksum"].as_str().unwrap().starts_with("sha256:"));
        }
    }

    #[test]
    fn what_is_read_in_several_blocks_is_the_same() {
        let mut many = sample();
        for number in 0..3 * BLOCK / 100 {
            let path = RelPath::parse(format!("e{number:06}")).unwrap();
            many.entries.push(Entry { path, sha256: Some([number as u8; 32]), ..many.entries[1].clone() });
        }
        let bytes = written(&many);
        assert!(bytes.len() > 3 * BLOCK);
        assert_eq!(Manifest::read(&bytes[..]).unwrap(), many);
        for cut in [BLOCK, bytes.len() - 200] {
            let end = cut + bytes[cut..].iter().position(|&b| b == b'\n').unwrap() + 1;
            assert!(matches!(Manifest::read(&bytes[..end]), Err(ManifestError::Truncated)), "cut at {end}");
        }
        for at in [BLOCK, 2 * BLOCK, bytes.len() - 200] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(Manifest::read(&flipped[..]).is_err(), "flipped at {at}");
        }
    }

    #[test]
    fn a_digest_is_64_hex_digits() {
        let line = serde_json::to_string(&sample().entries[1]).unwrap();
        let digest = "07".repeat(32);
        for (other, good) in [("AF".repeat(32), true), ("0g".repeat(32), false), ("07".repeat(31), false)] {
            let read = serde_json::from_str::<Entry>(&line.replace(&digest, &other));
            assert_eq!(read.is_ok(), good, "{other}");
        }
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_found() {
        let bytes = written(&sample());
        for end in 0..bytes.len() {
            assert!(Manifest::read(&bytes[..end]).is_err(), "cut at {end}");
        }
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(Manifest::read(&flipped[..]).is_err(), "flipped at {at}");
        }
    }
}
