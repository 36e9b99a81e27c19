//! Models at work on cells: what `embed`, `sample` and `latent-walk` have in common.

use crate::{
    artifact::{Artifact, CellImage, CellsDescription},
    image::Volume,
    model::{self, Architecture, Condition, ModelError, ModelKind, Vae},
    nn::Rng,
    stage::{Facts, InputFacts, Problem, StageError},
    store::Blobs,
};

impl From<ModelError> for StageError {
    fn from(error: ModelError) -> Self {
        Self::bad_input(error.to_string())
    }
}

/// Voxels of all images of one decoding, about: bounds the memory, and never changes with the machine.
const VOXELS_AT_ONCE: usize = 1 << 21;

/// A model in evaluation mode.
pub(super) struct Inference {
    vae: Vae,
}

/// The condition of a target model, for one cell: its reference channels and the label.
#[derive(Clone, Copy)]
pub(super) struct Conditioned<'a> {
    /// Reference channels, one behind the other.
    pub(super) reference: &'a [f32],
    /// The one-hot position of the structure.
    pub(super) label: usize,
}

impl Inference {
    pub(super) fn open(artifact: &Artifact, blobs: &dyn Blobs) -> Result<Self, StageError> {
        let (architecture, parameters) = model::artifact::read(artifact, blobs)?;
        Ok(Self { vae: Vae::from_parameters(&architecture, &parameters)? })
    }

    pub(super) fn architecture(&self) -> &Architecture {
        self.vae.architecture()
    }

    /// The one-hot position of a cell's structure; none for a reference model.
    pub(super) fn label(&self, structure: &str) -> Result<Option<usize>, StageError> {
        match self.architecture().kind {
            ModelKind::Reference => Ok(None),
            ModelKind::Target => self.architecture().label(structure).map(Some).map_err(|error| {
                StageError::bad_input(error.to_string())
                    .with_help("a target model works on cells with a structure that it was trained with")
            }),
        }
    }

    /// μ and log σ² of one cell.
    pub(super) fn encode(
        &self,
        image: &[f32],
        condition: Option<Conditioned>,
    ) -> Result<(Vec<f32>, Vec<f32>), StageError> {
        let label = condition.map(|condition| [condition.label]);
        let condition = condition.zip(label.as_ref()).map(|(c, labels)| Condition { reference: c.reference, labels });
        Ok(self.vae.encode(image, condition.as_ref())?)
    }

    /// The images of latent positions (one behind the other) under one condition, one behind the other.
    pub(super) fn decode(&self, z: &[f32], condition: Option<Conditioned>) -> Result<Vec<f32>, StageError> {
        let architecture = self.architecture();
        let mut images = Vec::new();
        for part in z.chunks(self.at_once() * architecture.latent) {
            let count = part.len() / architecture.latent;
            let repeated = condition.map(|c| (c.reference.repeat(count), vec![c.label; count]));
            let condition = repeated.as_ref().map(|(reference, labels)| Condition { reference, labels });
            images.extend(self.vae.decode(part, condition.as_ref())?);
        }
        Ok(images)
    }

    /// How many images are worked on at once.
    pub(super) fn at_once(&self) -> usize {
        (VOXELS_AT_ONCE / self.architecture().voxels()).max(1)
    }

    /// −ELBO of one image under several conditions: `references` one behind the other, the label the same. z is drawn `samples` times,
    /// from a copy of `noise` for each condition, so that conditions are compared under the same noise.
    pub(super) fn negative_elbos(
        &self,
        image: &[f32],
        references: &[f32],
        label: usize,
        samples: usize,
        noise: &Rng,
    ) -> Result<Vec<f64>, StageError> {
        let architecture = self.architecture();
        let count = references.len() / (architecture.voxels() * architecture.reference_channels.len());
        let condition = Condition { reference: references, labels: &vec![label; count] };
        let mut noise = vec![noise.clone(); count];
        let evaluations = self.vae.evaluate(&image.repeat(count), Some(&condition), samples, &mut noise)?;
        Ok(evaluations.iter().map(|evaluation| -evaluation.elbo()).collect())
    }

    /// How a set of cells becomes input of this model.
    pub(super) fn fit(&self, cells: &CellsDescription) -> Result<Fit, StageError> {
        let mut fit = self.fit_condition(cells)?;
        fit.encoded = positions(cells, &self.architecture().image_channels)?;
        Ok(fit)
    }

    /// How a set of cells becomes the condition of this target model: the channels that it encodes are not needed.
    pub(super) fn fit_condition(&self, cells: &CellsDescription) -> Result<Fit, StageError> {
        let model = self.architecture();
        let sizes = |[z, y, x]: [usize; 3]| format!("{z} × {y} × {x}");
        if cells.size != model.size || cells.dimensions != model.dimensions {
            let (cells, model) = (sizes(cells.size), sizes(model.size));
            return Err(StageError::bad_input(format!(
                "the cells have {cells} voxels (z, y, x), the model takes {model}"
            )));
        }
        if !cells.normalised {
            return Err(StageError::bad_input("the cells' intensities are not normalised to [0, 1]")
                .with_help("put the stage `normalize` before this one"));
        }
        let apart = |(cell, model): (&f64, &f64)| (cell / model - 1.0).abs() > 0.01;
        if cells.voxel_um.iter().zip(&model.voxel_um).any(apart) {
            let (cells, model) = (cells.voxel_um, model.voxel_um);
            let message = format!("the cells' voxels have {cells:?} µm (z, y, x), the model's {model:?}");
            return Err(StageError::bad_input(message).with_help("bring the cells to the model's resolution"));
        }
        Ok(Fit { encoded: Vec::new(), reference: positions(cells, &model.reference_channels)? })
    }
}

/// Where these channels stand in a set of cells.
fn positions(cells: &CellsDescription, names: &[String]) -> Result<Vec<usize>, StageError> {
    let position = |name: &String| {
        cells.channels.iter().position(|channel| channel == name).ok_or_else(|| {
            let there = cells.channels.join(", ");
            StageError::bad_input(format!("the model needs the channel `{name}`; the cells have {there}"))
        })
    };
    names.iter().map(position).collect()
}

/// Where a model's channels stand in a set of cells.
pub(super) struct Fit {
    encoded: Vec<usize>,
    reference: Vec<usize>,
}

/// One cell as a model takes it: channels one behind the other.
pub(super) struct Images {
    /// The channels that are encoded and reconstructed.
    pub(super) encoded: Vec<f32>,
    /// The channels that condition a target model; empty for a reference model.
    pub(super) reference: Vec<f32>,
}

impl Fit {
    pub(super) fn images(&self, cell: &CellImage) -> Images {
        let gather = |positions: &[usize]| positions.iter().flat_map(|&at| cell.channels[at].data.clone()).collect();
        Images { encoded: gather(&self.encoded), reference: gather(&self.reference) }
    }
}

impl Images {
    pub(super) fn condition(&self, label: Option<usize>) -> Option<Conditioned<'_>> {
        label.map(|label| Conditioned { reference: &self.reference, label })
    }
}

/// The names of the channels of [`volumes`].
pub(super) fn shown_channels(model: &Architecture) -> Vec<String> {
    model.reference_channels.iter().chain(&model.image_channels).cloned().collect()
}

/// The reference channels, if any, and behind them the model's own.
pub(super) fn volumes(model: &Architecture, reference: &[f32], images: &[f32]) -> Vec<Volume<f32>> {
    let all = reference.chunks_exact(model.voxels()).chain(images.chunks_exact(model.voxels()));
    all.map(|channel| Volume::new(model.size, channel.to_vec())).collect()
}

/// Problems that can be seen before anything runs: a model and cells of different sizes, or cells without its channels.
pub(super) fn check_fit(inputs: &InputFacts, model: &str, cells: &str) -> Vec<Problem> {
    let facts = |port: &str| inputs.get(port).and_then(|facts| facts.first());
    let (Some(model), Some(of_cells)) = (facts(model), facts(cells)) else { return Vec::new() };
    size_problem(model, of_cells, cells).into_iter().collect()
}

fn size_problem(model: &Facts, cells: &Facts, port: &str) -> Option<Problem> {
    let ([mz, my, mx], [z, y, x]) = (model.size?, cells.size?);
    let message = format!("the cells have {z} × {y} × {x} voxels (z, y, x), the model takes {mz} × {my} × {mx}");
    (model.size != cells.size).then(|| {
        let problem = Problem::with(port, message);
        if mz == 1 && z > 1 { problem.help("put the stage `project` before this one") } else { problem }
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{model::artifact::write, store::MemoryBlobs};

    /// An untrained model for the cells of `noisy_cells`; a target model knows `golgi` and `nucleoli`.
    pub(in super::super) fn tiny_model(kind: ModelKind, blobs: &MemoryBlobs) -> Artifact {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let target = kind == ModelKind::Target;
        let architecture = Architecture {
            kind,
            dimensions: 3,
            size: [4, 8, 8],
            image_channels: names(if target { &["structure"] } else { &["membrane", "dna"] }),
            reference_channels: names(if target { &["membrane", "dna"] } else { &[] }),
            labels: names(if target { &["golgi", "nucleoli"] } else { &[] }),
            channels: vec![2, 3],
            latent: 3,
            beta: Some(0.25),
            voxel_um: [0.5; 3],
        };
        write(&architecture, &Vae::new(&architecture, 7).unwrap().parameters(), blobs).unwrap()
    }

    #[test]
    fn cells_that_do_not_fit_are_refused_with_the_reason() {
        let blobs = MemoryBlobs::default();
        let inference = Inference::open(&tiny_model(ModelKind::Target, &blobs), &blobs).unwrap();
        let good = CellsDescription {
            size: [4, 8, 8],
            dimensions: 3,
            voxel_um: [0.5; 3],
            channels: ["dna", "structure", "membrane"].map(str::to_owned).to_vec(),
            normalised: true,
        };
        let fit = inference.fit(&good).unwrap();
        assert_eq!((fit.encoded, fit.reference), (vec![1], vec![2, 0]));
        let refused = |cells: CellsDescription| inference.fit(&cells).err().unwrap().to_string();
        assert!(refused(CellsDescription { size: [4, 8, 16], ..good.clone() }).contains("4 × 8 × 16"));
        assert!(refused(CellsDescription { normalised: false, ..good.clone() }).contains("not normalised"));
        assert!(refused(CellsDescription { voxel_um: [0.3; 3], ..good.clone() }).contains("0.3"));
        let without = CellsDescription { channels: vec!["membrane".to_owned(), "dna".to_owned()], ..good };
        assert!(inference.fit_condition(&without).is_ok());
        assert!(refused(without).contains("the model needs the channel `structure`"));
        assert!(inference.label("golgi").unwrap() == Some(0) && inference.label("actin").is_err());
    }

    #[test]
    fn many_latents_are_decoded_as_each_alone() {
        let blobs = MemoryBlobs::default();
        let inference = Inference::open(&tiny_model(ModelKind::Target, &blobs), &blobs).unwrap();
        let reference: Vec<f32> = (0..512u16).map(|i| f32::from(i % 7) / 7.0).collect();
        let nucleoli = Conditioned { reference: &reference, label: 1 };
        let given = Some(nucleoli);
        let z = [0.3, -1.0, 2.0, 0.0, 0.5, -0.5];
        let both = inference.decode(&z, given).unwrap();
        let second = inference.decode(&z[3..], given).unwrap();
        assert!(both[256..].iter().zip(&second).all(|(a, b)| (a - b).abs() < 1e-6));
        let other = inference.decode(&z[3..], Some(Conditioned { label: 0, ..nucleoli })).unwrap();
        assert_ne!(second, other, "the label matters");
    }

    #[test]
    fn sizes_are_compared_before_anything_runs() {
        let facts = |size| vec![Facts { size: Some(size), ..Facts::default() }];
        let inputs =
            |cells| InputFacts::from([("model".to_owned(), facts([1, 80, 48])), ("cells".to_owned(), facts(cells))]);
        assert_eq!(check_fit(&inputs([1, 80, 48]), "model", "cells"), []);
        let problems = check_fit(&inputs([32, 80, 48]), "model", "cells");
        assert!(problems[0].message.contains("32 × 80 × 48"), "{problems:?}");
        assert!(problems[0].help.as_ref().unwrap().contains("project"), "{problems:?}");
    }
}
