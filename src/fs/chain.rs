//! The way to the directory last used, held open: what lies together in a tree is made together, and is then reached
//! without resolving its path again from the top.

use super::{Dir, RelPath, Result};

/// Handles held open on the way down to a directory; below that paths are resolved from the last one.
const DEEPEST_HANDLE: usize = 64;

/// The directories from the top of a tree to the one last used.
#[derive(Debug)]
pub struct Chain {
    top: Dir,
    open: Vec<(Box<[u8]>, Dir)>,
}

impl Chain {
    /// Of the tree below `top`.
    pub fn from(top: &Dir) -> Self {
        Self { top: top.clone(), open: Vec::new() }
    }

    /// The top of the tree.
    pub fn top(&self) -> &Dir {
        &self.top
    }

    /// The directory that holds `path`, or one above it, and the path from there.
    pub fn parent_of(&mut self, path: &RelPath) -> Result<(&Dir, RelPath)> {
        let components: Vec<&[u8]> = path.components().collect();
        let held = (components.len() - 1).min(DEEPEST_HANDLE);
        let (above, rest) = components.split_at(held);
        let same = self.open.iter().zip(above).take_while(|((name, _), wanted)| **name == ***wanted).count();
        self.open.truncate(same);
        for name in &above[same..] {
            let component = RelPath::parse(name).unwrap_or_else(|e| unreachable!("it is a component of a path: {e}"));
            let dir = self.last().open_dir(&component)?;
            self.open.push(((*name).into(), dir));
        }
        let rest = RelPath::parse(rest.join(&b'/')).unwrap_or_else(|e| unreachable!("it is the tail of a path: {e}"));
        Ok((self.last(), rest))
    }

    fn last(&self) -> &Dir {
        self.open.last().map_or(&self.top, |(_, dir)| dir)
    }
}
