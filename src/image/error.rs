//! What can go wrong with images.

/// What a file leaves open, for those who know to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclear {
    /// Whether pages are channels or planes, and in which order.
    Order,
    /// Which of several time points is meant.
    Times,
    /// Which of several images in one file is meant.
    Scenes,
}

/// An image cannot be read, written or processed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file is damaged or not what it says it is.
    #[error("not a readable image: {0}")]
    Damaged(String),
    /// The file is sound, but of a kind that is not read here; reading it anyway could give wrong pixels.
    #[error("this kind of image is not read: {0}")]
    Unsupported(String),
    /// The file is of another form, which has a name, and there is a way out.
    #[error("it is {name}: {way_out}")]
    Foreign {
        /// What it is.
        name: &'static str,
        /// What to do.
        way_out: &'static str,
    },
    /// The file can be read once somebody says what its planes are.
    #[error("it has to be said what its planes are: {1}")]
    Unclear(Unclear, String),
    /// Sizes, channels or axes do not fit what is asked.
    #[error("{0}")]
    Shape(String),
}
