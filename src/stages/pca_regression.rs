//! How much of the features of cells a latent space holds, and at what rate, over several models.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::held_out::{held_out_order, predict_held_out};
use crate::{
    artifact::{ArtifactType, ArtifactWriter, Embedding, Figure, FigureSet, Table, kl_divergence},
    figures::{
        rate_distortion::{Models, rate_distortion, spectrum},
        regression::{components, scores},
    },
    image::features::Features,
    stage::{Checked, Context, Input, InputFacts, Inputs, Output, Outputs, Problem, StageError, StageKind},
    stats::{Pca, mean, pca, r_squared},
};

/// Regresses features on latent dimensions.
pub(super) struct PcaRegression;

/// What is compared.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct PcaRegressionParams {
    /// How many principal components of the features are explained, the first ones.
    #[serde(default = "default_components")]
    #[schemars(range(max = 10_000))]
    pub(super) components: usize,
    /// Latent dimensions with a mean KL divergence above this, in nats, are important: they are what explains the components.
    #[serde(default = "default_threshold")]
    #[schemars(range(max = 1e6))]
    pub(super) kl_threshold: f64,
    /// The share of cells that is held out of the fit and predicted.
    #[serde(default = "default_fraction")]
    #[schemars(range(max = 1.0))]
    pub(super) test_fraction: f64,
    /// Another seed holds out other cells. The pipeline's by default.
    #[serde(default)]
    pub(super) seed: u64,
}

fn default_components() -> usize {
    5
}

fn default_threshold() -> f64 {
    0.6
}

fn default_fraction() -> f64 {
    0.1
}

impl StageKind for PcaRegression {
    type Params = PcaRegressionParams;
    const NAME: &'static str = "pca-regression";
    const VERSION: u32 = 2;
    const ABOUT: &'static str =
        "explains the features of cells by the latent dimensions of models; rate against distortion";

    fn inputs(_: Option<&PcaRegressionParams>) -> Vec<Input> {
        vec![
            Input::one("features", ArtifactType::Tables, "the features of cells"),
            Input::many(
                "embeddings",
                ArtifactType::Tables,
                "the same cells in the latent spaces of one or more models",
            ),
        ]
    }

    fn outputs(_: Option<&PcaRegressionParams>) -> Vec<Output> {
        vec![
            Output::for_people(
                "results",
                ArtifactType::Tables,
                "the tables `components`, `scores`, `regression`, `rate-distortion`, `spectrum`",
            ),
            Output::for_people("figures", ArtifactType::Figures, "the same as figures"),
        ]
    }

    fn check(params: &PcaRegressionParams, _: &InputFacts) -> Checked {
        let mut checked = Checked::default();
        let features = 2 * Features::NAMES.len();
        if params.components == 0 || params.components > features {
            let message = format!("{features} features have 1 to {features} components, not {}", params.components);
            checked.problems.push(Problem::with("components", message));
        }
        if !(params.test_fraction > 0.0 && params.test_fraction <= 0.5) {
            let message =
                format!("the share that is held out lies above 0 and at most at 0.5, not at {}", params.test_fraction);
            checked.problems.push(Problem::with("test-fraction", message));
        }
        if !(params.kl_threshold >= 0.0 && params.kl_threshold.is_finite()) {
            checked.problems.push(Problem::with("kl-threshold", "a KL divergence is not below 0"));
        }
        checked
    }

    fn run(params: &PcaRegressionParams, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        let blobs = context.blobs();
        let features = Table::read(inputs.one("features"), blobs, "features")?;
        let embeddings = inputs.many("embeddings").iter().map(|artifact| Embedding::read(artifact, blobs));
        let embeddings = embeddings.collect::<Result<Vec<_>, _>>()?;
        let cells = Joined::new(&features, &embeddings)?;
        if !cells.incomplete.is_empty() {
            context.note(format!(
                "{} cells are left out because some of their features are missing: {}",
                cells.incomplete.len(),
                some_of(&cells.incomplete)
            ));
        }
        let betas: Vec<Option<f64>> = embeddings.iter().map(|embedding| embedding.description.beta).collect();
        let models = Models::new(&betas);
        let analysis = pca(&cells.features).ok_or_else(|| {
            StageError::bad_input(format!("the features of the {} cells do not vary", cells.ids.len()))
                .with_help("give more than one cell")
        })?;
        let analysis = first(analysis, params.components);
        let order = held_out_order(&cells.ids, params.seed);
        let mut rows = Rows::default();
        for (model, embedding) in embeddings.iter().enumerate() {
            context.check()?;
            context.progress(model as u64, embeddings.len() as u64, "models", models.labels[model].as_str());
            rows.add(model, embedding, &cells.rows[model], &analysis, &order, params)?;
        }

        let names = feature_names();
        let mut loadings = Table::new()
            .with("component", (1..=analysis.explained.len() as i64).collect::<Vec<_>>())
            .with("explained", analysis.explained.clone());
        for (index, name) in names.iter().enumerate() {
            loadings = loadings.with(name, analysis.loadings.iter().map(|loading| loading[index]).collect::<Vec<_>>());
        }
        let mut coordinates = Table::new().with("cell_id", cells.ids.clone());
        for (index, score) in analysis.scores.iter().enumerate() {
            coordinates = coordinates.with(format!("pc_{}", index + 1), score.clone());
        }
        let [regression, rates, kl] = rows.tables(&models, &betas);
        let figures: Vec<Figure> = vec![
            rate_distortion(&models, &rates)?,
            spectrum(&models, &kl, params.kl_threshold)?,
            components(&loadings, &names, cells.ids.len())?,
            scores(&models, &regression, params.test_fraction)?,
        ];
        let mut out = ArtifactWriter::new(ArtifactType::Tables, blobs);
        for (table, name) in [
            (&regression, "regression"),
            (&loadings, "components"),
            (&coordinates, "scores"),
            (&rates, "rate-distortion"),
            (&kl, "spectrum"),
        ] {
            table.write(&mut out, name)?;
        }
        Ok(Outputs::from([
            ("results".to_owned(), out.finish()?),
            ("figures".to_owned(), FigureSet(figures).write(blobs)?),
        ]))
    }
}

fn feature_names() -> Vec<String> {
    ["nucleus", "cell"].iter().flat_map(|part| Features::NAMES.map(|name| format!("{part}_{name}"))).collect()
}

fn some_of(ids: &[String]) -> String {
    let shown = ids.iter().take(5).map(|id| format!("`{id}`")).collect::<Vec<_>>().join(", ");
    if ids.len() > 5 { format!("{shown}, …") } else { shown }
}

/// The first components of an analysis.
fn first(mut analysis: Pca, count: usize) -> Pca {
    analysis.explained.truncate(count);
    analysis.loadings.truncate(count);
    analysis.scores.truncate(count);
    analysis
}

/// The cells that have features and stand in every embedding. Controls are left out: in the channels that features are taken from they
/// are copies of other cells (the paper's "approximately 4,000 cells" of its test set are those without controls).
struct Joined {
    ids: Vec<String>,
    /// The values of each feature, a value a cell.
    features: Vec<Vec<f64>>,
    /// For each embedding, the row of each cell.
    rows: Vec<Vec<usize>>,
    /// Cells without some of their features.
    incomplete: Vec<String>,
}

impl Joined {
    fn new(features: &Table, embeddings: &[Embedding]) -> Result<Self, StageError> {
        let index = |ids: &[String]| -> BTreeMap<String, usize> {
            ids.iter().enumerate().map(|(row, id)| (id.clone(), row)).collect()
        };
        let places = embeddings
            .iter()
            .map(|embedding| Ok(index(embedding.cells.texts("cell_id")?)))
            .collect::<Result<Vec<_>, StageError>>()?;
        let columns =
            feature_names().iter().map(|name| Ok(features.floats(name)?)).collect::<Result<Vec<_>, StageError>>()?;
        let (all, control) = (features.texts("cell_id")?, features.flags("control")?);
        let mut joined = Self {
            ids: Vec::new(),
            features: vec![Vec::new(); columns.len()],
            rows: vec![Vec::new(); embeddings.len()],
            incomplete: Vec::new(),
        };
        for (row, id) in all.iter().enumerate().filter(|(row, _)| !control[*row]) {
            let Some(found) = places.iter().map(|place| place.get(id).copied()).collect::<Option<Vec<_>>>() else {
                continue;
            };
            if columns.iter().any(|column| !column[row].is_finite()) {
                joined.incomplete.push(id.clone());
                continue;
            }
            joined.ids.push(id.clone());
            joined.features.iter_mut().zip(&columns).for_each(|(values, column)| values.push(column[row]));
            joined.rows.iter_mut().zip(found).for_each(|(rows, row)| rows.push(row));
        }
        if joined.ids.is_empty() {
            return Err(StageError::bad_input(
                "no cell (other than controls) has all features and stands in every embedding",
            )
            .with_help("take features and embeddings of the same set of cells"));
        }
        Ok(joined)
    }
}

/// R² of each component, or why there is none.
struct Scores {
    /// On the cells that are held out first.
    first: Vec<Option<f64>>,
    /// On all cells, each predicted by a fit that it was held out of.
    all: Vec<Option<f64>>,
    /// Why there is none, else empty.
    reason: String,
}

/// How well the predictors explain each component in cells that are held out of the fit, `held_out` at a time in this order.
fn explain(predictors: &[Vec<f64>], components: &[Vec<f64>], order: &[usize], held_out: usize) -> Scores {
    match predict_held_out(predictors, components, order, held_out) {
        Err(reason) => Scores { first: vec![None; components.len()], all: vec![None; components.len()], reason },
        Ok(predicted) => {
            let r2 = |count: usize| -> Vec<Option<f64>> {
                let observed =
                    components.iter().map(|values| order[..count].iter().map(|&cell| values[cell]).collect());
                let pairs = observed.zip(&predicted);
                pairs.map(|(observed, predicted): (Vec<f64>, _)| r_squared(&observed, &predicted[..count])).collect()
            };
            Scores { first: r2(held_out), all: r2(order.len()), reason: String::new() }
        }
    }
}

/// A row of the table `regression`.
struct RegressionRow {
    model: usize,
    component: usize,
    explained: f64,
    dimensions: usize,
    fitted: usize,
    held_out: usize,
    r2: Option<f64>,
    r2_all_folds: Option<f64>,
    reason: String,
}

/// A row of the table `rate-distortion`.
struct RateRow {
    model: usize,
    cells: usize,
    rate: f64,
    distortion: f64,
}

/// A row of the table `spectrum`.
struct SpectrumRow {
    model: usize,
    rank: usize,
    dimension: usize,
    mean_kl: f64,
    important: bool,
}

/// The rows of the tables in the making.
#[derive(Default)]
struct Rows {
    regression: Vec<RegressionRow>,
    rates: Vec<RateRow>,
    spectrum: Vec<SpectrumRow>,
}

impl Rows {
    /// Adds what there is to say of a model. `cells`: the rows of the joined cells in the embedding; `order`: which of them are held
    /// out first.
    fn add(
        &mut self,
        model: usize,
        embedding: &Embedding,
        cells: &[usize],
        analysis: &Pca,
        order: &[usize],
        params: &PcaRegressionParams,
    ) -> Result<(), StageError> {
        let column = |name: &str| -> Result<Vec<f64>, StageError> {
            let values = embedding.cells.floats(name)?;
            Ok(cells.iter().map(|&row| values[row]).collect())
        };
        self.rates.push(RateRow {
            model,
            cells: cells.len(),
            rate: mean(&column("kl")?),
            distortion: mean(&column("reconstruction")?),
        });
        let mut dimensions = Vec::new();
        for dimension in 0..embedding.description.latent {
            let mu = column(&format!("mu_{dimension}"))?;
            let logvar = column(&format!("logvar_{dimension}"))?;
            let kl: Vec<f64> = mu.iter().zip(logvar).map(|(&mu, logvar)| kl_divergence(mu, logvar)).collect();
            dimensions.push((mean(&kl), dimension, mu));
        }
        dimensions.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut predictors = Vec::new();
        for (place, (mean_kl, dimension, mu)) in dimensions.into_iter().enumerate() {
            let important = mean_kl > params.kl_threshold;
            self.spectrum.push(SpectrumRow { model, rank: place + 1, dimension, mean_kl, important });
            if important {
                predictors.push(mu);
            }
        }
        let held_out = (cells.len() as f64 * params.test_fraction).round() as usize;
        let scores = explain(&predictors, &analysis.scores, order, held_out);
        for (index, &explained) in analysis.explained.iter().enumerate() {
            self.regression.push(RegressionRow {
                model,
                component: index + 1,
                explained,
                dimensions: predictors.len(),
                fitted: cells.len() - held_out,
                held_out,
                r2: scores.first[index],
                r2_all_folds: scores.all[index],
                reason: scores.reason.clone(),
            });
        }
        Ok(())
    }

    /// The tables `regression`, `rate-distortion` and `spectrum`.
    fn tables(&self, models: &Models, betas: &[Option<f64>]) -> [Table; 3] {
        fn start<R>(rows: &[R], models: &Models, betas: &[Option<f64>], model: impl Fn(&R) -> usize) -> Table {
            Table::new()
                .with("model", column(rows, |row| model(row) as i64 + 1))
                .with("label", column(rows, |row| models.labels[model(row)].clone()))
                .with("beta", column(rows, |row| betas[model(row)].unwrap_or(f64::NAN)))
        }
        fn column<R, T>(rows: &[R], value: impl Fn(&R) -> T) -> Vec<T> {
            rows.iter().map(value).collect()
        }
        let regression = start(&self.regression, models, betas, |row| row.model)
            .with("component", column(&self.regression, |row| row.component as i64))
            .with("explained", column(&self.regression, |row| row.explained))
            .with("important_dimensions", column(&self.regression, |row| row.dimensions as i64))
            .with("cells_fitted", column(&self.regression, |row| row.fitted as i64))
            .with("cells_held_out", column(&self.regression, |row| row.held_out as i64))
            .with("r2", column(&self.regression, |row| row.r2.unwrap_or(f64::NAN)))
            .with("r2_all_folds", column(&self.regression, |row| row.r2_all_folds.unwrap_or(f64::NAN)))
            .with("reason", column(&self.regression, |row| row.reason.clone()));
        let best = self.rates.iter().map(|row| row.rate + row.distortion).fold(f64::INFINITY, f64::min);
        let rates = start(&self.rates, models, betas, |row| row.model)
            .with("cells", column(&self.rates, |row| row.cells as i64))
            .with("rate", column(&self.rates, |row| row.rate))
            .with("distortion", column(&self.rates, |row| row.distortion))
            .with("elbo", column(&self.rates, |row| -(row.rate + row.distortion)))
            .with("best", column(&self.rates, |row| row.rate + row.distortion == best));
        let spectrum = start(&self.spectrum, models, betas, |row| row.model)
            .with("rank", column(&self.spectrum, |row| row.rank as i64))
            .with("dimension", column(&self.spectrum, |row| row.dimension as i64))
            .with("mean_kl", column(&self.spectrum, |row| row.mean_kl))
            .with("important", column(&self.spectrum, |row| row.important));
        [regression, rates, spectrum]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{MemoryHost, params};
    use super::*;
    use crate::{
        artifact::{Artifact, EmbeddingDescription},
        nn::Rng,
    };

    fn texts(values: impl Iterator<Item = String>) -> Vec<String> {
        values.collect()
    }

    /// Cells whose features follow two hidden numbers, which latent dimensions 0 and 1 know; dimension 2 knows nothing, the last cell
    /// is a control.
    fn hidden(count: usize) -> [Vec<f64>; 2] {
        ["a", "b"].map(|name| {
            let mut rng = Rng::new(5, name, 0);
            (0..count).map(|_| rng.normal()).collect()
        })
    }

    fn features(host: &MemoryHost, count: usize) -> Artifact {
        let [a, b] = hidden(count);
        let mut rng = Rng::new(5, "noise", 0);
        let mut table = Table::new()
            .with("cell_id", texts((0..count).map(|i| format!("cell-{i}"))))
            .with("control", (0..count).map(|i| i + 1 == count).collect::<Vec<_>>());
        for (index, name) in feature_names().iter().enumerate() {
            let weight = index as f64 / 13.0;
            let values = (0..count).map(|i| 9.0 + weight * a[i] + (1.0 - weight) * b[i] + 0.05 * rng.normal());
            table = table.with(name, values.collect::<Vec<_>>());
        }
        let mut out = ArtifactWriter::new(ArtifactType::Tables, &host.blobs);
        table.write(&mut out, "features").unwrap();
        out.finish().unwrap()
    }

    fn embedding(host: &MemoryHost, count: usize, beta: Option<f64>, latent: usize) -> Artifact {
        let [a, b] = hidden(count);
        // Another order than that of the features.
        let rows: Vec<usize> = (0..count).rev().collect();
        let column = |value: &dyn Fn(usize) -> f64| rows.iter().map(|&i| value(i)).collect::<Vec<_>>();
        let mut cells = Table::new()
            .with("cell_id", texts(rows.iter().map(|i| format!("cell-{i}"))))
            .with("kl", column(&|_| 3.0))
            .with("reconstruction", column(&|i| if i + 1 == count { 1e6 } else { 7.0 }));
        for dimension in 0..latent {
            let mut rng = Rng::new(5, "latent", dimension as u64);
            let noise: Vec<f64> = (0..count).map(|_| rng.normal()).collect();
            let mu = match dimension {
                0 => column(&|i| a[i] + b[i]),
                1 => column(&|i| a[i] - b[i]),
                2 => column(&|i| 0.01 * noise[i]),
                _ => column(&|i| noise[i]),
            };
            let logvar = if dimension == 2 { 0.0 } else { -4.0 };
            cells = cells.with(format!("mu_{dimension}"), mu).with(format!("logvar_{dimension}"), vec![logvar; count]);
        }
        let description = EmbeddingDescription {
            model: "reference".to_owned(),
            dimensions: 2,
            size: [1, 16, 16],
            image_channels: vec!["membrane".to_owned(), "dna".to_owned()],
            latent,
            beta,
            samples: 10,
        };
        Embedding::new(description, cells).unwrap().write(&host.blobs).unwrap()
    }

    fn run(host: &MemoryHost, features: Artifact, embeddings: Vec<Artifact>) -> Result<Outputs, StageError> {
        let artifacts = [("features".to_owned(), vec![features]), ("embeddings".to_owned(), embeddings)];
        let inputs = Inputs { artifacts: artifacts.into(), ..Inputs::default() };
        PcaRegression::run(&params::<PcaRegression>(serde_json::json!({ "seed": 3 })), &inputs, &Context::new(host))
    }

    #[test]
    fn what_the_latent_space_knows_is_explained() {
        let host = MemoryHost::default();
        let embeddings = vec![embedding(&host, 61, Some(1.0), 3), embedding(&host, 61, Some(0.0), 60)];
        let outputs = run(&host, features(&host, 61), embeddings).unwrap();
        let read = |name: &str| Table::read(&outputs["results"], &host.blobs, name).unwrap();
        let regression = read("regression");
        let (r2, all) = (regression.floats("r2").unwrap(), regression.floats("r2_all_folds").unwrap());
        assert!(r2[..2].iter().chain(&all[..2]).all(|&value| value > 0.99 && value <= 1.0), "{r2:?} {all:?}");
        assert!(r2[4] < 0.9, "the last component is noise: {r2:?}");
        // The second model has more important dimensions than cells to fit: no R², and it says why.
        assert!(r2[5..].iter().chain(&all[5..]).all(|value| value.is_nan()));
        assert_eq!(regression.texts("reason").unwrap()[5], "54 cells do not determine a fit by 59 dimensions");
        assert_eq!(regression.floats("cells_held_out").unwrap()[0], 6.0);
        assert_eq!(regression.texts("label").unwrap()[0], "β = 1");

        let rates = read("rate-distortion");
        assert_eq!((rates.floats("distortion").unwrap()[0], rates.floats("cells").unwrap()[0]), (7.0, 60.0));
        let spectrum = read("spectrum");
        assert_eq!(spectrum.flags("important").unwrap()[..3], [true, true, false]);
        assert_eq!(read("components").rows(), 5);
        assert_eq!(FigureSet::read(&outputs["figures"], &host.blobs).unwrap().0.len(), 4);
    }

    #[test]
    fn few_cells_are_no_failure_but_no_cells_are() {
        let host = MemoryHost::default();
        let outputs = run(&host, features(&host, 6), vec![embedding(&host, 6, None, 3)]).unwrap();
        let regression = Table::read(&outputs["results"], &host.blobs, "regression").unwrap();
        assert_eq!(regression.texts("reason").unwrap()[0], "of 5 cells fewer than two are held out");
        assert_eq!(regression.texts("label").unwrap()[0], "model 1");
        for count in [1, 2] {
            let error = run(&host, features(&host, count), vec![embedding(&host, count, None, 3)]).unwrap_err();
            let message = error.to_string();
            assert!(message.contains("do not vary") || message.contains("no cell"), "{message}");
        }
    }

    #[test]
    fn problems_are_found_before_anything_runs() {
        for (json, sound) in [
            (serde_json::json!({}), true),
            (serde_json::json!({ "components": 0 }), false),
            (serde_json::json!({ "components": 15 }), false),
            (serde_json::json!({ "test-fraction": 0.0 }), false),
            (serde_json::json!({ "test-fraction": 0.6 }), false),
            (serde_json::json!({ "kl-threshold": -1.0 }), false),
        ] {
            let problems = PcaRegression::check(&params::<PcaRegression>(json.clone()), &InputFacts::new()).problems;
            assert_eq!(problems.is_empty(), sound, "{json}");
        }
    }
}
