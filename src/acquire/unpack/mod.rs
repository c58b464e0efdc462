//! An archive stream to a tree below a directory handle, every file hashed in the same pass.
//!
//! Two threads: one decodes ([`codec`]), the caller's reads the tar ([`member`]), judges ([`policy`], [`tree`]) and
//! writes ([`write`]). What must hold: whatever is wrong refuses the whole archive and names the entry; nothing is
//! written outside the tree, no link leads out of it; memory does not grow with bytes, only with the number of entries.

mod codec;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
mod header;
mod input;
mod large;
mod member;
mod metadata;
mod output;
mod pax;
mod policy;
mod sparse;
mod stream;
#[cfg(test)]
mod tests;
mod tree;
mod write;

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use self::policy::{Policy, Verdict};
use self::stream::Stream;
use self::write::Writer;
use super::Progress;
use crate::fs::{Dir, RelPath};
use crate::intent::{Limits, Unpack, UnpackFormat};
use crate::store::{Donors, Entry};

pub use codec::Codec;
pub use error::UnpackError;
pub use header::Malformed;
pub(super) use large::Large;
pub(crate) use member::{Kind, Member, Members};
pub use policy::Refusal;

/// What was unpacked.
#[derive(Debug)]
pub struct Unpacked {
    /// Every entry, sorted by path; files hashed.
    pub entries: Vec<Entry>,
    /// The archive's top directory, where all entries share one (before stripping).
    pub top_directory: Option<String>,
    /// Bytes of all regular files.
    pub bytes: u64,
}

/// Unpacks `archive` into the empty directory `tree`; small files that `donors` have are not written but shared with
/// them. `file_name` names the single file of `format: none`.
///
/// Blocks as long as `archive` does, and ends soon after `abort` is set and `archive` fails. On an error the tree is half
/// made: it is the caller's to discard.
pub fn unpack(
    archive: impl Read + Send,
    recipe: &Unpack,
    file_name: &str,
    tree: &Dir,
    donors: Option<&Donors>,
    progress: &Progress,
    abort: &AtomicBool,
) -> Result<Unpacked, UnpackError> {
    unpack_in_turn(archive, None, recipe, file_name, (tree, donors), progress, abort)
}

/// The same; an archive that asks for a large window waits for its turn to have one.
pub(super) fn unpack_in_turn(
    archive: impl Read + Send,
    large: Option<&Large>,
    recipe: &Unpack,
    file_name: &str,
    (tree, donors): (&Dir, Option<&Donors>),
    progress: &Progress,
    abort: &AtomicBool,
) -> Result<Unpacked, UnpackError> {
    let (feed, stream) = stream::channel_within(recipe.limits);
    std::thread::scope(|scope| {
        let format = recipe.format;
        std::thread::Builder::new()
            .name("decode".into())
            .spawn_scoped(scope, move || codec::decode(archive, format, large, &feed))
            .map_err(|source| UnpackError::Thread { source })?;
        // Both take the stream whole and drop it before the scope ends: the decoder never waits for a reader that is
        // gone.
        let writer = Writer::new(recipe, tree, donors, progress, abort).map_err(UnpackError::from);
        let unpacked = writer.and_then(|writer| match format {
            UnpackFormat::None => unpack_file(stream, recipe, file_name, writer),
            _ => unpack_tar(stream, recipe, writer),
        });
        // Nor does it wait for memory that nobody needs.
        if let Some(large) = large {
            large.over.store(true, Relaxed);
        }
        unpacked
    })
}

/// Reads an uncompressed tar, entry by entry and as strictly as an archive; `read` says what becomes of them.
///
/// Blocks as long as `archive` does.
pub(crate) fn read_tar<T, E: From<UnpackError>>(
    archive: impl Read + Send,
    read: impl FnOnce(&mut Members) -> Result<T, E>,
) -> Result<T, E> {
    let (feed, stream) = stream::channel_within(Limits::default());
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("decode".into())
            .spawn_scoped(scope, move || codec::decode(archive, UnpackFormat::Tar, None, &feed))
            .map_err(|source| UnpackError::Thread { source })?;
        // Dropped before the scope ends: the other thread never waits for a reader that is gone.
        let mut members = Members::new(stream);
        read(&mut members)
    })
}

fn unpack_file(
    mut stream: Stream,
    recipe: &Unpack,
    file_name: &str,
    mut writer: Writer<'_>,
) -> Result<Unpacked, UnpackError> {
    let given = recipe.file_name.as_deref().unwrap_or(file_name);
    let path = RelPath::parse(given)
        .and_then(|name| recipe.prefix.as_ref().map_or(Ok(name.clone()), |prefix| prefix.join(&name)))
        .map_err(|source| UnpackError::FileName { given: given.into(), source })?;
    writer.add_single(&path, &mut stream)?;
    let (entries, bytes) = writer.finish(&recipe.require, 0)?;
    Ok(Unpacked { entries, top_directory: None, bytes })
}

fn unpack_tar(stream: Stream, recipe: &Unpack, mut writer: Writer<'_>) -> Result<Unpacked, UnpackError> {
    let policy = Policy::new(recipe)?;
    let mut members = Members::new(stream);
    let mut top = Top::default();
    let (mut seen, mut counted) = (0, 0);
    while let Some(member) = members.next()? {
        seen += 1;
        counted += policy::weight(member.names());
        let refused = |refusal| UnpackError::refused(&member.path, refusal);
        policy::check_entries(&recipe.limits, counted + writer.implied()).map_err(refused)?;
        let verdict = policy.judge(&member.path, &member.kind, member.mode).map_err(refused)?;
        top.see(&member.path, member.kind == Kind::Dir);
        if let Verdict::Keep { path, target } = verdict {
            writer.add(&member, &path, target.as_ref(), &mut members)?;
            // With the directories that only this entry tells of, or the first name of its file.
            policy::check_entries(&recipe.limits, counted + writer.implied()).map_err(refused)?;
        }
    }
    let (entries, bytes) = writer.finish(&recipe.require, counted)?;
    if entries.is_empty() {
        return Err(UnpackError::Empty { seen });
    }
    Ok(Unpacked { entries, top_directory: top.name(), bytes })
}

/// Finds the directory that all entries share.
#[derive(Debug, Default)]
struct Top {
    /// The first component of all entries so far.
    first: Option<Box<[u8]>>,
    /// An entry says, or implies, that it is a directory.
    is_dir: bool,
    /// Two entries differ.
    differs: bool,
}

impl Top {
    fn see(&mut self, path: &[u8], is_dir: bool) {
        let mut components = path.split(|&b| b == b'/').filter(|c| !matches!(*c, b"" | b"."));
        // The archive's own top has no component and belongs to any directory.
        let Some(first) = components.next() else { return };
        self.is_dir |= is_dir || components.next().is_some();
        self.differs |= self.first.get_or_insert_with(|| first.into()).as_ref() != first;
    }

    fn name(self) -> Option<String> {
        let first = self.first.filter(|_| self.is_dir && !self.differs)?;
        String::from_utf8(first.into()).ok()
    }
}
