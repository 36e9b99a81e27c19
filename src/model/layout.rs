//! Where every tensor of a model lies: trained numbers in one flat buffer, statistics in another, in the order of axes that the
//! operations want (taps × inputs × outputs).

use std::{collections::BTreeMap, ops::Range};

use super::{Architecture, ModelError, ParameterShape, Parameters, Tensor};
use crate::nn::{Direction, Weights, Window};

/// One tensor.
#[derive(Clone, Debug)]
struct Slot {
    described: ParameterShape,
    /// Its place among the trained numbers or the statistics.
    range: Range<usize>,
    /// The tensor seen with three axes, as PyTorch has it.
    axes: [usize; 3],
    /// The axes in our order.
    order: [usize; 3],
}

/// A convolution or a linear layer under spectral normalisation.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) weight: Range<usize>,
    pub(super) bias: Range<usize>,
    pub(super) u: Range<usize>,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) window: Window,
    pub(super) direction: Direction,
    /// The number of the layer, for what a pass knows of it.
    pub(super) number: usize,
}

impl Layer {
    /// Whether spectral normalisation takes the inputs as the matrix's first axis: PyTorch's order for transposed convolutions.
    pub(super) fn by_inputs(&self) -> bool {
        self.direction == Direction::Spread
    }

    pub(super) fn weights<'a>(&self, values: &'a [f32]) -> Weights<'a> {
        Weights { values: &values[self.weight.clone()], inputs: self.inputs, outputs: self.outputs }
    }
}

/// A batch normalisation.
#[derive(Clone, Debug)]
pub(super) struct Norm {
    pub(super) weight: Range<usize>,
    pub(super) bias: Range<usize>,
    pub(super) mean: Range<usize>,
    pub(super) variance: Range<usize>,
}

/// A condition of a block: a 1×1 convolution and a normalisation.
#[derive(Clone, Debug)]
pub(super) struct Conditioned {
    pub(super) conv: Layer,
    pub(super) norm: Norm,
}

/// A residual block.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) up: bool,
    /// Whether softplus ends it, not ReLU.
    pub(super) last: bool,
    /// How often the image is halved at the block's output.
    pub(super) level: usize,
    pub(super) input: [usize; 3],
    pub(super) output: [usize; 3],
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) bypass: Layer,
    pub(super) conv1: Layer,
    pub(super) bn1: Norm,
    pub(super) conv2: Layer,
    pub(super) bn2: Norm,
    /// The reference image and the label; none for a reference model.
    pub(super) conditions: Option<[Conditioned; 2]>,
}

/// The layers of a model and where their numbers lie.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    slots: Vec<Slot>,
    pub(super) trained: usize,
    pub(super) statistics: usize,
    pub(super) layers: usize,
    pub(super) encoder: Vec<Block>,
    pub(super) mu: Layer,
    pub(super) logvar: Layer,
    pub(super) fc: Layer,
    pub(super) bn: Norm,
    pub(super) decoder: Vec<Block>,
}

struct Builder {
    ranges: BTreeMap<String, Range<usize>>,
    dimensions: usize,
    layers: usize,
}

impl Builder {
    fn range(&self, layer: &str, part: &str) -> Range<usize> {
        self.ranges[&format!("{layer}.{part}")].clone()
    }

    fn layer(&mut self, name: &str, inputs: usize, outputs: usize, window: Window, direction: Direction) -> Layer {
        self.layers += 1;
        Layer {
            weight: self.range(name, "weight"),
            bias: self.range(name, "bias"),
            u: self.range(name, "u"),
            inputs,
            outputs,
            window,
            direction,
            number: self.layers - 1,
        }
    }

    fn norm(&self, name: &str) -> Norm {
        Norm {
            weight: self.range(name, "weight"),
            bias: self.range(name, "bias"),
            mean: self.range(name, "running_mean"),
            variance: self.range(name, "running_var"),
        }
    }

    fn block(&mut self, architecture: &Architecture, name: &str, level: [usize; 2], channels: [usize; 2]) -> Block {
        let ([from, to], [inputs, outputs]) = (level, channels);
        let up = to < from;
        let window = |kernel, stride, padding| Window::new(self.dimensions, kernel, stride, padding);
        let (one, three, four) = (window(1, 1, 0), window(3, 1, 1), window(4, 2, 1));
        let strided = if up { Direction::Spread } else { Direction::Gather };
        let part = |part: &str| format!("{name}.{part}");
        let conditions = (!architecture.labels.is_empty()).then(|| {
            let sizes = [architecture.reference_channels.len(), architecture.labels.len()];
            [0, 1].map(|index| Conditioned {
                conv: self.layer(&part(&format!("cond.{index}.conv")), sizes[index], outputs, one, Direction::Gather),
                norm: self.norm(&part(&format!("cond.{index}.bn"))),
            })
        });
        Block {
            up,
            last: up && to == 0,
            level: to,
            input: architecture.size_at(from),
            output: architecture.size_at(to),
            inputs,
            outputs,
            bypass: self.layer(&part("bypass"), inputs, outputs, one, Direction::Gather),
            conv1: self.layer(&part("conv1"), inputs, inputs, four, strided),
            bn1: self.norm(&part("bn1")),
            conv2: self.layer(&part("conv2"), inputs, outputs, three, Direction::Gather),
            bn2: self.norm(&part("bn2")),
            conditions,
        }
    }
}

/// The tensor's axes as PyTorch has them, three of them, and their order here.
fn axes(architecture: &Architecture, described: &ParameterShape) -> ([usize; 3], [usize; 3]) {
    let (name, shape) = (described.name.as_str(), &described.shape);
    let positions: usize = architecture.grid().iter().product();
    let rest: usize = shape.iter().skip(2).product();
    match name {
        "dec.fc.weight" => ([shape[0] / positions, positions, shape[1]], [2, 1, 0]),
        "dec.fc.bias" | "dec.fc.u" => ([shape[0] / positions, positions, 1], [2, 1, 0]),
        "enc.mu.weight" | "enc.logvar.weight" => ([shape[0], shape[1] / positions, positions], [2, 1, 0]),
        _ if shape.len() == 1 => ([shape[0], 1, 1], [0, 1, 2]),
        _ if name.starts_with("dec.path") && name.ends_with("conv1.weight") => ([shape[0], shape[1], rest], [2, 0, 1]),
        _ => ([shape[0], shape[1], rest], [2, 1, 0]),
    }
}

/// Calls `visit(place in PyTorch's order, place in ours)` for every number of a tensor.
fn permuted(axes: [usize; 3], order: [usize; 3], mut visit: impl FnMut(usize, usize)) {
    let pitch = [axes[1] * axes[2], axes[2], 1];
    let mut ours = 0;
    for a in 0..axes[order[0]] {
        for b in 0..axes[order[1]] {
            let start = a * pitch[order[0]] + b * pitch[order[1]];
            for c in 0..axes[order[2]] {
                visit(start + c * pitch[order[2]], ours);
                ours += 1;
            }
        }
    }
}

impl Layout {
    /// The layout of a checked architecture.
    pub(super) fn new(architecture: &Architecture) -> Result<Self, ModelError> {
        architecture.check()?;
        let (mut trained, mut statistics) = (0, 0);
        let slots: Vec<Slot> = architecture
            .parameter_shapes()
            .into_iter()
            .map(|described| {
                let length: usize = described.shape.iter().product();
                let end = if described.trained { &mut trained } else { &mut statistics };
                *end += length;
                let (axes, order) = axes(architecture, &described);
                Slot { range: *end - length..*end, axes, order, described }
            })
            .collect();
        let ranges = slots.iter().map(|slot| (slot.described.name.clone(), slot.range.clone())).collect();
        let mut builder = Builder { ranges, dimensions: architecture.dimensions, layers: 0 };
        let images = architecture.image_channels.len();
        let levels = architecture.levels();
        let channels_at = |level: usize| if level == 0 { images } else { architecture.channels[level - 1] };
        let encoder = (0..levels).map(|level| {
            let channels = [channels_at(level), channels_at(level + 1)];
            builder.block(architecture, &format!("enc.path.{level}"), [level, level + 1], channels)
        });
        let encoder = encoder.collect();
        let flat = channels_at(levels) * architecture.grid().iter().product::<usize>();
        let one = Window::new(architecture.dimensions, 1, 1, 0);
        let latent = architecture.latent;
        let mu = builder.layer("enc.mu", flat, latent, one, Direction::Gather);
        let logvar = builder.layer("enc.logvar", flat, latent, one, Direction::Gather);
        let fc = builder.layer("dec.fc", latent, flat, one, Direction::Gather);
        let bn = builder.norm("dec.bn");
        let decoder = (0..levels).map(|step| {
            let level = levels - step;
            let channels = [channels_at(level), channels_at(level - 1)];
            builder.block(architecture, &format!("dec.path.{step}"), [level, level - 1], channels)
        });
        let decoder = decoder.collect();
        Ok(Self { slots, trained, statistics, layers: builder.layers, encoder, mu, logvar, fc, bn, decoder })
    }

    /// The tensors by name; without `statistics` only the trained ones.
    pub(super) fn export(&self, values: &[f32], statistics: Option<&[f32]>) -> Parameters {
        let slots = self.slots.iter().filter_map(|slot| {
            let source = if slot.described.trained { values } else { statistics? };
            let source = &source[slot.range.clone()];
            let mut out = vec![0.0; source.len()];
            permuted(slot.axes, slot.order, |theirs, ours| out[theirs] = source[ours]);
            Some((slot.described.name.clone(), Tensor { shape: slot.described.shape.clone(), values: out }))
        });
        Parameters(slots.collect())
    }

    /// The flat buffers of named tensors that were checked against the architecture.
    pub(super) fn import(&self, parameters: &Parameters) -> Result<(Vec<f32>, Vec<f32>), ModelError> {
        let (mut values, mut statistics) = (vec![0.0; self.trained], vec![0.0; self.statistics]);
        for slot in &self.slots {
            let source = &parameters.get(&slot.described.name)?.values;
            let target = if slot.described.trained { &mut values } else { &mut statistics };
            let target = &mut target[slot.range.clone()];
            permuted(slot.axes, slot.order, |theirs, ours| target[ours] = source[theirs]);
        }
        Ok((values, statistics))
    }
}
