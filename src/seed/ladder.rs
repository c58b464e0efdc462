//! The link ladder as a pure decision.

/// The mode in use and what to try next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rung {}

/// What to try after a failure.
pub fn next_rung() {}
