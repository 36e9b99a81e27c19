//! `embed`: cells in a model's latent space.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    inference::{Fit, Inference, check_fit, shown_channels, volumes},
    quality::{Quality, Squares, TrainedOn},
};
use crate::{
    artifact::{
        ArtifactError, ArtifactType, ArtifactWriter, CellImage, Cells, CellsDescription, Embedding,
        EmbeddingDescription, FigureSet, Table, kl_divergence,
    },
    figures::{
        embedding::{Observed, figures},
        quality::explained,
    },
    model::ModelKind,
    nn::Rng,
    stage::{
        Checked, Context, Input, InputFacts, Inputs, ItemContext, ItemFiles, ItemInput, ItemWork, Output, Outputs,
        Problem, StageError, StageKind, Work,
    },
};

/// The stage kind.
pub(super) struct Embed;

/// Parameters of `embed`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Params {
    /// Draws of z that a cell's reconstruction error is the mean of (paper, section 4.3: ten).
    #[serde(default = "samples")]
    #[schemars(range(max = 10_000))]
    pub samples: usize,
    /// Embed control cells with a reference model too. Their reference images are copies of real cells', so by default each
    /// cell counts once. A target model always embeds them.
    #[serde(default)]
    pub with_controls: bool,
    /// Cells in the figure of observed and reconstructed cells.
    #[serde(default = "shown")]
    #[schemars(range(max = 10_000))]
    pub shown: usize,
    /// Seed of the draws of z.
    pub seed: u64,
}

fn samples() -> usize {
    10
}

fn shown() -> usize {
    12
}

/// The file of an item's result, lowest byte first: the mean reconstruction error over draws (f64); for each channel the squares of
/// its signal, of the error at μ and of the error at z = 0 (f64); μ and log σ² (f32).
const NUMBERS: &str = "embedding.bin";

impl StageKind for Embed {
    type Params = Params;

    const NAME: &'static str = "embed";
    const VERSION: u32 = 5;
    const ABOUT: &'static str = "places cells in a model's latent space: μ, log σ², KL, reconstruction error, ELBO";
    const NOT_IN_ITEMS: &'static [(&'static str, &'static str)] =
        &[("with-controls", "it says which cells are embedded"), ("shown", "it says which cells stand in a figure")];

    fn inputs(_: Option<&Params>) -> Vec<Input> {
        vec![
            Input::one("model", ArtifactType::Model, "a reference or target model"),
            Input::one("cells", ArtifactType::Cells, "normalised cells of the model's size"),
        ]
    }

    fn outputs(_: Option<&Params>) -> Vec<Output> {
        vec![
            Output::for_people(
                "embedding",
                ArtifactType::Tables,
                "a row a cell (`cells`), a row a dimension (`dimensions`), what is explained (`quality`)",
            ),
            Output::for_people(
                "figures",
                ArtifactType::Figures,
                "observed beside reconstructed cells, the latent space, its use",
            ),
        ]
    }

    fn check(params: &Params, inputs: &InputFacts) -> Checked {
        let mut checked = Checked { problems: check_fit(inputs, "model", "cells"), ..Checked::default() };
        if params.samples == 0 {
            checked.problems.push(Problem::with("samples", "at least one draw of z is needed"));
        }
        checked
    }

    fn run(params: &Params, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        let model = inputs.one("model");
        let inference = Inference::open(model, context.blobs())?;
        let architecture = inference.architecture();
        let cells = Cells::open(inputs.one("cells"), context.blobs())?;
        let fit = inference.fit(&cells.description)?;
        let channels = architecture.image_channels.len();
        let controls = cells.table.flags("control")?;
        let with_controls = params.with_controls || architecture.kind == ModelKind::Target;
        let rows: Vec<usize> = (0..cells.len()).filter(|&row| with_controls || !controls[row]).collect();
        let structures = cells.table.texts("structure")?;
        let label = |&row: &usize| {
            inference.label(&structures[row]).map_err(|error| error.about(&format!("cell `{}`", cells.ids()[row])))
        };
        let labels = rows.iter().map(label);
        let labels = labels.collect::<Result<Vec<_>, _>>()?;

        // A pass of one cell costs an encoding and `samples` decodings, so batches of several cells would save little; and a cell's
        // numbers then depend on nothing but the cell, which lets them be cached by cell.
        let items = rows.iter().map(|&row| {
            let id = &cells.ids()[row];
            let item = CellToEmbed { id: id.clone(), structure: structures[row].clone() };
            Ok(Work { name: format!("cell `{id}`"), item, inputs: vec![ItemInput::Blob(cells.entry(row)?.digest)] })
        });
        let items = items.collect::<Result<Vec<_>, ArtifactError>>()?;
        let work = EmbedCell { samples: params.samples, seed: params.seed, description: cells.description.clone() };
        let results = context.map(&work, &[ItemInput::Artifact(model)], &items)?;

        let latent = architecture.latent;
        let (mut reconstruction, mut squares) = (Vec::new(), Vec::new());
        let mut values = vec![Vec::with_capacity(rows.len()); 2 * latent];
        for result in &results {
            let bytes = context.blobs().get(&result.entries()[0].digest)?;
            let exact = 8 * (1 + 3 * channels);
            let Some((exact, numbers)) = bytes.split_at_checked(exact).filter(|(_, rest)| rest.len() == 8 * latent)
            else {
                return Err(
                    StageError::failed("a cached result of a cell is damaged").with_help("run `statcell cache verify`")
                );
            };
            let exact: Vec<f64> =
                exact.chunks_exact(8).map(|word| f64::from_le_bytes(word.try_into().expect("eight bytes"))).collect();
            reconstruction.push(exact[0]);
            let of_channel = |part: &[f64]| Squares { signal: part[0], at_mu: part[1], at_zero: part[2] };
            squares.push(exact[1..].chunks_exact(3).map(of_channel).collect::<Vec<_>>());
            for (column, word) in values.iter_mut().zip(numbers.chunks_exact(4)) {
                column.push(f64::from(f32::from_le_bytes(word.try_into().expect("four bytes"))));
            }
        }
        let kl_of =
            |row: usize| (0..latent).map(|d| kl_divergence(values[d][row], values[latent + d][row])).sum::<f64>();
        let kl: Vec<f64> = (0..rows.len()).map(kl_of).collect();
        if let Some(bad) = (0..rows.len()).find(|&row| !(reconstruction[row] + kl[row]).is_finite()) {
            let message = format!("the model gives no finite numbers for cell `{}`", cells.ids()[rows[bad]]);
            return Err(StageError::failed(message).with_help("the model's training may have diverged"));
        }
        let elbo: Vec<f64> = reconstruction.iter().zip(&kl).map(|(error, kl)| -(error + kl)).collect();
        let given = cells.table.select(&rows);
        // Volume, height, drug or well of a cell go with it: they colour figures, and analyses ask for them.
        let mut table = given.clone().with("reconstruction", reconstruction).with("kl", kl).with("elbo", elbo);
        for (at, name) in architecture.image_channels.iter().enumerate() {
            let shares: Vec<f64> = squares.iter().map(|squares| squares[at].explained()).collect();
            table = table.with(format!("explained_{name}"), shares);
        }
        let mut columns = values.into_iter();
        for prefix in ["mu", "logvar"] {
            for (dimension, column) in columns.by_ref().take(latent).enumerate() {
                table = table.with(format!("{prefix}_{dimension}"), column);
            }
        }
        let description = EmbeddingDescription {
            model: architecture.kind.name().to_owned(),
            dimensions: architecture.dimensions,
            size: architecture.size,
            image_channels: architecture.image_channels.clone(),
            latent,
            beta: architecture.beta,
            samples: params.samples,
        };
        let embedding = Embedding::new(description, table)?;
        let mut quality = Quality::new(architecture);
        rows.iter().zip(&squares).for_each(|(&row, squares)| quality.add(&structures[row], squares));
        let mean_kl = embedding.dimensions.floats("mean_kl")?;
        let mut findings = if rows.is_empty() { Vec::new() } else { quality.findings(&mean_kl) };
        if let Some(trained) = TrainedOn::of(model, context.blobs())? {
            let strangers = trained.never_seen(given.texts("dataset")?);
            if !strangers.is_empty() {
                findings.push(format!(
                    "the model never saw a cell of {}: it was trained on {} cells of {}",
                    strangers.join(", "),
                    trained.cells,
                    trained.datasets.join(", ")
                ));
            }
        }
        if !rows.is_empty() {
            context.note(quality.summary(&mean_kl));
        }
        findings.iter().for_each(|finding| context.note(finding));

        let mut pairs = Vec::new();
        for index in spread(&given, params.shown)? {
            context.check()?;
            let row = rows[index];
            let image = fit.images(&cells.image(row)?);
            let mu =
                (0..latent).map(|d| Ok(embedding.mu(d)?[index] as f32)).collect::<Result<Vec<_>, ArtifactError>>()?;
            let decoded = inference.decode(&mu, image.condition(labels[index]))?;
            pairs.push(Observed {
                cell_id: cells.ids()[row].clone(),
                structure: structures[row].clone(),
                observed: volumes(architecture, &image.reference, &image.encoded),
                reconstructed: volumes(architecture, &image.reference, &decoded),
            });
        }
        let mut figures =
            FigureSet(figures(&embedding, &given, &shown_channels(architecture), architecture.voxel_um, &pairs)?);
        let quality = quality.table();
        if quality.rows() > 0 {
            figures.0.push(explained(&quality, &findings, architecture.kind.name(), "the embedded cells")?);
        }
        let written = embedding.write(context.blobs())?;
        let mut out = ArtifactWriter::new(ArtifactType::Tables, context.blobs());
        written.tree.entries().iter().for_each(|entry| out.link(entry.clone()));
        quality.write(&mut out, "quality")?;
        Table::new().with("finding", findings).write(&mut out, "findings")?;
        Ok(Outputs::from([
            ("embedding".to_owned(), out.finish()?),
            ("figures".to_owned(), figures.write(context.blobs())?),
        ]))
    }
}

/// Places one cell in the latent space.
#[derive(Serialize, Deserialize)]
struct EmbedCell {
    samples: usize,
    seed: u64,
    description: CellsDescription,
}

/// Draws of z hang on the cell's id; a target model takes the structure.
#[derive(Serialize, Deserialize)]
struct CellToEmbed {
    id: String,
    structure: String,
}

impl ItemWork for EmbedCell {
    type Item = CellToEmbed;
    type Shared = (Inference, Fit);
    const UNIT: &'static str = "cells";

    fn open(&self, inputs: &ItemContext) -> Result<(Inference, Fit), StageError> {
        let model = inputs.artifact(0).ok_or_else(|| StageError::failed("there is no model"))?;
        let inference = Inference::open(model, inputs.blobs())?;
        let fit = inference.fit(&self.description)?;
        Ok((inference, fit))
    }

    fn run(
        &self,
        (inference, fit): &(Inference, Fit),
        CellToEmbed { id, structure }: CellToEmbed,
        inputs: &ItemContext,
    ) -> Result<ItemFiles, StageError> {
        let image = fit.images(&CellImage::decode(&inputs.bytes(0)?, &self.description)?);
        let condition = image.condition(inference.label(&structure)?);
        let (mu, logvar) = inference.encode(&image.encoded, condition)?;
        let mut rng = Rng::new(self.seed, &format!("embed {id}"), 0);
        let draw = |(&mu, &logvar): (&f32, &f32)| mu + rng.normal() as f32 * libm::expf(0.5 * logvar);
        let draws = mu.iter().zip(&logvar).cycle().take(self.samples * mu.len());
        let z: Vec<f32> = draws.map(draw).collect();
        let squares =
            |drawn: &[f32]| drawn.iter().zip(&image.encoded).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        let drawn = inference.decode(&z, condition)?;
        let error = drawn.chunks_exact(image.encoded.len()).map(squares).sum::<f64>() / self.samples as f64;
        let (at_mu, at_zero) = (inference.decode(&mu, condition)?, inference.decode(&vec![0.0; mu.len()], condition)?);
        let channels = inference.architecture().image_channels.len();
        let channels = Squares::of(&image.encoded, &at_mu, &at_zero, channels);
        let exact = channels.iter().flat_map(|squares| [squares.signal, squares.at_mu, squares.at_zero]);
        let exact = [error].into_iter().chain(exact).flat_map(f64::to_le_bytes);
        let numbers = mu.iter().chain(&logvar).flat_map(|value| value.to_le_bytes());
        Ok(vec![(NUMBERS.to_owned(), exact.chain(numbers).collect())])
    }
}

/// Rows of at most `count` cells, taken from every structure in turn (from every mitotic stage, where all have one structure).
fn spread(table: &Table, count: usize) -> Result<Vec<usize>, ArtifactError> {
    let structures = table.texts("structure")?;
    let alike = structures.windows(2).all(|pair| pair[0] == pair[1]);
    let groups = if alike { table.texts("stage")? } else { structures };
    let mut turns: Vec<(usize, &String, usize)> = Vec::new();
    let mut seen = std::collections::BTreeMap::new();
    for (row, group) in groups.iter().enumerate() {
        let turn = seen.entry(group).or_insert(0);
        turns.push((*turn, group, row));
        *turn += 1;
    }
    turns.sort_unstable();
    turns.truncate(count);
    turns.sort_unstable_by_key(|&(turn, group, row)| (group, turn, row));
    Ok(turns.into_iter().map(|(_, _, row)| row).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{
        inference::tests::tiny_model,
        testing::{MemoryHost, noisy_cells, params},
    };
    use super::*;
    use crate::{
        artifact::Column,
        model::{Vae, artifact::read},
    };

    fn embedding(host: &MemoryHost, outputs: &Outputs) -> Embedding {
        Embedding::read(&outputs["embedding"], &host.blobs).unwrap()
    }

    #[test]
    fn numbers_are_those_of_the_model_and_depend_on_the_cell_alone() {
        let host = MemoryHost::default();
        let model = tiny_model(ModelKind::Reference, &host.blobs);
        let settings = params::<Embed>(json!({ "seed": 5 }));
        let cells = noisy_cells(&host, &["a", "b", "c"], &["golgi", "", "golgi"]);
        let outputs = host.run::<Embed>(&settings, &[("model", &model), ("cells", &cells)]).unwrap();
        let three = embedding(&host, &outputs);

        let (architecture, parameters) = read(&model, &host.blobs).unwrap();
        let vae = Vae::from_parameters(&architecture, &parameters).unwrap();
        let image = Cells::open(&cells, &host.blobs).unwrap().image(1).unwrap();
        let images: Vec<f32> = image.channels[..2].iter().flat_map(|channel| channel.data.clone()).collect();
        let evaluation = vae.evaluate(&images, None, 10, &mut [Rng::new(5, "embed b", 0)]).unwrap().remove(0);
        let number = |column: &str| three.cells.floats(column).unwrap()[1];
        assert!((number("reconstruction") / evaluation.reconstruction - 1.0).abs() < 1e-5);
        assert!(
            (number("kl") - evaluation.kl()).abs() < 1e-6 && (number("elbo") / evaluation.elbo() - 1.0).abs() < 1e-5
        );
        assert!((number("mu_2") - f64::from(evaluation.mu[2])).abs() < 1e-6);
        assert_eq!(three.description.beta, Some(0.25));

        // Other cells, another order: the same numbers, out of the cache.
        let cells = noisy_cells(&host, &["c", "d", "b"], &["golgi", "", ""]);
        let outputs = host.run::<Embed>(&settings, &[("model", &model), ("cells", &cells)]).unwrap();
        let again = embedding(&host, &outputs);
        assert_eq!(host.recalled(), 2);
        assert_eq!(again.cells.select(&[2, 0]), three.cells.select(&[1, 2]));

        let figures = FigureSet::read(&outputs["figures"], &host.blobs).unwrap();
        let names: Vec<_> = figures.0.iter().map(|figure| figure.name.as_str()).collect();
        assert_eq!(names, ["reconstruction", "latent-space", "kl-spectrum", "explained-reference"]);
    }

    #[test]
    fn controls_count_for_target_models_only() {
        let host = MemoryHost::default();
        let blobs = &host.blobs;
        let noisy = noisy_cells(&host, &["a", "b"], &["golgi", "nucleoli"]);
        let opened = Cells::open(&noisy, blobs).unwrap();
        let mut writer = crate::artifact::CellsWriter::new(opened.description.clone(), blobs);
        ["a", "b"].iter().enumerate().for_each(|(row, id)| writer.link(id, opened.entry(row).unwrap()));
        let cells = writer.finish(&opened.table.clone().with("control", vec![false, true])).unwrap();
        let rows = |kind, json| {
            let model = tiny_model(kind, blobs);
            let outputs = host.run::<Embed>(&params::<Embed>(json), &[("model", &model), ("cells", &cells)]).unwrap();
            embedding(&host, &outputs).cells.rows()
        };
        assert_eq!(rows(ModelKind::Reference, json!({ "seed": 1 })), 1);
        assert_eq!(rows(ModelKind::Reference, json!({ "seed": 1, "with-controls": true })), 2);
        assert_eq!(rows(ModelKind::Target, json!({ "seed": 1 })), 2);
    }

    #[test]
    fn no_cells_and_unknown_structures() {
        let host = MemoryHost::default();
        let model = tiny_model(ModelKind::Target, &host.blobs);
        let settings = params::<Embed>(json!({ "seed": 1 }));
        let none = noisy_cells(&host, &[], &[]);
        let outputs = host.run::<Embed>(&settings, &[("model", &model), ("cells", &none)]).unwrap();
        assert_eq!(embedding(&host, &outputs).cells.rows(), 0);
        assert_eq!(FigureSet::read(&outputs["figures"], &host.blobs).unwrap().0.len(), 0);
        let odd = noisy_cells(&host, &["a"], &["actin"]);
        let error = host.run::<Embed>(&settings, &[("model", &model), ("cells", &odd)]).unwrap_err().to_string();
        assert!(error.contains("cell `a`") && error.contains("golgi, nucleoli"), "{error}");
    }

    #[test]
    fn shown_cells_are_spread() {
        let texts = |texts: &[&str]| Column::Text(texts.iter().map(|text| (*text).to_owned()).collect());
        let table = Table::new()
            .with("structure", texts(&["a", "a", "a", "b", "c"]))
            .with("stage", texts(&["i", "i", "m", "i", "i"]));
        assert_eq!(spread(&table, 3).unwrap(), [0, 3, 4]);
        assert_eq!(spread(&table, 4).unwrap(), [0, 1, 3, 4]);
        let alike = table.with("structure", texts(&["a"; 5]));
        assert_eq!(spread(&alike, 2).unwrap(), [0, 2]);
    }
}
