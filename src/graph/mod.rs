//! The pipeline as a graph of stage instances.

mod build;
pub mod draw;
mod instance;
mod select;
#[cfg(test)]
mod tests;

pub use build::{build, load};
pub use instance::{Graph, Instance, Source};
pub use select::SelectorError;
