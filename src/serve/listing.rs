//! A directory of a tree as JSON, made from the manifest while it is sent.
//!
//! What must hold: however many entries it has, a listing holds the pieces that are being sent and made, and the manifest,
//! which all who ask share.

use std::io::{self, Write};
use std::sync::Arc;

use axum::body::Body;
use bytes::{BufMut as _, BytesMut};
use schemars::JsonSchema;
use serde::Serialize;

use super::body::{PIECE, stream};
use super::resolve::Children;
use crate::fs::RelPath;
use crate::intent::{ArtifactName, VersionName};
use crate::store::{Entry, Manifest};

/// Bytes of a listed entry without its names, or a few more.
const FIELDS: usize = 300;
/// What a listing ends with.
const CLOSE: &[u8] = b"]}";

/// A directory as JSON.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listing<'a> {
    artifact: &'a ArtifactName,
    version: &'a VersionName,
    /// Below the tree; null for its top.
    path: Option<&'a RelPath>,
    // The last, so that they can follow one by one.
    entries: Vec<Listed<'a>>,
}

/// What a directory holds: the manifest's fields, the name in the path's place.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Listed<'a> {
    name: Option<RelPath>,
    #[serde(flatten)]
    entry: &'a Entry,
}

impl<'a> Listed<'a> {
    fn of(entry: &'a Entry) -> Self {
        Self { name: RelPath::parse(entry.path.file_name()).ok(), entry }
    }
}

/// A directory that can be listed.
#[derive(Debug)]
pub(super) struct Directory {
    manifest: Arc<Manifest>,
    /// `None`: the top.
    path: Option<RelPath>,
    /// Where in the manifest that what lies in it begins.
    begin: usize,
}

/// A part of a listing.
#[derive(Debug, Clone, Copy)]
struct Piece {
    /// Where in the manifest its entries begin.
    at: usize,
    /// How many there are, at most.
    entries: usize,
    is_last: bool,
}

impl Directory {
    pub(super) fn new(manifest: Arc<Manifest>, path: Option<RelPath>) -> Self {
        let begin = Children::of(&manifest, path.as_ref()).place();
        Self { manifest, path, begin }
    }

    /// Bytes of the whole listing. They are written for that, to nowhere: it takes as long as to send them.
    pub(super) fn length(&self) -> u64 {
        let mut count = Count(0);
        let all = Piece { at: self.begin, entries: usize::MAX, is_last: true };
        self.write(all, &mut count)
            .unwrap_or_else(|e| unreachable!("plain fields always serialise, and are counted: {e}"));
        count.0
    }

    /// The listing, which has `length` bytes.
    pub(super) fn body(self, length: u64) -> Body {
        stream(self.pieces(), length)
    }

    fn pieces(self) -> impl Iterator<Item = impl FnOnce(&mut BytesMut) -> io::Result<()>> {
        let mut next = Some(self.begin);
        let directory = Arc::new(self);
        std::iter::from_fn(move || {
            let (piece, after) = directory.cut(next?);
            next = after;
            let directory = directory.clone();
            Some(move |out: &mut BytesMut| directory.write(piece, out.writer()))
        })
    }

    fn children(&self, at: usize) -> Children<'_> {
        Children::at(&self.manifest, self.path.as_ref(), at)
    }

    /// The piece that begins at a place, and where the next one does.
    fn cut(&self, at: usize) -> (Piece, Option<usize>) {
        let (mut children, mut entries, mut bytes) = (self.children(at), 0, 0);
        loop {
            let place = children.place();
            let Some(entry) = children.next() else { return (Piece { at, entries, is_last: true }, None) };
            bytes += about(entry);
            if entries > 0 && bytes as u64 > PIECE {
                return (Piece { at, entries, is_last: false }, Some(place));
            }
            entries += 1;
        }
    }

    fn write(&self, piece: Piece, mut out: impl Write) -> io::Result<()> {
        let is_first = piece.at == self.begin;
        if is_first {
            let (head, path) = (&self.manifest.head, self.path.as_ref());
            let none = Listing { artifact: &head.artifact, version: &head.version, path, entries: Vec::new() };
            let opened = serde_json::to_vec(&none)?;
            out.write_all(&opened[..opened.len() - CLOSE.len()])?;
        }
        for (i, entry) in self.children(piece.at).take(piece.entries).enumerate() {
            if i > 0 || !is_first {
                out.write_all(b",")?;
            }
            serde_json::to_writer(&mut out, &Listed::of(entry))?;
        }
        if piece.is_last { out.write_all(CLOSE) } else { Ok(()) }
    }
}

/// Bytes of a listed entry, near enough for cutting; at most six times as many where all of its names has to be escaped.
fn about(entry: &Entry) -> usize {
    FIELDS + 2 * entry.path.as_bytes().len() + entry.target.as_ref().map_or(0, Vec::len)
}

/// Counts what is written.
struct Count(u64);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http_body_util::BodyExt as _;

    use super::super::fixture::{entry, manifest};
    use super::*;
    use crate::store::EntryType;

    /// A directory of 2,000 files and as many directories with a file in each, one that is empty, and their like beside them.
    fn wide() -> Arc<Manifest> {
        let mut entries = vec![
            entry("empty", EntryType::Dir, None),
            entry("wide", EntryType::Dir, None),
            entry("wide-beside", EntryType::File, None),
            entry("x", EntryType::Symlink, Some("wide")),
        ];
        for at in 0..2000 {
            entries.push(entry(&format!("wide/file {at}\n\"{}", "n".repeat(at % 200)), EntryType::File, None));
            entries.push(entry(&format!("wide/{at}"), EntryType::Dir, None));
            entries.push(entry(&format!("wide/{at}/below"), EntryType::File, None));
        }
        Arc::new(manifest(entries))
    }

    /// The listing as one value, of what a look at every entry finds.
    fn at_once(manifest: &Manifest, path: Option<&RelPath>) -> Vec<u8> {
        let depth = 1 + path.map_or(0, RelPath::depth);
        let lies_in =
            |entry: &&Entry| entry.path.depth() == depth && path.is_none_or(|path| entry.path.starts_with(path));
        let entries = manifest.entries.iter().filter(lies_in).map(Listed::of).collect();
        let (artifact, version) = (&manifest.head.artifact, &manifest.head.version);
        serde_json::to_vec(&Listing { artifact, version, path, entries }).unwrap()
    }

    #[tokio::test]
    async fn a_listing_is_sent_in_pieces_and_is_the_same_as_one_made_at_once() {
        let manifest = wide();
        let mut most = 0;
        for path in [None, Some("empty"), Some("wide"), Some("wide/7")] {
            let path: Option<RelPath> = path.map(|path| path.parse().unwrap());
            let expected = at_once(&manifest, path.as_ref());
            let directory = Directory::new(manifest.clone(), path);
            let length = directory.length();
            let mut body = directory.body(length);
            assert_eq!(http_body::Body::size_hint(&body).exact(), Some(expected.len() as u64));
            let (mut sent, mut pieces) = (Vec::new(), 0);
            while let Some(frame) = body.frame().await {
                let piece = frame.unwrap().into_data().unwrap();
                assert!(piece.len() as u64 <= 2 * PIECE, "{} bytes at once", piece.len());
                sent.extend_from_slice(&piece);
                pieces += 1;
            }
            assert!(sent == expected, "{}", String::from_utf8_lossy(&sent));
            most = most.max(pieces);
        }
        assert!(most > 4, "{most} pieces");
    }
}
