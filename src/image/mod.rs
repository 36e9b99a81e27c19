//! Images: stacks of channels, volumes, image files, filters, morphology, watershed, geometry.
//!
//! Axes are Z, Y, X everywhere, the last one contiguous; a 2D image is a volume of depth 1. Lengths are µm.

mod align;
mod basins;
mod coarse;
mod components;
mod contour;
mod distance;
mod error;
pub mod features;
mod gaussian;
pub mod io;
mod median;
mod morphology;
mod overlap;
mod region;
pub mod segmentation;
mod separable;
mod sheet;
mod stack;
#[cfg(test)]
pub(crate) mod testing;
mod threshold;
mod volume;
mod watershed;

pub use align::{Frame, Pose, align_linear, align_mask};
pub use basins::basins;
pub use components::{Connectivity, components, label_counts};
pub use contour::{Contour, active_contour};
pub use distance::{distance, distance_within, squared_distance};
pub use error::{ImageError, Unclear};
pub use gaussian::gaussian;
pub use median::median;
pub use morphology::{fill_holes, fill_holes_in_planes, open};
pub use overlap::{Comparison, Detection, Match, Object, axis_angle, labelled_regions};
pub use region::{Region, regions};
pub use sheet::sheets;
pub use stack::{Pixels, Stack};
pub use threshold::otsu;
pub use volume::Volume;
pub use watershed::watershed;
