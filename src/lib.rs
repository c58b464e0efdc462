//! seedcache: one daemon per node that fetches, verifies, unpacks and versions large artifacts, and hands them to pods
//! by reflink, hard link or copy.
//!
//! The rooms stand in the order in which data flows; a module imports only from rooms above it in this list.

pub mod acquire;
pub mod cli;
pub mod fs;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod intent;
pub mod node;
pub mod reconcile;
pub mod seed;
pub mod serve;
pub mod store;

#[cfg(test)]
#[path = "../tests/it/fixture/hung.rs"]
mod hung;
