//! The operations on the processor, in single precision: the same bits whatever the number of threads and the instruction set.

#![allow(unsafe_code, reason = "vector instructions, and tasks that write apart from each other")]

mod adam;
mod condition;
mod convolution;
mod join;
mod latent;
mod micro_kernel;
mod norm;
mod parallel;
mod pool;
mod spectral;
mod view;

use std::sync::PoisonError;

use candle_core::{CpuStorage, Device, Error, Result, Storage, Tensor};

use self::{
    condition::Numbers,
    convolution::{Epilogue, Weights},
    join::{Reference, Sum},
    norm::{Affine, Moments, NormGradient},
    spectral::Iteration,
};
use super::{
    Activation, Backend, Condition, Convolution, Maps, Normalisation, Normalised, Read, Sampled, Shape, Spectral, Term,
    backend::{Folded, Latent, Propagate},
    maps::Pool,
    storage::{floats, update},
};

pub(super) use adam::{Step as AdamStep, adam};
pub use latent::kl_divergence;

/// The processor. What it computes in is used again from step to step.
#[derive(Debug, Default)]
pub struct Cpu {
    pool: Pool,
    panels: Vec<f32>,
    partial: Vec<f32>,
}

/// Statistics of one model out of models × 2 × channels.
fn moments_of(all: &[f64], channels: usize, model: usize) -> Vec<Moments> {
    let all = &all[2 * model * channels..][..2 * channels];
    let (means, variances) = all.split_at(channels);
    means.iter().zip(variances).map(|(&mean, &variance)| Moments { mean, variance }).collect()
}

fn affine_of(all: &[f32], channels: usize, model: usize) -> Affine {
    let all = &all[2 * model * channels..][..2 * channels];
    Affine { scale: all[..channels].to_vec(), shift: all[channels..].to_vec() }
}

/// The part of a tensor of `models` equal parts that is one model's.
fn part(all: &[f32], models: usize, model: usize) -> &[f32] {
    let length = all.len() / models;
    &all[model * length..][..length]
}

fn doubles(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.flatten_all()?.to_vec1()
}

/// The place of a layer's tensor in a tensor as long as all parameters.
fn range_of(parameter: &Tensor, models: usize, model: usize) -> std::ops::Range<usize> {
    let length = parameter.elem_count() / models;
    let start = parameter.layout().start_offset() + model * length;
    start..start + length
}

impl Cpu {
    /// The normalisation's statistics and what follows from them; `of_batch` gives a model's, of `count` values per channel.
    fn statistics(
        norm: &Normalisation,
        count: usize,
        training: bool,
        mut of_batch: impl FnMut(usize) -> Vec<Moments>,
    ) -> Result<Normalised> {
        let (models, channels) = (norm.weight.dims()[0], norm.channels());
        let (mut all, mut affine) = (Vec::new(), Vec::new());
        for model in 0..models {
            let running = |tensor: &Tensor| -> Result<Vec<f32>> { Ok(part(&floats(tensor)?, models, model).to_vec()) };
            let (mut means, mut variances) = (running(&norm.running_mean)?, running(&norm.running_var)?);
            let moments: Vec<Moments> = if training {
                let moments = of_batch(model);
                for (moments, (mean, variance)) in moments.iter().zip(means.iter_mut().zip(&mut variances)) {
                    (*mean, *variance) = moments.run(*mean, *variance, count);
                }
                let start = model * channels;
                update(&norm.running_mean, |to| to[start..start + channels].copy_from_slice(&means))?;
                update(&norm.running_var, |to| to[start..start + channels].copy_from_slice(&variances))?;
                moments
            } else {
                let pairs = means.iter().zip(&variances);
                pairs.map(|(&m, &v)| Moments { mean: f64::from(m), variance: f64::from(v) }).collect()
            };
            let (weight, bias) = (floats(&norm.weight)?, floats(&norm.bias)?);
            let found = Affine::new(&moments, part(&weight, models, model), part(&bias, models, model));
            all.extend(moments.iter().map(|moments| moments.mean));
            all.extend(moments.iter().map(|moments| moments.variance));
            affine.extend(found.scale);
            affine.extend(found.shift);
        }
        let shape = (models, 2, channels);
        Ok(Normalised {
            moments: Tensor::from_vec(all, shape, &Device::Cpu)?,
            affine: Tensor::from_vec(affine, shape, &Device::Cpu)?,
        })
    }

    /// Maps with at least this halo: those that are given, or others into which they are read.
    fn reach<'a>(&mut self, read: Read<'a>, halo: [usize; 3], own: &'a mut Option<Maps>) -> Result<&'a Maps> {
        if let Read::Kept(maps) = read
            && (0..3).all(|axis| maps.shape().halo[axis] >= halo[axis])
        {
            return Ok(maps);
        }
        Ok(own.insert(self.materialise(read, halo)?))
    }
}

fn iteration(spectral: &Spectral, models: usize, model: usize) -> Result<Iteration> {
    let (sigma, u, v) = (floats(&spectral.sigma)?, floats(&spectral.u)?, floats(&spectral.v)?);
    Ok(Iteration { sigma: sigma[model], u: part(&u, models, model).to_vec(), v: part(&v, models, model).to_vec() })
}

/// The numbers of one model's condition.
fn numbers<'a>(
    condition: &Condition,
    [weight, bias, norm_weight]: [&'a [f32]; 3],
    sigma: f32,
    model: usize,
) -> Numbers<'a> {
    let models = condition.conv.models();
    Numbers {
        weight: part(weight, models, model),
        bias: part(bias, models, model),
        norm_weight: part(norm_weight, models, model),
        inputs: condition.conv.inputs,
        outputs: condition.conv.outputs,
        inverse_sigma: 1.0 / f64::from(sigma),
    }
}

/// Puts the gradients of one model's condition in their places.
fn put_gradients(
    condition: &Condition,
    found: &condition::Gradients,
    models: usize,
    model: usize,
    gradients: &Tensor,
) -> Result<()> {
    update(gradients, |all| {
        let mut put = |parameter: &Tensor, values: &[f32]| {
            all[range_of(parameter, models, model)].copy_from_slice(values);
        };
        put(&condition.conv.weight, &found.weight);
        put(&condition.conv.bias, &vec![0.0; condition.conv.outputs]);
        put(&condition.norm.weight, &found.norm_weight);
        put(&condition.norm.bias, &found.norm_bias);
    })
}

impl Backend for Cpu {
    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn take(&mut self, shape: Shape) -> Result<Maps> {
        let wanted = shape.len();
        let mut free = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let length = |storage: &Storage| match storage {
            Storage::Cpu(CpuStorage::F32(values)) => values.len(),
            _ => 0,
        };
        let fitting = free.iter().enumerate().map(|(index, storage)| (index, length(storage)));
        let best =
            fitting.filter(|(_, length)| (wanted..=2 * wanted + 64).contains(length)).min_by_key(|found| found.1);
        let storage = match best {
            Some((index, _)) => free.swap_remove(index),
            None => Storage::Cpu(CpuStorage::F32(vec![0.0; wanted])),
        };
        drop(free);
        let mut maps = Maps::in_storage(shape, storage, Some(Pool::clone(&self.pool)));
        if best.is_some() {
            (0..shape.models).for_each(|model| maps.of_model_mut(model).clear_halo());
        }
        Ok(maps)
    }

    fn upload(&mut self, images: &[f32], shape: Shape) -> Result<Maps> {
        let per_model = shape.voxels() * shape.channels;
        if images.len() != shape.models * per_model {
            return Err(Error::Msg(format!("{} numbers are not images of the shape {shape:?}", images.len())));
        }
        let mut maps = self.take(shape)?;
        for (model, images) in images.chunks_exact(per_model.max(1)).enumerate() {
            maps.of_model_mut(model).read_channels_first(images);
        }
        Ok(maps)
    }

    fn download(&mut self, maps: &Maps) -> Result<Vec<f32>> {
        Ok((0..maps.shape().models).flat_map(|model| maps.of_model(model).to_channels_first()).collect())
    }

    fn upload_vectors(&mut self, values: &[f32], shape: Shape) -> Result<Maps> {
        if shape.halo != [0; 3] || values.len() != shape.len() {
            return Err(Error::Msg(format!("{} numbers are not vectors of the shape {shape:?}", values.len())));
        }
        let mut maps = self.take(shape)?;
        maps.data_mut().copy_from_slice(values);
        Ok(maps)
    }

    fn download_vectors(&mut self, vectors: &Maps) -> Result<Vec<f32>> {
        Ok(vectors.data().to_vec())
    }

    fn materialise(&mut self, read: Read, halo: [usize; 3]) -> Result<Maps> {
        let (Read::Kept(maps) | Read::Normalised(maps, ..) | Read::Pooled(maps)) = read;
        let from = maps.shape();
        let size = match read {
            Read::Pooled(_) => from.size.map(|side| side.div_ceil(2)),
            _ => from.size,
        };
        let mut out = self.take(Shape { size, halo, ..from })?;
        for model in 0..from.models {
            let (x, mut out) = (maps.of_model(model), out.of_model_mut(model));
            match read {
                Read::Kept(_) => pool::copy(x, &mut out),
                Read::Pooled(_) => pool::average(x, &mut out),
                Read::Normalised(_, norm, relu) => {
                    let affine = affine_of(&floats(&norm.affine)?, from.channels, model);
                    norm::affine(x, &affine, relu, &mut out);
                }
            }
        }
        Ok(out)
    }

    fn accumulate(&mut self, from: &Maps, to: &mut Maps) -> Result<()> {
        (0..to.shape().models).for_each(|model| pool::add(from.of_model(model), &mut to.of_model_mut(model)));
        Ok(())
    }

    fn spectral_norm(&mut self, layers: &[&Convolution], training: bool) -> Result<Vec<Spectral>> {
        let one = |layer: &&Convolution| {
            let models = layer.models();
            let (mut sigmas, mut us, mut vs) = (Vec::new(), Vec::new(), Vec::new());
            for model in 0..models {
                let (weight, u) = (floats(&layer.weight)?, floats(&layer.u)?);
                let weights = weights(layer, &weight, model);
                let found = Iteration::new(weights, by_inputs(layer), part(&u, models, model));
                sigmas.push(found.sigma);
                us.extend(found.u);
                vs.extend(found.v);
            }
            if training {
                update(&layer.u, |to| to.copy_from_slice(&us))?;
            }
            let tensor = |values: Vec<f32>| {
                let length = values.len() / models;
                Tensor::from_vec(values, (models, length), &Device::Cpu)
            };
            Ok(Spectral { sigma: tensor(sigmas)?, u: tensor(us)?, v: tensor(vs)? })
        };
        layers.iter().map(one).collect()
    }

    fn convolve(&mut self, layer: &Convolution, spectral: &Spectral, x: Read, y: &mut Maps) -> Result<()> {
        let mut own = None;
        let x = self.reach(x, layer.input_halo(), &mut own)?;
        let (weight, bias, sigma) = (floats(&layer.weight)?, floats(&layer.bias)?, floats(&spectral.sigma)?);
        for model in 0..layer.models() {
            let bias = part(&bias, layer.models(), model);
            let epilogue = Epilogue { scale: 1.0 / sigma[model], bias: Some(bias), accumulate: false };
            convolution::apply(
                &layer.window,
                layer.direction,
                weights(layer, &weight, model),
                false,
                x.of_model(model),
                &mut y.of_model_mut(model),
                epilogue,
                &mut self.panels,
            );
        }
        Ok(())
    }

    fn input_gradient(
        &mut self,
        layer: &Convolution,
        spectral: &Spectral,
        dy: &Maps,
        dx: &mut Maps,
        accumulate: bool,
    ) -> Result<()> {
        let (weight, sigma) = (floats(&layer.weight)?, floats(&spectral.sigma)?);
        for model in 0..layer.models() {
            let epilogue = Epilogue { scale: 1.0 / sigma[model], bias: None, accumulate };
            convolution::apply(
                &layer.window,
                layer.direction.adjoint(),
                weights(layer, &weight, model),
                true,
                dy.of_model(model),
                &mut dx.of_model_mut(model),
                epilogue,
                &mut self.panels,
            );
        }
        Ok(())
    }

    fn weight_gradient(
        &mut self,
        layer: &Convolution,
        spectral: &Spectral,
        x: Read,
        dy: &Maps,
        gradients: &Tensor,
    ) -> Result<()> {
        let mut own = None;
        let x = self.reach(x, layer.input_halo(), &mut own)?;
        let models = layer.models();
        let weight = floats(&layer.weight)?;
        for model in 0..models {
            let iteration = iteration(spectral, models, model)?;
            let (x, dy) = (x.of_model(model), dy.of_model(model));
            let range = range_of(&layer.weight, models, model);
            let partial = &mut self.partial;
            update(gradients, |all| {
                let out = &mut all[range];
                convolution::weight_gradient(&layer.window, layer.direction, x, dy, out, partial);
                iteration.gradient(weights(layer, &weight, model), by_inputs(layer), out);
            })?;
        }
        Ok(())
    }

    fn bias_gradient(&mut self, layer: &Convolution, dy: Option<&Maps>, gradients: &Tensor) -> Result<()> {
        for model in 0..layer.models() {
            let sums = dy.map(|dy| norm::channel_sums(dy.of_model(model)));
            update(gradients, |all| {
                let out = &mut all[range_of(&layer.bias, layer.models(), model)];
                match sums {
                    Some(sums) => out.copy_from_slice(&sums),
                    None => out.fill(0.0),
                }
            })?;
        }
        Ok(())
    }

    fn normalise(&mut self, norm: &Normalisation, x: &Maps, training: bool) -> Result<Normalised> {
        Self::statistics(norm, x.shape().voxels(), training, |model| norm::moments(x.of_model(model)))
    }

    fn normalise_backward(
        &mut self,
        norm: &Normalisation,
        of: &Normalised,
        relu: bool,
        x: &Maps,
        mut dy: Propagate,
        gradients: &Tensor,
    ) -> Result<()> {
        let (models, channels) = (norm.weight.dims()[0], norm.channels());
        let (moments, affine, weight) = (doubles(&of.moments)?, floats(&of.affine)?, floats(&norm.weight)?);
        for model in 0..models {
            let moments = moments_of(&moments, channels, model);
            let affine = relu.then(|| affine_of(&affine, channels, model));
            let x = x.of_model(model);
            let upstream = match &dy {
                Propagate::InPlace(dy) => dy.of_model(model),
                Propagate::Into(dy, _) => dy.of_model(model),
            };
            let [sum, product] = norm::gradient_sums(upstream, x, &moments, affine.as_ref());
            let found = NormGradient::new(&moments, part(&weight, models, model), &sum, &product, x.shape().voxels());
            update(gradients, |all| {
                all[range_of(&norm.weight, models, model)].copy_from_slice(&found.weight);
                all[range_of(&norm.bias, models, model)].copy_from_slice(&found.bias);
            })?;
            match &mut dy {
                Propagate::InPlace(dy) => {
                    norm::propagate(None, x, &found, affine.as_ref(), &mut dy.of_model_mut(model));
                }
                Propagate::Into(dy, dx) => {
                    let dy = Some(dy.of_model(model));
                    norm::propagate(dy, x, &found, affine.as_ref(), &mut dx.of_model_mut(model));
                }
            }
        }
        Ok(())
    }

    fn pool_backward(&mut self, dy: &Maps, dx: &mut Maps, accumulate: bool) -> Result<()> {
        for model in 0..dx.shape().models {
            pool::spread_average(dy.of_model(model), &mut dx.of_model_mut(model), accumulate);
        }
        Ok(())
    }

    fn upsample_backward(&mut self, dy: &Maps, dx: &mut Maps) -> Result<()> {
        for model in 0..dx.shape().models {
            pool::sum_corners(dy.of_model(model), &mut dx.of_model_mut(model));
        }
        Ok(())
    }

    fn sum(&mut self, terms: &[Term], activation: Activation, out: &mut Maps) -> Result<()> {
        let (mut normalised, mut bypass, mut reference, mut label) = (None, None, None, None);
        for term in terms {
            match term {
                Term::Normalised(maps, norm) => normalised = Some((maps, floats(&norm.affine)?)),
                Term::Kept(maps) | Term::Upsampled(maps) => bypass = Some(maps),
                Term::Reference(folded, sampled) => reference = Some((floats(&folded.values)?, sampled)),
                Term::Label(folded) => label = Some(floats(&folded.values)?),
            }
        }
        let (Some((maps, affine)), Some(bypass)) = (normalised, bypass) else {
            return Err(Error::Msg("a sum has one normalised term and one bypass".to_owned()));
        };
        let (models, channels) = (out.shape().models, out.shape().channels);
        for model in 0..models {
            let sum = Sum {
                affine: &affine_of(&affine, channels, model),
                normalised: maps.of_model(model),
                bypass: bypass.of_model(model),
                reference: reference.as_ref().map(|(values, sampled)| {
                    let (factors, shift) = split_last(part(values, models, model), channels);
                    Reference { factors, shift, sampled: sampled.of_model(model) }
                }),
                label: label.as_ref().map(|values| part(values, models, model)),
                activation,
            };
            sum.run(&mut out.of_model_mut(model))?;
        }
        Ok(())
    }

    fn activation_backward(&mut self, activation: Activation, out: &Maps, gradient: &mut Maps) -> Result<()> {
        for model in 0..out.shape().models {
            join::activation_backward(activation, out.of_model(model), &mut gradient.of_model_mut(model));
        }
        Ok(())
    }

    fn sample(&mut self, reference: &Maps, size: [usize; 3], training: bool) -> Result<Sampled> {
        let from = reference.shape();
        let mut maps = self.take(Shape { size, halo: [0; 3], ..from })?;
        let mut moments = Vec::new();
        for model in 0..from.models {
            pool::nearest(reference.of_model(model), &mut maps.of_model_mut(model));
            if training {
                let (mean, covariance) = condition::covariance(maps.of_model(model));
                moments.extend(mean);
                moments.extend(covariance);
            }
        }
        let length = from.channels * (1 + from.channels);
        let moments = training.then(|| Tensor::from_vec(moments, (from.models, length), &Device::Cpu)).transpose()?;
        Ok(Sampled { maps, moments })
    }

    fn reference_condition(
        &mut self,
        condition: &Condition,
        spectral: &Spectral,
        sampled: &Sampled,
        training: bool,
    ) -> Result<Folded> {
        let (weight, bias) = (floats(&condition.conv.weight)?, floats(&condition.conv.bias)?);
        let (norm_weight, sigma) = (floats(&condition.norm.weight)?, floats(&spectral.sigma)?);
        let numbers = |model: usize| numbers(condition, [&weight, &bias, &norm_weight], sigma[model], model);
        let (models, channels) = (condition.conv.models(), condition.conv.outputs);
        let of_sampled = sampled.moments.as_ref().map(doubles).transpose()?;
        let count = sampled.maps.shape().voxels();
        let found = Self::statistics(&condition.norm, count, training, |model| {
            let (mean, covariance) = sampled_moments(of_sampled.as_deref(), sampled, model);
            numbers(model).reference_moments(mean, covariance)
        })?;
        let affine = floats(&found.affine)?;
        let values: Vec<f32> =
            (0..models).flat_map(|model| numbers(model).fold_reference(&affine_of(&affine, channels, model))).collect();
        let values = Tensor::from_vec(values, (models, condition.conv.inputs + 1, channels), &Device::Cpu)?;
        drop(affine);
        Ok(Folded { moments: found.moments, values })
    }

    fn reference_condition_backward(
        &mut self,
        condition: &Condition,
        spectral: &Spectral,
        folded: &Folded,
        sampled: &Sampled,
        dy: &Maps,
        gradients: &Tensor,
    ) -> Result<()> {
        let (weight, bias) = (floats(&condition.conv.weight)?, floats(&condition.conv.bias)?);
        let (norm_weight, values) = (floats(&condition.norm.weight)?, floats(&folded.values)?);
        let (models, channels) = (condition.conv.models(), condition.conv.outputs);
        let moments = doubles(&folded.moments)?;
        let of_sampled = sampled.moments.as_ref().map(doubles).transpose()?;
        for model in 0..models {
            let iteration = iteration(spectral, models, model)?;
            let numbers = numbers(condition, [&weight, &bias, &norm_weight], iteration.sigma, model);
            let (factors, shift) = split_last(part(&values, models, model), channels);
            let reference = Reference { factors, shift, sampled: sampled.maps.of_model(model) };
            let (mean, covariance) = sampled_moments(of_sampled.as_deref(), sampled, model);
            let moments = moments_of(&moments, channels, model);
            let mut found = numbers.reference_backward(reference, &moments, mean, covariance, dy.of_model(model));
            condition::through_sigma(&iteration, &numbers, &mut found.weight);
            put_gradients(condition, &found, models, model, gradients)?;
        }
        Ok(())
    }

    fn label_condition(
        &mut self,
        condition: &Condition,
        spectral: &Spectral,
        labels: &[usize],
        training: bool,
    ) -> Result<Folded> {
        let (weight, bias) = (floats(&condition.conv.weight)?, floats(&condition.conv.bias)?);
        let (norm_weight, sigma) = (floats(&condition.norm.weight)?, floats(&spectral.sigma)?);
        let numbers = |model: usize| numbers(condition, [&weight, &bias, &norm_weight], sigma[model], model);
        let (models, channels) = (condition.conv.models(), condition.conv.outputs);
        let found =
            Self::statistics(&condition.norm, labels.len(), training, |model| numbers(model).label_moments(labels))?;
        let affine = floats(&found.affine)?;
        let values: Vec<f32> = (0..models)
            .flat_map(|model| numbers(model).fold_labels(labels, &affine_of(&affine, channels, model)))
            .collect();
        let values = Tensor::from_vec(values, (models, labels.len(), channels), &Device::Cpu)?;
        drop(affine);
        Ok(Folded { moments: found.moments, values })
    }

    fn label_condition_backward(
        &mut self,
        condition: &Condition,
        spectral: &Spectral,
        folded: &Folded,
        labels: &[usize],
        dy: &Maps,
        gradients: &Tensor,
    ) -> Result<()> {
        let (weight, bias) = (floats(&condition.conv.weight)?, floats(&condition.conv.bias)?);
        let (norm_weight, values) = (floats(&condition.norm.weight)?, floats(&folded.values)?);
        let (models, channels) = (condition.conv.models(), condition.conv.outputs);
        let moments = doubles(&folded.moments)?;
        for model in 0..models {
            let iteration = iteration(spectral, models, model)?;
            let numbers = numbers(condition, [&weight, &bias, &norm_weight], iteration.sigma, model);
            let moments = moments_of(&moments, channels, model);
            let values = part(&values, models, model);
            let mut found = numbers.label_backward(labels, values, &moments, dy.of_model(model));
            condition::through_sigma(&iteration, &numbers, &mut found.weight);
            put_gradients(condition, &found, models, model, gradients)?;
        }
        Ok(())
    }

    fn reparameterise(&mut self, mu: &Maps, logvar: &Maps, noise: &Maps, z: &mut Maps) -> Result<()> {
        for model in 0..z.shape().models {
            let [mu, logvar, noise] = [mu, logvar, noise].map(|maps| maps.of_model(model));
            latent::reparameterise(mu, logvar, noise, &mut z.of_model_mut(model));
        }
        Ok(())
    }

    fn reparameterise_backward(
        &mut self,
        logvar: &Maps,
        noise: &Maps,
        dz: &Maps,
        dlogvar: &mut Maps,
        accumulate: bool,
    ) -> Result<()> {
        for model in 0..dz.shape().models {
            let [logvar, noise, dz] = [logvar, noise, dz].map(|maps| maps.of_model(model));
            latent::reparameterise_backward(logvar, noise, dz, &mut dlogvar.of_model_mut(model), accumulate);
        }
        Ok(())
    }

    fn kl(&mut self, mu: &Maps, logvar: &Maps) -> Result<Tensor> {
        let models = mu.shape().models;
        let found = (0..models).map(|model| latent::kl(mu.of_model(model), logvar.of_model(model))).collect();
        Tensor::from_vec(found, models, &Device::Cpu)
    }

    fn kl_backward(&mut self, of: Latent, weights: &[f64], d: &mut Maps, accumulate: bool) -> Result<()> {
        for (model, weight) in weights.iter().enumerate() {
            let (weight, mut d) = (*weight as f32, d.of_model_mut(model));
            match of {
                Latent::Mean(mu) => latent::kl_backward_mean(mu.of_model(model), weight, &mut d, accumulate),
                Latent::LogVariance(logvar) => {
                    latent::kl_backward_log_variance(logvar.of_model(model), weight, &mut d, accumulate);
                }
            }
        }
        Ok(())
    }

    fn squared_error(&mut self, a: &Maps, b: &Maps) -> Result<Tensor> {
        let Shape { models, images, .. } = a.shape();
        let found =
            (0..models).flat_map(|model| latent::squared_errors(a.of_model(model), b.of_model(model))).collect();
        Tensor::from_vec(found, (models, images), &Device::Cpu)
    }

    fn squared_error_backward(
        &mut self,
        a: &Maps,
        b: &Maps,
        weights: &[f64],
        da: &mut Maps,
        accumulate: bool,
    ) -> Result<()> {
        for (model, weight) in weights.iter().enumerate() {
            let factor = (2.0 * weight) as f32;
            let mut da = da.of_model_mut(model);
            latent::squared_error_backward(a.of_model(model), b.of_model(model), factor, &mut da, accumulate);
        }
        Ok(())
    }
}

/// Whether spectral normalisation takes the inputs as the matrix's first axis: PyTorch's order for transposed convolutions.
fn by_inputs(layer: &Convolution) -> bool {
    layer.direction == super::Direction::Transposed
}

/// The weights of one model.
fn weights<'a>(layer: &Convolution, all: &'a [f32], model: usize) -> Weights<'a> {
    Weights { values: part(all, layer.models(), model), inputs: layer.inputs, outputs: layer.outputs }
}

/// All but the last `length` floats, and those.
fn split_last(values: &[f32], length: usize) -> (&[f32], &[f32]) {
    values.split_at(values.len() - length)
}

/// Mean and covariance of a reference image's channels, of one model or of all.
fn sampled_moments<'a>(all: Option<&'a [f64]>, sampled: &Sampled, model: usize) -> (&'a [f64], &'a [f64]) {
    let Shape { models, channels, .. } = sampled.maps.shape();
    let Some(all) = all else { return (&[], &[]) };
    let model = if models == 1 { 0 } else { model };
    all[model * channels * (1 + channels)..][..channels * (1 + channels)].split_at(channels)
}
