//! Names of what is being made: nothing else uses them, and what a killed process left under one is known by it.

use super::dir::invalid;
use super::{Dir, Kind, RelPath, Result};

/// What stands between the name of what is being made and the random letters.
const INFIX: &[u8] = b".seedcache-";
/// Random letters and digits.
const RANDOM: usize = 12;

impl Dir {
    /// A name beside `name` that nothing else uses: `.<name>.seedcache-<random>`.
    pub fn temporary_name(&self, name: &RelPath) -> Result<RelPath> {
        let suffix: String = std::iter::repeat_with(fastrand::alphanumeric).take(RANDOM).collect();
        let mut bytes = Self::temporary_prefix(name);
        bytes.extend_from_slice(suffix.as_bytes());
        RelPath::parse(bytes).map_err(|e| invalid("name a temporary beside", &self.path_of(name), e))
    }

    /// What every [`Dir::temporary_name`] of `name` starts with.
    pub fn temporary_prefix(name: &RelPath) -> Vec<u8> {
        let keep = &name.as_bytes()[..name.as_bytes().len().min(200)];
        [b".", keep, INFIX].concat()
    }

    /// Removes files that were being written here when their process was killed. Nobody else may be writing here.
    pub fn clear_temporaries(&self) -> Result<()> {
        self.try_each_entry(|entry| {
            let is_left = entry.kind == Kind::File && is_temporary(entry.name.as_bytes());
            if is_left { self.remove_file(&entry.name) } else { Ok(()) }
        })
    }
}

fn is_temporary(name: &[u8]) -> bool {
    let Some((stem, random)) = name.len().checked_sub(RANDOM).map(|at| name.split_at(at)) else { return false };
    stem.starts_with(b".") && stem.ends_with(INFIX) && random.iter().all(u8::is_ascii_alphanumeric)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;

    #[test]
    fn what_was_being_written_goes_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open(root.path()).unwrap();
        let name: RelPath = "pins.json".parse().unwrap();
        let temporary = dir.temporary_name(&name).unwrap();
        dir.create_file(&temporary, 0o600).unwrap();
        let others =
            ["pins.json", ".pins.json", ".x.seedcache-abc", "x.seedcache-abcdefghijk1", ".x.seedcache-abcdefghij-1"];
        others.iter().for_each(|name| drop(dir.create_file(&name.parse().unwrap(), 0o600).unwrap()));
        let made: RelPath = ".x.seedcache-abcdefghijk1".parse().unwrap();
        dir.make_dir(&made, 0o700).unwrap();
        dir.clear_temporaries().unwrap();
        assert_eq!(dir.stat(&temporary).unwrap(), None);
        assert!(dir.stat(&made).unwrap().is_some());
        assert_eq!(dir.entries().unwrap().len(), others.len() + 1);
    }
}
