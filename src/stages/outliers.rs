//! `outliers`: cells that a model finds unlikely, and whether a set of cells lies inside what it knows.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    artifact::{ArtifactError, ArtifactType, ArtifactWriter, Cells, Embedding, FigureSet, Table},
    figures::outliers::{Shown, figures},
    stage::{Checked, Context, Input, InputFacts, Inputs, Output, Outputs, Problem, StageError, StageKind},
    stats::{quantile, sorted},
};

/// The stage kind.
pub(super) struct Outliers;

/// Parameters of `outliers`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Params {
    /// A cell is an outlier when its ELBO lies this many robust standard deviations below the median of its structure and phase.
    #[serde(default = "deviations")]
    #[schemars(range(max = 1000.0))]
    pub deviations: f64,
    /// A structure and phase with fewer cells is judged with all cells of the structure, or with all cells.
    #[serde(default = "least")]
    #[schemars(range(max = 1_000_000))]
    pub least: usize,
    /// Cells shown.
    #[serde(default = "shown")]
    #[schemars(range(max = 1000))]
    pub shown: usize,
}

fn deviations() -> f64 {
    3.5
}

fn least() -> usize {
    10
}

fn shown() -> usize {
    12
}

/// Of normally distributed values, the standard deviation over the median absolute deviation.
const ROBUST: f64 = 1.482_602_218_505_602;
/// The quantile of known cells' ELBO below which a cell is outside what the model knows; as many of them are by definition.
const OUTSIDE: f64 = 0.01;
/// A share of cells outside above this is no chance.
const STRANGE: f64 = 0.1;

impl StageKind for Outliers {
    type Params = Params;

    const NAME: &'static str = "outliers";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "ranks cells by how unlikely a model finds them; says whether cells are such as it knows";

    fn inputs(_: Option<&Params>) -> Vec<Input> {
        vec![
            Input::one("embedding", ArtifactType::Tables, "what `embed` gave for the cells"),
            Input::optional(
                "known",
                ArtifactType::Tables,
                "what `embed` gave for cells that the model knows, such as its validation or test cells: what to judge by",
            ),
            Input::optional("cells", ArtifactType::Cells, "the cells, to show the outliers"),
        ]
    }

    fn outputs(_: Option<&Params>) -> Vec<Output> {
        vec![
            Output::for_people("results", ArtifactType::Tables, "a row a cell, the most unlikely first (`cells`)"),
            Output::for_people("figures", ArtifactType::Figures, "ELBO of all cells, and the most unlikely ones"),
        ]
    }

    fn check(params: &Params, _: &InputFacts) -> Checked {
        let mut checked = Checked::default();
        if !(params.deviations > 0.0 && params.deviations.is_finite()) {
            checked.problems.push(Problem::with("deviations", "a number of deviations lies above 0"));
        }
        if params.least < 3 {
            checked.problems.push(Problem::with("least", "fewer than three cells have no spread").help("give 10, say"));
        }
        checked
    }

    fn run(params: &Params, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        let blobs = context.blobs();
        let embedding = Embedding::read(inputs.one("embedding"), blobs)?;
        let known = inputs.optional("known").map(|artifact| Embedding::read(artifact, blobs)).transpose()?;
        if known.as_ref().is_some_and(|known| known.description != embedding.description) {
            return Err(StageError::bad_input("`known` was embedded by another model, or with other settings")
                .with_help("embed both with one model and as many draws"));
        }
        let judges = Judges::new(&known.as_ref().unwrap_or(&embedding).cells, params)?;
        let cells = &embedding.cells;
        let (elbo, keys) = (cells.floats("elbo")?, keys(cells)?);
        let judged: Vec<Judged> = elbo.iter().zip(&keys).map(|(&elbo, key)| judges.judge(elbo, key)).collect();
        let mut order: Vec<usize> = (0..judged.len()).collect();
        order.sort_by(|&a, &b| judged[a].deviations.total_cmp(&judged[b].deviations).then(a.cmp(&b)));
        let outlier = |row: usize| judged[row].deviations < -params.deviations;
        let mut table = Table::new().with("rank", (1..=order.len() as i64).collect::<Vec<_>>());
        for name in ["cell_id", "structure", "stage", "dataset"] {
            table = table.with(
                name,
                order
                    .iter()
                    .map(|&row| Ok(cells.texts(name)?[row].clone()))
                    .collect::<Result<Vec<_>, ArtifactError>>()?,
            );
        }
        table = table
            .with("elbo", order.iter().map(|&row| elbo[row]).collect::<Vec<_>>())
            .with("median_elbo", order.iter().map(|&row| judged[row].median).collect::<Vec<_>>())
            .with("deviations", order.iter().map(|&row| judged[row].deviations).collect::<Vec<_>>())
            .with("judged_with", order.iter().map(|&row| judged[row].group.clone()).collect::<Vec<_>>())
            .with("outlier", order.iter().map(|&row| outlier(row)).collect::<Vec<_>>());
        let count = order.iter().filter(|&&row| outlier(row)).count();
        let mut verdict = format!("{count} of {} cells are outliers", order.len());
        let outside = known.is_some().then(|| judged.iter().filter(|judged| judged.outside).count());
        if let Some(outside) = outside {
            let share = outside as f64 / judged.len().max(1) as f64;
            table = table.with("outside", order.iter().map(|&row| judged[row].outside).collect::<Vec<_>>());
            let words = if share > STRANGE {
                "these cells are not such as the model knows"
            } else {
                "these cells are such as the model knows"
            };
            verdict = format!(
                "{verdict}; the ELBO of {outside} ({:.0} %) lies below the {:.0} % quantile of the known cells: {words}",
                share * 100.0,
                OUTSIDE * 100.0
            );
        }
        context.note(&verdict);
        let mut images = Vec::new();
        if let Some(artifact) = inputs.optional("cells") {
            let set = Cells::open(artifact, blobs)?;
            let ids = cells.texts("cell_id")?;
            for &row in order.iter().take(params.shown) {
                context.check()?;
                if let Some(at) = set.ids().iter().position(|id| *id == ids[row]) {
                    let caption = format!("{:+.1} σ\n{}", judged[row].deviations, ids[row]);
                    images.push(Shown { image: set.image(at)?, description: set.description.clone(), caption });
                }
            }
        }
        let known = known.map(|known| known.cells.floats("elbo")).transpose()?;
        let figures = FigureSet(figures(&table, known.as_deref(), &images, &verdict)?);
        let mut out = ArtifactWriter::new(ArtifactType::Tables, blobs);
        table.write(&mut out, "cells")?;
        Ok(Outputs::from([("results".to_owned(), out.finish()?), ("figures".to_owned(), figures.write(blobs)?)]))
    }
}

/// Structure and phase of each cell.
fn keys(cells: &Table) -> Result<Vec<[String; 2]>, ArtifactError> {
    let (structures, stages) = (cells.texts("structure")?, cells.texts("stage")?);
    let phase = |stage: &String| match stage.as_str() {
        "" | "interphase" => stage.clone(),
        _ => "mitosis".to_owned(),
    };
    Ok(structures.iter().zip(stages).map(|(structure, stage)| [structure.clone(), phase(stage)]).collect())
}

/// What the ELBO of a group of cells is like.
struct Spread {
    median: f64,
    deviation: f64,
    low: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        let values = sorted(values);
        let median = quantile(&values, 0.5);
        let distances = sorted(&values.iter().map(|value| (value - median).abs()).collect::<Vec<_>>());
        Self { median, deviation: ROBUST * quantile(&distances, 0.5), low: quantile(&values, OUTSIDE) }
    }
}

/// How a cell is judged.
struct Judged {
    median: f64,
    deviations: f64,
    outside: bool,
    group: String,
}

/// Spreads of structure and phase, of structures, and of all cells.
struct Judges {
    by_phase: BTreeMap<[String; 2], Spread>,
    by_structure: BTreeMap<String, Spread>,
    all: Spread,
}

impl Judges {
    fn new(cells: &Table, params: &Params) -> Result<Self, StageError> {
        let (elbo, keys) = (cells.floats("elbo")?, keys(cells)?);
        if elbo.len() < 3 {
            return Err(StageError::bad_input(format!("{} cells have no spread to judge by", elbo.len()))
                .with_help("embed more cells"));
        }
        let mut by_phase: BTreeMap<[String; 2], Vec<f64>> = BTreeMap::new();
        let mut by_structure: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for (&elbo, key) in elbo.iter().zip(&keys) {
            by_phase.entry(key.clone()).or_default().push(elbo);
            by_structure.entry(key[0].clone()).or_default().push(elbo);
        }
        let enough = |values: &Vec<f64>| values.len() >= params.least;
        Ok(Self {
            by_phase: by_phase.into_iter().filter(|(_, v)| enough(v)).map(|(k, v)| (k, Spread::of(&v))).collect(),
            by_structure: by_structure
                .into_iter()
                .filter(|(_, v)| enough(v))
                .map(|(k, v)| (k, Spread::of(&v)))
                .collect(),
            all: Spread::of(&elbo),
        })
    }

    fn judge(&self, elbo: f64, key: &[String; 2]) -> Judged {
        let words = || key.iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join(", ");
        let (spread, group) = match (self.by_phase.get(key), self.by_structure.get(&key[0])) {
            (Some(spread), _) => (spread, words()),
            (None, Some(spread)) => (spread, key[0].clone()),
            (None, None) => (&self.all, String::new()),
        };
        let deviations = if spread.deviation > 0.0 { (elbo - spread.median) / spread.deviation } else { 0.0 };
        let group = if group.is_empty() { "all cells".to_owned() } else { group };
        Judged { median: spread.median, deviations, outside: elbo < spread.low, group }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{MemoryHost, noisy_cells, params};
    use super::*;
    use crate::{
        artifact::{Artifact, EmbeddingDescription},
        nn::Rng,
    };

    /// Nucleoli are harder than the Golgi, and mitotic cells harder than others; the first cell is odd for its kind.
    fn embedding(host: &MemoryHost, shift: f64) -> Artifact {
        let mut rng = Rng::new(3, "elbo", 0);
        let count = 90;
        let structure = |cell: usize| if cell % 2 == 0 { "golgi" } else { "nucleoli" };
        let stage = |cell: usize| if cell % 3 == 0 { "prophase" } else { "interphase" };
        let elbo: Vec<f64> = (0..count)
            .map(|cell| {
                let kind = if cell % 2 == 0 { -50.0 } else { -200.0 } - if cell % 3 == 0 { 40.0 } else { 0.0 };
                kind + 3.0 * rng.normal() + shift - if cell == 4 { 30.0 } else { 0.0 }
            })
            .collect();
        let texts = |f: &dyn Fn(usize) -> String| (0..count).map(f).collect::<Vec<_>>();
        let cells = Table::new()
            .with("cell_id", texts(&|cell| format!("c{cell}")))
            .with("structure", texts(&|cell| structure(cell).to_owned()))
            .with("stage", texts(&|cell| stage(cell).to_owned()))
            .with("dataset", texts(&|_| "d".to_owned()))
            .with("elbo", elbo)
            .with("mu_0", vec![0.0; count])
            .with("logvar_0", vec![0.0; count]);
        let description = EmbeddingDescription {
            model: "target".to_owned(),
            dimensions: 2,
            size: [1, 16, 16],
            image_channels: vec!["structure".to_owned()],
            latent: 1,
            beta: None,
            samples: 1,
        };
        Embedding::new(description, cells).unwrap().write(&host.blobs).unwrap()
    }

    #[test]
    fn the_odd_cell_comes_first_though_others_have_a_lower_elbo() {
        let host = MemoryHost::default();
        let embedding = embedding(&host, 0.0);
        let cells = noisy_cells(&host, &["c4", "c5"], &["golgi", "nucleoli"]);
        let ports = [("embedding", &embedding), ("cells", &cells)];
        let outputs = host.run::<Outliers>(&params::<Outliers>(json!({})), &ports).unwrap();
        let table = Table::read(&outputs["results"], &host.blobs, "cells").unwrap();
        assert_eq!(table.texts("cell_id").unwrap()[0], "c4");
        assert_eq!(table.texts("judged_with").unwrap()[0], "golgi, interphase");
        assert!(table.floats("deviations").unwrap()[0] < -7.0);
        assert_eq!(table.flags("outlier").unwrap().iter().filter(|&&outlier| outlier).count(), 1);
        assert_eq!(FigureSet::read(&outputs["figures"], &host.blobs).unwrap().0.len(), 2);
    }

    #[test]
    fn strange_cells_are_called_so_and_known_ones_are_not() {
        let host = MemoryHost::default();
        let (known, same, strange) = (embedding(&host, 0.0), embedding(&host, 0.0), embedding(&host, -20.0));
        let verdict = |cells: &Artifact| {
            host.run::<Outliers>(&params::<Outliers>(json!({})), &[("embedding", cells), ("known", &known)]).unwrap();
            host.notes().pop().unwrap()
        };
        assert!(verdict(&same).ends_with("such as the model knows") && !verdict(&same).contains("not such"));
        assert!(verdict(&strange).contains("not such as the model knows"), "{}", verdict(&strange));
    }
}
