//! A model with its numbers: encoding, decoding, evaluation, gradients.

use candle_core::{Device, Tensor};

use super::{
    Architecture, ModelError, Parameters,
    coder::{Decoder, Encoder, halo, sampled},
    init::init,
    layout::slots,
};
use crate::nn::{Backend, Given, Map, ParameterSet, Rng, Shape, Tape, cpu::Cpu, cpu::kl_divergence};

/// What conditions the images of a batch for a target model.
#[derive(Clone, Copy, Debug)]
pub struct Condition<'a> {
    /// Reference images: N × reference channels × Z × Y × X.
    pub reference: &'a [f32],
    /// The structure of each image: its position in [`Architecture::labels`].
    pub labels: &'a [usize],
}

/// What a model says of one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Latent means.
    pub mu: Vec<f32>,
    /// Logarithms of the latent variances.
    pub logvar: Vec<f32>,
    /// Squared error summed over voxels and channels, the mean over the samples of z.
    pub reconstruction: f64,
    /// KL divergence from the standard normal of every latent dimension.
    pub kl_per_dimension: Vec<f64>,
}

impl Evaluation {
    /// KL divergence, summed over the latent dimensions.
    #[must_use]
    pub fn kl(&self) -> f64 {
        self.kl_per_dimension.iter().sum()
    }

    /// −(reconstruction + KL): the evidence lower bound, unweighted.
    #[must_use]
    pub fn elbo(&self) -> f64 {
        -(self.reconstruction + self.kl())
    }
}

/// The losses of a training batch, means over its images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Losses {
    /// What is minimised.
    pub total: f64,
    /// Squared error summed over voxels and channels.
    pub reconstruction: f64,
    /// KL divergence summed over latent dimensions.
    pub kl: f64,
}

/// One step's losses and outputs, before its weights change.
#[derive(Clone, Debug)]
pub struct Step {
    /// Losses of each model.
    pub losses: Vec<Losses>,
    /// Latent means, models × images × latent.
    pub mu: Vec<f32>,
    /// Logarithms of the latent variances, models × images × latent.
    pub logvar: Vec<f32>,
}

/// What a training pass computed, for losses of one's own.
#[derive(Clone, Debug)]
pub struct Forward {
    /// The images.
    pub images: Map,
    /// The reconstructed images.
    pub reconstructed: Map,
    /// Latent means.
    pub mu: Map,
    /// Logarithms of the latent variances.
    pub logvar: Map,
}

/// Models of one architecture with their numbers; one model is the ordinary case.
#[derive(Debug)]
pub struct Vae {
    architecture: Architecture,
    numbers: ParameterSet,
    encoder: Encoder,
    decoder: Decoder,
    /// β of each model.
    betas: Vec<Option<f64>>,
}

impl Clone for Vae {
    /// A copy with numbers of its own.
    fn clone(&self) -> Self {
        let copy = Self::zeros(&self.architecture, self.betas.clone()).expect("there is such a model already");
        let [parameters, buffers] = self.values();
        copy.numbers.set_values([&parameters, &buffers]).expect("as many numbers");
        copy
    }
}

impl Vae {
    /// A model before training; see `init` for the distributions.
    ///
    /// # Errors
    /// When the architecture is impossible.
    pub fn new(architecture: &Architecture, seed: u64) -> Result<Self, ModelError> {
        architecture.check()?;
        Self::from_parameters(architecture, &init(architecture, seed)?)
    }

    /// A model with these numbers.
    ///
    /// # Errors
    /// When the architecture is impossible or the numbers do not fit it.
    pub fn from_parameters(architecture: &Architecture, parameters: &Parameters) -> Result<Self, ModelError> {
        architecture.check()?;
        parameters.check(architecture)?;
        let vae = Self::zeros(architecture, vec![architecture.beta])?;
        vae.numbers.import(0, &parameters.0)?;
        Ok(vae)
    }

    /// Several models of the same shapes, to be trained together on the same images: each as it would be alone, to the bit. They may
    /// differ in their numbers and in β.
    ///
    /// # Errors
    /// When there is none, or their shapes differ.
    pub fn stack(models: &[Self]) -> Result<Self, ModelError> {
        let shapes = |model: &Self| Architecture { beta: None, ..model.architecture.clone() };
        let Some(first) = models.first() else {
            return Err(ModelError::Input("there is no model".to_owned()));
        };
        if models.iter().any(|model| shapes(model) != shapes(first) || model.count() != 1) {
            return Err(ModelError::Architecture("models that are trained together have the same shapes".to_owned()));
        }
        let stacked = Self::zeros(&first.architecture, models.iter().map(|model| model.architecture.beta).collect())?;
        for (number, model) in models.iter().enumerate() {
            stacked.numbers.import(number, &model.numbers.export(0)?)?;
        }
        Ok(stacked)
    }

    /// One of the models alone, with numbers of its own.
    ///
    /// # Errors
    /// When there is no such model.
    pub fn model(&self, number: usize) -> Result<Self, ModelError> {
        let Some(&beta) = self.betas.get(number) else {
            return Err(ModelError::Input(format!("there is no model {number}")));
        };
        let architecture = Architecture { beta, ..self.architecture.clone() };
        Self::with_numbers(&architecture, vec![beta], self.numbers.model(number)?)
    }

    fn zeros(architecture: &Architecture, betas: Vec<Option<f64>>) -> Result<Self, ModelError> {
        let numbers = ParameterSet::zeros(betas.len(), slots(architecture), &Device::Cpu)?;
        Self::with_numbers(architecture, betas, numbers)
    }

    fn with_numbers(
        architecture: &Architecture,
        betas: Vec<Option<f64>>,
        numbers: ParameterSet,
    ) -> Result<Self, ModelError> {
        let (models, vb) = (betas.len(), numbers.builder());
        Ok(Self {
            encoder: Encoder::new(architecture, models, vb.pp("enc"))?,
            decoder: Decoder::new(architecture, models, vb.pp("dec"))?,
            architecture: architecture.clone(),
            numbers,
            betas,
        })
    }

    /// The architecture.
    #[must_use]
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// How many models; 1 is the ordinary case.
    #[must_use]
    pub fn count(&self) -> usize {
        self.betas.len()
    }

    /// The encoder, a candle module.
    #[must_use]
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// The decoder, a candle module.
    #[must_use]
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The numbers as candle's tensors.
    #[must_use]
    pub fn numbers(&self) -> &ParameterSet {
        &self.numbers
    }

    /// The numbers of the first model by name.
    ///
    /// # Panics
    /// When there is no memory for a copy.
    #[must_use]
    pub fn parameters(&self) -> Parameters {
        Parameters(self.numbers.export(0).expect("tensors in memory"))
    }

    /// Numbers that belong to the trained ones (gradients, moments) of the first model, by name.
    ///
    /// # Errors
    /// When there are not as many as trained numbers.
    pub fn named(&self, like_trained: &Tensor) -> Result<Parameters, ModelError> {
        Ok(Parameters(self.numbers.export_like_trained(0, like_trained)?))
    }

    /// A tensor of zeros for the gradients of all trained numbers.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn zero_gradients(&self) -> Result<Tensor, ModelError> {
        Ok(self.numbers.parameters().zeros_like()?)
    }

    /// The numbers as they lie: what is trained, and the buffers.
    pub(super) fn values(&self) -> [Vec<f32>; 2] {
        self.numbers.values().expect("tensors in memory")
    }

    /// The number of images in `images` (N × C × Z × Y × X), and what conditions them, checked.
    fn check(&self, images: Option<&[f32]>, count: usize, condition: Option<&Condition>) -> Result<usize, ModelError> {
        let fail = |message: String| Err(ModelError::Input(message));
        let (architecture, voxels) = (&self.architecture, self.architecture.voxels());
        let count = if let Some(images) = images {
            let one = voxels * architecture.image_channels.len();
            if images.is_empty() || images.len() % one != 0 {
                return fail(format!("{} numbers are no images of {one} numbers each", images.len()));
            }
            if !images.iter().all(|value| value.is_finite()) {
                return fail("an image holds a value that is not a finite number".to_owned());
            }
            images.len() / one
        } else {
            count
        };
        if count == 0 {
            return fail("there is no image".to_owned());
        }
        match condition {
            None if !architecture.labels.is_empty() => {
                return fail("a target model needs reference images and labels".to_owned());
            }
            Some(_) if architecture.labels.is_empty() => {
                return fail("a reference model takes neither reference images nor labels".to_owned());
            }
            Some(condition) => {
                let wanted = count * voxels * architecture.reference_channels.len();
                if condition.reference.len() != wanted || condition.labels.len() != count {
                    return fail(format!(
                        "{} numbers of reference images and {} labels do not fit {count} images",
                        condition.reference.len(),
                        condition.labels.len()
                    ));
                }
                if let Some(label) = condition.labels.iter().find(|&&label| label >= architecture.labels.len()) {
                    return fail(format!(
                        "label {label} is out of range: the model knows {}",
                        architecture.labels.len()
                    ));
                }
                if !condition.reference.iter().all(|value| value.is_finite()) {
                    return fail("a reference image holds a value that is not a finite number".to_owned());
                }
            }
            None => {}
        }
        Ok(count)
    }

    fn given(
        &self,
        backend: &mut dyn Backend,
        condition: Option<&Condition>,
        training: bool,
    ) -> Result<Option<Given>, ModelError> {
        let Some(condition) = condition else { return Ok(None) };
        let sizes = self.architecture.sizes();
        let shape = Shape::new(condition.labels.len(), sizes[0], self.architecture.reference_channels.len());
        let reference = backend.upload(condition.reference, shape)?;
        Ok(Some(sampled(backend, &reference, condition.labels, &sizes, training)?))
    }

    fn images_shape(&self, count: usize) -> Shape {
        Shape::new(count, self.architecture.size, self.architecture.image_channels.len())
    }

    fn one(&self) -> Result<(), ModelError> {
        if self.count() == 1 {
            return Ok(());
        }
        Err(ModelError::Input("only one model at a time can be evaluated".to_owned()))
    }

    /// Latent means and logarithms of variances (images × latent each) of `images`, N × C × Z × Y × X, in evaluation mode.
    ///
    /// # Errors
    /// When images or condition do not fit the model.
    pub fn encode(&self, images: &[f32], condition: Option<&Condition>) -> Result<(Vec<f32>, Vec<f32>), ModelError> {
        self.one()?;
        let count = self.check(Some(images), 0, condition)?;
        let mut cpu = Cpu::default();
        let given = self.given(&mut cpu, condition, false)?;
        let mut tape = Tape::new(&mut cpu, false, 1, halo(self.architecture.dimensions));
        tape.spectral_norm(&self.encoder.layers())?;
        let images = tape.images(images, self.images_shape(count))?;
        self.encode_on(&mut tape, &images, given.as_ref())
    }

    fn encode_on(
        &self,
        tape: &mut Tape,
        images: &Map,
        given: Option<&Given>,
    ) -> Result<(Vec<f32>, Vec<f32>), ModelError> {
        let [mu, logvar] = self.encoder.forward(tape, images, given)?;
        let mut read = |map: &Map| tape.backend().download_vectors(map.kept()?);
        Ok((read(&mu)?, read(&logvar)?))
    }

    /// Images (N × C × Z × Y × X) of latents (N × latent), in evaluation mode.
    ///
    /// # Errors
    /// When latents or condition do not fit the model.
    pub fn decode(&self, latents: &[f32], condition: Option<&Condition>) -> Result<Vec<f32>, ModelError> {
        self.one()?;
        let latent = self.architecture.latent;
        if latents.is_empty() || latents.len() % latent != 0 {
            return Err(ModelError::Input(format!("{} numbers are no latents of {latent} each", latents.len())));
        }
        let count = latents.len() / latent;
        self.check(None, count, condition)?;
        let mut cpu = Cpu::default();
        let given = self.given(&mut cpu, condition, false)?;
        let mut tape = Tape::new(&mut cpu, false, 1, halo(self.architecture.dimensions));
        tape.spectral_norm(&self.decoder.layers())?;
        let z = tape.vectors(latents, Shape::vectors(count, latent))?;
        let images = self.decoder.forward(&mut tape, &z, given.as_ref())?;
        Ok(tape.backend().download(images.kept()?)?)
    }

    /// What the model says of each image, in evaluation mode: z is drawn `samples` times from the image's own stream of random
    /// numbers, so that the result does not depend on the batch.
    ///
    /// # Errors
    /// When images or condition do not fit the model, there are no samples, or not one stream for each image.
    pub fn evaluate(
        &self,
        images: &[f32],
        condition: Option<&Condition>,
        samples: usize,
        noise: &mut [Rng],
    ) -> Result<Vec<Evaluation>, ModelError> {
        self.one()?;
        let count = self.check(Some(images), 0, condition)?;
        if samples == 0 || noise.len() != count {
            return Err(ModelError::Input(format!(
                "{samples} samples with {} streams of noise for {count} images; at least one sample and one stream an image are needed",
                noise.len()
            )));
        }
        let mut cpu = Cpu::default();
        let given = self.given(&mut cpu, condition, false)?;
        let mut tape = Tape::new(&mut cpu, false, 1, halo(self.architecture.dimensions));
        tape.spectral_norm(&self.encoder.layers())?;
        tape.spectral_norm(&self.decoder.layers())?;
        let images = tape.images(images, self.images_shape(count))?;
        let (mu, logvar) = self.encode_on(&mut tape, &images, given.as_ref())?;
        let latent = self.architecture.latent;
        let mut errors = vec![0.0; count];
        for _ in 0..samples {
            let mut latents = mu.clone();
            for (image, rng) in noise.iter_mut().enumerate() {
                for at in image * latent..(image + 1) * latent {
                    latents[at] += libm::expf(0.5 * logvar[at]) * rng.normal() as f32;
                }
            }
            let z = tape.vectors(&latents, Shape::vectors(count, latent))?;
            let out = self.decoder.forward(&mut tape, &z, given.as_ref())?;
            let squared = tape.squared_error(&out, &images, &[1.0])?.flatten_all()?.to_vec1::<f64>()?;
            errors.iter_mut().zip(squared).for_each(|(error, squared)| *error += squared);
        }
        let image = |image: usize| {
            let range = image * latent..(image + 1) * latent;
            let (mu, logvar) = (mu[range.clone()].to_vec(), logvar[range].to_vec());
            let kl_per_dimension = mu.iter().zip(&logvar).map(|(&mu, &logvar)| kl_divergence(mu, logvar)).collect();
            Evaluation { mu, logvar, reconstruction: errors[image] / samples as f64, kl_per_dimension }
        };
        Ok((0..count).map(image).collect())
    }

    /// The losses of a training batch and the gradient of each model's total loss for every trained number; changes the running
    /// statistics and the vectors u. `noise`: N(0, 1), models × images × latent. `gradients`: as [`Vae::zero_gradients`].
    ///
    /// # Errors
    /// When images, condition or noise do not fit the model, or a normalisation would have one value a channel.
    pub fn gradients(
        &self,
        images: &[f32],
        condition: Option<&Condition>,
        noise: &[f32],
        gradients: &Tensor,
        backend: &mut dyn Backend,
    ) -> Result<Step, ModelError> {
        self.gradients_with(images, condition, noise, gradients, backend, |_, _| Ok(()))
    }

    /// As [`Vae::gradients`]; `also` sees what was computed, and can add to what is minimised with [`Tape::minimise`].
    ///
    /// # Errors
    /// As there, or when `also` fails.
    pub fn gradients_with(
        &self,
        images: &[f32],
        condition: Option<&Condition>,
        noise: &[f32],
        gradients: &Tensor,
        backend: &mut dyn Backend,
        also: impl FnOnce(&mut Tape, &Forward) -> candle_core::Result<()>,
    ) -> Result<Step, ModelError> {
        let count = self.check(Some(images), 0, condition)?;
        let (models, latent) = (self.count(), self.architecture.latent);
        if noise.len() != models * count * latent {
            return Err(ModelError::Input(format!("{} numbers of noise for {count} images of {latent}", noise.len())));
        }
        // The label's normalisation has one value an image, the deepest other one a value a voxel of the grid.
        let values = if condition.is_some() { 1 } else { self.architecture.grid().iter().product() };
        if count * values < 2 {
            return Err(ModelError::Input(
                "batch normalisation cannot be trained on one value a channel: take more images a batch, or fewer levels"
                    .to_owned(),
            ));
        }
        let given = self.given(backend, condition, true)?;
        let mut tape = Tape::new(backend, true, models, halo(self.architecture.dimensions));
        tape.spectral_norm(&self.encoder.layers())?;
        tape.spectral_norm(&self.decoder.layers())?;
        let images = tape.images(images, self.images_shape(count))?;
        let noise = tape.vectors(noise, Shape::vectors(count, latent).with_models(models))?;

        let [mu, logvar] = self.encoder.forward(&mut tape, &images, given.as_ref())?;
        let n = count as f64;
        let weights =
            |of: fn(f64) -> f64| -> Vec<f64> { self.betas.iter().map(|beta| beta.map_or(1.0, of) / n).collect() };
        let (by_error, by_kl) = (weights(|beta| 2.0 * (1.0 - beta)), weights(|beta| 2.0 * beta));
        let kl = tape.kl(&mu, &logvar, &by_kl)?;
        let z = tape.reparameterise(&mu, &logvar, &noise)?;
        let reconstructed = self.decoder.forward(&mut tape, &z, given.as_ref())?;
        let error = tape.squared_error(&reconstructed, &images, &by_error)?;
        let forward = Forward { images, reconstructed, mu, logvar };
        also(&mut tape, &forward)?;
        let mut read = |map: &Map| tape.backend().download_vectors(map.kept()?);
        let (mu, logvar) = (read(&forward.mu)?, read(&forward.logvar)?);
        drop((forward, z, noise, given));
        tape.backward(gradients)?;

        let (error, kl) = (error.to_vec2::<f64>()?, kl.to_vec1::<f64>()?);
        let one = |model: usize| {
            let (reconstruction, kl) = (error[model].iter().sum::<f64>() / n, kl[model] / n);
            let (by_error, by_kl) = self.betas[model].map_or((1.0, 1.0), |beta| (2.0 * (1.0 - beta), 2.0 * beta));
            Losses { total: by_error * reconstruction + by_kl * kl, reconstruction, kl }
        };
        Ok(Step { losses: (0..models).map(one).collect(), mu, logvar })
    }
}
