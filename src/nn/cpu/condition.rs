//! Conditions: a 1 × 1 convolution, its normalisation and ReLU taken together, for one model.

use super::{
    join::Reference,
    norm::{self, Affine, Moments},
    spectral::Iteration,
    view::View,
};

/// The numbers of a condition, of one model.
#[derive(Clone, Copy)]
pub(super) struct Numbers<'a> {
    /// Inputs × outputs.
    pub(super) weight: &'a [f32],
    pub(super) bias: &'a [f32],
    pub(super) norm_weight: &'a [f32],
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// 1/σ.
    pub(super) inverse_sigma: f64,
}

/// Gradients of a condition, in their places.
pub(super) struct Gradients {
    pub(super) weight: Vec<f32>,
    pub(super) norm_weight: Vec<f32>,
    pub(super) norm_bias: Vec<f32>,
}

impl Numbers<'_> {
    fn weight(&self, input: usize, output: usize) -> f64 {
        f64::from(self.weight[input * self.outputs + output]) * self.inverse_sigma
    }

    /// The convolution's value for a label.
    fn of_label(&self, label: usize, output: usize) -> f64 {
        self.weight(label, output) + f64::from(self.bias[output])
    }

    /// The statistics of the convolution's output, from those of the reference channels.
    pub(super) fn reference_moments(&self, mean: &[f64], covariance: &[f64]) -> Vec<Moments> {
        let channel = |output: usize| {
            let along = (0..self.inputs).map(|input| self.weight(input, output) * mean[input]).sum::<f64>();
            let mut variance = 0.0;
            for a in 0..self.inputs {
                for b in 0..self.inputs {
                    variance += self.weight(a, output) * self.weight(b, output) * covariance[a * self.inputs + b];
                }
            }
            Moments { mean: along + f64::from(self.bias[output]), variance: variance.max(0.0) }
        };
        (0..self.outputs).map(channel).collect()
    }

    /// Factors of each reference channel, then what is added.
    pub(super) fn fold_reference(&self, affine: &Affine) -> Vec<f32> {
        let mut values = Vec::with_capacity((self.inputs + 1) * self.outputs);
        for input in 0..self.inputs {
            values.extend(
                (0..self.outputs).map(|output| (self.weight(input, output) * f64::from(affine.scale[output])) as f32),
            );
        }
        values.extend((0..self.outputs).map(|output| {
            (f64::from(self.bias[output]) * f64::from(affine.scale[output]) + f64::from(affine.shift[output])) as f32
        }));
        values
    }

    /// The statistics of the labels' values, one value per image.
    pub(super) fn label_moments(&self, labels: &[usize]) -> Vec<Moments> {
        let count = labels.len() as f64;
        let channel = |output: usize| {
            let mean = labels.iter().map(|&label| self.of_label(label, output)).sum::<f64>() / count;
            let squares = labels.iter().map(|&label| (self.of_label(label, output) - mean).powi(2));
            Moments { mean, variance: squares.sum::<f64>() / count }
        };
        (0..self.outputs).map(channel).collect()
    }

    /// The normalised value of every image's label, before ReLU.
    pub(super) fn fold_labels(&self, labels: &[usize], affine: &Affine) -> Vec<f32> {
        let mut values = Vec::with_capacity(labels.len() * self.outputs);
        for &label in labels {
            values.extend((0..self.outputs).map(|output| {
                (self.of_label(label, output) * f64::from(affine.scale[output]) + f64::from(affine.shift[output]))
                    as f32
            }));
        }
        values
    }

    fn empty(&self) -> Gradients {
        Gradients {
            weight: vec![0.0; self.inputs * self.outputs],
            norm_weight: vec![0.0; self.outputs],
            norm_bias: vec![0.0; self.outputs],
        }
    }

    /// The gradients of a condition by a reference image.
    pub(super) fn reference_backward(
        &self,
        reference: Reference,
        moments: &[Moments],
        mean: &[f64],
        covariance: &[f64],
        gradient: View,
    ) -> Gradients {
        let (inputs, outputs) = (self.inputs, self.outputs);
        let sums = reference_sums(reference, gradient);
        let mut all = self.empty();
        for (output, moments) in moments.iter().enumerate() {
            let total = sums[output];
            // Σ h · (reference − its mean).
            let centred: Vec<f64> =
                (0..inputs).map(|input| sums[(1 + input) * outputs + output] - total * mean[input]).collect();
            let inverse = moments.inverse_deviation();
            let product: f64 = (0..inputs).map(|input| self.weight(input, output) * centred[input]).sum();
            all.norm_weight[output] = (product * inverse) as f32;
            all.norm_bias[output] = total as f32;
            let outer = f64::from(self.norm_weight[output]) * inverse;
            for input in 0..inputs {
                let along: f64 =
                    (0..inputs).map(|other| self.weight(other, output) * covariance[other * inputs + input]).sum();
                let of_weight = outer * (centred[input] - inverse * inverse * product * along);
                all.weight[input * outputs + output] = of_weight as f32;
            }
        }
        all
    }

    /// The gradients of a condition by labels. `values`: as [`Numbers::fold_labels`] gave them.
    pub(super) fn label_backward(
        &self,
        labels: &[usize],
        values: &[f32],
        moments: &[Moments],
        gradient: View,
    ) -> Gradients {
        let outputs = self.outputs;
        let shape = gradient.shape();
        let images = labels.len();
        let per_image = shape.rows() / images;
        let [sums] = norm::sums(
            &shape,
            images * outputs,
            #[inline(always)]
            |row, [sum]| {
                let sum = &mut sum[row / per_image * outputs..][..outputs];
                for voxel in gradient.row(row).chunks_exact(outputs) {
                    sum.iter_mut().zip(voxel).for_each(|(sum, value)| *sum += value);
                }
            },
        );
        let voxels = (shape.voxels() / images) as f64;
        let count = shape.voxels() as f64;
        let mut all = self.empty();
        for (output, moments) in moments.iter().enumerate() {
            let value = |image: usize| self.of_label(labels[image], output) - moments.mean;
            let through = |image: usize| {
                let at = image * outputs + output;
                if values[at] > 0.0 { sums[at] } else { 0.0 }
            };
            let total: f64 = (0..images).map(through).sum();
            let product: f64 = (0..images).map(|image| through(image) * value(image)).sum();
            let inverse = moments.inverse_deviation();
            all.norm_weight[output] = (product * inverse) as f32;
            all.norm_bias[output] = total as f32;
            let outer = f64::from(self.norm_weight[output]) * inverse;
            for (image, label) in labels.iter().enumerate() {
                let inner = voxels / count * (total + inverse * inverse * product * value(image));
                let of_weight = outer * (through(image) - inner);
                all.weight[label * outputs + output] += of_weight as f32;
            }
        }
        all
    }
}

/// Σ h, then Σ h · reference for each reference channel, h the gradient where the condition's ReLU lets it through.
fn reference_sums(condition: Reference, gradient: View) -> Vec<f64> {
    let sampled = condition.sampled;
    let (inputs, outputs) = (sampled.shape().channels, condition.shift.len());
    let [sums] = norm::sums(
        &gradient.shape(),
        (1 + inputs) * outputs,
        #[inline(always)]
        |row, [sum]| {
            let voxels = gradient.row(row).chunks_exact(outputs).zip(sampled.row(row).chunks_exact(inputs));
            for (gradient, reference) in voxels {
                if let [first, second] = *reference {
                    // The usual two reference channels, in a form that fills vector registers.
                    let (all, products) = sum.split_at_mut(outputs);
                    let (by_first, by_second) = products.split_at_mut(outputs);
                    let (factors_first, factors_second) = condition.factors.split_at(outputs);
                    let sums = all.iter_mut().zip(by_first).zip(by_second);
                    let numbers = factors_first.iter().zip(factors_second).zip(condition.shift);
                    for ((((all, by_first), by_second), gradient), ((a, b), shift)) in sums.zip(gradient).zip(numbers) {
                        let through = if shift + a * first + b * second > 0.0 { *gradient } else { 0.0 };
                        *all += through;
                        *by_first += through * first;
                        *by_second += through * second;
                    }
                    continue;
                }
                for (channel, gradient) in gradient.iter().enumerate() {
                    if condition.value(reference, channel) > 0.0 {
                        sum[channel] += gradient;
                        for (input, reference) in reference.iter().enumerate() {
                            sum[(1 + input) * outputs + channel] += gradient * reference;
                        }
                    }
                }
            }
        },
    );
    sums
}

/// Mean of every channel and the covariance of each two (divided by the count).
pub(super) fn covariance(maps: View) -> (Vec<f64>, Vec<f64>) {
    let (shape, channels) = (maps.shape(), maps.shape().channels);
    let count = shape.voxels() as f64;
    let mean: Vec<f64> = norm::moments(maps).iter().map(|moments| moments.mean).collect();
    let about: Vec<f32> = mean.iter().map(|&mean| mean as f32).collect();
    let [products] = norm::sums(
        &shape,
        channels * channels,
        #[inline(always)]
        |row, [sum]| {
            for voxel in maps.row(row).chunks_exact(channels) {
                for (a, (value_a, mean_a)) in voxel.iter().zip(&about).enumerate() {
                    for (b, (value_b, mean_b)) in voxel.iter().zip(&about).enumerate() {
                        sum[a * channels + b] += (value_a - mean_a) * (value_b - mean_b);
                    }
                }
            }
        },
    );
    (mean, products.into_iter().map(|product| product / count).collect())
}

/// The gradient of a condition's weight, through W/σ.
pub(super) fn through_sigma(iteration: &Iteration, numbers: &Numbers, gradient: &mut [f32]) {
    let weights =
        super::convolution::Weights { values: numbers.weight, inputs: numbers.inputs, outputs: numbers.outputs };
    iteration.gradient(weights, false, gradient);
}
