//! `latent-walk`: what a model's most used latent dimensions mean.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::inference::{Conditioned, Inference, check_fit, shown_channels, volumes};
use crate::{
    artifact::{ArtifactError, ArtifactType, Cells, Embedding, FigureSet, Table},
    figures::walks::{Step, Walk, figure},
    model::ModelKind,
    stage::{Checked, Context, Input, InputFacts, Inputs, Output, Outputs, Problem, StageError, StageKind},
};

/// The stage kind.
pub(super) struct LatentWalk;

/// Parameters of `latent-walk`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Params {
    /// How many dimensions are walked along, those with the highest mean |μ| first.
    #[serde(default = "dimensions")]
    #[schemars(range(max = 10_000))]
    pub dimensions: usize,
    /// Steps of each walk.
    #[serde(default = "steps")]
    #[schemars(range(max = 1000))]
    pub steps: usize,
    /// Where a walk begins and ends: so many standard deviations of the dimension's μ below and above 0.
    #[serde(default = "range")]
    #[schemars(range(max = 1000.0))]
    pub range: f64,
    /// The id of the cell that conditions a target model; absent: the first that is no control and has a structure that the
    /// model knows.
    #[serde(default)]
    pub cell: Option<String>,
    /// The structure of a target model's walk; absent: that of the cell.
    #[serde(default)]
    pub structure: Option<String>,
}

fn dimensions() -> usize {
    6
}

fn steps() -> usize {
    9
}

fn range() -> f64 {
    2.0
}

impl StageKind for LatentWalk {
    type Params = Params;

    const NAME: &'static str = "latent-walk";
    const VERSION: u32 = 5;
    const ABOUT: &'static str = "walks along a model's top latent dimensions and shows what changes";

    fn inputs(_: Option<&Params>) -> Vec<Input> {
        vec![
            Input::one("model", ArtifactType::Model, "a reference or target model"),
            Input::one(
                "embedding",
                ArtifactType::Tables,
                "what `embed` gave for this model: ranks and standard deviations",
            ),
            Input::optional("cells", ArtifactType::Cells, "cells of which one is the condition of a target model"),
            Input::optional(
                "correlations",
                ArtifactType::Tables,
                "what `correlate` gave for this embedding: names each dimension by the feature that it follows most",
            ),
        ]
    }

    fn outputs(_: Option<&Params>) -> Vec<Output> {
        vec![Output::for_people("figures", ArtifactType::Figures, "a row a dimension, a column a step")]
    }

    fn check(params: &Params, inputs: &InputFacts) -> Checked {
        let mut problems = check_fit(inputs, "model", "cells");
        for (name, value) in [("dimensions", params.dimensions), ("steps", params.steps)] {
            if value == 0 {
                problems.push(Problem::with(name, format!("`{name}` is 0: there is nothing to show")));
            }
        }
        if !(params.range.is_finite() && params.range > 0.0) {
            problems.push(Problem::with("range", "`range` is a number of standard deviations above 0"));
        }
        let kind = inputs.get("model").and_then(|facts| facts.first()?.model.as_deref());
        match kind {
            Some("target") if !inputs.contains_key("cells") => {
                problems
                    .push(Problem::with("cells", "a target model needs a cell to draw into").help("connect `cells`"));
            }
            Some("reference") => {
                for (name, given) in [("cell", &params.cell), ("structure", &params.structure)] {
                    if given.is_some() {
                        problems.push(Problem::with(name, format!("a reference model has no use for `{name}`")));
                    }
                }
            }
            _ => {}
        }
        Checked { problems, ..Checked::default() }
    }

    fn run(params: &Params, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        let inference = Inference::open(inputs.one("model"), context.blobs())?;
        let model = inference.architecture();
        let embedding = Embedding::read(inputs.one("embedding"), context.blobs())?;
        if embedding.description.latent != model.latent || embedding.description.model != model.kind.name() {
            return Err(StageError::bad_input("the embedding comes from another model")
                .with_help("connect the output of `embed` for this very model"));
        }
        let condition = match model.kind {
            ModelKind::Reference => None,
            ModelKind::Target => Some(condition(params, inputs, context, &inference)?),
        };
        let deviations = embedding.dimensions.floats("std_mu")?;
        let mean_kl = embedding.dimensions.floats("mean_kl")?;
        let ranked = embedding.ranked()?;
        let walked = &ranked[..params.dimensions.min(ranked.len())];
        if !walked.iter().all(|&dimension| deviations[dimension] > 0.0) {
            return Err(StageError::bad_input(
                "the embedding's cells all have the same position, so there is nowhere to walk",
            )
            .with_help("embed more cells"));
        }
        let names = match inputs.optional("correlations") {
            Some(results) => named(&Table::read(results, context.blobs(), "dimensions")?)?,
            None => BTreeMap::new(),
        };
        let mut walks = Vec::new();
        for &dimension in walked {
            context.check()?;
            context.progress(walks.len() as u64, walked.len() as u64, "dimensions", "");
            let at: Vec<f64> = (0..params.steps).map(|step| position(params, step)).collect();
            let mut z = vec![0.0; params.steps * model.latent];
            for (z, sigmas) in z.chunks_exact_mut(model.latent).zip(&at) {
                z[dimension] = (sigmas * deviations[dimension]) as f32;
            }
            let given = condition.as_ref().map(|cell| Conditioned { reference: &cell.reference, label: cell.label });
            let reference = given.map_or(&[][..], |given| given.reference);
            let images = inference.decode(&z, given)?;
            let images = images.chunks_exact(model.voxels() * model.image_channels.len());
            let steps =
                images.zip(at).map(|(image, sigmas)| Step { sigmas, channels: volumes(model, reference, image) });
            walks.push(Walk {
                dimension,
                deviation: deviations[dimension],
                mean_kl: mean_kl[dimension],
                follows: names.get(&dimension).cloned(),
                steps: steps.collect(),
            });
        }
        let given = condition.as_ref().map(|cell| (cell.id.as_str(), cell.structure.as_str()));
        let figure = figure(&walks, &shown_channels(model), model.voxel_um, model.dimensions, given);
        Ok(Outputs::from([("figures".to_owned(), FigureSet(vec![figure]).write(context.blobs())?)]))
    }
}

/// The feature that each dimension follows most, and Spearman's correlation with it.
fn named(dimensions: &Table) -> Result<BTreeMap<usize, (String, f64)>, ArtifactError> {
    let (numbers, features) = (dimensions.floats("dimension")?, dimensions.texts("best_feature")?);
    let correlations = dimensions.floats("spearman")?;
    let rows = numbers.iter().zip(features.iter().zip(correlations)).filter(|(_, (name, _))| !name.is_empty());
    Ok(rows.map(|(&number, (name, correlation))| (number as usize, (name.clone(), correlation))).collect())
}

/// Where a step stands, in standard deviations.
fn position(params: &Params, step: usize) -> f64 {
    if params.steps == 1 {
        return 0.0;
    }
    params.range * (2.0 * step as f64 / (params.steps - 1) as f64 - 1.0)
}

/// The cell that conditions a target model.
struct Condition {
    id: String,
    structure: String,
    label: usize,
    reference: Vec<f32>,
}

fn condition(
    params: &Params,
    inputs: &Inputs,
    context: &Context,
    inference: &Inference,
) -> Result<Condition, StageError> {
    let cells = inputs.optional("cells").ok_or_else(|| {
        StageError::bad_input("a target model needs a cell to draw into").with_help("connect the port `cells`")
    })?;
    let cells = Cells::open(cells, context.blobs())?;
    let fit = inference.fit_condition(&cells.description)?;
    let structures = cells.table.texts("structure")?;
    let controls = cells.table.flags("control")?;
    let structure_of = |row: usize| params.structure.as_ref().unwrap_or(&structures[row]);
    let row = if let Some(id) = &params.cell {
        let found = cells.ids().iter().position(|known| known == id);
        found.ok_or_else(|| StageError::bad_input(format!("there is no cell `{id}`")))?
    } else {
        let known = |&row: &usize| !controls[row] && inference.architecture().label(structure_of(row)).is_ok();
        let found = (0..cells.len()).find(known);
        found.ok_or_else(|| StageError::bad_input("no cell has a structure that the model knows"))?
    };
    let structure = structure_of(row).clone();
    let label = inference.architecture().label(&structure)?;
    Ok(Condition {
        id: cells.ids()[row].clone(),
        structure,
        label,
        reference: fit.images(&cells.image(row)?).reference,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{
        embed::Embed,
        inference::tests::tiny_model,
        testing::{MemoryHost, noisy_cells, params},
    };
    use super::*;
    use crate::stage::Facts;

    #[test]
    fn steps_reach_from_end_to_end() {
        let settings = |steps: usize| params::<LatentWalk>(json!({ "steps": steps }));
        let walk: Vec<f64> = (0..5).map(|step| position(&settings(5), step)).collect();
        assert_eq!(walk, [-2.0, -1.0, 0.0, 1.0, 2.0]);
        assert_eq!(position(&settings(1), 0), 0.0);
    }

    #[test]
    fn walks_of_both_models() {
        let host = MemoryHost::default();
        let cells = noisy_cells(&host, &["a", "b", "c"], &["actin", "golgi", "nucleoli"]);
        let known = noisy_cells(&host, &["b", "c"], &["golgi", "nucleoli"]);
        let embed = |kind| {
            let model = tiny_model(kind, &host.blobs);
            let inputs = [("model", &model), ("cells", &known)];
            let outputs = host.run::<Embed>(&params::<Embed>(json!({ "seed": 1 })), &inputs).unwrap();
            (model, outputs["embedding"].clone())
        };
        let (reference, reference_embedding) = embed(ModelKind::Reference);
        let (target, target_embedding) = embed(ModelKind::Target);
        let settings = params::<LatentWalk>(json!({ "dimensions": 2, "steps": 3 }));
        let figure = |inputs: &[(&str, &crate::artifact::Artifact)]| {
            let outputs = host.run::<LatentWalk>(&settings, inputs)?;
            Ok::<_, StageError>(FigureSet::read(&outputs["figures"], &host.blobs).unwrap().0.remove(0))
        };
        let walks = figure(&[("model", &reference), ("embedding", &reference_embedding)]).unwrap();
        let svg = String::from_utf8(walks.pictures[0].1.clone()).unwrap();
        assert_eq!(svg.matches("<image").count(), 6);
        assert!(svg.contains("−2 σ") && svg.contains("0 σ"), "{svg}");
        assert_eq!(walks.table.unwrap().rows(), 2);

        let walks = figure(&[("model", &target), ("embedding", &target_embedding), ("cells", &cells)]).unwrap();
        assert!(walks.caption.contains("`golgi` is drawn into cell `b`"), "{}", walks.caption);
        let mut out = crate::artifact::ArtifactWriter::new(ArtifactType::Tables, &host.blobs);
        let dimensions = Table::new()
            .with("dimension", vec![2_i64, 0, 1])
            .with("best_feature", ["cell_height_um", "nucleus_area", ""].map(str::to_owned).to_vec())
            .with("spearman", vec![-0.91, 0.5, f64::NAN]);
        dimensions.write(&mut out, "dimensions").unwrap();
        let correlations = out.finish().unwrap();
        let named = [("model", &reference), ("embedding", &reference_embedding), ("correlations", &correlations)];
        let named = figure(&named).unwrap().table.unwrap();
        let follows = named.floats("dimension").unwrap().into_iter().map(|dimension| match dimension as usize {
            2 => "cell_height_um",
            0 => "nucleus_area",
            _ => "",
        });
        assert_eq!(named.texts("follows").unwrap(), follows.collect::<Vec<_>>());

        let error = figure(&[("model", &target), ("embedding", &reference_embedding), ("cells", &cells)]).unwrap_err();
        assert!(error.to_string().contains("another model"), "{error}");
        let error = figure(&[("model", &target), ("embedding", &target_embedding)]).unwrap_err();
        assert!(error.to_string().contains("needs a cell"), "{error}");
    }

    #[test]
    fn a_target_model_without_cells_is_found_before_anything_runs() {
        let facts = vec![Facts { model: Some("target".to_owned()), ..Facts::default() }];
        let checked = LatentWalk::check(&params::<LatentWalk>(json!({})), &[("model".to_owned(), facts)].into());
        assert_eq!(checked.problems[0].field.as_deref(), Some("cells"));
    }
}
