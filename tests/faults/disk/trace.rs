//! What is read off the calls that a daemon made: whether it took back what could not be made durable.

use crate::fixture::syscalls::Call;

/// What the index does is a hint, and checked before it is believed.
fn counts(call: &Call) -> bool {
    !call.path.starts_with("root/.seedcache/index/")
}

fn above(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(above, _)| above)
}

/// A call that changes what a directory lists.
fn changes_names(call: &Call) -> bool {
    matches!(call.name, "create" | "mkdir" | "symlink" | "link" | "rename" | "unlink")
}

/// Syncs that were tried again on the same thing after they had failed, though nothing was made anew in between.
pub(super) fn retried(calls: &[Call]) -> Vec<String> {
    let syncs = |call: &Call| matches!(call.name, "fsync" | "syncfs" | "sync_file_range") && counts(call);
    let failed = calls.iter().enumerate().filter(|(_, call)| call.failed && syncs(call));
    let mut retried = Vec::new();
    for (at, failed) in failed {
        let later = calls.iter().enumerate().skip(at + 1);
        let again = later.filter(|(_, call)| call.name == failed.name && call.inode == failed.inode && !call.failed);
        // A directory stays: what was changed in it must have been changed again. Of a file system all must be new.
        let anew = |call: &&Call| match failed.name {
            "syncfs" => call.name == "mkdir",
            _ => failed.is_dir && changes_names(call) && above(&call.path) == failed.path,
        };
        if let Some((to, again)) = again.into_iter().next()
            && !calls[at + 1..to].iter().any(|call| anew(&call))
        {
            retried.push(format!("{} of {} failed and was tried again as {}", failed.name, failed.path, again.path));
        }
    }
    retried
}

/// Why the last file that was put at `path` is not durable; `None` where none was.
pub(super) fn not_durable(calls: &[Call], path: &str) -> Option<String> {
    let renamed = calls.iter().rposition(|call| call.name == "rename" && call.path == path && !call.failed)?;
    let from = calls[renamed].from.clone().unwrap_or_default();
    let made = calls[..renamed].iter().rposition(|call| call.name == "create" && call.path == from).unwrap_or(0);
    let synced = |calls: &[Call], path: &str| {
        calls.iter().any(|call| matches!(call.name, "fsync" | "syncfs") && call.path == path && !call.failed)
    };
    if !synced(&calls[made..renamed], &from) {
        return Some(format!("{path} was not synced before it was renamed"));
    }
    let dir = above(path);
    (!synced(&calls[renamed..], dir)).then(|| format!("{dir} was not synced after {path} was renamed"))
}

/// Why the version that was published last is not durable; `None` where none was.
pub(super) fn version_not_durable(calls: &[Call], store: &str) -> Option<String> {
    let (visible, staged) = (format!("{store}/versions/app/v*"), format!("{store}/staging/app/version"));
    let is_publish = |call: &Call| call.name == "rename" && call.path == visible && call.from.as_ref() == Some(&staged);
    let renamed = calls.iter().rposition(|call| is_publish(call) && !call.failed)?;
    let begun = calls[..renamed].iter().rposition(|call| call.name == "mkdir" && call.path == staged).unwrap_or(0);
    let made = &calls[begun..renamed];
    for (at, call) in made.iter().enumerate() {
        let is_new = matches!(call.name, "create" | "mkdir") && call.path.starts_with(&staged) && !call.failed;
        let moved = made[at..].iter().any(|later| later.from.as_ref() == Some(&call.path) && !later.failed)
            || made[at..].iter().any(|later| later.name == "unlink" && later.path == call.path && !later.failed);
        let synced = |later: &Call| {
            !later.failed && (later.name == "syncfs" || (later.name == "fsync" && later.path == call.path))
        };
        if is_new && !moved && call.path != staged && !made[at..].iter().any(synced) {
            return Some(format!("{} was not synced before it was published", call.path));
        }
    }
    let dir = above(&visible);
    let synced = calls[renamed..].iter().any(|call| call.name == "fsync" && call.path == dir && !call.failed);
    (!synced).then(|| format!("{dir} was not synced after the version was renamed into it"))
}
