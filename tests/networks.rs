//! The networks against PyTorch 2.11: outputs, losses, gradients, Adam steps; one test per fixture.
//!
//! What can be compared exactly is: the first step's outputs and gradients with PyTorch's, u and Adam's step with double precision from the
//! same numbers. After three steps two programs that round differently have moved apart; how far they may is derived in [`walk`].

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

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
    fn read(path: &Path) -> Self {
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

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/networks")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|suffix| suffix == "safetensors"));
    paths.sort();
    paths
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

/// The gradients of two programs agree to this part of a tensor's largest one: sums of thousands of terms in single precision.
const GRADIENT: f32 = 1e-3;

/// What a gradient may differ by besides: what should vanish, or nearly does, keeps the rounding of the large terms that it is a sum of.
fn rounding(wanted: &Parameters, name: &str) -> f32 {
    let sibling = match name.rsplit_once('.') {
        Some((layer, "bias")) => largest(wanted, &format!("{layer}.weight")),
        Some((layer, _)) => largest(wanted, &format!("{layer}.bias")),
        None => 0.0,
    };
    match name {
        name if without_effect(name) => 1e-3 + 1e-5 * sibling,
        name if name.contains("bn") => 1e-6 + 1e-5 * sibling,
        _ => 1e-6,
    }
}

/// How far a weight may be from PyTorch's after `steps` steps of Adam with learning rate `rate`, given its first gradient and the largest of
/// its tensor.
///
/// A step is at most 1.1 `rate` long, so two programs part by at most 2.2 `rate` per step. Adam divides a gradient by its own size: gradients
/// g and g + δ give steps that differ by at most 2 · rate · δ / |g|. δ is a tenth of what [`GRADIENT`] allows at worst, ten times more in later
/// steps, when the weights have parted already.
fn walk(steps: usize, rate: f32, gradient: f32, largest: f32) -> f32 {
    let parted = 2.0 * GRADIENT * largest / gradient.abs().max(f32::MIN_POSITIVE);
    steps as f32 * rate * parted.min(2.2)
}

/// One power iteration in double precision: u' = W Wᵀ u, normalised, W as (first axis) × (all others).
fn next_u(weight: &[f32], u: &[f32]) -> Vec<f64> {
    let columns = weight.len() / u.len();
    let rows = || weight.chunks_exact(columns).map(|row| row.iter().map(|&value| f64::from(value)));
    let mut v = vec![0.0; columns];
    for (row, u) in rows().zip(u) {
        v.iter_mut().zip(row).for_each(|(v, value)| *v += f64::from(*u) * value);
    }
    let unit = |values: Vec<f64>| {
        let norm = values.iter().map(|value| value * value).sum::<f64>().sqrt();
        values.into_iter().map(|value| value / norm.max(1e-12)).collect::<Vec<_>>()
    };
    let v = unit(v);
    unit(rows().map(|row| row.zip(&v).map(|(value, v)| value * v).sum()).collect())
}

/// ‖a‖ and ‖a − b‖.
fn norms(a: &[f32], b: &[f32]) -> [f64; 2] {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let difference = |(a, b): (&f32, &f32)| f64::from(*a) - f64::from(*b);
    [norm(&mut a.iter().map(|&value| f64::from(value))), norm(&mut a.iter().zip(b).map(difference))]
}

/// A step of Adam from PyTorch's own gradients, against double precision.
fn check_adam(fixture: &Fixture) {
    let before = fixture.named("before");
    let vae = Vae::from_parameters(&fixture.architecture, &before).unwrap();
    // A second model holds the gradients, in the order in which the numbers lie.
    let mut gradients = before.clone();
    gradients.0.extend(fixture.named("grad").0);
    let gradients = Vae::from_parameters(&fixture.architecture, &gradients).unwrap();
    let mut adam = Adam::new(vec![vae.numbers().parameters().clone()], fixture.adam).unwrap();
    let mut all = GradStore::default();
    let flat = gradients.numbers().parameters().as_tensor();
    all.insert(vae.numbers().parameters().as_tensor(), flat.clone());
    adam.step(&all).unwrap();
    let AdamParameters { learning_rate, epsilon, .. } = fixture.adam;
    for name in fixture.named("grad").0.keys() {
        let (old, gradient) = (before.values(name).unwrap(), fixture.named("grad").values(name).unwrap());
        // In the first step both corrected moments are the gradient and its square.
        let wanted: Vec<f32> = old
            .iter()
            .zip(&gradient)
            .map(|(old, g)| {
                let g = f64::from(*g);
                (f64::from(*old) - learning_rate * g / (g.abs() + epsilon)) as f32
            })
            .collect();
        let got = vae.parameters().values(name).unwrap();
        fixture.close(&format!("Adam from given gradients/{name}"), &got, &wanted, 2e-7, 1e-5 * learning_rate as f32);
    }
}

fn check_training(fixture: &Fixture) {
    let before = fixture.named("before");
    let vae = Vae::from_parameters(&fixture.architecture, &before).unwrap();
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
        let done = vae
            .gradients_with(fixture.values("x"), condition.as_ref(), noise, &gradients, &mut cpu, |tape, forward| {
                x_hat = tape.backend().download(forward.reconstructed.kept()?)?;
                Ok(())
            })
            .unwrap();
        let found = done.losses[0];
        for (got, wanted) in [found.total, found.reconstruction, found.kl].into_iter().zip(&losses[3 * step..]) {
            // Later losses are those of weights that have moved apart: a part of the total loss.
            let scale = if step == 0 { wanted.abs() } else { wanted.abs().max(0.01 * losses[3 * step].abs()) };
            assert!((got as f32 - wanted).abs() <= 1e-4 * scale, "{}: loss {step}: {got} {wanted}", fixture.name);
        }
        if step == 0 {
            fixture.close("train/mu", &done.mu, fixture.values("train/mu"), 1e-4, 1e-7);
            fixture.close("train/logvar", &done.logvar, fixture.values("train/logvar"), 1e-4, 1e-7);
            fixture.close("train/x_hat", &x_hat, fixture.values("train/x_hat"), 1e-4, 1e-7);
            check_gradients(fixture, &vae.named(&gradients).unwrap());
            let now = vae.parameters();
            for name in before.0.keys().filter(|name| name.ends_with(".u")) {
                let weight = before.values(&name.replace(".u", ".weight")).unwrap();
                let wanted = next_u(&weight, &before.values(name).unwrap());
                for (got, wanted) in now.values(name).unwrap().iter().zip(wanted) {
                    assert!((f64::from(*got) - wanted).abs() < 1e-5, "{}: {name}: {got} {wanted}", fixture.name);
                }
            }
        }
        let mut all = GradStore::default();
        all.insert(vae.numbers().parameters().as_tensor(), gradients.clone());
        adam.step(&all).unwrap();
    }
    check_after(fixture, &vae.parameters(), steps);
}

fn check_gradients(fixture: &Fixture, got: &Parameters) {
    let wanted = fixture.named("grad");
    assert_eq!(got.0.keys().collect::<Vec<_>>(), wanted.0.keys().collect::<Vec<_>>());
    for name in wanted.0.keys() {
        assert_eq!(got.0[name].dims(), wanted.0[name].dims());
        // A label's condition is normalised over as many values as there are images: PyTorch itself is as far from the sums in f64.
        let tolerance = if name.contains(".cond.1.") { 3.0 * GRADIENT } else { GRADIENT };
        let (own, theirs) = (got.values(name).unwrap(), wanted.values(name).unwrap());
        fixture.close(&format!("grad/{name}"), &own, &theirs, tolerance, rounding(&wanted, name));
    }
}

/// Everything after the last step.
fn check_after(fixture: &Fixture, got: &Parameters, steps: usize) {
    let (wanted, gradients) = (fixture.named("after"), fixture.named("grad"));
    let rate = fixture.adam.learning_rate as f32;
    assert_eq!(got.0.keys().collect::<Vec<_>>(), wanted.0.keys().collect::<Vec<_>>());
    for name in wanted.0.keys() {
        let (own, theirs) = (got.values(name).unwrap(), wanted.values(name).unwrap());
        let tolerance = 1e-4 * largest(&wanted, name) + 1e-7;
        let allowed = |at: usize| match name.as_str() {
            // PyTorch's Adam turns the rounding noise of a zero gradient into steps; ours is zero.
            name if without_effect(name) => walk(steps, rate, 0.0, 0.0).max(1.1 * steps as f32 * rate),
            name if name.ends_with(".u") => {
                // u' is W Wᵀ u, normalised: it turns by no more than W has moved in parts of its size, in every step.
                let weight = name.replace(".u", ".weight");
                let (ours, theirs) = (got.values(&weight).unwrap(), wanted.values(&weight).unwrap());
                let [size, moved] = norms(&theirs, &ours);
                let rank = own.len().min(ours.len() / own.len());
                (4.0 * steps as f64 * moved * (rank as f64).sqrt() / size) as f32
            }
            // A tenth of the mean of each step, and the mean moves with the bias before it.
            name if name.ends_with("running_mean") => 0.11 * rate * (steps * (steps + 1) / 2) as f32 + tolerance,
            name if name.ends_with("running_var") => tolerance,
            name => {
                let gradient = gradients.values(name).unwrap();
                walk(steps, rate, gradient[at], largest(&gradients, name).max(rounding(&gradients, name) / GRADIENT))
            }
        };
        for (at, (own, theirs)) in own.iter().zip(&theirs).enumerate() {
            let allowed = tolerance + allowed(at);
            assert!(
                (own - theirs).abs() <= allowed,
                "{}: after/{name}[{at}]: {own}, PyTorch {theirs}, {allowed} apart allowed",
                fixture.name
            );
        }
    }
}

fn check(path: &Path) {
    let fixture = Fixture::read(path);
    check_evaluation(&fixture);
    check_adam(&fixture);
    check_training(&fixture);
}

/// One test per fixture.
macro_rules! fixtures {
    ($($test:ident: $file:literal),* $(,)?) => {
        $(
            #[test]
            fn $test() {
                check(&folder().join($file));
            }
        )*

        #[test]
        fn every_fixture_has_a_test() {
            let listed = [$($file),*];
            for path in files(&folder()) {
                let name = path.file_name().unwrap().to_str().unwrap();
                assert!(listed.contains(&name), "{name} has no test");
            }
        }
    };
}

fixtures! {
    reference_2d: "reference-2d.safetensors",
    reference_2d_beta: "reference-2d-beta.safetensors",
    reference_2d_wide: "reference-2d-wide.safetensors",
    reference_3d: "reference-3d.safetensors",
    target_2d: "target-2d.safetensors",
    target_3d: "target-3d.safetensors",
    target_3d_wide: "target-3d-wide.safetensors",
}

#[test]
fn fixtures_of_another_folder() {
    let Some(folder) = std::env::var_os("STATCELL_FIXTURES_NETWORKS").map(PathBuf::from) else { return };
    let paths = files(&folder);
    assert!(!paths.is_empty(), "no fixtures in {}", folder.display());
    paths.iter().for_each(|path| check(path));
}
