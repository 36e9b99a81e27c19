//! The content-addressed store: blobs named by their BLAKE3, trees of blobs, action entries.
//!
//! The store knows bytes; it knows nothing of stages, cells or pipelines.

mod blobs;
mod digest;
mod error;
mod tree;

pub use blobs::{Blobs, MemoryBlobs};
pub use digest::{Digest, ParseDigestError};
pub use error::StoreError;
pub use tree::{Tree, TreeEntry};
