//! Plots, galleries and the report.

pub mod gallery;
