//! The stage kinds, one file each, and what they have in common.
//!
//! A stage kind declares its ports and parameters, checks them before anything runs, and runs. It knows its inputs,
//! its parameters and a [`Context`]; it knows nothing of keys, paths of the store, or the cache.
//!
//! To add a kind: write a file with a type that implements [`StageKind`], and name it in [`registry`].

mod command;
mod context;
mod controls;
mod each_cell;
mod embed;
mod error;
mod evaluate;
mod features;
mod id_hash;
mod import_cells;
mod import_fields;
mod inference;
mod kind;
mod latent_walk;
mod normalize;
mod pca_regression;
mod port;
mod project;
mod registry;
mod report;
mod sample;
mod segment_align;
mod simulate;
mod split;
#[cfg(test)]
pub(crate) mod testing;
mod train;
mod training_set;
mod voxel_size;
mod weights;

pub use context::{Context, Host, Item, ItemResult, Progress};
pub use error::StageError;
pub use kind::{AnyStage, Checked, Problem, StageKind};
pub use port::{Arity, Facts, FileInput, Input, InputFacts, Inputs, Output, OutputFacts, Outputs};
pub use registry::{erased, find, registry};
