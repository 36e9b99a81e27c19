//! Tensor operations that candle lacks or is slow at: plain functions over buffers, forward and backward.
//!
//! The two networks are fixed, so their backward pass is written out (in `model`) rather than recorded: buffers are used again,
//! nothing is kept that can be computed again cheaply, and gradients that nobody needs are not computed.

mod adam;
mod convolution;
pub mod kernel;
mod maps;
pub mod norm;
pub mod parallel;
mod rng;
pub mod spectral;

pub use adam::{Adam, AdamParameters};
pub use convolution::{Direction, Finish, Weights, Window, apply, weight_gradient};
pub use maps::{Maps, Pool, Shape};
pub use rng::Rng;
