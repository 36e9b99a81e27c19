//! Forward and backward passes through the blocks.
//!
//! Kept for the backward pass: the outputs of the two convolutions before their normalisations, and the block's output.
//! Everything else is computed again where it is needed: a pass over memory costs less than the memory.

use super::layout::{Block, Conditioned, Layer, Layout, Norm};
use crate::{
    nn::{
        Direction, Finish, Maps, Pool, Shape, apply,
        norm::{self, Affine, Moments, NormGradient},
        spectral::Iteration,
        weight_gradient,
    },
    simd,
};

/// Buffers that are used again from step to step.
#[derive(Debug, Default)]
pub struct Workspace {
    pub(super) pool: Pool,
    panels: Vec<f32>,
    partial: Vec<f32>,
}

/// The reference image at one level, sampled to its nearest voxels.
struct Sampled {
    maps: Maps,
    /// Mean of every reference channel, and the covariance of each two: of training batches only.
    mean: Vec<f64>,
    covariance: Vec<f64>,
}

/// What conditions a batch of a target model.
pub(super) struct Conditions {
    levels: Vec<Sampled>,
    labels: Vec<usize>,
}

impl Conditions {
    /// Samples the reference images (N, C, Z, Y, X) to every level.
    pub(super) fn new(
        reference: &[f32],
        labels: &[usize],
        channels: usize,
        sizes: &[[usize; 3]],
        training: bool,
    ) -> Self {
        let mut whole = Maps::zeros(Shape::bare(labels.len(), sizes[0], channels));
        whole.read_channels_first(reference);
        let mut levels: Vec<Sampled> = Vec::new();
        for size in sizes {
            let full = whole.shape();
            let mut maps = Maps::zeros(Shape { size: *size, ..full });
            let shape = maps.shape();
            let step: [usize; 3] = std::array::from_fn(|axis| full.size[axis] / size[axis]);
            maps.for_each_row(
                #[inline(always)]
                |row, out| {
                    let [image, z, y] = shape.row_position(row);
                    let source = &whole.data()[full.offset(image, [z * step[0], y * step[1], 0])..];
                    let source = source.chunks_exact(channels).step_by(step[2]);
                    out.chunks_exact_mut(channels).zip(source).for_each(|(out, source)| out.copy_from_slice(source));
                },
            );
            let (mean, covariance) = if training { covariance(&maps) } else { (Vec::new(), Vec::new()) };
            levels.push(Sampled { maps, mean, covariance });
        }
        Self { levels, labels: labels.to_vec() }
    }
}

/// Mean of every channel, and the covariance of each two (divided by the count).
fn covariance(maps: &Maps) -> (Vec<f64>, Vec<f64>) {
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

/// A condition, its convolution and normalisation taken together.
struct ConditionTape {
    moments: Vec<Moments>,
    /// Reference image: factors (reference channels × channels), then what is added. Label: the value before ReLU for each image
    /// (images × channels), nothing added.
    factors: Vec<f32>,
    shift: Vec<f32>,
}

/// What a block keeps for the backward pass.
pub(super) struct BlockTape {
    first: Maps,
    second: Maps,
    pub(super) out: Maps,
    moments: [Vec<Moments>; 2],
    conditions: Option<[ConditionTape; 2]>,
}

impl BlockTape {
    /// The output; the rest is given back.
    pub(super) fn into_out(self, pool: &mut Pool) -> Maps {
        pool.give(self.first);
        pool.give(self.second);
        self.out
    }
}

/// What the start of the decoder keeps.
pub(super) struct StartTape {
    latent: Maps,
    before: Maps,
    pub(super) out: Maps,
    moments: Vec<Moments>,
}

impl StartTape {
    /// The output; the rest is given back.
    pub(super) fn into_out(self, pool: &mut Pool) -> Maps {
        pool.give(self.latent);
        pool.give(self.before);
        self.out
    }
}

/// One pass through a model.
pub(super) struct Pass<'a> {
    pub(super) layout: &'a Layout,
    pub(super) values: &'a [f32],
    /// Running statistics and vectors u; a training pass changes them.
    pub(super) statistics: &'a mut [f32],
    pub(super) training: bool,
    pub(super) workspace: &'a mut Workspace,
    /// What spectral normalisation found for each layer that was passed.
    iterations: Vec<Option<Iteration>>,
}

const PLAIN: Finish<'static> = Finish { scale: 1.0, bias: None, add: false };

impl<'a> Pass<'a> {
    pub(super) fn new(
        layout: &'a Layout,
        values: &'a [f32],
        statistics: &'a mut [f32],
        training: bool,
        workspace: &'a mut Workspace,
    ) -> Self {
        let iterations = vec![None; layout.layers];
        Self { layout, values, statistics, training, workspace, iterations }
    }

    /// One power iteration for a layer; gives 1/σ.
    fn normalise(&mut self, layer: &Layer) -> f32 {
        let iteration =
            Iteration::new(layer.weights(self.values), layer.by_inputs(), &self.statistics[layer.u.clone()]);
        if self.training {
            self.statistics[layer.u.clone()].copy_from_slice(&iteration.u);
        }
        let inverse = 1.0 / iteration.sigma;
        self.iterations[layer.number] = Some(iteration);
        inverse
    }

    /// The forward pass of a layer.
    fn forward(&mut self, layer: &Layer, input: &Maps, shape: Shape) -> Maps {
        let scale = self.normalise(layer);
        let mut out = self.workspace.pool.take(shape);
        let finish = Finish { scale, bias: Some(&self.values[layer.bias.clone()]), add: false };
        apply(
            &layer.window,
            layer.direction,
            layer.weights(self.values),
            false,
            input,
            &mut out,
            finish,
            &mut self.workspace.panels,
        );
        out
    }

    /// The input gradient of a layer, put into `out` or added to it.
    fn input_gradient(&mut self, layer: &Layer, gradient: &Maps, out: &mut Maps, add: bool) {
        let scale = 1.0 / self.iterations[layer.number].as_ref().expect("passed forward").sigma;
        let direction = match layer.direction {
            Direction::Gather => Direction::Spread,
            Direction::Spread => Direction::Gather,
        };
        let finish = Finish { scale, add, ..PLAIN };
        let weights = layer.weights(self.values);
        apply(&layer.window, direction, weights, true, gradient, out, finish, &mut self.workspace.panels);
    }

    /// The weight gradient of a layer.
    fn weight_gradient(&mut self, layer: &Layer, input: &Maps, gradient: &Maps, gradients: &mut [f32]) {
        let out = &mut gradients[layer.weight.clone()];
        weight_gradient(&layer.window, layer.direction, input, gradient, out, &mut self.workspace.partial);
        let iteration = self.iterations[layer.number].as_ref().expect("passed forward");
        iteration.gradient(layer.weights(self.values), layer.by_inputs(), out);
    }

    /// The statistics that a normalisation uses: the batch's in training (then they enter the running ones), else the running ones.
    fn moments(&mut self, norm: &Norm, count: usize, of_batch: impl FnOnce() -> Vec<Moments>) -> Vec<Moments> {
        if !self.training {
            let running = self.statistics[norm.mean.clone()].iter().zip(&self.statistics[norm.variance.clone()]);
            return running.map(|(&m, &v)| Moments { mean: f64::from(m), variance: f64::from(v) }).collect();
        }
        let moments = of_batch();
        for (channel, moments) in moments.iter().enumerate() {
            let (mean, variance) = (norm.mean.start + channel, norm.variance.start + channel);
            let next = moments.run(self.statistics[mean], self.statistics[variance], count);
            (self.statistics[mean], self.statistics[variance]) = next;
        }
        moments
    }

    fn affine(&self, norm: &Norm, moments: &[Moments]) -> Affine {
        Affine::new(moments, &self.values[norm.weight.clone()], &self.values[norm.bias.clone()])
    }

    fn border(&self, layer: &Layer) -> [usize; 3] {
        layer.window.padding
    }

    /// The forward pass of a block.
    pub(super) fn block(&mut self, block: &Block, input: &Maps, conditions: Option<&Conditions>) -> BlockTape {
        let images = input.shape().images;
        let (inner, outer) =
            (Shape::bare(images, block.output, block.inputs), Shape::bare(images, block.output, block.outputs));
        let first = self.forward(&block.conv1, input, inner);
        let moments1 = self.moments(&block.bn1, inner.voxels(), || norm::moments(&first));
        let affine1 = self.affine(&block.bn1, &moments1);
        let border = self.border(&block.conv2);
        let mut active = self.workspace.pool.take(inner.with_border(border));
        norm::affine_relu(&first, &affine1, &mut active);
        let second = self.forward(&block.conv2, &active, outer);
        self.workspace.pool.give(active);
        let moments2 = self.moments(&block.bn2, outer.voxels(), || norm::moments(&second));
        let affine2 = self.affine(&block.bn2, &moments2);
        let bypass = if block.up {
            self.forward(&block.bypass, input, Shape { size: block.input, ..outer })
        } else {
            let pooled = self.pool_average(block, input);
            let bypass = self.forward(&block.bypass, &pooled, outer);
            self.workspace.pool.give(pooled);
            bypass
        };
        let tapes = block.conditions.as_ref().zip(conditions).map(|([reference, label], given)| {
            [self.reference_condition(reference, block, given), self.label_condition(label, given)]
        });
        let out_shape = outer.with_border(self.border(&block.conv1));
        let mut out = self.workspace.pool.take(out_shape);
        let sum = Sum {
            affine: &affine2,
            second: &second,
            bypass: &bypass,
            up: block.up,
            conditions: tapes.as_ref(),
            sampled: conditions.map(|given| &given.levels[block.level].maps),
            softplus: block.last,
        };
        sum.run(&mut out);
        self.workspace.pool.give(bypass);
        BlockTape { first, second, out, moments: [moments1, moments2], conditions: tapes }
    }

    fn pool_average(&mut self, block: &Block, input: &Maps) -> Maps {
        let shape = Shape::bare(input.shape().images, block.output, block.inputs);
        let mut pooled = self.workspace.pool.take(shape);
        let from = input.shape();
        let deep = from.size[0] / shape.size[0];
        let factor = 1.0 / (4 * deep) as f32;
        let channels = from.channels;
        pooled.for_each_row(
            #[inline(always)]
            |row, out| {
                let [image, z, y] = shape.row_position(row);
                out.fill(0.0);
                for corner in 0..2 * deep {
                    let start = from.offset(image, [z * deep + corner / 2, 2 * y + corner % 2, 0]);
                    let source = &input.data()[start..start + from.row_len()];
                    for (out, pair) in out.chunks_exact_mut(channels).zip(source.chunks_exact(2 * channels)) {
                        let (left, right) = pair.split_at(channels);
                        for ((out, left), right) in out.iter_mut().zip(left).zip(right) {
                            *out += (left + right) * factor;
                        }
                    }
                }
            },
        );
        pooled
    }

    /// The condition by the reference image. The convolution is linear in few channels, so its statistics follow from theirs,
    /// and its output is never written down.
    fn reference_condition(&mut self, condition: &Conditioned, block: &Block, given: &Conditions) -> ConditionTape {
        self.normalise(&condition.conv);
        let inverse = 1.0 / f64::from(self.iterations[condition.conv.number].as_ref().expect("just done").sigma);
        let sampled = &given.levels[block.level];
        let count = sampled.maps.shape().voxels();
        let (inputs, outputs) = (condition.conv.inputs, condition.conv.outputs);
        let values = self.values;
        let weight = |input: usize, output: usize| {
            f64::from(values[condition.conv.weight.start + input * outputs + output]) * inverse
        };
        let bias = |output: usize| f64::from(values[condition.conv.bias.start + output]);
        let moments = self.moments(&condition.norm, count, || {
            let channel = |output: usize| {
                let mean = (0..inputs).map(|input| weight(input, output) * sampled.mean[input]).sum::<f64>();
                let mut variance = 0.0;
                for a in 0..inputs {
                    for b in 0..inputs {
                        variance += weight(a, output) * weight(b, output) * sampled.covariance[a * inputs + b];
                    }
                }
                Moments { mean: mean + bias(output), variance: variance.max(0.0) }
            };
            (0..outputs).map(channel).collect()
        });
        let affine = self.affine(&condition.norm, &moments);
        let mut factors = Vec::with_capacity(inputs * outputs);
        for input in 0..inputs {
            factors.extend((0..outputs).map(|output| (weight(input, output) * f64::from(affine.scale[output])) as f32));
        }
        let shift = (0..outputs)
            .map(|output| (bias(output) * f64::from(affine.scale[output]) + f64::from(affine.shift[output])) as f32);
        ConditionTape { shift: shift.collect(), factors, moments }
    }

    /// The condition by the label: one vector an image, the same at every voxel.
    fn label_condition(&mut self, condition: &Conditioned, given: &Conditions) -> ConditionTape {
        self.normalise(&condition.conv);
        let inverse = 1.0 / f64::from(self.iterations[condition.conv.number].as_ref().expect("just done").sigma);
        let outputs = condition.conv.outputs;
        let values = self.values;
        let value = |label: usize, output: usize| {
            f64::from(values[condition.conv.weight.start + label * outputs + output]) * inverse
                + f64::from(values[condition.conv.bias.start + output])
        };
        let images = given.labels.len();
        // The label is an image of one voxel, broadcast behind its normalisation: a batch has one value an image.
        let moments = self.moments(&condition.norm, images, || {
            let channel = |output: usize| {
                let mean = given.labels.iter().map(|&label| value(label, output)).sum::<f64>() / images as f64;
                let squares = given.labels.iter().map(|&label| (value(label, output) - mean).powi(2));
                Moments { mean, variance: squares.sum::<f64>() / images as f64 }
            };
            (0..outputs).map(channel).collect()
        });
        let affine = self.affine(&condition.norm, &moments);
        let mut factors = Vec::with_capacity(images * outputs);
        for &label in &given.labels {
            factors.extend((0..outputs).map(|output| {
                (value(label, output) * f64::from(affine.scale[output]) + f64::from(affine.shift[output])) as f32
            }));
        }
        ConditionTape { factors, shift: Vec::new(), moments }
    }

    /// The start of the decoder: linear layer, normalisation, ReLU. `latent`: images × latent dimensions, as vectors.
    pub(super) fn start(&mut self, latent: Maps) -> StartTape {
        let layout = self.layout;
        let images = latent.shape().images * latent.shape().size[2];
        let first = &layout.decoder[0];
        let shape = Shape::bare(images, first.input, first.inputs);
        let before = self.forward(&layout.fc, &latent, Shape::vectors(images, layout.fc.outputs)).reshaped(shape);
        let moments = self.moments(&layout.bn, shape.voxels(), || norm::moments(&before));
        let affine = self.affine(&layout.bn, &moments);
        let mut out = self.workspace.pool.take(shape.with_border(self.border(&first.conv1)));
        norm::affine_relu(&before, &affine, &mut out);
        StartTape { latent, before, out, moments }
    }

    /// The two heads of the encoder: (μ, log σ², the flattened input).
    pub(super) fn heads(&mut self, input: &Maps) -> (Maps, Maps, Maps) {
        let layout = self.layout;
        let shape = input.shape();
        let flat = self.flatten(input);
        let vectors = Shape::vectors(shape.images, layout.mu.outputs);
        let mu = self.forward(&layout.mu, &flat, vectors);
        let logvar = self.forward(&layout.logvar, &flat, vectors);
        (mu, logvar, flat)
    }

    fn flatten(&mut self, input: &Maps) -> Maps {
        let shape = input.shape();
        let mut flat = self.workspace.pool.take(shape.with_border([0; 3]));
        flat.for_each_row(
            #[inline(always)]
            |row, out| out.copy_from_slice(input.row(row)),
        );
        flat.reshaped(Shape::vectors(shape.images, shape.channels * shape.size.iter().product::<usize>()))
    }

    /// The backward pass of the heads: gradients of μ and log σ² in, of the encoder's last map out.
    pub(super) fn heads_back(
        &mut self,
        flat: &Maps,
        mu: &Maps,
        logvar: &Maps,
        shape: Shape,
        gradients: &mut [f32],
    ) -> Maps {
        let layout = self.layout;
        let mut out = self.workspace.pool.take(flat.shape());
        for (layer, gradient, add) in [(&layout.mu, mu, false), (&layout.logvar, logvar, true)] {
            self.weight_gradient(layer, flat, gradient, gradients);
            channel_sums(gradient, &mut gradients[layer.bias.clone()]);
            self.input_gradient(layer, gradient, &mut out, add);
        }
        out.reshaped(shape.with_border([0; 3]))
    }

    /// The backward pass of the decoder's start: gives the gradient of the latents.
    pub(super) fn start_back(&mut self, tape: &StartTape, mut gradient: Maps, gradients: &mut [f32]) -> Maps {
        let layout = self.layout;
        let shape = tape.before.shape();
        let affine = self.affine(&layout.bn, &tape.moments);
        let of = self.norm_gradient(&layout.bn, &tape.moments, &gradient, &tape.before, Some(&affine), gradients);
        norm::propagate_in_place(&mut gradient, &tape.before, &of, &affine);
        let gradient = gradient.reshaped(Shape::vectors(shape.images, layout.fc.outputs));
        self.weight_gradient(&layout.fc, &tape.latent, &gradient, gradients);
        channel_sums(&gradient, &mut gradients[layout.fc.bias.clone()]);
        let mut out = self.workspace.pool.take(tape.latent.shape());
        self.input_gradient(&layout.fc, &gradient, &mut out, false);
        self.workspace.pool.give(gradient);
        out
    }

    fn norm_gradient(
        &mut self,
        norm: &Norm,
        moments: &[Moments],
        gradient: &Maps,
        input: &Maps,
        affine: Option<&Affine>,
        gradients: &mut [f32],
    ) -> NormGradient {
        let [sum, product] = norm::gradient_sums(gradient, input, moments, affine);
        let of = NormGradient::new(moments, &self.values[norm.weight.clone()], &sum, &product, input.shape().voxels());
        gradients[norm.weight.clone()].copy_from_slice(&of.weight);
        gradients[norm.bias.clone()].copy_from_slice(&of.bias);
        of
    }

    /// The backward pass of a block: takes the gradient of its output (no border), gives that of its input if it is wanted.
    ///
    /// A bias before a normalisation has no effect in training; its gradient is zero.
    #[expect(clippy::too_many_arguments, reason = "one operation's operands")]
    pub(super) fn block_back(
        &mut self,
        block: &Block,
        input: &Maps,
        tape: BlockTape,
        conditions: Option<&Conditions>,
        mut gradient: Maps,
        wanted: bool,
        gradients: &mut [f32],
    ) -> Option<Maps> {
        before_activation(&mut gradient, &tape.out, block.last);
        let outer = tape.second.shape();
        if let (Some(layers), Some(tapes), Some(given)) = (&block.conditions, &tape.conditions, conditions) {
            self.reference_back(&layers[0], &tapes[0], &given.levels[block.level], &gradient, gradients);
            self.label_back(&layers[1], &tapes[1], &given.labels, &gradient, gradients);
        }
        // The bypass. `half`: its gradient at the input's size.
        let mut result = None;
        if block.up {
            let mut half = self.workspace.pool.take(Shape { size: block.input, ..outer });
            sum_corners(&gradient, &mut half);
            channel_sums(&half, &mut gradients[block.bypass.bias.clone()]);
            self.weight_gradient(&block.bypass, input, &half, gradients);
            let mut out = self.workspace.pool.take(input.shape().with_border([0; 3]));
            self.input_gradient(&block.bypass, &half, &mut out, false);
            self.workspace.pool.give(half);
            result = Some(out);
        } else {
            channel_sums(&gradient, &mut gradients[block.bypass.bias.clone()]);
            let pooled = self.pool_average(block, input);
            self.weight_gradient(&block.bypass, &pooled, &gradient, gradients);
            self.workspace.pool.give(pooled);
            if wanted {
                let mut half = self.workspace.pool.take(Shape { channels: block.inputs, ..outer });
                self.input_gradient(&block.bypass, &gradient, &mut half, false);
                let mut out = self.workspace.pool.take(input.shape().with_border([0; 3]));
                spread_average(&half, &mut out);
                self.workspace.pool.give(half);
                result = Some(out);
            }
        }
        // The second convolution.
        let [moments1, moments2] = &tape.moments;
        let of = self.norm_gradient(&block.bn2, moments2, &gradient, &tape.second, None, gradients);
        let border = self.border(&block.conv2);
        let mut second = self.workspace.pool.take(outer.with_border(border));
        norm::propagate(&gradient, &tape.second, &of, &mut second);
        self.workspace.pool.give(gradient);
        self.workspace.pool.give(tape.second);
        let affine = self.affine(&block.bn1, moments1);
        let inner = tape.first.shape();
        let mut active = self.workspace.pool.take(inner.with_border(border));
        norm::affine_relu(&tape.first, &affine, &mut active);
        self.weight_gradient(&block.conv2, &active, &second, gradients);
        gradients[block.conv2.bias.clone()].fill(0.0);
        self.workspace.pool.give(active);
        // The first convolution.
        let mut first = self.workspace.pool.take(inner.with_border(self.border(&block.conv1)));
        self.input_gradient(&block.conv2, &second, &mut first, false);
        self.workspace.pool.give(second);
        let of = self.norm_gradient(&block.bn1, moments1, &first, &tape.first, Some(&affine), gradients);
        norm::propagate_in_place(&mut first, &tape.first, &of, &affine);
        self.workspace.pool.give(tape.first);
        self.workspace.pool.give(tape.out);
        self.weight_gradient(&block.conv1, input, &first, gradients);
        gradients[block.conv1.bias.clone()].fill(0.0);
        if let Some(out) = result.as_mut().filter(|_| wanted) {
            self.input_gradient(&block.conv1, &first, out, true);
        }
        self.workspace.pool.give(first);
        result
    }

    fn reference_back(
        &mut self,
        condition: &Conditioned,
        tape: &ConditionTape,
        sampled: &Sampled,
        gradient: &Maps,
        gradients: &mut [f32],
    ) {
        let (inputs, outputs) = (condition.conv.inputs, condition.conv.outputs);
        let shape = gradient.shape();
        // Σ h and Σ h · reference, h the gradient where the condition's ReLU lets it through.
        let [sums] = norm::sums(
            &shape,
            (1 + inputs) * outputs,
            #[inline(always)]
            |row, [sum]| {
                let voxels = gradient.row(row).chunks_exact(outputs).zip(sampled.maps.row(row).chunks_exact(inputs));
                for (gradient, reference) in voxels {
                    if let [first, second] = *reference {
                        // The usual two reference channels, in a form that fills vector registers.
                        let (all, products) = sum.split_at_mut(outputs);
                        let (by_first, by_second) = products.split_at_mut(outputs);
                        let (factors_first, factors_second) = tape.factors.split_at(outputs);
                        let sums = all.iter_mut().zip(by_first).zip(by_second);
                        let numbers = factors_first.iter().zip(factors_second).zip(&tape.shift);
                        for ((((all, by_first), by_second), gradient), ((a, b), shift)) in
                            sums.zip(gradient).zip(numbers)
                        {
                            let through = if shift + a * first + b * second > 0.0 { *gradient } else { 0.0 };
                            *all += through;
                            *by_first += through * first;
                            *by_second += through * second;
                        }
                        continue;
                    }
                    for (channel, gradient) in gradient.iter().enumerate() {
                        if reference_value(tape, reference, channel, outputs) > 0.0 {
                            sum[channel] += gradient;
                            for (input, reference) in reference.iter().enumerate() {
                                sum[(1 + input) * outputs + channel] += gradient * reference;
                            }
                        }
                    }
                }
            },
        );
        let iteration = self.iterations[condition.conv.number].as_ref().expect("passed forward");
        let inverse_sigma = 1.0 / f64::from(iteration.sigma);
        let weight = |input: usize, output: usize| {
            f64::from(self.values[condition.conv.weight.start + input * outputs + output]) * inverse_sigma
        };
        for (output, moments) in tape.moments.iter().enumerate() {
            let total = sums[output];
            // Σ h · (reference − its mean).
            let centred: Vec<f64> =
                (0..inputs).map(|input| sums[(1 + input) * outputs + output] - total * sampled.mean[input]).collect();
            let inverse = moments.inverse_deviation();
            let product: f64 = (0..inputs).map(|input| weight(input, output) * centred[input]).sum();
            gradients[condition.norm.weight.start + output] = (product * inverse) as f32;
            gradients[condition.norm.bias.start + output] = total as f32;
            let outer = f64::from(self.values[condition.norm.weight.start + output]) * inverse;
            for input in 0..inputs {
                let along: f64 =
                    (0..inputs).map(|other| weight(other, output) * sampled.covariance[other * inputs + input]).sum();
                let of_weight = outer * (centred[input] - inverse * inverse * product * along);
                gradients[condition.conv.weight.start + input * outputs + output] = of_weight as f32;
            }
        }
        self.finish_condition(&condition.conv, gradients);
    }

    fn label_back(
        &mut self,
        condition: &Conditioned,
        tape: &ConditionTape,
        labels: &[usize],
        gradient: &Maps,
        gradients: &mut [f32],
    ) {
        let outputs = condition.conv.outputs;
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
        let iteration = self.iterations[condition.conv.number].as_ref().expect("passed forward");
        let inverse_sigma = 1.0 / f64::from(iteration.sigma);
        let voxels = (shape.voxels() / images) as f64;
        let count = shape.voxels() as f64;
        gradients[condition.conv.weight.clone()].fill(0.0);
        for (output, moments) in tape.moments.iter().enumerate() {
            let value = |image: usize| {
                f64::from(self.values[condition.conv.weight.start + labels[image] * outputs + output]) * inverse_sigma
                    + f64::from(self.values[condition.conv.bias.start + output])
                    - moments.mean
            };
            let through = |image: usize| {
                let at = image * outputs + output;
                if tape.factors[at] > 0.0 { sums[at] } else { 0.0 }
            };
            let total: f64 = (0..images).map(through).sum();
            let product: f64 = (0..images).map(|image| through(image) * value(image)).sum();
            let inverse = moments.inverse_deviation();
            gradients[condition.norm.weight.start + output] = (product * inverse) as f32;
            gradients[condition.norm.bias.start + output] = total as f32;
            let outer = f64::from(self.values[condition.norm.weight.start + output]) * inverse;
            for (image, label) in labels.iter().enumerate() {
                let inner = voxels / count * (total + inverse * inverse * product * value(image));
                let of_weight = outer * (through(image) - inner);
                gradients[condition.conv.weight.start + label * outputs + output] += of_weight as f32;
            }
        }
        self.finish_condition(&condition.conv, gradients);
    }

    fn finish_condition(&self, layer: &Layer, gradients: &mut [f32]) {
        let iteration = self.iterations[layer.number].as_ref().expect("passed forward");
        iteration.gradient(layer.weights(self.values), layer.by_inputs(), &mut gradients[layer.weight.clone()]);
        gradients[layer.bias.clone()].fill(0.0);
    }
}

/// The reference condition of one channel before its ReLU.
#[inline]
fn reference_value(tape: &ConditionTape, reference: &[f32], channel: usize, channels: usize) -> f32 {
    let mut value = tape.shift[channel];
    for (factors, reference) in tape.factors.chunks_exact(channels).zip(reference) {
        value += factors[channel] * reference;
    }
    value
}

/// The end of a block: the sum of its branches and the activation.
struct Sum<'a> {
    affine: &'a Affine,
    second: &'a Maps,
    bypass: &'a Maps,
    up: bool,
    conditions: Option<&'a [ConditionTape; 2]>,
    sampled: Option<&'a Maps>,
    softplus: bool,
}

impl Sum<'_> {
    fn run(&self, out: &mut Maps) {
        let shape = out.shape();
        let channels = shape.channels;
        // The shift of the second normalisation and the label's condition, for each image.
        let shifts: Vec<f32> = (0..shape.images)
            .flat_map(|image| {
                (0..channels).map(move |channel| {
                    let label = self.conditions.map_or(0.0, |[_, label]| label.factors[image * channels + channel]);
                    self.affine.shift[channel] + label.max(0.0)
                })
            })
            .collect();
        let low = self.bypass.shape();
        let step: [usize; 3] = std::array::from_fn(|axis| shape.size[axis] / low.size[axis]);
        out.for_each_row(
            #[inline(always)]
            |row, out| {
                let [image, z, y] = shape.row_position(row);
                let shift = &shifts[image * channels..(image + 1) * channels];
                let bypass = &self.bypass.data()[low.offset(image, [z / step[0], y / step[1], 0])..];
                let second = self.second.row(row);
                for (x, (out, second)) in out.chunks_exact_mut(channels).zip(second.chunks_exact(channels)).enumerate()
                {
                    let from = if self.up { x / 2 } else { x };
                    let bypass = &bypass[from * channels..(from + 1) * channels];
                    let numbers = self.affine.scale.iter().zip(shift);
                    for (((out, second), bypass), (scale, shift)) in out.iter_mut().zip(second).zip(bypass).zip(numbers)
                    {
                        *out = second * scale + shift + bypass;
                    }
                }
                if let (Some([tape, _]), Some(sampled)) = (self.conditions, self.sampled) {
                    add_reference(out, sampled.row(row), tape, channels);
                }
                if self.softplus {
                    out.iter_mut().for_each(|value| *value = simd::softplus(*value));
                } else {
                    out.iter_mut().for_each(|value| *value = value.max(0.0));
                }
            },
        );
    }
}

fn add_reference(out: &mut [f32], reference: &[f32], tape: &ConditionTape, channels: usize) {
    let inputs = tape.factors.len() / channels;
    for (out, reference) in out.chunks_exact_mut(channels).zip(reference.chunks_exact(inputs)) {
        if let [first, second] = reference {
            // The usual two reference channels, in a form that fills vector registers.
            let (factors_first, factors_second) = tape.factors.split_at(channels);
            let numbers = factors_first.iter().zip(factors_second).zip(&tape.shift);
            for (out, ((a, b), shift)) in out.iter_mut().zip(numbers) {
                *out += (shift + a * first + b * second).max(0.0);
            }
        } else {
            for (channel, out) in out.iter_mut().enumerate() {
                *out += reference_value(tape, reference, channel, channels).max(0.0);
            }
        }
    }
}

/// Turns the gradient of an activation's output into that of its input, which the output tells: ReLU lets through where it is
/// above zero, softplus has the derivative 1 − e^(−output).
fn before_activation(gradient: &mut Maps, out: &Maps, softplus: bool) {
    gradient.for_each_row(
        #[inline(always)]
        |row, gradient| {
            let pairs = gradient.iter_mut().zip(out.row(row));
            if softplus {
                pairs.for_each(|(gradient, out)| *gradient *= -simd::exp_m1_of_negative(-out));
            } else {
                pairs.for_each(|(gradient, out)| *gradient = if *out > 0.0 { *gradient } else { 0.0 });
            }
        },
    );
}

/// The sum of every channel.
fn channel_sums(maps: &Maps, out: &mut [f32]) {
    let channels = maps.shape().channels;
    let [sums] = norm::sums(
        &maps.shape(),
        channels,
        #[inline(always)]
        |row, [sum]| {
            for voxels in maps.row(row).chunks(sum.len()) {
                sum.iter_mut().zip(voxels).for_each(|(sum, value)| *sum += value);
            }
        },
    );
    out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum as f32);
}

/// The adjoint of nearest upsampling: the sum over every 2 × 2 (× 2) voxels.
fn sum_corners(large: &Maps, small: &mut Maps) {
    let (from, to) = (large.shape(), small.shape());
    let deep = from.size[0] / to.size[0];
    let channels = from.channels;
    small.for_each_row(
        #[inline(always)]
        |row, out| {
            let [image, z, y] = to.row_position(row);
            out.fill(0.0);
            for corner in 0..2 * deep {
                let start = from.offset(image, [z * deep + corner / 2, 2 * y + corner % 2, 0]);
                let source = &large.data()[start..start + from.row_len()];
                for (out, pair) in out.chunks_exact_mut(channels).zip(source.chunks_exact(2 * channels)) {
                    let (left, right) = pair.split_at(channels);
                    out.iter_mut().zip(left).zip(right).for_each(|((out, left), right)| *out += left + right);
                }
            }
        },
    );
}

/// The adjoint of average pooling: every voxel's share to each of its 2 × 2 (× 2) voxels.
fn spread_average(small: &Maps, large: &mut Maps) {
    let (from, to) = (small.shape(), large.shape());
    let deep = to.size[0] / from.size[0];
    let factor = 1.0 / (4 * deep) as f32;
    let channels = from.channels;
    large.for_each_row(
        #[inline(always)]
        |row, out| {
            let [image, z, y] = to.row_position(row);
            let source = &small.data()[from.offset(image, [z / deep, y / 2, 0])..];
            for (pair, source) in out.chunks_exact_mut(2 * channels).zip(source.chunks_exact(channels)) {
                let (left, right) = pair.split_at_mut(channels);
                for ((left, right), source) in left.iter_mut().zip(right).zip(source) {
                    *left = source * factor;
                    *right = source * factor;
                }
            }
        },
    );
}
