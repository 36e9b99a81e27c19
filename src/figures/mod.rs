//! Plots, galleries and the report.

pub mod embedding;
pub mod evaluation;
pub mod features;
pub mod gallery;
pub mod learning;
pub mod plot;
pub mod rate_distortion;
pub mod regression;
pub mod report;
pub mod samples;
pub mod walks;
