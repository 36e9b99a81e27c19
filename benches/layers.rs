//! What part of the machine's matrix peak each convolution of the paper's MR reaches: `cargo bench --bench layers -- [2d|3d]`.
//!
//! The peak is measured in the same run: products of two 1536 × 1536 matrices (faer), one a thread at the same time.

#![expect(clippy::print_stdout, reason = "the result")]

use std::{hint::black_box, time::Instant};

use candle_core::{DType, Device, Tensor};
use statcell::nn::{Backend, Convolution, Direction, Maps, Read, Rng, Shape, Spectral, Window, cpu::Cpu};

const REPEATS: usize = 3;

/// Shortest time of some repeats, in seconds.
fn shortest(mut run: impl FnMut()) -> f64 {
    run();
    let time = |()| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    [(); REPEATS].map(time).into_iter().fold(f64::INFINITY, f64::min)
}

/// GFLOP/s of matrix products on all threads.
fn peak() -> f64 {
    const SIDE: usize = 1536;
    let threads = rayon::current_num_threads();
    let matrices: Vec<_> = (0..threads)
        .map(|thread| {
            faer::Mat::<f32>::from_fn(SIDE, SIDE, |row, column| ((row * 7 + column * 3 + thread) % 11) as f32 - 5.0)
        })
        .collect();
    let seconds = shortest(|| {
        rayon::broadcast(|thread| {
            let matrix = &matrices[thread.index()];
            black_box(matrix * matrix);
        });
    });
    2.0 * (SIDE as f64).powi(3) * threads as f64 / seconds / 1e9
}

struct Layer {
    name: String,
    window: Window,
    direction: Direction,
    input: Shape,
    output: Shape,
}

/// The convolutions of encoder and decoder, in order.
fn layers(dimensions: usize, images: usize) -> Vec<Layer> {
    let channels = [2, 32, 64, 128, 256, 512];
    let size = |level: usize| [if dimensions == 3 { 64 >> level } else { 1 }, 160 >> level, 96 >> level];
    let mut layers = Vec::new();
    for up in [false, true] {
        for step in 0..5 {
            let (from, to) = if up { (5 - step, 4 - step) } else { (step, step + 1) };
            let (inputs, outputs) = (channels[from], channels[to]);
            let (outer, inner) = (Shape::new(images, size(from), inputs), Shape::new(images, size(to), inputs));
            let last = Shape::new(images, size(to), outputs);
            let name = |layer: &str| format!("{} {step} {layer} {inputs}", if up { "decoder" } else { "encoder" });
            let (four, three) = (Window::new(dimensions, 4, 2, 1), Window::new(dimensions, 3, 1, 1));
            let direction = if up { Direction::Transposed } else { Direction::Convolution };
            layers.push(Layer { name: name("conv1"), window: four, direction, input: outer, output: inner });
            let name = format!("{} → {outputs}", name("conv2"));
            layers.push(Layer { name, window: three, direction: Direction::Convolution, input: inner, output: last });
        }
    }
    layers
}

fn random(shape: Shape, halo: [usize; 3], rng: &mut Rng, cpu: &mut Cpu) -> Maps {
    let values: Vec<f32> = (0..shape.voxels() * shape.channels).map(|_| rng.uniform() as f32 - 0.5).collect();
    cpu.upload(&values, shape.with_halo(halo)).expect("memory for the maps")
}

/// A layer with random weights and σ = 1.
fn layer(
    [inputs, outputs]: [usize; 2],
    window: Window,
    direction: Direction,
    rng: &mut Rng,
) -> (Convolution, Spectral) {
    let weight: Vec<f32> = (0..window.taps() * inputs * outputs).map(|_| rng.uniform() as f32 - 0.5).collect();
    let tensor = |values: Vec<f32>| {
        let length = values.len();
        Tensor::from_vec(values, (1, length), &Device::Cpu).expect("a tensor")
    };
    let rows = if direction == Direction::Transposed { inputs } else { outputs };
    let u = tensor(vec![1.0 / (rows as f32).sqrt(); rows]);
    let columns = weight.len() / rows;
    let spectral = Spectral { sigma: tensor(vec![1.0]), u: u.clone(), v: tensor(vec![0.0; columns]) };
    let bias = Tensor::zeros((1, outputs), DType::F32, &Device::Cpu).expect("a tensor");
    (Convolution { inputs, outputs, window, direction, weight: tensor(weight), bias, u }, spectral)
}

fn main() {
    let three = std::env::args().any(|argument| argument == "3d");
    let (dimensions, images) = if three { (3, 2) } else { (2, 32) };
    let peak = peak();
    println!("peak {peak:.0} GFLOP/s on {} threads; {dimensions}D, batch {images}", rayon::current_num_threads());
    println!("| layer | GFLOP | forward | input gradient | weight gradient |\n|---|---|---|---|---|");
    let mut rng = Rng::new(0, "bench", 0);
    let mut cpu = Cpu::default();
    let (mut work, mut time) = (0.0, 0.0);
    for Layer { name, window, direction, input, output } in layers(dimensions, images) {
        let (layer, spectral) = layer([input.channels, output.channels], window, direction, &mut rng);
        let from = random(input, layer.input_halo(), &mut rng, &mut cpu);
        let gradient = random(output, layer.gradient_halo(), &mut rng, &mut cpu);
        let (mut to, mut back) = (Maps::zeros(output), Maps::zeros(input));
        let of_weights = layer.weight.zeros_like().expect("a tensor");
        let few = if direction == Direction::Convolution { output } else { input };
        let flop = 2.0 * (few.voxels() * layer.weight.elem_count()) as f64 / 1e9;
        let seconds = [
            shortest(|| cpu.convolve(&layer, &spectral, Read::Kept(&from), &mut to).expect("a convolution")),
            shortest(|| cpu.input_gradient(&layer, &spectral, &gradient, &mut back, false).expect("a gradient")),
            shortest(|| {
                let read = Read::Kept(&from);
                cpu.weight_gradient(&layer, &spectral, read, &gradient, &of_weights).expect("a gradient");
            }),
        ];
        let share = seconds.map(|seconds| format!("{:.0} %", 100.0 * flop / seconds / peak)).join(" | ");
        println!("| {name} | {flop:.2} | {share} |");
        work += 3.0 * flop;
        time += seconds.iter().sum::<f64>();
    }
    println!("| all | {work:.1} | {:.3} s, {:.0} % of the peak |", time, 100.0 * work / time / peak);
}
