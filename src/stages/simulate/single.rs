//! Aligned single cells.

use serde::{Deserialize, Serialize};

use super::{
    Scene, SimulateParams,
    canvas::Frame,
    channels, figures,
    geometry::Point,
    mitosis::Stage,
    optics,
    specimen::{Dna, Specimen, Traits},
    structures,
};
use crate::{
    artifact::{ArtifactError, ArtifactType, ArtifactWriter, CellImage, Cells, CellsDescription, CellsWriter, Table},
    image::Volume,
    nn::Rng,
    stage::{Context, ItemContext, ItemFiles, ItemWork, Outputs, StageError, Work},
    store::Tree,
};

/// What a cell was made with, and what its masks measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Truth {
    /// Volume of the mask, µm³.
    pub(super) cell_volume_um3: f64,
    /// Volume of the nucleus's mask, µm³.
    pub(super) nucleus_volume_um3: f64,
    /// Highest over lowest voxel of the mask, µm.
    pub(super) cell_height_um: f64,
    pub(super) nucleus_height_um: f64,
    /// Area of the mask's projection along z, µm².
    pub(super) cell_area_um2: f64,
    /// Long over short axis of the outline.
    pub(super) elongation: f64,
    /// From one division (0) to the next (1).
    pub(super) cycle: f64,
    /// How far through the mitotic stage; 0 in interphase.
    pub(super) progress: f64,
    /// Centre of mass of the cell's mask from that of the nucleus, along the image's axes, µm: Z, Y, X.
    pub(super) offset_um: Point,
    /// Nucleoli in the nucleus.
    pub(super) nucleoli: usize,
    /// The angle of the spindle with the image's Y axis in degrees, 0 to 90; -1 without a spindle.
    pub(super) spindle_degrees: f64,
}

/// How often a cell that does not fit into its image is drawn anew.
const ATTEMPTS: usize = 12;
const IMAGE: &str = "image.ome.tif";
const TRUTH: &str = "truth.json";

/// Electrons that a brightness of 1 gives: membrane dye, DNA dye.
pub(super) const MEMBRANE_ELECTRONS: f64 = 210.0;
pub(super) const DNA_ELECTRONS: f64 = 170.0;

pub(super) fn run(params: &SimulateParams, context: &Context) -> Result<Outputs, StageError> {
    let stages: Vec<Stage> = (0..params.cells)
        .map(|number| Stage::draw(&mut Rng::new(params.seed, "stage", number as u64), params.mitotic_fraction))
        .collect();
    let item = |(number, stage): (usize, &Stage)| Work {
        name: format!("cell {number}"),
        item: Single::of(params, number, *stage),
        inputs: Vec::new(),
    };
    let items: Vec<Work<Single>> = stages.iter().enumerate().map(item).collect();
    let results = context.map(&SimulateCell(params.scene()), &[], &items)?;

    let mut writer = CellsWriter::new(describe(&params.scene(), params.structure(0)), context.blobs());
    for (number, result) in results.iter().enumerate() {
        writer.link(&cell_id(number), entry(result, IMAGE)?);
    }
    let truths = results
        .iter()
        .map(|result| {
            let bytes = context.blobs().get(&entry(result, TRUTH)?.digest)?;
            serde_json::from_slice(&bytes)
                .map_err(|error| ArtifactError::Malformed { kind: ArtifactType::Tables, reason: error.to_string() })
        })
        .collect::<Result<Vec<Truth>, ArtifactError>>()?;
    let (table, truth) = tables(params, &stages, &truths);
    let cells = writer.finish(&table)?;
    let mut out = ArtifactWriter::new(ArtifactType::Tables, context.blobs());
    truth.write(&mut out, "truth")?;
    let figures = figures::of_cells(&Cells::open(&cells, context.blobs())?, &truth)?.write(context.blobs())?;
    Ok(Outputs::from([
        ("cells".to_owned(), cells),
        ("truth".to_owned(), out.finish()?),
        ("figures".to_owned(), figures),
    ]))
}

/// Simulates one cell.
#[derive(Serialize, Deserialize)]
struct SimulateCell(Scene);

/// One cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Single {
    number: usize,
    stage: Stage,
    structure: String,
    /// Well and plate, from 1, where there are some, and how much they differ.
    well: Option<([usize; 2], f64)>,
}

impl Single {
    fn of(params: &SimulateParams, number: usize, stage: Stage) -> Self {
        let well = params.well(number).map(|well| (well, params.well_effect));
        Self { number, stage, structure: params.structure(number).to_owned(), well }
    }
}

impl ItemWork for SimulateCell {
    type Item = Single;
    type Shared = ();
    const UNIT: &'static str = "cells";

    fn open(&self, _: &ItemContext) -> Result<(), StageError> {
        Ok(())
    }

    fn run(&self, (): &(), cell: Single, _: &ItemContext) -> Result<ItemFiles, StageError> {
        let (image, truth) = simulate(&self.0, &cell)?;
        let description = describe(&self.0, &cell.structure);
        Ok(vec![
            (IMAGE.to_owned(), image.encode(&description)?),
            (TRUTH.to_owned(), serde_json::to_vec(&truth).expect("plain data")),
        ])
    }
}

/// What images with this structure are like.
fn describe(scene: &Scene, structure: &str) -> CellsDescription {
    CellsDescription {
        size: scene.size,
        dimensions: 3,
        voxel_um: scene.voxel_um,
        channels: channels(structure),
        normalised: false,
    }
}

/// A file of an item's result.
pub(super) fn entry<'a>(result: &'a Tree, name: &str) -> Result<&'a crate::store::TreeEntry, ArtifactError> {
    result.get(name).ok_or_else(|| ArtifactError::no_file(ArtifactType::Cells, name))
}

fn cell_id(number: usize) -> String {
    format!("cell-{number:05}")
}

/// The table of the set, with what `segment-align` would measure too; and the table of the truth.
fn tables(params: &SimulateParams, stages: &[Stage], truths: &[Truth]) -> (Table, Table) {
    let count = truths.len();
    let ids: Vec<String> = (0..count).map(cell_id).collect();
    let texts = |text: &str| vec![text.to_owned(); count];
    let numbers = |f: fn(&Truth) -> f64| truths.iter().map(f).collect::<Vec<f64>>();
    let structures: Vec<String> = (0..count).map(|number| params.structure(number).to_owned()).collect();
    let stages: Vec<String> = stages.iter().map(|stage| stage.name().to_owned()).collect();
    let measured = |table: Table| {
        table
            .with("drug", texts(params.drug.name()))
            .with("cell_volume_um3", numbers(|t| t.cell_volume_um3))
            .with("nucleus_volume_um3", numbers(|t| t.nucleus_volume_um3))
            .with("cell_height_um", numbers(|t| t.cell_height_um))
            .with("nucleus_height_um", numbers(|t| t.nucleus_height_um))
            .with("cell_area_um2", numbers(|t| t.cell_area_um2))
            .with("elongation", numbers(|t| t.elongation))
    };
    let table = Table::new()
        .with("cell_id", ids.clone())
        .with("source_id", ids.clone())
        .with("dataset", texts(&params.dataset))
        .with("field", texts(""))
        .with("structure", structures.clone())
        .with("control", vec![false; count])
        .with("stage", stages.clone());
    let table = match params.well(0) {
        None => table,
        Some(_) => {
            let [well, plate] = [0, 1].map(|at| (0..count).filter_map(move |number| Some(params.well(number)?[at])));
            let drug = if params.drug.name().is_empty() { "vehicle" } else { params.drug.name() };
            table
                .with("well", well.map(|well| format!("{drug}-{well}")).collect::<Vec<_>>())
                .with("plate", plate.map(|plate| format!("plate-{plate}")).collect::<Vec<_>>())
        }
    };
    let truth = Table::new().with("cell_id", ids).with("structure", structures).with("stage", stages);
    let truth = measured(truth)
        .with("cycle", numbers(|t| t.cycle))
        .with("progress", numbers(|t| t.progress))
        .with("offset_z_um", numbers(|t| t.offset_um[0]))
        .with("offset_y_um", numbers(|t| t.offset_um[1]))
        .with("offset_x_um", numbers(|t| t.offset_um[2]))
        .with("nucleoli", truths.iter().map(|t| t.nucleoli as i64).collect::<Vec<i64>>())
        .with("spindle_degrees", numbers(|t| if t.spindle_degrees < 0.0 { f64::NAN } else { t.spindle_degrees }));
    (measured(table), truth)
}

/// A cell's image and its truth.
fn simulate(scene: &Scene, cell: &Single) -> Result<(CellImage, Truth), StageError> {
    let stream = |purpose: &str| Rng::new(scene.seed, purpose, cell.number as u64);
    let mut rng = stream("cell shape");
    let effect = well_effect(scene, cell);
    let (specimen, frame) = (0..ATTEMPTS)
        .find_map(|_| {
            let mut traits = Traits::draw(&mut rng, cell.stage, &scene.population);
            traits.volume *= effect[0];
            traits.height *= effect[1];
            let specimen = Specimen::draw(&mut rng, traits);
            let frame = Frame::aligned(&specimen, scene.size, scene.voxel_um[0]);
            fits(&specimen, &frame).then_some((specimen, frame))
        })
        .ok_or_else(|| {
            StageError::bad_input("it does not fit into its image").with_help("enlarge `size` or `voxel-size`")
        })?;
    let anatomy = specimen.anatomy(&frame);

    let mut light = stream("light");
    let mut dye = |spread: f64| effect[2] * libm::exp(spread * light.normal());
    let (membrane_dye, dna_dye, expression) = (dye(0.18), dye(0.18), dye(0.22));
    let membrane = structures::paint_membrane(&specimen, &frame, &anatomy, &mut stream("membrane"));
    let dna = specimen.chromatin(&frame, &anatomy).into_iter().map(|density| density as f32).collect();
    let mut channels = vec![(membrane, MEMBRANE_ELECTRONS * membrane_dye), (dna, DNA_ELECTRONS * dna_dye)];
    if !cell.structure.is_empty() {
        let (data, electrons) =
            structures::paint(&cell.structure, &specimen, &frame, &anatomy, scene.drug, &mut stream("structure"));
        channels.push((data, electrons * expression));
    }
    let mut camera = stream("camera");
    let channels = channels
        .into_iter()
        .map(|(mut data, electrons)| {
            optics::blur(&mut data, frame.size, frame.voxel_um);
            optics::expose(&mut data, electrons * scene.brightness, &mut camera);
            Volume::new(frame.size, data)
        })
        .collect();

    let cell = anatomy.inside.iter().map(|&inside| u8::from(inside > 0.0)).collect();
    let nucleus = anatomy
        .inside
        .iter()
        .zip(&anatomy.nuclear)
        .map(|(&inside, &nuclear)| u8::from(specimen.is_nucleus(f64::from(inside), f64::from(nuclear))))
        .collect();
    let image = CellImage { channels, cell: Volume::new(frame.size, cell), nucleus: Volume::new(frame.size, nucleus) };
    let truth = truth(&specimen, &frame, &image);
    Ok((image, truth))
}

/// By what the volume, the height and the light of a cell's well and plate differ from those of others.
fn well_effect(scene: &Scene, cell: &Single) -> [f64; 3] {
    let Some(([well, plate], effect)) = cell.well else { return [1.0; 3] };
    // Other sets have wells of their own, but the plates are the same.
    let mut of_well = Rng::new(scene.seed, &format!("well {}", scene.drug.name()), well as u64);
    let mut of_plate = Rng::new(0, "plate", plate as u64);
    std::array::from_fn(|_| libm::exp(effect * (of_well.normal() + of_plate.normal()).clamp(-2.5, 2.5)))
}

/// Whether a cell lies in a grid as a whole.
fn fits(specimen: &Specimen, frame: &Frame) -> bool {
    let coarse = specimen.coarse();
    let inside = coarse.map(|point| (specimen.place(point).inside > -0.2).then_some(point));
    inside.into_iter().flatten().all(|point| {
        let position = frame.position(point);
        (0..3).all(|axis| position[axis] > -0.5 && position[axis] < frame.size[axis] as f64 - 0.5)
    })
}

/// What the masks of an image measure.
fn truth(specimen: &Specimen, frame: &Frame, image: &CellImage) -> Truth {
    let cell = Extent::of(&image.cell, frame);
    let nucleus = Extent::of(&image.nucleus, frame);
    let spindle_degrees = match &specimen.dna {
        Dna::Nucleus(_) => -1.0,
        Dna::Chromosomes(chromosomes) => {
            let (from, to) = (frame.position(chromosomes.poles[0]), frame.position(chromosomes.poles[1]));
            libm::atan2((to[2] - from[2]).abs(), (to[1] - from[1]).abs()).to_degrees()
        }
    };
    Truth {
        cell_volume_um3: cell.volume,
        nucleus_volume_um3: nucleus.volume,
        cell_height_um: cell.height,
        nucleus_height_um: nucleus.height,
        cell_area_um2: cell.area,
        elongation: cell.elongation,
        cycle: specimen.traits.cycle,
        progress: if specimen.traits.stage == Stage::Interphase { 0.0 } else { specimen.traits.progress },
        offset_um: std::array::from_fn(|axis| cell.centre[axis] - nucleus.centre[axis]),
        nucleoli: match &specimen.dna {
            Dna::Nucleus(nucleus) => nucleus.nucleoli.len(),
            Dna::Chromosomes(_) => 0,
        },
        spindle_degrees,
    }
}

/// The measures of a mask in µm.
struct Extent {
    volume: f64,
    height: f64,
    area: f64,
    elongation: f64,
    centre: Point,
}

impl Extent {
    fn of(mask: &Volume<u8>, frame: &Frame) -> Self {
        let [depth, height, width] = mask.size;
        let mut footprint = vec![0_u32; height * width];
        let (mut count, mut sum, mut planes) = (0_u64, [0.0; 3], 0_u64);
        for z in 0..depth {
            let mut any = false;
            for (index, seen) in footprint.iter_mut().enumerate() {
                if mask.data[z * height * width + index] != 0 {
                    any = true;
                    *seen += 1;
                    count += 1;
                    sum[0] += z as f64;
                    sum[1] += (index / width) as f64;
                    sum[2] += (index % width) as f64;
                }
            }
            planes += u64::from(any);
        }
        let mean = sum.map(|s| s / (count as f64).max(1.0));
        let (mut yy, mut yx, mut xx) = (0.0, 0.0, 0.0);
        for (index, &weight) in footprint.iter().enumerate() {
            let (y, x) = ((index / width) as f64 - mean[1], (index % width) as f64 - mean[2]);
            let weight = f64::from(weight);
            yy += weight * y * y;
            yx += weight * y * x;
            xx += weight * x * x;
        }
        let root = ((yy - xx).powi(2) + 4.0 * yx * yx).sqrt();
        Self {
            volume: count as f64 * frame.voxel_volume(),
            height: planes as f64 * frame.voxel_um[0],
            area: footprint.iter().filter(|&&seen| seen > 0).count() as f64 * frame.voxel_um[1] * frame.voxel_um[2],
            elongation: ((yy + xx + root) / (yy + xx - root).max(1e-9)).sqrt(),
            centre: std::array::from_fn(|axis| mean[axis] * frame.voxel_um[axis]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::super::Simulate;
    use super::*;
    use crate::{
        stages::testing::{MemoryHost, params},
        stats::{pearson, quantile, sorted},
    };

    fn small(extra: serde_json::Value) -> SimulateParams {
        let mut all = json!({"cells": 4, "size": [12, 26, 16], "voxel-size": 1.7, "seed": 7});
        all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        params::<Simulate>(all)
    }

    fn simulated(params: &SimulateParams, number: usize, stage: Stage) -> (CellImage, Truth) {
        simulate(&params.scene(), &Single::of(params, number, stage)).unwrap()
    }

    #[test]
    fn a_cell_is_the_same_whatever_the_number_of_cells_and_threads() {
        let host = MemoryHost::default();
        let few = host.run::<Simulate>(&small(json!({})), &[]).unwrap();
        let kept = host.items();
        let more = host.run::<Simulate>(&small(json!({"cells": 6})), &[]).unwrap();
        assert_eq!(host.items(), kept + 2);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let fresh = MemoryHost::default();
        let alone = pool.install(|| fresh.run::<Simulate>(&small(json!({})), &[]).unwrap());
        for name in (0..4).map(|number| format!("images/{}.ome.tif", cell_id(number))) {
            assert_eq!(few["cells"].tree.get(&name), more["cells"].tree.get(&name));
        }
        for (port, artifact) in &few {
            assert_eq!(artifact.digest(), alone[port].digest(), "{port}");
        }
        let other = host.run::<Simulate>(&small(json!({"seed": 8})), &[]).unwrap();
        assert_ne!(few["cells"].digest(), other["cells"].digest());
    }

    #[test]
    fn every_structure_and_stage_can_be_painted() {
        let stages = Stage::ALL;
        for (number, name) in structures::names().enumerate() {
            let params = small(json!({"structures": [name]}));
            for stage in [Stage::Interphase, stages[1 + number % 4]] {
                let (image, truth) = simulated(&params, number, stage);
                assert!(image.channels.iter().all(|c| c.data.iter().all(|v| (0.0..=65535.0).contains(v))));
                let inside = image.cell.data.iter().zip(&image.channels[2].data).filter(|(m, _)| **m != 0);
                let outside = image.cell.data.iter().zip(&image.channels[2].data).filter(|(m, _)| **m == 0);
                let brightest = |v: f32, (_, b): (&u8, &f32)| v.max(*b);
                let (inside, outside) = (inside.fold(0.0, brightest), outside.fold(0.0, brightest));
                // What neighbours show of their own junctions may be brighter than a cell's.
                assert!(inside > 125.0 && inside * 3.0 > outside, "{name} {stage:?} {inside} {outside}");
                assert!(truth.nucleus_volume_um3 > 40.0, "{name} {stage:?} {truth:?}");
            }
        }
    }

    #[test]
    fn volumes_and_heights_are_those_of_real_cells() {
        let params = small(json!({"size": [30, 64, 46], "voxel-size": 0.7}));
        let count = 160;
        let measured = |stage: Stage, number: u64| {
            let mut rng = Rng::new(params.seed, "cell shape", number);
            let traits = Traits::draw(&mut rng, stage, &params.population);
            let specimen = Specimen::draw(&mut rng, traits);
            let frame = Frame::aligned(&specimen, params.size(), params.voxel_um()[0]);
            let anatomy = specimen.anatomy(&frame);
            let cell = anatomy.inside.iter().map(|&inside| u8::from(inside > 0.0)).collect();
            let nucleus = anatomy.inside.iter().zip(&anatomy.nuclear);
            let nucleus = nucleus.map(|(&inside, &nuclear)| specimen.is_nucleus(inside.into(), nuclear.into()));
            let image = CellImage {
                channels: Vec::new(),
                cell: Volume::new(frame.size, cell),
                nucleus: Volume::new(frame.size, nucleus.map(u8::from).collect()),
            };
            truth(&specimen, &frame, &image)
        };
        let of = |stage: Stage, count: u64| -> Vec<Truth> {
            use rayon::prelude::*;
            (0..count).into_par_iter().map(|number| measured(stage, number)).collect()
        };
        let truths = of(Stage::Interphase, count);
        let column = |truths: &[Truth], f: fn(&Truth) -> f64| truths.iter().map(f).collect::<Vec<f64>>();
        let quantiles = |values: &[f64]| {
            let values = sorted(values);
            [0.05, 0.25, 0.5, 0.75, 0.95].map(|share| quantile(&values, share))
        };
        let measures: [(&str, fn(&Truth) -> f64, [f64; 5]); 4] = [
            ("cell volume", |t| t.cell_volume_um3, params.population.cell_volume),
            ("cell height", |t| t.cell_height_um, params.population.cell_height),
            ("nuclear volume", |t| t.nucleus_volume_um3, params.population.nucleus_volume),
            ("nuclear height", |t| t.nucleus_height_um, params.population.nucleus_height),
        ];
        // So few cells determine a quantile within some 6 %: see docs/validation.md for 2,000 cells.
        for (name, measure, expected) in measures {
            let found = quantiles(&column(&truths, measure));
            for (found, expected) in found.iter().zip(expected) {
                assert!((found / expected - 1.0).abs() < 0.16, "{name}: {found} {expected}");
            }
        }
        let log = |f: fn(&Truth) -> f64| column(&truths, f).into_iter().map(libm::log).collect::<Vec<_>>();
        let pairs: [(fn(&Truth) -> f64, fn(&Truth) -> f64, f64); 3] = [
            (|t| t.cell_volume_um3, |t| t.cell_height_um, 0.40),
            (|t| t.cell_volume_um3, |t| t.nucleus_volume_um3, 0.85),
            (|t| t.cell_height_um, |t| t.nucleus_height_um, 0.91),
        ];
        for (a, b, expected) in pairs {
            let found = pearson(&log(a), &log(b));
            assert!((found - expected).abs() < 0.14, "{found} {expected}");
        }
        for (stage, volume, dna) in [(Stage::Prophase, 2958.0, 671.0), (Stage::EarlyPrometaphase, 2970.0, 171.0)] {
            let truths = of(stage, 40);
            let median = |f: fn(&Truth) -> f64| quantiles(&column(&truths, f))[2];
            let found = [median(|t| t.cell_volume_um3), median(|t| t.nucleus_volume_um3), median(|t| t.cell_height_um)];
            assert!(
                (found[0] / volume - 1.0).abs() < 0.12 && (found[1] / dna - 1.0).abs() < 0.25,
                "{stage:?} {found:?}"
            );
        }
    }

    #[test]
    fn structures_are_where_cells_have_them() {
        // How bright the brightest hundredth is by region, for a few structures whose place the paper states.
        let mut means: BTreeMap<&str, [f64; 3]> = BTreeMap::new();
        for name in ["mitochondria", "nuclear-envelope", "nucleoli-gc", "matrix-adhesions", "tight-junctions"] {
            let params = small(json!({"size": [40, 74, 50], "voxel-size": 0.6, "structures": [name]}));
            let mut seen: [Vec<f64>; 3] = Default::default();
            for number in 0..2 {
                let (image, _) = simulated(&params, number, Stage::Interphase);
                let planes: Vec<usize> = (0..40)
                    .filter(|z| image.cell.data[z * 74 * 50..(z + 1) * 74 * 50].iter().any(|&v| v != 0))
                    .collect();
                let low = planes[0] + planes.len() / 3;
                for (index, &value) in image.channels[2].data.iter().enumerate() {
                    let region = match (image.cell.data[index], image.nucleus.data[index]) {
                        (0, _) => continue,
                        (_, 1) => 0,
                        _ if index / (74 * 50) < low => 1,
                        _ => 2,
                    };
                    seen[region].push(f64::from(value));
                }
            }
            let bright = seen.map(|mut values| {
                values.sort_by(f64::total_cmp);
                values[values.len() * 99 / 100] - 117.0
            });
            means.insert(name, bright);
        }
        let [nucleus, low, high] = means["mitochondria"];
        assert!(nucleus * 4.0 < low.min(high), "{means:?}");
        let [nucleus, low, high] = means["nucleoli-gc"];
        assert!(nucleus > 3.0 * low.max(high), "{means:?}");
        let [_, low, high] = means["matrix-adhesions"];
        assert!(low > 1.5 * high, "{means:?}");
        let [_, low, high] = means["tight-junctions"];
        assert!(high > 1.5 * low, "{means:?}");
    }

    #[test]
    fn drugs_change_their_target_and_nothing_else() {
        let image = |structure: &str, drug: &str, number| {
            simulated(&small(json!({"structures": [structure], "drug": drug})), number, Stage::Interphase).0
        };
        for (structure, drug) in [("golgi", "brefeldin"), ("microtubules", "paclitaxel")] {
            let (before, after) = (image(structure, "none", 1), image(structure, drug, 1));
            assert_eq!(before.channels[..2], after.channels[..2]);
            assert_eq!(before.cell, after.cell);
            assert_ne!(before.channels[2], after.channels[2]);
        }
        assert_eq!(image("tight-junctions", "none", 1), image("tight-junctions", "brefeldin", 1));
        assert_eq!(image("golgi", "none", 1), image("golgi", "paclitaxel", 1));
    }
}
