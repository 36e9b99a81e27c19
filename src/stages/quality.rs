//! Quality checks of models: how much of the images a model explains, what the latent position adds to that, and whether training
//! came to an end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::training_set::TrainingSet;
use crate::{
    artifact::{Artifact, ArtifactError, ArtifactType, ArtifactWriter, Cells, Table, kl_divergence},
    model::{Architecture, ModelKind, Vae},
    stage::{Context, StageError},
    store::Blobs,
};

/// What a model was trained on: a file of its artifact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct TrainedOn {
    /// Training cells.
    pub(super) cells: usize,
    /// Names of the sets they came from, sorted.
    pub(super) datasets: Vec<String>,
}

const TRAINED_ON: &str = "trained-on.json";

impl TrainedOn {
    /// Of these rows of a set.
    pub(super) fn new(cells: &Cells, rows: &[usize]) -> Result<Self, ArtifactError> {
        let names = cells.table.texts("dataset")?;
        let mut datasets: Vec<String> = rows.iter().map(|&row| names[row].clone()).collect();
        datasets.sort();
        datasets.dedup();
        Ok(Self { cells: rows.len(), datasets })
    }

    /// Adds it to a model.
    pub(super) fn add_to(&self, model: &Artifact, blobs: &dyn Blobs) -> Result<Artifact, ArtifactError> {
        let mut out = ArtifactWriter::new(ArtifactType::Model, blobs);
        model.tree.entries().iter().for_each(|entry| out.link(entry.clone()));
        out.put(TRAINED_ON, &serde_json::to_vec_pretty(self).expect("plain data"))?;
        out.finish()
    }

    /// What a model was trained on; `None` where it does not say, as imported weights do not.
    pub(super) fn of(model: &Artifact, blobs: &dyn Blobs) -> Result<Option<Self>, StageError> {
        if model.tree.get(TRAINED_ON).is_none() {
            return Ok(None);
        }
        let bytes = model.read(blobs, TRAINED_ON)?;
        let known = serde_json::from_slice(&bytes)
            .map_err(|error| StageError::bad_input(format!("the model's `{TRAINED_ON}` cannot be read: {error}")))?;
        Ok(Some(known))
    }

    /// Those of these sets that the model never saw a cell of.
    pub(super) fn never_seen<'a>(&self, datasets: impl IntoIterator<Item = &'a String>) -> Vec<String> {
        let mut strangers: Vec<String> =
            datasets.into_iter().filter(|name| !self.datasets.contains(name)).cloned().collect();
        strangers.sort();
        strangers.dedup();
        strangers
    }
}

/// One channel of one image, and how far two pictures of it are away from it: sums of squares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Squares {
    /// Of the image itself.
    pub(super) signal: f64,
    /// Of the difference to what is decoded at the mean μ of the image's latent position.
    pub(super) at_mu: f64,
    /// Of the difference to what is decoded at z = 0: what the model knows without having looked at the image.
    pub(super) at_zero: f64,
}

impl Squares {
    /// The squares of each channel of an image.
    pub(super) fn of(image: &[f32], at_mu: &[f32], at_zero: &[f32], channels: usize) -> Vec<Self> {
        let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        let voxels = image.len() / channels;
        (0..channels)
            .map(|channel| {
                let part = channel * voxels..(channel + 1) * voxels;
                let image = &image[part.clone()];
                Self {
                    signal: image.iter().map(|&value| f64::from(value).powi(2)).sum(),
                    at_mu: distance(image, &at_mu[part.clone()]),
                    at_zero: distance(image, &at_zero[part]),
                }
            })
            .collect()
    }

    /// The share of the signal that is explained at μ; NaN where there is none.
    pub(super) fn explained(&self) -> f64 {
        if self.signal > 0.0 { 1.0 - self.at_mu / self.signal } else { f64::NAN }
    }
}

/// Below this highest mean KL of a dimension, in nats, a latent space holds nothing: the posterior has collapsed to the prior.
const COLLAPSED_KL: f64 = 0.05;
/// A gain over z = 0 below this is no gain.
const NO_GAIN: f64 = 0.01;
/// Mean KL above which a dimension counts as important, in nats (paper, section 4.5).
pub(super) const IMPORTANT_KL: f64 = 0.6;

/// Quality of a model on cells.
pub(super) struct Quality<'a> {
    architecture: &'a Architecture,
    /// Sums over the cells of each structure; a reference model sees one.
    sums: BTreeMap<String, (usize, Vec<Squares>)>,
}

impl<'a> Quality<'a> {
    pub(super) fn new(architecture: &'a Architecture) -> Self {
        Self { architecture, sums: BTreeMap::new() }
    }

    /// Counts in a cell: the squares of each channel.
    pub(super) fn add(&mut self, structure: &str, squares: &[Squares]) {
        let name = if self.architecture.kind == ModelKind::Target { structure } else { "" };
        let empty = || (0, vec![Squares::default(); squares.len()]);
        let (count, sums) = self.sums.entry(name.to_owned()).or_insert_with(empty);
        *count += 1;
        for (sum, squares) in sums.iter_mut().zip(squares) {
            sum.signal += squares.signal;
            sum.at_mu += squares.at_mu;
            sum.at_zero += squares.at_zero;
        }
    }

    /// A row for each structure and channel: `structure`, `channel`, `cells`; `explained`: 1 − squared error at μ / squared signal;
    /// `explained_at_zero`: the same at z = 0; `gain`: their difference.
    pub(super) fn table(&self) -> Table {
        let channels = &self.architecture.image_channels;
        let rows: Vec<(&String, &String, usize, &Squares)> = self
            .sums
            .iter()
            .flat_map(|(structure, (count, sums))| {
                channels.iter().zip(sums).map(move |(channel, squares)| (structure, channel, *count, squares))
            })
            .collect();
        let at_zero = |squares: &Squares| Squares { at_mu: squares.at_zero, ..*squares }.explained();
        Table::new()
            .with("structure", rows.iter().map(|row| row.0.clone()).collect::<Vec<_>>())
            .with("channel", rows.iter().map(|row| row.1.clone()).collect::<Vec<_>>())
            .with("cells", rows.iter().map(|row| row.2 as i64).collect::<Vec<_>>())
            .with("explained", rows.iter().map(|row| row.3.explained()).collect::<Vec<_>>())
            .with("explained_at_zero", rows.iter().map(|row| at_zero(row.3)).collect::<Vec<_>>())
            .with("gain", rows.iter().map(|row| row.3.explained() - at_zero(row.3)).collect::<Vec<_>>())
    }

    /// What people must be told, worst first. `mean_kl`: of each latent dimension, in nats.
    pub(super) fn findings(&self, mean_kl: &[f64]) -> Vec<String> {
        let table = self.table();
        let (gain, explained) =
            (table.floats("gain").unwrap_or_default(), table.floats("explained").unwrap_or_default());
        let highest = mean_kl.iter().copied().fold(0.0, f64::max);
        let important = mean_kl.iter().filter(|&&kl| kl > IMPORTANT_KL).count();
        let mut findings = Vec::new();
        if highest < COLLAPSED_KL && !mean_kl.is_empty() {
            findings.push(format!(
                "the latent space holds nothing (posterior collapse): the highest mean KL of a dimension is {highest:.3} nats; more \
                 epochs, more cells or a lower `beta` may help"
            ));
        } else if important == 0 && !mean_kl.is_empty() {
            findings.push(format!(
                "no latent dimension is important: the highest mean KL is {highest:.2} nats, below {IMPORTANT_KL}"
            ));
        }
        let names: Vec<String> = self
            .sums
            .keys()
            .flat_map(|structure| {
                self.architecture
                    .image_channels
                    .iter()
                    .map(move |channel| if structure.is_empty() { channel.clone() } else { structure.clone() })
            })
            .collect();
        let nothing: Vec<String> = names
            .iter()
            .zip(gain.iter().zip(&explained))
            .filter(|(_, (gain, _))| **gain < NO_GAIN)
            .map(|(name, (_, explained))| format!("{name} ({explained:.2})"))
            .collect();
        if !nothing.is_empty() {
            findings.push(format!(
                "an image's own latent position explains no more than z = 0 does of {}; in brackets the share explained",
                nothing.join(", ")
            ));
        }
        findings
    }

    /// One line: what is explained.
    pub(super) fn summary(&self, mean_kl: &[f64]) -> String {
        let table = self.table();
        let explained = table.floats("explained").unwrap_or_default();
        let parts: Vec<String> = if self.architecture.kind == ModelKind::Target {
            self.sums.keys().zip(explained).map(|(name, share)| format!("{name} {share:.2}")).collect()
        } else {
            self.architecture
                .image_channels
                .iter()
                .zip(explained)
                .map(|(name, share)| format!("{name} {share:.2}"))
                .collect()
        };
        let important = mean_kl.iter().filter(|&&kl| kl > IMPORTANT_KL).count();
        format!(
            "share of the squared signal explained at μ: {}; {important} of {} latent dimensions carry more than {IMPORTANT_KL} nats",
            parts.join(", "),
            mean_kl.len()
        )
    }
}

/// The quality of a model on cells whose structures these are, and the mean KL of each latent dimension.
pub(super) fn assess<'a>(
    vae: &'a Vae,
    set: &TrainingSet,
    structures: &[String],
    at_once: usize,
    context: &Context,
) -> Result<(Quality<'a>, Vec<f64>), StageError> {
    let architecture = vae.architecture();
    let (latent, channels) = (architecture.latent, architecture.image_channels.len());
    let mut quality = Quality::new(architecture);
    let mut mean_kl = vec![0.0; latent];
    for first in (0..set.len()).step_by(at_once) {
        context.check()?;
        let cells: Vec<usize> = (first..set.len().min(first + at_once)).collect();
        let batch = set.batch(&cells)?;
        let condition = batch.condition();
        let (mu, logvar) = vae.encode(&batch.images, condition.as_ref())?;
        let at_mu = vae.decode(&mu, condition.as_ref())?;
        let at_zero = vae.decode(&vec![0.0; mu.len()], condition.as_ref())?;
        let one = batch.images.len() / cells.len();
        for (place, &cell) in cells.iter().enumerate() {
            let part = place * one..(place + 1) * one;
            let squares = Squares::of(&batch.images[part.clone()], &at_mu[part.clone()], &at_zero[part], channels);
            quality.add(&structures[cell], &squares);
        }
        for (at, (&mu, &logvar)) in mu.iter().zip(&logvar).enumerate() {
            mean_kl[at % latent] += kl_divergence(f64::from(mu), f64::from(logvar)) / set.len() as f64;
        }
    }
    Ok((quality, mean_kl))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            inference::tests::tiny_model,
            testing::{MemoryHost, noisy_cells},
        },
        *,
    };

    fn squares(signal: f64, at_mu: f64, at_zero: f64) -> Squares {
        Squares { signal, at_mu, at_zero }
    }

    fn architecture(host: &MemoryHost, kind: ModelKind) -> Architecture {
        crate::model::artifact::read_architecture(&tiny_model(kind, &host.blobs), &host.blobs).unwrap()
    }

    #[test]
    fn shares_are_of_sums_and_by_channel() {
        assert_eq!(
            Squares::of(&[1.0, 2.0, 0.0, 3.0], &[1.0, 1.0, 0.0, 0.0], &[0.0; 4], 2),
            [squares(5.0, 1.0, 5.0), squares(9.0, 9.0, 9.0)]
        );
        let host = MemoryHost::default();
        let architecture = architecture(&host, ModelKind::Target);
        let mut quality = Quality::new(&architecture);
        quality.add("golgi", &[squares(10.0, 2.0, 5.0)]);
        quality.add("golgi", &[squares(30.0, 6.0, 15.0)]);
        quality.add("nucleoli", &[squares(10.0, 4.0, 4.01)]);
        let table = quality.table();
        assert_eq!(table.texts("structure").unwrap(), ["golgi", "nucleoli"]);
        let column = |name: &str| table.floats(name).unwrap();
        assert!((column("explained")[0] - 0.8).abs() < 1e-12 && (column("gain")[0] - 0.3).abs() < 1e-12);
        let findings = quality.findings(&[0.9, 0.001]);
        assert!(findings.len() == 1 && findings[0].contains("nucleoli (0.60)") && !findings[0].contains("golgi"));
        assert!(quality.findings(&[0.01, 0.001])[0].contains("posterior collapse"));
        assert!(quality.findings(&[0.3])[0].contains("no latent dimension is important"));
        assert!(quality.summary(&[0.9]).contains("golgi 0.80, nucleoli 0.60; 1 of 1"));
    }

    #[test]
    fn a_reference_model_is_judged_by_channel_whatever_the_structure() {
        let host = MemoryHost::default();
        let architecture = architecture(&host, ModelKind::Reference);
        let mut quality = Quality::new(&architecture);
        quality.add("golgi", &[squares(10.0, 1.0, 9.0), squares(4.0, 1.0, 2.0)]);
        quality.add("", &[squares(10.0, 1.0, 9.0), squares(4.0, 1.0, 2.0)]);
        let table = quality.table();
        assert_eq!(table.texts("channel").unwrap(), ["membrane", "dna"]);
        assert_eq!(table.floats("cells").unwrap(), [2.0, 2.0]);
        assert!(quality.findings(&[1.0]).is_empty());
    }

    #[test]
    fn a_model_knows_what_it_was_trained_on() {
        let host = MemoryHost::default();
        let cells = noisy_cells(&host, &["a", "b"], &["golgi"; 2]);
        let trained = TrainedOn::new(&Cells::open(&cells, &host.blobs).unwrap(), &[0, 1]).unwrap();
        let bare = tiny_model(ModelKind::Reference, &host.blobs);
        assert_eq!(TrainedOn::of(&bare, &host.blobs).unwrap(), None);
        let model = trained.add_to(&bare, &host.blobs).unwrap();
        let known = TrainedOn::of(&model, &host.blobs).unwrap().unwrap();
        assert_eq!((known.cells, known.datasets.as_slice()), (2, &["test".to_owned()][..]));
        assert!(known.never_seen(&["test".to_owned()]).is_empty());
        assert_eq!(known.never_seen(&["test".to_owned(), "real".to_owned()]), ["real"]);
        assert_eq!(
            crate::model::artifact::read(&model, &host.blobs).unwrap(),
            crate::model::artifact::read(&bare, &host.blobs).unwrap()
        );
    }
}
