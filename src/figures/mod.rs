//! Plots, galleries and the report.

pub mod features;
pub mod gallery;
pub mod plot;
