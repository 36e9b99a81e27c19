//! The residual block of both networks. Source: Donovan-Maiye et al. 2022, section 4.2, Fig 7.

use candle_core::Result;
use candle_nn::VarBuilder;

use super::Architecture;
use crate::nn::{Activation, Condition, Convolution, Direction, Given, Map, Normalisation, Tape, Window};

/// A block that halves (encoder) or doubles (decoder) the image.
#[derive(Clone, Debug)]
pub struct Block {
    up: bool,
    activation: Activation,
    /// How often the image is halved at the block's output, and its size there.
    level: usize,
    size: [usize; 3],
    bypass: Convolution,
    conv1: Convolution,
    bn1: Normalisation,
    conv2: Convolution,
    bn2: Normalisation,
    /// By the reference image and by the label; none in a reference model.
    conditions: Option<[Condition; 2]>,
}

impl Block {
    /// The block between two levels (how often the image is halved) with these input and output channels.
    ///
    /// # Errors
    /// When `vb` lacks a tensor.
    pub fn new(
        architecture: &Architecture,
        models: usize,
        [from, to]: [usize; 2],
        channels: [usize; 2],
        vb: VarBuilder,
    ) -> Result<Self> {
        let up = to < from;
        let strided = if up { Direction::Transposed } else { Direction::Convolution };
        let window = |kernel, stride, padding| Window::new(architecture.dimensions, kernel, stride, padding);
        let conv =
            |channels, window, direction, name| Convolution::new(models, channels, window, direction, vb.pp(name));
        let condition = |inputs, index| Condition::new(models, [inputs, channels[1]], vb.pp(format!("cond.{index}")));
        let conditions = if architecture.labels.is_empty() {
            None
        } else {
            let reference = condition(architecture.reference_channels.len(), 0)?;
            Some([reference, condition(architecture.labels.len(), 1)?])
        };
        Ok(Self {
            up,
            activation: if up && to == 0 { Activation::Softplus } else { Activation::Relu },
            level: to,
            size: architecture.size_at(to),
            bypass: conv(channels, window(1, 1, 0), Direction::Convolution, "bypass")?,
            conv1: conv([channels[0]; 2], window(4, 2, 1), strided, "conv1")?,
            bn1: Normalisation::new(models, channels[0], vb.pp("bn1"))?,
            conv2: conv(channels, window(3, 1, 1), Direction::Convolution, "conv2")?,
            bn2: Normalisation::new(models, channels[1], vb.pp("bn2"))?,
            conditions,
        })
    }

    /// The output for an input, with what conditions a target model.
    ///
    /// # Errors
    /// When the device fails.
    pub fn forward(&self, tape: &mut Tape, x: &Map, given: Option<&Given>) -> Result<Map> {
        let y = tape.convolve_normalise(&self.conv1, &self.bn1, x, true)?;
        let y = tape.convolve_normalise(&self.conv2, &self.bn2, &y, false)?;
        let bypass = if self.up {
            let bypass = tape.convolve(&self.bypass, x)?;
            tape.upsample(&bypass, self.size)
        } else {
            let pooled = tape.average_pool(x, self.size);
            tape.convolve(&self.bypass, &pooled)?
        };
        let mut terms = vec![y, bypass];
        if let (Some([reference, label]), Some(given)) = (&self.conditions, given) {
            terms.push(tape.reference_condition(reference, given, self.level)?);
            terms.push(tape.label_condition(label, given, self.size)?);
        }
        tape.sum(&terms, self.activation)
    }

    /// All layers under spectral normalisation.
    pub(super) fn layers(&self) -> Vec<&Convolution> {
        let mut layers = vec![&self.bypass, &self.conv1, &self.conv2];
        layers.extend(self.conditions.iter().flatten().map(|condition| &condition.conv));
        layers
    }
}
