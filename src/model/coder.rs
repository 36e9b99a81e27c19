//! Encoder and decoder.

use std::rc::Rc;

use candle_core::{Device, Result, Tensor};
use candle_nn::{ModuleT, VarBuilder};

use super::{Architecture, block::Block};
use crate::nn::{Backend, Convolution, Given, Map, Maps, Normalisation, Shape, Tape, cpu::Cpu};

/// The halo of the maps that blocks pass on: what their 3- and 4-tap windows read.
pub(super) fn halo(dimensions: usize) -> [usize; 3] {
    [usize::from(dimensions == 3), 1, 1]
}

/// From an image to the latent means and logarithms of variances.
#[derive(Clone, Debug)]
pub struct Encoder {
    blocks: Vec<Block>,
    mu: Convolution,
    logvar: Convolution,
    sizes: Vec<[usize; 3]>,
}

/// From a latent vector to an image.
#[derive(Clone, Debug)]
pub struct Decoder {
    fc: Convolution,
    bn: Normalisation,
    blocks: Vec<Block>,
    grid: [usize; 3],
    sizes: Vec<[usize; 3]>,
}

/// Channels at every level, from the image inwards.
fn channels(architecture: &Architecture) -> Vec<usize> {
    [architecture.image_channels.len()].into_iter().chain(architecture.channels.iter().copied()).collect()
}

impl Encoder {
    /// An encoder whose tensors `vb` holds, for this many models.
    ///
    /// # Errors
    /// When `vb` lacks a tensor.
    pub fn new(architecture: &Architecture, models: usize, vb: VarBuilder) -> Result<Self> {
        let channels = channels(architecture);
        let levels = architecture.levels();
        let block = |level: usize| {
            let channels = [channels[level], channels[level + 1]];
            Block::new(architecture, models, [level, level + 1], channels, vb.pp(format!("path.{level}")))
        };
        let flat = channels[levels] * architecture.grid().iter().product::<usize>();
        let head = |name: &str| Convolution::linear(models, [flat, architecture.latent], vb.pp(name));
        Ok(Self {
            blocks: (0..levels).map(block).collect::<Result<_>>()?,
            mu: head("mu")?,
            logvar: head("logvar")?,
            sizes: architecture.sizes(),
        })
    }

    /// Latent means and logarithms of variances of images.
    ///
    /// # Errors
    /// When the device fails.
    pub fn forward(&self, tape: &mut Tape, images: &Map, given: Option<&Given>) -> Result<[Map; 2]> {
        let mut x = images.clone();
        for block in &self.blocks {
            x = block.forward(tape, &x, given)?;
        }
        let flat = tape.flatten(&x)?;
        let logvar = tape.convolve(&self.logvar, &flat)?;
        let mu = tape.convolve(&self.mu, &flat)?;
        Ok([mu, logvar])
    }

    /// Latent means and logarithms of variances (N × latent each) of images, N × C × Z × Y × X or in 2D N × C × Y × X. `condition`: the
    /// reference images in the same form, and a label for each.
    ///
    /// # Errors
    /// When the images do not fit the model.
    pub fn forward_t(
        &self,
        images: &Tensor,
        condition: Option<(&Tensor, &[usize])>,
        train: bool,
    ) -> Result<[Tensor; 2]> {
        let maps = Maps::from_tensor(images)?;
        let mut cpu = Cpu::default();
        let given = given(&mut cpu, condition, &self.sizes, train)?;
        let mut tape = Tape::new(&mut cpu, train, 1, halo(if self.sizes[0][0] > 1 { 3 } else { 2 }));
        tape.spectral_norm(&self.layers())?;
        let images = tape.maps(&maps)?;
        let heads = self.forward(&mut tape, &images, given.as_ref())?;
        let count = images.shape().images;
        let head = |tape: &mut Tape, map: &Map| {
            let values = tape.backend().download_vectors(map.kept()?)?;
            let length = values.len() / count;
            Tensor::from_vec(values, (count, length), &Device::Cpu)
        };
        let [mu, logvar] = heads;
        Ok([head(&mut tape, &mu)?, head(&mut tape, &logvar)?])
    }

    /// All layers under spectral normalisation.
    pub(super) fn layers(&self) -> Vec<&Convolution> {
        self.blocks.iter().flat_map(Block::layers).chain([&self.mu, &self.logvar]).collect()
    }
}

impl Decoder {
    /// A decoder whose tensors `vb` holds, for this many models.
    ///
    /// # Errors
    /// When `vb` lacks a tensor.
    pub fn new(architecture: &Architecture, models: usize, vb: VarBuilder) -> Result<Self> {
        let channels = channels(architecture);
        let levels = architecture.levels();
        let block = |step: usize| {
            let level = levels - step;
            let channels = [channels[level], channels[level - 1]];
            Block::new(architecture, models, [level, level - 1], channels, vb.pp(format!("path.{step}")))
        };
        let flat = channels[levels] * architecture.grid().iter().product::<usize>();
        Ok(Self {
            fc: Convolution::linear(models, [architecture.latent, flat], vb.pp("fc"))?,
            bn: Normalisation::new(models, channels[levels], vb.pp("bn"))?,
            blocks: (0..levels).map(block).collect::<Result<_>>()?,
            grid: architecture.grid(),
            sizes: architecture.sizes(),
        })
    }

    /// Images of latent vectors.
    ///
    /// # Errors
    /// When the device fails.
    pub fn forward(&self, tape: &mut Tape, z: &Map, given: Option<&Given>) -> Result<Map> {
        let y = tape.convolve(&self.fc, z)?;
        let shape = Shape::new(z.shape().size[2], self.grid, self.bn.channels()).with_models(y.shape().models);
        let y = tape.reshape(y, shape)?;
        let y = tape.normalise(&self.bn, &y, true)?;
        let mut x = tape.keep(&y)?;
        for block in &self.blocks {
            x = block.forward(tape, &x, given)?;
        }
        Ok(x)
    }

    /// Images (N × C × Z × Y × X, in 2D N × C × Y × X) of latent vectors (N × latent). `condition` as in [`Encoder::forward_t`].
    ///
    /// # Errors
    /// When the vectors do not fit the model.
    pub fn forward_t(&self, z: &Tensor, condition: Option<(&Tensor, &[usize])>, train: bool) -> Result<Tensor> {
        let (count, length) = z.dims2()?;
        let values = z.flatten_all()?.to_vec1::<f32>()?;
        let mut cpu = Cpu::default();
        let given = given(&mut cpu, condition, &self.sizes, train)?;
        let mut tape = Tape::new(&mut cpu, train, 1, halo(if self.sizes[0][0] > 1 { 3 } else { 2 }));
        tape.spectral_norm(&self.layers())?;
        let z = tape.vectors(&values, Shape::vectors(count, length))?;
        let images = self.forward(&mut tape, &z, given.as_ref())?;
        images.kept()?.to_tensor(self.sizes[0][0] == 1)
    }

    /// All layers under spectral normalisation.
    pub(super) fn layers(&self) -> Vec<&Convolution> {
        [&self.fc].into_iter().chain(self.blocks.iter().flat_map(Block::layers)).collect()
    }
}

fn given(
    backend: &mut dyn Backend,
    condition: Option<(&Tensor, &[usize])>,
    sizes: &[[usize; 3]],
    train: bool,
) -> Result<Option<Given>> {
    let Some((reference, labels)) = condition else { return Ok(None) };
    let reference = Maps::from_tensor(reference)?;
    sampled(backend, &reference, labels, sizes, train).map(Some)
}

/// The reference images at every level, and the labels.
pub(super) fn sampled(
    backend: &mut dyn Backend,
    reference: &Maps,
    labels: &[usize],
    sizes: &[[usize; 3]],
    training: bool,
) -> Result<Given> {
    let levels = sizes.iter().map(|size| Ok(Rc::new(backend.sample(reference, *size, training)?)));
    Ok(Given { levels: Rc::new(levels.collect::<Result<_>>()?), labels: Rc::new(labels.to_vec()) })
}

/// An encoder as a candle module: its condition is bound, and its two heads are concatenated, N × (2 · latent).
#[derive(Clone, Debug)]
pub struct BoundEncoder {
    /// The encoder.
    pub encoder: Encoder,
    /// Reference images and labels of the batch, for a target model.
    pub condition: Option<(Tensor, Vec<usize>)>,
}

impl ModuleT for BoundEncoder {
    fn forward_t(&self, images: &Tensor, train: bool) -> Result<Tensor> {
        let condition = self.condition.as_ref().map(|(reference, labels)| (reference, &labels[..]));
        Tensor::cat(&self.encoder.forward_t(images, condition, train)?, 1)
    }
}

/// A decoder as a candle module: its condition is bound.
#[derive(Clone, Debug)]
pub struct BoundDecoder {
    /// The decoder.
    pub decoder: Decoder,
    /// Reference images and labels of the batch, for a target model.
    pub condition: Option<(Tensor, Vec<usize>)>,
}

impl ModuleT for BoundDecoder {
    fn forward_t(&self, latents: &Tensor, train: bool) -> Result<Tensor> {
        let condition = self.condition.as_ref().map(|(reference, labels)| (reference, &labels[..]));
        self.decoder.forward_t(latents, condition, train)
    }
}
