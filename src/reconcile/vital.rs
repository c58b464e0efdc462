//! Tasks that the node cannot do without: one that ends by a panic must not leave a node behind that looks well and
//! does nothing. The node ends then, and whoever runs it starts it anew from what is on disk.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// Starts such tasks, and tells which one broke.
#[derive(Debug, Clone)]
pub struct Vital {
    tasks: TaskTracker,
    broken: Arc<watch::Sender<Option<&'static str>>>,
}

impl Vital {
    /// Every task is tracked by `tasks`.
    pub fn new(tasks: TaskTracker) -> Self {
        Self { tasks, broken: Arc::new(watch::Sender::new(None)) }
    }

    /// All tasks, those that may fail included.
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Starts a task under a name to tell of it.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let broken = self.broken.clone();
        self.tasks.spawn(async move {
            // What it left half done is in memory alone, and goes with the process.
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                tracing::error!(task = name, "a task that the node cannot do without broke");
                broken.send_if_modified(|first| first.is_none().then(|| *first = Some(name)).is_some());
            }
        });
    }

    /// Waits until one broke, and gives its name.
    pub async fn broken(&self) -> &'static str {
        let mut broken = self.broken.subscribe();
        let found = broken.wait_for(Option::is_some).await.ok().and_then(|name| *name);
        match found {
            Some(name) => name,
            // The sender is in `self`.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_that_panics_is_told_of() {
        let vital = Vital::new(TaskTracker::new());
        vital.spawn("done", async {});
        vital.spawn("broken", async {
            tokio::task::yield_now().await;
            let nothing: Option<u8> = None;
            assert_eq!(nothing, Some(1), "as a defect would");
        });
        assert_eq!(vital.broken().await, "broken");
        vital.spawn("later", async { unreachable!("as another defect would") });
        vital.tasks().close();
        vital.tasks().wait().await;
        assert_eq!(vital.broken().await, "broken");
    }
}
