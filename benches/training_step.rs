//! One training step (forward, backward, Adam) of the paper's networks at full size: `cargo bench --bench training_step -- KIND BATCH STEPS [SET]`,
//! KIND one of 2d, 2d-target, 3d, 3d-target; SET the vector instructions (avx512, avx2, portable).
//!
//! `benches/training_step.py` does the same in PyTorch; `benches/training_step.sh` runs the two in turn and prints the ratio.

#![expect(clippy::print_stdout, reason = "the result")]

use std::time::Instant;

use candle_core::backprop::GradStore;
use candle_nn::Optimizer;
use statcell::{
    model::{Architecture, Condition, ModelKind, Vae},
    nn::{Adam, AdamParameters, Rng, cpu::Cpu},
    simd::Instructions,
};

fn main() {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let number =
        |at: usize, otherwise: usize| arguments.get(at).map_or(otherwise, |text| text.parse().expect("a number"));
    let kind = arguments.first().map_or("2d", String::as_str);
    if let Some(name) = arguments.get(3) {
        Instructions::choose(name).expect("instructions that the processor has");
    }
    let (batch, steps) = (number(1, 2), number(2, 1));
    let (dimensions, target) = (if kind.starts_with("3d") { 3 } else { 2 }, kind.ends_with("target"));
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let architecture = Architecture {
        kind: if target { ModelKind::Target } else { ModelKind::Reference },
        dimensions,
        size: if dimensions == 3 { [64, 160, 96] } else { [1, 160, 96] },
        image_channels: if target { names(&["structure"]) } else { names(&["membrane", "dna"]) },
        reference_channels: if target { names(&["membrane", "dna"]) } else { Vec::new() },
        labels: if target { (0..24).map(|label| label.to_string()).collect() } else { Vec::new() },
        channels: vec![32, 64, 128, 256, 512],
        latent: 512,
        beta: None,
        voxel_um: [0.317; 3],
    };
    let vae = Vae::new(&architecture, 0).expect("a sound architecture");
    let mut rng = Rng::new(0, "bench", 0);
    let mut uniform = |count: usize| (0..count).map(|_| rng.uniform() as f32).collect::<Vec<f32>>();
    let images = uniform(batch * architecture.image_channels.len() * architecture.voxels());
    let reference = uniform(batch * architecture.reference_channels.len() * architecture.voxels());
    let labels: Vec<usize> = (0..batch).map(|image| image % 24).collect();
    let condition = target.then_some(Condition { reference: &reference, labels: &labels });
    let weights = vae.numbers().parameters().clone();
    let mut adam = Adam::new(vec![weights.clone()], AdamParameters::new(2e-4)).expect("memory for the moments");
    let (gradients, mut cpu) = (vae.zero_gradients().expect("memory for the gradients"), Cpu::default());
    let mut took = Vec::new();
    for step in 0..=steps {
        let mut rng = Rng::new(0, "noise", step as u64);
        let start = Instant::now();
        let noise: Vec<f32> = (0..batch * architecture.latent).map(|_| rng.normal() as f32).collect();
        let step = vae.gradients(&images, condition.as_ref(), &noise, &gradients, &mut cpu).expect("sound images");
        assert!(step.losses[0].total.is_finite(), "the loss is not finite");
        let mut all = GradStore::default();
        all.insert(weights.as_tensor(), gradients.clone());
        adam.step(&all).expect("gradients of all numbers");
        took.push(start.elapsed().as_secs_f64());
    }
    let mut took = took.split_off(1);
    took.sort_by(f64::total_cmp);
    println!("{kind} batch {batch}: median {:.3} s, least {:.3} s of {steps} steps", took[took.len() / 2], took[0]);
}
