//! Plots, galleries and the report.

pub mod comparison;
pub mod correlation;
pub mod coupling;
pub mod embedding;
pub mod evaluation;
pub mod features;
pub mod gallery;
pub mod learning;
pub mod outliers;
pub mod perturbation;
pub mod plot;
pub mod quality;
pub mod rate_distortion;
pub mod regression;
pub mod report;
pub mod samples;
pub mod walks;
