//! The shape of a cell in an epithelium-like colony: a polygonal column between its neighbours, flat below, domed above.

use super::geometry::{Noise, Point, smooth_minimum};
use crate::nn::Rng;

/// A contact with a neighbour: the half-plane `normal` · (y, x) ≤ `offset` of the cell's side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side {
    /// Unit vector towards the neighbour: Y, X.
    pub(super) normal: [f64; 2],
    /// Distance of the contact from the origin in µm.
    pub(super) offset: f64,
    /// How far the neighbour, rounded up, has drawn back from the contact at the lower and upper end, µm.
    pub(super) left_by_neighbour: f64,
}

/// The waist of a dividing cell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Furrow {
    /// Direction from one daughter to the other: Y, X.
    pub(super) axis: [f64; 2],
    /// How far the waist reaches into the cell, µm.
    pub(super) depth: f64,
}

/// The shape of a cell. The substrate is the plane z = 0; the cell's own axis runs through y = x = 0.
#[derive(Clone, Debug)]
pub(super) struct CellShape {
    /// Contacts with the neighbours.
    pub(super) sides: Vec<Side>,
    /// Height above the substrate at the contacts, µm.
    pub(super) edge_height: f64,
    /// How much higher the middle is than the edge, µm.
    pub(super) dome: f64,
    /// Slope of the upper surface: µm per µm along Y and X.
    pub(super) slope: [f64; 2],
    /// Shift of the column with height: µm per µm along Y and X.
    pub(super) lean: [f64; 2],
    /// 0: a column; 1: rounded up for mitosis.
    pub(super) roundness: f64,
    /// The waist, while the cell divides.
    pub(super) furrow: Option<Furrow>,
    /// Unevenness of the contacts.
    pub(super) waviness: [Noise; 2],
    /// Where the cell's axis stands in the coordinates of the unevenness, which neighbours share: Y, X.
    pub(super) site: [f64; 2],
}

/// Where a point lies in a cell; distances in µm, positive inside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// To the nearest part of the surface, roughly.
    pub(super) inside: f64,
    /// To the nearest contact with a neighbour.
    pub(super) lateral: f64,
    /// To the upper surface, straight up.
    pub(super) below_top: f64,
}

/// Amplitude of the unevenness of contacts in µm, and the distance of its hills.
const WAVINESS_UM: f64 = 0.5;
const WAVINESS_WAVELENGTH_UM: f64 = 7.0;
/// How much of its girth a rounded cell loses at its lower and upper end.
pub(super) const ROUNDING: f64 = 0.42;
/// The dome has risen to 63 % this far from the contacts, µm.
const DOME_REACH_UM: f64 = 2.2;

impl CellShape {
    /// Unevenness for contacts.
    pub(super) fn draw_waviness(rng: &mut Rng) -> [Noise; 2] {
        [Noise::new(rng, WAVINESS_WAVELENGTH_UM), Noise::new(rng, WAVINESS_WAVELENGTH_UM)]
    }

    /// Height of the middle above the substrate, µm.
    pub(super) fn height(&self) -> f64 {
        self.edge_height + self.dome
    }

    /// The distances to the contacts, had they no unevenness, at a height and a position in the plane (Y, X).
    fn gaps(&self, z: f64, y: f64, x: f64) -> impl Iterator<Item = f64> + Clone {
        let height = self.height();
        let rise = z - height / 2.0;
        let at = [y - self.lean[0] * rise, x - self.lean[1] * rise];
        // A rounded cell is widest at half its height; neighbours fill the room below and above.
        let end = (2.0 * rise / height).powi(2).min(1.5);
        let girth = 1.0 - self.roundness * ROUNDING * end;
        self.sides.iter().map(move |side| {
            let offset = side.offset * girth + side.left_by_neighbour * end;
            offset - side.normal[0] * at[0] - side.normal[1] * at[1]
        })
    }

    /// Whether `point` is more than `distance` µm outside the cell; the quick answer to ask first.
    pub(super) fn is_far(&self, point: Point, distance: f64) -> bool {
        let [z, y, x] = point;
        z < -distance || self.gaps(z, y, x).any(|gap| gap < -distance - 1.5 * WAVINESS_UM)
    }

    /// Where `point` lies.
    pub(super) fn place(&self, point: Point) -> Place {
        let [z, y, x] = point;
        let shared = [z, y + self.site[0], x + self.site[1]];
        let waves = self.waviness.map(|noise| WAVINESS_UM * noise.at(shared));
        let (wavy_y, wavy_x) = (y + waves[0], x + waves[1]);
        let corner = 0.35 + 1.05 * self.roundness;
        let mut lateral = smooth_minimum(self.gaps(z, wavy_y, wavy_x), corner);
        if let Some(furrow) = &self.furrow {
            let along = furrow.axis[0] * wavy_y + furrow.axis[1] * wavy_x;
            lateral -= furrow.depth * libm::exp(-(along / 2.0).powi(2));
        }
        let top = self.edge_height
            + self.slope[0] * y
            + self.slope[1] * x
            + self.dome * (1.0 - libm::exp(-lateral.max(0.0) / DOME_REACH_UM));
        let inside = smooth_minimum([lateral, top - z, z].into_iter(), 0.25 + 0.5 * self.roundness);
        Place { inside, lateral, below_top: top - z }
    }

    /// Makes all contacts `factor` times as far away.
    pub(super) fn widen(&mut self, factor: f64) {
        for side in &mut self.sides {
            side.offset *= factor;
        }
    }

    /// Makes the cell `factor` times as high.
    pub(super) fn raise(&mut self, factor: f64) {
        self.edge_height *= factor;
        self.dome *= factor;
    }

    /// How far the cell can reach from its axis along Y and X, µm.
    pub(super) fn reach(&self) -> f64 {
        // The corner of a polygon with five or more sides, its unevenness and its lean.
        let far = self.sides.iter().map(|side| side.offset + side.left_by_neighbour).fold(0.0, f64::max);
        let lean = (self.lean[0].abs() + self.lean[1].abs()) * self.height() / 2.0;
        1.35 * far + lean + WAVINESS_UM
    }
}

/// The contacts of a cell among five to seven neighbours, about 1 µm away, stretched to `elongation` (long over short axis)
/// along `angle` (from Y towards X).
pub(super) fn draw_sides(rng: &mut Rng, elongation: f64, angle: f64) -> Vec<Side> {
    let count = match rng.uniform() {
        u if u < 0.28 => 5,
        u if u < 0.74 => 6,
        _ => 7,
    };
    let turn = rng.uniform();
    let (sine, cosine) = libm::sincos(angle);
    let stretch = elongation.sqrt();
    (0..count)
        .map(|number| {
            let around = std::f64::consts::TAU * (f64::from(number) + turn + 0.09 * rng.normal()) / f64::from(count);
            let offset = (1.0 + 0.08 * rng.normal()).max(0.7);
            // Stretching moves a half-plane's border by the inverse of the stretch applied to its normal.
            let (along, across) = (libm::cos(around) / stretch, libm::sin(around) * stretch);
            let length = libm::hypot(along, across);
            let (along, across) = (along / length, across / length);
            Side {
                normal: [along * cosine - across * sine, along * sine + across * cosine],
                offset: offset / length,
                left_by_neighbour: 0.0,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn column() -> CellShape {
        let mut rng = Rng::new(1, "cell", 0);
        let mut shape = CellShape {
            sides: draw_sides(&mut rng, 1.4, 0.3),
            edge_height: 9.0,
            dome: 2.5,
            slope: [0.0; 2],
            lean: [0.1, 0.0],
            roundness: 0.0,
            furrow: None,
            waviness: CellShape::draw_waviness(&mut rng),
            site: [0.0; 2],
        };
        shape.widen(7.0);
        shape
    }

    #[test]
    fn a_column_is_flat_below_domed_above_and_walled_around() {
        let shape = column();
        assert!(shape.place([5.0, 0.0, 0.0]).inside > 3.0);
        assert!(shape.place([-0.2, 0.0, 0.0]).inside < 0.0);
        assert!(shape.place([11.0, 0.0, 0.0]).inside > 0.0 && shape.place([11.6, 0.0, 0.0]).inside < 0.0);
        let reach = shape.reach();
        for step in 0..24 {
            let (sine, cosine) = libm::sincos(f64::from(step) * std::f64::consts::TAU / 24.0);
            for z in [0.5, 5.0, 10.0] {
                assert!(shape.place([z, reach * cosine, reach * sine]).inside < 0.0, "{step} {z}");
            }
        }
    }

    #[test]
    fn a_rounded_cell_is_wider_in_the_middle_than_below() {
        let mut shape = column();
        shape.lean = [0.0; 2];
        shape.roundness = 1.0;
        let width =
            |z: f64| (0..200).filter(|i| shape.place([z, f64::from(*i) * 0.1 - 10.0, 0.0]).inside > 0.0).count();
        assert!(width(5.5) > width(1.0) + 15, "{} {}", width(5.5), width(1.0));
    }
}
