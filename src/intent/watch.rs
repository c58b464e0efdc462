//! Hints that documents changed. The only user of `notify`.
//!
//! Invariant: an event is a hint and carries nothing; whoever gets one reads everything again. So a ConfigMap's `..data`
//! swap, an editor's rename-over and a directory that goes and comes back are all the same here. A slow poll finds what
//! events missed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Events come in bursts: the directory is read when it has been quiet for this long.
const QUIET: Duration = Duration::from_millis(500);
/// In a burst that does not end, it is read all the same after this long.
const LONGEST_BURST: Duration = Duration::from_millis(1500);
/// How often it is read without any event.
const POLL: Duration = Duration::from_secs(60);

/// Watches one directory of documents.
#[derive(Debug)]
pub struct Watch {
    dir: PathBuf,
    watcher: Option<RecommendedWatcher>,
    hints: Receiver<()>,
    /// Keeps the channel open where there is no watcher.
    _sender: Sender<()>,
}

impl Watch {
    /// Watches `dir` and the directory it lies in, so that its return is noticed. Where the system gives no watches
    /// left, the poll alone does the work.
    pub fn new(dir: &Path) -> Self {
        let (sender, hints) = channel(1);
        let told = sender.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // Our own reads give access events; everything else, errors too, is a reason to look.
            let access = matches!(&event, Ok(Event { kind: EventKind::Access(_), .. }));
            if !access {
                // Full: a hint waits already.
                let _ = told.try_send(());
            }
        });
        let watcher = watcher.inspect_err(|error| tracing::warn!(%error, "no watches: documents are polled")).ok();
        let mut watch = Self { dir: dir.to_path_buf(), watcher, hints, _sender: sender };
        watch.renew();
        watch
    }

    /// Returns when it is time to read the documents.
    pub async fn hint(&mut self) {
        if tokio::time::timeout(POLL, self.hints.recv()).await.is_ok() {
            let quiet = async { while let Ok(Some(())) = tokio::time::timeout(QUIET, self.hints.recv()).await {} };
            // Either way it is time.
            let _ = tokio::time::timeout(LONGEST_BURST, quiet).await;
        }
        self.renew();
    }

    /// Sets the watches anew: a directory that was replaced has another inode, and the old watch is on the old one.
    fn renew(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        for dir in [Some(self.dir.as_path()), self.dir.parent()].into_iter().flatten() {
            // Not there now, or never watched: the poll and the parent's watch see to it.
            let _ = watcher.unwatch(dir);
            let _ = watcher.watch(dir, RecursiveMode::NonRecursive);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    async fn hinted(watch: &mut Watch) {
        // Well below the poll's interval: the event did it.
        tokio::time::timeout(Duration::from_secs(20), watch.hint()).await.unwrap();
    }

    #[tokio::test]
    async fn every_way_of_changing_documents_gives_a_hint() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("config");
        fs::create_dir_all(dir.join("..2026")).unwrap();
        symlink("..2026", dir.join("..data")).unwrap();
        let mut watch = Watch::new(&dir);
        let path = |name: &str| dir.join(name);
        let changes: [&dyn Fn(); 6] = [
            &|| fs::write(path("a.yaml"), "1").unwrap(),
            &|| {
                fs::write(path(".a.tmp"), "2").unwrap();
                fs::rename(path(".a.tmp"), path("a.yaml")).unwrap();
            },
            &|| {
                symlink("..2027", path("..data_tmp")).unwrap();
                fs::rename(path("..data_tmp"), path("..data")).unwrap();
            },
            &|| fs::remove_file(path("a.yaml")).unwrap(),
            &|| fs::rename(&dir, outer.path().join("away")).unwrap(),
            &|| fs::create_dir(&dir).unwrap(),
        ];
        for change in changes {
            change();
            hinted(&mut watch).await;
        }
        // The directory that came back is watched as the first one was.
        fs::write(path("b.yaml"), "1").unwrap();
        hinted(&mut watch).await;
    }
}
