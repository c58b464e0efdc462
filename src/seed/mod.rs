//! Handing a version to a pod: the link ladder, the swap of the target, and the record of what was seeded where.
//!
//! What must hold: seeding is idempotent and atomic, a target that seedcache did not make is never replaced unless
//! told to (invariant 5), and no path from outside leaves `seed.root` (invariant 4).
//!
//! A seed is decided on what stands at the target ([`look`], [`standing`]): it is built out of sight and swapped in
//! ([`build`], [`place`]) by one of three swaps ([`exchange`], [`symlink`], [`in_place`]), or held against the manifest
//! and mended ([`mend`]). Nothing of it is synced: a seed is disposable, pods
//! ask for it again when they start, and after a reboot one with bytes of its own is read before it is believed.

mod build;
mod busy;
mod entry;
mod error;
mod exchange;
mod fetched;
mod fill;
mod filled;
mod filler;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod hidden;
mod in_place;
mod ladder;
mod look;
mod mark;
mod mend;
mod mend_filled;
mod owned;
mod place;
mod receive;
mod recent;
mod record;
mod render;
mod rendered;
mod renderer;
mod retired;
mod seeder;
mod staged;
mod standing;
mod symlink;
mod target;
#[cfg(test)]
mod tests;
mod timed_look;
mod tree;
mod unread;

pub use error::SeedError;
pub(crate) use fetched::{entries_of, first_difference, restore_modes};
pub use fill::{Peer, Receive, Refusal};
pub use filled::Filled;
pub use filler::{FillError, FillRequest, Filling};
pub use ladder::{Next, Rung, Why, next_rung};
pub(crate) use mark::{Fetched, Mark, Marks, OnTargets, Wanted};
pub(crate) use place::{Place, same_inode};
pub(crate) use receive::owners_lost;
pub use receive::{ReceiveError, receive};
pub use record::Record;
pub use renderer::{RenderError, Rendered, Renderer};
pub use retired::GRACE;
pub(crate) use seeder::{LOOK, PATIENCE};
pub use seeder::{Request, SeedProgress, Seeded, Seeder};
pub(crate) use staged::Staged;
pub(crate) use standing::{Asked, Seed, Standing, Step, Switch, decide, is_own};
pub use target::TargetError;
pub(crate) use timed_look::TimedLook;

/// A lock whose holder panicked guards plain data that is changed in one step: it is still good.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
