//! Violins: smoothed distributions.

use super::{
    Colour,
    canvas::{Canvas, INK, PAPER},
};
use crate::stats::{quantile, sorted, standard_deviation};

const STEPS: usize = 60;

/// A Gaussian kernel density at evenly spaced values from the smallest to the largest: (value, density), not normalised.
/// `None` when there are fewer than six values, or all are equal. Bandwidth: Silverman's rule (1986, equation 3.31).
fn density(sorted: &[f64]) -> Option<Vec<(f64, f64)>> {
    let (low, high) = (*sorted.first()?, *sorted.last()?);
    let quartiles = quantile(sorted, 0.75) - quantile(sorted, 0.25);
    let deviation = standard_deviation(sorted);
    let spread = if quartiles > 0.0 { deviation.min(quartiles / 1.34) } else { deviation };
    let bandwidth = 0.9 * spread * libm::pow(sorted.len() as f64, -0.2);
    if sorted.len() < 6 || bandwidth <= 0.0 {
        return None;
    }
    let at = |step: usize| low + (high - low) * step as f64 / STEPS as f64;
    let kernel = |distance: f64| libm::exp(-0.5 * (distance / bandwidth).powi(2));
    Some((0..=STEPS).map(|step| (at(step), sorted.iter().map(|v| kernel(v - at(step))).sum())).collect())
}

/// Draws the distribution of `values` about the vertical line `centre`; `height` gives the place of a value.
pub(super) fn draw(
    canvas: &mut Canvas,
    values: &[f64],
    colour: Colour,
    centre: f64,
    width: f64,
    height: impl Fn(f64) -> f64,
) {
    let values = sorted(values);
    let Some(curve) = density(&values) else {
        for &value in &values {
            canvas.circle([centre, height(value)], 3.0, colour, 0.8, None);
        }
        return;
    };
    let most = curve.iter().map(|(_, d)| *d).fold(0.0, f64::max);
    let side = |sign: f64| {
        let height = &height;
        curve.iter().map(move |(value, density)| [centre + sign * width / 2.0 * density / most, height(*value)])
    };
    let outline: Vec<_> = side(1.0).chain(side(-1.0).rev()).collect();
    canvas.polygon(&outline, colour, 0.55, Some((colour, 1.0)));
    let [low, middle, high] = [0.25, 0.5, 0.75].map(|q| height(quantile(&values, q)));
    canvas.line([centre, low], [centre, high], INK, (width * 0.08).clamp(2.0, 5.0));
    canvas.circle([centre, middle], (width * 0.06).clamp(2.0, 3.5), PAPER, 1.0, Some((INK, 1.0)));
}
