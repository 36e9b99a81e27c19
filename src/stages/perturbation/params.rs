//! What can be set of a `perturbation`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Parameters of `perturbation`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::stages) struct Params {
    /// The column that names the treatment of each cell.
    #[serde(default = "treatment")]
    pub treatment: String,
    /// What stands in that column for cells that got the vehicle alone; empty by default.
    #[serde(default)]
    pub vehicle: String,
    /// The column that names the well of each cell, where the table has one. Cells of one well are not independent: wells, not
    /// cells, are what labels are permuted among.
    #[serde(default = "well")]
    pub well: String,
    /// The column that names the plate of each well, where the table has one: labels are permuted inside plates.
    #[serde(default = "plate")]
    pub plate: String,
    /// Random permutations of the labels; where there are fewer arrangements, all are tried (paper: 10,000).
    #[serde(default = "permutations")]
    #[schemars(range(max = 10_000_000))]
    pub permutations: usize,
    /// Latent dimensions take part whose KL divergence has a standard deviation above this over the vehicle cells, in nats.
    #[serde(default = "least_deviation")]
    #[schemars(range(max = 1000.0))]
    pub kl_deviation: f64,
    /// The chance of a false alarm, over all tests together, that is accepted.
    #[serde(default = "level")]
    #[schemars(range(max = 1.0))]
    pub level: f64,
    /// Cells shown along each shift.
    #[serde(default = "shown")]
    #[schemars(range(max = 1000))]
    pub shown: usize,
    /// Seed of the permutations.
    pub seed: u64,
}

fn treatment() -> String {
    "drug".to_owned()
}

fn well() -> String {
    "well".to_owned()
}

fn plate() -> String {
    "plate".to_owned()
}

fn permutations() -> usize {
    10_000
}

fn least_deviation() -> f64 {
    0.05
}

fn level() -> f64 {
    0.05
}

fn shown() -> usize {
    9
}
