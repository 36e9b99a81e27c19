//! `perturbation`: whether a treatment moves cells in a model's latent space (paper, section 2.6 and Fig 6).

mod params;
mod shift;
#[cfg(test)]
mod tests;

use self::{
    params::Params,
    shift::{Population, Tested, length},
};
use crate::{
    artifact::{ArtifactError, ArtifactType, ArtifactWriter, CellImage, Cells, Embedding, FigureSet, Table},
    figures::perturbation::{Along, Shift, figures},
    stage::{Arity, Checked, Context, Input, InputFacts, Inputs, Output, Outputs, Problem, StageError, StageKind},
    stats::{PermutationTest, bonferroni},
};

/// The stage kind.
pub(super) struct Perturbation;

impl StageKind for Perturbation {
    type Params = Params;

    const NAME: &'static str = "perturbation";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "tests whether treated cells have moved in latent space, wells and plates as replicates";

    fn inputs(_: Option<&Params>) -> Vec<Input> {
        vec![
            Input::many(
                "embeddings",
                ArtifactType::Tables,
                "treated and vehicle cells, embedded by one model, in one set or several",
            ),
            Input {
                arity: Arity::Any,
                ..Input::many("cells", ArtifactType::Cells, "the cells of each embedding, to show some along the shift")
            },
        ]
    }

    fn outputs(_: Option<&Params>) -> Vec<Output> {
        vec![
            Output::for_people(
                "results",
                ArtifactType::Tables,
                "a row for each structure and treatment (`tests`), a row a cell for each test (`cells`)",
            ),
            Output::for_people(
                "figures",
                ArtifactType::Figures,
                "shifts, what chance would give, cells along each shift",
            ),
        ]
    }

    fn check(params: &Params, _: &InputFacts) -> Checked {
        let mut problems = Vec::new();
        if params.permutations == 0 {
            problems.push(Problem::with("permutations", "`permutations` is 0: there is nothing to compare"));
        }
        if !(params.level > 0.0 && params.level < 1.0) {
            problems.push(Problem::with("level", "`level` lies between 0 and 1").help("give 0.05, say"));
        }
        if !(params.kl_deviation >= 0.0 && params.kl_deviation.is_finite()) {
            problems.push(Problem::with("kl-deviation", "a standard deviation is not below 0"));
        }
        Checked { problems, ..Checked::default() }
    }

    fn run(params: &Params, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        let blobs = context.blobs();
        let embeddings = inputs.many("embeddings").iter().map(|artifact| Embedding::read(artifact, blobs));
        let embeddings = embeddings.collect::<Result<Vec<_>, _>>()?;
        let population = Population::new(&embeddings, params)?;
        let comparisons = population.comparisons(params)?;
        let (total, mut shifts) = (comparisons.len() as u64, Vec::new());
        for (done, comparison) in comparisons.into_iter().enumerate() {
            context.check()?;
            context.progress(done as u64, total, "tests", comparison.title());
            shifts.push(population.test(comparison, params));
        }
        let corrected = bonferroni(&shifts.iter().map(|shift| shift.p()).collect::<Vec<_>>());
        for shift in &shifts {
            shift.notes(params, corrected.len()).iter().for_each(|note| context.note(note));
        }
        let tests = tests_table(&shifts, &corrected, params.level);
        let cells = cells_table(&population, &shifts);
        let shown = shifts
            .iter()
            .zip(&corrected)
            .map(|(shift, &corrected)| picture(shift, &population, corrected, inputs, params, context))
            .collect::<Result<Vec<_>, StageError>>()?;
        let figures = FigureSet(figures(&shown, &embeddings[0].description.model, &tests));
        let mut out = ArtifactWriter::new(ArtifactType::Tables, blobs);
        tests.write(&mut out, "tests")?;
        cells.write(&mut out, "cells")?;
        Ok(Outputs::from([("results".to_owned(), out.finish()?), ("figures".to_owned(), figures.write(blobs)?)]))
    }
}

/// A comparison with cells along its shift, to draw.
fn picture(
    tested: &Tested,
    population: &Population,
    corrected: f64,
    inputs: &Inputs,
    params: &Params,
    context: &Context,
) -> Result<Shift, StageError> {
    let along = tested.along(population);
    let mut order: Vec<usize> = (0..along.len()).filter(|&place| along[place].is_finite()).collect();
    order.sort_by(|&a, &b| along[a].total_cmp(&along[b]).then(a.cmp(&b)));
    let count = params.shown.min(order.len());
    let mut cells = Vec::new();
    for step in 0..count {
        let part = if count > 1 { step as f64 / (count - 1) as f64 } else { 0.5 };
        let place = order[(part * (order.len() - 1) as f64).round() as usize];
        let row = tested.comparison.rows[place];
        let Some(artifact) = inputs.many("cells").get(population.sets[row]) else { continue };
        let set = Cells::open(artifact, context.blobs())?;
        if let Some(image) = image(&set, &population.ids[row])? {
            let treated = tested.treated[place];
            cells.push(Along { position: along[place], treated, image, description: set.description });
        }
    }
    let point = |place: usize| -> [f64; 2] {
        let row = tested.comparison.rows[place];
        std::array::from_fn(|axis| tested.dimensions.get(axis).map_or(0.0, |&d| population.mu[d][row]))
    };
    Ok(Shift {
        title: tested.comparison.title(),
        treatment: tested.comparison.treatment.clone(),
        dimensions: tested.dimensions.iter().copied().take(2).collect(),
        points: (0..tested.treated.len()).map(point).collect(),
        treated: tested.treated.clone(),
        unit: tested.units.kind,
        observed: tested.test.as_ref().map_or(f64::NAN, |test| test.observed),
        null: tested.test.as_ref().map_or_else(|_| Vec::new(), |test| test.null.clone()),
        corrected,
        cells,
    })
}

fn image(set: &Cells, id: &str) -> Result<Option<CellImage>, ArtifactError> {
    set.ids().iter().position(|known| known == id).map(|row| set.image(row)).transpose()
}

/// A row for each comparison.
fn tests_table(shifts: &[Tested], corrected: &[f64], level: f64) -> Table {
    let texts = |f: &dyn Fn(&Tested) -> String| shifts.iter().map(f).collect::<Vec<_>>();
    let numbers = |f: &dyn Fn(&Tested) -> f64| shifts.iter().map(f).collect::<Vec<_>>();
    let counts = |f: &dyn Fn(&Tested) -> usize| shifts.iter().map(|shift| f(shift) as i64).collect::<Vec<_>>();
    let labelled = |labels: &[bool], wanted: bool| labels.iter().filter(|&&label| label == wanted).count();
    let of_test = |f: fn(&PermutationTest) -> f64| move |shift: &Tested| shift.test.as_ref().map_or(f64::NAN, f);
    Table::new()
        .with("structure", texts(&|shift| shift.comparison.structure.clone()))
        .with("treatment", texts(&|shift| shift.comparison.treatment.clone()))
        .with("cells_treated", counts(&|shift| labelled(&shift.treated, true)))
        .with("cells_vehicle", counts(&|shift| labelled(&shift.treated, false)))
        .with("replicate", texts(&|shift| shift.units.kind.to_owned()))
        .with("replicates_treated", counts(&|shift| labelled(&shift.units.treated, true)))
        .with("replicates_vehicle", counts(&|shift| labelled(&shift.units.treated, false)))
        .with("permuted_inside", texts(&|shift| shift.units.inside.to_owned()))
        .with("dimensions", counts(&|shift| shift.dimensions.len()))
        .with("distance", numbers(&|shift| length(&shift.shift)))
        .with("distance_by_chance", numbers(&of_test(|test| test.null.iter().sum::<f64>() / test.null.len() as f64)))
        .with("effect_size", numbers(&|shift| shift.effect))
        .with("arrangements", numbers(&of_test(|test| test.arrangements)))
        .with("exact", shifts.iter().map(|shift| shift.test.as_ref().is_ok_and(|test| test.exact)).collect::<Vec<_>>())
        .with("p", numbers(&Tested::p))
        .with("p_corrected", corrected.to_vec())
        .with("shifted", corrected.iter().map(|&p| p < level).collect::<Vec<_>>())
        .with("reason", texts(&|shift| shift.test.as_ref().err().cloned().unwrap_or_default()))
}

/// A row for each cell of each comparison.
fn cells_table(population: &Population, shifts: &[Tested]) -> Table {
    let rows: Vec<(&Tested, usize)> =
        shifts.iter().flat_map(|shift| (0..shift.treated.len()).map(move |place| (shift, place))).collect();
    let along: Vec<f64> = shifts.iter().flat_map(|shift| shift.along(population)).collect();
    let texts =
        |f: &dyn Fn(&Tested, usize) -> String| rows.iter().map(|&(shift, place)| f(shift, place)).collect::<Vec<_>>();
    Table::new()
        .with("structure", texts(&|shift, _| shift.comparison.structure.clone()))
        .with("treatment", texts(&|shift, _| shift.comparison.treatment.clone()))
        .with("cell_id", texts(&|shift, place| population.ids[shift.comparison.rows[place]].clone()))
        .with("treated", rows.iter().map(|(shift, place)| shift.treated[*place]).collect::<Vec<_>>())
        .with("along_shift", along)
}
