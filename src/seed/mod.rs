//! Handing a version to a pod: the link ladder, the swap of the target, and the record of what was seeded where.
//!
//! What must hold: seeding is idempotent and atomic, a target that seedcache did not make is never replaced unless
//! told to (invariant 5), and no path from outside leaves `seed.root` (invariant 4).

mod ladder;
mod record;
mod seeder;
mod target;
mod tree;

pub use ladder::{Rung, next_rung};
pub use record::Record;
pub use seeder::{Request, SeedError, SeedProgress, Seeded, Seeder};
pub use target::TargetError;
