//! A version's entries by directory, and the walk over them on a few threads: a directory's own names are one thread's
//! work, so that each handle is opened once and each name is looked up alone.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, PoisonError};

use super::lock;
use crate::fs::RelPath;
use crate::store::{Entry, EntryType};

/// Fewer entries than this are not worth a thread.
const WORTH_A_THREAD: usize = 256;
/// More threads than this only wait for the file system's own locks.
const THREADS: usize = 4;

/// The entries of a tree by directory, parents before children; the first is the tree's own.
#[derive(Debug)]
pub(super) struct Layout<'a> {
    pub(super) directories: Vec<Directory<'a>>,
    /// Further names of files, which need those files to be there.
    pub(super) links: Vec<&'a Entry>,
    threads: usize,
}

/// One directory and what is directly in it.
#[derive(Debug)]
pub(super) struct Directory<'a> {
    /// `None`: the top of the tree, which the manifest does not list.
    pub(super) entry: Option<&'a Entry>,
    /// Directories in it, by place in [`Layout::directories`].
    pub(super) below: Vec<usize>,
    /// Files and symlinks in it.
    pub(super) leaves: Vec<&'a Entry>,
    /// Hard links are added to it after its turn.
    pub(super) links: bool,
}

impl<'a> Layout<'a> {
    /// Of a manifest's entries. `Err` names an entry whose parent is not among those before it.
    pub(super) fn of(entries: &'a [Entry]) -> Result<Self, &'a RelPath> {
        let node = |entry| Directory { entry, below: Vec::new(), leaves: Vec::new(), links: false };
        let mut directories = vec![node(None)];
        let mut links = Vec::new();
        // The directories that the last entry lies in: sorted entries only ever leave some and enter one.
        let mut open: Vec<(usize, &RelPath)> = Vec::new();
        for entry in entries {
            let parent = entry.path.split_last().0;
            while open.last().is_some_and(|(_, path)| Some(path.as_bytes()) != parent) {
                open.pop();
            }
            let at = match (open.last(), parent) {
                (Some((at, _)), _) => *at,
                (None, None) => 0,
                (None, Some(_)) => return Err(&entry.path),
            };
            match entry.kind {
                EntryType::Dir => {
                    let own = directories.len();
                    directories[at].below.push(own);
                    directories.push(node(Some(entry)));
                    open.push((own, &entry.path));
                }
                EntryType::File | EntryType::Symlink => directories[at].leaves.push(entry),
                EntryType::Hardlink => {
                    directories[at].links = true;
                    links.push(entry);
                }
            }
        }
        let threads = if entries.len() < WORTH_A_THREAD {
            1
        } else {
            std::thread::available_parallelism().map_or(1, |n| n.get().min(THREADS))
        };
        Ok(Self { directories, links, threads })
    }

    /// Where its directories are.
    pub(super) fn paths(&self) -> BTreeSet<&'a RelPath> {
        self.directories.iter().filter_map(|directory| Some(&directory.entry?.path)).collect()
    }
}

struct Queue<H, E> {
    /// Directories whose parents are done, with what their parents gave.
    ready: Vec<(usize, H)>,
    /// Directories being visited.
    active: usize,
    /// Threads that found nothing to do.
    waiting: usize,
    failure: Option<E>,
}

/// Visits every directory after the one it lies in. `visit` gets what the visit of the parent gave (the top: `top`).
/// After a failure no further directory is visited; the first failure is returned.
pub(super) fn walk<'a, H, E>(
    layout: &Layout<'a>,
    top: H,
    visit: &(impl Fn(&Directory<'a>, &H) -> Result<H, E> + Sync),
) -> Result<(), E>
where
    H: Clone + Send,
    E: Send,
{
    let queue = Mutex::new(Queue { ready: vec![(0, top)], active: 0, waiting: 0, failure: None });
    let changed = Condvar::new();
    let worker = || {
        while let Some((at, above)) = next(&queue, &changed) {
            let _turn = Turn { queue: &queue, changed: &changed };
            let directory = &layout.directories[at];
            let done = visit(directory, &above);
            let mut queue = lock(&queue);
            match done {
                // The last pushed is the next taken: few handles are held at a time, however wide the tree is.
                Ok(here) => queue.ready.extend(directory.below.iter().rev().map(|&below| (below, here.clone()))),
                Err(failure) => {
                    queue.failure.get_or_insert(failure);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..layout.threads {
            // Where no more threads can be had, those that there are do it.
            if std::thread::Builder::new().spawn_scoped(scope, worker).is_err() {
                break;
            }
        }
        worker();
    });
    match queue.into_inner().unwrap_or_else(PoisonError::into_inner).failure {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

/// The next directory to visit; `None` when all are visited or one failed.
fn next<H, E>(queue: &Mutex<Queue<H, E>>, changed: &Condvar) -> Option<(usize, H)> {
    let mut queue = lock(queue);
    loop {
        if queue.failure.is_some() {
            return None;
        }
        if let Some(task) = queue.ready.pop() {
            queue.active += 1;
            return Some(task);
        }
        if queue.active == 0 {
            return None;
        }
        queue.waiting += 1;
        queue = changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        queue.waiting -= 1;
    }
}

/// Ends a visit even when it panics: the other threads must not wait for it for ever.
struct Turn<'q, H, E> {
    queue: &'q Mutex<Queue<H, E>>,
    changed: &'q Condvar,
}

impl<H, E> Drop for Turn<'_, H, E> {
    fn drop(&mut self) {
        let mut queue = lock(self.queue);
        queue.active -= 1;
        // With all threads at work, which is the rule, nobody need be woken.
        let nobody = queue.waiting == 0;
        drop(queue);
        if !nobody {
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;

    fn entry(path: &str, kind: EntryType) -> Entry {
        Entry {
            path: path.parse().unwrap(),
            kind,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: jiff::Timestamp::UNIX_EPOCH,
            size: 0,
            sha256: None,
            target: None,
        }
    }

    fn wide() -> Vec<Entry> {
        let mut entries = Vec::new();
        for a in 0..20 {
            entries.push(entry(&format!("{a}"), EntryType::Dir));
            for b in 0..20 {
                entries.push(entry(&format!("{a}/{b}"), EntryType::Dir));
                entries.push(entry(&format!("{a}/{b}/file"), EntryType::File));
            }
            entries.push(entry(&format!("{a}/file"), EntryType::File));
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        entries
    }

    #[test]
    fn entries_are_found_in_their_directories() {
        let entries = wide();
        let layout = Layout::of(&entries).unwrap();
        assert_eq!(layout.directories.len(), 421);
        for directory in &layout.directories[1..] {
            let own = directory.entry.unwrap();
            assert!(directory.leaves.iter().all(|leaf| leaf.path.parent().as_ref() == Some(&own.path)));
            assert_eq!(directory.leaves.len(), 1);
        }
        let orphan = [entry("a", EntryType::Dir), entry("b/c", EntryType::File)];
        assert_eq!(Layout::of(&orphan).unwrap_err(), &"b/c".parse().unwrap());
    }

    #[test]
    fn every_directory_is_visited_once_after_its_parent() {
        let entries = wide();
        let mut layout = Layout::of(&entries).unwrap();
        for threads in [1, 4] {
            layout.threads = threads;
            let seen: Mutex<BTreeSet<String>> = Mutex::default();
            walk(&layout, String::new(), &|directory, above: &String| -> Result<String, ()> {
                let own = directory.entry.map_or("top".to_owned(), |e| e.path.to_string());
                let mut seen = seen.lock().unwrap();
                assert!(above.is_empty() || seen.contains(above));
                assert!(seen.insert(own.clone()));
                Ok(own)
            })
            .unwrap();
            assert_eq!(seen.into_inner().unwrap().len(), 421);
        }
    }

    #[test]
    fn the_first_failure_ends_the_walk() {
        let entries = wide();
        let mut layout = Layout::of(&entries).unwrap();
        layout.threads = 4;
        let failed = walk(&layout, 0, &|directory, depth: &u32| match directory.entry {
            Some(entry) if entry.path.to_string() == "7" => Err("seven"),
            _ => Ok(depth + 1),
        });
        assert_eq!(failed, Err("seven"));
    }
}
