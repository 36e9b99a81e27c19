//! `compare`: features of generated cells beside those of real ones.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    artifact::{ArtifactError, ArtifactType, ArtifactWriter, Column, FigureSet, Table},
    figures::comparison::figures,
    stage::{Checked, Context, Input, InputFacts, Inputs, Output, Outputs, Problem, StageError, StageKind},
    stats::{kolmogorov_smirnov, mean, nearest_neighbour_coverage, pearson, quantile, sorted, standard_deviation},
};

/// The stage kind.
pub(super) struct Compare;

/// Parameters of `compare`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Params {
    /// The columns that are compared; absent: every column of numbers that all tables have.
    #[serde(default)]
    pub columns: Vec<String>,
    /// What each generated set is called in figures and tables, in their order; absent: `generated 1`, …
    #[serde(default)]
    pub names: Vec<String>,
    /// Which nearest neighbour bounds the region in which a cell counts as covered.
    #[serde(default = "neighbours")]
    #[schemars(range(max = 1000))]
    pub neighbours: usize,
}

fn neighbours() -> usize {
    3
}

impl StageKind for Compare {
    type Params = Params;

    const NAME: &'static str = "compare";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "compares features of generated cells with those of real ones, cell by cell and as sets";

    fn inputs(_: Option<&Params>) -> Vec<Input> {
        vec![
            Input::one("real", ArtifactType::Tables, "features of real cells"),
            Input::many(
                "generated",
                ArtifactType::Tables,
                "features of generated cells, one or several sets: those that `reconstruct` gave have the ids of real ones",
            ),
        ]
    }

    fn outputs(_: Option<&Params>) -> Vec<Output> {
        vec![
            Output::for_people(
                "results",
                ArtifactType::Tables,
                "a row for each set and feature (`features`), a row for each set (`sets`)",
            ),
            Output::for_people("figures", ArtifactType::Figures, "distributions, each cell joined to itself by a line"),
        ]
    }

    fn check(params: &Params, inputs: &InputFacts) -> Checked {
        let mut checked = Checked::default();
        if params.neighbours == 0 {
            checked.problems.push(Problem::with("neighbours", "the nearest neighbour is number 1"));
        }
        let sets = inputs.get("generated").map(Vec::len);
        if sets.is_some_and(|sets| !params.names.is_empty() && params.names.len() != sets) {
            checked.problems.push(Problem::with("names", "there must be one name for each generated set"));
        }
        checked
    }

    fn run(params: &Params, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        let blobs = context.blobs();
        let real = without_controls(&Table::read(inputs.one("real"), blobs, "features")?)?;
        let generated = inputs
            .many("generated")
            .iter()
            .map(|artifact| without_controls(&Table::read(artifact, blobs, "features")?));
        let generated = generated.collect::<Result<Vec<_>, ArtifactError>>()?;
        let name = |set: usize| params.names.get(set).cloned().unwrap_or_else(|| format!("generated {}", set + 1));
        let names: Vec<String> = (0..generated.len()).map(name).collect();
        let columns = columns(params, &real, &generated)?;
        let (mut rows, mut sets) = (Vec::new(), Vec::new());
        for (table, name) in generated.iter().zip(&names) {
            context.check()?;
            let pairs = pairs(&real, table)?;
            for column in &columns {
                rows.push(Row::new(name, column, &real, table, &pairs)?);
            }
            sets.push(SetRow::new(name, &columns, &real, table, pairs.len(), params)?);
        }
        let features = feature_table(&rows);
        let overview = set_table(&sets, real.rows());
        let figures = FigureSet(figures(&real, &generated, &names, &columns, &features)?);
        let mut out = ArtifactWriter::new(ArtifactType::Tables, blobs);
        features.write(&mut out, "features")?;
        overview.write(&mut out, "sets")?;
        Ok(Outputs::from([("results".to_owned(), out.finish()?), ("figures".to_owned(), figures.write(blobs)?)]))
    }
}

fn without_controls(table: &Table) -> Result<Table, ArtifactError> {
    let controls = table.flags("control")?;
    Ok(table.select(&(0..table.rows()).filter(|&row| !controls[row]).collect::<Vec<_>>()))
}

fn columns(params: &Params, real: &Table, generated: &[Table]) -> Result<Vec<String>, StageError> {
    let numbers = |table: &Table, name: &str| matches!(table.column(name), Some(Column::Float(_) | Column::Integer(_)));
    let everywhere = |name: &str| generated.iter().all(|table| numbers(table, name)) && numbers(real, name);
    if let Some(name) = params.columns.iter().find(|name| !everywhere(name)) {
        return Err(StageError::bad_input(format!("`{name}` is no column of numbers of every table")));
    }
    if !params.columns.is_empty() {
        return Ok(params.columns.clone());
    }
    let all: Vec<String> = real.columns().map(|(name, _)| name.to_owned()).filter(|name| everywhere(name)).collect();
    if all.is_empty() {
        return Err(StageError::bad_input("the tables have no column of numbers in common")
            .with_help("give what `features` gave for real and generated cells"));
    }
    Ok(all)
}

/// Rows of the real and of the generated table that are the same cell.
fn pairs(real: &Table, generated: &Table) -> Result<Vec<[usize; 2]>, ArtifactError> {
    let places: BTreeMap<&String, usize> =
        real.texts("cell_id")?.iter().enumerate().map(|(row, id)| (id, row)).collect();
    let ids = generated.texts("cell_id")?.iter().enumerate();
    Ok(ids.filter_map(|(row, id)| Some([*places.get(id)?, row])).collect())
}

/// A feature of a set.
struct Row {
    set: String,
    feature: String,
    real: [f64; 3],
    generated: [f64; 3],
    pairs: usize,
    correlation: f64,
    distance: f64,
    p: f64,
}

impl Row {
    fn new(
        set: &str,
        feature: &str,
        real: &Table,
        generated: &Table,
        pairs: &[[usize; 2]],
    ) -> Result<Self, ArtifactError> {
        let (a, b) = (real.floats(feature)?, generated.floats(feature)?);
        let known =
            pairs.iter().map(|&[row, other]| (a[row], b[other])).filter(|(a, b)| a.is_finite() && b.is_finite());
        let (of_real, of_generated): (Vec<f64>, Vec<f64>) = known.unzip();
        let summary = |values: &[f64]| {
            let values = sorted(values);
            [0.25, 0.5, 0.75].map(|share| quantile(&values, share))
        };
        let test = kolmogorov_smirnov(&a, &b);
        Ok(Self {
            set: set.to_owned(),
            feature: feature.to_owned(),
            real: summary(&a),
            generated: summary(&b),
            pairs: of_real.len(),
            correlation: pearson(&of_real, &of_generated),
            distance: test.map_or(f64::NAN, |test| test.distance),
            p: test.map_or(f64::NAN, |test| test.p),
        })
    }
}

fn feature_table(rows: &[Row]) -> Table {
    let numbers = |f: fn(&Row) -> f64| rows.iter().map(f).collect::<Vec<_>>();
    Table::new()
        .with("set", rows.iter().map(|row| row.set.clone()).collect::<Vec<_>>())
        .with("feature", rows.iter().map(|row| row.feature.clone()).collect::<Vec<_>>())
        .with("real_quartile_25", numbers(|row| row.real[0]))
        .with("real_median", numbers(|row| row.real[1]))
        .with("real_quartile_75", numbers(|row| row.real[2]))
        .with("generated_quartile_25", numbers(|row| row.generated[0]))
        .with("generated_median", numbers(|row| row.generated[1]))
        .with("generated_quartile_75", numbers(|row| row.generated[2]))
        .with("same_cells", rows.iter().map(|row| row.pairs as i64).collect::<Vec<_>>())
        .with("pearson", numbers(|row| row.correlation))
        .with("ks_distance", numbers(|row| row.distance))
        .with("ks_p", numbers(|row| row.p))
}

/// A set as a whole.
struct SetRow {
    set: String,
    cells: usize,
    pairs: usize,
    precision: f64,
    recall: f64,
}

impl SetRow {
    fn new(
        set: &str,
        columns: &[String],
        real: &Table,
        generated: &Table,
        pairs: usize,
        params: &Params,
    ) -> Result<Self, ArtifactError> {
        // In units of the real cells' spread, or features with large numbers would decide alone.
        let mut scaled: [Vec<Vec<f64>>; 2] = Default::default();
        for column in columns {
            let values = [real.floats(column)?, generated.floats(column)?];
            let known = sorted(&values[0]);
            let (centre, spread) = (mean(&known), standard_deviation(&known));
            if spread > 0.0 {
                for (scaled, values) in scaled.iter_mut().zip(values) {
                    scaled.push(values.into_iter().map(|value| (value - centre) / spread).collect());
                }
            }
        }
        let points = |columns: &[Vec<f64>]| -> Vec<Vec<f64>> {
            let rows = columns.first().map_or(0, Vec::len);
            let all = (0..rows).map(|row| columns.iter().map(|column| column[row]).collect::<Vec<f64>>());
            all.filter(|point| point.iter().all(|value| value.is_finite())).collect()
        };
        let found = nearest_neighbour_coverage(&points(&scaled[0]), &points(&scaled[1]), params.neighbours);
        Ok(Self {
            set: set.to_owned(),
            cells: generated.rows(),
            pairs,
            precision: found.map_or(f64::NAN, |found| found.precision),
            recall: found.map_or(f64::NAN, |found| found.recall),
        })
    }
}

fn set_table(rows: &[SetRow], real: usize) -> Table {
    Table::new()
        .with("set", rows.iter().map(|row| row.set.clone()).collect::<Vec<_>>())
        .with("cells", rows.iter().map(|row| row.cells as i64).collect::<Vec<_>>())
        .with("real_cells", vec![real as i64; rows.len()])
        .with("same_cells", rows.iter().map(|row| row.pairs as i64).collect::<Vec<_>>())
        .with("precision", rows.iter().map(|row| row.precision).collect::<Vec<_>>())
        .with("recall", rows.iter().map(|row| row.recall).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{MemoryHost, params};
    use super::*;
    use crate::{artifact::Artifact, nn::Rng};

    fn features(host: &MemoryHost, prefix: &str, scale: f64, noise: f64) -> Artifact {
        let (mut truth, mut error) = (Rng::new(1, "truth", 0), Rng::new(1, prefix, 0));
        let count = 60;
        let area: Vec<f64> =
            (0..count).map(|_| 100.0 + 10.0 * (scale * truth.normal() + noise * error.normal())).collect();
        let table = Table::new()
            .with("cell_id", (0..count).map(|cell| format!("{prefix}{cell}")).collect::<Vec<_>>())
            .with("control", (0..count).map(|cell| cell == 7).collect::<Vec<_>>())
            .with("cell_area", area.clone())
            .with("cell_mean", area.iter().map(|area| area / 2.0).collect::<Vec<_>>());
        let mut out = ArtifactWriter::new(ArtifactType::Tables, &host.blobs);
        table.write(&mut out, "features").unwrap();
        out.finish().unwrap()
    }

    #[test]
    fn the_same_cells_are_paired_and_sets_are_compared() {
        let host = MemoryHost::default();
        let real = features(&host, "c", 1.0, 0.0);
        let (near, collapsed, samples) =
            (features(&host, "c", 1.0, 0.2), features(&host, "c", 0.05, 0.0), features(&host, "s", 0.0, 1.0));
        let inputs = Inputs {
            artifacts: [("real".to_owned(), vec![real]), ("generated".to_owned(), vec![near, collapsed, samples])]
                .into(),
            ..Inputs::default()
        };
        let settings = params::<Compare>(json!({ "names": ["near", "collapsed", "samples"] }));
        let outputs = Compare::run(&settings, &inputs, &Context::new(&host)).unwrap();
        let read = |name: &str| Table::read(&outputs["results"], &host.blobs, name).unwrap();
        let (rows, sets) = (read("features"), read("sets"));
        let column = |name: &str| rows.floats(name).unwrap();
        assert_eq!(rows.texts("feature").unwrap()[..2], ["cell_area", "cell_mean"]);
        assert_eq!((column("same_cells")[0], column("same_cells")[4]), (59.0, 0.0), "the control is left out");
        assert!(column("pearson")[0] > 0.95 && column("pearson")[4].is_nan());
        assert!(column("ks_p")[0] > 0.05 && column("ks_p")[2] < 1e-6 && column("ks_distance")[2] > 0.4);
        let (precision, recall) = (sets.floats("precision").unwrap(), sets.floats("recall").unwrap());
        assert!(precision[0] > 0.8 && recall[0] > 0.8, "{precision:?} {recall:?}");
        assert!(precision[1] > 0.9 && recall[1] < 0.3, "all alike, and in the middle: {precision:?} {recall:?}");
        assert_eq!(FigureSet::read(&outputs["figures"], &host.blobs).unwrap().0.len(), 1);
        let facts = vec![crate::stage::Facts::default(); 2];
        let problems = Compare::check(&settings, &[("generated".to_owned(), facts)].into()).problems;
        assert_eq!(problems[0].field.as_deref(), Some("names"));
    }
}
