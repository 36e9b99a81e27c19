//! The grey median filter in 3D.

use rayon::prelude::*;

use super::{Volume, simd};

/// Voxels of a row that are worked on together.
const LANES: usize = 32;

/// The median of the box of `2·radius + 1` voxels around each voxel (radius Z, Y, X). Beyond the border the outermost voxel goes on.
///
/// Exact, for real numbers without NaN. Every voxel's window is put through a selection network of minima and maxima, a run of
/// voxels at a time: it grows with the square of the window's volume and is meant for radii of 1 or 2.
#[must_use]
pub fn median(volume: &Volume<f32>, radius: [usize; 3]) -> Volume<f32> {
    let [_, height, width] = volume.size;
    if radius == [0; 3] || volume.data.is_empty() {
        return volume.clone();
    }
    let mut out = vec![0.0; volume.data.len()];
    out.par_chunks_mut(width).enumerate().for_each_init(Scratch::default, |scratch, (row, out)| {
        simd::dispatch(
            #[inline(always)]
            || median_row(volume, radius, [row / height, row % height], out, scratch),
        );
    });
    Volume::new(volume.size, out)
}

/// The window's rows with their borders, and the values in the network.
#[derive(Default)]
struct Scratch {
    rows: Vec<f32>,
    values: Vec<[f32; LANES]>,
}

#[inline(always)]
fn median_row(volume: &Volume<f32>, radius: [usize; 3], [z, y]: [usize; 2], out: &mut [f32], scratch: &mut Scratch) {
    let [depth, height, width] = volume.size;
    let padded = (width.div_ceil(LANES) * LANES) + 2 * radius[2];
    scratch.rows.clear();
    for dz in 0..=2 * radius[0] {
        let z = (z + dz).saturating_sub(radius[0]).min(depth - 1);
        for dy in 0..=2 * radius[1] {
            let y = (y + dy).saturating_sub(radius[1]).min(height - 1);
            let start = volume.index(z, y, 0);
            let row = &volume.data[start..start + width];
            let first = scratch.rows.len();
            scratch.rows.resize(first + radius[2], row[0]);
            scratch.rows.extend_from_slice(row);
            scratch.rows.resize(first + padded, row[width - 1]);
        }
    }
    for (chunk, out) in out.chunks_mut(LANES).enumerate() {
        scratch.values.clear();
        for row in scratch.rows.chunks_exact(padded) {
            for dx in 0..=2 * radius[2] {
                let from = chunk * LANES + dx;
                scratch.values.push(row[from..from + LANES].try_into().expect("a chunk of lanes"));
            }
        }
        out.copy_from_slice(&select_median(&mut scratch.values)[..out.len()]);
    }
}

/// The median of each lane. Of any n/2 + 2 values the smallest and the largest cannot be the median of n: both are forgotten, and
/// a value that was not looked at yet comes in, until one is left.
#[inline(always)]
fn select_median(values: &mut [[f32; LANES]]) -> [f32; LANES] {
    let count = values.len();
    let mut held = count / 2 + 2;
    let mut next = held;
    let mut first = 0;
    loop {
        let last = first + held - 1;
        if held == 1 {
            return values[first];
        }
        if held == 2 {
            // Only for windows of one or two voxels.
            return values[last];
        }
        // Order pairs from the two ends, so that the smallest is in the front half and the largest in the back half.
        for i in 0..held / 2 {
            order(values, first + i, last - i);
        }
        for i in 1..held.div_ceil(2) {
            order(values, first, first + i);
        }
        for i in 1..held.div_ceil(2) {
            order(values, last - i, last);
        }
        // The slot of the smallest is dropped; that of the largest takes the next value, if there is one.
        first += 1;
        if next < count {
            values[last] = values[next];
            next += 1;
            held -= 1;
        } else {
            held -= 2;
        }
    }
}

#[inline(always)]
fn order(values: &mut [[f32; LANES]], low: usize, high: usize) {
    let (a, b) = (values[low], values[high]);
    for lane in 0..LANES {
        let (x, y) = (a[lane], b[lane]);
        values[low][lane] = if x < y { x } else { y };
        values[high][lane] = if x < y { y } else { x };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::noise;

    fn naive(volume: &Volume<f32>, radius: [usize; 3]) -> Volume<f32> {
        let mut out = volume.clone();
        let [depth, height, width] = volume.size;
        for z in 0..depth {
            for y in 0..height {
                for x in 0..width {
                    let mut window = Vec::new();
                    for dz in 0..=2 * radius[0] {
                        for dy in 0..=2 * radius[1] {
                            for dx in 0..=2 * radius[2] {
                                window.push(
                                    volume.data[volume.index(
                                        (z + dz).saturating_sub(radius[0]).min(depth - 1),
                                        (y + dy).saturating_sub(radius[1]).min(height - 1),
                                        (x + dx).saturating_sub(radius[2]).min(width - 1),
                                    )],
                                );
                            }
                        }
                    }
                    window.sort_by(f32::total_cmp);
                    let at = volume.index(z, y, x);
                    out.data[at] = window[window.len() / 2];
                }
            }
        }
        out
    }

    #[test]
    fn as_by_sorting() {
        for (size, radius) in [
            ([4, 5, 37], [1, 1, 1]),
            ([3, 4, 70], [0, 1, 2]),
            ([1, 6, 5], [0, 1, 1]),
            ([5, 3, 33], [2, 1, 0]),
            ([2, 2, 3], [1, 2, 2]),
        ] {
            let volume = noise(size);
            assert_eq!(median(&volume, radius), naive(&volume, radius), "{size:?} {radius:?}");
        }
    }
}
