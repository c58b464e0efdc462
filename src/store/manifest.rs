//! The manifest of a version: what it is, where it came from, and every entry of its tree.
//!
//! On disk it is one JSON object, an entry a line, whose last member is the SHA-256 of all the bytes before that
//! member's line. So it is checked without knowing its fields, written and read as a stream, and readable with `grep`.

use std::io::{self, BufRead, Read as _, Write};

use jiff::Timestamp;
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

/// What a version is and where it came from: the manifest without its entries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    #[serde(default, with = "content_digest", skip_serializing_if = "Option::is_none")]
    pub sha256: Option<[u8; 32]>,
    /// A symlink's target as written in it; a hard link's target as a path below the tree.
    #[serde(default, with = "link_target", skip_serializing_if = "Option::is_none")]
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

mod content_digest {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(digest: &Option<[u8; 32]>, serializer: S) -> Result<S::Ok, S::Error> {
        match digest {
            Some(bytes) => serializer.serialize_some(&hex::encode(bytes)),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<[u8; 32]>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(de::Error::custom)?;
        Ok(Some(bytes))
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

    /// Reads and checks a manifest, line by line: nothing of it is handed out before its checksum was found right.
    pub fn read(mut from: impl BufRead) -> Result<Self, ManifestError> {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut line = Vec::new();
        let mut next = |line: &mut Vec<u8>| {
            line.clear();
            from.by_ref().take(LINE_LIMIT).read_until(b'\n', line).map_err(ManifestError::Read)?;
            match line.last() {
                Some(b'\n') => Ok(()),
                _ => Err(ManifestError::Truncated),
            }
        };
        next(&mut line)?;
        hasher.update(&line);
        let head = line.strip_suffix(ENTRIES_OPEN).ok_or(ManifestError::Truncated)?;
        let head = [head, b"}"].concat();
        let mut entries = Vec::new();
        let mut unread = None;
        loop {
            next(&mut line)?;
            hasher.update(&line);
            if line == ENTRIES_CLOSE {
                break;
            }
            let entry = line.strip_suffix(b",\n").or(line.strip_suffix(b"\n")).unwrap_or(&line);
            match serde_json::from_slice(entry) {
                Ok(entry) => entries.push(entry),
                // The checksum decides whether this is damage or a form that is not ours.
                Err(error) => unread = unread.or(Some(error)),
            }
        }
        next(&mut line)?;
        if line != format!("{CHECKSUM_KEY}{}\"}}\n", hasher.finish()).as_bytes() {
            return Err(ManifestError::Checksum);
        }
        if let Some(error) = unread {
            return Err(ManifestError::Form(error));
        }
        let head: ManifestHead = serde_json::from_slice(&head).map_err(ManifestError::Form)?;
        if head.format != FORMAT {
            return Err(ManifestError::Format { found: head.format });
        }
        Ok(Self { head, entries })
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
        let digest = Digest::sha256(b"x");
        let head = ManifestHead {
            format: FORMAT,
            artifact: "a".parse().unwrap(),
            version: "1".parse().unwrap(),
            source_url: "file:///x".into(),
            archive: Archive { digest: digest.clone(), size: 9, verified_by: vec![], weak: true, kept: false },
            resolved_from: ResolvedFrom::default(),
            published_at: Timestamp::UNIX_EPOCH,
            recipe: digest,
            tree_digest: tree_digest(&entries),
            bytes: 3,
            files: 1,
        };
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
