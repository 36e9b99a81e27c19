//! Plots, galleries and the report.

pub mod gallery;
pub mod plot;
