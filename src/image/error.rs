//! What can go wrong with images.

/// An image cannot be read, written or processed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file is damaged or not what it says it is.
    #[error("not a readable TIFF: {0}")]
    Damaged(String),
    /// The file is sound, but of a kind that is not read here; reading it anyway could give wrong pixels.
    #[error("this kind of TIFF is not read: {0}")]
    Unsupported(String),
    /// Sizes, channels or axes do not fit what is asked.
    #[error("{0}")]
    Shape(String),
}
