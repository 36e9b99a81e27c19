//! The pipeline as a graph of stage instances.

mod instance;

pub use instance::{Graph, Instance, Source};
