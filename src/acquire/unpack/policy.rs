//! The entry policy: where an archive's entry goes in the tree, or why the whole archive is refused. Pure functions over
//! plain data.
//!
//! Globs stand for whole paths, from the archive's top after stripping: `root.password` is the one at the top, `*.md`
//! those at the top, `**/*.md` those anywhere. `*` and `?` do not match `/`. A directory that matches stands for all
//! below it.

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};

use super::UnpackError;
use super::member::Kind;
use crate::fs::{PathError, RelPath};
pub(super) use crate::intent::Limits;
use crate::intent::Unpack;

/// Unpacked bytes up to which any ratio is taken: a few blocks of zeros compress far better than real archives do.
const RATIO_FREE: u64 = 16 << 20;
/// Bytes of name and link target that an entry may have and count as one: entries are held in memory with them.
const NAMES_OF_ONE: u64 = 256;
/// The longest symlink target that Linux takes, in bytes.
const LONGEST_TARGET: usize = 4095;

/// Why an entry refuses the archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its path cannot be one below the tree.
    #[error("its path cannot be used")]
    Path(#[source] PathError),
    /// It has no name.
    #[error("it has no name")]
    NoName,
    /// The top of the tree as something else than a directory.
    #[error("it stands for the archive's top, but is no directory")]
    Top,
    /// A device or fifo.
    #[error("it is a {what}; only directories, regular files and links are unpacked (`unpack.exclude` leaves it out)")]
    Special {
        /// Which.
        what: &'static str,
    },
    /// Runs with other rights than its user's.
    #[error("its mode {mode:04o} has a set-user-id or set-group-id bit")]
    SetId {
        /// Its permission bits.
        mode: u32,
    },
    /// No target at all, or one that no system takes.
    #[error("the target of the symlink is empty, longer than {LONGEST_TARGET} bytes or has a NUL in it")]
    SymlinkTarget,
    /// Absolute, or led out by `..`.
    #[error("the symlink leads out of the tree, to `{target}`")]
    SymlinkEscapes {
        /// What is written in it.
        target: Box<str>,
    },
    /// Goes on upwards from what the archive has under another name.
    #[error(
        "the symlink leads to `{target}` by way of `{other}`, and the file system of the store takes that for an entry whose \
         name differs in case or in how characters are composed: keep the store on one that tells them apart, or leave the \
         symlink out with `unpack.exclude`"
    )]
    SymlinkByOtherName {
        /// What is written in it.
        target: Box<str>,
        /// The path in the tree that no entry has.
        other: Box<str>,
    },
    /// Where the symlinks lead cannot be found out in reasonable time.
    #[error("the symlinks of the archive lead through each other more often than in any real tree")]
    Maze,
    /// The other name of something that has no place in the tree.
    #[error(
        "it is a hard link to `{target}`, which stripping or `unpack.include`/`exclude` leaves out: keep both or neither"
    )]
    HardLinkLeftOut {
        /// The target as the archive names it.
        target: Box<str>,
    },
    /// The other name of something that cannot be in the tree.
    #[error("it is a hard link to `{target}`, which cannot be a path in the tree")]
    HardLinkPath {
        /// The target as the archive names it.
        target: Box<str>,
        /// Why not.
        #[source]
        source: PathError,
    },
    /// The other name of nothing.
    #[error("it is a hard link to `{target}`, which is no regular file or symlink earlier in the archive")]
    HardLinkTarget {
        /// The path it would have in the tree.
        target: RelPath,
    },
    /// Would be written through a link.
    #[error("it lies below `{link}`, which an earlier entry made a symlink")]
    BelowSymlink {
        /// The link.
        link: RelPath,
    },
    /// Would be written into a file.
    #[error("it lies below `{file}`, which an earlier entry made a file")]
    BelowFile {
        /// The file.
        file: RelPath,
    },
    /// There already.
    #[error("the archive holds it twice; only directories may be listed again")]
    Duplicate,
    /// There already, under a name that the file system takes for the same one.
    #[error(
        "the file system of the store takes its name for that of another entry, which differs in case or in how \
         characters are composed: keep the store on one that tells them apart, or leave one out with `unpack.exclude`"
    )]
    SameName,
    /// Too deep.
    #[error("its path has {depth} components, more than `unpack.limits.depth` ({limit}) allows")]
    Depth {
        /// Components of its path in the tree.
        depth: u64,
        /// The limit.
        limit: u32,
    },
    /// Too many bytes.
    #[error("with it the tree has {bytes} bytes, more than `unpack.limits.bytes` ({limit}) allows")]
    Bytes {
        /// Bytes of all files up to it.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// Too many entries.
    #[error(
        "it is one entry more than `unpack.limits.entries` ({limit}) allows; directories not listed count too, and names \
         and link targets that are longer than {NAMES_OF_ONE} bytes as several"
    )]
    Entries {
        /// The limit.
        limit: u64,
    },
    /// Too well compressed to be trusted.
    #[error("{packed} bytes of archive unpack to {unpacked}, more than `unpack.limits.ratio` ({limit}) allows")]
    Ratio {
        /// Archive bytes taken in.
        packed: u64,
        /// Bytes they became.
        unpacked: u64,
        /// The limit.
        limit: u32,
    },
}

/// What is done with an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Stripped or left out: nothing.
    Skip,
    /// It has a place in the tree.
    Keep {
        path: RelPath,
        /// A hard link's target, as a path in the tree.
        target: Option<RelPath>,
    },
}

/// The entry policy of one document.
#[derive(Debug)]
pub(super) struct Policy {
    strip: usize,
    prefix: Option<RelPath>,
    include: Option<GlobSet>,
    exclude: Option<GlobSet>,
    depth: u32,
}

impl Policy {
    pub(super) fn new(recipe: &Unpack) -> Result<Self, UnpackError> {
        Ok(Self {
            strip: usize::try_from(recipe.strip_components).unwrap_or(usize::MAX),
            prefix: recipe.prefix.clone(),
            include: globs(&recipe.include)?,
            exclude: globs(&recipe.exclude)?,
            depth: recipe.limits.depth,
        })
    }

    /// Where the entry goes, or why it refuses the archive. What has no place in the tree need only have a safe path.
    pub(super) fn judge(&self, raw: &[u8], kind: &Kind, mode: u32) -> Result<Verdict, Refusal> {
        if raw.is_empty() {
            return Err(Refusal::NoName);
        }
        let Some(named) = RelPath::normalize(raw).map_err(Refusal::Path)? else {
            return if *kind == Kind::Dir { Ok(Verdict::Skip) } else { Err(Refusal::Top) };
        };
        let Some(path) = self.place(raw, &named).map_err(Refusal::Path)? else { return Ok(Verdict::Skip) };
        let depth = path.depth() as u64;
        if depth > u64::from(self.depth) {
            return Err(Refusal::Depth { depth, limit: self.depth });
        }
        let target = match kind {
            Kind::Special(what) => return Err(Refusal::Special { what }),
            Kind::Symlink { target } => {
                check_symlink(&path, target)?;
                return Ok(Verdict::Keep { path, target: None });
            }
            Kind::HardLink { target } => Some(self.hard_link_target(target)?),
            Kind::Dir | Kind::File => None,
        };
        if mode & 0o6000 != 0 {
            return Err(Refusal::SetId { mode });
        }
        Ok(Verdict::Keep { path, target })
    }

    /// The path in the tree of what the archive calls `raw`, which is `named`; `None` where it has none.
    fn place(&self, raw: &[u8], named: &RelPath) -> Result<Option<RelPath>, PathError> {
        // A `.` is a component like any other to those who strip: `tar -C dir .` puts one before each name.
        let stripped = raw.split(|&b| b == b'/').filter(|component| !component.is_empty()).take(self.strip);
        let mut rest = named.as_bytes();
        for _ in stripped.filter(|component| *component != b".") {
            match rest.iter().position(|&b| b == b'/') {
                Some(at) => rest = &rest[at + 1..],
                None => return Ok(None),
            }
        }
        let path = Candidate::from_bytes(rest);
        let included = self.include.as_ref().is_none_or(|globs| globs.is_match_candidate(&path));
        let excluded = self.exclude.as_ref().is_some_and(|globs| globs.is_match_candidate(&path));
        if !included || excluded {
            return Ok(None);
        }
        let path = RelPath::parse(rest)?;
        self.prefix.as_ref().map_or(Ok(path.clone()), |prefix| prefix.join(&path)).map(Some)
    }

    fn hard_link_target(&self, raw: &[u8]) -> Result<RelPath, Refusal> {
        let target = || super::error::shown(raw);
        let unusable = |source| Refusal::HardLinkPath { target: target(), source };
        let named = RelPath::normalize(raw).map_err(unusable)?.ok_or_else(|| unusable(PathError::Empty))?;
        self.place(raw, &named).map_err(unusable)?.ok_or_else(|| Refusal::HardLinkLeftOut { target: target() })
    }
}

/// Of each pattern a glob for what it matches and one for all below that: to match a path's every beginning would take
/// the square of its length.
fn globs(patterns: &[String]) -> Result<Option<GlobSet>, UnpackError> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let wrong = |pattern: &str, source| UnpackError::Glob { pattern: pattern.into(), source };
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        // All are anchored at the top and stand for directories too: a slash at either end says nothing more.
        let bare = pattern.strip_prefix("./").unwrap_or(pattern).trim_matches('/');
        for glob in [bare, &format!("{bare}/**")] {
            let glob = GlobBuilder::new(glob).literal_separator(true).backslash_escape(true).build();
            set.add(glob.map_err(|source| wrong(pattern, source))?);
        }
    }
    set.build().map(Some).map_err(|source| wrong(&patterns.join(", "), source))
}

/// Checks a symlink's target as written: relative, and not above the tree's top on its way. Where it leads through
/// other symlinks is judged once all of them are known.
pub(super) fn check_symlink(path: &RelPath, target: &[u8]) -> Result<(), Refusal> {
    if target.is_empty() || target.len() > LONGEST_TARGET || target.contains(&0) {
        return Err(Refusal::SymlinkTarget);
    }
    let escapes = || Refusal::SymlinkEscapes { target: super::error::shown(target) };
    if target[0] == b'/' {
        return Err(escapes());
    }
    let mut depth = path.depth() - 1;
    for component in target.split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => depth = depth.checked_sub(1).ok_or_else(escapes)?,
            _ => depth += 1,
        }
    }
    Ok(())
}

/// Whether so many unpacked bytes may come from so many packed ones.
pub(super) fn check_ratio(limits: &Limits, unpacked: u64, packed: u64) -> Result<(), Refusal> {
    if unpacked > RATIO_FREE && unpacked > packed.saturating_mul(limits.ratio.into()) {
        return Err(Refusal::Ratio { packed, unpacked, limit: limits.ratio });
    }
    Ok(())
}

/// The bytes of the tree with `more` added to `before`.
pub(super) fn add_bytes(limits: &Limits, before: u64, more: u64) -> Result<u64, Refusal> {
    let bytes = before.saturating_add(more);
    if bytes > limits.bytes.0 { Err(Refusal::Bytes { bytes, limit: limits.bytes.0 }) } else { Ok(bytes) }
}

/// How many entries one counts for, by the bytes of its names.
pub(super) fn weight(names: u64) -> u64 {
    1 + names / NAMES_OF_ONE
}

/// Whether so many entries may be.
pub(super) fn check_entries(limits: &Limits, entries: u64) -> Result<(), Refusal> {
    if entries > limits.entries { Err(Refusal::Entries { limit: limits.entries }) } else { Ok(()) }
}
