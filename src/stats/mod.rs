//! PCA, regression, correlation, clustering, comparisons of samples and permutation tests.
//!
//! Every number is held against SciPy's or scikit-learn's on one table (`tests/fixtures/stats`).

mod clustering;
mod correlation;
mod describe;
mod distribution;
mod explained;
mod pca;
#[cfg(test)]
mod peers;
mod permutation;
mod regression;

pub use clustering::{Clustering, Merge, cluster};
pub use correlation::{pearson, ranks, spearman};
pub use describe::{mean, quantile, sorted, standard_deviation};
pub use distribution::{Coverage, KolmogorovSmirnov, area_under_curve, kolmogorov_smirnov, nearest_neighbour_coverage};
pub use explained::{BetweenGroups, between_groups, explained_variance};
pub use pca::{Pca, pca, z_scores};
pub use permutation::{PermutationTest, bonferroni, permutation_test};
pub use regression::{LinearFit, least_squares, r_squared};
