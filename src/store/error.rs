//! What can go wrong in the store.

use std::{io, path::PathBuf};

use super::Digest;

/// An error of the store.
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
    /// What is needed is not known, so nothing may be removed.
    #[error("nothing was removed: `{path}` {reason}, so it is not known what is still needed", path = path.display())]
    NeedsUnknown {
        /// The record that should tell.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        advice: &'static str,
    },
    /// A file of an artifact cannot have this name. The store is fine.
    #[error("`{}` cannot name a file of an artifact: {reason}", .name.escape_debug())]
    Name {
        /// The name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// The folder is not a store of a version that can be used.
    #[error("`{path}` {reason}", path = path.display())]
    NotAStore {
        /// The folder.
        path: PathBuf,
        /// What it is instead.
        reason: String,
    },
}

impl StoreError {
    /// The blob that is missing or damaged, if the error is about one.
    #[must_use]
    pub fn blob(&self) -> Option<Digest> {
        match self {
            Self::Missing(digest) | Self::Damaged(digest) => Some(*digest),
            _ => None,
        }
    }

    /// What the user can do about it, where that is known.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                    Some("make room, perhaps with `statcell cache gc`, and run again: finished work is kept")
                }
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    Some("choose a folder that you may write to, with `--store`")
                }
                _ => None,
            },
            Self::Missing(_) | Self::Damaged(_) | Self::Malformed { .. } => {
                Some("run `statcell cache verify`, which removes what is damaged, and run again")
            }
            Self::NeedsUnknown { advice, .. } => Some(advice),
            Self::Name { .. } => None,
            Self::NotAStore { .. } => Some("choose another folder with `--store`"),
        }
    }
}
