//! The content-addressed store: blobs named by their BLAKE3, trees of blobs, action entries.
//!
//! The store knows bytes; it knows nothing of stages, cells or pipelines. All that it keeps are objects of a [`Backend`]: a folder
//! ([`Disk`]), memory ([`Memory`]), or whatever passes [`conformance`].

mod actions;
mod backend;
mod base;
mod blobs;
mod checkpoints;
pub mod conformance;
mod digest;
mod disk;
mod error;
mod file_index;
mod files;
mod gc;
mod items;
mod leases;
mod memory;
mod record;
mod roots;
mod stats;
mod tree;
mod verify;

pub use actions::{ActionEntry, ActionOutput, ActionOutputs, Ports, Presence, Published, RunFacts};
pub use backend::{Amount, Backend, Listed, Meta, Object, Put, Staged, Touched};
pub use base::{Scratch, Store};
pub use blobs::{Blobs, MemoryBlobs};
pub use digest::{Digest, ParseDigestError};
pub use disk::Disk;
pub use error::StoreError;
pub use gc::{GcOptions, GcReport, KeptPipeline, RemovedAction};
pub use leases::{Holder, Lease, Leasing};
pub use memory::Memory;
pub use roots::{Project, Root, Roots};
pub use stats::Stats;
pub use tree::{Tree, TreeEntry};
pub use verify::Verified;
