//! The stage kinds, one file or folder each. What they have in common stands in [`crate::stage`].
//!
//! To add a kind: write a file with a type that implements [`crate::stage::StageKind`], and name it in [`registry`].

mod command;
mod compare;
mod controls;
mod correlate;
mod coupling;
mod each_cell;
mod embed;
mod evaluate;
mod features;
mod held_out;
mod id_hash;
mod import_cells;
mod import_fields;
mod inference;
#[cfg(test)]
mod item_keys;
mod latent_walk;
#[cfg(test)]
mod limits;
mod normalize;
mod outliers;
mod pca_regression;
mod perturbation;
mod project;
mod quality;
mod reconstruct;
mod registry;
mod report;
mod sample;
mod segment_align;
mod select;
mod simulate;
mod split;
#[cfg(test)]
pub(crate) mod testing;
mod train;
mod training_set;
mod voxel_size;
mod weights;

pub use command::supervise;
pub use registry::{find, registry};
