//! What can go wrong with models.

/// A model cannot be made or used in this way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The architecture is impossible.
    #[error("{0}")]
    Architecture(String),
    /// Weights do not fit the architecture, or are no weights.
    #[error("{0}")]
    Parameters(String),
    /// Images, labels or latents do not fit the architecture.
    #[error("{0}")]
    Input(String),
}
