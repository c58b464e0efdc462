//! Making it so: a pure planner over what operators want and what the node holds, and the runner that carries its
//! steps out. Level-triggered: whatever was lost or missed, the next round brings the same result (invariant 8).

mod abandon;
mod ask;
mod claims;
mod collect;
mod counts;
mod downloads;
mod fetch;
mod filling;
mod follow;
mod lease;
mod linking;
mod mending;
mod pin;
mod plan;
mod recheck;
mod remove;
mod repair;
mod repairs;
mod room;
mod run;
mod scrub;
mod seed_state;
mod seeding;
mod shortage;
mod state;
mod step;
#[cfg(test)]
mod tests;
mod tracked;
mod turns;
mod vital;
mod wait;

pub use ask::{SeedAsk, SeedAskError, VerifyAskError};
pub use collect::{CollectError, Collected, FateState, Verdict};
pub use filling::{FillAsk, FillAskError};
pub use lease::LeaseAskError;
pub use pin::{PinAnswer, PinError};
pub use remove::RemoveError;
pub use run::{Parts, Reconciler};
pub use seed_state::{SeedProgressState, SeedState};
pub use state::{ArtifactState, LeaseState, PinnedBy, ProgressState, State, VerifyResult, VersionState};
pub use vital::Vital;
pub use wait::{RefreshError, WaitError};
