//! `correlate`: what latent dimensions have to do with measured features, with each other, and with where cells come from.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    held_out::{held_out_order, predict_held_out},
    quality::IMPORTANT_KL,
};
use crate::{
    artifact::{ArtifactError, ArtifactType, ArtifactWriter, Column, Embedding, FigureSet, Table},
    figures::correlation::{Shown, figures},
    stage::{Checked, Context, Input, InputFacts, Inputs, Output, Outputs, Problem, StageError, StageKind},
    stats::{Clustering, area_under_curve, between_groups, cluster, pca, pearson, r_squared, spearman},
};

/// The stage kind.
pub(super) struct Correlate;

/// Parameters of `correlate`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Params {
    /// How many latent dimensions, those with the highest mean |μ| first (paper, S3 Fig: 32).
    #[serde(default = "dimensions")]
    #[schemars(range(max = 1_000_000))]
    pub dimensions: usize,
    /// The columns that are features; absent: every column of numbers of the features, and of the embedding's cells.
    #[serde(default)]
    pub columns: Vec<String>,
    /// Whether control cells take part. Their reference channels are copies of other cells', so by default they do not.
    #[serde(default)]
    pub with_controls: bool,
}

fn dimensions() -> usize {
    32
}

/// The stage of cells that do not divide, and the name of all others together.
const INTERPHASE: &str = "interphase";
const MITOSIS: &str = "mitosis";
/// Columns of the embedding that say where a cell comes from.
const SOURCES: [&str; 8] = ["dataset", "plate", "well", "field", "drug", "structure", "stage", "session"];
/// Columns of numbers that measure nothing of a cell.
const BOOKKEEPING: [&str; 4] = ["label", "kl", "reconstruction", "elbo"];

impl StageKind for Correlate {
    type Params = Params;

    const NAME: &'static str = "correlate";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "correlates latent dimensions with features, with each other, and with dye, plate and field";

    fn inputs(_: Option<&Params>) -> Vec<Input> {
        vec![
            Input::one("embedding", ArtifactType::Tables, "what `embed` gave"),
            Input::one("features", ArtifactType::Tables, "what `features` gave for the same cells"),
        ]
    }

    fn outputs(_: Option<&Params>) -> Vec<Output> {
        vec![
            Output::for_people(
                "results",
                ArtifactType::Tables,
                "the tables `spearman`, `dimensions`, `predictions`, `classes`, `pearson`, `clusters`, `components`, `sources`",
            ),
            Output::for_people("figures", ArtifactType::Figures, "the same as figures"),
        ]
    }

    fn check(params: &Params, _: &InputFacts) -> Checked {
        let mut checked = Checked::default();
        if params.dimensions == 0 {
            checked.problems.push(Problem::with("dimensions", "`dimensions` is 0: there is nothing to correlate"));
        }
        checked
    }

    fn run(params: &Params, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        let blobs = context.blobs();
        let embedding = Embedding::read(inputs.one("embedding"), blobs)?;
        let features = Table::read(inputs.one("features"), blobs, "features")?;
        let joined = Joined::new(&embedding, &features, params)?;
        if joined.cells.rows() < 3 {
            let message = format!("{} cells have both features and a latent position", joined.cells.rows());
            return Err(
                StageError::bad_input(message).with_help("take features and embedding of the same set of cells")
            );
        }
        let constant: Vec<&str> = joined.features.iter().filter(|(_, v)| !varies(v)).map(|(n, _)| n.as_str()).collect();
        if !constant.is_empty() {
            context.note(format!("features that do not vary are left out: {}", constant.join(", ")));
        }
        let varying: Vec<(String, Vec<f64>)> =
            joined.features.iter().filter(|(_, values)| varies(values)).cloned().collect();
        if varying.is_empty() {
            return Err(StageError::bad_input("no feature of the cells varies").with_help("give more cells"));
        }
        let ranked = embedding.ranked()?;
        let top: Vec<usize> = ranked.iter().copied().take(params.dimensions).collect();
        let mu = top
            .iter()
            .map(|dimension| joined.cells.floats(&format!("mu_{dimension}")))
            .collect::<Result<Vec<_>, ArtifactError>>()?;
        context.progress(0, 3, "steps", "features among themselves");
        let clustering = cluster_features(&varying);
        context.check()?;
        context.progress(1, 3, "steps", "features with dimensions");
        let of_dimensions: Vec<Vec<f64>> =
            varying.iter().map(|(_, values)| mu.iter().map(|mu| known(values, mu, spearman)).collect()).collect();
        context.check()?;
        context.progress(2, 3, "steps", "dimensions among themselves");

        let spearman = spearman_table(&varying, &clustering, &of_dimensions, &top);
        let dimensions = dimension_table(&embedding, &ranked, &top, &varying, &of_dimensions)?;
        let mut among = Table::new().with("dimension", top.iter().map(|&d| d as i64).collect::<Vec<_>>());
        for (column, dimension) in top.iter().enumerate() {
            let values: Vec<f64> = mu.iter().map(|row| pearson(row, &mu[column])).collect();
            among = among.with(format!("dimension_{dimension}"), values);
        }
        let clusters = Table::new()
            .with("cluster", (0..clustering.merges.len()).map(|i| (varying.len() + i) as i64).collect::<Vec<_>>())
            .with("first", clustering.merges.iter().map(|merge| merge.clusters[0] as i64).collect::<Vec<_>>())
            .with("second", clustering.merges.iter().map(|merge| merge.clusters[1] as i64).collect::<Vec<_>>())
            .with("distance", clustering.merges.iter().map(|merge| merge.distance).collect::<Vec<_>>());
        let components = component_table(&varying);
        let sources = source_table(&joined.cells, &features_of(&varying), &top, &mu)?;
        let held_out = HeldOut::new(&embedding, &joined.cells)?;
        let (predictions, classes) = (held_out.predictions(&varying), held_out.classes(&joined.cells));
        if let Some(auc) = classes.floats("area_under_curve")?.first().filter(|auc| auc.is_finite()) {
            context.note(format!("interphase against mitosis: area under the curve {auc:.3}, cells held out"));
        }
        let shown = Shown {
            cells: joined.cells.rows(),
            latent: embedding.description.latent,
            model: &embedding.description.model,
            spearman: &spearman,
            dimensions: &dimensions,
            pearson: &among,
            components: &components,
            sources: &sources,
        };
        let figures = FigureSet(figures(&shown)?);
        let mut out = ArtifactWriter::new(ArtifactType::Tables, blobs);
        for (table, name) in [
            (&spearman, "spearman"),
            (&dimensions, "dimensions"),
            (&predictions, "predictions"),
            (&classes, "classes"),
            (&among, "pearson"),
            (&clusters, "clusters"),
            (&components, "components"),
            (&sources, "sources"),
        ] {
            table.write(&mut out, name)?;
        }
        Ok(Outputs::from([("results".to_owned(), out.finish()?), ("figures".to_owned(), figures.write(blobs)?)]))
    }
}

/// Cells that have a latent position and features.
struct Joined {
    /// Rows of the embedding's table.
    cells: Table,
    /// Name and values of each feature, a value for each of these rows; NaN where it is missing.
    features: Vec<(String, Vec<f64>)>,
}

impl Joined {
    fn new(embedding: &Embedding, features: &Table, params: &Params) -> Result<Self, StageError> {
        let places: BTreeMap<&String, usize> =
            features.texts("cell_id")?.iter().enumerate().map(|(row, id)| (id, row)).collect();
        let controls = embedding.cells.flags("control")?;
        let ids = embedding.cells.texts("cell_id")?;
        let (rows, of_features): (Vec<usize>, Vec<usize>) = (0..ids.len())
            .filter(|&row| params.with_controls || !controls[row])
            .filter_map(|row| Some((row, *places.get(&ids[row])?)))
            .unzip();
        let cells = embedding.cells.select(&rows);
        let features = features.select(&of_features);
        let latent = |name: &str| name.starts_with("mu_") || name.starts_with("logvar_");
        let mut found: Vec<(String, Vec<f64>)> = Vec::new();
        for table in [&features, &cells] {
            for (name, column) in table.columns() {
                let numbers = matches!(column, Column::Float(_) | Column::Integer(_));
                let known = found.iter().any(|(other, _)| other == name);
                if numbers && !known && !latent(name) && !BOOKKEEPING.contains(&name) {
                    found.push((name.to_owned(), table.floats(name)?));
                }
            }
        }
        if !params.columns.is_empty() {
            let wanted = params.columns.iter().map(|name| {
                found.iter().find(|(other, _)| other == name).cloned().ok_or_else(|| {
                    let known = found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
                    StageError::bad_input(format!("there is no feature `{name}`"))
                        .with_help(format!("there are {known}"))
                })
            });
            found = wanted.collect::<Result<_, _>>()?;
        }
        Ok(Self { cells, features: found })
    }
}

fn varies(values: &[f64]) -> bool {
    let mut finite = values.iter().filter(|value| value.is_finite());
    finite.next().is_some_and(|first| finite.any(|value| value != first))
}

/// A correlation over the cells for which both numbers are known.
fn known(a: &[f64], b: &[f64], correlation: fn(&[f64], &[f64]) -> f64) -> f64 {
    let both = a.iter().zip(b).filter(|(a, b)| a.is_finite() && b.is_finite());
    let (a, b): (Vec<f64>, Vec<f64>) = both.map(|(&a, &b)| (a, b)).unzip();
    correlation(&a, &b)
}

/// Clusters features by 1 − |Spearman's correlation|; features without a correlation count as unrelated.
fn cluster_features(features: &[(String, Vec<f64>)]) -> Clustering {
    let distance = |a: &[f64], b: &[f64]| {
        let correlation = known(a, b, spearman);
        if correlation.is_nan() { 1.0 } else { 1.0 - correlation.abs() }
    };
    let count = features.len();
    let mut distances = vec![0.0; count * count];
    for a in 0..count {
        for b in a + 1..count {
            let distance = distance(&features[a].1, &features[b].1);
            distances[a * count + b] = distance;
            distances[b * count + a] = distance;
        }
    }
    cluster(&distances, count)
}

/// A row a feature, in the order of the clustering's leaves.
fn spearman_table(
    features: &[(String, Vec<f64>)],
    clustering: &Clustering,
    of_dimensions: &[Vec<f64>],
    top: &[usize],
) -> Table {
    let order = &clustering.order;
    let mut table = Table::new()
        .with("feature", order.iter().map(|&leaf| features[leaf].0.clone()).collect::<Vec<_>>())
        .with("leaf", order.iter().map(|&leaf| leaf as i64).collect::<Vec<_>>());
    for (column, dimension) in top.iter().enumerate() {
        let values: Vec<f64> = order.iter().map(|&leaf| of_dimensions[leaf][column]).collect();
        table = table.with(format!("dimension_{dimension}"), values);
    }
    table
}

/// A row a latent dimension, the highest mean |μ| first, with the feature that it follows most where it is among the top ones.
fn dimension_table(
    embedding: &Embedding,
    ranked: &[usize],
    top: &[usize],
    features: &[(String, Vec<f64>)],
    of_dimensions: &[Vec<f64>],
) -> Result<Table, ArtifactError> {
    let mean_abs_mu = embedding.dimensions.floats("mean_abs_mu")?;
    let mean_kl = embedding.dimensions.floats("mean_kl")?;
    let best: Vec<(String, f64)> = (0..ranked.len())
        .map(|rank| {
            let of = |feature: usize| of_dimensions[feature][rank];
            let strongest = (0..features.len())
                .filter(|&feature| rank < top.len() && of(feature).is_finite())
                .max_by(|&a, &b| of(a).abs().total_cmp(&of(b).abs()).then(b.cmp(&a)));
            strongest.map_or((String::new(), f64::NAN), |feature| (features[feature].0.clone(), of(feature)))
        })
        .collect();
    Ok(Table::new()
        .with("rank", (1..=ranked.len() as i64).collect::<Vec<_>>())
        .with("dimension", ranked.iter().map(|&d| d as i64).collect::<Vec<_>>())
        .with("mean_abs_mu", ranked.iter().map(|&d| mean_abs_mu[d]).collect::<Vec<_>>())
        .with("mean_kl", ranked.iter().map(|&d| mean_kl[d]).collect::<Vec<_>>())
        .with("best_feature", best.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>())
        .with("spearman", best.into_iter().map(|(_, rho)| rho).collect::<Vec<_>>()))
}

/// The variance that principal components of the z-scored features explain, over cells that have them all.
fn component_table(features: &[(String, Vec<f64>)]) -> Table {
    let cells = features.first().map_or(0, |(_, values)| values.len());
    let complete: Vec<usize> =
        (0..cells).filter(|&cell| features.iter().all(|(_, values)| values[cell].is_finite())).collect();
    let columns: Vec<Vec<f64>> =
        features.iter().map(|(_, values)| complete.iter().map(|&cell| values[cell]).collect()).collect();
    let explained = pca(&columns).map_or_else(Vec::new, |analysis| analysis.explained);
    let together = explained.iter().scan(0.0, |sum, part| {
        *sum += part;
        Some(*sum)
    });
    let together = together.collect::<Vec<f64>>();
    Table::new()
        .with("component", (1..=explained.len() as i64).collect::<Vec<_>>())
        .with("explained", explained)
        .with("together", together)
}

/// What the important dimensions say of cells that were held out, a tenth at a time.
struct HeldOut {
    dimensions: Vec<Vec<f64>>,
    order: Vec<usize>,
}

impl HeldOut {
    fn new(embedding: &Embedding, cells: &Table) -> Result<Self, ArtifactError> {
        let kl = embedding.dimensions.floats("mean_kl")?;
        let important = (0..kl.len()).filter(|&dimension| kl[dimension] > IMPORTANT_KL);
        let dimensions =
            important.map(|dimension| cells.floats(&format!("mu_{dimension}"))).collect::<Result<_, _>>()?;
        Ok(Self { dimensions, order: held_out_order(cells.texts("cell_id")?, 0) })
    }

    /// Predictions of a response for these cells, in their order.
    fn predict(&self, response: &[f64], cells: &[usize]) -> Result<Vec<f64>, String> {
        if self.dimensions.is_empty() {
            return Err("no dimension is important".to_owned());
        }
        let mut predicted = predict_held_out(&self.dimensions, &[response.to_vec()], cells, cells.len().div_ceil(10))?;
        Ok(predicted.remove(0))
    }

    /// A row a feature: R² of a linear fit by all important dimensions.
    fn predictions(&self, features: &[(String, Vec<f64>)]) -> Table {
        let score = |values: &Vec<f64>| {
            let cells: Vec<usize> = self.order.iter().copied().filter(|&cell| values[cell].is_finite()).collect();
            let observed: Vec<f64> = cells.iter().map(|&cell| values[cell]).collect();
            match self.predict(values, &cells) {
                Ok(predicted) => (r_squared(&observed, &predicted).unwrap_or(f64::NAN), String::new()),
                Err(reason) => (f64::NAN, reason),
            }
        };
        let scores: Vec<(f64, String)> = features.iter().map(|(_, values)| score(values)).collect();
        Table::new()
            .with("feature", features.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>())
            .with("important_dimensions", vec![self.dimensions.len() as i64; features.len()])
            .with("r2", scores.iter().map(|(r2, _)| *r2).collect::<Vec<_>>())
            .with("reason", scores.into_iter().map(|(_, reason)| reason).collect::<Vec<_>>())
    }

    /// A row a mitotic class, all of mitosis first: how well it is told from interphase. No row where no stages are known.
    fn classes(&self, cells: &Table) -> Table {
        let Some(Column::Text(stages)) = cells.column("stage") else { return Self::class_table(&[]) };
        let mut names: Vec<&str> =
            stages.iter().map(String::as_str).filter(|s| !["", INTERPHASE].contains(s)).collect();
        names.sort_unstable();
        names.dedup();
        let mut rows = Vec::new();
        for class in [MITOSIS].into_iter().filter(|_| !names.is_empty()).chain(names.iter().copied()) {
            let belongs = |stage: &str| if class == MITOSIS { names.contains(&stage) } else { stage == class };
            let taken = |&cell: &usize| stages[cell] == INTERPHASE || belongs(&stages[cell]);
            let some: Vec<usize> = self.order.iter().copied().filter(taken).collect();
            let label: Vec<f64> = stages.iter().map(|stage| f64::from(u8::from(belongs(stage)))).collect();
            let scores = self.predict(&label, &some);
            let of = |wanted: f64| -> Vec<f64> {
                let scores = scores.as_deref().unwrap_or_default();
                some.iter().zip(scores).filter(|(cell, _)| label[**cell] == wanted).map(|(_, score)| *score).collect()
            };
            let count = some.iter().filter(|&&cell| label[cell] == 1.0).count();
            let auc = area_under_curve(&of(1.0), &of(0.0)).unwrap_or(f64::NAN);
            rows.push((class.to_owned(), count, some.len() - count, auc));
        }
        Self::class_table(&rows)
    }

    fn class_table(rows: &[(String, usize, usize, f64)]) -> Table {
        Table::new()
            .with("class", rows.iter().map(|row| row.0.clone()).collect::<Vec<_>>())
            .with("cells", rows.iter().map(|row| row.1 as i64).collect::<Vec<_>>())
            .with("interphase_cells", rows.iter().map(|row| row.2 as i64).collect::<Vec<_>>())
            .with("area_under_curve", rows.iter().map(|row| row.3).collect::<Vec<_>>())
    }
}

fn features_of(features: &[(String, Vec<f64>)]) -> BTreeMap<&str, &[f64]> {
    features.iter().map(|(name, values)| (name.as_str(), values.as_slice())).collect()
}

/// The share of the variance of each dimension that something explains which is no biology: a row for each pair.
fn source_table(
    cells: &Table,
    features: &BTreeMap<&str, &[f64]>,
    top: &[usize],
    mu: &[Vec<f64>],
) -> Result<Table, StageError> {
    let (mut sources, mut dimensions, mut shares, mut chance) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut add = |source: &str, dimension: usize, share: f64, by_chance: f64| {
        sources.push(source.to_owned());
        dimensions.push(dimension as i64);
        shares.push(share);
        chance.push(by_chance);
    };
    for source in SOURCES.iter().filter(|source| matches!(cells.column(source), Some(Column::Text(_)))) {
        let groups = cells.texts(source)?;
        for (&dimension, mu) in top.iter().zip(mu) {
            if let Some(found) = between_groups(mu, groups) {
                add(source, dimension, found.share, found.by_chance);
            }
        }
    }
    for (part, dye) in [("cell", "membrane dye"), ("nucleus", "DNA dye")] {
        let of = |name: &str| features.get(format!("{part}_{name}").as_str()).copied();
        let (Some(area), Some(mean)) = (of("area"), of("mean")) else { continue };
        let total: Vec<f64> = area.iter().zip(mean).map(|(area, mean)| area * mean).collect();
        for (what, values) in [("total", total.as_slice()), ("mean", mean)] {
            for (&dimension, mu) in top.iter().zip(mu) {
                let correlation = known(values, mu, pearson);
                if !correlation.is_nan() {
                    add(&format!("{what} {dye}"), dimension, correlation * correlation, 1.0 / (mu.len() - 1) as f64);
                }
            }
        }
    }
    Ok(Table::new()
        .with("source", sources)
        .with("dimension", dimensions)
        .with("share", shares)
        .with("by_chance", chance))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{MemoryHost, params};
    use super::*;
    use crate::{
        artifact::{Artifact, EmbeddingDescription},
        nn::Rng,
    };

    const CELLS: usize = 120;

    /// Dimension 2 follows volume and the plate, dimension 0 follows nothing, dimension 1 height with the other sign.
    struct Truth {
        volume: Vec<f64>,
        height: Vec<f64>,
        mu: [Vec<f64>; 3],
        plate: Vec<String>,
        stage: Vec<String>,
    }

    fn truth() -> Truth {
        let normal = |name: &str| {
            let mut rng = Rng::new(4, name, 0);
            (0..CELLS).map(|_| rng.normal()).collect::<Vec<f64>>()
        };
        let (volume, height) = (normal("volume"), normal("height"));
        let plate: Vec<usize> = (0..CELLS).map(|cell| cell % 3).collect();
        let noise = normal("noise");
        let of = |f: &dyn Fn(usize) -> f64| (0..CELLS).map(f).collect::<Vec<f64>>();
        Truth {
            mu: [
                of(&|i| 0.01 * noise[i]),
                of(&|i| -height[i] + 0.1 * noise[i]),
                of(&|i| 2.0 * volume[i] + 3.0 * plate[i] as f64),
            ],
            volume: of(&|i| libm::exp(7.0 + 0.3 * volume[i] + 0.05 * noise[i])),
            height: of(&|i| 9.0 + height[i]),
            plate: plate.iter().map(|plate| format!("p{plate}")).collect(),
            // The tallest cells divide; those in between are not annotated.
            stage: height
                .iter()
                .map(|&height| {
                    if height > 1.2 {
                        "prophase"
                    } else if height > 0.8 {
                        ""
                    } else {
                        INTERPHASE
                    }
                    .to_owned()
                })
                .collect(),
        }
    }

    fn artifacts(host: &MemoryHost) -> [Artifact; 2] {
        let truth = truth();
        let ids: Vec<String> = (0..CELLS).map(|i| format!("c{i}")).collect();
        let mut cells = Table::new()
            .with("cell_id", ids.clone())
            .with("control", (0..CELLS).map(|i| i == 0).collect::<Vec<_>>())
            .with("plate", truth.plate.clone())
            .with("stage", truth.stage.clone())
            .with("kl", vec![1.0; CELLS])
            .with("cell_height_um", truth.height.clone());
        for (dimension, mu) in truth.mu.iter().enumerate() {
            cells = cells
                .with(format!("mu_{dimension}"), mu.clone())
                .with(format!("logvar_{dimension}"), vec![-2.0; CELLS]);
        }
        let description = EmbeddingDescription {
            model: "reference".to_owned(),
            dimensions: 2,
            size: [1, 16, 16],
            image_channels: vec!["membrane".to_owned(), "dna".to_owned()],
            latent: 3,
            beta: None,
            samples: 1,
        };
        let embedding = Embedding::new(description, cells).unwrap().write(&host.blobs).unwrap();
        // Another order, a cell that was not embedded, a feature that never varies and a missing value.
        let rows: Vec<usize> = (0..CELLS).rev().collect();
        let mut surface: Vec<f64> = truth.volume.iter().map(|volume| libm::pow(*volume, 0.7)).collect();
        surface[5] = f64::NAN;
        let table = Table::new()
            .with("cell_id", ids)
            .with("cell_volume", truth.volume)
            .with("cell_surface", surface)
            .with("nothing", vec![1.0; CELLS])
            .select(&rows);
        let mut out = ArtifactWriter::new(ArtifactType::Tables, &host.blobs);
        table.write(&mut out, "features").unwrap();
        [embedding, out.finish().unwrap()]
    }

    #[test]
    fn every_dimension_is_named_by_what_it_follows() {
        let host = MemoryHost::default();
        let [embedding, features] = artifacts(&host);
        let ports = [("embedding", &embedding), ("features", &features)];
        let outputs = host.run::<Correlate>(&params::<Correlate>(json!({})), &ports).unwrap();
        let read = |name: &str| Table::read(&outputs["results"], &host.blobs, name).unwrap();

        let dimensions = read("dimensions");
        assert_eq!(dimensions.floats("dimension").unwrap(), [2.0, 1.0, 0.0], "by mean |μ|");
        let best = dimensions.texts("best_feature").unwrap();
        assert!(best[0].starts_with("cell_") && best[1] == "cell_height_um", "{best:?}");
        assert!(dimensions.floats("spearman").unwrap()[1] < -0.95);

        // Volume and surface are the same order of cells, so they stand side by side.
        let spearman = read("spearman");
        let names = spearman.texts("feature").unwrap();
        let place = |name: &str| names.iter().position(|other| other == name).unwrap();
        assert_eq!(names.len(), 3, "{names:?}");
        assert_eq!(place("cell_volume").abs_diff(place("cell_surface")), 1);
        assert!(host.notes().iter().any(|note| note.contains("nothing")));

        // The plate explains most of dimension 2, and nothing of dimension 1.
        let sources = read("sources");
        let share = |dimension: f64| {
            let all = sources.floats("dimension").unwrap();
            let row = all.iter().position(|&other| other == dimension).unwrap();
            [sources.floats("share").unwrap()[row], sources.floats("by_chance").unwrap()[row]]
        };
        assert_eq!(sources.texts("source").unwrap()[0], "plate");
        assert!(share(2.0)[0] > 0.5 && share(1.0)[0] < 0.1, "{:?} {:?}", share(2.0), share(1.0));
        assert!((share(1.0)[1] - 2.0 / 118.0).abs() < 1e-12);
        // What the dimensions hold is predicted for cells that were held out, and dividing cells are told from others.
        let predictions = read("predictions");
        let r2 = predictions.floats("r2").unwrap();
        let of = |name: &str| r2[predictions.texts("feature").unwrap().iter().position(|other| other == name).unwrap()];
        assert!(of("cell_height_um") > 0.95 && of("cell_volume") < 0.9, "{r2:?}");
        let classes = read("classes");
        assert_eq!(classes.texts("class").unwrap(), ["mitosis", "prophase"]);
        assert!(classes.floats("area_under_curve").unwrap()[0] > 0.99);
        let together = read("components").floats("together").unwrap();
        assert!((together.last().unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(FigureSet::read(&outputs["figures"], &host.blobs).unwrap().0.len(), 3);
    }

    #[test]
    fn columns_can_be_chosen_and_strangers_are_refused() {
        let host = MemoryHost::default();
        let [embedding, features] = artifacts(&host);
        let ports = [("embedding", &embedding), ("features", &features)];
        let run = |json| host.run::<Correlate>(&params::<Correlate>(json), &ports);
        let outputs = run(json!({ "columns": ["cell_height_um"], "dimensions": 1 })).unwrap();
        let spearman = Table::read(&outputs["results"], &host.blobs, "spearman").unwrap();
        assert_eq!((spearman.rows(), spearman.columns().count()), (1, 3));
        let error = run(json!({ "columns": ["cell_width"] })).unwrap_err().to_string();
        assert!(error.contains("no feature `cell_width`"), "{error}");
        let error = run(json!({ "columns": ["nothing"] })).unwrap_err().to_string();
        assert!(error.contains("no feature of the cells varies"), "{error}");
    }
}
