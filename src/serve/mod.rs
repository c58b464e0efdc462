//! The local endpoint: HTTP over TCP and the Unix socket.
//!
//! What must hold: a path from outside is only ever opened beneath a version's tree, found in its manifest first
//! (invariant 4); a version that is being read stays (its [`crate::store::Version`] is held for the body's life); a body
//! that cannot be given whole ends in an error, never short (invariant 7); every wait has a limit, every buffer a bound.

mod address;
mod ask;
mod body;
mod caller;
mod closing;
mod conditional;
mod content;
mod descriptor;
mod events;
mod feed;
mod files;
mod fill;
#[cfg(test)]
mod fixture;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod gate;
mod health;
mod host;
mod keep;
mod listener;
mod listing;
mod load;
mod manifests;
mod metrics;
mod observe;
mod openapi;
mod page;
mod patience;
mod patient;
mod pin;
mod problem;
mod quick;
mod range;
mod reply;
mod resolve;
mod routes;
mod scrape;
mod sendfile;
mod server;
mod socket;
mod tree_tar;
mod view;

pub use server::{BindError, Server};
pub use socket::SocketError;
