//! Tensor operations that candle lacks or is slow at.

mod rng;

pub use rng::Rng;
