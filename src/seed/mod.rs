//! Handing a version to a pod: the link ladder, the swap of the target, and the record of what was seeded where.
//!
//! What must hold: seeding is idempotent and atomic, a target that seedcache did not make is never replaced unless
//! told to (invariant 5), and no path from outside leaves `seed.root` (invariant 4).
//!
//! A seed is decided on what stands at the target ([`standing`]): it is built beside and swapped in ([`build`],
//! [`place`]), or held against the manifest and mended ([`mend`]). Nothing of it is synced: a seed is disposable, pods
//! ask for it again when they start, and after a reboot one with bytes of its own is read before it is believed.

mod build;
mod busy;
mod entry;
mod error;
mod exchange;
mod in_place;
mod ladder;
mod look;
#[allow(dead_code, reason = "the client's seam, taken up by cli")]
mod mark;
mod mend;
mod owned;
#[allow(dead_code, reason = "the client's seam, taken up by cli")]
mod place;
mod record;
mod retired;
mod seeder;
mod staged;
#[allow(dead_code, reason = "the client's seam, taken up by cli")]
mod standing;
mod symlink;
mod target;
#[cfg(test)]
mod tests;
mod tree;

pub use error::SeedError;
pub use ladder::{Next, Rung, Why, next_rung};
#[allow(unused_imports, reason = "the client's seam, taken up by cli")]
pub(crate) use mark::{Mark, Marks, OnTargets, Wanted};
#[allow(unused_imports, reason = "the client's seam, taken up by cli")]
pub(crate) use owned::Names;
#[allow(unused_imports, reason = "the client's seam, taken up by cli")]
pub(crate) use place::Place;
pub use record::Record;
pub use retired::GRACE;
pub(crate) use seeder::PATIENCE;
pub use seeder::{Request, SeedProgress, Seeded, Seeder};
#[allow(unused_imports, reason = "the client's seam, taken up by cli")]
pub(crate) use staged::{Scratch, Settled, Staged};
#[allow(unused_imports, reason = "the client's seam, taken up by cli")]
pub(crate) use standing::{Asked, Empty, Form, Seed, Standing, Step, Switch, decide};
pub use target::TargetError;

/// A lock whose holder panicked guards plain data that is changed in one step: it is still good.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
