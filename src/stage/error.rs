//! How a stage fails.

use crate::{artifact::ArtifactError, image::ImageError, store::StoreError};

/// A stage did not finish.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The user asked to stop. What was done is kept.
    #[error("interrupted")]
    Cancelled,
    /// The input data cannot be worked with (exit code 3).
    #[error("{message}")]
    BadInput {
        /// What is wrong, with the name of the file, cell or column.
        message: String,
        /// What to do about it.
        help: Option<String>,
    },
    /// The stage itself failed, for a reason that is not the input's: training diverged, a program ended with an error.
    #[error("{message}")]
    Failed {
        /// What happened.
        message: String,
        /// What to do about it.
        help: Option<String>,
    },
    /// An artifact cannot be read or written.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
}

impl StageError {
    /// Input data that cannot be worked with.
    pub fn bad_input(message: impl Into<String>) -> Self {
        Self::BadInput { message: message.into(), help: None }
    }

    /// A failure that is not the input's fault.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), help: None }
    }

    /// The same error with what it is about in front: ``cell `a`: …``.
    #[must_use]
    pub fn about(mut self, what: &str) -> Self {
        if let Self::BadInput { message, .. } | Self::Failed { message, .. } = &mut self {
            *message = format!("{what}: {message}");
        }
        self
    }

    /// The same error with advice.
    #[must_use]
    pub fn with_help(mut self, advice: impl Into<String>) -> Self {
        if let Self::BadInput { help, .. } | Self::Failed { help, .. } = &mut self {
            *help = Some(advice.into());
        }
        self
    }
}

impl From<StoreError> for StageError {
    fn from(error: StoreError) -> Self {
        Self::Artifact(error.into())
    }
}

impl From<ImageError> for StageError {
    fn from(error: ImageError) -> Self {
        Self::bad_input(error.to_string())
    }
}
