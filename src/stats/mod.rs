//! PCA, regression and correlation.
