//! How bytes become a verified version: resolve, transfer, digest, unpack, in one pass over the bytes.
//!
//! What must hold: every byte is hashed, whoever sent it; whatever is wrong refuses the whole artifact and names the
//! entry; memory stays bounded whatever the artifact's size (invariant 7).

mod download;
mod fetcher;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod note;
mod pipeline;
mod progress;
mod ranges;
mod resolve;
mod source;
mod transfer;
mod unpack;

pub use fetcher::{AcquireError, Acquired, Fetcher};
pub use pipeline::IngestError;
pub use progress::{Phase, Progress, Snapshot};
pub(crate) use resolve::by_digest as version_by_digest;
pub use resolve::{FillError, Location, Naming, NamingError, Resolution, ResolveError, SumsError};
pub use source::{ClientError, HttpError};
pub use unpack::{Codec, Malformed, Refusal, UnpackError, Unpacked, unpack};
pub(crate) use unpack::{Kind as TarKind, Member as TarMember, Members as TarMembers, read_tar};
