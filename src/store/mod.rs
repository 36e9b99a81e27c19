//! The content-addressed store: blobs named by their BLAKE3, trees of blobs, action entries.
//!
//! The store knows bytes; it knows nothing of stages, cells or pipelines.

mod actions;
mod blobs;
mod checkpoints;
mod digest;
mod disk;
mod error;
mod files;
pub(crate) mod fs;
mod gc;
mod items;
mod leases;
mod record;
mod roots;
mod stats;
mod tree;
mod verify;

pub use actions::{ActionEntry, ActionOutput, ActionOutputs, Presence, Published, RunFacts};
pub use blobs::{Blobs, MemoryBlobs};
pub use digest::{Digest, ParseDigestError};
pub use disk::Store;
pub use error::StoreError;
pub use gc::{GcOptions, GcReport, KeptPipeline, RemovedAction};
pub use leases::{Holder, Lease, Leasing};
pub use roots::{Root, Roots};
pub use stats::{Amount, Stats};
pub use tree::{Tree, TreeEntry};
pub use verify::Verified;
