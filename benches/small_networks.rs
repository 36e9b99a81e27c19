//! The quickstart's trainings of November 2026, frozen: steps of its small MR and MT on random images.
//! `cargo bench --bench small_networks -- [STEPS]`
//!
//! Small networks show what a step costs besides arithmetic: handing over work, allocating, bookkeeping.

#![expect(clippy::print_stdout, reason = "the result")]

use std::time::Instant;

use candle_core::backprop::GradStore;
use candle_nn::Optimizer;
use statcell::{
    model::{Architecture, Condition, ModelKind, Vae},
    nn::{Adam, AdamParameters, Rng, cpu::Cpu},
};

const BATCH: usize = 16;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let steps: usize = arguments.first().map_or(100, |text| text.parse().expect("a number"));
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    for kind in [ModelKind::Reference, ModelKind::Target] {
        let target = kind == ModelKind::Target;
        let architecture = Architecture {
            kind,
            dimensions: 2,
            size: [1, 80, 48],
            image_channels: if target { names(&["structure"]) } else { names(&["membrane", "dna"]) },
            reference_channels: if target { names(&["membrane", "dna"]) } else { Vec::new() },
            labels: if target { (0..11).map(|label| label.to_string()).collect() } else { Vec::new() },
            channels: vec![8, 16, 32, 64],
            latent: 16,
            beta: None,
            voxel_um: [0.634; 3],
        };
        let vae = Vae::new(&architecture, 0).expect("a sound architecture");
        let mut rng = Rng::new(0, "bench", 0);
        let mut uniform = |count: usize| (0..count).map(|_| rng.uniform() as f32).collect::<Vec<f32>>();
        let images = uniform(BATCH * architecture.image_channels.len() * architecture.voxels());
        let reference = uniform(BATCH * architecture.reference_channels.len() * architecture.voxels());
        let labels: Vec<usize> = (0..BATCH).map(|image| image % 11).collect();
        let condition = target.then_some(Condition { reference: &reference, labels: &labels });
        let weights = vae.numbers().parameters().clone();
        let mut adam = Adam::new(vec![weights.clone()], AdamParameters::new(1e-3)).expect("memory for the moments");
        let (gradients, mut cpu) = (vae.zero_gradients().expect("memory for the gradients"), Cpu::default());
        let mut took = Vec::new();
        for step in 0..=steps {
            let mut rng = Rng::new(0, "noise", step as u64);
            let start = Instant::now();
            let noise: Vec<f32> = (0..BATCH * architecture.latent).map(|_| rng.normal() as f32).collect();
            vae.gradients(&images, condition.as_ref(), &noise, &gradients, &mut cpu).expect("sound images");
            let mut all = GradStore::default();
            all.insert(weights.as_tensor(), gradients.clone());
            adam.step(&all).expect("gradients of all numbers");
            took.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let mut took = took.split_off(1);
        took.sort_by(f64::total_cmp);
        println!("{}: median {:.2} ms, least {:.2} ms of {steps} steps", kind.name(), took[took.len() / 2], took[0]);
    }
}
