//! Targets as people give them, and what stands there.

/// Why a target is refused.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {}
