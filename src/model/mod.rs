//! The two β-VAEs of the paper: MR (cell and nuclear shape) and MT (a structure in a given cell).

mod architecture;
pub mod artifact;
mod error;
pub mod import;
mod layout;
mod parameters;
mod pass;
mod start;
mod trainer;
mod vae;

pub use architecture::{Architecture, ModelKind, ParameterShape, check_sizes};
pub use error::ModelError;
pub use parameters::{Parameters, Tensor};
pub use pass::Workspace;
pub use trainer::{EpochMetrics, Task, Trainer, TrainingError, TrainingSettings};
pub use vae::{Condition, Evaluation, Losses, Step, Vae, kl_divergence};
