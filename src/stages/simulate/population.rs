//! How cells of a colony differ: quantiles of volumes and heights, and how these hang together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::mitosis::Stage;
use crate::nn::Rng;

/// A population of interphase cells. Each measure is given by its quantiles at 5, 25, 50, 75 and 95 %, between which its logarithm is
/// that of a normal distribution; give those of your own cells to simulate cells like them. The defaults are those of hiPS cells away
/// from the colony's edge (4,478 cells, from the published tables of Viana et al. 2023).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Population {
    /// Volume of the cell, µm³.
    pub(super) cell_volume: [f64; 5],
    /// Height of the cell, µm.
    pub(super) cell_height: [f64; 5],
    /// Volume of the nucleus, µm³.
    pub(super) nucleus_volume: [f64; 5],
    /// Height of the nucleus, µm.
    pub(super) nucleus_height: [f64; 5],
    /// Correlation of the logarithms of cell volume and cell height.
    pub(super) volume_with_height: f64,
    /// Correlation of the logarithms of cell volume and nuclear volume.
    pub(super) volume_with_nucleus: f64,
    /// Correlation of the logarithms of cell height and nuclear height.
    pub(super) height_with_nucleus: f64,
}

impl Default for Population {
    fn default() -> Self {
        Self {
            cell_volume: [1242.0, 1599.0, 1898.0, 2266.0, 2879.0],
            cell_height: [5.8, 7.9, 9.1, 10.6, 12.9],
            nucleus_volume: [331.0, 457.0, 552.0, 661.0, 835.0],
            nucleus_height: [4.1, 5.5, 6.5, 7.6, 9.1],
            volume_with_height: 0.40,
            volume_with_nucleus: 0.85,
            height_with_nucleus: 0.91,
        }
    }
}

/// The standard normal distribution's quantiles at 5, 25, 50, 75 and 95 %.
const NORMAL: [f64; 5] = [-1.644_854, -0.674_490, 0.0, 0.674_490, 1.644_854];
/// No cell lies further out, in standard deviations.
const FURTHEST: f64 = 2.6;
/// Room between nucleus and cell surface above and below together, at least, µm.
const ROOM_UM: f64 = 1.2;
/// The most of a cell that its nucleus fills.
const LARGEST_NUCLEUS: f64 = 0.5;

/// The measures of one cell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Measures {
    /// How large the cell is among others, in standard deviations.
    pub(super) size: f64,
    /// µm³.
    pub(super) cell_volume: f64,
    /// µm.
    pub(super) cell_height: f64,
    /// µm³.
    pub(super) nucleus_volume: f64,
    /// µm.
    pub(super) nucleus_height: f64,
}

impl Population {
    /// What is wrong with it, if anything: (parameter, what).
    pub(super) fn problem(&self) -> Option<(&'static str, &'static str)> {
        let sound = |quantiles: &[f64; 5]| {
            quantiles[0] > 0.0 && quantiles.windows(2).all(|pair| pair[0] < pair[1]) && quantiles[4].is_finite()
        };
        let measures = [
            ("cell-volume", &self.cell_volume),
            ("cell-height", &self.cell_height),
            ("nucleus-volume", &self.nucleus_volume),
            ("nucleus-height", &self.nucleus_height),
        ];
        if let Some((name, _)) = measures.into_iter().find(|(_, quantiles)| !sound(quantiles)) {
            return Some((name, "quantiles at 5, 25, 50, 75 and 95 % rise, and lie above 0"));
        }
        for (name, cell, nucleus) in [
            ("nucleus-volume", &self.cell_volume, &self.nucleus_volume),
            ("nucleus-height", &self.cell_height, &self.nucleus_height),
        ] {
            if cell.iter().zip(nucleus).any(|(cell, nucleus)| nucleus >= cell) {
                return Some((name, "a nucleus is smaller than its cell"));
            }
        }
        let correlations = [
            ("volume-with-height", self.volume_with_height),
            ("volume-with-nucleus", self.volume_with_nucleus),
            ("height-with-nucleus", self.height_with_nucleus),
        ];
        let wrong = correlations.into_iter().find(|(_, value)| !(-0.99..=0.99).contains(value));
        wrong.map(|(name, _)| (name, "a correlation lies between -0.99 and 0.99"))
    }

    /// Draws the measures of an interphase cell.
    pub(super) fn draw(&self, rng: &mut Rng) -> Measures {
        let size = rng.normal().clamp(-FURTHEST, FURTHEST);
        let mut after = |other: f64, correlation: f64| {
            let own = rng.normal().clamp(-FURTHEST, FURTHEST);
            (correlation * other + (1.0 - correlation * correlation).sqrt() * own).clamp(-FURTHEST, FURTHEST)
        };
        let height = after(size, self.volume_with_height);
        let nucleus = after(size, self.volume_with_nucleus);
        let nucleus_height = after(height, self.height_with_nucleus);
        let (cell_volume, cell_height) = (at(&self.cell_volume, size), at(&self.cell_height, height));
        Measures {
            size,
            cell_volume,
            cell_height,
            nucleus_volume: at(&self.nucleus_volume, nucleus).min(LARGEST_NUCLEUS * cell_volume),
            nucleus_height: at(&self.nucleus_height, nucleus_height).min(cell_height - ROOM_UM),
        }
    }

    /// How large a cell of this volume is among others, in standard deviations.
    pub(super) fn size_of(&self, volume: f64) -> f64 {
        let part = |pair: usize| {
            let (low, high) = (libm::log(self.cell_volume[pair]), libm::log(self.cell_volume[pair + 1]));
            (libm::log(volume.max(1.0)) - low) / (high - low)
        };
        let pair = (0..3).find(|&pair| volume < self.cell_volume[pair + 1]).unwrap_or(3);
        (NORMAL[pair] + part(pair) * (NORMAL[pair + 1] - NORMAL[pair])).clamp(-FURTHEST, FURTHEST)
    }

    /// Measures of a dividing cell, from those of an interphase cell: `rounding` says how far it has rounded up. Cells divide when they
    /// have nearly doubled; the medians are those of the published classes (prophase: 2958 µm³, DNA 671 µm³; early prometaphase: 2970 µm³,
    /// 10.6 µm high).
    pub(super) fn dividing(&self, stage: Stage, rounding: f64, measures: Measures, rng: &mut Rng) -> Measures {
        let cell_volume = 1.56 * self.cell_volume[2] * libm::exp(0.17 * measures.size);
        let share = 0.227 * libm::exp(0.25 * rng.normal().clamp(-1.8, 1.8));
        let lift = if stage == Stage::Prophase { 0.12 } else { 0.25 };
        let cell_height = measures.cell_height * (1.0 + lift * rounding);
        Measures {
            cell_volume,
            cell_height,
            nucleus_volume: share * cell_volume,
            nucleus_height: (measures.nucleus_height / measures.cell_height * cell_height).min(cell_height - ROOM_UM),
            ..measures
        }
    }
}

/// The value at a place of the standard normal distribution.
fn at(quantiles: &[f64; 5], place: f64) -> f64 {
    let pair = (0..3).find(|&pair| place < NORMAL[pair + 1]).unwrap_or(3);
    let part = (place - NORMAL[pair]) / (NORMAL[pair + 1] - NORMAL[pair]);
    let (low, high) = (libm::log(quantiles[pair]), libm::log(quantiles[pair + 1]));
    libm::exp(low + part * (high - low))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{pearson, quantile, sorted};

    #[test]
    fn drawn_measures_have_the_quantiles_and_correlations_asked_for() {
        let population = Population::default();
        let mut rng = Rng::new(1, "population", 0);
        let drawn: Vec<Measures> = (0..20_000).map(|_| population.draw(&mut rng)).collect();
        let column = |f: fn(&Measures) -> f64| drawn.iter().map(f).collect::<Vec<f64>>();
        let (volume, height) = (column(|m| m.cell_volume), column(|m| m.cell_height));
        let (nucleus, nucleus_height) = (column(|m| m.nucleus_volume), column(|m| m.nucleus_height));
        for (values, quantiles) in [
            (&volume, &population.cell_volume),
            (&height, &population.cell_height),
            (&nucleus, &population.nucleus_volume),
            (&nucleus_height, &population.nucleus_height),
        ] {
            let values = sorted(values);
            for (share, expected) in [0.05, 0.25, 0.5, 0.75, 0.95].into_iter().zip(quantiles) {
                let found = quantile(&values, share);
                assert!((found / expected - 1.0).abs() < 0.02, "{share}: {found} {expected}");
            }
        }
        let log = |values: &[f64]| values.iter().map(|&value| libm::log(value)).collect::<Vec<f64>>();
        for (a, b, expected) in [(&volume, &height, 0.40), (&volume, &nucleus, 0.85), (&height, &nucleus_height, 0.91)]
        {
            let found = pearson(&log(a), &log(b));
            assert!((found - expected).abs() < 0.03, "{found} {expected}");
        }
        let places: Vec<f64> = drawn.iter().map(|m| (population.size_of(m.cell_volume) - m.size).abs()).collect();
        assert!(places.iter().all(|difference| *difference < 1e-6), "size and volume are each other's reverse");
    }

    #[test]
    fn impossible_populations_are_refused() {
        let with = |change: fn(&mut Population)| {
            let mut population = Population::default();
            change(&mut population);
            population.problem().map(|(name, _)| name)
        };
        assert_eq!(with(|_| {}), None);
        assert_eq!(with(|p| p.cell_height[2] = 5.0), Some("cell-height"));
        assert_eq!(with(|p| p.nucleus_volume = [400.0, 2000.0, 2500.0, 3000.0, 4000.0]), Some("nucleus-volume"));
        assert_eq!(with(|p| p.volume_with_nucleus = 1.0), Some("volume-with-nucleus"));
    }
}
