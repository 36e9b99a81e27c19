//! The nucleus between divisions: a smooth, slightly dented ellipsoid with nucleoli and chromatin.

use super::{
    cell::CellShape,
    geometry::{
        Noise, Point, add, direction, dot, length, random_direction, scale, smooth_minimum, smooth_step, subtract,
    },
};
use crate::nn::Rng;

/// A nucleolus: a ball with a lumpy surface.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nucleolus {
    pub(super) centre: Point,
    /// µm.
    pub(super) radius: f64,
}

/// The nucleus of a cell between divisions or in prophase.
#[derive(Clone, Debug)]
pub(super) struct Nucleus {
    pub(super) centre: Point,
    /// Half-lengths in µm: Z, long, short.
    pub(super) half_axes: Point,
    /// Direction of the long axis in the plane, from Y towards X.
    pub(super) angle: f64,
    pub(super) nucleoli: Vec<Nucleolus>,
    /// 0: chromatin spread out; 1: condensed threads, as at the end of prophase.
    pub(super) condensation: f64,
    dents: Noise,
    clumps: Noise,
    grain: Noise,
}

/// How far the nucleus keeps from the surface of the cell, µm.
const KEPT_FROM_SURFACE_UM: f64 = 0.45;
/// Depth of dents over the mean half-axis.
const DENTS: f64 = 0.07;

impl Nucleus {
    /// A nucleus of these half-axes, without nucleoli yet.
    pub(super) fn new(rng: &mut Rng, centre: Point, half_axes: Point, angle: f64, condensation: f64) -> Self {
        Self {
            centre,
            half_axes,
            angle,
            nucleoli: Vec::new(),
            condensation,
            dents: Noise::new(rng, 1.6),
            clumps: Noise::new(rng, 2.6),
            grain: Noise::new(rng, if condensation > 0.0 { 1.3 } else { 1.1 }),
        }
    }

    /// The distance to the envelope in µm, roughly; positive inside. The cell presses the nucleus where it is in its way.
    pub(super) fn inside(&self, point: Point, cell_inside: f64) -> f64 {
        let own = self.own_inside(point);
        smooth_minimum([own, cell_inside - KEPT_FROM_SURFACE_UM].into_iter(), 0.3)
    }

    fn own_inside(&self, point: Point) -> f64 {
        let [z, y, x] = subtract(point, self.centre);
        let (sine, cosine) = libm::sincos(self.angle);
        let offset = [z, y * cosine + x * sine, x * cosine - y * sine];
        let relative: Point = std::array::from_fn(|axis| offset[axis] / self.half_axes[axis]);
        let radius = length(relative);
        let dent = if radius > 0.2 { DENTS * self.dents.at(direction(relative)) } else { 0.0 };
        let steepness: Point = std::array::from_fn(|axis| relative[axis] / self.half_axes[axis]);
        // The first-order distance to an ellipsoid.
        if radius < 1e-6 { self.half_axes[0] } else { (1.0 + dent - radius) * radius / length(steepness) }
    }

    /// Places one to four nucleoli that fill about a twentieth of `volume` (µm³).
    pub(super) fn draw_nucleoli(&mut self, rng: &mut Rng, volume: f64, cell: &CellShape) {
        let count = match rng.uniform() {
            u if u < 0.25 => 1,
            u if u < 0.65 => 2,
            u if u < 0.9 => 3,
            _ => 4,
        };
        let shares: Vec<f64> = (0..count).map(|_| 0.5 + rng.uniform()).collect();
        let total: f64 = shares.iter().sum();
        for share in shares {
            let own = 0.055 * volume * share / total;
            let radius = libm::cbrt(own * 3.0 / (4.0 * std::f64::consts::PI));
            for _ in 0..40 {
                let reach = libm::cbrt(rng.uniform());
                let way = scale(random_direction(rng), reach);
                let centre: Point = std::array::from_fn(|axis| self.centre[axis] + way[axis] * self.half_axes[axis]);
                let apart = self.nucleoli.iter().all(|n| length(subtract(n.centre, centre)) > n.radius + radius + 0.4);
                if apart && self.inside(centre, cell.place(centre).inside) > radius + 0.35 {
                    self.nucleoli.push(Nucleolus { centre, radius });
                    break;
                }
            }
        }
    }

    /// The distance to the surface of the nearest nucleolus, positive inside.
    pub(super) fn inside_nucleolus(&self, point: Point) -> f64 {
        let lumps = 0.25 * self.clumps.at(scale(point, 1.3));
        let depth = |n: &Nucleolus| n.radius - length(subtract(point, n.centre));
        self.nucleoli.iter().map(depth).fold(-9.0, f64::max) + lumps
    }

    /// The density of DNA at a point, 1 on average inside. `inside`: as [`Nucleus::inside`] gives it.
    pub(super) fn chromatin(&self, point: Point, inside: f64) -> f64 {
        if inside < -0.4 {
            return 0.0;
        }
        let edge = smooth_step(-0.25, 0.25, inside);
        let hollow = 1.0 - 0.62 * (1.0 - self.condensation) * smooth_step(-0.2, 0.35, self.inside_nucleolus(point));
        let clumps = self.clumps.at(point);
        let grain = self.grain.at(add(point, [31.7, 11.3, 5.9]));
        // Spread-out chromatin: denser patches, and a denser rim. Condensed chromatin: bright threads in the dark.
        let rim = 0.18 * libm::exp(-(inside - 0.4).powi(2) / 0.3);
        let spread = 0.92 + 0.30 * clumps + 0.22 * grain + rim;
        let threads = 0.35 + 2.4 * (1.0 - (grain + 0.35 * clumps).abs()).clamp(0.0, 1.0).powi(5);
        edge * hollow * (spread + self.condensation * (threads - spread)).max(0.08)
    }

    /// A point of the envelope in a direction from the centre.
    pub(super) fn envelope(&self, way: Point, cell: &CellShape) -> Point {
        let way = direction(way);
        let (mut near, mut far) = (0.0, 20.0);
        for _ in 0..24 {
            let middle = f64::midpoint(near, far);
            let point = add(self.centre, scale(way, middle));
            if self.inside(point, cell.place(point).inside) > 0.0 { near = middle } else { far = middle }
        }
        add(self.centre, scale(way, near))
    }

    /// Makes the half-axes in the plane `factor` times as long; the height stays.
    pub(super) fn widen(&mut self, factor: f64) {
        self.half_axes[1..].iter_mut().for_each(|half| *half *= factor);
    }

    /// The largest distance of a point inside from the centre, µm.
    pub(super) fn reach(&self) -> f64 {
        dot(self.half_axes, [0.0, 1.0, 0.0]).max(self.half_axes[0]).max(self.half_axes[2]) * (1.0 + 2.0 * DENTS)
    }
}
