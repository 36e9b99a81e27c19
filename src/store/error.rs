//! What can go wrong in the store.

use std::{io, path::PathBuf};

use super::Digest;

/// An error of the store. `statcell` ends with exit code 4 when one reaches the user.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused an operation on a path.
    #[error("cannot {action} `{path}`: {source}", path = path.display())]
    Io {
        /// What was tried, as a verb: `read`, `write`, `create`.
        action: &'static str,
        /// The path it was tried on.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The store holds no blob of this name.
    #[error("the store has no blob {0}")]
    Missing(Digest),
    /// The blob's bytes are not those that its name promises. It was moved to quarantine.
    #[error("blob {0} is damaged: its bytes do not match its name")]
    Damaged(Digest),
    /// A record of the store (tree, entry) cannot be understood.
    #[error("the store's {what} cannot be read: {reason}")]
    Malformed {
        /// Which kind of record.
        what: &'static str,
        /// Why.
        reason: String,
    },
}
