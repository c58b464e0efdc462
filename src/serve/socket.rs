//! The Unix socket's file: what an earlier daemon left is removed, one that somebody answers on is not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

use crate::fs::{self, Dir, Kind, PathError, RelPath, Stamp};

/// Everyone may connect: the peer's uid decides what they may do.
const MODE: u32 = 0o666;
/// A daemon that is there accepts at once.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// A socket that this daemon listens on.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    dir: Dir,
    name: RelPath,
    stamp: Option<Stamp>,
}

/// Why the Unix socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] fs::Error),
    /// A path without a file name.
    #[error("{} is no path for a socket; set listen.socket (or --socket) to a file in a directory of its own", path.display())]
    Name {
        /// As configured.
        path: PathBuf,
        /// What is wrong with its last component.
        #[source]
        source: PathError,
    },
    /// Somebody answers on it.
    #[error("another daemon listens on {}; stop it, or give this one another listen.socket (or --socket)", path.display())]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// Not a socket.
    #[error("{} is there and is no socket; remove it, or set another listen.socket (or --socket)", path.display())]
    NoSocket {
        /// What is in the way.
        path: PathBuf,
    },
    /// Binding failed.
    #[error("cannot listen on {}; its path may have at most 107 bytes", path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
}

impl Socket {
    /// Listens on `path`, its directory made where it is missing.
    pub(super) async fn bind(path: &Path) -> Result<(Self, UnixListener), SocketError> {
        let name = path.file_name().map(|name| name.as_encoded_bytes()).unwrap_or_default();
        let name = RelPath::parse(name).map_err(|source| SocketError::Name { path: path.into(), source })?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let dir = Dir::create_all(parent)?;
        clear_stale(&dir, &name, path).await?;
        let listener = UnixListener::bind(path).map_err(|source| SocketError::Bind { path: path.into(), source })?;
        dir.set_mode(&name, MODE)?;
        let stamp = dir.stat(&name)?.map(|stat| stat.stamp);
        Ok((Self { path: path.into(), dir, name, stamp }, listener))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the socket's file, unless another daemon has put its own there since.
    pub(super) fn remove(&self) -> fs::Result<()> {
        let inode = |stamp: Stamp| (stamp.dev, stamp.ino);
        match self.dir.stat(&self.name)? {
            Some(stat) if Some(inode(stat.stamp)) == self.stamp.map(inode) => self.dir.remove_file(&self.name),
            _ => Ok(()),
        }
    }
}

async fn clear_stale(dir: &Dir, name: &RelPath, path: &Path) -> Result<(), SocketError> {
    match dir.stat(name)? {
        None => return Ok(()),
        Some(stat) if stat.kind != Kind::Other => return Err(SocketError::NoSocket { path: path.into() }),
        Some(_) => {}
    }
    match tokio::time::timeout(ANSWER_TIME, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "stale socket removed");
            Ok(dir.remove_file(name)?)
        }
        // It went away by itself.
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        // Somebody answers, is too busy to, or listens in another way: none of it is ours to remove.
        _ => Err(SocketError::Taken { path: path.into() }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_a_live_one_is_not() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run/seedcache.sock");
        drop(Socket::bind(&path).await.unwrap());
        assert!(path.exists(), "dropped without removal, as after a kill");
        let (socket, listener) = Socket::bind(&path).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        assert!(matches!(Socket::bind(&path).await, Err(SocketError::Taken { .. })));
        drop(listener);
        socket.remove().unwrap();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_is_no_socket_stays() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(Socket::bind(&path).await, Err(SocketError::NoSocket { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        assert!(matches!(Socket::bind(Path::new("/")).await, Err(SocketError::Name { .. })));
        let long = root.path().join("x".repeat(150));
        assert!(matches!(Socket::bind(&long).await, Err(SocketError::Bind { .. })));
    }

    #[tokio::test]
    async fn the_socket_of_a_successor_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s");
        let (first, listener) = Socket::bind(&path).await.unwrap();
        drop(listener);
        let (_second, _listener) = Socket::bind(&path).await.unwrap();
        // The file system may give the new socket the old one's inode number.
        if first.stamp.map(|stamp| stamp.ino) != first.dir.stat(&first.name).unwrap().map(|stat| stat.stamp.ino) {
            first.remove().unwrap();
            assert!(path.exists());
        }
    }
}
