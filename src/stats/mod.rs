//! PCA, regression and correlation.

mod describe;

pub use describe::{mean, quantile, sorted, standard_deviation};
