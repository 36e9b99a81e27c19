//! The two β-VAEs of the paper: MR (cell and nuclear shape) and MT (a structure in a given cell).

mod architecture;
pub mod artifact;
mod error;
pub mod import;
mod parameters;

pub use architecture::{Architecture, ModelKind, ParameterShape, check_sizes};
pub use error::ModelError;
pub use parameters::{Parameters, Tensor};
