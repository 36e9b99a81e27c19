//! The 19 tagged structures of the paper, each by its known place in the cell.
//!
//! | name | tagged gene | place |
//! |---|---|---|
//! | `actin-filaments` | ACTB | cortex, most at the contacts; fibres at the base |
//! | `actomyosin-bundles` | MYH10 | belt at the apical contacts, bundles at the base, contractile ring |
//! | `adherens-junctions` | CTNNB1 | contacts, more towards the top |
//! | `centrioles` | CETN2 | one pair of dots beside the nucleus, two after its duplication; spindle poles |
//! | `desmosomes` | DSP | dots on the contacts |
//! | `endoplasmic-reticulum` | SEC61B | nuclear envelope and a mesh through the cytoplasm |
//! | `endosomes` | RAB5A | many small vesicles |
//! | `gap-junctions` | GJA1 | few plaques on the contacts |
//! | `golgi` | ST6GAL1 | a ribbon on one side of the nucleus |
//! | `lysosomes` | LAMP1 | vesicles, most of them near the nucleus |
//! | `matrix-adhesions` | PXN | short streaks at the base |
//! | `microtubules` | TUBA1B | fibres from the centrosome through the cytoplasm; the spindle |
//! | `mitochondria` | TOMM20 | a network of tubes in the cytoplasm |
//! | `nuclear-envelope` | LMNB1 | a shell around the nucleus; dissolved in mitosis |
//! | `nucleoli-dfc` | FBL | the dense fibrillar component: small bright bodies in the nucleoli |
//! | `nucleoli-gc` | NPM1 | the granular component: the nucleoli as a whole; dispersed in mitosis |
//! | `peroxisomes` | SLC25A17 | small dots all over the cytoplasm |
//! | `plasma-membrane` | AAVS1 (CAAX of K-Ras) | the cell's surface |
//! | `tight-junctions` | TJP1 | a thin band at the apical contacts |
//!
//! Fifteen of them the paper's text names; endoplasmic reticulum, lysosomes, peroxisomes and actomyosin bundles complete the
//! cell lines that its data come from.

mod cytoskeleton;
mod nuclear;
mod organelles;
mod surface;

use super::{
    Drug,
    canvas::{Canvas, Frame},
    geometry::{Point, add, direction, dot, random_direction, scale, smooth_step, subtract},
    mitosis::{Chromosomes, Stage},
    nucleus::Nucleus,
    specimen::{Anatomy, Dna, Specimen},
};
use crate::nn::Rng;

/// How a structure is painted.
type Paint = fn(&mut Painter);

/// All structures: name, how it is painted, and the electrons that brightness 1 gives.
const STRUCTURES: [(&str, Paint, f64); 19] = [
    ("actin-filaments", surface::actin_filaments, 130.0),
    ("actomyosin-bundles", surface::actomyosin_bundles, 150.0),
    ("adherens-junctions", surface::adherens_junctions, 170.0),
    ("centrioles", cytoskeleton::centrioles, 260.0),
    ("desmosomes", surface::desmosomes, 260.0),
    ("endoplasmic-reticulum", organelles::endoplasmic_reticulum, 130.0),
    ("endosomes", organelles::endosomes, 220.0),
    ("gap-junctions", surface::gap_junctions, 320.0),
    ("golgi", organelles::golgi, 220.0),
    ("lysosomes", organelles::lysosomes, 170.0),
    ("matrix-adhesions", surface::matrix_adhesions, 210.0),
    ("microtubules", cytoskeleton::microtubules, 130.0),
    ("mitochondria", organelles::mitochondria, 170.0),
    ("nuclear-envelope", nuclear::nuclear_envelope, 170.0),
    ("nucleoli-dfc", nuclear::nucleoli_dfc, 260.0),
    ("nucleoli-gc", nuclear::nucleoli_gc, 170.0),
    ("peroxisomes", organelles::peroxisomes, 330.0),
    ("plasma-membrane", surface::plasma_membrane, 190.0),
    ("tight-junctions", surface::tight_junctions, 260.0),
];

/// The names of all structures, sorted.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    STRUCTURES.iter().map(|(name, _, _)| *name)
}

/// Paints a structure in a cell: its brightness at the voxels of `frame`, and the electrons that brightness 1 gives.
///
/// # Panics
/// When there is no structure of this name.
pub(super) fn paint(
    name: &str,
    specimen: &Specimen,
    frame: &Frame,
    anatomy: &Anatomy,
    drug: Drug,
    rng: &mut Rng,
) -> (Vec<f32>, f64) {
    let (_, paint, electrons) =
        STRUCTURES.iter().find(|(other, _, _)| *other == name).expect("names are checked before");
    let mut painter = Painter { specimen, frame, anatomy, drug, rng, canvas: Canvas::new(frame) };
    paint(&mut painter);
    (painter.canvas.data, *electrons)
}

/// What painting a structure works with.
struct Painter<'a> {
    specimen: &'a Specimen,
    frame: &'a Frame,
    anatomy: &'a Anatomy,
    drug: Drug,
    rng: &'a mut Rng,
    canvas: Canvas<'a>,
}

/// Standard deviation of a thin sheet's or filament's own width, µm.
const THIN_UM: f64 = 0.12;

impl<'a> Painter<'a> {
    /// The nucleus, unless its envelope has broken down.
    fn nucleus(&self) -> Option<&'a Nucleus> {
        match &self.specimen.dna {
            Dna::Nucleus(nucleus) => Some(nucleus),
            Dna::Chromosomes(_) => None,
        }
    }

    /// The chromosomes, once the envelope has broken down.
    fn chromosomes(&self) -> Option<&'a Chromosomes> {
        match &self.specimen.dna {
            Dna::Nucleus(_) => None,
            Dna::Chromosomes(chromosomes) => Some(chromosomes),
        }
    }

    /// How far the cell is into its telophase, in [0, 1]; 0 for all others.
    fn telophase(&self) -> f64 {
        let traits = &self.specimen.traits;
        if traits.stage == Stage::AnaphaseTelophase { smooth_step(0.45, 0.95, traits.progress) } else { 0.0 }
    }

    /// Brightness of every voxel from its place: `f` of (index, inside, lateral, below top, nuclear).
    fn fill(&mut self, f: impl Fn(usize, Here) -> f64) {
        let anatomy = self.anatomy;
        let here = |i: usize| Here {
            inside: f64::from(anatomy.inside[i]),
            lateral: f64::from(anatomy.lateral[i]),
            below_top: f64::from(anatomy.below_top[i]),
            nuclear: f64::from(anatomy.nuclear[i]),
        };
        self.canvas.add((0..anatomy.inside.len()).map(|i| if anatomy.inside[i] > -1.5 { f(i, here(i)) } else { 0.0 }));
    }

    /// A haze in the cytoplasm, of this brightness, and in the nucleus.
    fn haze(&mut self, cytoplasm: f64, nucleus: f64) {
        self.fill(|_, here| here.interior() * (cytoplasm + (nucleus - cytoplasm) * here.within_nucleus()));
    }

    /// How far inside the cell a point is, and how far inside the nucleus.
    fn depths(&self, point: Point) -> (f64, f64) {
        let inside = self.specimen.place(point).inside;
        (inside, self.specimen.nuclear(point, inside))
    }

    /// A point of the cytoplasm, at least `margin` µm from surface and nucleus; `keep`: the share of points at a place that
    /// are taken, given the point and its distance from the nucleus.
    fn in_cytoplasm(&mut self, margin: f64, keep: impl Fn(Point, f64) -> f64) -> Option<Point> {
        let [low, high] = self.specimen.bounds();
        for _ in 0..400 {
            let point: Point = std::array::from_fn(|axis| low[axis] + self.rng.uniform() * (high[axis] - low[axis]));
            let (inside, nuclear) = self.depths(point);
            if inside > margin && nuclear < -margin && self.rng.uniform() < keep(point, -nuclear) {
                return Some(point);
            }
        }
        None
    }

    /// A point of the contacts with neighbours at a height, seen from the cell's axis in a random direction.
    fn on_contacts(&mut self, height: f64) -> Point {
        let (sine, cosine) = libm::sincos(std::f64::consts::TAU * self.rng.uniform());
        let (mut near, mut far) = (0.0, self.specimen.cell.reach());
        for _ in 0..20 {
            let middle = f64::midpoint(near, far);
            let lateral = self.specimen.place([height, middle * cosine, middle * sine]).lateral;
            if lateral > 0.0 { near = middle } else { far = middle }
        }
        [height, near * cosine, near * sine]
    }

    /// A path that starts at a point, bends at random, and turns away from the cell's surface and the nucleus.
    /// `bend`: how much it turns in a step; `depth`: how far from surface and nucleus it stays, µm.
    fn path(&mut self, start: Point, way: Point, steps: usize, step: f64, bend: f64, depth: f64) -> Vec<Point> {
        let mut points = vec![start];
        let (mut at, mut way) = (start, direction(way));
        for _ in 0..steps {
            way = direction(add(way, scale(random_direction(self.rng), bend)));
            let mut next = add(at, scale(way, step));
            let (inside, nuclear) = self.depths(next);
            if inside < depth || nuclear > -depth {
                // Along the wall: without the part of the way that leads into it.
                let away = self.away_from_walls(next, depth);
                let into = dot(way, away).min(0.0);
                way = direction(add(subtract(way, scale(away, 1.15 * into)), scale(away, 0.15)));
                next = add(at, scale(way, step));
                let (inside, nuclear) = self.depths(next);
                if inside < depth * 0.4 || nuclear > -depth * 0.4 {
                    break;
                }
            }
            at = next;
            points.push(at);
        }
        points
    }

    /// The direction in which a point gets away fastest from the wall, surface or nucleus, that it is too close to.
    fn away_from_walls(&self, point: Point, depth: f64) -> Point {
        let room = |point: Point| {
            let (inside, nuclear) = self.depths(point);
            inside.min(depth).min(-nuclear)
        };
        let step = 0.2;
        direction(std::array::from_fn(|axis| {
            let mut moved = point;
            moved[axis] += step;
            let ahead = room(moved);
            moved[axis] -= 2.0 * step;
            ahead - room(moved)
        }))
    }

    /// Spots of about one size and brightness in the cytoplasm.
    fn vesicles(&mut self, count: usize, sigma: f64, brightness: f64, keep: impl Fn(Point, f64) -> f64) {
        for _ in 0..count {
            if let Some(point) = self.in_cytoplasm(0.35, &keep) {
                let own = sigma * libm::exp(0.25 * self.rng.normal());
                let bright = brightness * libm::exp(0.4 * self.rng.normal());
                self.canvas.spot(point, own, bright);
            }
        }
    }

    /// Where the centrosomes are: one or two between divisions, the spindle poles in mitosis.
    fn centrosomes(&self) -> Vec<Point> {
        match &self.specimen.dna {
            Dna::Chromosomes(chromosomes) => chromosomes.poles.to_vec(),
            Dna::Nucleus(nucleus) => {
                // The same place for every structure of a cell: the nucleus's own dents say where.
                let turn = nucleus.angle * 7.0 + nucleus.half_axes[0] * 13.0;
                let way = [0.55, libm::cos(turn), libm::sin(turn)];
                let apart = if self.specimen.traits.stage == Stage::Prophase { 2.2 } else { 0.18 };
                let ways: Vec<Point> = if self.specimen.traits.cycle > 0.6 {
                    vec![
                        add(way, [0.0, -apart * way[2], apart * way[1]]),
                        subtract(way, [0.0, -apart * way[2], apart * way[1]]),
                    ]
                } else {
                    vec![way]
                };
                let cell = &self.specimen.cell;
                let beside = |way: Point| {
                    let surface = nucleus.envelope(way, cell);
                    let mut point = add(surface, scale(direction(way), 0.8));
                    // In a narrow place the centrosome lies close to the nucleus.
                    if cell.place(point).inside < 0.3 {
                        point = add(surface, scale(direction(way), 0.3));
                    }
                    point
                };
                ways.into_iter().map(beside).collect()
            }
        }
    }
}

/// Where a voxel lies; distances in µm, positive inside.
#[derive(Clone, Copy)]
struct Here {
    inside: f64,
    lateral: f64,
    below_top: f64,
    nuclear: f64,
}

impl Here {
    /// 1 inside the cell, 0 outside.
    fn interior(self) -> f64 {
        smooth_step(-0.1, 0.35, self.inside)
    }

    /// 1 inside the nucleus or a chromosome, 0 outside.
    fn within_nucleus(self) -> f64 {
        smooth_step(-0.25, 0.25, self.nuclear)
    }

    /// 1 in the cytoplasm.
    fn cytoplasm(self) -> f64 {
        self.interior() * (1.0 - self.within_nucleus())
    }

    /// How much the nearest surface is a contact with a neighbour: 1 on the sides, 0 above and below.
    fn contact(self) -> f64 {
        // `inside` is the rounded minimum of the distances to all surfaces.
        1.0 - smooth_step(0.1, 0.9, self.lateral - self.inside)
    }
}

/// How bright a thin sheet is at a distance (µm) from it, averaged over voxels as large as `voxel`.
fn sheet(distance: f64, sigma: f64, voxel: f64) -> f64 {
    let seen = super::canvas::seen_width(sigma, voxel);
    sigma / seen * libm::exp(-0.5 * (distance / seen).powi(2))
}

/// The brightness of the plasma membrane dye: thin, brighter where two cells touch, with a few vesicles that took it up.
pub(super) fn paint_membrane(specimen: &Specimen, frame: &Frame, anatomy: &Anatomy, rng: &mut Rng) -> Vec<f32> {
    let mut painter = Painter { specimen, frame, anatomy, drug: Drug::None, rng, canvas: Canvas::new(frame) };
    surface::membrane_dye(&mut painter);
    painter.canvas.data
}
