//! A seed held against the manifest, entry by entry. What agrees is not touched; what is missing or changed is made
//! in a directory beside the target and renamed into its place, so that each entry is at any instant the old or the
//! new. What the manifest does not know is the pod's own and is left alone. In a peer's tree no name is changed in a
//! directory that is not the peer's.

use std::cell::Cell;
use std::io::Read as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sha2::{Digest as _, Sha256};

use super::build::{Pair, TOP_MODE};
use super::entry::{Made, Maker, own_name};
use super::owned::Names;
use super::place::same_inode;
use super::staged::{Scratch, Staged};
use super::tree::{Directory, Layout, walk};
use super::unread::read_large;
use super::{Next, Rung, SeedError, Why, lock, next_rung};
use crate::fs::{self, Dir, Kind, LinkMode, Meta, RelPath, Rename, Stat, fail_point};
use crate::intent::Link;
use crate::store::{Entry, EntryType};

/// Without these its owner cannot work in a directory.
const WORKABLE: u32 = 0o700;

/// Mends the seed `top.to`. With `read`, the content of files with bytes of their own is read, too. Where `owned` says
/// what in it is ours, directories that are not keep their metadata.
pub(super) fn mend(
    maker: &Maker,
    layout: &Layout,
    top: &Pair,
    scratch: &Scratch,
    owned: Option<&Names>,
    read: bool,
) -> Result<(), SeedError> {
    let mender = Mender { maker, made_in: scratch, owned, read, scratch: Mutex::default(), serial: AtomicU64::new(0) };
    let mended = mender.tree(layout, top);
    if let Some(staged) = lock(&mender.scratch).take() {
        staged.discard();
    }
    mended
}

struct Mender<'m> {
    maker: &'m Maker<'m>,
    made_in: &'m Scratch,
    /// What is ours; `None`: all.
    owned: Option<&'m Names>,
    read: bool,
    /// Where entries are made, and where replaced ones end; made when first needed.
    scratch: Mutex<Option<Staged>>,
    serial: AtomicU64,
}

/// A directory of the seed while its names are mended.
struct Spot {
    pair: Pair,
    before: Stat,
    workable: Cell<bool>,
}

impl Spot {
    /// A peer can move others' directories into its own; the names in them are not for it to have changed.
    fn new(pair: Pair, maker: &Maker) -> Result<Self, SeedError> {
        let before = pair.to.stat_self()?;
        if !maker.may_change(&before) {
            return Err(SeedError::Clash { path: pair.to.path().into() });
        }
        Ok(Self { pair, before, workable: Cell::new(before.mode & WORKABLE == WORKABLE) })
    }

    /// Lets its owner write in it; its metadata is set when all is done.
    fn make_workable(&self, maker: &Maker) -> Result<(), SeedError> {
        if !self.workable.replace(true) && maker.may_change(&self.before) {
            let meta = Meta { mode: self.before.mode | WORKABLE, owner: None, mtime: self.before.mtime };
            self.pair.to.apply_meta(&meta)?;
        }
        Ok(())
    }

    /// Renames what was made in `scratch` to `name`. A directory on either side takes an exchange.
    fn take(&self, maker: &Maker, scratch: &Dir, made: &RelPath, name: &RelPath, how: Rename) -> Result<(), SeedError> {
        self.make_workable(maker)?;
        fail_point("seed.mend.before-rename");
        scratch.rename(made, &self.pair.to, name, how)?;
        fail_point("seed.mend.after-rename");
        Ok(())
    }
}

impl Mender<'_> {
    fn tree(&self, layout: &Layout, top: &Pair) -> Result<(), SeedError> {
        // Else only what differs is made of the store's files.
        if self.maker.mode() == LinkMode::Hardlink {
            read_large(self.maker.version, layout);
        }
        walk(layout, top.clone(), &|directory, above: &Pair| self.visit(layout, directory, above))?;
        for entry in &layout.links {
            self.link(entry, top)?;
            self.maker.count_done();
        }
        for directory in layout.directories.iter().rev().filter(|directory| directory.links) {
            if let Some(entry) = directory.entry {
                self.settle(entry, &top.to.open_dir(&entry.path)?)?;
            }
        }
        let stat = top.to.stat_self()?;
        if stat.mode != TOP_MODE && self.owned.is_none() {
            top.to.apply_meta(&Meta { mode: TOP_MODE, owner: None, mtime: stat.mtime })?;
            self.maker.count_written();
        }
        Ok(())
    }

    fn visit<'a>(&self, layout: &Layout<'a>, directory: &Directory<'a>, above: &Pair) -> Result<Pair, SeedError> {
        let pair = match directory.entry {
            Some(entry) => above.below(entry)?,
            None => above.clone(),
        };
        let spot = Spot::new(pair, self.maker)?;
        for entry in directory.below.iter().filter_map(|&below| layout.directories[below].entry) {
            self.stand_directory(entry, &spot)?;
        }
        for entry in &directory.leaves {
            match entry.kind {
                EntryType::Symlink => self.symlink(entry, &spot)?,
                _ if self.maker.mode() == LinkMode::Hardlink => self.shared_file(entry, &spot)?,
                _ => self.own_file(entry, &spot)?,
            }
            self.maker.count_done();
        }
        if let Some(entry) = directory.entry {
            if self.is_ours(entry) && !self.metadata_agrees(entry, &spot.before) {
                self.maker.count_written();
            }
            if !directory.links {
                self.settle(entry, &spot.pair.to)?;
            }
            self.maker.count_done();
        }
        Ok(spot.pair)
    }

    fn metadata_agrees(&self, entry: &Entry, stat: &Stat) -> bool {
        stat.mtime == entry.mtime_parts() && self.maker.rights_agree(entry, stat)
    }

    /// Whether the directory is ours, and its metadata with it.
    fn is_ours(&self, entry: &Entry) -> bool {
        self.owned.is_none_or(|names| names.has(&entry.path, Kind::Dir))
    }

    /// Gives a directory its metadata, after all that happened in it.
    fn settle(&self, entry: &Entry, dir: &Dir) -> Result<(), SeedError> {
        let found = dir.stat_self()?;
        if self.is_ours(entry) && !self.metadata_agrees(entry, &found) && self.maker.may_change(&found) {
            dir.apply_meta(&self.maker.meta(entry))?;
        }
        Ok(())
    }

    /// Sees that there is a directory; its own visit tends to the rest.
    fn stand_directory(&self, entry: &Entry, spot: &Spot) -> Result<(), SeedError> {
        let name = own_name(entry);
        let found = spot.pair.to.stat(&name)?.map(|stat| stat.kind);
        if found != Some(Kind::Dir) && !self.maker.may_remove_directories() {
            return self.hand_over_directory(entry, spot, &name, found.is_some());
        }
        match found {
            Some(Kind::Dir) => Ok(()),
            None => {
                spot.make_workable(self.maker)?;
                Ok(spot.pair.to.make_dir(&name, WORKABLE)?)
            }
            Some(_) => {
                let (scratch, made) = self.scratch()?;
                scratch.make_dir(&made, WORKABLE)?;
                spot.take(self.maker, &scratch, &made, &name, Rename::Exchange)
            }
        }
    }

    /// Makes a directory in a peer's: the peer's own before the peer can get at it. What stands in its place is
    /// unlinked, which no directory can be, rather than taken out with all that may be in it by now.
    fn hand_over_directory(&self, entry: &Entry, spot: &Spot, name: &RelPath, taken: bool) -> Result<(), SeedError> {
        let (scratch, made) = self.scratch()?;
        scratch.make_dir(&made, WORKABLE)?;
        scratch.open_dir(&made)?.apply_meta(&Meta { mode: WORKABLE, ..self.maker.meta(entry) })?;
        if taken {
            spot.pair.to.remove_file(name)?;
        }
        spot.take(self.maker, &scratch, &made, name, Rename::NoReplace)
    }

    fn symlink(&self, entry: &Entry, spot: &Spot) -> Result<(), SeedError> {
        let name = own_name(entry);
        let found = spot.pair.to.stat(&name)?;
        if let Some(stat) = found
            && stat.kind == Kind::Symlink
            && self.metadata_agrees(entry, &stat)
            && spot.pair.to.read_link(&name)? == self.maker.target(entry)?
        {
            return Ok(());
        }
        self.replace(entry, spot, found)
    }

    /// A file whose inode is the store's.
    fn shared_file(&self, entry: &Entry, spot: &Spot) -> Result<(), SeedError> {
        let name = own_name(entry);
        // Were the shared inode changed through the seed, it is the store that is damaged.
        let sound = self.maker.sound(entry, &spot.pair.from);
        let found = spot.pair.to.stat(&name)?;
        if let (Some(stat), Ok(store)) = (&found, &sound)
            && same_inode(stat, store)
        {
            return Ok(());
        }
        let (scratch, made) = self.scratch()?;
        let tried = match sound {
            Err(SeedError::Unsettled { .. }) if self.maker.may_copy() => Made::OnlyByCopy(Why::Unsettled),
            store => self.maker.file_by_mode(entry, &store?, &spot.pair.from, &scratch, &made)?,
        };
        if let Made::OnlyByCopy(why) = tried {
            if self.is_good_copy(entry, &spot.pair.to, found)? {
                return Ok(());
            }
            self.maker.copy_alone(entry, &spot.pair.from, &scratch, &made, why)?;
        }
        self.put(spot, &scratch, &made, &name, found)
    }

    /// A file with an inode of its own.
    fn own_file(&self, entry: &Entry, spot: &Spot) -> Result<(), SeedError> {
        let name = own_name(entry);
        let found = spot.pair.to.stat(&name)?;
        let Some(stat) = found.filter(|stat| looks_like(entry, stat)) else { return self.replace(entry, spot, found) };
        if self.read && !self.content_agrees(entry, &spot.pair.to)? {
            return self.replace(entry, spot, found);
        }
        if self.maker.rights_agree(entry, &stat) {
            return Ok(());
        }
        // Another owner may hold it open for writing, and another name may be the store's.
        if !self.maker.owner_agrees(entry, &stat) || stat.links > 1 {
            return self.replace(entry, spot, found);
        }
        let file = spot.pair.to.open_file(&name)?;
        let path = spot.pair.to.path_of(&name);
        let opened = Dir::stat_file(&file, &path)?;
        if !same_inode(&opened, &stat) || opened.links > 1 || !Self::has_content(entry, &file, &path)? {
            return self.replace(entry, spot, found);
        }
        fs::apply_meta(&file, &path, &self.maker.meta(entry))?;
        self.maker.count_written();
        Ok(())
    }

    /// A further name of a file of the seed.
    fn link(&self, entry: &Entry, top: &Pair) -> Result<(), SeedError> {
        let first_name = self.maker.first_name(entry)?;
        let (first, found) = (top.to.stat(&first_name)?, top.to.stat(&entry.path)?);
        if let (Some(first), Some(found)) = (&first, &found)
            && same_inode(first, found)
        {
            return Ok(());
        }
        let spot = Spot::new(top.holding(entry)?, self.maker)?;
        let (scratch, made) = self.scratch()?;
        if let Err(failure) = fs::hard_link(&top.to, &first_name, &scratch, &made) {
            let Next::CopyOne(why) = next_rung(&Rung::resumed(Link::Auto, LinkMode::Hardlink), &failure) else {
                return Err(fs::Error::new("link to", &top.to.path_of(&entry.path), failure).into());
            };
            if self.is_good_copy(entry, &spot.pair.to, found)? {
                return Ok(());
            }
            self.maker.copy_alone(entry, &spot.pair.from, &scratch, &made, why)?;
        } else if !self.may_have_another_name(&scratch, &made, top, &first_name)? {
            return Err(SeedError::Clash { path: top.to.path_of(&first_name) });
        }
        self.put(&spot, &scratch, &made, &own_name(entry), found)
    }

    /// Whether what was linked into the scratch directory may be handed on. A peer may have put anybody's file under
    /// the first name: only its own and the store's may.
    fn may_have_another_name(
        &self,
        scratch: &Dir,
        made: &RelPath,
        top: &Pair,
        first_name: &RelPath,
    ) -> Result<bool, SeedError> {
        let Some(linked) = scratch.stat(made)? else { return Ok(false) };
        let is_stores = || Ok(top.from.stat(first_name)?.is_some_and(|store| same_inode(&linked, &store)));
        if self.maker.may_change(&linked) { Ok(true) } else { is_stores() }
    }

    fn is_good_copy(&self, entry: &Entry, to: &Dir, found: Option<Stat>) -> Result<bool, SeedError> {
        match found {
            Some(stat) if looks_like(entry, &stat) && self.maker.rights_agree(entry, &stat) => {
                self.content_agrees(entry, to)
            }
            _ => Ok(false),
        }
    }

    fn content_agrees(&self, entry: &Entry, to: &Dir) -> Result<bool, SeedError> {
        let name = own_name(entry);
        Self::has_content(entry, &to.open_file(&name)?, &to.path_of(&name))
    }

    fn has_content(entry: &Entry, file: &std::fs::File, path: &Path) -> Result<bool, SeedError> {
        let found = content_digest(file).map_err(|e| fs::Error::new("read", path, e))?;
        // A hard link has no digest of its own in the manifest; its first name was read.
        Ok(entry.sha256.is_none_or(|digest| digest == found))
    }

    fn replace(&self, entry: &Entry, spot: &Spot, found: Option<Stat>) -> Result<(), SeedError> {
        let (scratch, made) = self.scratch()?;
        self.maker.leaf(entry, &spot.pair.from, &scratch, &made)?;
        self.put(spot, &scratch, &made, &own_name(entry), found)
    }

    fn put(
        &self,
        spot: &Spot,
        scratch: &Dir,
        made: &RelPath,
        name: &RelPath,
        found: Option<Stat>,
    ) -> Result<(), SeedError> {
        let directory = found.is_some_and(|stat| stat.kind == Kind::Dir);
        if directory && (self.owned.is_some() || !self.maker.may_remove_directories()) {
            // Whoever made it where a file of ours was, it is not ours to remove.
            return Err(SeedError::Clash { path: spot.pair.to.path_of(name) });
        }
        spot.take(self.maker, scratch, made, name, if directory { Rename::Exchange } else { Rename::Replace })?;
        self.maker.count_written();
        Ok(())
    }

    /// The scratch directory, and a name in it that was not used yet.
    fn scratch(&self) -> Result<(Dir, RelPath), SeedError> {
        let name = RelPath::parse(self.serial.fetch_add(1, Relaxed).to_string())
            .unwrap_or_else(|e| unreachable!("digits are a component: {e}"));
        let mut scratch = lock(&self.scratch);
        if let Some(staged) = &*scratch {
            return Ok((staged.dir().clone(), name));
        }
        let staged = scratch.insert(self.made_in.stage()?);
        Ok((staged.dir().clone(), name))
    }
}

/// Whether a file has the type, size and time that the manifest says.
fn looks_like(entry: &Entry, stat: &Stat) -> bool {
    stat.kind == Kind::File && stat.size == entry.size && stat.mtime == entry.mtime_parts()
}

pub(super) fn content_digest(mut file: &std::fs::File) -> std::io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; 256 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize().into()),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
