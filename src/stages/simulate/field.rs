//! Fields of view: a monolayer of touching cells, and the labels that a perfect segmentation would give.

use std::f64::consts::TAU;

use serde::{Deserialize, Serialize};

use super::{
    Scene, SimulateParams,
    canvas::Frame,
    cell::{CellShape, ROUNDING, Side},
    figures,
    geometry::{Noise, Point},
    mitosis::Stage,
    optics,
    single::{DNA_ELECTRONS, MEMBRANE_ELECTRONS, entry},
    specimen::{Specimen, Traits},
    structures,
};
use crate::{
    artifact::{
        ArtifactError, ArtifactType, ArtifactWriter, Fields, FieldsDescription, FieldsWriter, LabelImage, Labels,
        LabelsWriter, Table,
    },
    image::{Pixels, Pose, Region, Stack, Volume, io, regions},
    nn::Rng,
    stage::{Context, ItemContext, ItemFiles, ItemWork, Outputs, StageError, Work},
};

/// A cell of a field, as a perfect segmentation would measure it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct FieldCell {
    /// Its number in the label image.
    label: u32,
    stage: String,
    /// Whether cell and nucleus are clear of all sides of the field.
    whole: bool,
    /// From one division (0) to the next (1).
    cycle: f64,
    cell_volume_um3: f64,
    nucleus_volume_um3: f64,
    cell_height_um: f64,
    nucleus_height_um: f64,
    /// Long over short axis of the outline.
    elongation: f64,
    centre_um: Point,
    angle_degrees: f64,
    flip: [bool; 2],
}

/// Distance of neighbours in µm at density 1: gives cells of about 2,000 µm³.
const SPACING_UM: f64 = 15.3;
/// The substrate lies this high above the first plane, µm.
const SUBSTRATE_UM: f64 = 1.3;
/// Mean height of the contacts, and how much it varies over the colony, µm.
const CONTACT_HEIGHT_UM: f64 = 8.9;
const CONTACT_HEIGHT_VARIES_UM: f64 = 1.6;

const IMAGE: &str = "image.ome.tif";
const LABELS: &str = "labels.ome.tif";
const TRUTH: &str = "truth.json";

pub(super) fn run(params: &SimulateParams, context: &Context) -> Result<Outputs, StageError> {
    let item = |number: usize| Work {
        name: format!("field {number}"),
        item: Field { number, structure: params.structure(number).to_owned() },
        inputs: Vec::new(),
    };
    let items: Vec<Work<Field>> = (0..params.fields).map(item).collect();
    let results = context.map(&Colony::of(params), &[], &items)?;

    let mut fields = FieldsWriter::new(FieldsDescription { channels: params.channels() }, context.blobs());
    let mut labels = LabelsWriter::new(context.blobs());
    let mut truths: Vec<(usize, FieldCell)> = Vec::new();
    for (number, result) in results.iter().enumerate() {
        fields.link(&field_id(number), entry(result, IMAGE)?);
        labels.link(&field_id(number), entry(result, LABELS)?);
        let bytes = context.blobs().get(&entry(result, TRUTH)?.digest)?;
        let cells: Vec<FieldCell> = serde_json::from_slice(&bytes)
            .map_err(|error| ArtifactError::Malformed { kind: ArtifactType::Tables, reason: error.to_string() })?;
        truths.extend(cells.into_iter().map(|cell| (number, cell)));
    }
    let texts = |f: &dyn Fn(usize) -> String| (0..params.fields).map(f).collect::<Vec<String>>();
    let table = Table::new()
        .with("field_id", texts(&field_id))
        .with("dataset", texts(&|_| params.dataset.clone()))
        .with("structure", texts(&|number| params.structure(number).to_owned()))
        .with("source", texts(&|_| String::new()))
        .with("drug", texts(&|_| params.drug.name().to_owned()));
    let fields = fields.finish(&table)?;
    let labels = labels.finish()?;
    let truth = truth_table(params, &truths);
    let mut out = ArtifactWriter::new(ArtifactType::Tables, context.blobs());
    truth.write(&mut out, "truth")?;
    let opened = Fields::open(&fields, context.blobs())?;
    let figures = figures::of_fields(&opened, &Labels::open(&labels, context.blobs()), &truth)?;
    let figures = figures.write(context.blobs())?;
    Ok(Outputs::from([
        ("fields".to_owned(), fields),
        ("labels".to_owned(), labels),
        ("truth".to_owned(), out.finish()?),
        ("figures".to_owned(), figures),
    ]))
}

/// Simulates one field of view of a colony.
#[derive(Serialize, Deserialize)]
struct Colony {
    scene: Scene,
    mitotic_fraction: f64,
    density: f64,
}

/// One field.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Field {
    number: usize,
    structure: String,
}

impl Colony {
    fn of(params: &SimulateParams) -> Self {
        Self { scene: params.scene(), mitotic_fraction: params.mitotic_fraction, density: params.density }
    }
}

impl ItemWork for Colony {
    type Item = Field;
    type Shared = ();
    const UNIT: &'static str = "fields";

    fn open(&self, _: &ItemContext) -> Result<(), StageError> {
        Ok(())
    }

    fn run(&self, (): &(), field: Field, inputs: &ItemContext) -> Result<ItemFiles, StageError> {
        let (image, labels, truth) = simulate(self, &field, &|| inputs.check())?;
        Ok(vec![
            (IMAGE.to_owned(), io::write(&image)?),
            (LABELS.to_owned(), labels.encode()?),
            (TRUTH.to_owned(), serde_json::to_vec(&truth).expect("plain data")),
        ])
    }
}

fn field_id(number: usize) -> String {
    format!("field-{number:04}")
}

/// A row a cell, in the columns that `segment-align` measures.
fn truth_table(params: &SimulateParams, cells: &[(usize, FieldCell)]) -> Table {
    let texts = |f: &dyn Fn(&(usize, FieldCell)) -> String| cells.iter().map(f).collect::<Vec<String>>();
    let numbers = |f: fn(&FieldCell) -> f64| cells.iter().map(|(_, cell)| f(cell)).collect::<Vec<f64>>();
    let flags = |f: fn(&FieldCell) -> bool| cells.iter().map(|(_, cell)| f(cell)).collect::<Vec<bool>>();
    Table::new()
        .with("field", texts(&|(field, _)| field_id(*field)))
        .with("label", cells.iter().map(|(_, cell)| i64::from(cell.label)).collect::<Vec<i64>>())
        .with("whole", flags(|cell| cell.whole))
        .with("structure", texts(&|(field, _)| params.structure(*field).to_owned()))
        .with("stage", texts(&|(_, cell)| cell.stage.clone()))
        .with("drug", texts(&|_| params.drug.name().to_owned()))
        .with("cycle", numbers(|cell| cell.cycle))
        .with("centre_z_um", numbers(|cell| cell.centre_um[0]))
        .with("centre_y_um", numbers(|cell| cell.centre_um[1]))
        .with("centre_x_um", numbers(|cell| cell.centre_um[2]))
        .with("cell_volume_um3", numbers(|cell| cell.cell_volume_um3))
        .with("nucleus_volume_um3", numbers(|cell| cell.nucleus_volume_um3))
        .with("cell_height_um", numbers(|cell| cell.cell_height_um))
        .with("nucleus_height_um", numbers(|cell| cell.nucleus_height_um))
        .with("elongation", numbers(|cell| cell.elongation))
        .with("angle_degrees", numbers(|cell| cell.angle_degrees))
        .with("flip_y", flags(|cell| cell.flip[0]))
        .with("flip_x", flags(|cell| cell.flip[1]))
}

/// The place of a cell in the colony.
struct Site {
    /// Y, X in µm from the centre of the field's first voxel.
    at: [f64; 2],
    /// How much room it takes from its neighbours, µm².
    weight: f64,
    traits: Traits,
}

/// The sites of a colony that reaches beyond the field on all sides: a jittered triangular lattice.
fn sites(colony: &Colony, number: usize, span: [f64; 2]) -> Vec<Site> {
    let mut rng = Rng::new(colony.scene.seed, "colony", number as u64);
    let spacing = SPACING_UM / colony.density.sqrt();
    let turn = TAU * rng.uniform();
    let shift = [rng.uniform() * spacing, rng.uniform() * spacing];
    let (sine, cosine) = libm::sincos(turn);
    let margin = 1.6 * spacing;
    // A square of the lattice that holds the field however it is turned.
    let half = ((libm::hypot(span[0], span[1]) / 2.0 + margin + spacing) / (spacing * 0.866)).ceil() as i32;
    let mut sites = Vec::new();
    for row in -half..=half {
        for column in -half..=half {
            let y = f64::from(row) * spacing * 3f64.sqrt() / 2.0 + shift[0] + 0.15 * spacing * rng.normal();
            let stagger = if row % 2 == 0 { 0.0 } else { 0.5 };
            let x = (f64::from(column) + stagger) * spacing + shift[1] + 0.15 * spacing * rng.normal();
            let stage = Stage::draw(&mut rng, colony.mitotic_fraction);
            let traits = Traits::draw(&mut rng, stage, &colony.scene.population);
            // Cells about to divide are large, and hold their room.
            let grown = 0.11 * rng.normal().clamp(-2.0, 2.0) + 0.3 * traits.roundness();
            let weight = grown * spacing * spacing;
            let at = [span[0] / 2.0 + y * cosine - x * sine, span[1] / 2.0 + y * sine + x * cosine];
            if (0..2).all(|axis| at[axis] > -margin && at[axis] < span[axis] + margin) {
                sites.push(Site { at, weight, traits });
            }
        }
    }
    sites
}

/// The contacts of a site with its neighbours: the sides of its cell in the power diagram, and how much room rounded ones leave.
fn sides(sites: &[Site], own: usize) -> Vec<Side> {
    let site = &sites[own];
    let mut all = Vec::new();
    for (other, neighbour) in sites.iter().enumerate() {
        let away = [neighbour.at[0] - site.at[0], neighbour.at[1] - site.at[1]];
        let distance = libm::hypot(away[0], away[1]);
        if other == own || distance > 3.0 * SPACING_UM {
            continue;
        }
        let offset = f64::midpoint(distance, (site.weight - neighbour.weight) / distance).max(1.5);
        let left = (distance - offset).max(0.0) * ROUNDING * neighbour.traits.roundness();
        all.push(Side { normal: away.map(|part| part / distance), offset, left_by_neighbour: left });
    }
    // Sides that bound the cell in no direction are left out.
    let mut bounding: Vec<usize> = (0..90)
        .filter_map(|step| {
            let (sine, cosine) = libm::sincos(TAU * f64::from(step) / 90.0);
            let reach = |side: &Side| {
                let towards = side.normal[0] * cosine + side.normal[1] * sine;
                if towards > 1e-6 { side.offset / towards } else { f64::INFINITY }
            };
            (0..all.len()).min_by(|&a, &b| reach(&all[a]).total_cmp(&reach(&all[b])))
        })
        .collect();
    bounding.sort_unstable();
    bounding.dedup();
    bounding.into_iter().map(|index| all[index]).collect()
}

/// A field's image, its labels and its cells. `check` fails when the user asked to stop.
fn simulate(
    of: &Colony,
    field: &Field,
    check: &dyn Fn() -> Result<(), StageError>,
) -> Result<(Stack, LabelImage, Vec<FieldCell>), StageError> {
    let (number, structure) = (field.number, field.structure.as_str());
    let Scene { seed, size, voxel_um, drug, brightness, ref population } = of.scene;
    let span = [1, 2].map(|axis| size[axis] as f64 * voxel_um[axis]);
    let mut colony = Rng::new(seed, "substrate", number as u64);
    let waviness = CellShape::draw_waviness(&mut colony);
    let hills = Noise::new(&mut colony, 45.0);
    let contact_height =
        |at: [f64; 2]| CONTACT_HEIGHT_UM + CONTACT_HEIGHT_VARIES_UM * hills.at([0.0, at[0], at[1]]).clamp(-1.2, 1.2);
    let sites = sites(of, number, span);
    let voxels: usize = size.iter().product();
    let mut channels = vec![vec![0.0_f32; voxels]; super::channels(structure).len()];
    let mut electrons = vec![MEMBRANE_ELECTRONS, DNA_ELECTRONS];
    let mut depth = vec![0.0_f32; voxels];
    let mut cell_labels = vec![0_u32; voxels];
    let mut nucleus_labels = vec![0_u32; voxels];
    let mut specimens: Vec<(u32, Specimen)> = Vec::new();
    for (index, site) in sites.iter().enumerate() {
        check()?;
        let mut rng = Rng::new(seed, &format!("cell of field {number}"), index as u64);
        let mut specimen = Specimen::within(&mut rng, site.traits, sides(&sites, index), [0.0; 2]);
        let step = 0.5;
        let slope = [0, 1].map(|axis| {
            let moved =
                |by: f64| contact_height(std::array::from_fn(|a| site.at[a] + if a == axis { by } else { 0.0 }));
            (moved(step) - moved(-step)) / (2.0 * step)
        });
        specimen.cell.edge_height = contact_height(site.at);
        specimen.cell.slope = slope;
        specimen.cell.site = site.at;
        specimen.cell.waviness = waviness;
        let Some((frame, origin)) = part_of_field(&specimen, site.at, size, voxel_um) else { continue };
        let outline = specimen.outline();
        specimen.traits = Traits {
            cycle: if site.traits.stage == Stage::Interphase {
                Traits::cycle_of(population.size_of(outline.volume), rng.uniform())
            } else {
                site.traits.cycle
            },
            volume: outline.volume,
            height: specimen.cell.height(),
            elongation: outline.elongation,
            angle: outline.angle,
            ..specimen.traits
        };
        if let Some(furrow) = &mut specimen.cell.furrow {
            let (sine, cosine) = libm::sincos(outline.angle);
            furrow.axis = [cosine, sine];
        }
        specimen.furnish(&mut rng);

        let label = specimens.len() as u32 + 1;
        let anatomy = specimen.anatomy(&frame);
        let mut layers = vec![
            structures::paint_membrane(&specimen, &frame, &anatomy, &mut rng),
            specimen.chromatin(&frame, &anatomy).into_iter().map(|density| density as f32).collect(),
        ];
        if !structure.is_empty() {
            let (data, own) = structures::paint(structure, &specimen, &frame, &anatomy, drug, &mut rng);
            layers.push(data);
            electrons.truncate(2);
            electrons.push(own);
        }
        for (part, whole) in positions(&frame, origin, size).enumerate() {
            // Contacts belong to both cells, and were painted as bright as both membranes together: the brighter counts.
            for (channel, layer) in channels.iter_mut().zip(&layers) {
                channel[whole] = channel[whole].max(layer[part]);
            }
            let (inside, nuclear) = (anatomy.inside[part], anatomy.nuclear[part]);
            if inside > depth[whole] {
                depth[whole] = inside;
                cell_labels[whole] = label;
                let is_nucleus = specimen.is_nucleus(f64::from(inside), f64::from(nuclear));
                nucleus_labels[whole] = if is_nucleus { label } else { 0 };
            }
        }
        specimens.push((label, specimen));
    }

    let mut light = Rng::new(seed, "light of field", number as u64);
    let mut camera = Rng::new(seed, "camera of field", number as u64);
    let mut pixels = Vec::with_capacity(voxels * channels.len());
    electrons.resize(channels.len(), 0.0);
    for (data, electrons) in channels.iter_mut().zip(electrons) {
        let dye = libm::exp(0.15 * light.normal());
        optics::blur(data, size, voxel_um);
        optics::expose(data, electrons * dye * brightness, &mut camera);
        pixels.extend(data.iter().map(|&value| value as u16));
    }
    let image =
        Stack { channels: super::channels(structure), size, voxel_um: Some(voxel_um), pixels: Pixels::U16(pixels) };
    let labels =
        LabelImage { nucleus: Volume::new(size, nucleus_labels), cell: Volume::new(size, cell_labels), voxel_um };
    let cells = measure(&specimens, &labels);
    Ok((image, labels, cells))
}

/// The part of a field's grid that a cell can be seen in, in the cell's coordinates, and its first voxel in the field.
fn part_of_field(specimen: &Specimen, at: [f64; 2], size: [usize; 3], voxel_um: Point) -> Option<(Frame, [usize; 3])> {
    let [low, high] = specimen.bounds();
    let axis_at = [SUBSTRATE_UM, at[0], at[1]];
    let margin = 1.2;
    let (mut origin, mut part) = ([0; 3], [0; 3]);
    for axis in 0..3 {
        let voxel = |um: f64| ((um + axis_at[axis]) / voxel_um[axis]).clamp(0.0, size[axis] as f64);
        origin[axis] = voxel(low[axis] - margin).floor() as usize;
        part[axis] = (voxel(high[axis] + margin).ceil() as usize).saturating_sub(origin[axis]);
    }
    if part.contains(&0) {
        return None;
    }
    let centre = std::array::from_fn(|axis| {
        (origin[axis] as f64 + part[axis] as f64 / 2.0 - 0.5) * voxel_um[axis] - axis_at[axis]
    });
    Some((Frame { size: part, voxel_um, centre, angle: 0.0, mirrored: [1.0; 2] }, origin))
}

/// The positions in the field of the voxels of a part, in the part's order.
fn positions(part: &Frame, origin: [usize; 3], size: [usize; 3]) -> impl Iterator<Item = usize> {
    let [depth, height, width] = part.size;
    (0..depth).flat_map(move |z| {
        (0..height).flat_map(move |y| {
            let row = ((origin[0] + z) * size[1] + origin[1] + y) * size[2] + origin[2];
            row..row + width
        })
    })
}

/// What a perfect segmentation measures of each cell whose nucleus is seen.
fn measure(specimens: &[(u32, Specimen)], labels: &LabelImage) -> Vec<FieldCell> {
    let highest = specimens.len() as u32;
    let (cells, nuclei) = (regions(&labels.cell, highest), regions(&labels.nucleus, highest));
    let [vz, vy, vx] = labels.voxel_um;
    let voxel = vz * vy * vx;
    let measured = specimens.iter().zip(cells.iter().zip(&nuclei)).filter_map(|((label, specimen), regions)| {
        let (Some(cell), Some(nucleus)) = regions else { return None };
        let pose = Pose::of(&labels.cell, *label, cell, nucleus, labels.voxel_um);
        let height = |region: &Region| (region.high[0] - region.low[0]) as f64 * vz;
        let clear = |region: &Region| !region.touches_side(labels.cell.size) && !region.touches_end(labels.cell.size);
        Some(FieldCell {
            label: *label,
            stage: specimen.traits.stage.name().to_owned(),
            whole: clear(cell) && clear(nucleus),
            cycle: specimen.traits.cycle,
            cell_volume_um3: cell.voxels as f64 * voxel,
            nucleus_volume_um3: nucleus.voxels as f64 * voxel,
            cell_height_um: height(cell),
            nucleus_height_um: height(nucleus),
            elongation: specimen.traits.elongation,
            centre_um: pose.centre_um,
            angle_degrees: pose.angle.to_degrees(),
            flip: pose.flip,
        })
    });
    measured.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Simulate;
    use super::*;
    use crate::stages::testing::{MemoryHost, params};

    fn small(extra: serde_json::Value) -> SimulateParams {
        let mut all = json!({
            "as": "fields", "size": [14, 40, 44], "voxel-size": [1.2, 1.1, 1.1], "seed": 3, "structures": ["golgi"],
        });
        all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        params::<Simulate>(all)
    }

    #[test]
    fn a_field_is_the_same_whatever_the_number_of_fields_and_threads() {
        let host = MemoryHost::default();
        let one = host.run::<Simulate>(&small(json!({})), &[]).unwrap();
        let two = host.run::<Simulate>(&small(json!({"fields": 2})), &[]).unwrap();
        assert_eq!(host.items(), 2);
        let name = "fields/field-0000.ome.tif";
        assert_eq!(one["fields"].tree.get(name), two["fields"].tree.get(name));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let fresh = MemoryHost::default();
        let alone = pool.install(|| fresh.run::<Simulate>(&small(json!({})), &[]).unwrap());
        for (port, artifact) in &one {
            assert_eq!(artifact.digest(), alone[port].digest(), "{port}");
        }
    }

    #[test]
    fn cells_touch_and_each_has_its_nucleus() {
        let params = small(json!({"size": [20, 70, 70], "voxel-size": [0.9, 0.8, 0.8]}));
        let (image, labels, cells) = {
            let field = Field { number: 0, structure: params.structure(0).to_owned() };
            simulate(&Colony::of(&params), &field, &|| Ok(())).unwrap()
        };
        let size = labels.cell.size;
        assert_eq!(image.size, size);
        let whole: Vec<_> = cells.iter().filter(|cell| cell.whole).collect();
        assert!(whole.len() >= 4, "{}", whole.len());
        for cell in &whole {
            assert!((700.0..4200.0).contains(&cell.cell_volume_um3), "{cell:?}");
            assert!((0.04..0.42).contains(&(cell.nucleus_volume_um3 / cell.cell_volume_um3)), "{cell:?}");
            assert!((7.0..17.0).contains(&cell.cell_height_um), "{cell:?}");
        }
        for (nucleus, cell) in labels.nucleus.data.iter().zip(&labels.cell.data) {
            assert!(*nucleus == 0 || nucleus == cell);
        }
        // A few µm above the substrate the colony has hardly a gap.
        let plane = &labels.cell.data[5 * 4900..6 * 4900];
        let gaps = plane.iter().filter(|&&label| label == 0).count();
        assert!(gaps < 4900 / 12, "{gaps}");
    }
}
