//! Images: stacks of channels, volumes, OME-TIFF, filters, morphology, watershed, geometry.
//!
//! Axes are Z, Y, X everywhere, the last one contiguous; a 2D image is a volume of depth 1. Lengths are µm.

mod error;
pub mod features;
pub mod ome_tiff;
mod stack;
mod volume;

pub use error::ImageError;
pub use stack::{Pixels, Stack};
pub use volume::Volume;
