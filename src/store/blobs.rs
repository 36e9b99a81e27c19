//! Where bytes are put and taken from.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    sync::Mutex,
};

use super::{Digest, StoreError};

/// A place for blobs. The store on disk is one; [`MemoryBlobs`] is another, for tests and small tools.
pub trait Blobs: Send + Sync {
    /// Keeps `bytes` and names them.
    ///
    /// # Errors
    /// [`StoreError::Io`] when they cannot be written.
    fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError>;

    /// The bytes of this name, checked against it.
    ///
    /// # Errors
    /// [`StoreError::Missing`] or [`StoreError::Damaged`]; [`StoreError::Io`] when the blob cannot be read.
    fn get(&self, digest: &Digest) -> Result<Vec<u8>, StoreError>;

    /// Whether there is a blob of this name (its bytes are not checked).
    fn contains(&self, digest: &Digest) -> bool;

    /// Keeps everything that `from` gives, without holding it in memory. Gives its name and size in bytes; the inner error is that
    /// of `from`.
    ///
    /// # Errors
    /// [`StoreError::Io`] when it cannot be written.
    fn put_from(&self, from: &mut dyn Read) -> Result<io::Result<(Digest, u64)>, StoreError> {
        let mut bytes = Vec::new();
        match from.read_to_end(&mut bytes) {
            Ok(size) => Ok(Ok((self.put(&bytes)?, size as u64))),
            Err(error) => Ok(Err(error)),
        }
    }

    /// Writes the bytes of this name to `to`, without holding them in memory. They are checked against their name on the way: after
    /// an error, what was written is not to be used. The inner error is that of `to`.
    ///
    /// # Errors
    /// As [`Blobs::get`].
    fn copy_to(&self, digest: &Digest, to: &mut dyn Write) -> Result<io::Result<()>, StoreError> {
        Ok(to.write_all(&self.get(digest)?))
    }
}

/// Pieces in which bytes are streamed.
pub(super) const PIECE: usize = 1 << 20;

/// Blobs in memory.
#[derive(Debug, Default)]
pub struct MemoryBlobs(Mutex<BTreeMap<Digest, Vec<u8>>>);

impl Blobs for MemoryBlobs {
    fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        self.0.lock().expect("no panic while locked").insert(digest, bytes.to_vec());
        Ok(digest)
    }

    fn get(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let blobs = self.0.lock().expect("no panic while locked");
        blobs.get(digest).cloned().ok_or(StoreError::Missing(*digest))
    }

    fn contains(&self, digest: &Digest) -> bool {
        self.0.lock().expect("no panic while locked").contains_key(digest)
    }
}
