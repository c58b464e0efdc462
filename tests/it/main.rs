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

mod fixture;
#[path = "../faults/power_vm/cache.rs"]
mod power_vm_cache;
#[path = "../faults/power_vm/judge.rs"]
mod power_vm_judge;
#[path = "../faults/volatile_disk/mod.rs"]
mod volatile_disk;

mod across_mounts;
mod bad_upstream;
mod budget;
mod cli_contract;
mod clocks;
mod collection;
mod descriptor;
mod disk_errors;
mod events;
mod floods;
mod followed;
mod formats;
mod full_disk;
mod herd;
mod http_contract;
mod http_files;
mod http_hostile;
mod http_told;
mod hung_targets;
mod index;
mod kill9;
#[cfg(feature = "failpoints")]
mod kill_points;
mod large_files;
mod life;
mod linux_tree;
mod lying_origins;
mod month;
mod names_folded;
mod or_fetch;
mod pins;
mod plain;
mod power_loss;
#[path = "../faults/power_run.rs"]
mod power_run;
mod ranges;
#[cfg(feature = "failpoints")]
mod rare_points;
mod readme;
mod reload;
mod rendering;
mod rooms;
mod same;
mod scrub;
mod seeding;
mod seeds_case;
mod socket_peers;
mod tampering;
mod target_races;
