//! Dividing cells: how often, and where their chromosomes are.

use serde::{Deserialize, Serialize};

use super::geometry::{Point, add, direction, distance_to_segment, perpendicular, random_direction, scale, subtract};
use crate::nn::Rng;

/// The mitotic stage of a cell, in the paper's classes (section 4.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Stage {
    Interphase,
    Prophase,
    EarlyPrometaphase,
    PrometaphaseMetaphase,
    AnaphaseTelophase,
}

impl Stage {
    /// All stages in their order.
    pub(super) const ALL: [Self; 5] = [
        Self::Interphase,
        Self::Prophase,
        Self::EarlyPrometaphase,
        Self::PrometaphaseMetaphase,
        Self::AnaphaseTelophase,
    ];

    /// The name in tables.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Interphase => "interphase",
            Self::Prophase => "prophase",
            Self::EarlyPrometaphase => "early-prometaphase",
            Self::PrometaphaseMetaphase => "prometaphase-metaphase",
            Self::AnaphaseTelophase => "anaphase-telophase",
        }
    }

    /// Draws a stage; a dividing cell is in each by how long it lasts.
    pub(super) fn draw(rng: &mut Rng, mitotic_fraction: f64) -> Self {
        if rng.uniform() >= mitotic_fraction {
            return Self::Interphase;
        }
        match rng.uniform() {
            u if u < 0.22 => Self::Prophase,
            u if u < 0.36 => Self::EarlyPrometaphase,
            u if u < 0.70 => Self::PrometaphaseMetaphase,
            _ => Self::AnaphaseTelophase,
        }
    }
}

/// Part of a condensed chromosome: a rod with round ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rod {
    pub(super) ends: [Point; 2],
    /// µm.
    pub(super) radius: f64,
    /// Brightness of its DNA, about 1.
    pub(super) density: f64,
}

/// The spindle and the chromosomes of a dividing cell after its nuclear envelope broke down.
#[derive(Clone, Debug)]
pub(super) struct Chromosomes {
    pub(super) rods: Vec<Rod>,
    pub(super) centre: Point,
    /// Unit vector from one pole to the other.
    pub(super) axis: Point,
    /// The two spindle poles.
    pub(super) poles: [Point; 2],
    /// Distance between the two sets of chromosomes, µm; 0 before they part.
    pub(super) separation: f64,
}

/// Human cells have 46 chromosomes; after anaphase has begun each side has as many.
const CHROMOSOMES: usize = 46;

impl Chromosomes {
    /// Chromosomes at a stage after prophase. `axis`: of the spindle; `progress` in [0, 1]: how far through the stage; `volume`:
    /// of the cell in µm³, to which spindles adapt.
    pub(super) fn draw(rng: &mut Rng, stage: Stage, progress: f64, centre: Point, axis: Point, volume: f64) -> Self {
        let size = libm::cbrt(volume / 2300.0);
        let mut rods = Vec::new();
        let sides = perpendicular(axis);
        let on_plate = |along: f64, radius: f64, around: f64| {
            let (sine, cosine) = libm::sincos(around);
            add(scale(axis, along), add(scale(sides[0], radius * cosine), scale(sides[1], radius * sine)))
        };
        let mut separation = 0.0;
        let mut half_spindle = 5.2 * size;
        let mut rod = |rng: &mut Rng, middle: Point, way: Point, half: f64, radius: f64| {
            let way = scale(direction(way), half);
            let middle = add(centre, middle);
            let density = 0.85 + 0.3 * rng.uniform();
            rods.push(Rod { ends: [subtract(middle, way), add(middle, way)], radius, density });
        };
        match stage {
            Stage::Interphase | Stage::Prophase => {}
            Stage::EarlyPrometaphase => {
                // A ragged ring around the young spindle, or a clump with a hole.
                half_spindle = (2.2 + 1.5 * progress) * size;
                let squeeze = 0.75 + 0.3 * rng.uniform();
                for _ in 0..CHROMOSOMES {
                    let around = std::f64::consts::TAU * rng.uniform();
                    let radius = size * (2.9 + 0.75 * rng.normal()).clamp(1.0, 4.6);
                    let mut middle = on_plate(1.15 * rng.normal() * size, radius, around);
                    middle[0] *= squeeze;
                    let way = add(random_direction(rng), scale(direction(middle), 0.5));
                    let half = 0.5 + 0.9 * rng.uniform();
                    rod(rng, middle, way, half, 0.46);
                }
            }
            Stage::PrometaphaseMetaphase => {
                // A plate across the spindle, thinner as chromosomes line up.
                half_spindle = (4.4 + 1.0 * progress) * size;
                let thickness = 1.15 - 0.8 * progress.min(0.9);
                let wide = size * (4.4 + 0.3 * rng.normal());
                for _ in 0..CHROMOSOMES {
                    let around = std::f64::consts::TAU * rng.uniform();
                    let radius = wide * rng.uniform().sqrt();
                    let middle = on_plate(thickness * rng.normal() * 0.55, radius, around);
                    let way = add(scale(axis, 0.8), random_direction(rng));
                    let half = 0.45 + 0.55 * rng.uniform();
                    rod(rng, middle, way, half, 0.5);
                }
            }
            Stage::AnaphaseTelophase => {
                separation = size * (3.2 + 6.6 * progress);
                half_spindle = separation / 2.0 + (2.6 - 1.2 * progress) * size;
                // Plates of anaphase round up into the small nuclei of telophase.
                let wide = size * (3.6 - 0.9 * progress);
                let thick = 0.35 + 0.75 * progress;
                for side in [-1.0, 1.0] {
                    for _ in 0..CHROMOSOMES {
                        let around = std::f64::consts::TAU * rng.uniform();
                        let share = rng.uniform().sqrt();
                        // Arms trail behind the kinetochores: the plate bends away from its pole at the rim.
                        let bend = -0.9 * share * share * (1.0 - progress);
                        let along = side * (separation / 2.0 + bend) + thick * rng.normal() * 0.6;
                        let middle = on_plate(along, wide * share, around);
                        let way = add(scale(axis, 1.2 * (1.0 - progress)), random_direction(rng));
                        let half = 0.4 + 0.4 * rng.uniform();
                        rod(rng, middle, way, half, 0.45 + 0.12 * progress);
                    }
                }
            }
        }
        let poles = [-1.0, 1.0].map(|side| add(centre, scale(axis, side * half_spindle)));
        Self { rods, centre, axis, poles, separation }
    }

    /// The distance to the surface of the nearest chromosome, positive inside.
    pub(super) fn inside(&self, point: Point) -> f64 {
        let depth = |rod: &Rod| rod.radius - distance_to_segment(point, rod.ends[0], rod.ends[1]);
        self.rods.iter().map(depth).fold(-9.0, f64::max)
    }

    /// The centres of the sets of chromosomes: one before they part, then two.
    pub(super) fn sets(&self) -> Vec<Point> {
        if self.separation > 0.0 {
            [-0.5, 0.5].map(|side| add(self.centre, scale(self.axis, side * self.separation))).to_vec()
        } else {
            vec![self.centre]
        }
    }
}
