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
    /// The engine or the device failed.
    #[error("the network could not be computed: {0}")]
    Engine(String),
}

impl From<candle_core::Error> for ModelError {
    fn from(error: candle_core::Error) -> Self {
        Self::Engine(error.to_string())
    }
}
