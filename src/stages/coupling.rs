//! `coupling`: how much a structure's place hangs on the cell's membrane and on its nucleus (paper, section 4.6).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    id_hash::id_hash,
    inference::{Fit, Inference, check_fit},
};
use crate::{
    artifact::{ArtifactError, ArtifactType, ArtifactWriter, CellImage, Cells, CellsDescription, FigureSet, Table},
    figures::coupling::figures,
    model::ModelKind,
    nn::Rng,
    stage::{
        Checked, Context, Input, InputFacts, Inputs, ItemContext, ItemFiles, ItemInput, ItemWork, Output, Outputs,
        Problem, StageError, StageKind, Work,
    },
    stats::{mean, standard_deviation},
};

/// The stage kind.
pub(super) struct Coupling;

/// Parameters of `coupling`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Params {
    /// How many other cells lend their membrane, and their nucleus, to each cell; all others with the same structure where there are
    /// fewer. The published program took 100. A cell costs (1 + 2 × permutations) × (1 encoding + `samples` decodings).
    #[serde(default = "permutations")]
    #[schemars(range(max = 1_000_000))]
    pub permutations: usize,
    /// Draws of z for each ELBO; the same noise for the cell as it is and for every swap.
    #[serde(default = "samples")]
    #[schemars(range(max = 10_000))]
    pub samples: usize,
    /// Where |ELBO| of the cell as it is, or the mean of the swaps, lies below this (in the ELBO's units, squared error plus nats), the
    /// quotient of both says nothing, and the coupling is undefined.
    #[serde(default = "floor")]
    #[schemars(range(max = 1_000_000_000.0))]
    pub floor: f64,
    /// Where the couplings to membrane and nucleus add up to less than this, which of them is stronger is undefined.
    #[serde(default = "least")]
    #[schemars(range(max = 1_000_000_000.0))]
    pub least: f64,
    /// Seed of the choice of other cells and of the noise.
    pub seed: u64,
}

fn permutations() -> usize {
    100
}

fn samples() -> usize {
    1
}

fn floor() -> f64 {
    1.0
}

fn least() -> f64 {
    0.02
}

/// The file of an item's result: −ELBO of the cell, and the mean over swaps of each reference channel.
const NUMBERS: &str = "coupling.json";
/// The phases that couplings are summed up over, beside all cells together.
const PHASES: [&str; 3] = ["interphase", "mitosis", "not known"];
const ALL: &str = "all";

#[derive(Serialize, Deserialize)]
struct Measured {
    own: f64,
    swapped: Vec<f64>,
}

impl StageKind for Coupling {
    type Params = Params;

    const NAME: &'static str = "coupling";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "measures how strongly the place of each structure hangs on the cell's membrane and on its nucleus";
    const NOT_IN_ITEMS: &'static [(&'static str, &'static str)] = &[
        ("permutations", "it says which cells lend their channels, and their images are in the key"),
        ("floor", "it says what is made of the numbers"),
        ("least", "it says what is made of the numbers"),
    ];

    fn inputs(_: Option<&Params>) -> Vec<Input> {
        vec![
            Input::one("model", ArtifactType::Model, "a target model"),
            Input::one(
                "cells",
                ArtifactType::Cells,
                "test cells, controls among them: each structure needs two or more",
            ),
        ]
    }

    fn outputs(_: Option<&Params>) -> Vec<Output> {
        vec![
            Output::for_people(
                "results",
                ArtifactType::Tables,
                "a row a cell (`cells`) and a row for each structure and phase (`structures`)",
            ),
            Output::for_people(
                "figures",
                ArtifactType::Figures,
                "couplings to membrane and nucleus, and which is stronger",
            ),
        ]
    }

    fn check(params: &Params, inputs: &InputFacts) -> Checked {
        let mut problems = check_fit(inputs, "model", "cells");
        for (name, value) in [("permutations", params.permutations), ("samples", params.samples)] {
            if value == 0 {
                problems.push(Problem::with(name, format!("`{name}` is 0: there is nothing to compare")));
            }
        }
        for (name, value) in [("floor", params.floor), ("least", params.least)] {
            if !(value >= 0.0 && value.is_finite()) {
                problems.push(Problem::with(name, format!("`{name}` is not below 0")));
            }
        }
        let kind = inputs.get("model").and_then(|facts| facts.first()?.model.as_deref());
        if kind.is_some_and(|kind| kind != ModelKind::Target.name()) {
            problems.push(
                Problem::with("model", "a reference model has no structure whose coupling could be measured")
                    .help("connect what `train-target` gave"),
            );
        }
        Checked { problems, ..Checked::default() }
    }

    fn run(params: &Params, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        let blobs = context.blobs();
        let model = inputs.one("model");
        let inference = Inference::open(model, blobs)?;
        let architecture = inference.architecture();
        if architecture.kind != ModelKind::Target {
            return Err(StageError::bad_input("a reference model has no structure whose coupling could be measured")
                .with_help("connect what `train-target` gave"));
        }
        let cells = Cells::open(inputs.one("cells"), blobs)?;
        inference.fit(&cells.description)?;
        let structures = cells.table.texts("structure")?;
        for (id, structure) in cells.ids().iter().zip(structures) {
            inference.label(structure).map_err(|error| error.about(&format!("cell `{id}`")))?;
        }
        let donors = donors(&cells, params)?;
        let rows: Vec<usize> = (0..cells.len()).filter(|&row| !donors[row].is_empty()).collect();
        if rows.len() < cells.len() {
            let count = cells.len() - rows.len();
            context.note(format!("{count} cells are left out: no other cell has their structure"));
        }
        let channels = &architecture.reference_channels;
        let items = rows.iter().map(|&row| {
            let id = &cells.ids()[row];
            let images = [row].into_iter().chain(donors[row].iter().copied());
            Ok(Work {
                name: format!("cell `{id}`"),
                item: CellToCouple { id: id.clone(), structure: structures[row].clone() },
                inputs: images
                    .map(|row| Ok(ItemInput::Blob(cells.entry(row)?.digest)))
                    .collect::<Result<Vec<_>, ArtifactError>>()?,
            })
        });
        let items = items.collect::<Result<Vec<_>, ArtifactError>>()?;
        let work = CoupleCell { samples: params.samples, seed: params.seed, description: cells.description.clone() };
        let results = context.map(&work, &[ItemInput::Artifact(model)], &items)?;

        let mut measured = Vec::with_capacity(rows.len());
        for result in &results {
            let bytes = blobs.get(&result.entries()[0].digest)?;
            let numbers: Measured = serde_json::from_slice(&bytes)
                .map_err(|error| StageError::failed(format!("a cached result of a cell is damaged: {error}")))?;
            measured.push(numbers);
        }
        let used: Vec<usize> = rows.iter().map(|&row| donors[row].len()).collect();
        let per_cell = cell_table(&cells.table.select(&rows), channels, &measured, &used, params)?;
        let per_structure = structure_table(&per_cell, channels)?;
        let figures = FigureSet(figures(&per_cell, &per_structure, channels, params.floor)?);
        let mut out = ArtifactWriter::new(ArtifactType::Tables, blobs);
        per_cell.write(&mut out, "cells")?;
        per_structure.write(&mut out, "structures")?;
        Ok(Outputs::from([("results".to_owned(), out.finish()?), ("figures".to_owned(), figures.write(blobs)?)]))
    }
}

/// Measures one cell: its own image first among the inputs, then those of the cells that lend it their reference channels.
#[derive(Serialize, Deserialize)]
struct CoupleCell {
    samples: usize,
    seed: u64,
    description: CellsDescription,
}

/// Noise hangs on the cell's id; the model takes the structure.
#[derive(Serialize, Deserialize)]
struct CellToCouple {
    id: String,
    structure: String,
}

impl ItemWork for CoupleCell {
    type Item = CellToCouple;
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
        CellToCouple { id, structure }: CellToCouple,
        inputs: &ItemContext,
    ) -> Result<ItemFiles, StageError> {
        let architecture = inference.architecture();
        let images = |input: usize| -> Result<_, StageError> {
            Ok(fit.images(&CellImage::decode(&inputs.bytes(input)?, &self.description)?))
        };
        let own = images(0)?;
        let label = inference.label(&structure)?.ok_or_else(|| StageError::failed("a target model has labels"))?;
        let noise = Rng::new(self.seed, &format!("coupling {id}"), 0);
        let elbos =
            |references: &[f32]| inference.negative_elbos(&own.encoded, references, label, self.samples, &noise);
        let lenders: Vec<usize> = (1..inputs.inputs().len()).collect();
        let mut swapped = vec![0.0; architecture.reference_channels.len()];
        for some in lenders.chunks(inference.at_once()) {
            inputs.check()?;
            let lent = some.iter().map(|&input| Ok(images(input)?.reference));
            let lent = lent.collect::<Result<Vec<Vec<f32>>, StageError>>()?;
            for (channel, sum) in swapped.iter_mut().enumerate() {
                let part = channel * architecture.voxels()..(channel + 1) * architecture.voxels();
                let swap = |other: &Vec<f32>| {
                    let mut reference = own.reference.clone();
                    reference[part.clone()].copy_from_slice(&other[part.clone()]);
                    reference
                };
                *sum += elbos(&lent.iter().flat_map(swap).collect::<Vec<f32>>())?.iter().sum::<f64>();
            }
        }
        swapped.iter_mut().for_each(|sum| *sum /= lenders.len() as f64);
        let measured = Measured { own: elbos(&own.reference)?[0], swapped };
        if !measured.swapped.iter().chain([&measured.own]).all(|value| value.is_finite()) {
            return Err(StageError::failed("the model gives no finite numbers")
                .with_help("the model's training may have diverged"));
        }
        Ok(vec![(NUMBERS.to_owned(), serde_json::to_vec(&measured).expect("plain data"))])
    }
}

/// For each row, the rows of other cells with its structure that lend it their reference channels, in a fixed order.
fn donors(cells: &Cells, params: &Params) -> Result<Vec<Vec<usize>>, ArtifactError> {
    let (structures, sources) = (cells.table.texts("structure")?, cells.table.texts("source_id")?);
    let mut by_structure: BTreeMap<&String, Vec<usize>> = BTreeMap::new();
    for (row, structure) in structures.iter().enumerate() {
        by_structure.entry(structure).or_default().push(row);
    }
    let ids = cells.ids();
    Ok((0..cells.len())
        .map(|row| {
            let others = by_structure[&structures[row]].iter().copied().filter(|&other| sources[other] != sources[row]);
            // Each pair has its own chance, so that added cells change few choices.
            let mut others: Vec<(f64, &String, usize)> = others
                .map(|other| (id_hash(params.seed, &format!("{} {}", ids[row], ids[other])), &ids[other], other))
                .collect();
            others.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(b.1)));
            others.into_iter().take(params.permutations).map(|(_, _, other)| other).collect()
        })
        .collect())
}

/// A row a cell. `given`: the cells' own table.
fn cell_table(
    given: &Table,
    channels: &[String],
    measured: &[Measured],
    used: &[usize],
    params: &Params,
) -> Result<Table, ArtifactError> {
    let stages = given.texts("stage")?;
    let phase = |stage: &String| match stage.as_str() {
        "" => PHASES[2],
        "interphase" => PHASES[0],
        _ => PHASES[1],
    };
    let mut table = Table::new();
    for name in ["cell_id", "source_id", "structure", "control", "stage", "dataset"] {
        table = table.with(name, given.column(name).expect("every set of cells has it").clone());
    }
    table = table
        .with("phase", stages.iter().map(|stage| phase(stage).to_owned()).collect::<Vec<_>>())
        .with("permutations", used.iter().map(|&count| count as i64).collect::<Vec<_>>())
        .with("elbo", measured.iter().map(|cell| -cell.own).collect::<Vec<_>>());
    let coupling = |cell: &Measured, channel: usize| {
        let swapped = cell.swapped[channel];
        let told = cell.own.abs() >= params.floor && swapped.abs() >= params.floor;
        if told { 1.0 - cell.own / swapped } else { f64::NAN }
    };
    for (at, name) in channels.iter().enumerate() {
        table = table
            .with(format!("elbo_{name}_swapped"), measured.iter().map(|cell| -cell.swapped[at]).collect::<Vec<_>>())
            .with(format!("coupling_{name}"), measured.iter().map(|cell| coupling(cell, at)).collect::<Vec<_>>());
    }
    if channels.len() == 2 {
        let relative = |cell: &Measured| {
            let (first, second) = (coupling(cell, 0), coupling(cell, 1));
            if first + second >= params.least { (first - second) / (first + second) } else { f64::NAN }
        };
        table = table.with("relative", measured.iter().map(relative).collect::<Vec<_>>());
    }
    Ok(table)
}

/// A row for each structure and phase that has cells, all phases together first.
fn structure_table(cells: &Table, channels: &[String]) -> Result<Table, ArtifactError> {
    let (structures, phases) = (cells.texts("structure")?, cells.texts("phase")?);
    let mut names: Vec<&String> = structures.iter().collect();
    names.sort();
    names.dedup();
    let mut groups: Vec<(&str, &str, Vec<usize>)> = Vec::new();
    for name in names {
        for phase in [ALL].into_iter().chain(PHASES) {
            let belongs = |&row: &usize| structures[row] == *name && (phase == ALL || phases[row] == phase);
            let rows: Vec<usize> = (0..cells.rows()).filter(belongs).collect();
            if !rows.is_empty() {
                groups.push((name, phase, rows));
            }
        }
    }
    let known = |values: &[f64], rows: &[usize]| -> Vec<f64> {
        rows.iter().map(|&row| values[row]).filter(|value| value.is_finite()).collect()
    };
    let summary = |values: &[f64], f: fn(&[f64]) -> f64| -> Vec<f64> {
        groups.iter().map(|(_, _, rows)| f(&known(values, rows))).collect()
    };
    let mut table = Table::new()
        .with("structure", groups.iter().map(|(name, _, _)| (*name).to_owned()).collect::<Vec<_>>())
        .with("phase", groups.iter().map(|(_, phase, _)| (*phase).to_owned()).collect::<Vec<_>>())
        .with("cells", groups.iter().map(|(_, _, rows)| rows.len() as i64).collect::<Vec<_>>());
    let mut means = Vec::new();
    for name in channels {
        let values = cells.floats(&format!("coupling_{name}"))?;
        means.push(summary(&values, mean));
        table = table
            .with(format!("coupling_{name}"), summary(&values, mean))
            .with(format!("coupling_{name}_std"), summary(&values, standard_deviation));
    }
    if let [first, second] = &means[..] {
        let relative = cells.floats("relative")?;
        let share = |rows: &Vec<usize>| 1.0 - known(&relative, rows).len() as f64 / rows.len() as f64;
        let of_means = first.iter().zip(second).map(|(first, second)| (first - second) / (first + second));
        table = table
            .with("relative", summary(&relative, mean))
            .with("relative_of_means", of_means.collect::<Vec<f64>>())
            .with("undefined", groups.iter().map(|(_, _, rows)| share(rows)).collect::<Vec<_>>());
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{
        controls::Controls,
        inference::tests::tiny_model,
        testing::{MemoryHost, noisy_cells, params},
        train::TrainTarget,
    };
    use super::*;
    use crate::{
        artifact::Artifact,
        model::{Condition, Vae, artifact::read},
        stage::Facts,
    };

    fn tables(host: &MemoryHost, outputs: &Outputs) -> [Table; 2] {
        ["cells", "structures"].map(|name| Table::read(&outputs["results"], &host.blobs, name).unwrap())
    }

    #[test]
    fn numbers_are_those_of_the_equation() {
        let host = MemoryHost::default();
        let model = tiny_model(ModelKind::Target, &host.blobs);
        let cells = noisy_cells(&host, &["a", "b", "c", "d"], &["golgi", "golgi", "golgi", "nucleoli"]);
        let settings = params::<Coupling>(json!({ "seed": 5, "samples": 2, "floor": 0.0 }));
        let ports = [("model", &model), ("cells", &cells)];
        let [per_cell, per_structure] = tables(&host, &host.run::<Coupling>(&settings, &ports).unwrap());
        assert_eq!(per_cell.texts("cell_id").unwrap(), ["a", "b", "c"], "no other cell has nucleoli");
        assert!(host.notes().iter().any(|note| note.contains("1 cells are left out")));
        assert_eq!(per_cell.floats("permutations").unwrap(), [2.0; 3]);

        let (architecture, parameters) = read(&model, &host.blobs).unwrap();
        let vae = Vae::from_parameters(&architecture, &parameters).unwrap();
        let opened = Cells::open(&cells, &host.blobs).unwrap();
        let image = |row: usize| opened.image(row).unwrap();
        let elbo = |membrane: usize, dna: usize| {
            let reference = [image(membrane).channels[0].data.clone(), image(dna).channels[1].data.clone()].concat();
            let condition = Condition { reference: &reference, labels: &[0] };
            let mut noise = [Rng::new(5, "coupling b", 0)];
            vae.evaluate(&image(1).channels[2].data, Some(&condition), 2, &mut noise).unwrap()[0].elbo()
        };
        let own = elbo(1, 1);
        let expected =
            [1.0 - own / f64::midpoint(elbo(0, 1), elbo(2, 1)), 1.0 - own / f64::midpoint(elbo(1, 0), elbo(1, 2))];
        let found = ["membrane", "dna"].map(|name| per_cell.floats(&format!("coupling_{name}")).unwrap()[1]);
        assert!((per_cell.floats("elbo").unwrap()[1] / own - 1.0).abs() < 1e-6);
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
        assert_eq!(per_structure.texts("phase").unwrap(), ["all", "interphase"]);

        // One swap each, seeded: the same again out of the cache, others with another seed.
        let one = |seed: u64| {
            let settings = params::<Coupling>(json!({ "seed": seed, "permutations": 1 }));
            tables(&host, &host.run::<Coupling>(&settings, &ports).unwrap())
        };
        let (first, recalled) = (one(1), host.recalled());
        assert_eq!(first[0].to_csv(), one(1)[0].to_csv());
        assert_eq!(host.recalled(), recalled + 3);
        assert_ne!(first[0].to_csv(), one(2)[0].to_csv());
    }

    /// Cells whose structure is their membrane, their DNA, or nothing; learned, then looked at.
    fn controls(host: &MemoryHost, count: usize, from: usize) -> Artifact {
        let ids: Vec<String> = (from..from + count).map(|cell| format!("c{cell}")).collect();
        let cells = noisy_cells(host, &ids.iter().map(String::as_str).collect::<Vec<_>>(), &vec!["golgi"; count]);
        let labels = params::<Controls>(json!({ "labels": ["DNA", "Memb", "Blank"], "seed": 1 }));
        let all = host.run::<Controls>(&labels, &[("cells", &cells)]).unwrap()["cells"].clone();
        let opened = Cells::open(&all, &host.blobs).unwrap();
        let rows: Vec<usize> = (count..opened.len()).collect();
        let mut writer = crate::artifact::CellsWriter::new(opened.description.clone(), &host.blobs);
        rows.iter().for_each(|&row| writer.link(&opened.ids()[row], opened.entry(row).unwrap()));
        writer.finish(&opened.table.select(&rows)).unwrap()
    }

    #[test]
    fn controls_come_out_right() {
        let host = MemoryHost::default();
        let (train, test) = (controls(&host, 48, 0), controls(&host, 6, 100));
        let settings = params::<TrainTarget>(json!({
            "channels": [8, 8], "latent": 2, "epochs": 60, "batch": 24, "learning-rate": 5e-3, "validation-samples": 1,
            "seed": 1,
        }));
        let trained = host.run::<TrainTarget>(&settings, &[("train", &train), ("validation", &test)]).unwrap();
        let ports = [("model", &trained["model"]), ("cells", &test)];
        let settings = params::<Coupling>(json!({ "seed": 1, "floor": 0.5 }));
        let [per_cell, structures] = tables(&host, &host.run::<Coupling>(&settings, &ports).unwrap());
        let of = |structure: &str, column: &str| {
            let row = structures.texts("structure").unwrap().iter().position(|name| name == structure).unwrap();
            structures.floats(column).unwrap()[row]
        };
        let shown = String::from_utf8(structures.to_csv()).unwrap();
        assert!(of("Memb", "coupling_membrane") > 0.5 && of("Memb", "coupling_dna") < 0.1, "{shown}");
        // So small a model, trained for seconds, learns the membrane well and the DNA in part.
        assert!(of("DNA", "coupling_dna") > 0.2 && of("DNA", "coupling_membrane") < 0.1, "{shown}");
        assert!(of("Memb", "relative") > 0.8 && of("DNA", "relative") < -0.5, "{shown}");
        assert!(of("Memb", "relative_of_means") > 0.8 && of("Memb", "undefined") == 0.0, "{shown}");
        assert!(of("Blank", "coupling_membrane").is_nan() && of("Blank", "undefined") == 1.0, "{shown}");
        assert_eq!(per_cell.rows(), 18);
    }

    #[test]
    fn only_target_models_have_couplings() {
        let facts = vec![Facts { model: Some("reference".to_owned()), ..Facts::default() }];
        let inputs = InputFacts::from([("model".to_owned(), facts)]);
        let problems = Coupling::check(&params::<Coupling>(json!({ "seed": 1, "samples": 0 })), &inputs).problems;
        assert_eq!(problems.iter().map(|p| p.field.as_deref().unwrap()).collect::<Vec<_>>(), ["samples", "model"]);
        let host = MemoryHost::default();
        let model = tiny_model(ModelKind::Reference, &host.blobs);
        let cells = noisy_cells(&host, &["a"], &["golgi"]);
        let ports = [("model", &model), ("cells", &cells)];
        let error = host.run::<Coupling>(&params::<Coupling>(json!({ "seed": 1 })), &ports).unwrap_err().to_string();
        assert!(error.contains("no structure"), "{error}");
    }
}
