//! PCA, regression and correlation.

mod correlation;
mod describe;
mod pca;
mod regression;

pub use correlation::{pearson, ranks, spearman};
pub use describe::{mean, quantile, sorted, standard_deviation};
pub use pca::{Pca, pca, z_scores};
pub use regression::{LinearFit, least_squares, r_squared};
