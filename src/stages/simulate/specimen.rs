//! One cell with its nucleus: its shape drawn from the population, and where everything lies in it.

use std::f64::consts::{PI, TAU};

use super::{
    canvas::Frame,
    cell::{CellShape, Furrow, Place, Side, draw_sides},
    geometry::{Point, direction, distance_to_segment, length, smooth_step, subtract},
    mitosis::{Chromosomes, Stage},
    nucleus::Nucleus,
    population::Population,
};
use crate::{
    image::{Pose, Volume, regions},
    nn::Rng,
};

/// Where the DNA is.
#[derive(Clone, Debug)]
pub(super) enum Dna {
    /// In a nucleus.
    Nucleus(Nucleus),
    /// In condensed chromosomes on a spindle.
    Chromosomes(Chromosomes),
}

/// How a cell differs from others: the axes along which the population varies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traits {
    pub(super) stage: Stage,
    /// How far through its mitotic stage, in [0, 1].
    pub(super) progress: f64,
    /// How far from one division to the next, in [0, 1]; 1 for dividing cells.
    pub(super) cycle: f64,
    /// µm³.
    pub(super) volume: f64,
    /// µm.
    pub(super) height: f64,
    /// Long over short axis of the outline.
    pub(super) elongation: f64,
    /// Direction of the long axis, from Y towards X.
    pub(super) angle: f64,
    /// Share of the cell's volume that its nucleus fills.
    pub(super) nucleus_share: f64,
    /// Share of the cell's height that its nucleus takes up.
    pub(super) nucleus_height_share: f64,
}

/// A cell with its nucleus.
#[derive(Clone, Debug)]
pub(super) struct Specimen {
    pub(super) traits: Traits,
    pub(super) cell: CellShape,
    pub(super) dna: Dna,
}

/// A cell's outline, roughly.
pub(super) struct Outline {
    /// µm³.
    pub(super) volume: f64,
    /// Centre of mass.
    pub(super) centre: Point,
    /// Direction of the long axis in the plane, from Y towards X.
    pub(super) angle: f64,
    /// Long over short axis.
    pub(super) elongation: f64,
}

/// Where the voxels of a grid lie in a cell, Z, Y, X order; distances in µm, positive inside.
pub(super) struct Anatomy {
    /// To the cell's surface.
    pub(super) inside: Vec<f32>,
    /// To the contacts with neighbours.
    pub(super) lateral: Vec<f32>,
    /// To the upper surface, straight up.
    pub(super) below_top: Vec<f32>,
    /// To the envelope of the nucleus, or the surface of the chromosomes.
    pub(super) nuclear: Vec<f32>,
}

/// Chromosomes closer than this are one mass to a segmentation, µm from their surface.
const CHROMOSOME_MASS_UM: f64 = 0.4;
/// Nothing of a cell is to be seen this far outside, µm.
const FAR_UM: f64 = 2.0;
/// Room between a nucleus and the cell's upper and lower surface, µm.
const LEAST_ROOM_UM: f64 = 0.55;
/// No cell is higher, µm.
const HIGHEST_UM: f64 = 16.0;
/// Voxel side of the coarse grids that shapes are measured on, µm.
const MEASURED_UM: f64 = 1.2;

/// Correction of the height of the nucleus for its dents, which raise its highest point.
const NUCLEUS_HEIGHT_DRAWN: f64 = 0.98;

fn log_normal(rng: &mut Rng, median: f64, spread: f64) -> f64 {
    median * libm::exp(spread * rng.normal().clamp(-2.6, 2.6))
}

impl Traits {
    /// Draws a cell from a population.
    pub(super) fn draw(rng: &mut Rng, stage: Stage, population: &Population) -> Self {
        let mut measures = population.draw(rng);
        let cycle = Self::cycle_of(measures.size, rng.uniform());
        let elongation = 1.0 + log_normal(rng, 0.32, 0.5);
        let progress = rng.uniform();
        let rounding = Self::roundness_of(stage, progress);
        let dividing = stage != Stage::Interphase;
        if dividing {
            measures = population.dividing(stage, rounding, measures, rng);
        }
        Self {
            stage,
            progress,
            cycle: if dividing { 1.0 } else { cycle },
            volume: measures.cell_volume,
            height: measures.cell_height.min(HIGHEST_UM),
            elongation: 1.0 + (elongation - 1.0) * (1.0 - 0.75 * rounding),
            angle: PI * rng.uniform(),
            nucleus_share: measures.nucleus_volume / measures.cell_volume,
            nucleus_height_share: measures.nucleus_height / measures.cell_height,
        }
    }

    /// How far from one division to the next an interphase cell is: further the larger (`size`, in standard deviations), but for
    /// `chance` in [0, 1].
    pub(super) fn cycle_of(size: f64, chance: f64) -> f64 {
        0.7 / (1.0 + libm::exp(-1.7 * size)) + 0.3 * chance
    }

    /// How far a cell is rounded up.
    pub(super) fn roundness(&self) -> f64 {
        Self::roundness_of(self.stage, self.progress)
    }

    fn roundness_of(stage: Stage, progress: f64) -> f64 {
        match stage {
            Stage::Interphase => 0.0,
            Stage::Prophase => 0.15 + 0.3 * progress,
            Stage::EarlyPrometaphase => 0.5 + 0.3 * progress,
            Stage::PrometaphaseMetaphase => 0.9,
            Stage::AnaphaseTelophase => 0.9 - 0.5 * progress,
        }
    }
}

impl Specimen {
    /// Draws a cell of these traits between neighbours of its own.
    pub(super) fn draw(rng: &mut Rng, traits: Traits) -> Self {
        // Anaphase stretches the cell along its spindle.
        let stretch = if traits.stage == Stage::AnaphaseTelophase { 1.0 + 0.3 * traits.progress } else { 1.0 };
        let sides = draw_sides(rng, traits.elongation * stretch, traits.angle);
        let lean = [0.08 * rng.normal(), 0.08 * rng.normal()];
        let mut specimen = Self::within(rng, traits, sides, lean);
        // Contacts, drawn around 1 µm, are put where the cell has its volume.
        specimen.cell.widen((traits.volume / (PI * traits.height * 0.9)).sqrt());
        for _ in 0..4 {
            let measured = specimen.outline().volume;
            specimen.cell.widen((traits.volume / measured.max(1.0)).sqrt());
            let top = specimen.top();
            specimen.cell.raise(traits.height / top);
        }
        specimen.furnish(rng);
        specimen
    }

    /// A cell within given contacts, without its nucleus.
    pub(super) fn within(rng: &mut Rng, traits: Traits, sides: Vec<Side>, lean: [f64; 2]) -> Self {
        let roundness = traits.roundness();
        let dome = traits.height * (0.16 + 0.14 * rng.uniform() + 0.1 * roundness);
        // A dividing cell's spindle lies along its long axis.
        let depth =
            if traits.stage == Stage::AnaphaseTelophase { 6.5 * smooth_step(0.35, 1.0, traits.progress) } else { 0.0 };
        let (sine, cosine) = libm::sincos(traits.angle);
        let cell = CellShape {
            sides,
            edge_height: traits.height - dome,
            dome,
            slope: [0.04 * rng.normal(), 0.04 * rng.normal()],
            lean,
            roundness,
            furrow: (depth > 0.0).then_some(Furrow { axis: [cosine, sine], depth }),
            waviness: CellShape::draw_waviness(rng),
            site: [0.0; 2],
        };
        let placeholder = Nucleus::new(rng, [traits.height / 2.0, 0.0, 0.0], [1.0; 3], 0.0, 0.0);
        Self { traits, cell, dna: Dna::Nucleus(placeholder) }
    }

    /// Puts the nucleus, or spindle and chromosomes, into the cell.
    pub(super) fn furnish(&mut self, rng: &mut Rng) {
        let traits = self.traits;
        let middle = self.outline().centre;
        let height = self.cell.height();
        if matches!(traits.stage, Stage::Interphase | Stage::Prophase) {
            let volume = traits.nucleus_share * traits.volume;
            let condensation = if traits.stage == Stage::Prophase { 0.45 + 0.55 * traits.progress } else { 0.0 };
            // Nuclei in low cells are flat; none touches the lower or the upper surface.
            let half_height = 0.5 * NUCLEUS_HEIGHT_DRAWN * traits.nucleus_height_share * height;
            let plane = volume * 3.0 / (4.0 * PI * half_height);
            let elongation = (1.0 + 0.45 * (traits.elongation - 1.0) + 0.06 * rng.normal().abs()).min(1.6);
            let half_axes = [half_height, (plane * elongation).sqrt(), (plane / elongation).sqrt()];
            let away = 0.09 * (traits.volume / height / PI).sqrt();
            let low = half_height + LEAST_ROOM_UM;
            let centre = [
                (0.47 * height + 0.5 * rng.normal()).clamp(low, (height - half_height - LEAST_ROOM_UM).max(low)),
                middle[1] + (away * rng.normal()).clamp(-1.5, 1.5),
                middle[2] + (away * rng.normal()).clamp(-1.5, 1.5),
            ];
            let angle = traits.angle + 0.2 * rng.normal();
            let mut nucleus = Nucleus::new(rng, centre, half_axes, angle, condensation);
            for _ in 0..3 {
                self.dna = Dna::Nucleus(nucleus.clone());
                let measured = self.measure_nucleus();
                nucleus.widen((volume / measured.max(1.0)).sqrt().clamp(0.8, 1.2));
            }
            nucleus.draw_nucleoli(rng, volume * (1.0 - 0.8 * condensation), &self.cell);
            self.dna = Dna::Nucleus(nucleus);
        } else {
            let tilt = 0.12 * rng.normal();
            let turn = if traits.stage == Stage::AnaphaseTelophase { 0.0 } else { TAU * rng.uniform() };
            let (sine, cosine) = libm::sincos(traits.angle + turn);
            let axis = direction([tilt, cosine, sine]);
            let centre = [0.5 * height, middle[1], middle[2]];
            let chromosomes = Chromosomes::draw(rng, traits.stage, traits.progress, centre, axis, traits.volume);
            self.dna = Dna::Chromosomes(chromosomes);
        }
    }

    /// Where a point lies in the cell.
    pub(super) fn place(&self, point: Point) -> Place {
        self.cell.place(point)
    }

    /// The distance to the nuclear envelope or the chromosomes, positive inside.
    pub(super) fn nuclear(&self, point: Point, cell_inside: f64) -> f64 {
        match &self.dna {
            Dna::Nucleus(nucleus) => nucleus.inside(point, cell_inside),
            Dna::Chromosomes(chromosomes) => chromosomes.inside(point),
        }
    }

    /// Whether a point of the cell that is this far inside the nucleus or the chromosomes counts as nucleus.
    pub(super) fn is_nucleus(&self, cell_inside: f64, nuclear: f64) -> bool {
        let least = if matches!(self.dna, Dna::Nucleus(_)) { 0.0 } else { -CHROMOSOME_MASS_UM };
        cell_inside > 0.0 && nuclear > least
    }

    /// A box that holds the cell: lowest and highest corner.
    pub(super) fn bounds(&self) -> [Point; 2] {
        let reach = self.cell.reach();
        let slope = (self.cell.slope[0].abs() + self.cell.slope[1].abs()) * reach;
        [[0.0, -reach, -reach], [self.cell.height() + slope, reach, reach]]
    }

    /// A coarse grid over the cell.
    pub(super) fn coarse(&self) -> Frame {
        let [low, high] = self.bounds();
        Frame::over(low, high, [MEASURED_UM; 3])
    }

    /// The height of the cell's highest point above the substrate, µm.
    fn top(&self) -> f64 {
        let reach = self.cell.reach();
        let z = 0.9 * self.cell.height();
        let steps = (2.0 * reach / MEASURED_UM).ceil() as usize;
        let at = |step: usize| -reach + MEASURED_UM * step as f64;
        let columns = (0..steps * steps).map(|index| self.place([z, at(index / steps), at(index % steps)]));
        // Near its sides the upper surface is rounded off.
        columns.filter(|place| place.lateral > 0.4).map(|place| z + place.below_top).fold(1.0, f64::max)
    }

    fn measure_nucleus(&self) -> f64 {
        let Dna::Nucleus(nucleus) = &self.dna else { return 0.0 };
        let reach = nucleus.reach();
        let corner = |sign: f64| std::array::from_fn(|axis| nucleus.centre[axis] + sign * reach);
        let frame = Frame::over(corner(-1.0), corner(1.0), [MEASURED_UM; 3]);
        let filled =
            frame.map(|point| (nucleus.inside(point, self.place(point).inside) / MEASURED_UM + 0.5).clamp(0.0, 1.0));
        filled.iter().sum::<f64>() * frame.voxel_volume()
    }

    /// Volume, centre and long axis of the cell.
    pub(super) fn outline(&self) -> Outline {
        let frame = self.coarse();
        let points: Vec<(Point, f64)> =
            frame.map(|point| (point, (self.place(point).inside / MEASURED_UM + 0.5).clamp(0.0, 1.0)));
        let total: f64 = points.iter().map(|(_, weight)| weight).sum::<f64>().max(1e-9);
        let mean = |f: &dyn Fn(Point) -> f64| points.iter().map(|(point, w)| w * f(*point)).sum::<f64>() / total;
        let centre: Point = std::array::from_fn(|axis| mean(&|point| point[axis]));
        let [yy, yx, xx] =
            [[1, 1], [1, 2], [2, 2]].map(|[a, b]| mean(&|point| (point[a] - centre[a]) * (point[b] - centre[b])));
        let root = ((yy - xx).powi(2) + 4.0 * yx * yx).sqrt();
        Outline {
            volume: total * frame.voxel_volume(),
            centre,
            angle: 0.5 * libm::atan2(2.0 * yx, yy - xx),
            elongation: ((yy + xx + root) / (yy + xx - root).max(1e-9)).sqrt(),
        }
    }

    /// Where the voxels of a grid lie in the cell.
    pub(super) fn anatomy(&self, frame: &Frame) -> Anatomy {
        let count = frame.len();
        let mut anatomy = Anatomy {
            inside: Vec::with_capacity(count),
            lateral: Vec::with_capacity(count),
            below_top: Vec::with_capacity(count),
            nuclear: vec![-9.0; count],
        };
        let top = self.bounds()[1][0];
        for point in frame.map(|point| point) {
            let far = point[0] > top + FAR_UM || self.cell.is_far(point, FAR_UM);
            let place = if far { Place { inside: -9.0, lateral: -9.0, below_top: -9.0 } } else { self.place(point) };
            anatomy.inside.push(place.inside as f32);
            anatomy.lateral.push(place.lateral as f32);
            anatomy.below_top.push(place.below_top as f32);
        }
        match &self.dna {
            Dna::Nucleus(nucleus) => {
                fill(frame, nucleus.centre, nucleus.reach() + 1.2, |index, point| {
                    anatomy.nuclear[index] = nucleus.inside(point, f64::from(anatomy.inside[index])) as f32;
                });
            }
            Dna::Chromosomes(chromosomes) => {
                for rod in &chromosomes.rods {
                    let middle: Point = std::array::from_fn(|axis| f64::midpoint(rod.ends[0][axis], rod.ends[1][axis]));
                    let half = length(subtract(rod.ends[0], middle));
                    fill(frame, middle, half + rod.radius + 1.2, |index, point| {
                        let depth = rod.radius - distance_to_segment(point, rod.ends[0], rod.ends[1]);
                        anatomy.nuclear[index] = anatomy.nuclear[index].max(depth as f32);
                    });
                }
            }
        }
        anatomy
    }

    /// The density of DNA at the voxels of a grid, about 1 in a young nucleus.
    pub(super) fn chromatin(&self, frame: &Frame, anatomy: &Anatomy) -> Vec<f64> {
        let mut density = vec![0.0; frame.len()];
        match &self.dna {
            Dna::Nucleus(nucleus) => {
                // DNA is copied in the middle of the cycle; the nucleus grows all along.
                let copies = 1.0 + smooth_step(0.35, 0.8, self.traits.cycle);
                let level = copies * 420.0 / (self.traits.nucleus_share * self.traits.volume);
                fill(frame, nucleus.centre, nucleus.reach() + 0.5, |index, point| {
                    density[index] = level * nucleus.chromatin(point, f64::from(anatomy.nuclear[index]));
                });
            }
            Dna::Chromosomes(chromosomes) => {
                for rod in &chromosomes.rods {
                    let middle: Point = std::array::from_fn(|axis| f64::midpoint(rod.ends[0][axis], rod.ends[1][axis]));
                    let half = length(subtract(rod.ends[0], middle));
                    fill(frame, middle, half + rod.radius + 0.4, |index, point| {
                        let depth = rod.radius - distance_to_segment(point, rod.ends[0], rod.ends[1]);
                        let here = 3.2 * rod.density * smooth_step(-0.25, 0.25, depth);
                        density[index] = f64::max(density[index], here);
                    });
                }
            }
        }
        density
    }
}

/// Calls `f` with index and point of each voxel of `frame` in the box within `reach` µm of a point.
fn fill(frame: &Frame, centre: Point, reach: f64, mut f: impl FnMut(usize, Point)) {
    let [planes, rows, columns] = frame.around(centre, reach);
    for z in planes {
        for y in rows.clone() {
            for x in columns.clone() {
                let index = (z * frame.size[1] + y) * frame.size[2] + x;
                f(index, frame.point([z as f64, y as f64, x as f64]));
            }
        }
    }
}

impl Frame {
    /// The grid of an aligned single cell, as `segment-align` lays it.
    pub(super) fn aligned(specimen: &Specimen, size: [usize; 3], voxel_um: f64) -> Self {
        let coarse = specimen.coarse();
        let (mut cell, mut nucleus) = (Vec::with_capacity(coarse.len()), Vec::with_capacity(coarse.len()));
        for (inside, nuclear) in coarse.map(|point| {
            let inside = specimen.place(point).inside;
            (inside, specimen.nuclear(point, inside))
        }) {
            cell.push(u32::from(inside > 0.0));
            nucleus.push(u32::from(specimen.is_nucleus(inside, nuclear)));
        }
        let (cell, nucleus) = (Volume::new(coarse.size, cell), Volume::new(coarse.size, nucleus));
        let first = |labels: &Volume<u32>| regions(labels, 1).swap_remove(0);
        let (centre, pose) = match (first(&cell), first(&nucleus)) {
            (Some(body), Some(core)) => (coarse.point(core.centre), Pose::of(&cell, 1, &body, &core, coarse.voxel_um)),
            _ => (specimen.outline().centre, Pose { centre_um: [0.0; 3], angle: 0.0, flip: [false; 2] }),
        };
        let mirrored = pose.flip.map(|flip| if flip { -1.0 } else { 1.0 });
        Self { size, voxel_um: [voxel_um; 3], centre, angle: pose.angle, mirrored }
    }
}
