//! A model with its numbers: encoding, decoding, evaluation, gradients.

use super::{
    Architecture, ModelError, Parameters,
    layout::Layout,
    pass::{BlockTape, Conditions, Pass, Workspace},
    start::start,
};
use crate::nn::{Maps, Rng, Shape};

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
    /// Losses.
    pub losses: Losses,
    /// Latent means, images × latent.
    pub mu: Vec<f32>,
    /// Logarithms of the latent variances, images × latent.
    pub logvar: Vec<f32>,
}

/// A model with its numbers.
#[derive(Clone, Debug)]
pub struct Vae {
    architecture: Architecture,
    layout: Layout,
    /// Trained numbers and statistics, in the layout's order.
    pub(super) values: Vec<f32>,
    pub(super) statistics: Vec<f32>,
}

/// KL divergence of N(mu, e^logvar) from N(0, 1): −½ (1 + log σ² − μ² − σ²).
#[must_use]
pub fn kl_divergence(mu: f32, logvar: f32) -> f64 {
    let (mu, logvar) = (f64::from(mu), f64::from(logvar));
    -0.5 * (1.0 + logvar - mu * mu - libm::exp(logvar))
}

impl Vae {
    /// A model before training; see `start` for the distributions.
    ///
    /// # Errors
    /// When the architecture is impossible.
    pub fn new(architecture: &Architecture, seed: u64) -> Result<Self, ModelError> {
        architecture.check()?;
        Self::from_parameters(architecture, &start(architecture, seed))
    }

    /// A model with these numbers.
    ///
    /// # Errors
    /// When the architecture is impossible or the numbers do not fit it.
    pub fn from_parameters(architecture: &Architecture, parameters: &Parameters) -> Result<Self, ModelError> {
        let layout = Layout::new(architecture)?;
        parameters.check(architecture)?;
        let (values, statistics) = layout.import(parameters)?;
        Ok(Self { architecture: architecture.clone(), layout, values, statistics })
    }

    /// The architecture.
    #[must_use]
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// The numbers by name.
    #[must_use]
    pub fn parameters(&self) -> Parameters {
        self.layout.export(&self.values, Some(&self.statistics))
    }

    /// Numbers that belong to the trained ones (gradients, moments), by name.
    ///
    /// # Panics
    /// When there are not as many as trained numbers.
    #[must_use]
    pub fn named(&self, of_trained: &[f32]) -> Parameters {
        self.layout.export(of_trained, None)
    }

    /// The trained numbers, in the order of the gradients.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// How many numbers are trained.
    #[must_use]
    pub fn trained_count(&self) -> usize {
        self.layout.trained
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

    fn conditions(&self, condition: Option<&Condition>, training: bool) -> Option<Conditions> {
        let sizes: Vec<[usize; 3]> =
            (0..=self.architecture.levels()).map(|level| self.architecture.size_at(level)).collect();
        let channels = self.architecture.reference_channels.len();
        condition.map(|given| Conditions::new(given.reference, given.labels, channels, &sizes, training))
    }

    /// Latent means and logarithms of variances (images × latent each) of `images`, N × C × Z × Y × X, in evaluation mode.
    ///
    /// # Errors
    /// When images or condition do not fit the model.
    pub fn encode(&self, images: &[f32], condition: Option<&Condition>) -> Result<(Vec<f32>, Vec<f32>), ModelError> {
        self.check(Some(images), 0, condition)?;
        let mut workspace = Workspace::default();
        let conditions = self.conditions(condition, false);
        Ok(self.encode_in(images, conditions.as_ref(), &mut workspace))
    }

    fn encode_in(
        &self,
        images: &[f32],
        conditions: Option<&Conditions>,
        workspace: &mut Workspace,
    ) -> (Vec<f32>, Vec<f32>) {
        let mut statistics = self.statistics.clone();
        let mut pass = Pass::new(&self.layout, &self.values, &mut statistics, false, workspace);
        let mut maps = image_maps(&self.architecture, images, &mut pass);
        for block in &self.layout.encoder {
            let tape = pass.block(block, &maps, conditions);
            let out = tape.into_out(&mut pass.workspace.pool);
            pass.workspace.pool.give(std::mem::replace(&mut maps, out));
        }
        let (mu, logvar, flat) = pass.heads(&maps);
        let result = (mu.data().to_vec(), logvar.data().to_vec());
        [mu, logvar, flat, maps].into_iter().for_each(|maps| pass.workspace.pool.give(maps));
        result
    }

    /// Images (N × C × Z × Y × X) of latents (N × latent), in evaluation mode.
    ///
    /// # Errors
    /// When latents or condition do not fit the model.
    pub fn decode(&self, latents: &[f32], condition: Option<&Condition>) -> Result<Vec<f32>, ModelError> {
        let latent = self.architecture.latent;
        if latents.is_empty() || latents.len() % latent != 0 {
            return Err(ModelError::Input(format!("{} numbers are no latents of {latent} each", latents.len())));
        }
        self.check(None, latents.len() / latent, condition)?;
        let mut workspace = Workspace::default();
        let conditions = self.conditions(condition, false);
        let out = self.decode_in(latents, conditions.as_ref(), &mut workspace);
        Ok(out.to_channels_first())
    }

    fn decode_in(&self, latents: &[f32], conditions: Option<&Conditions>, workspace: &mut Workspace) -> Maps {
        let latent = self.architecture.latent;
        let mut statistics = self.statistics.clone();
        let mut pass = Pass::new(&self.layout, &self.values, &mut statistics, false, workspace);
        let mut vectors = pass.workspace.pool.take(Shape::vectors(latents.len() / latent, latent));
        vectors.data_mut().copy_from_slice(latents);
        let start = pass.start(vectors);
        let mut maps = start.into_out(&mut pass.workspace.pool);
        for block in &self.layout.decoder {
            let tape = pass.block(block, &maps, conditions);
            let out = tape.into_out(&mut pass.workspace.pool);
            pass.workspace.pool.give(std::mem::replace(&mut maps, out));
        }
        maps
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
        let count = self.check(Some(images), 0, condition)?;
        if samples == 0 || noise.len() != count {
            return Err(ModelError::Input(format!(
                "{samples} samples with {} streams of noise for {count} images; at least one sample and one stream an image are needed",
                noise.len()
            )));
        }
        let mut workspace = Workspace::default();
        let conditions = self.conditions(condition, false);
        let (mu, logvar) = self.encode_in(images, conditions.as_ref(), &mut workspace);
        let latent = self.architecture.latent;
        let mut errors = vec![0.0; count];
        let mut original =
            Maps::zeros(Shape::bare(count, self.architecture.size, self.architecture.image_channels.len()));
        original.read_channels_first(images);
        for _ in 0..samples {
            let mut latents = mu.clone();
            for (image, rng) in noise.iter_mut().enumerate() {
                for at in image * latent..(image + 1) * latent {
                    latents[at] += libm::expf(0.5 * logvar[at]) * rng.normal() as f32;
                }
            }
            let out = self.decode_in(&latents, conditions.as_ref(), &mut workspace);
            for (error, squared) in errors.iter_mut().zip(squared_errors(&out, &original)) {
                *error += squared;
            }
            workspace.pool.give(out);
        }
        let image = |image: usize| {
            let range = image * latent..(image + 1) * latent;
            let (mu, logvar) = (mu[range.clone()].to_vec(), logvar[range].to_vec());
            let kl_per_dimension = mu.iter().zip(&logvar).map(|(&mu, &logvar)| kl_divergence(mu, logvar)).collect();
            Evaluation { mu, logvar, reconstruction: errors[image] / samples as f64, kl_per_dimension }
        };
        Ok((0..count).map(image).collect())
    }

    /// The losses of a training batch and the gradient of the total loss for every trained number; changes the running statistics
    /// and the vectors u. `noise`: N(0, 1), images × latent.
    ///
    /// # Errors
    /// When images, condition or noise do not fit the model, or a normalisation would have one value a channel.
    pub fn gradients(
        &mut self,
        images: &[f32],
        condition: Option<&Condition>,
        noise: &[f32],
        gradients: &mut Vec<f32>,
        workspace: &mut Workspace,
    ) -> Result<Step, ModelError> {
        self.gradients_and_images(images, condition, noise, gradients, workspace, None)
    }

    /// As [`Vae::gradients`], and gives the reconstructed images (N × C × Z × Y × X) too.
    ///
    /// # Errors
    /// As there.
    pub fn gradients_and_images(
        &mut self,
        images: &[f32],
        condition: Option<&Condition>,
        noise: &[f32],
        gradients: &mut Vec<f32>,
        workspace: &mut Workspace,
        reconstructed: Option<&mut Vec<f32>>,
    ) -> Result<Step, ModelError> {
        let count = self.check(Some(images), 0, condition)?;
        let latent = self.architecture.latent;
        if noise.len() != count * latent {
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
        gradients.resize(self.layout.trained, 0.0);
        let conditions = self.conditions(condition, true);
        let conditions = conditions.as_ref();
        let layout = &self.layout;
        let mut pass = Pass::new(layout, &self.values, &mut self.statistics, true, workspace);

        // Forward.
        let maps = image_maps(&self.architecture, images, &mut pass);
        let mut encoder: Vec<BlockTape> = Vec::new();
        for block in &layout.encoder {
            let input = encoder.last().map_or(&maps, |tape| &tape.out);
            encoder.push(pass.block(block, input, conditions));
        }
        let last = &encoder.last().expect("at least one level").out;
        let (mu, logvar, flat) = pass.heads(last);
        let last_shape = last.shape();
        let mut vectors = pass.workspace.pool.take(mu.shape());
        for (at, z) in vectors.data_mut().iter_mut().enumerate() {
            *z = mu.data()[at] + noise[at] * libm::expf(0.5 * logvar.data()[at]);
        }
        let start = pass.start(vectors);
        let mut decoder: Vec<BlockTape> = Vec::new();
        for block in &layout.decoder {
            let input = decoder.last().map_or(&start.out, |tape| &tape.out);
            decoder.push(pass.block(block, input, conditions));
        }

        // Losses.
        let out = &decoder.last().expect("at least one level").out;
        let n = count as f64;
        let reconstruction = squared_errors(out, &maps).into_iter().sum::<f64>() / n;
        let pairs = mu.data().iter().zip(logvar.data());
        let kl = pairs.map(|(&mu, &logvar)| kl_divergence(mu, logvar)).sum::<f64>() / n;
        let (by_error, by_kl) = match self.architecture.beta {
            None => (1.0, 1.0),
            Some(beta) => (2.0 * (1.0 - beta), 2.0 * beta),
        };
        let losses = Losses { total: by_error * reconstruction + by_kl * kl, reconstruction, kl };
        if let Some(images) = reconstructed {
            *images = out.to_channels_first();
        }

        // Backward.
        let factor = (2.0 * by_error / n) as f32;
        let mut gradient = pass.workspace.pool.take(out.shape().with_border([0; 3]));
        gradient.for_each_row(
            #[inline(always)]
            |row, gradient| {
                let pair = out.row(row).iter().zip(maps.row(row));
                gradient.iter_mut().zip(pair).for_each(|(gradient, (out, image))| *gradient = factor * (out - image));
            },
        );
        for (index, block) in layout.decoder.iter().enumerate().rev() {
            let tape = decoder.pop().expect("one a block");
            let input = decoder.last().map_or(&start.out, |tape| &tape.out);
            debug_assert_eq!(index, decoder.len());
            let back = pass.block_back(block, input, tape, conditions, gradient, true, gradients);
            gradient = back.expect("it is wanted");
        }
        let to_latent = pass.start_back(&start, gradient, gradients);
        let (mu_values, logvar_values) = (mu.data().to_vec(), logvar.data().to_vec());
        let (mut to_mu, mut to_logvar) = (mu, logvar);
        let by_kl = (by_kl / n) as f32;
        for at in 0..noise.len() {
            let (mu, logvar, upstream) = (mu_values[at], logvar_values[at], to_latent.data()[at]);
            to_mu.data_mut()[at] = upstream + by_kl * mu;
            to_logvar.data_mut()[at] =
                upstream * noise[at] * 0.5 * libm::expf(0.5 * logvar) + by_kl * 0.5 * (libm::expf(logvar) - 1.0);
        }
        let mut gradient = pass.heads_back(&flat, &to_mu, &to_logvar, last_shape, gradients);
        [flat, to_mu, to_logvar, to_latent].into_iter().for_each(|maps| pass.workspace.pool.give(maps));
        let start = start.into_out(&mut pass.workspace.pool);
        pass.workspace.pool.give(start);
        for (index, block) in layout.encoder.iter().enumerate().rev() {
            let tape = encoder.pop().expect("one a block");
            let input = encoder.last().map_or(&maps, |tape| &tape.out);
            let back = pass.block_back(block, input, tape, conditions, gradient, index > 0, gradients);
            let Some(back) = back else { break };
            gradient = back;
        }
        pass.workspace.pool.give(maps);
        Ok(Step { losses, mu: mu_values, logvar: logvar_values })
    }
}

/// Σ (a − b)² over each image.
fn squared_errors(a: &Maps, b: &Maps) -> Vec<f64> {
    let shape = a.shape();
    let per_image = shape.rows() / shape.images;
    let rows = crate::nn::parallel::map(shape.images * shape.size[0], shape.len(), |plane| {
        let rows = plane * shape.size[1]..(plane + 1) * shape.size[1];
        rows.map(|row| {
            let mut lanes = [0.0f32; 16];
            for (a, b) in a.row(row).chunks(16).zip(b.row(row).chunks(16)) {
                for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
                    *lane += (a - b) * (a - b);
                }
            }
            lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>()
        })
        .sum::<f64>()
    });
    rows.chunks(per_image / shape.size[1]).map(|planes| planes.iter().sum()).collect()
}

/// The images of a batch with the border that the first convolution wants.
fn image_maps(architecture: &Architecture, images: &[f32], pass: &mut Pass) -> Maps {
    let channels = architecture.image_channels.len();
    let count = images.len() / (channels * architecture.voxels());
    let border = pass.layout.encoder[0].conv1.window.padding;
    let mut maps = pass.workspace.pool.take(Shape::bare(count, architecture.size, channels).with_border(border));
    maps.read_channels_first(images);
    maps
}
