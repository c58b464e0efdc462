//! Integration tests: one binary, which drives the real `seedcache` from outside, by its CLI and its HTTP.
//!
//! What must hold: traffic stays on the loopback, everything started is ended, and nothing is skipped. A tool that is
//! missing fails the test that needs it; `tests/run` installs them all.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "tests look at the disk from outside, and fail by panicking"
)]

#[path = "../faults/disk/mod.rs"]
mod disk;
mod fixture;

mod across_mounts;
mod bad_upstream;
mod budget;
mod cli_contract;
mod collection;
mod descriptor;
mod events;
mod followed;
mod formats;
mod full_disk;
mod herd;
mod http_contract;
mod http_files;
mod index;
mod kill9;
mod life;
mod linux_tree;
mod month;
mod or_fetch;
mod pins;
mod plain;
mod power_loss;
#[path = "../faults/power_run.rs"]
mod power_run;
mod ranges;
mod readme;
mod reload;
mod rendering;
mod rooms;
mod same;
mod scrub;
mod seeding;
mod seeds_case;
