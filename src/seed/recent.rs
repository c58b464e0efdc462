//! What was seeded since `seeds.json` was written last: `seeds.recent` in the store, a line of JSON for each.
//!
//! What must hold: a seed that was answered for is known after the daemon was killed. Nothing here is synced: what a power
//! loss takes with it is the list, not the marks on the targets, and the next seed of each brings it back.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::sync::{Mutex, MutexGuard};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::lock;
use super::place::component;
use crate::fs::{self, Dir, fail_point};
use crate::store::read_or_put_aside;

const NAME: &str = "seeds.recent";
/// Bytes of it. It is emptied every few seconds, so that no more come together.
const LIMIT: u64 = 64 << 20;

/// The file; opened when there is something to write.
#[derive(Debug)]
pub(super) struct Recent {
    store: Dir,
    file: Mutex<Option<File>>,
}

/// The right to write `seeds.json`: nothing is added meanwhile.
pub(super) struct Held<'a>(MutexGuard<'a, Option<File>>);

impl Recent {
    pub(super) fn new(store: &Dir) -> Self {
        Self { store: store.clone(), file: Mutex::default() }
    }

    /// The lines of a daemon before this one, up to one that is not whole: that is cut off, lest it spoil the next. Errors are
    /// of reading: an acknowledged seed is not given up for one that may pass.
    pub(super) fn read<T: DeserializeOwned>(&self) -> fs::Result<Vec<T>> {
        let Some(bytes) = read_or_put_aside(&self.store, NAME, LIMIT)? else { return Ok(Vec::new()) };
        let mut whole = 0;
        let lines = bytes.split_inclusive(|byte| *byte == b'\n').map_while(|line| {
            let row = serde_json::from_slice(line.strip_suffix(b"\n")?).ok()?;
            whole += line.len() as u64;
            Some(row)
        });
        let rows = lines.collect();
        if whole < bytes.len() as u64
            && let Err(error) = self.cut(whole)
        {
            tracing::warn!(%error, "half a line of seeds.recent not cut off");
        }
        Ok(rows)
    }

    /// Adds what is known already, and will be in the next `seeds.json`.
    pub(super) fn add(&self, row: &impl Serialize) {
        let mut line =
            serde_json::to_vec(row).unwrap_or_else(|e| unreachable!("plain fields with text keys serialise: {e}"));
        line.push(b'\n');
        let mut file = lock(&self.file);
        if let Err(error) = self.append(&mut file, &line) {
            tracing::warn!(%error, "seed not noted in seeds.recent; a kill within seconds would forget it");
        }
    }

    fn cut(&self, length: u64) -> fs::Result<()> {
        let name = component(NAME.as_bytes());
        let file = self.store.open_or_create_file(&name, 0o644)?;
        file.set_len(length).map_err(|e| fs::Error::new("cut", &self.store.path_of(&name), e))
    }

    fn append(&self, file: &mut Option<File>, line: &[u8]) -> fs::Result<()> {
        let name = component(NAME.as_bytes());
        let file = match file {
            Some(file) => file,
            None => file.insert(self.store.open_or_create_file(&name, 0o644)?),
        };
        let written = file.seek(SeekFrom::End(0)).and_then(|at| {
            if at + line.len() as u64 > LIMIT {
                return Err(std::io::ErrorKind::FileTooLarge.into());
            }
            fail_point("seed.recent.before-append");
            // Half a line would spoil the next.
            file.write_all(line).inspect_err(|_| drop(file.set_len(at)))
        });
        fail_point("seed.recent.after-append");
        written.map_err(|e| fs::Error::new("write", &self.store.path_of(&name), e))
    }

    /// To be held from before all that is known is gathered until it is written.
    pub(super) fn hold(&self) -> Held<'_> {
        Held(lock(&self.file))
    }
}

impl Held<'_> {
    /// All of it is in `seeds.json` now.
    pub(super) fn empty(self, recent: &Recent) {
        let name = component(NAME.as_bytes());
        // Also what an earlier daemon left, which this one has taken up.
        let emptied = match &*self.0 {
            Some(file) => file.set_len(0).map_err(|e| fs::Error::new("empty", &recent.store.path_of(&name), e)),
            None => match recent.store.remove_file(&name) {
                Err(error) if !error.is_not_found() => Err(error),
                _ => Ok(()),
            },
        };
        fail_point("seed.recent.after-emptying");
        if let Err(error) = emptied {
            tracing::warn!(%error, "seeds.recent not emptied; what it says is known");
        }
    }
}
