//! Cells as a model sees them: positions in its latent space, and how well it describes each.

use serde::{Deserialize, Serialize};

use super::{Artifact, ArtifactError, ArtifactType, ArtifactWriter, Column, Table};
use crate::store::Blobs;

/// The model that made an embedding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EmbeddingDescription {
    /// `reference` or `target`.
    pub model: String,
    /// 2 or 3.
    pub dimensions: usize,
    /// Size of the images in voxels: Z, Y, X.
    pub size: [usize; 3],
    /// The channels that were encoded.
    pub image_channels: Vec<String>,
    /// Latent dimensions.
    pub latent: usize,
    /// β of the model's training; `None`: the plain ELBO.
    pub beta: Option<f64>,
    /// Draws of z that each cell's reconstruction error is the mean of.
    pub samples: usize,
}

/// Cells in a model's latent space: an artifact of type [`ArtifactType::Tables`] that describes itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// The model.
    pub description: EmbeddingDescription,
    /// A row a cell, in the order of the set: the columns of the set's own table; `reconstruction` (squared
    /// error summed over voxels and channels, mean over draws of z), `kl` (nats, summed over dimensions),
    /// `elbo` = −(`reconstruction` + `kl`); `mu_0`, `mu_1`, …, `logvar_0`, `logvar_1`, …: mean and logarithm of the variance
    /// of q(z | cell).
    pub cells: Table,
    /// A row a latent dimension, in the model's order: `dimension` (from 0), `rank` (from 1, by falling `mean_abs_mu`),
    /// `mean_kl` (nats), `mean_abs_mu`, `std_mu` (n in the denominator), over the cells.
    pub dimensions: Table,
}

const DESCRIPTION: &str = "embedding.json";
const CELLS: &str = "cells";
const DIMENSIONS: &str = "dimensions";

/// The Kullback–Leibler divergence of N(μ, σ²) from N(0, 1), in nats: ½ (μ² + σ² − 1 − log σ²).
#[must_use]
pub fn kl_divergence(mu: f64, logvar: f64) -> f64 {
    0.5 * (mu * mu + libm::exp(logvar) - 1.0 - logvar)
}

impl Embedding {
    /// An embedding from its table of cells; the table of dimensions is worked out.
    ///
    /// # Errors
    /// When a column of μ or log σ² is missing.
    pub fn new(description: EmbeddingDescription, cells: Table) -> Result<Self, ArtifactError> {
        let mean = |values: &mut dyn Iterator<Item = f64>| {
            let (sum, count) = values.fold((0.0, 0u32), |(sum, count), value| (sum + value, count + 1));
            sum / f64::from(count)
        };
        let (mut mean_kl, mut mean_abs_mu, mut std_mu) = (Vec::new(), Vec::new(), Vec::new());
        for dimension in 0..description.latent {
            let mu = cells.floats(&format!("mu_{dimension}"))?;
            let logvar = cells.floats(&format!("logvar_{dimension}"))?;
            mean_kl.push(mean(&mut mu.iter().zip(&logvar).map(|(&mu, &logvar)| kl_divergence(mu, logvar))));
            mean_abs_mu.push(mean(&mut mu.iter().map(|mu| mu.abs())));
            let centre = mean(&mut mu.iter().copied());
            std_mu.push(mean(&mut mu.iter().map(|mu| (mu - centre).powi(2))).sqrt());
        }
        let mut order: Vec<usize> = (0..description.latent).collect();
        order.sort_by(|&a, &b| f64::total_cmp(&mean_abs_mu[b], &mean_abs_mu[a]));
        let mut rank = vec![0i64; order.len()];
        for (place, dimension) in order.into_iter().enumerate() {
            rank[dimension] = place as i64 + 1;
        }
        let dimensions = Table::new()
            .with("dimension", (0..description.latent as i64).collect::<Vec<_>>())
            .with("rank", rank)
            .with("mean_kl", mean_kl)
            .with("mean_abs_mu", mean_abs_mu)
            .with("std_mu", std_mu);
        Ok(Self { description, cells, dimensions })
    }

    /// Writes `embedding.json` and both tables.
    ///
    /// # Errors
    /// When the store cannot keep them.
    #[expect(clippy::missing_panics_doc, reason = "plain data can always be written as JSON")]
    pub fn write(&self, blobs: &dyn Blobs) -> Result<Artifact, ArtifactError> {
        let mut out = ArtifactWriter::new(ArtifactType::Tables, blobs);
        out.put(DESCRIPTION, &serde_json::to_vec_pretty(&self.description).expect("plain data"))?;
        self.cells.write(&mut out, CELLS)?;
        self.dimensions.write(&mut out, DIMENSIONS)?;
        out.finish()
    }

    /// Reads what [`Embedding::write`] wrote.
    ///
    /// # Errors
    /// When the tables are no embedding.
    pub fn read(artifact: &Artifact, blobs: &dyn Blobs) -> Result<Self, ArtifactError> {
        let description = artifact.read(blobs, DESCRIPTION).map_err(|error| match error {
            ArtifactError::Malformed { kind, .. } => ArtifactError::Malformed {
                kind,
                reason: "these tables are no embedding; give what `embed` gives".to_owned(),
            },
            other => other,
        })?;
        let description = serde_json::from_slice(&description)
            .map_err(|error| ArtifactError::Malformed { kind: artifact.kind, reason: error.to_string() })?;
        Ok(Self {
            description,
            cells: Table::read(artifact, blobs, CELLS)?,
            dimensions: Table::read(artifact, blobs, DIMENSIONS)?,
        })
    }

    /// The values of μ of one latent dimension, a value a cell.
    ///
    /// # Errors
    /// When there is no such dimension.
    pub fn mu(&self, dimension: usize) -> Result<Vec<f64>, ArtifactError> {
        self.cells.floats(&format!("mu_{dimension}"))
    }

    /// The latent dimensions, those with the highest mean |μ| first.
    ///
    /// # Errors
    /// When the table of dimensions has no ranks.
    pub fn ranked(&self) -> Result<Vec<usize>, ArtifactError> {
        let Some(Column::Integer(ranks)) = self.dimensions.column("rank") else {
            return Err(ArtifactError::Malformed {
                kind: ArtifactType::Tables,
                reason: "the embedding's dimensions have no `rank`".to_owned(),
            });
        };
        let mut order: Vec<usize> = (0..ranks.len()).collect();
        order.sort_by_key(|&dimension| ranks[dimension]);
        Ok(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryBlobs;

    #[test]
    fn dimensions_are_ranked_by_mean_absolute_mu() {
        let description = EmbeddingDescription {
            model: "reference".to_owned(),
            dimensions: 2,
            size: [1, 16, 8],
            image_channels: vec!["membrane".to_owned(), "dna".to_owned()],
            latent: 2,
            beta: Some(0.25),
            samples: 10,
        };
        let cells = Table::new()
            .with("cell_id", vec!["a".to_owned(), "b".to_owned()])
            .with("mu_0", vec![0.5, 0.5])
            .with("mu_1", vec![3.0, -1.0])
            .with("logvar_0", vec![0.0, 0.0])
            .with("logvar_1", vec![0.0, libm::log(2f64)]);
        let embedding = Embedding::new(description, cells).unwrap();
        assert_eq!(embedding.ranked().unwrap(), [1, 0]);
        assert_eq!(embedding.dimensions.floats("std_mu").unwrap(), [0.0, 2.0]);
        assert_eq!(embedding.dimensions.floats("mean_abs_mu").unwrap(), [0.5, 2.0]);
        let kl = embedding.dimensions.floats("mean_kl").unwrap();
        let expected = f64::midpoint(4.5, 0.5 * (1.0 + 2.0 - 1.0 - libm::log(2f64)));
        assert!((kl[0] - 0.125).abs() < 1e-15 && (kl[1] - expected).abs() < 1e-15, "{kl:?}");
        let blobs = MemoryBlobs::default();
        let artifact = embedding.write(&blobs).unwrap();
        assert_eq!(Embedding::read(&artifact, &blobs).unwrap(), embedding);
    }
}
