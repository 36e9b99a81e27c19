//! Cells with and without a treatment, and whether their centroids lie further apart than chance would have it.

use std::collections::BTreeMap;

use super::params::Params;
use crate::{
    artifact::{Column, Embedding, kl_divergence},
    nn::Rng,
    stage::StageError,
    stats::{PermutationTest, permutation_test, standard_deviation},
};

/// All embedded cells that are no controls.
pub(super) struct Population {
    /// Cell ids, and which embedding each stands in.
    pub(super) ids: Vec<String>,
    pub(super) sets: Vec<usize>,
    structures: Vec<String>,
    treatments: Vec<String>,
    wells: Option<Vec<String>>,
    plates: Option<Vec<String>>,
    /// μ of each dimension, and its KL divergence, a value a cell.
    pub(super) mu: Vec<Vec<f64>>,
    kl: Vec<Vec<f64>>,
    of_structures: bool,
}

/// A treatment against the vehicle, in one structure; or in all cells for a reference model.
pub(super) struct Comparison {
    pub(super) structure: String,
    pub(super) treatment: String,
    /// Rows of the population.
    pub(super) rows: Vec<usize>,
}

impl Comparison {
    pub(super) fn title(&self) -> String {
        [self.structure.as_str(), &self.treatment]
            .iter()
            .filter(|text| !text.is_empty())
            .copied()
            .collect::<Vec<_>>()
            .join(", ")
    }
}

impl Population {
    pub(super) fn new(embeddings: &[Embedding], params: &Params) -> Result<Self, StageError> {
        let first = &embeddings[0].description;
        if embeddings.iter().any(|other| other.description != *first) {
            return Err(StageError::bad_input("the embeddings come from models of different kinds or sizes")
                .with_help("embed treated and vehicle cells with one model"));
        }
        let latent = first.latent;
        let mut population = Self {
            ids: Vec::new(),
            sets: Vec::new(),
            structures: Vec::new(),
            treatments: Vec::new(),
            wells: None,
            plates: None,
            mu: vec![Vec::new(); latent],
            kl: vec![Vec::new(); latent],
            of_structures: first.model == "target",
        };
        let (mut wells, mut plates) = (Vec::new(), Vec::new());
        for (set, embedding) in embeddings.iter().enumerate() {
            let controls = embedding.cells.flags("control")?;
            let rows: Vec<usize> = (0..controls.len()).filter(|&row| !controls[row]).collect();
            let cells = embedding.cells.select(&rows);
            population.ids.extend_from_slice(cells.texts("cell_id")?);
            population.sets.extend(rows.iter().map(|_| set));
            population.structures.extend_from_slice(cells.texts("structure")?);
            population.treatments.extend_from_slice(cells.texts(&params.treatment).map_err(|error| {
                StageError::bad_input(error.to_string()).with_help(
                    "name the column of treatments in `treatment`; `embed` hands on the columns of its cells",
                )
            })?);
            let optional = |name: &str| match cells.column(name) {
                Some(Column::Text(values)) => values.clone(),
                Some(Column::Integer(values)) => values.iter().map(i64::to_string).collect(),
                _ => vec![String::new(); rows.len()],
            };
            wells.extend(optional(&params.well));
            plates.extend(optional(&params.plate));
            for dimension in 0..latent {
                let (mu, logvar) =
                    (cells.floats(&format!("mu_{dimension}"))?, cells.floats(&format!("logvar_{dimension}"))?);
                population.kl[dimension].extend(mu.iter().zip(logvar).map(|(&mu, logvar)| kl_divergence(mu, logvar)));
                population.mu[dimension].extend(mu);
            }
        }
        let complete = |names: Vec<String>| names.iter().all(|name| !name.is_empty()).then_some(names);
        population.plates = complete(plates);
        // A well of one name on two plates is two wells.
        population.wells = complete(wells).map(|wells| match &population.plates {
            None => wells,
            Some(plates) => plates.iter().zip(wells).map(|(plate, well)| format!("{plate}\u{1f}{well}")).collect(),
        });
        Ok(population)
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn comparisons(&self, params: &Params) -> Result<Vec<Comparison>, StageError> {
        let mut names: Vec<&String> = self.structures.iter().collect();
        names.sort();
        names.dedup();
        let groups: Vec<(String, Vec<usize>)> = if self.of_structures {
            let of = |name: &String| (0..self.len()).filter(|&row| self.structures[row] == *name).collect();
            names.into_iter().map(|name| (name.clone(), of(name))).collect()
        } else {
            vec![(String::new(), (0..self.len()).collect())]
        };
        let mut comparisons = Vec::new();
        for (structure, rows) in groups {
            let mut treatments: Vec<&String> = rows.iter().map(|&row| &self.treatments[row]).collect();
            treatments.sort();
            treatments.dedup();
            if !treatments.contains(&&params.vehicle) {
                continue;
            }
            for treatment in treatments.into_iter().filter(|treatment| **treatment != params.vehicle) {
                let belongs = |&row: &usize| [&params.vehicle, treatment].contains(&&self.treatments[row]);
                comparisons.push(Comparison {
                    structure: structure.clone(),
                    treatment: treatment.clone(),
                    rows: rows.iter().copied().filter(belongs).collect(),
                });
            }
        }
        if comparisons.is_empty() {
            let vehicle =
                if params.vehicle.is_empty() { "an empty text".to_owned() } else { format!("`{}`", params.vehicle) };
            return Err(StageError::bad_input("no structure has both treated and vehicle cells").with_help(format!(
                "the column `{}` holds {vehicle} for vehicle cells; name both in `treatment` and `vehicle`",
                params.treatment
            )));
        }
        Ok(comparisons)
    }

    /// Dimensions whose KL varies over the vehicle cells, most first.
    fn dimensions(&self, vehicle: &[usize], params: &Params) -> Vec<usize> {
        let deviation = |kl: &Vec<f64>| standard_deviation(&vehicle.iter().map(|&row| kl[row]).collect::<Vec<_>>());
        let mut found: Vec<(f64, usize)> = self.kl.iter().map(deviation).enumerate().map(|(d, v)| (v, d)).collect();
        found.retain(|(deviation, _)| *deviation > params.kl_deviation);
        found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        found.into_iter().map(|(_, dimension)| dimension).collect()
    }

    pub(super) fn test(&self, comparison: Comparison, params: &Params) -> Tested {
        let treated: Vec<bool> = comparison.rows.iter().map(|&row| self.treatments[row] != params.vehicle).collect();
        let vehicle: Vec<usize> =
            comparison.rows.iter().zip(&treated).filter(|(_, treated)| !**treated).map(|(&row, _)| row).collect();
        let dimensions = self.dimensions(&vehicle, params);
        let units = Units::new(self, &comparison.rows, &treated, &dimensions);
        let test = if dimensions.is_empty() {
            Err("no dimension's KL divergence varies over the vehicle cells: the model says nothing of them".to_owned())
        } else if units.treated.iter().filter(|&&treated| treated).count() < 2
            || units.treated.iter().filter(|&&treated| !treated).count() < 2
        {
            Err(format!("fewer than two {}s with or without the treatment", units.kind))
        } else {
            let purpose = format!("perturbation {}", comparison.title());
            let mut rng = Rng::new(params.seed, &purpose, 0);
            let distance = |labels: &[bool]| length(&units.shift(labels));
            Ok(permutation_test(&units.treated, &units.strata, params.permutations, distance, |bound| rng.below(bound)))
        };
        let shift = units.shift(&units.treated);
        Tested { effect: length(&shift) / units.spread(), shift, comparison, treated, dimensions, units, test }
    }
}

pub(super) fn length(vector: &[f64]) -> f64 {
    vector.iter().map(|part| part * part).sum::<f64>().sqrt()
}

/// What labels are permuted among: wells, each at the centroid of its cells, or single cells.
pub(super) struct Units {
    /// `well` or `cell`.
    pub(super) kind: &'static str,
    /// Inside what labels are permuted: `plate`, `well`, or empty.
    pub(super) inside: &'static str,
    pub(super) points: Vec<Vec<f64>>,
    pub(super) treated: Vec<bool>,
    strata: Vec<usize>,
}

impl Units {
    fn new(population: &Population, rows: &[usize], treated: &[bool], dimensions: &[usize]) -> Self {
        let at = |row: usize| dimensions.iter().map(|&dimension| population.mu[dimension][row]).collect::<Vec<f64>>();
        let single = |inside, strata: Vec<usize>| Self {
            kind: "cell",
            inside,
            points: rows.iter().map(|&row| at(row)).collect(),
            treated: treated.to_vec(),
            strata,
        };
        let Some(wells) = &population.wells else { return single("", vec![0; rows.len()]) };
        let mut members: BTreeMap<&String, Vec<usize>> = BTreeMap::new();
        for (place, &row) in rows.iter().enumerate() {
            members.entry(&wells[row]).or_default().push(place);
        }
        let pure = members.values().all(|places| places.iter().all(|&place| treated[place] == treated[places[0]]));
        if !pure {
            // Treated and vehicle cells side by side in a well: the well's own effect is the same for both.
            let number = |row: &usize| members.keys().position(|well| **well == wells[*row]).unwrap_or(0);
            return single("well", rows.iter().map(number).collect());
        }
        let centroid = |places: &Vec<usize>| {
            let mut sum = vec![0.0; dimensions.len()];
            for &place in places {
                sum.iter_mut().zip(at(rows[place])).for_each(|(sum, part)| *sum += part);
            }
            sum.into_iter().map(|sum| sum / places.len() as f64).collect()
        };
        let treated: Vec<bool> = members.values().map(|places| treated[places[0]]).collect();
        let mut units = Self {
            kind: "well",
            inside: "",
            points: members.values().map(centroid).collect(),
            strata: vec![0; treated.len()],
            treated,
        };
        if let Some(plates) = &population.plates {
            let of: Vec<&String> = members.values().map(|places| &plates[rows[places[0]]]).collect();
            let both =
                |plate: &String, wanted: bool| of.iter().zip(&units.treated).any(|(p, t)| *p == plate && *t == wanted);
            let mut names = of.clone();
            names.sort();
            names.dedup();
            // A treatment that has plates to itself cannot be told from those plates.
            if names.iter().all(|plate| both(plate, true) && both(plate, false)) {
                units.strata =
                    of.iter().map(|plate| names.iter().position(|name| name == plate).unwrap_or(0)).collect();
                units.inside = "plate";
            }
        }
        units
    }

    /// From the centroid of the units without a label to that of those with one.
    fn shift(&self, labels: &[bool]) -> Vec<f64> {
        let dimensions = self.points.first().map_or(0, Vec::len);
        let (mut with, mut without) = (vec![0.0; dimensions], vec![0.0; dimensions]);
        let mut counts = [0.0; 2];
        for (point, &label) in self.points.iter().zip(labels) {
            counts[usize::from(label)] += 1.0;
            let sum = if label { &mut with } else { &mut without };
            sum.iter_mut().zip(point).for_each(|(sum, part)| *sum += part);
        }
        with.iter().zip(&without).map(|(with, without)| with / counts[1] - without / counts[0]).collect()
    }

    /// The root mean square distance of units from the centroid of their group, degrees of freedom counted.
    fn spread(&self) -> f64 {
        let dimensions = self.points.first().map_or(0, Vec::len);
        let mut squares = 0.0;
        for wanted in [true, false] {
            let group: Vec<&Vec<f64>> =
                self.points.iter().zip(&self.treated).filter(|(_, label)| **label == wanted).map(|(p, _)| p).collect();
            for dimension in 0..dimensions {
                let mean = group.iter().map(|point| point[dimension]).sum::<f64>() / group.len() as f64;
                squares += group.iter().map(|point| (point[dimension] - mean).powi(2)).sum::<f64>();
            }
        }
        (squares / (self.points.len() as f64 - 2.0)).sqrt()
    }
}

/// A comparison and what came of it.
pub(super) struct Tested {
    pub(super) comparison: Comparison,
    /// Which of the comparison's rows are treated.
    pub(super) treated: Vec<bool>,
    pub(super) dimensions: Vec<usize>,
    pub(super) units: Units,
    /// From the vehicle's centroid to the treatment's, in these dimensions.
    pub(super) shift: Vec<f64>,
    /// Its length over the spread of units about their centroids.
    pub(super) effect: f64,
    /// The test, or why there is none.
    pub(super) test: Result<PermutationTest, String>,
}

impl Tested {
    pub(super) fn p(&self) -> f64 {
        self.test.as_ref().map_or(f64::NAN, |test| test.p)
    }

    pub(super) fn notes(&self, params: &Params, tests: usize) -> Vec<String> {
        let title = self.comparison.title();
        let test = match &self.test {
            Err(reason) => return vec![format!("{title}: not tested: {reason}")],
            Ok(test) => test,
        };
        let mut notes = Vec::new();
        if self.units.kind == "cell" && self.units.inside.is_empty() {
            notes.push(format!(
                "{title}: the cells have no column `{}`, so the p-value is per cell; cells of one well are not independent, and \
                 such a p-value is too small",
                params.well
            ));
        }
        let least = 1.0 / test.arrangements * tests as f64;
        if least > params.level {
            notes.push(format!(
                "{title}: {} {}s can be dealt out in {} ways, so no corrected p-value lies below {least:.2}: more wells are needed",
                self.units.points.len(),
                self.units.kind,
                test.arrangements
            ));
        }
        notes
    }

    /// How far each cell of the comparison lies along the shift, in its length, 0 at the vehicle's centroid.
    pub(super) fn along(&self, population: &Population) -> Vec<f64> {
        let squared: f64 = self.shift.iter().map(|part| part * part).sum();
        let project = |row: usize| {
            let parts = self.dimensions.iter().zip(&self.shift);
            parts.map(|(&dimension, part)| population.mu[dimension][row] * part).sum::<f64>() / squared
        };
        let values: Vec<f64> = self.comparison.rows.iter().map(|&row| project(row)).collect();
        let vehicle: Vec<f64> =
            values.iter().zip(&self.treated).filter(|(_, treated)| !**treated).map(|(value, _)| *value).collect();
        let zero = vehicle.iter().sum::<f64>() / vehicle.len() as f64;
        values.into_iter().map(|value| value - zero).collect()
    }
}
