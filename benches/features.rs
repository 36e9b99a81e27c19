//! How long the features of a real cell take, in 3D and in 2D: `cargo bench --bench features`.
//!
//! `benches/features.py` does the same with SciPy and scikit-image.

#![expect(clippy::print_stdout, reason = "the result")]

use std::{hint::black_box, time::Instant};

use statcell::image::{
    Volume,
    features::{Features, above_local_mean, to_eight_bits},
    io,
};

const REPEATS: usize = 20;

/// Cell 15 is the largest of the fixtures: 53 × 256 × 256.
const CELLS: [u32; 10] = [1, 3, 5, 7, 9, 11, 13, 15, 17, 20];

fn main() {
    let mut volumes = Vec::new();
    for cell in CELLS {
        let path = format!("{}/tests/fixtures/features/cell-{cell:02}.tif", env!("CARGO_MANIFEST_DIR"));
        let stack = io::read(&std::fs::read(path).expect("a fixture")).expect("a sound fixture");
        for channel in 0..stack.channels.len() {
            volumes.push(stack.channel_f32(channel).map(|&value| value as u16));
        }
    }
    let flat: Vec<Volume<u16>> = volumes.iter().map(maximum_along_z).collect();
    time("3D features", &volumes, |volume| Features::of(&to_eight_bits(volume)).area);
    time("2D features", &flat, |volume| Features::of(&to_eight_bits(volume)).area);
    time("2D threshold, block 199", &flat, |volume| u64::from(above_local_mean(volume, 199).data[0]));
}

fn maximum_along_z(volume: &Volume<u16>) -> Volume<u16> {
    let mut flat = Volume::filled([1, volume.size[1], volume.size[2]], 0);
    for plane in volume.data.chunks(flat.data.len()) {
        flat.data.iter_mut().zip(plane).for_each(|(most, value)| *most = (*most).max(*value));
    }
    flat
}

fn time(what: &str, volumes: &[Volume<u16>], f: impl Fn(&Volume<u16>) -> u64) {
    let mut best = f64::INFINITY;
    for _ in 0..REPEATS {
        let start = Instant::now();
        for volume in volumes {
            black_box(f(black_box(volume)));
        }
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("{what}: {:.3} ms a channel", best * 1e3 / volumes.len() as f64);
}
