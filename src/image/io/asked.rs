//! What is asked of a file, and what is found in it.

use super::{
    super::Stack,
    layout::{PageOrder, Pick, Voxel},
};

/// What somebody says who knows better than the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The number of channels; it decides where the file leaves it open, and goes with `axes`.
    pub channels: Option<usize>,
    /// The order of the planes, whatever the file says of them.
    pub axes: Option<PageOrder>,
    /// Which of several images in one file.
    pub scene: Pick,
    /// Which of several time points.
    pub time: Pick,
    /// The numbers of pixels are names of things, not brightness: a palette does not matter.
    pub labels: bool,
}

/// An image that was found in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The pixels; channels without a name are called `0`, `1`, …
    pub stack: Stack,
    /// The size of a voxel, as far as the file says it.
    pub voxel: Voxel,
    /// Whether the file names its channels.
    pub named: bool,
    /// Which of the file's scenes it is, when there are several.
    pub scene: Option<usize>,
    /// Which of the scene's time points it is, when there are several.
    pub time: Option<usize>,
}
