//! The networks against PyTorch: outputs, losses, gradients, Adam steps.

use std::{collections::BTreeMap, fs, path::PathBuf};

use candle_core::backprop::GradStore;
use candle_nn::Optimizer;
use statcell::{
    model::{Architecture, Condition, ModelKind, Parameters, Vae},
    nn::{Adam, AdamParameters, cpu::Cpu},
};

struct Fixture {
    name: String,
    architecture: Architecture,
    adam: AdamParameters,
    parameters: usize,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    labels: Vec<usize>,
}

impl Fixture {
    fn read(path: &std::path::Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let config = metadata.metadata().as_ref().unwrap()["config"].clone();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        let numbers = |key: &str| -> Vec<usize> {
            config[key].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect()
        };
        let number = |key: &str| config[key].as_u64().unwrap() as usize;
        let names = |count: usize| (0..count).map(|index| index.to_string()).collect::<Vec<_>>();
        let mut size = numbers("size");
        if size.len() == 2 {
            size.insert(0, 1);
        }
        let architecture = Architecture {
            kind: if number("classes") > 0 { ModelKind::Target } else { ModelKind::Reference },
            dimensions: number("dims"),
            size: size.try_into().unwrap(),
            image_channels: names(number("image_channels")),
            reference_channels: names(number("reference_channels")),
            labels: names(number("classes")),
            channels: numbers("channels"),
            latent: number("latent"),
            beta: config["beta"].as_f64(),
            voxel_um: [1.0; 3],
        };
        let betas = config["adam_betas"].as_array().unwrap();
        let adam = AdamParameters {
            learning_rate: config["learning_rate"].as_f64().unwrap(),
            betas: [betas[0].as_f64().unwrap(), betas[1].as_f64().unwrap()],
            epsilon: config["adam_eps"].as_f64().unwrap(),
        };
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors = BTreeMap::new();
        let mut labels = Vec::new();
        for (name, view) in file.tensors() {
            let data = view.data();
            if name == "label" {
                labels = match data.len() / view.shape()[0] {
                    8 => data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as usize).collect(),
                    _ if view.dtype() == safetensors::Dtype::F32 => {
                        data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()) as usize).collect()
                    }
                    _ => data.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()) as usize).collect(),
                };
            } else {
                let values = data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
                tensors.insert(name.clone(), (view.shape().to_vec(), values));
            }
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        Self { name, architecture, adam, parameters: number("parameters"), tensors, labels }
    }

    fn values(&self, name: &str) -> &[f32] {
        &self.tensors[name].1
    }

    fn named(&self, group: &str) -> Parameters {
        let prefix = format!("{group}/");
        let mut parameters = Parameters::default();
        for (name, (shape, values)) in &self.tensors {
            if let Some(name) = name.strip_prefix(&prefix) {
                parameters.insert(name, shape.clone(), values.clone()).unwrap();
            }
        }
        parameters
    }

    /// Largest difference, in parts of the largest value; both within `tolerance`, and `absolute` besides.
    fn close(&self, what: &str, got: &[f32], wanted: &[f32], tolerance: f32, absolute: f32) {
        assert_eq!(got.len(), wanted.len(), "{}: {what}: count", self.name);
        let scale = wanted.iter().fold(0.0f32, |scale, value| scale.max(value.abs()));
        for (index, (got, wanted)) in got.iter().zip(wanted).enumerate() {
            assert!(
                (got - wanted).abs() <= tolerance * scale + absolute,
                "{}: {what}[{index}]: {got}, PyTorch {wanted} (largest {scale})",
                self.name
            );
        }
    }
}

fn fixtures() -> Vec<Fixture> {
    let folder = std::env::var_os("STATCELL_FIXTURES_NETWORKS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/networks"), PathBuf::from);
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|suffix| suffix == "safetensors"));
    paths.sort();
    assert!(!paths.is_empty(), "no fixtures in {}", folder.display());
    paths.iter().map(|path| Fixture::read(path)).collect()
}

/// Whether a parameter stands before a batch normalisation as a bias: it has no effect in training, its gradient is zero.
fn without_effect(name: &str) -> bool {
    name.ends_with(".bias") && (name.contains(".conv1.") || name.contains(".conv2.") || name.contains(".conv."))
}

/// The largest value of a tensor.
fn largest(parameters: &Parameters, name: &str) -> f32 {
    parameters.values(name).unwrap_or_default().iter().fold(0.0, |most, value| value.abs().max(most))
}

fn condition(fixture: &Fixture) -> Option<Condition<'_>> {
    (!fixture.labels.is_empty()).then(|| Condition { reference: fixture.values("ref"), labels: &fixture.labels })
}

fn check_evaluation(fixture: &Fixture) {
    let vae = Vae::from_parameters(&fixture.architecture, &fixture.named("before")).unwrap();
    assert_eq!(fixture.architecture.parameter_count(), fixture.parameters, "{}", fixture.name);
    let condition = condition(fixture);
    let (mu, logvar) = vae.encode(fixture.values("x"), condition.as_ref()).unwrap();
    fixture.close("eval/mu", &mu, fixture.values("eval/mu"), 1e-4, 1e-7);
    fixture.close("eval/logvar", &logvar, fixture.values("eval/logvar"), 1e-4, 1e-7);
    let of_mu = vae.decode(&mu, condition.as_ref()).unwrap();
    fixture.close("eval/x_hat_of_mu", &of_mu, fixture.values("eval/x_hat_of_mu"), 1e-4, 1e-7);
    let noise = fixture.values("eval/eps");
    let z: Vec<f32> = (0..mu.len()).map(|at| mu[at] + noise[at] * libm::expf(0.5 * logvar[at])).collect();
    let x_hat = vae.decode(&z, condition.as_ref()).unwrap();
    fixture.close("eval/x_hat", &x_hat, fixture.values("eval/x_hat"), 1e-4, 1e-7);
}

fn check_training(fixture: &Fixture) {
    let vae = Vae::from_parameters(&fixture.architecture, &fixture.named("before")).unwrap();
    let condition = condition(fixture);
    let losses = fixture.values("train/loss");
    let steps = losses.len() / 3;
    let noise = fixture.values("train/eps");
    let mut adam = Adam::new(vec![vae.numbers().parameters().clone()], fixture.adam).unwrap();
    let gradients = vae.zero_gradients().unwrap();
    let mut cpu = Cpu::default();
    for step in 0..steps {
        let noise = &noise[step * noise.len() / steps..(step + 1) * noise.len() / steps];
        let mut x_hat = Vec::new();
        let images = fixture.values("x");
        let done = vae
            .gradients_with(images, condition.as_ref(), noise, &gradients, &mut cpu, |tape, forward| {
                x_hat = tape.backend().download(forward.reconstructed.kept()?)?;
                Ok(())
            })
            .unwrap();
        let losses_of_step = done.losses[0];
        let got = [losses_of_step.total as f32, losses_of_step.reconstruction as f32, losses_of_step.kl as f32];
        for (got, wanted) in got.iter().zip(&losses[3 * step..]) {
            // Adam's steps along gradients that are nearly zero are rounding noise, which a small part of the loss feels first.
            let scale = if step == 0 { wanted.abs() } else { wanted.abs().max(0.01 * losses[3 * step].abs()) };
            assert!((got - wanted).abs() <= 1e-4 * scale, "{}: loss {step}: {got} {wanted}", fixture.name);
        }
        if step == 0 {
            fixture.close("train/mu", &done.mu, fixture.values("train/mu"), 1e-4, 1e-7);
            fixture.close("train/logvar", &done.logvar, fixture.values("train/logvar"), 1e-4, 1e-7);
            fixture.close("train/x_hat", &x_hat, fixture.values("train/x_hat"), 1e-4, 1e-7);
            let (got, wanted) = (vae.named(&gradients).unwrap(), fixture.named("grad"));
            assert_eq!(got.0.keys().collect::<Vec<_>>(), wanted.0.keys().collect::<Vec<_>>());
            for name in wanted.0.keys() {
                let sibling = match name.rsplit_once('.') {
                    Some((layer, "bias")) => largest(&wanted, &format!("{layer}.weight")),
                    Some((layer, _)) => largest(&wanted, &format!("{layer}.bias")),
                    None => 0.0,
                };
                // What should vanish, or nearly does, keeps the rounding of the large terms that it is the sum of.
                let absolute = match name.as_str() {
                    name if without_effect(name) => 1e-3 + 1e-5 * sibling,
                    name if name.contains("bn") => 1e-6 + 1e-5 * sibling,
                    _ => 1e-6,
                };
                assert_eq!(got.0[name].dims(), wanted.0[name].dims());
                let (got, wanted) = (got.values(name).unwrap(), wanted.values(name).unwrap());
                // A label's condition is normalised over as many values as there are images: PyTorch itself is as far from the sums in f64.
                let tolerance = if name.contains(".cond.1.") { 3e-3 } else { 1e-3 };
                fixture.close(&format!("grad/{name}"), &got, &wanted, tolerance, absolute);
            }
        }
        let mut all = GradStore::default();
        all.insert(vae.numbers().parameters().as_tensor(), gradients.clone());
        adam.step(&all).unwrap();
    }
    let (got, wanted, gradients) = (vae.parameters(), fixture.named("after"), fixture.named("grad"));
    assert_eq!(got.0.keys().collect::<Vec<_>>(), wanted.0.keys().collect::<Vec<_>>());
    for name in wanted.0.keys() {
        // Adam turns the rounding noise of a zero gradient into steps of the learning rate, and running means follow the biases; where
        // a gradient is nearly zero, a part of a step.
        let walk = steps as f32 * fixture.adam.learning_rate as f32;
        let drift = match name.as_str() {
            name if without_effect(name) => 1.01 * walk,
            name if name.ends_with("running_mean") => 0.3 * walk,
            name if name.ends_with("running_var") => 0.0,
            // u follows the weights that walk.
            name if name.ends_with(".u") => 0.3 * walk,
            _ => 0.02 * walk,
        };
        let (mut got, mut wanted) = (got.values(name).unwrap(), wanted.values(name).unwrap());
        if let Ok(gradient) = gradients.values(name) {
            let most = largest(&gradients, name);
            for (at, gradient) in gradient.iter().enumerate() {
                if gradient.abs() < 1e-3 * most && (got[at] - wanted[at]).abs() <= 1.01 * walk {
                    (got[at], wanted[at]) = (0.0, 0.0);
                }
            }
        }
        fixture.close(&format!("after/{name}"), &got, &wanted, 1e-4, drift + 1e-7);
    }
}

#[test]
fn networks() {
    for fixture in fixtures() {
        check_evaluation(&fixture);
        check_training(&fixture);
    }
}
