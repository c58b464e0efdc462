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
mod attribute;
mod beneath;
mod chain;
#[cfg(test)]
pub(crate) mod crash;
mod dir;
mod error;
mod fail_point;
mod file;
#[cfg(test)]
mod fixture;
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
mod temporary;
#[cfg(test)]
mod tests;
mod verity;
mod write_out;

pub use at_once::{read_at_once, seem_in_memory, send_file, stat_at_once};
pub use chain::Chain;
pub use dir::{Dir, DirEntry, Rename};
pub use error::{Error, Result};
pub(crate) use error::{is_no_space, is_of_disk, is_passing};
#[cfg(feature = "failpoints")]
pub(crate) use fail_point::arm_fail_points;
pub(crate) use fail_point::fail_point;
#[cfg(feature = "failpoints")]
pub use fail_point::{ArmedFailPoints, FAIL_POINTS, RARE_FAIL_POINTS};
pub use file::{Meta, apply_meta};
#[cfg(test)]
pub(crate) use fixture::{Immutable, Leased, Shifted, without_override};
pub use handle::{FileHandle, HandleError, NoHandle, write_back};
pub use identity::{Kind, Stamp, Stat};
pub use link::{LinkMode, copy_file, hard_link, reflink};
pub use lock::{DirLock, Lock, LockError};
pub use passed::is_dir_unsynced;
pub use past_cache::read_past_cache;
pub(crate) use path::lossless;
pub use path::{PathError, RelPath};
pub use read_only::{absolute, boot_id, canonical, documents_in, open_read, read_limited, stat_path};
pub use rights::may_give_away;
pub use space::Space;
pub use verity::Verity;
pub use write_out::{begin_write_out, set_room_aside};
