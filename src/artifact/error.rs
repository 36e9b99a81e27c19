//! What can go wrong with artifacts.

use super::ArtifactType;
use crate::{image::ImageError, store::StoreError};

/// An artifact cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An image inside cannot be read or written.
    #[error("image `{name}`: {source}")]
    Image {
        /// The file's name in the artifact.
        name: String,
        /// Why.
        source: ImageError,
    },
    /// The contents are not what the type promises.
    #[error("the {kind} artifact is not as it should be: {reason}", kind = kind.name())]
    Malformed {
        /// The artifact's type.
        kind: ArtifactType,
        /// What is wrong.
        reason: String,
    },
}

impl ArtifactError {
    /// There is no file of this name.
    #[must_use]
    pub fn no_file(kind: ArtifactType, name: &str) -> Self {
        Self::Malformed { kind, reason: format!("it has no file `{name}`") }
    }
}
