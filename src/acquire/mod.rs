//! How bytes become a verified version: resolve, transfer, digest, unpack, in one pass over the bytes.
//!
//! What must hold: every byte is hashed, whoever sent it; whatever is wrong refuses the whole artifact and names the
//! entry; memory stays bounded whatever the artifact's size (invariant 7).

mod fetcher;
mod progress;
mod resolve;
mod source;
mod transfer;
mod unpack;

pub use fetcher::{AcquireError, Acquired, ClientError, Fetcher};
pub use progress::{Phase, Progress, Snapshot};
pub use resolve::{Location, Naming, Resolution, ResolveError};
pub use unpack::{Codec, Malformed, Refusal, UnpackError, Unpacked, unpack};
