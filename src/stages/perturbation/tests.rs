//! Shifts that were put in are found, and chance alone is not taken for one.

use serde_json::json;

use super::{shift::Population, *};
use crate::{
    artifact::EmbeddingDescription,
    nn::Rng,
    stages::testing::{MemoryHost, noisy_cells, params},
};

/// How cells are spread over wells, and what a well and the drug do to them.
#[derive(Clone, Copy)]
struct Design {
    plates: usize,
    wells_of_each: usize,
    cells_of_well: usize,
    well_effect: f64,
    drug_effect: f64,
    /// Whether the table says which well a cell was in.
    told: bool,
}

const DESIGN: Design =
    Design { plates: 2, wells_of_each: 3, cells_of_well: 10, well_effect: 0.0, drug_effect: 0.0, told: true };

fn description(model: &str) -> EmbeddingDescription {
    EmbeddingDescription {
        model: model.to_owned(),
        dimensions: 2,
        size: [1, 16, 16],
        image_channels: vec!["structure".to_owned()],
        latent: 3,
        beta: None,
        samples: 1,
    }
}

/// Dimensions 0 and 1 vary from cell to cell and from well to well, the drug moves dimension 0; dimension 2 is not used.
fn embedding(design: Design, seed: u64) -> Embedding {
    let mut rng = Rng::new(seed, "cells", 0);
    let (mut wells, mut plates, mut drugs) = (Vec::new(), Vec::new(), Vec::new());
    let mut mu = vec![Vec::new(); 3];
    for plate in 0..design.plates {
        let on_plate = [rng.normal() * design.well_effect, rng.normal() * design.well_effect];
        for well in 0..2 * design.wells_of_each {
            let treated = well % 2 == 0;
            let in_well = on_plate.map(|effect| effect + rng.normal() * design.well_effect);
            for _ in 0..design.cells_of_well {
                wells.push(format!("w{well}"));
                plates.push(format!("p{plate}"));
                drugs.push(if treated { "paclitaxel".to_owned() } else { String::new() });
                mu[0].push(in_well[0] + rng.normal() + if treated { design.drug_effect } else { 0.0 });
                mu[1].push(in_well[1] + rng.normal());
                mu[2].push(0.001 * rng.normal());
            }
        }
    }
    let count = wells.len();
    let same = |text: &str| vec![text.to_owned(); count];
    let mut table = Table::new()
        .with("cell_id", (0..count).map(|cell| format!("c{cell}")).collect::<Vec<_>>())
        .with("structure", same("microtubules"))
        .with("control", vec![false; count])
        .with("drug", drugs);
    if design.told {
        table = table.with("well", wells).with("plate", plates);
    }
    for (dimension, mu) in mu.into_iter().enumerate() {
        let logvar = if dimension == 2 { 0.0 } else { -2.0 };
        table = table.with(format!("mu_{dimension}"), mu).with(format!("logvar_{dimension}"), vec![logvar; count]);
    }
    Embedding::new(description("target"), table).unwrap()
}

fn tested(design: Design, seed: u64) -> Tested {
    let settings = params::<Perturbation>(json!({ "seed": seed, "permutations": 400 }));
    let population = Population::new(&[embedding(design, seed)], &settings).unwrap();
    let mut comparisons = population.comparisons(&settings).unwrap();
    assert_eq!(comparisons.len(), 1);
    population.test(comparisons.remove(0), &settings)
}

/// Of 200 experiments without an effect, how many call one.
fn false_alarms(design: Design) -> usize {
    (0..200).filter(|&seed| tested(design, seed).p() < 0.05).count()
}

#[test]
fn two_hundred_experiments_without_an_effect_give_false_alarms_inside_their_binomial_interval() {
    // 99.9 % of binomial(200, 0.05) lies within 1 to 21. Exact p-values come in steps of 1/200 here.
    let wells = Design { well_effect: 0.5, ..DESIGN };
    let alarms = false_alarms(wells);
    assert!((1..=21).contains(&alarms), "{alarms}");
    let alarms = false_alarms(DESIGN);
    assert!((1..=21).contains(&alarms), "without well effects: {alarms}");
    // The same cells, their wells not told: what is independent then are cells, and wells are taken for drugs.
    let alarms = false_alarms(Design { told: false, ..wells });
    assert!(alarms > 2 * 21, "{alarms}");
    let alarms = false_alarms(Design { told: false, ..DESIGN });
    assert!((1..=21).contains(&alarms), "cells that are independent: {alarms}");
}

#[test]
fn a_shift_that_was_put_in_is_found_along_its_dimension() {
    let found = tested(Design { well_effect: 0.2, drug_effect: 2.0, ..DESIGN }, 7);
    let test = found.test.as_ref().unwrap();
    assert!(test.exact && test.arrangements == 400.0, "3 of 6 wells on each of two plates");
    assert!((test.p - 2.0 / 400.0).abs() < 1e-12, "{}", test.p);
    assert_eq!((found.units.kind, found.units.inside, found.units.points.len()), ("well", "plate", 12));
    assert!(!found.dimensions.contains(&2), "{:?}", found.dimensions);
    let along_zero = found.dimensions.iter().position(|&dimension| dimension == 0).unwrap();
    assert!((found.shift[along_zero] - 2.0).abs() < 0.5, "{:?}", found.shift);
    assert!(found.effect > 3.0, "{}", found.effect);
}

#[test]
fn treated_and_vehicle_cells_of_one_well_are_compared_inside_it() {
    let settings = params::<Perturbation>(json!({ "seed": 1, "permutations": 300 }));
    let mut embedding = embedding(Design { well_effect: 3.0, ..DESIGN }, 3);
    let count = embedding.cells.rows();
    let drugs = (0..count).map(|cell| if cell % 2 == 0 { "nocodazole".to_owned() } else { String::new() });
    embedding.cells = embedding.cells.with("drug", drugs.collect::<Vec<_>>());
    let population = Population::new(&[embedding], &settings).unwrap();
    let found = population.test(population.comparisons(&settings).unwrap().remove(0), &settings);
    assert_eq!((found.units.kind, found.units.inside), ("cell", "well"));
    assert!(found.p() > 0.01, "{}", found.p());
}

#[test]
fn tables_figures_and_what_is_missing() {
    let host = MemoryHost::default();
    let few = Design { plates: 1, wells_of_each: 2, cells_of_well: 3, drug_effect: 5.0, ..DESIGN };
    let artifact = embedding(few, 1).write(&host.blobs).unwrap();
    let ids: Vec<String> = (0..12).map(|cell| format!("c{cell}")).collect();
    let cells = noisy_cells(&host, &ids.iter().map(String::as_str).collect::<Vec<_>>(), &["microtubules"; 12]);
    let ports = [("embeddings", &artifact), ("cells", &cells)];
    let outputs = host.run::<Perturbation>(&params::<Perturbation>(json!({ "seed": 1 })), &ports).unwrap();
    let tests = Table::read(&outputs["results"], &host.blobs, "tests").unwrap();
    assert_eq!(tests.texts("replicate").unwrap(), ["well"]);
    assert_eq!(tests.floats("replicates_treated").unwrap(), [2.0]);
    assert_eq!(tests.flags("shifted").unwrap(), [false], "four wells cannot show it");
    assert!(host.notes().iter().any(|note| note.contains("more wells are needed")), "{:?}", host.notes());
    let along = Table::read(&outputs["results"], &host.blobs, "cells").unwrap();
    let (treated, position) = (along.flags("treated").unwrap(), along.floats("along_shift").unwrap());
    let mean = |wanted: bool| {
        let some: Vec<f64> = treated.iter().zip(&position).filter(|(t, _)| **t == wanted).map(|(_, p)| *p).collect();
        some.iter().sum::<f64>() / some.len() as f64
    };
    assert!(mean(false).abs() < 1e-9 && (mean(true) - 1.0).abs() < 1e-9);
    let figures = FigureSet::read(&outputs["figures"], &host.blobs).unwrap().0;
    assert_eq!(figures.iter().map(|figure| figure.name.as_str()).collect::<Vec<_>>(), ["shifts", "cells-along-shifts"]);

    let untold = embedding(Design { told: false, ..few }, 1).write(&host.blobs).unwrap();
    host.run::<Perturbation>(&params::<Perturbation>(json!({ "seed": 1 })), &[("embeddings", &untold)]).unwrap();
    assert!(host.notes().iter().any(|note| note.contains("per cell")), "{:?}", host.notes());
    let error = |json| {
        host.run::<Perturbation>(&params::<Perturbation>(json), &[("embeddings", &untold)]).unwrap_err().to_string()
    };
    assert!(error(json!({ "seed": 1, "treatment": "dose" })).contains("`dose`"));
    assert!(error(json!({ "seed": 1, "vehicle": "DMSO" })).contains("both treated and vehicle"));
}

#[test]
fn a_latent_space_that_is_not_used_is_not_tested() {
    let mut embedding = embedding(DESIGN, 1);
    for dimension in 0..2 {
        let still = embedding.cells.floats("mu_2").unwrap();
        let rows = still.len();
        embedding.cells =
            embedding.cells.with(format!("mu_{dimension}"), still).with(format!("logvar_{dimension}"), vec![0.0; rows]);
    }
    let settings = params::<Perturbation>(json!({ "seed": 1 }));
    let population = Population::new(&[embedding], &settings).unwrap();
    let found = population.test(population.comparisons(&settings).unwrap().remove(0), &settings);
    assert!(found.test.unwrap_err().contains("no dimension"));
}
