//! Directories on record are mended after their version was had again, while they hold it still.

use std::collections::BTreeSet;
use std::time::Duration;

use super::fill::{Peer, Refusal, Step, decide};
use super::filler::{FillError, FillRequest};
use super::{Filled, SeedError, SeedProgress, Seeder};
use crate::fs::{Dir, HandleError, LinkMode};
use crate::intent::Link;
use crate::store::Version;

impl Seeder {
    /// A directory on record.
    pub fn open_filled(&self, filled: &Filled) -> Result<Dir, FillError> {
        let dir = self.store.root().open_by_handle(&filled.handle, filled.target.as_ref());
        Ok(dir.map_err(|error| match error {
            HandleError::Fs(error) => SeedError::Fs(error),
            gone => SeedError::Unreachable { target: filled.target.clone().into(), source: gone },
        })?)
    }

    /// Mends a directory on record, after its version was had again; `false` where it holds that version no more. One at
    /// a time for one directory; who has it locked is waited for up to `patience`. Blocks.
    pub fn mend_filled(
        &self,
        version: &Version,
        filled: &Filled,
        dir: Dir,
        patience: Duration,
        progress: &SeedProgress,
    ) -> Result<bool, FillError> {
        let target = || filled.target.clone().into();
        // Its pod may be swapping another version in.
        let Some(_alone) = dir.lock(patience)? else {
            return Err(SeedError::Locked { target: target(), seconds: patience.as_secs() }.into());
        };
        let owner = dir.stat_self()?;
        let peer = Peer { uid: owner.uid, gid: owner.gid };
        let work = self.work_on(version, Link::Auto, peer, progress)?;
        let found = self.find(&work, &FillRequest { dir, link: Link::Auto, target: filled.target.clone(), peer })?;
        let done = match decide(&found.facts) {
            Step::Mend => self.mend_by_handle(&work, &found.dir, found.mark).map_err(|error| error.at(target()))?,
            Step::Receive(why) => Err(why),
            Step::Refuse(Refusal::Occupied) | Step::Fill | Step::FillByReflink(_) => return Ok(false),
            Step::Refuse(refusal) => return Err(refusal.into()),
            // It was opened by its handle.
            Step::FillInPlace(_) | Step::MendInPlace => return Ok(false),
        };
        let done = done.map_err(|why| Refusal::NoLink { mode: LinkMode::Hardlink, why })?;
        self.records.keep_filled(filled.handle.clone(), &filled.target, peer.uid, &done.mark);
        Ok(true)
    }

    /// The directories on record that still stand. Looks at every one.
    pub fn filled(&self) -> Vec<Filled> {
        self.records.all_filled(self.store.root())
    }

    /// The directories on record that stood when they were last looked at.
    pub fn known_filled(&self) -> Vec<Filled> {
        self.records.known_filled()
    }

    /// Looks at the directories that their peers call so. Whether one is forgotten now. Blocks.
    pub fn look_at_filled(&self, targets: &BTreeSet<String>) -> bool {
        self.records.look_at_filled(self.store.root(), |target| targets.contains(target))
    }
}
