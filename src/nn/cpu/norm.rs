//! Batch normalisation, in the pieces that the networks fuse with what stands beside it.

use super::{
    parallel,
    view::{View, ViewMut},
};
use crate::{
    nn::{Normalisation, Shape},
    simd,
};

/// Mean and variance (divided by the count) of one channel.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Moments {
    /// Mean.
    pub(super) mean: f64,
    /// Variance, divided by the number of values.
    pub(super) variance: f64,
}

impl Moments {
    /// 1 / √(variance + ε).
    #[must_use]
    pub(super) fn inverse_deviation(&self) -> f64 {
        1.0 / (self.variance + Normalisation::EPSILON).sqrt()
    }

    /// The running statistics (mean, variance) after a batch of `count` values a channel with these moments.
    #[must_use]
    pub(super) fn run(&self, mean: f32, variance: f32, count: usize) -> (f32, f32) {
        let unbiased = self.variance * count as f64 / (count as f64 - 1.0);
        let mix = |old: f32, new: f64| {
            (f64::from(old) * (1.0 - Normalisation::MOMENTUM) + Normalisation::MOMENTUM * new) as f32
        };
        (mix(mean, self.mean), mix(variance, unbiased))
    }
}

/// Normalisation as one multiplication and one addition a value, for each channel.
#[derive(Clone, Debug, Default)]
pub(super) struct Affine {
    /// Factors.
    pub(super) scale: Vec<f32>,
    /// What is added.
    pub(super) shift: Vec<f32>,
}

impl Affine {
    /// (value − mean) / deviation · weight + bias.
    #[must_use]
    pub(super) fn new(moments: &[Moments], weight: &[f32], bias: &[f32]) -> Self {
        let scale: Vec<f32> =
            moments.iter().zip(weight).map(|(m, &w)| (f64::from(w) * m.inverse_deviation()) as f32).collect();
        let shift =
            moments.iter().zip(weight).zip(bias).map(|((m, &weight), &bias)| {
                (f64::from(bias) - f64::from(weight) * m.inverse_deviation() * m.mean) as f32
            });
        Self { shift: shift.collect(), scale }
    }

    /// The numbers repeated so that they fill vector registers; see [`repeat`].
    #[must_use]
    pub(super) fn repeated(&self) -> Self {
        Self { scale: repeat(&self.scale), shift: repeat(&self.shift) }
    }
}

/// A number for each channel, repeated to 16 numbers where 16 is a multiple of their count: rows of few channels
/// are then worked on in vector registers too.
#[must_use]
pub(super) fn repeat<T: Copy>(channels: &[T]) -> Vec<T> {
    let count = channels.len();
    let times = if count < 16 && 16 % count.max(1) == 0 { 16 / count.max(1) } else { 1 };
    channels.repeat(times)
}

/// Rows that are summed in single precision before they join a sum in double precision.
const ROWS_AT_ONCE: usize = 8;
/// Parts that a sum over rows is split into, whatever the number of threads.
const PARTS: usize = 32;

/// Sums `K` numbers for each channel over all rows of maps of an extent: `add(row number, repeated channels' sums)` adds a row's.
///
/// The split and the order of additions depend on the sizes alone. With `#[inline(always)]`, `add` gets wide vector instructions.
pub(super) fn sums<const K: usize>(
    shape: &Shape,
    channels: usize,
    add: impl Fn(usize, &mut [Vec<f32>; K]) + Sync + Send,
) -> [Vec<f64>; K] {
    let rows = shape.rows();
    let width = repeat(&vec![(); channels]).len();
    let parts = PARTS.min(rows.div_ceil(ROWS_AT_ONCE)).max(1);
    let partial = parallel::map(parts, shape.len(), |part| {
        let mut total: [Vec<f64>; K] = std::array::from_fn(|_| vec![0.0; channels]);
        let mut some: [Vec<f32>; K] = std::array::from_fn(|_| vec![0.0; width]);
        let range = parallel::part(rows, parts, part);
        simd::dispatch(
            #[inline(always)]
            || {
                for (index, row) in range.clone().enumerate() {
                    add(row, &mut some);
                    if index % ROWS_AT_ONCE == ROWS_AT_ONCE - 1 || row + 1 == range.end {
                        for (total, some) in total.iter_mut().zip(&mut some) {
                            for (lane, value) in some.iter_mut().enumerate() {
                                total[lane % channels] += f64::from(std::mem::take(value));
                            }
                        }
                    }
                }
            },
        );
        total
    });
    let mut total: [Vec<f64>; K] = std::array::from_fn(|_| vec![0.0; channels]);
    for part in partial {
        for (total, part) in total.iter_mut().zip(part) {
            total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
        }
    }
    total
}

/// Mean and variance of every channel.
#[must_use]
pub(super) fn moments(maps: View) -> Vec<Moments> {
    let shape = maps.shape();
    // Sums are taken about a value of the channel, so that little is lost to cancellation.
    let about = maps.row(0)[..shape.channels].to_vec();
    let repeated = repeat(&about);
    let [first, second] = sums(
        &shape,
        shape.channels,
        #[inline(always)]
        |row, [first, second]| {
            for voxels in maps.row(row).chunks(repeated.len()) {
                for (((value, about), first), second) in
                    voxels.iter().zip(&repeated).zip(first.iter_mut()).zip(second.iter_mut())
                {
                    let value = value - about;
                    *first += value;
                    *second += value * value;
                }
            }
        },
    );
    let count = shape.voxels() as f64;
    let channel = |((first, second), about): ((f64, f64), f32)| {
        let mean = first / count;
        Moments { mean: mean + f64::from(about), variance: (second / count - mean * mean).max(0.0) }
    };
    first.into_iter().zip(second).zip(about).map(channel).collect()
}

/// `out = scale · input + shift`, or `max(0, …)` with `relu`.
pub(super) fn affine(input: View, affine: &Affine, relu: bool, out: &mut ViewMut) {
    let affine = affine.repeated();
    // The lowest number that is let through.
    let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
    out.for_each_row(
        #[inline(always)]
        |row, out| {
            let width = affine.scale.len();
            for (out, input) in out.chunks_mut(width).zip(input.row(row).chunks(width)) {
                for (((out, input), scale), shift) in out.iter_mut().zip(input).zip(&affine.scale).zip(&affine.shift) {
                    *out = (input * scale + shift).max(floor);
                }
            }
        },
    );
}

/// The sum of every channel.
pub(super) fn channel_sums(maps: View) -> Vec<f32> {
    let [sums] = sums(
        &maps.shape(),
        maps.shape().channels,
        #[inline(always)]
        |row, [sum]| {
            for voxels in maps.row(row).chunks(sum.len()) {
                sum.iter_mut().zip(voxels).for_each(|(sum, value)| *sum += value);
            }
        },
    );
    sums.into_iter().map(|sum| sum as f32).collect()
}

/// The gradients of batch normalisation for one layer.
#[derive(Clone, Debug)]
pub(super) struct NormGradient {
    /// Of the weights.
    pub(super) weight: Vec<f32>,
    /// Of the biases.
    pub(super) bias: Vec<f32>,
    /// Gradient of the input = `outer` · gradient + `inner` · input + `constant`, for each channel.
    outer: Vec<f32>,
    inner: Vec<f32>,
    constant: Vec<f32>,
}

impl NormGradient {
    /// From Σ gradient and Σ gradient · (input − mean) over `count` values a channel.
    #[must_use]
    pub(super) fn new(moments: &[Moments], weight: &[f32], gradient: &[f64], product: &[f64], count: usize) -> Self {
        let mut all =
            Self { weight: Vec::new(), bias: Vec::new(), outer: Vec::new(), inner: Vec::new(), constant: Vec::new() };
        for (((moments, &weight), &gradient), &product) in moments.iter().zip(weight).zip(gradient).zip(product) {
            let inverse = moments.inverse_deviation();
            let outer = f64::from(weight) * inverse;
            let inner = -outer * inverse * inverse * product / count as f64;
            all.weight.push((product * inverse) as f32);
            all.bias.push(gradient as f32);
            all.outer.push(outer as f32);
            all.inner.push(inner as f32);
            all.constant.push((-outer * gradient / count as f64 - inner * moments.mean) as f32);
        }
        all
    }
}

/// Σ gradient and Σ gradient · (input − mean) of every channel. With `affine`, the gradient counts only where
/// `scale · input + shift > 0`: batch normalisation followed by ReLU.
#[must_use]
pub(super) fn gradient_sums(
    gradient: View,
    input: View,
    moments: &[Moments],
    affine: Option<&Affine>,
) -> [Vec<f64>; 2] {
    let shape = input.shape();
    let mean = repeat(&moments.iter().map(|m| m.mean as f32).collect::<Vec<_>>());
    let width = mean.len();
    let affine = affine.map(Affine::repeated);
    sums(
        &shape,
        shape.channels,
        #[inline(always)]
        |row, [first, second]| {
            let (gradient, input) = (gradient.row(row), input.row(row));
            for (gradient, input) in gradient.chunks(width).zip(input.chunks(width)) {
                let lanes = gradient.iter().zip(input).zip(&mean).zip(first.iter_mut()).zip(second.iter_mut());
                if let Some(affine) = &affine {
                    let affine = affine.scale.iter().zip(&affine.shift);
                    for (((((gradient, input), mean), first), second), (scale, shift)) in lanes.zip(affine) {
                        let gradient = if input * scale + shift > 0.0 { *gradient } else { 0.0 };
                        *first += gradient;
                        *second += gradient * (input - mean);
                    }
                } else {
                    for ((((gradient, input), mean), first), second) in lanes {
                        *first += gradient;
                        *second += gradient * (input - mean);
                    }
                }
            }
        },
    )
}

/// The gradient of the normalisation's input, from the gradient of its output: `gradient`, or else what stands in `out`. With `affine`, a
/// ReLU follows the normalisation.
pub(super) fn propagate(
    gradient: Option<View>,
    input: View,
    of: &NormGradient,
    affine: Option<&Affine>,
    out: &mut ViewMut,
) {
    let (outer, inner, constant) = (repeat(&of.outer), repeat(&of.inner), repeat(&of.constant));
    let affine = affine.map(Affine::repeated);
    let width = outer.len();
    out.for_each_row(
        #[inline(always)]
        |row, out| {
            if let Some(gradient) = gradient {
                out.copy_from_slice(gradient.row(row));
            }
            for (out, input) in out.chunks_mut(width).zip(input.row(row).chunks(width)) {
                let numbers = outer.iter().zip(&inner).zip(&constant);
                let places = out.iter_mut().zip(input).zip(numbers);
                if let Some(affine) = &affine {
                    let affine = affine.scale.iter().zip(&affine.shift);
                    for (((out, input), ((outer, inner), constant)), (scale, shift)) in places.zip(affine) {
                        let kept = if input * scale + shift > 0.0 { *out } else { 0.0 };
                        *out = outer * kept + inner * input + constant;
                    }
                } else {
                    for ((out, input), ((outer, inner), constant)) in places {
                        *out = outer * *out + inner * input + constant;
                    }
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Maps, Rng};

    fn random(shape: Shape, rng: &mut Rng) -> Maps {
        let mut maps = Maps::zeros(shape);
        let values: Vec<f32> = (0..shape.voxels() * shape.channels).map(|_| rng.normal() as f32 + 2.0).collect();
        maps.of_model_mut(0).read_channels_first(&values);
        maps
    }

    /// Σ of upstream · max(0, normalised), in f64.
    fn value(input: &[f64], upstream: &[f64], channels: usize, weight: f64, bias: f64) -> f64 {
        let count = (input.len() / channels) as f64;
        let mut total = 0.0;
        for channel in 0..channels {
            let column: Vec<f64> = input.iter().skip(channel).step_by(channels).copied().collect();
            let mean = column.iter().sum::<f64>() / count;
            let variance = column.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
            for (value, upstream) in column.iter().zip(upstream.iter().skip(channel).step_by(channels)) {
                total +=
                    upstream * ((value - mean) / (variance + Normalisation::EPSILON).sqrt() * weight + bias).max(0.0);
            }
        }
        total
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        for channels in [1, 2, 3, 16, 20] {
            let mut rng = Rng::new(5, "test", 0);
            let shape = Shape::new(2, [2, 3, 5], channels);
            let (input, upstream) = (random(shape, &mut rng), random(shape, &mut rng));
            let (weight, bias) = (1.3, 0.1);
            let moments = moments(input.of_model(0));
            let affine = Affine::new(&moments, &vec![weight; channels], &vec![bias; channels]);
            let [gradient, product] = gradient_sums(upstream.of_model(0), input.of_model(0), &moments, Some(&affine));
            let of = NormGradient::new(&moments, &vec![weight; channels], &gradient, &product, shape.voxels());
            let mut result = upstream.clone();
            propagate(None, input.of_model(0), &of, Some(&affine), &mut result.of_model_mut(0));
            let mut other = upstream.clone();
            let from = Some(upstream.of_model(0));
            propagate(from, input.of_model(0), &of, Some(&affine), &mut other.of_model_mut(0));
            assert_eq!(other.data(), result.data());

            let wide = |maps: &Maps| maps.data().iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
            let (x, up) = (wide(&input), wide(&upstream));
            let (w, b) = (f64::from(weight), f64::from(bias));
            for at in (0..x.len()).step_by(7) {
                let moved = |by: f64| {
                    let mut x = x.clone();
                    x[at] += by;
                    value(&x, &up, channels, w, b)
                };
                let wanted = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                assert!((f64::from(result.data()[at]) - wanted).abs() < 1e-3 * (1.0 + wanted.abs()));
            }
            let total = |values: &[f32]| values.iter().map(|&v| f64::from(v)).sum::<f64>();
            let by_weight = value(&x, &up, channels, w + 1e-6, b) - value(&x, &up, channels, w - 1e-6, b);
            assert!((total(&of.weight) - by_weight / 2e-6).abs() < 1e-2);
            let by_bias = value(&x, &up, channels, w, b + 1e-6) - value(&x, &up, channels, w, b - 1e-6);
            assert!((total(&of.bias) - by_bias / 2e-6).abs() < 1e-2);
        }
    }
}
