//! The two β-VAEs of the paper: MR (cell and nuclear shape) and MT (a structure in a given cell).

mod architecture;
pub mod artifact;
mod block;
mod coder;
mod error;
pub mod export;
pub mod import;
mod init;
mod layout;
mod parameters;
mod trainer;
mod vae;

pub use architecture::{Architecture, ModelKind, ParameterShape, check_sizes};
pub use block::Block;
pub use coder::{BoundDecoder, BoundEncoder, Decoder, Encoder};
pub use error::ModelError;
pub use parameters::Parameters;
pub use trainer::{EpochMetrics, Task, Trainer, TrainingError, TrainingSettings};
pub use vae::{Condition, Evaluation, Forward, Losses, Step, Vae};

pub use crate::nn::cpu::kl_divergence;
