//! The end of a block: the sum of its branches and the activation.

use candle_core::{Error, Result};

use super::{
    norm::Affine,
    view::{View, ViewMut},
};
use crate::{nn::Activation, simd};

/// The condition by a reference image, of one model: ReLU(Σ factors · reference + shift).
#[derive(Clone, Copy)]
pub(super) struct Reference<'a> {
    /// Reference channels × channels.
    pub(super) factors: &'a [f32],
    pub(super) shift: &'a [f32],
    pub(super) sampled: View<'a>,
}

/// The sum of one model's branches.
pub(super) struct Sum<'a> {
    pub(super) affine: &'a Affine,
    pub(super) normalised: View<'a>,
    /// At the output's size, or half of it.
    pub(super) bypass: View<'a>,
    pub(super) reference: Option<Reference<'a>>,
    /// The label's condition before its ReLU: images × channels.
    pub(super) label: Option<&'a [f32]>,
    pub(super) activation: Activation,
}

impl Sum<'_> {
    pub(super) fn run(&self, out: &mut ViewMut) -> Result<()> {
        let shape = out.shape();
        let channels = shape.channels;
        // The shift of the normalisation and the label's condition, for each image.
        let shifts: Vec<f32> = (0..shape.images)
            .flat_map(|image| {
                (0..channels).map(move |channel| {
                    let label = self.label.map_or(0.0, |label| label[image * channels + channel]);
                    self.affine.shift[channel] + label.max(0.0)
                })
            })
            .collect();
        let low = self.bypass.shape();
        let step: [usize; 3] = std::array::from_fn(|axis| shape.size[axis] / low.size[axis]);
        if !matches!(step[2], 1 | 2) {
            return Err(Error::Msg(format!("a bypass of {:?} voxels does not fit {:?}", low.size, shape.size)));
        }
        out.for_each_row(
            #[inline(always)]
            |row, out| {
                let [image, z, y] = shape.row_position(row);
                let shift = &shifts[image * channels..(image + 1) * channels];
                let bypass = &self.bypass.data()[low.offset(image, [z / step[0], y / step[1], 0])..];
                let second = self.normalised.row(row);
                for (x, (out, second)) in out.chunks_exact_mut(channels).zip(second.chunks_exact(channels)).enumerate()
                {
                    let from = if step[2] == 2 { x / 2 } else { x };
                    let bypass = &bypass[from * channels..(from + 1) * channels];
                    let numbers = self.affine.scale.iter().zip(shift);
                    for (((out, second), bypass), (scale, shift)) in out.iter_mut().zip(second).zip(bypass).zip(numbers)
                    {
                        *out = second * scale + shift + bypass;
                    }
                }
                if let Some(reference) = &self.reference {
                    reference.add(out, row, channels);
                }
                match self.activation {
                    Activation::Softplus => out.iter_mut().for_each(|value| *value = simd::softplus(*value)),
                    Activation::Relu => out.iter_mut().for_each(|value| *value = value.max(0.0)),
                }
            },
        );
        Ok(())
    }
}

impl Reference<'_> {
    /// The value of one channel before its ReLU.
    #[inline]
    pub(super) fn value(&self, reference: &[f32], channel: usize) -> f32 {
        let mut value = self.shift[channel];
        for (factors, reference) in self.factors.chunks_exact(self.shift.len()).zip(reference) {
            value += factors[channel] * reference;
        }
        value
    }

    #[inline(always)]
    fn add(&self, out: &mut [f32], row: usize, channels: usize) {
        let inputs = self.sampled.shape().channels;
        for (out, reference) in out.chunks_exact_mut(channels).zip(self.sampled.row(row).chunks_exact(inputs)) {
            if let [first, second] = reference {
                // The usual two reference channels, in a form that fills vector registers.
                let (factors_first, factors_second) = self.factors.split_at(channels);
                let numbers = factors_first.iter().zip(factors_second).zip(self.shift);
                for (out, ((a, b), shift)) in out.iter_mut().zip(numbers) {
                    *out += (shift + a * first + b * second).max(0.0);
                }
            } else {
                for (channel, out) in out.iter_mut().enumerate() {
                    *out += self.value(reference, channel).max(0.0);
                }
            }
        }
    }
}

/// Turns the gradient of an activation's output into that of its input, which the output tells: ReLU lets through where it is
/// above zero, softplus has the derivative 1 − e^(−output).
pub(super) fn activation_backward(activation: Activation, out: View, gradient: &mut ViewMut) {
    gradient.for_each_row(
        #[inline(always)]
        |row, gradient| {
            let pairs = gradient.iter_mut().zip(out.row(row));
            match activation {
                Activation::Softplus => {
                    pairs.for_each(|(gradient, out)| *gradient *= -simd::exp_m1_of_negative(-out));
                }
                Activation::Relu => {
                    pairs.for_each(|(gradient, out)| *gradient = if *out > 0.0 { *gradient } else { 0.0 });
                }
            }
        },
    );
}
