//! Images: stacks of channels, volumes, OME-TIFF, filters, morphology, watershed, geometry.
//!
//! Axes are Z, Y, X everywhere, the last one contiguous; a 2D image is a volume of depth 1. Lengths are µm.

mod components;
mod distance;
mod error;
pub mod features;
mod gaussian;
mod median;
pub mod ome_tiff;
mod simd;
mod stack;
#[cfg(test)]
pub(crate) mod testing;
mod volume;
mod watershed;

pub use components::{Connectivity, components, label_counts};
pub use distance::{distance, squared_distance};
pub use error::ImageError;
pub use gaussian::gaussian;
pub use median::median;
pub use stack::{Pixels, Stack};
pub use volume::Volume;
pub use watershed::watershed;
