//! The engine of the networks: candle's tensors, and our own operations, tape and optimiser.
//!
//! * [`Shape`], [`Maps`]: images in channels-last order, which own a candle storage.
//! * [`Convolution`], [`Normalisation`], [`Condition`]: layers, built through candle's `VarBuilder` from [`ParameterSet`].
//! * [`Tape`]: a model is written forward only, the tape runs it backwards.
//! * [`Backend`]: what a step needs of a device; [`cpu`] is the processor's.
//! * [`Adam`]: a `candle_nn::Optimizer` whose state can be kept. [`Rng`]: random numbers that depend on nothing but their key.
//!
//! candle 0.11 has no 3D convolution, cannot be extended by operations with a gradient from outside, and keeps its optimiser's state to
//! itself; therefore these parts are our own.

mod adam;
pub mod backend;
pub mod cpu;
mod layers;
mod maps;
mod parameters;
mod rng;
mod shape;
mod storage;
mod tape;

pub use adam::{Adam, AdamParameters};
pub use backend::{Backend, Folded, Given, Normalised, Read, Sampled, Spectral, Term};
pub use layers::{Activation, Condition, Convolution, Direction, Normalisation, Window};
pub use maps::Maps;
pub use parameters::{ParameterSet, Slot};
pub use rng::Rng;
pub use shape::Shape;
pub use tape::{Map, Tape};
