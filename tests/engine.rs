//! The engine against an independent one: the 2D networks built of candle-nn's own layers, in double precision, with candle's gradients.

use candle_core::{DType, Device, Result, Tensor, Var, backprop::GradStore};
use candle_nn::{BatchNorm, Module, ModuleT, Optimizer};
use statcell::{
    model::{Architecture, BoundDecoder, BoundEncoder, Condition, ModelKind, Parameters, Vae},
    nn::{Adam, AdamParameters, Rng, cpu::Cpu},
};

fn architecture(kind: ModelKind, channels: &[usize]) -> Architecture {
    let target = kind == ModelKind::Target;
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    Architecture {
        kind,
        dimensions: 2,
        size: [1, 16, 8],
        image_channels: if target { names(&["structure"]) } else { names(&["membrane", "dna"]) },
        reference_channels: if target { names(&["membrane", "dna"]) } else { Vec::new() },
        labels: if target { names(&["a", "b", "c"]) } else { Vec::new() },
        channels: channels.to_vec(),
        latent: 5,
        beta: Some(0.3),
        voxel_um: [1.0; 3],
    }
}

/// A batch: images, reference images, labels, noise.
struct Batch {
    count: usize,
    images: Vec<f32>,
    reference: Vec<f32>,
    labels: Vec<usize>,
    noise: Vec<f32>,
}

impl Batch {
    fn new(architecture: &Architecture, count: usize, models: usize) -> Self {
        let mut rng = Rng::new(4, "batch", 0);
        let mut uniform = |length: usize| (0..length).map(|_| rng.uniform() as f32).collect::<Vec<_>>();
        let images = uniform(count * architecture.image_channels.len() * architecture.voxels());
        let reference = uniform(count * architecture.reference_channels.len() * architecture.voxels());
        let labels =
            if architecture.labels.is_empty() { Vec::new() } else { (0..count).map(|at| at * 2 % 3).collect() };
        let noise = (0..models * count * architecture.latent).map(|_| rng.normal() as f32).collect();
        Self { count, images, reference, labels, noise }
    }

    fn condition(&self) -> Option<Condition<'_>> {
        (!self.labels.is_empty()).then(|| Condition { reference: &self.reference, labels: &self.labels })
    }

    fn tensor(values: &[f32], count: usize, size: [usize; 3]) -> Result<Tensor> {
        let channels = values.len() / (count * size[1] * size[2]);
        Tensor::from_slice(values, (count, channels, size[1], size[2]), &Device::Cpu)
    }
}

/// The same network in plain candle.
struct Plain<'a> {
    architecture: &'a Architecture,
    weights: std::collections::BTreeMap<String, Var>,
    reference: Vec<Tensor>,
    one_hot: Option<Tensor>,
}

impl<'a> Plain<'a> {
    fn new(architecture: &'a Architecture, parameters: &Parameters, batch: &Batch) -> Result<Self> {
        let wide = |tensor: &Tensor| tensor.to_dtype(DType::F64);
        let weights = parameters.0.iter().map(|(name, tensor)| Ok((name.clone(), Var::from_tensor(&wide(tensor)?)?)));
        let (mut reference, mut one_hot) = (Vec::new(), None);
        if !batch.labels.is_empty() {
            let mut level = wide(&Batch::tensor(&batch.reference, batch.count, architecture.size)?)?;
            for _ in 0..=architecture.levels() {
                reference.push(level.clone());
                let (n, c, h, w) = level.dims4()?;
                // Every other voxel, as the paper's nearest sampling takes them.
                level = level.reshape((n, c, h / 2, 2, w / 2, 2))?.narrow(3, 0, 1)?.narrow(5, 0, 1)?;
                level = level.reshape((n, c, h / 2, w / 2))?;
            }
            let labels = architecture.labels.len();
            let hot = |label: &usize| (0..labels).map(|at| f64::from(u8::from(at == *label))).collect::<Vec<_>>();
            let hot: Vec<f64> = batch.labels.iter().flat_map(hot).collect();
            one_hot = Some(Tensor::from_vec(hot, (batch.count, labels, 1, 1), &Device::Cpu)?);
        }
        Ok(Self { architecture, weights: weights.collect::<Result<_>>()?, reference, one_hot })
    }

    fn get(&self, name: &str) -> &Tensor {
        self.weights[name].as_tensor()
    }

    /// W/σ after one power iteration, its vectors held constant.
    fn weight(&self, layer: &str) -> Result<Tensor> {
        let weight = self.get(&format!("{layer}.weight"));
        let matrix = weight.flatten_from(1)?;
        let constant = matrix.detach();
        let unit = |x: Tensor| x.broadcast_div(&x.sqr()?.sum_all()?.sqrt()?);
        let u = self.get(&format!("{layer}.u")).detach().unsqueeze(1)?;
        let v = unit(constant.t()?.matmul(&u)?)?;
        let u = unit(constant.matmul(&v)?)?;
        let sigma = u.t()?.matmul(&matrix.matmul(&v)?)?.sum_all()?;
        weight.broadcast_div(&sigma)
    }

    fn bias(&self, layer: &str) -> Result<Tensor> {
        self.get(&format!("{layer}.bias")).reshape((1, (), 1, 1))
    }

    fn conv(&self, layer: &str, x: &Tensor, padding: usize, stride: usize) -> Result<Tensor> {
        x.conv2d(&self.weight(layer)?, padding, stride, 1, 1)?.broadcast_add(&self.bias(layer)?)
    }

    fn linear(&self, layer: &str, x: &Tensor) -> Result<Tensor> {
        candle_nn::Linear::new(self.weight(layer)?, Some(self.get(&format!("{layer}.bias")).clone())).forward(x)
    }

    fn norm(&self, layer: &str, x: &Tensor) -> Result<Tensor> {
        let get = |part: &str| self.get(&format!("{layer}.{part}")).clone();
        let running = [get("running_mean").copy()?, get("running_var").copy()?];
        let [mean, variance] = running;
        BatchNorm::new(x.dim(1)?, mean, variance, get("weight"), get("bias"), 1e-5)?.forward_t(x, true)
    }

    fn block(&self, name: &str, x: &Tensor, up: bool, level: usize) -> Result<Tensor> {
        let part = |part: &str| format!("{name}.{part}");
        let y = if up {
            let weight = self.weight(&part("conv1"))?;
            x.conv_transpose2d(&weight, 1, 0, 2, 1)?.broadcast_add(&self.bias(&part("conv1"))?)?
        } else {
            self.conv(&part("conv1"), x, 1, 2)?
        };
        let y = self.norm(&part("bn1"), &y)?.relu()?;
        let y = self.norm(&part("bn2"), &self.conv(&part("conv2"), &y, 1, 1)?)?;
        let bypass = if up {
            let low = self.conv(&part("bypass"), x, 0, 1)?;
            let (n, c, h, w) = low.dims4()?;
            low.reshape((n, c, h, 1, w, 1))?.broadcast_as((n, c, h, 2, w, 2))?.reshape((n, c, 2 * h, 2 * w))?
        } else {
            let (n, c, h, w) = x.dims4()?;
            let pooled = x.reshape((n, c, h / 2, 2, w / 2, 2))?.mean(5)?.mean(3)?;
            self.conv(&part("bypass"), &pooled, 0, 1)?
        };
        let mut sum = (y + bypass)?;
        if let Some(one_hot) = &self.one_hot {
            for (index, given) in [&self.reference[level], one_hot].into_iter().enumerate() {
                let condition = self.conv(&part(&format!("cond.{index}.conv")), given, 0, 1)?;
                let condition = self.norm(&part(&format!("cond.{index}.bn")), &condition)?.relu()?;
                sum = sum.broadcast_add(&condition)?;
            }
        }
        if up && level == 0 { (sum.exp()? + 1.0)?.log() } else { sum.relu() }
    }

    /// Reconstructed images, latent means, logarithms of variances.
    fn forward(&self, images: &Tensor, noise: &Tensor) -> Result<[Tensor; 3]> {
        let levels = self.architecture.levels();
        let mut x = images.clone();
        for level in 0..levels {
            x = self.block(&format!("enc.path.{level}"), &x, false, level + 1)?;
        }
        let flat = x.flatten_from(1)?;
        let (mu, logvar) = (self.linear("enc.mu", &flat)?, self.linear("enc.logvar", &flat)?);
        let z = (&mu + (noise * (&logvar * 0.5)?.exp()?)?)?;
        let [_, height, width] = self.architecture.grid();
        let y = self.linear("dec.fc", &z)?.reshape((images.dim(0)?, (), height, width))?;
        let mut x = self.norm("dec.bn", &y)?.relu()?;
        for step in 0..levels {
            x = self.block(&format!("dec.path.{step}"), &x, true, levels - 1 - step)?;
        }
        Ok([x, mu, logvar])
    }
}

/// The squared error of the mean intensity of each image: an auxiliary loss, in plain candle.
fn intensity(reconstructed: &Tensor, images: &Tensor) -> Result<Tensor> {
    let mean = |x: &Tensor| x.flatten_from(1)?.mean(1);
    (mean(reconstructed)? - mean(images)?)?.sqr()?.sum_all()
}

/// The largest value of a tensor.
fn largest(tensor: &Tensor) -> f64 {
    let values = tensor.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    values.iter().fold(1e-30, |most: f64, value| most.max(value.abs()))
}

/// Largest difference in parts of the largest value.
fn far(got: &[f32], wanted: &Tensor) -> f64 {
    far_of(got, wanted, largest(wanted))
}

/// Largest difference in parts of another value.
fn far_of(got: &[f32], wanted: &Tensor, largest: f64) -> f64 {
    let wanted = wanted.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    assert_eq!(got.len(), wanted.len());
    got.iter().zip(&wanted).map(|(got, wanted)| (f64::from(*got) - wanted).abs() / largest).fold(0.0, f64::max)
}

fn agrees_with_plain_candle(kind: ModelKind, auxiliary: f64) -> Result<()> {
    let architecture = architecture(kind, &[4, 6]);
    let vae = Vae::new(&architecture, 3).unwrap();
    let batch = Batch::new(&architecture, 4, 1);
    let plain = Plain::new(&architecture, &vae.parameters(), &batch)?;
    let wide = |tensor: Tensor| tensor.to_dtype(DType::F64);
    let images = Batch::tensor(&batch.images, batch.count, architecture.size)?;
    let noise = wide(Tensor::from_slice(&batch.noise, (batch.count, architecture.latent), &Device::Cpu)?)?;
    let wide_images = wide(images.clone())?;
    let [x_hat, mu, logvar] = plain.forward(&wide_images, &noise)?;
    let n = batch.count as f64;
    let error = ((&x_hat - &wide_images)?.sqr()?.sum_all()? / n)?;
    let kl = ((((mu.sqr()? + logvar.exp()?)? - 1.0)? - &logvar)?.sum_all()? * (0.5 / n))?;
    let beta = architecture.beta.unwrap();
    let mut loss = ((&error * (2.0 * (1.0 - beta)))? + (&kl * (2.0 * beta))?)?;
    if auxiliary > 0.0 {
        loss = (loss + (intensity(&x_hat, &wide_images)? * auxiliary)?)?;
    }
    let wanted = loss.backward()?;

    let gradients = vae.zero_gradients().unwrap();
    let (mut got_x_hat, mut got_intensity) = (Vec::new(), 0.0);
    let step = vae
        .gradients_with(&batch.images, batch.condition().as_ref(), &batch.noise, &gradients, &mut Cpu::default(), {
            let images = images.clone();
            let (got_x_hat, got_intensity) = (&mut got_x_hat, &mut got_intensity);
            move |tape, forward| {
                *got_x_hat = tape.backend().download(forward.reconstructed.kept()?)?;
                if auxiliary > 0.0 {
                    // This is all that an auxiliary loss takes.
                    let loss = tape.candle(&forward.reconstructed, move |x_hat| intensity(x_hat, &images))?;
                    *got_intensity = tape.minimise(&loss, auxiliary)?;
                }
                Ok(())
            }
        })
        .unwrap();
    assert!(far(&got_x_hat, &x_hat) < 1e-5 && far(&step.mu, &mu) < 1e-5 && far(&step.logvar, &logvar) < 1e-5);
    let total = step.losses[0].total + auxiliary * got_intensity;
    let wanted_total = loss.to_scalar::<f64>()?;
    assert!((total - wanted_total).abs() < 1e-5 * wanted_total.abs(), "{total} {wanted_total}");
    let got = vae.named(&gradients).unwrap();
    let mut compared = 0;
    for name in got.0.keys() {
        let of = |name: &str| wanted.get(plain.get(name)).unwrap_or_else(|| panic!("candle has no gradient of {name}"));
        let wanted = of(name);
        let got = got.values(name).unwrap();
        if largest(wanted) < 1e-9 {
            // A bias before a normalisation: zero but for rounding.
            assert!(got.iter().all(|value| *value == 0.0), "{name}");
            continue;
        }
        compared += 1;
        // The weights and biases of a normalisation are sums over the same terms: where the next normalisation takes a factor out again, the
        // gradient of the weight vanishes but for the rounding of those terms.
        let size = match name.rsplit_once('.') {
            Some((layer, _)) if layer.contains("bn") => {
                largest(of(&format!("{layer}.weight"))).max(largest(of(&format!("{layer}.bias"))))
            }
            _ => largest(wanted),
        };
        assert!(far_of(&got, wanted, size) < 2e-4, "{name}: {}", far_of(&got, wanted, size));
    }
    assert!(compared > 30, "{compared}");
    Ok(())
}

#[test]
fn a_reference_model_agrees_with_plain_candle() {
    agrees_with_plain_candle(ModelKind::Reference, 0.0).unwrap();
}

#[test]
fn a_target_model_agrees_with_plain_candle() {
    agrees_with_plain_candle(ModelKind::Target, 0.0).unwrap();
}

#[test]
fn an_auxiliary_loss_in_plain_candle_reaches_every_gradient() {
    agrees_with_plain_candle(ModelKind::Reference, 40.0).unwrap();
}

/// The numbers of a model after some steps of Adam.
fn train(vae: &Vae, batch: &Batch) -> [Vec<f32>; 2] {
    let gradients = vae.zero_gradients().unwrap();
    let weights = vae.numbers().parameters().clone();
    let mut adam = Adam::new(vec![weights.clone()], AdamParameters::new(1e-3)).unwrap();
    let mut cpu = Cpu::default();
    for _ in 0..3 {
        vae.gradients(&batch.images, batch.condition().as_ref(), &batch.noise, &gradients, &mut cpu).unwrap();
        let mut all = GradStore::default();
        all.insert(weights.as_tensor(), gradients.clone());
        adam.step(&all).unwrap();
    }
    vae.numbers().values().unwrap()
}

#[test]
fn models_trained_together_have_the_bytes_of_each_trained_alone() {
    for (kind, channels) in [(ModelKind::Reference, &[16, 32][..]), (ModelKind::Target, &[3, 5])] {
        let base = Architecture { size: [1, 32, 32], ..architecture(kind, channels) };
        let betas = [None, Some(0.25), Some(0.9)];
        let models: Vec<Vae> = betas
            .into_iter()
            .zip(1..)
            .map(|(beta, seed)| Vae::new(&Architecture { beta, ..base.clone() }, seed).unwrap())
            .collect();
        let stacked = Vae::stack(&models).unwrap();
        let batch = Batch::new(&base, 5, models.len());
        train(&stacked, &batch);
        for (number, alone) in models.iter().enumerate() {
            let length = batch.noise.len() / models.len();
            let noise = batch.noise[number * length..][..length].to_vec();
            let own = Batch {
                noise,
                images: batch.images.clone(),
                reference: batch.reference.clone(),
                labels: batch.labels.clone(),
                ..batch
            };
            let wanted = train(alone, &own);
            assert!(stacked.model(number).unwrap().numbers().values().unwrap() == wanted, "{kind:?} {number}");
        }
    }
}

#[test]
fn a_model_is_a_candle_module() {
    for kind in [ModelKind::Reference, ModelKind::Target] {
        let architecture = architecture(kind, &[4, 6]);
        let vae = Vae::new(&architecture, 3).unwrap();
        let batch = Batch::new(&architecture, 3, 1);
        let images = Batch::tensor(&batch.images, batch.count, architecture.size).unwrap();
        let condition = batch.condition().map(|given| {
            (Batch::tensor(given.reference, batch.count, architecture.size).unwrap(), given.labels.to_vec())
        });
        let encoder = BoundEncoder { encoder: vae.encoder().clone(), condition: condition.clone() };
        let decoder = BoundDecoder { decoder: vae.decoder().clone(), condition };
        let heads = encoder.forward_t(&images, false).unwrap();
        let (mu, logvar) = vae.encode(&batch.images, batch.condition().as_ref()).unwrap();
        let latent = architecture.latent;
        let part =
            |from: usize| heads.narrow(1, from, latent).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!((part(0), part(latent)), (mu.clone(), logvar));
        let decoded = decoder.forward_t(&heads.narrow(1, 0, latent).unwrap(), false).unwrap();
        assert_eq!(decoded.dims(), images.dims());
        let wanted = vae.decode(&mu, batch.condition().as_ref()).unwrap();
        assert_eq!(decoded.flatten_all().unwrap().to_vec1::<f32>().unwrap(), wanted);
    }
}
