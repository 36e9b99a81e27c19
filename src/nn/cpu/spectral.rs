//! Spectral normalisation: W / σ(W), σ by one power iteration a forward pass.
//!
//! Source: Miyato et al. 2018, "Spectral normalization for generative adversarial networks", algorithm 1, with W seen as
//! (one axis) × (all others). Weights are held as taps × inputs × outputs; the one axis is the outputs, or the inputs (of a
//! transposed convolution in PyTorch's order of axes).

use super::{
    convolution::Weights,
    parallel::{self, Shared},
};

/// σ and the vectors of one power iteration; constants for the gradient.
#[derive(Clone, Debug, Default)]
pub(super) struct Iteration {
    /// σ = u'ᵀ W v.
    pub(super) sigma: f32,
    /// u' = W v / ‖W v‖.
    pub(super) u: Vec<f32>,
    /// v = Wᵀ u / ‖Wᵀ u‖.
    pub(super) v: Vec<f32>,
}

const SMALLEST_NORM: f64 = 1e-12;
/// Parts that a sum over the weights is split into, whatever the number of threads.
const PARTS: usize = 16;

/// Σ a·b, added in 32 interleaved sums.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0.0f32; 32];
    let (a_chunks, b_chunks) = (a.chunks_exact(32), b.chunks_exact(32));
    let rest: f64 =
        a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>() + rest
}

fn normalise(values: &mut [f32]) -> f64 {
    let norm = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    values.iter_mut().for_each(|value| *value = (f64::from(*value) / norm.max(SMALLEST_NORM)) as f32);
    norm
}

/// For every row of the matrix (taps · inputs) × outputs: its product with `vector`.
fn rows_times(weights: Weights, vector: &[f32]) -> Vec<f32> {
    let rows = weights.values.len() / weights.outputs;
    let mut out = vec![0.0; rows];
    let shared = Shared::new(&mut out);
    let parts = parallel::parts(weights.values.len(), PARTS);
    parallel::for_each(parts, |part| {
        for row in parallel::part(rows, parts, part) {
            let values = &weights.values[row * weights.outputs..(row + 1) * weights.outputs];
            // SAFETY: every row has its own place.
            unsafe { *shared.pointer().add(row) = dot(values, vector) as f32 };
        }
    });
    out
}

/// Σ over the rows of the matrix (taps · inputs) × outputs, row r times `factor(r)`, added to row `target(r)` of `rows_out` rows.
fn sum_of_rows(
    weights: Weights,
    rows_out: usize,
    factor: impl Fn(usize) -> f32 + Sync + Send,
    target: impl Fn(usize) -> usize + Sync + Send,
) -> Vec<f32> {
    let (outputs, rows) = (weights.outputs, weights.values.len() / weights.outputs);
    let length = rows_out * outputs;
    let partial = parallel::map(PARTS, weights.values.len(), |part| {
        let mut sum = vec![0.0f32; length];
        for row in parallel::part(rows, PARTS, part) {
            let (factor, at) = (factor(row), target(row) * outputs);
            let values = &weights.values[row * outputs..(row + 1) * outputs];
            sum[at..at + outputs].iter_mut().zip(values).for_each(|(sum, value)| *sum += factor * value);
        }
        sum
    });
    let mut total = vec![0.0f32; length];
    for part in partial {
        total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
    }
    total
}

impl Iteration {
    /// One power iteration from `u`. `by_inputs`: the one axis of W is its inputs, else its outputs.
    #[must_use]
    pub(super) fn new(weights: Weights, by_inputs: bool, u: &[f32]) -> Self {
        let inputs = weights.inputs;
        if by_inputs {
            let taps = weights.values.len() / (inputs * weights.outputs);
            let mut v = sum_of_rows(weights, taps, |row| u[row % inputs], |row| row / inputs);
            normalise(&mut v);
            let outputs = weights.outputs;
            let mut next = vec![0.0; inputs];
            for tap in 0..taps {
                let of_tap = Weights {
                    values: &weights.values[tap * inputs * outputs..(tap + 1) * inputs * outputs],
                    ..weights
                };
                let product = rows_times(of_tap, &v[tap * outputs..(tap + 1) * outputs]);
                next.iter_mut().zip(product).for_each(|(next, product)| *next += product);
            }
            let sigma = normalise(&mut next) as f32;
            Self { sigma, u: next, v }
        } else {
            let mut v = rows_times(weights, u);
            normalise(&mut v);
            let mut next = sum_of_rows(weights, 1, |row| v[row], |_| 0);
            let sigma = normalise(&mut next) as f32;
            Self { sigma, u: next, v }
        }
    }

    /// Turns the gradient of W / σ into that of W: (dŴ − (dŴ · Ŵ) u vᵀ) / σ, in place.
    pub(super) fn gradient(&self, weights: Weights, by_inputs: bool, gradient: &mut [f32]) {
        let (inputs, outputs, length) = (weights.inputs, weights.outputs, weights.values.len());
        let known = &*gradient;
        let products = parallel::map(PARTS, length, |part| {
            let range = parallel::part(length, PARTS, part);
            range
                .clone()
                .step_by(1 << 14)
                .map(|start| {
                    let stretch = start..range.end.min(start + (1 << 14));
                    dot(&known[stretch.clone()], &weights.values[stretch])
                })
                .sum::<f64>()
        });
        let inverse = 1.0 / self.sigma;
        let along = (products.iter().sum::<f64>() / f64::from(self.sigma)) as f32;
        let rows = length / outputs;
        let shared = Shared::new(gradient);
        let parts = parallel::parts(length, PARTS);
        parallel::for_each(parts, |part| {
            for row in parallel::part(rows, parts, part) {
                // SAFETY: every row is one task's own.
                let gradient = unsafe { std::slice::from_raw_parts_mut(shared.pointer().add(row * outputs), outputs) };
                let (factor, vector) = if by_inputs {
                    let tap = row / inputs;
                    (along * self.u[row % inputs], &self.v[tap * outputs..(tap + 1) * outputs])
                } else {
                    (along * self.v[row], &self.u[..])
                };
                gradient
                    .iter_mut()
                    .zip(vector)
                    .for_each(|(gradient, v)| *gradient = (*gradient - factor * v) * inverse);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Rng;

    /// u'ᵀ W v in f64, for W as rows × columns.
    fn sigma(matrix: impl Fn(usize, usize) -> f64, u: &[f32], v: &[f32]) -> f64 {
        let mut total = 0.0;
        for (row, &u) in u.iter().enumerate() {
            for (column, &v) in v.iter().enumerate() {
                total += f64::from(u) * matrix(row, column) * f64::from(v);
            }
        }
        total
    }

    #[test]
    fn many_iterations_find_the_largest_singular_value_and_its_gradient() {
        let (taps, inputs, outputs) = (3, 5, 7);
        let mut rng = Rng::new(2, "test", 0);
        let values: Vec<f32> = (0..taps * inputs * outputs).map(|_| rng.normal() as f32).collect();
        let weights = Weights { values: &values, inputs, outputs };
        for by_inputs in [false, true] {
            // The place in `values` of an entry of the matrix (one axis) × (the others, in the order of v).
            let place = |row: usize, column: usize| {
                if by_inputs {
                    (column / outputs * inputs + row) * outputs + column % outputs
                } else {
                    column * outputs + row
                }
            };
            let rows = if by_inputs { inputs } else { outputs };
            let mut iteration = Iteration { u: vec![(1.0 / rows as f32).sqrt(); rows], ..Iteration::default() };
            for _ in 0..300 {
                iteration = Iteration::new(weights, by_inputs, &iteration.u);
            }
            let columns = values.len() / rows;
            let (u, v) = (iteration.u.clone(), iteration.v.clone());
            assert!((sigma(|r, c| f64::from(values[place(r, c)]), &u, &v) - f64::from(iteration.sigma)).abs() < 1e-4);
            // W v = σ u and Wᵀ u = σ v.
            for column in 0..columns {
                let product: f64 = (0..rows).map(|r| f64::from(u[r]) * f64::from(values[place(r, column)])).sum();
                assert!((product - f64::from(iteration.sigma * v[column])).abs() < 1e-3);
            }

            // The gradient of Σ upstream · W/σ, u and v constants.
            let upstream: Vec<f32> = (0..values.len()).map(|_| rng.normal() as f32).collect();
            let mut gradient = upstream.clone();
            iteration.gradient(weights, by_inputs, &mut gradient);
            for at in (0..values.len()).step_by(5) {
                let loss = |by: f64| {
                    let moved = |i: usize| f64::from(values[i]) + if i == at { by } else { 0.0 };
                    let total: f64 = (0..values.len()).map(|i| f64::from(upstream[i]) * moved(i)).sum();
                    total / sigma(|r, c| moved(place(r, c)), &u, &v)
                };
                let wanted = (loss(1e-5) - loss(-1e-5)) / 2e-5;
                assert!((f64::from(gradient[at]) - wanted).abs() < 1e-4, "{} {wanted}", gradient[at]);
            }
        }
    }
}
