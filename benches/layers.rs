//! What part of the machine's matrix peak each convolution of the paper's MR reaches: `cargo bench --bench layers -- [2d|3d]`.
//!
//! The peak is measured in the same run: products of two 1536 × 1536 matrices (faer), one a thread at the same time.

#![expect(clippy::print_stdout, reason = "the result")]

use std::{hint::black_box, time::Instant};

use statcell::nn::{Direction, Finish, Maps, Rng, Shape, Weights, Window, apply, weight_gradient};

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
            let (outer, inner) = (Shape::bare(images, size(from), inputs), Shape::bare(images, size(to), inputs));
            let last = Shape::bare(images, size(to), outputs);
            let name = |layer: &str| format!("{} {step} {layer} {inputs}", if up { "decoder" } else { "encoder" });
            let (four, three) = (Window::new(dimensions, 4, 2, 1), Window::new(dimensions, 3, 1, 1));
            let direction = if up { Direction::Spread } else { Direction::Gather };
            layers.push(Layer { name: name("conv1"), window: four, direction, input: outer, output: inner });
            let name = format!("{} → {outputs}", name("conv2"));
            layers.push(Layer { name, window: three, direction: Direction::Gather, input: inner, output: last });
        }
    }
    layers
}

fn random(shape: Shape, border: [usize; 3], rng: &mut Rng) -> Maps {
    let mut maps = Maps::zeros(shape.with_border(border));
    let values: Vec<f32> = (0..shape.voxels() * shape.channels).map(|_| rng.uniform() as f32 - 0.5).collect();
    maps.read_channels_first(&values);
    maps
}

fn main() {
    let three = std::env::args().any(|argument| argument == "3d");
    let (dimensions, images) = if three { (3, 2) } else { (2, 32) };
    let peak = peak();
    println!("peak {peak:.0} GFLOP/s on {} threads; {dimensions}D, batch {images}", rayon::current_num_threads());
    println!("| layer | GFLOP | forward | input gradient | weight gradient |\n|---|---|---|---|---|");
    let mut rng = Rng::new(0, "bench", 0);
    let (mut panels, mut scratch) = (Vec::new(), Vec::new());
    let (mut work, mut time) = (0.0, 0.0);
    for Layer { name, window, direction, input, output } in layers(dimensions, images) {
        let (inputs, outputs) = (input.channels, output.channels);
        let values: Vec<f32> = (0..window.taps() * inputs * outputs).map(|_| rng.uniform() as f32 - 0.5).collect();
        let weights = Weights { values: &values, inputs, outputs };
        let finish = Finish { scale: 1.0, bias: None, add: false };
        let (from, gradient) = (random(input, window.padding, &mut rng), random(output, window.padding, &mut rng));
        let (mut to, mut back) = (Maps::zeros(output), Maps::zeros(input));
        let opposite = if direction == Direction::Gather { Direction::Spread } else { Direction::Gather };
        let few = if direction == Direction::Gather { output } else { input };
        let flop = 2.0 * (few.voxels() * window.taps() * inputs * outputs) as f64 / 1e9;
        let seconds = [
            shortest(|| apply(&window, direction, weights, false, &from, &mut to, finish, &mut panels)),
            shortest(|| apply(&window, opposite, weights, true, &gradient, &mut back, finish, &mut panels)),
            shortest(|| {
                let mut out = vec![0.0; values.len()];
                weight_gradient(&window, direction, &from, &gradient, &mut out, &mut scratch);
                black_box(out);
            }),
        ];
        let share = seconds.map(|seconds| format!("{:.0} %", 100.0 * flop / seconds / peak)).join(" | ");
        println!("| {name} | {flop:.2} | {share} |");
        work += 3.0 * flop;
        time += seconds.iter().sum::<f64>();
    }
    println!("| all | {work:.1} | {:.3} s, {:.0} % of the peak |", time, 100.0 * work / time / peak);
}
