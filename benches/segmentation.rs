//! How long the steps of segmentation take on the real field. `benches/segmentation.sh` runs this and the same with SciPy and
//! scikit-image, and prints the ratios.
//!
//! `cargo bench --bench segmentation -- FOLDER` leaves the inputs, the results and `seconds.tsv` in the folder for
//! `benches/segmentation.py`.

#![allow(unsafe_code, reason = "asks the system for the processor time")]
#![expect(clippy::print_stdout, reason = "the result")]

use std::{fmt::Write, fs, hint::black_box, path::Path, time::Instant};

use statcell::image::{
    Contour, Pixels, Stack, Volume, active_contour, distance, io, median, otsu,
    segmentation::{CellsParams, NucleiParams, nuclei, territories, walls},
    watershed,
};

const REPEATS: usize = 3;
/// Fewer than the contour needs to stand still.
const ITERATIONS: usize = 6;
const VOXEL_UM: [f64; 3] = [0.29, 0.26, 0.26];

fn main() {
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/data/hipsc-fov/cells3d2ch.tiff");
    let field = io::read(&fs::read(path).expect("the real field")).expect("a sound TIFF");
    let (membrane, dna) = (field.channel_f32(0), field.channel_f32(1));
    let mut seconds = String::new();

    let smooth = time("median", &mut seconds, || median(&dna, [1; 3]));
    let threshold = otsu(&smooth);
    let start = smooth.map(|&value| u8::from(value > threshold));
    let away = time("distance", &mut seconds, || distance(&start, VOXEL_UM));

    let (seeds, count) = nuclei(&dna, VOXEL_UM, &NucleiParams::default());
    let cells = CellsParams::default();
    let landscape = territories(&walls(&membrane, VOXEL_UM, &cells), &seeds, count, VOXEL_UM, &cells).landscape;
    let labels = time("watershed", &mut seconds, || watershed(&landscape, &seeds, None));

    let defaults = NucleiParams::default();
    let contour = |steps| Contour {
        inside_um: defaults.inside_um,
        outside_um: defaults.outside_um,
        smoothing_um: defaults.smoothing_um,
        smoothness: 0.5,
        contrast: 200.0,
        steps,
    };
    let moved = |steps| active_contour(&smooth, start.clone(), VOXEL_UM, &contour(steps));
    // The contour stops when it stands still; the peer is given as many iterations as were made.
    let steps = ITERATIONS;
    let inside = time("contours", &mut seconds, || moved(steps));
    assert!(inside != moved(steps - 1), "it stood still before");
    println!("iterations of the contours: {steps}");
    writeln!(seconds, "iterations\t{steps}\t{steps}").expect("a string grows");

    if let Some(folder) = folder {
        let folder = Path::new(&folder);
        save(folder, "dna", dna, Pixels::F32);
        save(folder, "smooth", smooth, Pixels::F32);
        save(folder, "start", start, Pixels::U8);
        save(folder, "distance", away, Pixels::F32);
        save(folder, "landscape", landscape, Pixels::F32);
        save(folder, "seeds", seeds, Pixels::U32);
        save(folder, "labels", labels, Pixels::U32);
        save(folder, "inside", inside, Pixels::U8);
        fs::write(folder.join("seconds.tsv"), seconds).expect("the folder can be written");
    }
}

/// The best of several runs, by the clock and by the time of all cores together.
fn time<T>(what: &str, seconds: &mut String, f: impl Fn() -> T) -> T {
    let mut best = [f64::INFINITY; 2];
    let mut last = None;
    for _ in 0..REPEATS {
        let (start, start_cores) = (Instant::now(), cores());
        last = Some(black_box(f()));
        best = [best[0].min(start.elapsed().as_secs_f64()), best[1].min(cores() - start_cores)];
    }
    println!("{what}: {:.1} ms, {:.1} ms of processor", best[0] * 1e3, best[1] * 1e3);
    writeln!(seconds, "{what}\t{}\t{}", best[0], best[1]).expect("a string grows");
    last.expect("at least one run")
}

/// Seconds of processor that the program has used so far.
fn cores() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists, and the result has its place.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn save<T>(folder: &Path, name: &str, volume: Volume<T>, kind: impl Fn(Vec<T>) -> Pixels) {
    let stack = Stack {
        channels: vec![name.to_owned()],
        size: volume.size,
        voxel_um: Some(VOXEL_UM),
        pixels: kind(volume.data),
    };
    let bytes = io::write(&stack).expect("a sound stack");
    fs::write(folder.join(format!("{name}.ome.tif")), bytes).expect("the folder can be written");
}
