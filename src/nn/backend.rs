//! What a training step needs of a device: one method per operation.
//!
//! Maps are models × images × Z × Y × X × channels. An operation computes each model of its operands as if it were alone; maps of
//! one model are shared by all. Sums have a fixed order, so the same operands give the same bits.

use std::{fmt, rc::Rc};

use candle_core::{Device, Result, Tensor};

use super::{Activation, Condition, Convolution, Maps, Normalisation, Shape};

/// A batch normalisation with the statistics that it used.
#[derive(Clone, Debug)]
pub struct Normalised {
    /// Means and variances (divided by the count): models × 2 × channels, double precision.
    pub moments: Tensor,
    /// The normalisation as one multiplication and one addition: models × 2 × channels.
    pub affine: Tensor,
}

/// One power iteration on the weights of a layer; constants for the gradient.
#[derive(Clone, Debug)]
pub struct Spectral {
    /// σ = u'ᵀ W v: one per model.
    pub sigma: Tensor,
    /// u' = W v / ‖W v‖: models × rows.
    pub u: Tensor,
    /// v = Wᵀ u / ‖Wᵀ u‖: models × columns.
    pub v: Tensor,
}

/// A reference image at one level, with the statistics of a training batch.
#[derive(Debug)]
pub struct Sampled {
    /// The image at its nearest voxels.
    pub maps: Maps,
    /// Mean of every channel and covariance of each two (channels + channels², double precision); in training only.
    pub moments: Option<Tensor>,
}

/// A condition whose convolution and normalisation are taken together.
#[derive(Clone, Debug)]
pub struct Folded {
    /// Statistics of its normalisation: models × 2 × channels, double precision.
    pub moments: Tensor,
    /// Of a reference image: the factors of each of its channels, then what is added, models × (inputs + 1) × channels.
    /// Of a label: the value before ReLU, models × images × channels.
    pub values: Tensor,
}

/// Maps as they are read: in place, or computed from kept ones while they are read.
#[derive(Clone, Copy, Debug)]
pub enum Read<'a> {
    /// As they are.
    Kept(&'a Maps),
    /// Normalised, and then ReLU where it says so.
    Normalised(&'a Maps, &'a Normalised, bool),
    /// Means of 2 × 2 (× 2) voxels.
    Pooled(&'a Maps),
}

/// One term of the sum that ends a block.
#[derive(Clone, Debug)]
pub enum Term<'a> {
    /// Maps that are normalised.
    Normalised(&'a Maps, &'a Normalised),
    /// Maps as they are.
    Kept(&'a Maps),
    /// Maps whose every voxel stands for 2 × 2 (× 2).
    Upsampled(&'a Maps),
    /// The condition by a reference image.
    Reference(&'a Folded, &'a Maps),
    /// The condition by labels, the same at every voxel of an image.
    Label(&'a Folded),
}

/// What the KL divergence is differentiated for.
#[derive(Clone, Copy, Debug)]
pub enum Latent<'a> {
    /// The means μ.
    Mean(&'a Maps),
    /// The logarithms of the variances.
    LogVariance(&'a Maps),
}

/// Where the gradient of a normalisation's input goes.
#[derive(Debug)]
pub enum Propagate<'a> {
    /// In place of the gradient of its output.
    InPlace(&'a mut Maps),
    /// From the gradient of its output into other maps.
    Into(&'a Maps, &'a mut Maps),
}

/// The operations of a device. All gradients of parameters go to their places in `gradients`, a tensor as long as all parameters.
pub trait Backend: fmt::Debug {
    /// The device.
    fn device(&self) -> &Device;

    /// Maps whose halo is zero and whose inside is anything.
    ///
    /// # Errors
    /// When there is no memory for them.
    fn take(&mut self, shape: Shape) -> Result<Maps>;

    /// Maps with this halo of images in channels-first order, N × C × Z × Y × X; `shape` has all models.
    ///
    /// # Errors
    /// When there is no memory for them.
    fn upload(&mut self, images: &[f32], shape: Shape) -> Result<Maps>;

    /// The maps of all models in channels-first order.
    ///
    /// # Errors
    /// When the device fails.
    fn download(&mut self, maps: &Maps) -> Result<Vec<f32>>;

    /// Vectors: `values` as they lie, models × images × channels.
    ///
    /// # Errors
    /// When there are not as many as the shape says.
    fn upload_vectors(&mut self, values: &[f32], shape: Shape) -> Result<Maps>;

    /// The numbers of vectors as they lie.
    ///
    /// # Errors
    /// When the device fails.
    fn download_vectors(&mut self, vectors: &Maps) -> Result<Vec<f32>>;

    /// Maps with a value for each voxel as it is read.
    ///
    /// # Errors
    /// When there is no memory for them.
    fn materialise(&mut self, read: Read, halo: [usize; 3]) -> Result<Maps>;

    /// `to += from`.
    ///
    /// # Errors
    /// When the device fails.
    fn accumulate(&mut self, from: &Maps, to: &mut Maps) -> Result<()>;

    /// One power iteration for each layer, from its u; training puts the new u in its place.
    ///
    /// # Errors
    /// When the device fails.
    fn spectral_norm(&mut self, layers: &[&Convolution], training: bool) -> Result<Vec<Spectral>>;

    /// `y = x * W/σ + bias`.
    ///
    /// # Errors
    /// When the device fails.
    fn convolve(&mut self, layer: &Convolution, spectral: &Spectral, x: Read, y: &mut Maps) -> Result<()>;

    /// The input gradient of a layer, put into `dx` or added to it.
    ///
    /// # Errors
    /// When the device fails.
    fn input_gradient(
        &mut self,
        layer: &Convolution,
        spectral: &Spectral,
        dy: &Maps,
        dx: &mut Maps,
        accumulate: bool,
    ) -> Result<()>;

    /// The weight gradient of a layer, through W/σ with u and v constant.
    ///
    /// # Errors
    /// When the device fails.
    fn weight_gradient(
        &mut self,
        layer: &Convolution,
        spectral: &Spectral,
        x: Read,
        dy: &Maps,
        gradients: &Tensor,
    ) -> Result<()>;

    /// The bias gradient of a layer: the sum of `dy`; none: zero, because a normalisation follows.
    ///
    /// # Errors
    /// When the device fails.
    fn bias_gradient(&mut self, layer: &Convolution, dy: Option<&Maps>, gradients: &Tensor) -> Result<()>;

    /// The statistics of a normalisation: the batch's in training, which then enter the running ones, else the running ones.
    ///
    /// # Errors
    /// When the device fails.
    fn normalise(&mut self, norm: &Normalisation, x: &Maps, training: bool) -> Result<Normalised>;

    /// The gradients of a normalisation (and ReLU, if `relu`), and that of its input.
    ///
    /// # Errors
    /// When the device fails.
    fn normalise_backward(
        &mut self,
        norm: &Normalisation,
        of: &Normalised,
        relu: bool,
        x: &Maps,
        dy: Propagate,
        gradients: &Tensor,
    ) -> Result<()>;

    /// The adjoint of [`Read::Pooled`].
    ///
    /// # Errors
    /// When the device fails.
    fn pool_backward(&mut self, dy: &Maps, dx: &mut Maps, accumulate: bool) -> Result<()>;

    /// The adjoint of [`Term::Upsampled`]: the sum over every 2 × 2 (× 2) voxels.
    ///
    /// # Errors
    /// When the device fails.
    fn upsample_backward(&mut self, dy: &Maps, dx: &mut Maps) -> Result<()>;

    /// The activation of the sum of the terms: one normalised, one kept or upsampled, and perhaps the two conditions.
    ///
    /// # Errors
    /// When other terms are asked for, or the device fails.
    fn sum(&mut self, terms: &[Term], activation: Activation, out: &mut Maps) -> Result<()>;

    /// Turns the gradient of an activation's output into that of its input, which the output tells.
    ///
    /// # Errors
    /// When the device fails.
    fn activation_backward(&mut self, activation: Activation, out: &Maps, gradient: &mut Maps) -> Result<()>;

    /// The reference image at its nearest voxels, with its statistics in training.
    ///
    /// # Errors
    /// When the device fails.
    fn sample(&mut self, reference: &Maps, size: [usize; 3], training: bool) -> Result<Sampled>;

    /// The condition by a reference image. The convolution is linear in few channels, so its statistics follow from theirs, and its
    /// output is never written down.
    ///
    /// # Errors
    /// When the device fails.
    fn reference_condition(
        &mut self,
        condition: &Condition,
        spectral: &Spectral,
        sampled: &Sampled,
        training: bool,
    ) -> Result<Folded>;

    /// The gradients of a condition by a reference image.
    ///
    /// # Errors
    /// When the device fails.
    fn reference_condition_backward(
        &mut self,
        condition: &Condition,
        spectral: &Spectral,
        folded: &Folded,
        sampled: &Sampled,
        dy: &Maps,
        gradients: &Tensor,
    ) -> Result<()>;

    /// The condition by the label of each image. A label is an image of one voxel, broadcast behind its normalisation: a batch has one
    /// value per image.
    ///
    /// # Errors
    /// When the device fails.
    fn label_condition(
        &mut self,
        condition: &Condition,
        spectral: &Spectral,
        labels: &[usize],
        training: bool,
    ) -> Result<Folded>;

    /// The gradients of a condition by labels.
    ///
    /// # Errors
    /// When the device fails.
    fn label_condition_backward(
        &mut self,
        condition: &Condition,
        spectral: &Spectral,
        folded: &Folded,
        labels: &[usize],
        dy: &Maps,
        gradients: &Tensor,
    ) -> Result<()>;

    /// z = μ + noise · e^(½ log σ²).
    ///
    /// # Errors
    /// When the device fails.
    fn reparameterise(&mut self, mu: &Maps, logvar: &Maps, noise: &Maps, z: &mut Maps) -> Result<()>;

    /// The gradient of log σ², given that of z; that of μ is the same as that of z.
    ///
    /// # Errors
    /// When the device fails.
    fn reparameterise_backward(
        &mut self,
        logvar: &Maps,
        noise: &Maps,
        dz: &Maps,
        dlogvar: &mut Maps,
        accumulate: bool,
    ) -> Result<()>;

    /// KL divergence from the standard normal, summed over the latent dimensions and images: one per model, double precision.
    ///
    /// # Errors
    /// When the device fails.
    fn kl(&mut self, mu: &Maps, logvar: &Maps) -> Result<Tensor>;

    /// `weights` (one per model) times the gradient of the KL divergence for μ or log σ², put into `d` or added to it.
    ///
    /// # Errors
    /// When the device fails.
    fn kl_backward(&mut self, of: Latent, weights: &[f64], d: &mut Maps, accumulate: bool) -> Result<()>;

    /// Σ (a − b)² over every image: models × images, double precision.
    ///
    /// # Errors
    /// When the device fails.
    fn squared_error(&mut self, a: &Maps, b: &Maps) -> Result<Tensor>;

    /// `weights` (one per model) times the gradient of [`Backend::squared_error`] for `a`, put into `da` or added to it.
    ///
    /// # Errors
    /// When the device fails.
    fn squared_error_backward(
        &mut self,
        a: &Maps,
        b: &Maps,
        weights: &[f64],
        da: &mut Maps,
        accumulate: bool,
    ) -> Result<()>;
}

/// A reference image at every level, and the labels, of a batch for a target model.
#[derive(Clone, Debug)]
pub struct Given {
    /// By how often the image is halved.
    pub levels: Rc<Vec<Rc<Sampled>>>,
    /// One per image.
    pub labels: Rc<Vec<usize>>,
}
