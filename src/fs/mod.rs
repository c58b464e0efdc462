//! The only room that touches the file system (`std::fs`, `rustix::fs`).
//!
//! Everything below a configured root is reached through a held directory handle ([`Dir`]) and a checked relative path
//! ([`RelPath`]), resolved by the kernel beneath that handle with symlinks refused. What must hold: no path from
//! outside is ever opened by joining strings, and what is said to be durable has been fsynced, its directory too.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this room is the gateway the lint sends everyone else to"
)]

mod at_once;
mod chain;
#[cfg(test)]
pub(crate) mod crash;
mod dir;
mod error;
mod file;
mod handle;
mod identity;
mod link;
mod lock;
mod passed;
mod past_cache;
mod path;
mod read_only;
mod remove;
mod rights;
mod space;
#[cfg(test)]
mod tests;
mod verity;

pub use at_once::{read_at_once, seems_in_memory, send_file};
pub use chain::Chain;
pub use dir::{Dir, DirEntry, Rename};
pub use error::{Error, Result};
pub(crate) use error::{is_no_space, is_of_disk};
pub use file::{Meta, apply_meta};
pub use handle::{FileHandle, HandleError, NoHandle};
pub use identity::{Kind, Stamp, Stat};
pub use link::{LinkMode, copy_file, hard_link, reflink};
pub use lock::{DirLock, Lock, LockError};
pub use past_cache::read_past_cache;
pub(crate) use path::lossless;
pub use path::{PathError, RelPath};
pub use read_only::{absolute, canonical, documents_in, open_read, read_limited, stat_path};
pub use rights::may_give_away;
pub use space::Space;
pub use verity::Verity;
