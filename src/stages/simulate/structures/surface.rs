//! Structures of the cell's surface: membrane, junctions, cortex, adhesions.

use super::{Here, Painter, sheet};
use crate::stages::simulate::{
    geometry::{Noise, Point, add, direction, scale, smooth_step, subtract},
    mitosis::Stage,
};

impl Painter<'_> {
    /// The largest side of a voxel in the plane and in height, µm.
    fn voxel(&self) -> f64 {
        self.frame.voxel_um.iter().copied().fold(0.0, f64::max)
    }

    /// Points spread over the base, `rim` in [0, 1] saying how far out at least, as (point, direction to the middle).
    fn at_base(&mut self, height: f64, rim: f64) -> (Point, Point) {
        let edge = self.on_contacts(height);
        let out = rim + (0.97 - rim) * self.rng.uniform().sqrt();
        let axis = [height, 0.0, 0.0];
        (add(axis, scale(subtract(edge, axis), out)), direction(subtract(axis, edge)))
    }

    /// Straight fibres along the base: chords of the outline.
    fn stress_fibres(&mut self, count: usize, brightness: f64, dotted: bool) {
        for _ in 0..count {
            let (from, inwards) = self.at_base(0.3, 0.75);
            let turn = 0.7 * self.rng.normal();
            let (sine, cosine) = libm::sincos(turn);
            let way = [0.0, inwards[1] * cosine - inwards[2] * sine, inwards[1] * sine + inwards[2] * cosine];
            let mut points = vec![from];
            let long = 4.0 + 7.0 * self.rng.uniform();
            for step in 1..=(long / 0.25) as usize {
                let point = add(from, scale(way, 0.25 * step as f64));
                if self.specimen.place(point).lateral < 0.3 {
                    break;
                }
                points.push(point);
            }
            let own = brightness * libm::exp(0.3 * self.rng.normal());
            if dotted {
                for pair in points.chunks(5).filter(|pair| pair.len() > 2) {
                    self.canvas.line(&pair[..3], 0.16, own);
                }
            } else {
                self.canvas.line(&points, 0.13, own);
            }
        }
    }

    /// A belt along the contacts, `below` µm under the upper surface and `height` µm wide (standard deviation).
    fn belt(&mut self, below: f64, height: f64, sigma: f64, brightness: f64, beads: f64) {
        let noise = Noise::new(self.rng, 1.4);
        let (frame, voxel) = (self.frame, self.voxel());
        let points = frame.map(|point| point);
        let seen = (height * height + voxel * voxel / 12.0).sqrt();
        self.fill(|index, here| {
            let level = (here.below_top - below) / seen;
            if here.lateral.abs() > 2.0 || level.abs() > 4.0 {
                return 0.0;
            }
            let uneven = (1.0 + beads * noise.at(points[index])).max(0.15);
            brightness * uneven * height / seen * libm::exp(-0.5 * level * level) * sheet(here.lateral, sigma, voxel)
        });
    }

    /// A sheet along the whole surface; `weight`: its brightness by place.
    fn cortex(&mut self, sigma: f64, weight: impl Fn(Here) -> f64) {
        let noise = Noise::new(self.rng, 3.0);
        let (frame, voxel) = (self.frame, self.voxel());
        let points = frame.map(|point| point);
        self.fill(|index, here| {
            if here.inside > 2.0 {
                return 0.0;
            }
            (1.0 + 0.25 * noise.at(points[index])) * weight(here) * sheet(here.inside, sigma, voxel)
        });
    }

    /// Height of the upper end of the contacts.
    fn top_of_contacts(&self) -> f64 {
        self.specimen.cell.edge_height
    }
}

pub(super) fn membrane_dye(painter: &mut Painter) {
    // Two membranes where cells touch, one above and below; the dye reaches the base less.
    painter.cortex(0.14, |here| {
        let base = smooth_step(0.0, 1.5, here.below_top);
        let single = 0.62 + 0.1 * base;
        single + (1.35 - single) * here.contact()
    });
    painter.haze(0.045, 0.02);
    let count = 4 + painter.rng.below(10);
    painter.vesicles(count, 0.22, 0.9, |_, _| 1.0);
}

pub(super) fn plasma_membrane(painter: &mut Painter) {
    painter.cortex(0.14, |here| 0.75 + 0.55 * here.contact());
    painter.haze(0.05, 0.02);
    let count = 15 + painter.rng.below(20);
    painter.vesicles(count, 0.2, 0.7, |_, _| 1.0);
}

pub(super) fn adherens_junctions(painter: &mut Painter) {
    painter.cortex(0.14, |here| here.contact() * (0.45 + 1.1 * libm::exp(-((here.below_top - 1.3) / 1.6).powi(2))));
    painter.haze(0.07, 0.03);
}

pub(super) fn tight_junctions(painter: &mut Painter) {
    painter.belt(0.7, 0.28, 0.16, 1.9, 0.25);
    painter.haze(0.035, 0.015);
}

pub(super) fn gap_junctions(painter: &mut Painter) {
    painter.haze(0.04, 0.015);
    let top = painter.top_of_contacts();
    let mitotic = painter.chromosomes().is_some();
    for _ in 0..(if mitotic { 3 } else { 7 }) + painter.rng.below(16) {
        let height = top * (0.12 + 0.8 * painter.rng.uniform());
        let point = painter.on_contacts(height);
        let bright = 1.3 * libm::exp(0.5 * painter.rng.normal());
        painter.canvas.spot(point, 0.2, bright);
        // Larger plaques stretch along the contact.
        if painter.rng.uniform() < 0.4 {
            painter.canvas.spot(add(point, [0.35, 0.0, 0.0]), 0.2, bright);
        }
    }
    painter.vesicles(10, 0.16, 0.5, |_, _| 1.0);
}

pub(super) fn desmosomes(painter: &mut Painter) {
    painter.haze(0.035, 0.02);
    let top = painter.top_of_contacts();
    for _ in 0..24 + painter.rng.below(28) {
        // Most are in the upper half.
        let height = top * (1.0 - 0.08 - 0.75 * painter.rng.uniform() * painter.rng.uniform());
        let point = painter.on_contacts(height);
        let bright = 1.5 * libm::exp(0.45 * painter.rng.normal());
        painter.canvas.spot(point, 0.16, bright);
    }
}

pub(super) fn matrix_adhesions(painter: &mut Painter) {
    painter.haze(0.07, 0.035);
    let rounded = painter.specimen.traits.roundness();
    let count = ((26 + painter.rng.below(22)) as f64 * (1.0 - 0.75 * rounded)) as usize;
    for _ in 0..count {
        let rim = if painter.rng.uniform() < 0.7 { 0.7 } else { 0.15 };
        let (point, inwards) = painter.at_base(0.12, rim);
        let long = 0.5 + 1.3 * painter.rng.uniform();
        let end = add(point, scale(inwards, long));
        let bright = 1.7 * libm::exp(0.35 * painter.rng.normal());
        painter.canvas.line(&[point, end], 0.16, bright);
    }
}

pub(super) fn actin_filaments(painter: &mut Painter) {
    painter.cortex(0.16, |here| {
        let apical = libm::exp(-(here.below_top / 1.2).powi(2));
        0.4 + 0.75 * here.contact() + 0.35 * apical
    });
    painter.haze(0.07, 0.025);
    if painter.specimen.traits.roundness() < 0.5 {
        let count = 6 + painter.rng.below(8);
        painter.stress_fibres(count, 0.9, false);
    }
}

pub(super) fn actomyosin_bundles(painter: &mut Painter) {
    painter.haze(0.08, 0.03);
    painter.belt(0.8, 0.45, 0.22, 1.2, 0.6);
    painter.cortex(0.16, |here| 0.18 + 0.2 * here.contact());
    if painter.specimen.traits.roundness() < 0.5 {
        let count = 7 + painter.rng.below(8);
        painter.stress_fibres(count, 1.3, true);
    }
    if painter.specimen.traits.stage == Stage::AnaphaseTelophase
        && let (Some(furrow), Some(chromosomes)) = (painter.specimen.cell.furrow, painter.chromosomes())
    {
        let strength = 0.4 + 0.3 * furrow.depth;
        let (frame, voxel, centre) = (painter.frame, painter.voxel(), chromosomes.centre);
        let points = frame.map(|point| point);
        painter.fill(|index, here| {
            let from = subtract(points[index], centre);
            let along = furrow.axis[0] * from[1] + furrow.axis[1] * from[2];
            strength * libm::exp(-0.5 * (along / 0.7).powi(2)) * sheet(here.inside, 0.2, voxel)
        });
    }
}
